"""One contender: a process of its own that works when told to, and says how long it took.

The runner (encode.py, llm.py) starts all of them and gives them work in turn: so that whatever else the
machine does falls on all alike, and no library's threads meet another's.

Protocol: `ready` on stdout once loaded; then for every line `N` on stdin, N tiles are encoded and the
milliseconds printed; `save PATH` writes the projected features of the one tile given by the seed. A
language model takes `prefill N` and `decode N` instead.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def tiles(n: int, seed: int = 0) -> np.ndarray:
    """Noise with structure, [n, 384, 384, 3] uint8: speed does not depend on it, calibration does."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 24, 24, 3)).repeat(16, axis=1).repeat(16, axis=2)
    fine = rng.integers(-40, 41, (n, 384, 384, 3))
    return np.clip(coarse + fine, 0, 255).astype(np.uint8)


def serve(encode: Callable[[np.ndarray], Any], *, tells_ms: bool = False) -> None:
    """Answers the runner until it closes stdin.

    Args:
        encode: Takes [n, 384, 384, 3] and returns [n, T, D].
        tells_ms: It returns milliseconds instead, and is not timed.
    """
    work: dict[int, np.ndarray] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "save":
            np.save(argument, np.asarray(encode(tiles(1, seed=99)), np.float32))
            print("saved", flush=True)
            continue
        n = int(command)
        pixels = work.setdefault(n, tiles(n))
        start = time.perf_counter()
        result = encode(pixels)
        took = 1e3 * (time.perf_counter() - start)
        print(result if tells_ms else took, flush=True)


def serve_llm(prefill: Callable[[int], float | None], decode: Callable[[int], float | None]) -> None:
    """Answers the runner until it closes stdin; both take a number of tokens.

    What they return, if not None, is the time in milliseconds; otherwise they are timed.
    """
    works = {"prefill": prefill, "decode": decode}
    print("ready", flush=True)
    for line in sys.stdin:
        name, _, n = line.strip().partition(" ")
        start = time.perf_counter()
        told = works[name](int(n))
        took = 1e3 * (time.perf_counter() - start)
        print(took if told is None else told, flush=True)
