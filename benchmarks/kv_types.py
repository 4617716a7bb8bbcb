"""What the types of the KV cache cost and save: size, speed with a full cache, and error of the logits.

    python benchmarks/kv_types.py MODEL.gguf [--tokens 1792] [--decode 32] [--rounds 3] [--text FILE ...]

For each pair of types, with flash attention and without: the size of the cache, CPU milliseconds per token of
prefilling `tokens` tokens and of decoding behind them, and the distance of the decoded tokens' distributions
from those with f32 keys and values and no flash attention (mean Kullback-Leibler divergence in nats, share of
equal likeliest tokens). The decoded tokens are the text's, not the model's own. The types take turns, and the
quickest of the rounds counts: what else the machine does disturbs CPU time too.

The model of docs/memory.md, 2.7B cut to 4 layers, and its table (about three minutes on a quiet core):

    python scripts/make_random_checkpoint.py CHECKPOINT --layers 4 --vision-layers 1
    bluelm-gguf convert CHECKPOINT -o OUT --llm-only --llm-type q4_0
    python benchmarks/kv_types.py OUT/*.gguf --tokens 1792 --decode 16
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluelm_gguf.gguf.info import size
from bluelm_gguf.llm.language_model import LanguageModel

TYPES = [
    ("f32", "f32", False), ("f16", "f16", False), ("f16", "f16", True), ("q8_0", "f16", False),
    ("q8_0", "f16", True), ("q8_0", "q8_0", True), ("q4_0", "q4_0", True),
]  # fmt: skip
DOCS = sorted(Path(__file__).resolve().parent.parent.glob("**/*.md"))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows of natural logarithms of probabilities."""
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))
    return result


def measure(args: argparse.Namespace, text: str, kinds: tuple[str, str, bool]) -> tuple[Any, ...]:
    """Size of the cache, CPU ms per token of prefill and of decoding, log-probabilities [decode, n_vocab]."""
    n_ctx = args.tokens + args.decode
    llm = LanguageModel(
        args.model, n_ctx=n_ctx, n_batch=args.chunk, n_threads=args.threads, type_k=kinds[0], type_v=kinds[1],
        flash_attn=kinds[2],
    )  # fmt: skip
    try:
        tokens = llm.tokenize(text, special=False)[:n_ctx]
        assert len(tokens) == n_ctx, f"the text has {len(tokens)} tokens, {n_ctx} are needed"
        started = time.process_time()
        llm.prefill_tokens(tokens[: args.tokens], 0, chunk=args.chunk, logits=False)
        prefill = (time.process_time() - started) * 1e3 / args.tokens
        rows, decode = [], 0.0
        for i in range(args.tokens, n_ctx):
            started = time.process_time()
            llm.prefill_tokens(tokens[i : i + 1], i, chunk=1, logits=True)
            decode += time.process_time() - started
            rows.append(llm.logits().copy())
        return llm.kv_bytes, prefill, decode * 1e3 / args.decode, log_softmax(np.stack(rows))
    finally:
        llm.close()


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=1792)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--text", type=Path, nargs="*", default=DOCS)
    args = parser.parse_args()
    text = "\n".join(path.read_text(encoding="utf-8") for path in args.text)
    found: dict[tuple[str, str, bool], list[tuple[Any, ...]]] = {kinds: [] for kinds in TYPES}
    for _ in range(args.rounds):
        for kinds, results in found.items():
            results.append(measure(args, text, kinds))
    wanted = found[TYPES[0]][0][3]
    print("| keys, values | flash attention | cache | prefill, ms/token | decode, ms/token | KL | top-1 |")
    print("|---|---|---|---|---|---|---|")
    for kinds, results in found.items():
        n_bytes, _, _, rows = results[0]
        prefill, decode = (min(result[i] for result in results) for i in (1, 2))
        kl = float((np.exp(wanted) * (wanted - rows)).sum(axis=-1).mean())
        same = float((wanted.argmax(axis=-1) == rows.argmax(axis=-1)).mean())
        print(
            f"| {kinds[0]}, {kinds[1]} | {'on' if kinds[2] else 'off'} | {size(n_bytes)} | {prefill:.2f} | "
            f"{decode:.2f} | {kl:.1e} | {same:.1%} |"
        )


if __name__ == "__main__":
    main()
