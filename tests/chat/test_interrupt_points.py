"""Ctrl-C and cancelling at every point of a chat: the next answer is a fresh session's, to the token."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp as lc
import pytest
import tiny_models

from bluelm_gguf import Cancelled, Chat, ContextFullError, InvalidArgumentError, Model, Reply
from bluelm_gguf.llm.language_model import LanguageModel, PartlyDone


@pytest.fixture(autouse=True)
def python_handles_sigint() -> Iterator[None]:
    """As in a program started from a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # everyone put it back
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def model(files) -> Iterator[Model]:
    """Encodes tile by tile and prefills in small chunks, so that there are many points."""
    with Model(files.llm, mmproj=files.mmproj, n_ctx=2048, n_threads=1, batch=1, chunk=100) as model:
        yield model


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def is_fresh(model: Model, chat: Chat, reply: Reply) -> bool:
    """Whether the last answer is what a fresh session gives for the same conversation."""
    with model.stream_turns(chat.turns[:-1], max_tokens=max(1, len(reply.tokens))) as stream:
        list(stream)
    assert stream.reply is not None
    return stream.reply.tokens == reply.tokens and not chat.pending_images


POINTS = [
    *(("encode", done) for done in range(4)),
    *(("prefill", done) for done in (0, 1, 100, 300, 500, 604)),
]


class At:
    """An on_progress that does something once, at a point."""

    def __init__(self, point: tuple[str, int], action: Callable[[], Any]) -> None:
        self._point = point
        self._action = action
        self.is_over = False

    def __call__(self, stage: str, done: int, total: int) -> Any:
        if not self.is_over and stage == self._point[0] and done >= min(self._point[1], total):
            self.is_over = True
            return self._action()
        return None


