"""llama.cpp in Python, with our kernels or without: python contender_llm.py LLM.gguf THREADS DEPTH {0,1}."""

import os
import sys
import time

path, threads, depth = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.environ["BLUELM_LLM_KERNELS"] = sys.argv[4]

from contender import serve_llm  # noqa: E402

from bluelm_gguf.llm.language_model import LanguageModel  # noqa: E402

model = LanguageModel(path, n_ctx=2560, n_batch=512, n_threads=threads)


def prefill(n: int) -> None:
    """n tokens from an empty cache, 512 at a time."""
    model.keep(0)
    model.prefill_tokens([i % 1000 for i in range(n)], 0, chunk=512, logits=True)


def decode(n: int) -> float:
    """n tokens, one after the other, behind `depth` ones that are not timed."""
    prefill(depth)
    start = time.perf_counter()
    for i in range(n):
        model.prefill_tokens([i], depth + i, chunk=1, logits=True)
    return 1e3 * (time.perf_counter() - start)


serve_llm(prefill, decode)
