"""Ctrl-C in a program that uses the library: KeyboardInterrupt, promptly, and everything stays usable."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from bluelm_gguf import Model
from bluelm_gguf.native.interrupt import DeferredInterrupt


@pytest.fixture(autouse=True)
def python_handles_sigint() -> Iterator[None]:
    """As in a program started from a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # everyone put it back
    signal.signal(signal.SIGINT, before)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("stage", ["encode", "prefill"])
def test_within_a_callback(shared_model: Model, files, stage: str) -> None:
    calls: list[str] = []

    def on_progress(now: str, done: int, total: int) -> None:
        calls.append(now)
        if now == stage and calls.count(now) == 2:
            press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        shared_model.generate("what is this?", images=[files.large] * 2, on_progress=on_progress)
    assert calls.count(stage) < 8  # it did not go on to the end
    again = shared_model.generate("what is this?", max_tokens=4)
    assert again.tokens == shared_model.generate("what is this?", max_tokens=4).tokens


def test_while_encoding(shared_model: Model, files) -> None:
    with pytest.raises(KeyboardInterrupt):
        shared_model.encode(files.large, on_progress=lambda *_: press_ctrl_c())
    assert shared_model.encode(files.small).n_tokens == 196


def test_while_answering(files) -> None:
    with Model(files.llm, n_ctx=2048, n_threads=1) as model:
        stream = model.stream("what is this?", max_tokens=None)
        seen = [next(stream), next(stream)]
        timer = threading.Timer(0.05, press_ctrl_c)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            for piece in stream:
                seen.append(piece)
                time.sleep(0.001)  # so that it takes long enough
        timer.join()
        stream.close()
        assert stream.reply is not None and stream.reply.finish_reason == "cancelled"
        assert stream.reply.text.startswith("".join(seen))
        assert model.generate("what?", max_tokens=2).tokens


def test_while_waiting_for_another_thread(shared_model: Model) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with shared_model.stream("what?", max_tokens=50) as stream:
            next(stream)
            begun.set()
            go_on.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait(30)
    timer = threading.Timer(0.2, press_ctrl_c)
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        shared_model.generate("what is this?")
    assert time.monotonic() - start < 10
    go_on.set()
    holder.join()
    assert shared_model.generate("what?", max_tokens=2).tokens


def test_in_a_chat(shared_model: Model, files) -> None:
    """What was computed before Ctrl-C is kept, and the next answer is that of a fresh start."""
    chat = shared_model.chat()
    picture = shared_model.encode(files.large)

    def on_progress(stage: str, done: int, total: int) -> None:
        if done > 200:
            press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        chat.ask("what is this?", images=[picture], on_progress=on_progress)
    assert chat.turns == ()
    reply = chat.ask("what is this?", images=[picture], max_tokens=8)
    assert 0 < reply.timings.image_tokens_prefilled < 588
    fresh = shared_model.generate("what is this?", images=chat.turns[0].images, max_tokens=8)
    assert reply.tokens == fresh.tokens


@pytest.mark.parametrize("use", ["generate", "encode", "chat"])
def test_while_reading_from_a_pipe(shared_model: Model, use: str) -> None:
    """Reading may wait for ever, and Ctrl-C ends it."""
    reading, writing = os.pipe()
    rescue = threading.Timer(30, lambda: os.write(writing, b"x"))  # so that a failure is no hang
    rescue.start()

    class Pipe:
        def read(self) -> bytes:
            press_ctrl_c()
            return os.read(reading, 1)

    try:
        with pytest.raises(KeyboardInterrupt):
            if use == "encode":
                shared_model.encode(Pipe())
            elif use == "chat":
                shared_model.chat().ask("what?", images=[Pipe()])
            else:
                shared_model.generate("what?", images=[Pipe()])
        assert rescue.is_alive()
    finally:
        rescue.cancel()
        os.close(reading)
        os.close(writing)
    assert shared_model.generate("what?", max_tokens=2).tokens


def test_a_programs_own_handler_is_called(shared_model: Model, files) -> None:
    called: list[int] = []
    signal.signal(signal.SIGINT, lambda signum, _frame: called.append(signum))
    try:
        stream = shared_model.stream(
            "what?", images=[files.small], on_progress=lambda s, d, t: press_ctrl_c() if d else None
        )
        assert list(stream) == []
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert called == [signal.SIGINT]
    assert stream.reply is not None and stream.reply.finish_reason == "cancelled"


def test_ignored_stays_ignored(shared_model: Model) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        reply = shared_model.generate("what?", max_tokens=3, on_progress=lambda *_: press_ctrl_c())
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert reply.finish_reason == "length"


def test_other_threads_leave_signals_alone() -> None:
    states: list[object] = []

    def work() -> None:
        with DeferredInterrupt():
            states.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert states == [signal.default_int_handler]


def test_deferred_means_at_the_end() -> None:
    steps: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        DeferredInterrupt(lambda: steps.append("asked to stop")) as interrupt,
    ):
        press_ctrl_c()
        steps.append("went on")
        assert interrupt.pending
    assert steps == ["asked to stop", "went on"]