@pytest.mark.parametrize("how", ["ctrl-c", "false", "cancel", "error"])
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_in_a_question(model: Model, files, point: tuple[str, int], how: str) -> None:
    """Its own pictures are being encoded, or its prompt is being prefilled."""
    chat = model.chat()
    chat.ask("what?", max_tokens=4)
    turns = chat.turns
    picture = files.large if point[0] == "encode" else model.encode(files.large)
    options: dict[str, Any] = {"images": [picture], "max_tokens": 8}
    if how == "ctrl-c":
        at = At(point, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            chat.ask("what is this?", on_progress=at, **options)
    elif how == "false":
        at = At(point, lambda: False)
        with pytest.raises(Cancelled):
            chat.ask("what is this?", on_progress=at, **options)
    elif how == "cancel":
        at = At(point, lambda: stream.cancel())
        stream = chat.stream("what is this?", on_progress=at, **options)
        assert list(stream) == []
        assert stream.reply is not None and stream.reply.finish_reason == "cancelled"
    else:

        def fail() -> None:
            raise KeyError("mine")

        at = At(point, fail)
        with pytest.raises(KeyError, match="mine"):
            chat.ask("what is this?", on_progress=at, **options)
    assert at.is_over and chat.turns == turns
    assert is_fresh(model, chat, chat.ask("what is this?", **options))


@pytest.mark.parametrize("how", ["ctrl-c", "false", "cancel"])
@pytest.mark.parametrize("point", [*POINTS[:4], ("prefill", 0), ("prefill", 100), ("prefill", 500)], ids=str)
def test_while_waiting_for_background_work(model: Model, files, point: tuple[str, int], how: str) -> None:
    """The question is withdrawn, the work stops, the picture stays; the next question takes it up again."""
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert go_on.wait(60)

    chat = model.chat()
    chat.ask("what?", max_tokens=4)
    turns = chat.turns
    handle = chat.add_image(files.large, on_progress=At(point, hold))
    assert reached.wait(60)
    seen: list[tuple[str, int]] = []

    def on_progress(stage: str, done: int, total: int) -> Any:
        seen.append((stage, done))
        assert total == {"encode": 3, "prefill": total}[stage]
        return {"ctrl-c": press_ctrl_c, "false": lambda: False, "cancel": lambda: stream.cancel()}[how]()

    stream = chat.stream("what is this?", on_progress=on_progress)
    if how == "cancel":
        assert list(stream) == []
    else:
        with pytest.raises(KeyboardInterrupt if how == "ctrl-c" else Cancelled):
            list(stream)
    stream.close()
    assert seen and seen[0][0] == point[0] and seen[0][1] >= point[1]
    assert chat.turns == turns and chat.pending_images == (handle,)
    go_on.set()
    deadline = time.monotonic() + 60
    while handle.state not in ("waiting", "ready") and time.monotonic() < deadline:
        time.sleep(0.001)
    # It stopped where it was: at the last step it may have been done.
    assert handle.state in (("waiting", "ready") if point == ("encode", 3) else ("waiting",))
    assert is_fresh(model, chat, chat.ask("what is this?", max_tokens=8))
    assert handle.state == "ready"


@pytest.mark.parametrize("wait", ["result", "wait"])
def test_ctrl_c_while_only_waiting(model: Model, files, wait: str) -> None:
    """Ends the waiting at once; the work goes on."""
    go_on = threading.Event()

    def hold() -> None:
        press_ctrl_c()
        assert go_on.wait(60)

    chat = model.chat()
    handle = chat.add_image(files.large, on_progress=At(("encode", 1), hold))
    with pytest.raises(KeyboardInterrupt):
        while True:  # it may come before the waiting, or within
            handle.result() if wait == "result" else chat.wait()
    assert not handle.done()
    go_on.set()
    assert handle.result().n_tokens == 588
    assert is_fresh(model, chat, chat.ask("what is this?", max_tokens=8))


@pytest.mark.parametrize("how", ["ctrl-c", "cancel", "close", "break"])
@pytest.mark.parametrize("n_pieces", [1, 2, 7])
def test_in_an_answer(model: Model, files, n_pieces: int, how: str) -> None:
    chat = model.chat()
    chat.add_image(files.small)
    stream = chat.stream("what is this?", max_tokens=60)
    pieces: list[str] = []
    try:
        with stream:
            for piece in stream:
                pieces.append(piece)
                if len(pieces) == n_pieces:
                    if how == "break":
                        break
                    {"ctrl-c": press_ctrl_c, "cancel": stream.cancel, "close": stream.close}[how]()
    except KeyboardInterrupt:
        assert how == "ctrl-c"
    else:
        assert how != "ctrl-c"
    reply = stream.reply
    assert reply is not None and reply.finish_reason == "cancelled" and 0 < len(reply.tokens) < 60
    assert reply.text.startswith("".join(pieces)) and chat.turns[-1].text == reply.text
    for question in ("and?", "what?"):
        assert is_fresh(model, chat, chat.ask(question, max_tokens=8))
    # Taken back, it leaves nothing.
    chat.undo(), chat.undo(), chat.undo()
    assert is_fresh(model, chat, chat.ask("what is this?", max_tokens=8))


def test_in_the_background_prefill_of_another_turn(model: Model, files) -> None:
    """Pictures cancelled halfway into the cache, turn after turn."""
    chat = model.chat()
    for done in (0, 100, 200, 400, 588):
        handle = chat.add_image(files.large, on_progress=At(("prefill", done), lambda: False))
        chat.wait()
        assert handle.state == "cancelled"
        assert is_fresh(model, chat, chat.ask("and?", max_tokens=6)), done
    assert all(not turn.images for turn in chat.turns)


# ---------------------------------------------------------------------------------------- within a chunk


def test_cancelling_within_a_chunk(tmp_path) -> None:
    """A chunk is left between two nodes of llama.cpp's graph, and nothing of it stays in the cache."""
    llm = LanguageModel(tiny_models.write_llm(tmp_path / "llm.gguf"), n_ctx=1024, n_threads=1)
    try:
        tokens = [i % 200 for i in range(600)]
        calls: list[int] = []

        def on_progress(_stage: str, done: int, _total: int) -> bool:
            calls.append(done)
            if len(calls) == 1:
                time.sleep(0.06)  # longer than the interval of asking, so that the first node asks again
            return len(calls) < 2

        with pytest.raises(PartlyDone) as caught:
            llm.prefill_tokens(tokens, 0, chunk=256, logits=True, on_progress=on_progress)
        assert isinstance(caught.value.__cause__, Cancelled)
        assert "within a chunk" in str(caught.value.__cause__)
        assert (caught.value.n_done, calls) == (0, [0, 0])
        llm.prefill_tokens(tokens, 0, chunk=256, logits=True)  # at position 0: nothing had stayed
        assert llm.keep(600) == 600
    finally:
        llm.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_cancelled_step_of_an_answer(model: Model, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Cancelled before a token is decoded, or just after: the ledger knows whether it is in the cache."""
    chat = model.chat()
    stream = chat.stream("what is this?", max_tokens=60)
    next(stream)
    original = LanguageModel.decode

    def decode(self: Any, *args: Any, **options: Any) -> None:
        if when == "before":
            stream.cancel()
            raise Cancelled("as if within the token")
        original(self, *args, **options)
        stream.cancel()

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "decode", decode)
        rest = list(stream)
    reply = stream.reply
    assert reply is not None and reply.finish_reason == "cancelled" and len(rest) <= 1
    assert is_fresh(model, chat, chat.ask("and?", max_tokens=8))


@pytest.mark.parametrize("how", ["cancelled", "error"])
def test_cancelling_within_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A token that takes long is left between two nodes of the graph and is not in the cache; what the caller
    raises when asked comes out."""
    is_slow = False

    def at_node(_tensor: object, _ask: bool, _data: object) -> bool:
        if is_slow:
            time.sleep(0.06)  # longer than the 50 ms after which the caller is asked
        return True

    defaults, callback = lc.llama_context_default_params, lc.ggml_backend_sched_eval_callback(at_node)

    def with_callback() -> Any:
        params = defaults()
        params.cb_eval = callback
        return params

    monkeypatch.setattr(lc, "llama_context_default_params", with_callback)
    llm = LanguageModel(tiny_models.write_llm(tmp_path / "llm.gguf"), n_ctx=64, n_threads=1)
    try:
        llm.prefill_tokens([1, 2, 3], 0, chunk=3, logits=True)
        calls: list[int] = []

        def is_cancelled() -> bool:
            calls.append(1)
            if how == "error":
                raise KeyError("mine")
            return True

        is_slow = True
        with pytest.raises(Cancelled if how == "cancelled" else KeyError):
            llm.decode(4, 3, is_cancelled=is_cancelled)
        assert calls == [1]  # not asked again once it has said so
        is_slow = False
        llm.decode(4, 3, is_cancelled=is_cancelled)  # position 3 is free, and a token in time asks nobody
        assert calls == [1]
    finally:
        llm.close()


def test_tokens_that_cannot_be_decoded(tmp_path: Path) -> None:
    llm = LanguageModel(tiny_models.write_llm(tmp_path / "llm.gguf"), n_ctx=256, n_threads=1)
    try:
        llm.prefill_tokens([1] * 255, 0, chunk=255, logits=True)
        with pytest.raises(InvalidArgumentError, match="pos is 3, but sequence 0 ends at position 254"):
            llm.decode(4, 3)
        for token in (-1, llm.n_vocab):
            with pytest.raises(InvalidArgumentError, match=f"token {token} of a vocabulary of {llm.n_vocab}"):
                llm.decode(token, 255)
        llm.decode(4, 255)
        with pytest.raises(ContextFullError, match="position 256 does not fit into a context of 256"):
            llm.decode(4, 256)
    finally:
        llm.close()
