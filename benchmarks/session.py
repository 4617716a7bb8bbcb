"""Times of a session as a user meets them: waiting after Enter, a second question, Ctrl-C at every stage.

    python benchmarks/session.py LLM.gguf MMPROJ.gguf [--size 768x1536] [-t THREADS] [-r 3] [-c 2048]

Random weights do: scripts/make_random_checkpoint.py makes a full-size checkpoint to convert. Ctrl-C is sent
at a random moment of a stage, after its first step was reported; what counts is the time from there to
KeyboardInterrupt.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bluelm_gguf import Chat, Model

QUESTION = "What is written on the sign, and what does the person next to it hold in the left hand?"


def picture(size: tuple[int, int], seed: int) -> Any:
    """Noise, another one for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def interrupted(work: Callable[[Callable[..., None]], None], stage: str, within_s: float) -> float:
    """Milliseconds from Ctrl-C, pressed at a random moment of a stage, to KeyboardInterrupt."""
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timers: list[threading.Timer] = []

    def on_progress(now: str, done: int, total: int) -> None:
        if now == stage and not timers:
            timers.append(threading.Timer(random.uniform(0, within_s), press))
            timers[0].start()

    try:
        work(on_progress)
    except KeyboardInterrupt:
        return (time.perf_counter() - pressed[0]) * 1e3
    raise SystemExit(f"{stage} was over before Ctrl-C came; give a larger picture")


def show(name: str, values: list[float]) -> None:
    print(f"{name:<58} {statistics.median(values):8.0f} ms   (most {max(values):.0f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("llm")
    parser.add_argument("mmproj")
    parser.add_argument("--size", default="768x1536")
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("-r", "--repetitions", type=int, default=3)
    parser.add_argument("-c", "--ctx", type=int, default=2048)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    size = width, height
    n = args.repetitions
    random.seed(0)
    with Model(args.llm, mmproj=args.mmproj, n_ctx=args.ctx, n_threads=args.threads) as model:
        waits: dict[str, list[float]] = {}

        def note(name: str, ms: float) -> None:
            waits.setdefault(name, []).append(ms)

        for i in range(n):
            with_picture(model, size, i, note)
        for name, values in waits.items():
            show(name, values)

        def asking(stage: str) -> Callable[[Callable[..., None]], None]:
            given = [picture(size, 0)] if stage == "encode" else [model.encode(picture(size, 0))]
            return lambda report: model.chat().ask(QUESTION, images=given, on_progress=report, max_tokens=4)

        def waiting(report: Callable[..., None]) -> None:
            chat = model.chat()
            chat.add_image(picture(size, 0))
            try:
                chat.ask(QUESTION, on_progress=report)
            finally:
                chat.close()

        def answering(report: Callable[..., None]) -> None:
            with model.chat().stream(QUESTION, max_tokens=None) as stream:
                next(stream)
                report("answer", 0, 0)
                for _ in stream:
                    pass

        show("Ctrl-C while encoding", [interrupted(asking("encode"), "encode", 0.5) for _ in range(n)])
        show("Ctrl-C while prefilling", [interrupted(asking("prefill"), "prefill", 0.5) for _ in range(n)])
        show("Ctrl-C while waiting for a picture", [interrupted(waiting, "encode", 0.5) for _ in range(n)])
        show("Ctrl-C while answering", [interrupted(answering, "answer", 0.5) for _ in range(n)])


def with_picture(model: Model, size: tuple[int, int], seed: int, note: Callable[[str, float], None]) -> None:
    """One conversation about one picture."""
    chat: Chat = model.chat()
    start = time.perf_counter()
    chat.add_image(picture(size, seed))
    note("add_image returns after", (time.perf_counter() - start) * 1e3)
    chat.wait()
    note("background work: read, encode, prefill", (time.perf_counter() - start) * 1e3)
    first = chat.ask(QUESTION, max_tokens=2).timings
    note(f"first question ({first.text_tokens_prefilled} tokens): first token after", first.ttft_ms)
    second = chat.ask(QUESTION, max_tokens=2).timings
    note(f"second question ({second.text_tokens_prefilled} tokens): first token after", second.ttft_ms)
    note("second question: beyond its prefill", second.ttft_ms - second.prefill_ms)
    assert first.image_tokens_prefilled == second.image_tokens_prefilled == 0
    chat.close()


if __name__ == "__main__":
    main()
