"""What a decoded token costs beside llama_decode: an answer of `Model` and bare llama_decode in turns.

    python benchmarks/decode_overhead.py [-t 1] [-r 200]

Both sides compute the same tokens at the same positions of equal contexts of the demo model, on the same
kernels. In a round the model answers a question about a picture that is in its KV cache already, timed from
its first token to its end; then a loop with one reused batch gives the answer's tokens to
llama_decode. The difference is sampling, text, locks and Python. Printed are medians over the rounds, as
text and as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import llama_cpp as lc

from bluelm_gguf import Model, Reply
from bluelm_gguf.llm.prompt import Turn
from bluelm_gguf.model import demo_paths

QUESTION = "What is in this picture?"
PICTURE = Path(__file__).parents[1] / "examples" / "images" / "number.png"


class Bare:
    """A context of its own, filled with as many tokens as the prompt has."""

    def __init__(self, path: str, n_ctx: int, n_batch: int, n_threads: int, n_prompt: int) -> None:
        params = lc.llama_model_default_params()
        params.n_gpu_layers = 0
        model = lc.llama_model_load_from_file(os.fsencode(path), params)
        context = lc.llama_context_default_params()
        context.n_ctx = n_ctx
        context.n_batch = context.n_ubatch = n_batch
        context.n_outputs_max = 1
        context.n_threads = context.n_threads_batch = n_threads
        context.no_perf = True
        self._ctx = lc.llama_init_from_model(model, context)
        self._memory = lc.llama_get_memory(self._ctx)
        self._n_prompt = n_prompt
        for start in range(0, n_prompt, n_batch):
            n = min(n_batch, n_prompt - start)
            tokens = (lc.llama_token * n)(*range(1, n + 1))
            if lc.llama_decode(self._ctx, lc.llama_batch_get_one(tokens, n)):
                raise SystemExit("llama_decode failed")

    def decode(self, tokens: tuple[int, ...]) -> float:
        """Seconds for these tokens, one at a time, behind the prompt."""
        lc.llama_memory_seq_rm(self._memory, 0, self._n_prompt, -1)
        one = (lc.llama_token * 1)()
        batch = lc.llama_batch_get_one(one, 1)
        ctx, decode = self._ctx, lc.llama_decode
        start = time.perf_counter()
        for token in tokens:
            one[0] = token
            decode(ctx, batch)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-r", "--rounds", type=int, default=200)
    args = parser.parse_args()
    ours: list[float] = []
    bare: list[float] = []
    with Model(n_ctx=1024, n_threads=args.threads) as model:
        picture = model.encode(PICTURE)

        def answer() -> tuple[Reply, float]:
            with model.stream_turns([Turn("user", QUESTION)], images=[picture], reuse=True) as stream:
                reply = stream.complete()
            return reply, (reply.timings.total_ms - reply.timings.ttft_ms) / 1e3

        reply, _ = answer()
        n_prompt = reply.timings.text_tokens + reply.timings.image_tokens
        n = len(
            reply.tokens
        )  # and as many calls of llama_decode: the token that ends the answer is not decoded
        other = Bare(str(demo_paths()[0]), model.n_ctx, 128, args.threads, n_prompt)
        for _ in range(args.rounds):
            reply, seconds = answer()
            ours.append(seconds * 1e6 / n)
            bare.append(other.decode(reply.tokens) * 1e6 / n)
    a, b = statistics.median(ours), statistics.median(bare)
    print(f"{n} tokens after {n_prompt}, {args.threads} threads, {args.rounds} rounds")
    print(f"an answer     {a:7.1f} us per token = {1e6 / a:,.0f} tokens/s")
    print(f"llama_decode  {b:7.1f} us per token = {1e6 / b:,.0f} tokens/s")
    print(f"difference    {a - b:7.1f} us")
    print(json.dumps({"answer_us": round(a, 1), "llama_decode_us": round(b, 1), "over_us": round(a - b, 1)}))


if __name__ == "__main__":
    main()
