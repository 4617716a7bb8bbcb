"""How far the language model's kernels move its answers: perplexity, KL divergence, top-1 agreement.

    python benchmarks/llm_fidelity.py MODEL.gguf [--types q4_0,q4_k_m,q8_0] [--text FILE] [-ub 512]

The model (any type; SmolLM2-135M is enough) is brought to float32, and from there to each of --types. Over a
fixed text, in windows of 512 tokens, three sets of logits are compared: float32 weights with llama.cpp's own
kernels (the truth), the quantised file with llama.cpp's own kernels (stock), and with ours. Each row says how
stock and ours differ from the truth, and from each other; -ub 1 measures decoding instead of prefill.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bluelm_gguf.native import library as _native

TEXT = Path(__file__).parent / "data" / "alice.txt"
WINDOW = 512
FILE_TYPES = {"f32": 0, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "q6_k": 18}


def quantise(source: Path, target: Path, file_type: str) -> None:
    """Writes `target` in another type, through llama.cpp."""
    import llama_cpp as lc

    params = lc.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.allow_requantize = True
    if lc.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)) != 0:
        raise SystemExit(f"{source}: llama.cpp cannot bring it to {file_type}")


def log_probabilities(path: Path, text: str, *, kernels: bool, n_ubatch: int, n_tokens: int) -> Any:
    """Log probabilities of every token's successor, float32 [n, n_vocab], and the successors [n]."""
    import llama_cpp as lc

    lib = _native.load()
    _native.check(lib.bluelm_llm_kernels_register())
    _native.check(lib.bluelm_llm_kernels_enable(kernels))
    params = lc.llama_model_default_params()
    params.n_gpu_layers = 0
    model = lc.llama_model_load_from_file(os.fsencode(path), params)
    context = lc.llama_context_default_params()
    context.n_ctx = context.n_batch = WINDOW
    context.n_ubatch = n_ubatch
    context.n_threads = context.n_threads_batch = os.cpu_count() or 1
    ctx = lc.llama_init_from_model(model, context)
    vocab = lc.llama_model_get_vocab(model)
    n_vocab = lc.llama_vocab_n_tokens(vocab)
    raw = text.encode()
    buffer = (lc.llama_token * (len(raw) + 16))()
    n = lc.llama_tokenize(vocab, raw, len(raw), buffer, len(buffer), True, False)
    tokens = list(buffer[:n])[:n_tokens]
    found, successors = [], []
    batch = lc.llama_batch_init(WINDOW, 0, 1)
    for first in range(0, len(tokens) - 1, WINDOW):
        window = tokens[first : first + WINDOW + 1]
        n_in = len(window) - 1
        lc.llama_memory_clear(lc.llama_get_memory(ctx), False)
        batch.n_tokens = n_in
        for i in range(n_in):
            batch.token[i] = window[i]
            batch.pos[i] = i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = True
        if lc.llama_decode(ctx, batch):
            raise SystemExit("llama_decode failed")
        logits = np.ctypeslib.as_array(lc.llama_get_logits(ctx), (n_in, n_vocab)).astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
        found.append(logits)
        successors += window[1:]
    lc.llama_batch_free(batch)
    lc.llama_free(ctx)
    lc.llama_model_free(model)
    return np.concatenate(found), np.array(successors)


def compare(truth: Any, other: Any) -> dict[str, float]:
    """KL divergence (nats, mean over tokens) of `other` from `truth`, and how often both agree on top."""
    kl = [float((np.exp(t) * (t - o)).sum(dtype=np.float64)) for t, o in zip(truth, other, strict=True)]
    same = float(np.mean(truth.argmax(axis=1) == other.argmax(axis=1)))
    return {"kl": float(np.mean(kl)), "top1": same}


def perplexity(log_probs: Any, successors: Any) -> float:
    return float(np.exp(-log_probs[np.arange(len(successors)), successors].mean(dtype=np.float64)))


def measure(
    source: Path, types: list[str], text: str, *, n_ubatch: int = 512, n_tokens: int = 1 << 30
) -> dict[str, dict[str, float]]:
    """The table by type."""
    rows = {}
    with tempfile.TemporaryDirectory() as directory:
        exact = Path(directory) / "f32.gguf"
        quantise(source, exact, "f32")
        how: dict[str, Any] = {"n_ubatch": n_ubatch, "n_tokens": n_tokens}
        truth, successors = log_probabilities(exact, text, kernels=False, **how)
        for name in types:
            path = Path(directory) / f"{name}.gguf"
            quantise(exact, path, name)
            stock, _ = log_probabilities(path, text, kernels=False, **how)
            ours, _ = log_probabilities(path, text, kernels=True, **how)
            from_truth, ours_from_truth, apart = (
                compare(truth, stock),
                compare(truth, ours),
                compare(stock, ours),
            )
            rows[name] = {
                "tokens": len(successors),
                "ppl f32": perplexity(truth, successors),
                "ppl stock": perplexity(stock, successors),
                "ppl ours": perplexity(ours, successors),
                "KL stock-f32": from_truth["kl"],
                "KL ours-f32": ours_from_truth["kl"],
                "KL ours-stock": apart["kl"],
                "top-1 stock-f32": from_truth["top1"],
                "top-1 ours-f32": ours_from_truth["top1"],
                "top-1 ours-stock": apart["top1"],
            }
            path.unlink()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--types", default="q4_0,q4_k_m,q8_0")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("-ub", "--ubatch", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=1 << 30, help="only the text's first so many")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    args = parser.parse_args()
    import llama_cpp as lc

    quiet = lc.llama_log_callback(lambda level, text, data: None)
    lc.llama_log_set(quiet, None)
    text = args.text.read_text(encoding="utf-8")
    rows = measure(args.model, args.types.split(","), text, n_ubatch=args.ubatch, n_tokens=args.tokens)
    if args.output == "json":
        print(json.dumps({"kernels": _native.llm_kernels_name(), "results": rows}, indent=1))
        return
    print(f"kernels {_native.llm_kernels_name() or 'off'}")
    for name, row in rows.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.5g}" for key, value in row.items()))


if __name__ == "__main__":
    main()
