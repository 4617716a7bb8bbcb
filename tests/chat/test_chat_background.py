"""Pictures in the background: handles, states, errors, and what is left to compute for a question."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bluelm_gguf import (
    Cancelled,
    Chat,
    ContextFullError,
    DecodeError,
    EncodedImage,
    ImageError,
    ImageHandle,
    InvalidArgumentError,
    Model,
    OutOfMemoryError,
    Reply,
)
from bluelm_gguf.llm.prompt import Turn


@pytest.fixture(scope="module")
def model(files) -> Iterator[Model]:
    """Encodes tile by tile and prefills in small chunks, so that there are many steps."""
    with Model(files.llm, mmproj=files.mmproj, n_ctx=2048, n_threads=1, batch=1, chunk=64) as model:
        yield model


class Gate:
    """An on_progress that holds the background thread at a step until it is opened."""

    def __init__(self, stage: str, done: int = 0) -> None:
        self._where = stage, done
        self._reached, self._open = threading.Event(), threading.Event()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == self._where[0] and done >= self._where[1] and not self._open.is_set():
            self._reached.set()
            assert self._open.wait(60)

    def reach(self) -> None:
        assert self._reached.wait(60)

    def open(self) -> None:
        self._open.set()


def fresh(model: Model, chat: Chat, reply: Reply) -> bool:
    """Whether the last answer is what a fresh session gives for the same conversation."""
    turns = [Turn("system", chat.system)] if chat.system else []
    turns += chat.turns[chat.dropped_turns : -1]
    with model.stream_turns(turns, max_tokens=max(1, len(reply.tokens))) as stream:
        list(stream)
    assert stream.reply is not None
    return stream.reply.tokens == reply.tokens


# --------------------------------------------------------------------------------------------- handles


def test_a_handle_from_file_to_cache(model: Model, files) -> None:
    encode, prefill = Gate("encode", 2), Gate("prefill", 128)
    seen: list[tuple[str, int, int]] = []

    def on_progress(*step: Any) -> None:
        seen.append(step)
        encode(*step)
        prefill(*step)

    told: list[ImageHandle] = []
    chat = model.chat()
    handle = chat.add_image(files.large, on_progress=on_progress)
    handle.add_done_callback(told.append)
    encode.reach()
    assert (handle.state, handle.progress, handle.done()) == ("encoding", ("encode", 2, 3), False)
    assert handle.plan is not None and handle.plan.n_tiles == 3 and handle.n_tokens == 588
    assert chat.pending_images == (handle,) and handle.name == str(files.large)
    with pytest.raises(TimeoutError, match="large"):
        handle.result(timeout=0)
    encode.open()
    prefill.reach()
    encoded = handle.result()
    assert isinstance(encoded, EncodedImage) and encoded.n_tokens == 588
    assert handle.state == "prefilling" and handle.done() and told == [handle]
    assert handle.exception() is None
    assert chat.wait(timeout=0) is False
    prefill.open()
    assert chat.wait() is True
    assert (handle.state, handle.progress) == ("ready", None)
    steps = list(dict.fromkeys(seen))  # a step that takes its time is told about more than once
    assert [s for s, *_ in steps] == ["encode"] * 4 + ["prefill"] * (len(steps) - 4)
    assert steps[-1][1] == steps[-1][2]
    handle.add_done_callback(told.append)
    assert told == [handle, handle]
    reply = chat.ask("what is this?", max_tokens=8)
    assert reply.timings.image_tokens_prefilled == 0
    assert reply.timings.images_encoded == 1
    assert fresh(model, chat, reply)


def test_what_is_prefilled_is_what_no_question_changes(model: Model, files) -> None:
    """Of a question there remain its own tokens and its frame; also after turns, and a system prompt."""
    chat = model.chat(system="the user is this")
    for question in ("what?", "and this?"):
        chat.add_image(files.small)
        chat.add_image(files.large)
        chat.wait()
        reply = chat.ask(question, max_tokens=5)
        frame = model.llm.tokenize(f"{question}<|im_end|>\n<|im_start|>assistant\n", special=True)
        assert reply.timings.image_tokens_prefilled == 0
        assert reply.timings.text_tokens_prefilled == len(frame)
        assert fresh(model, chat, reply)


def test_answers_with_and_without_background_work(model: Model, files) -> None:
    """The same conversation, its pictures encoded beforehand, in the background, or with the question."""

    def conversation(how: str) -> list[tuple[int, ...]]:
        chat, out = model.chat(), []
        for i, picture in enumerate((files.small, files.large, files.small)):
            with_question: list[Any] = []
            if how == "given":
                chat.add_image(model.encode(picture))
            elif how == "question":
                with_question = [picture]
            else:
                chat.add_image(picture)
                if how == "waited":
                    chat.wait()
            out.append(chat.ask(f"what is {i}?", images=with_question, max_tokens=10).tokens)
            out.append(chat.ask("and?", max_tokens=10).tokens)
        return out

    answers = {how: conversation(how) for how in ("given", "question", "early", "waited")}
    assert len({str(a) for a in answers.values()}) == 1, answers


def test_pictures_in_any_order(model: Model, files) -> None:
    """Removing one in front of another, and asking about the rest."""
    chat = model.chat()
    first, second, third = (chat.add_image(p) for p in (files.small, files.large, files.small))
    chat.wait()
    chat.remove_image(first)
    assert chat.pending_images == (second, third)
    assert first.state == "ready" and first.result().n_tokens == 196
    chat.wait()
    assert [h.state for h in (second, third)] == ["ready", "ready"]
    reply = chat.ask("what is this?", max_tokens=8)
    assert (reply.timings.image_tokens, reply.timings.image_tokens_prefilled) == (784, 0)
    assert fresh(model, chat, reply)
    # The same picture again is the same cells: a conversation that begins alike shares them.
    other = model.chat()
    other.add_image(files.large)
    other.wait()
    assert other.ask("what?", max_tokens=4).timings.image_tokens_prefilled == 0
    chat.remove_image(first)  # no longer there: nothing happens


def test_work_that_is_wanted_again_while_it_stops(
    model: Model, files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question is withdrawn, the work stops, and before it has stopped the next question waits for it."""
    stopping, go_on = threading.Event(), threading.Event()
    embed = model.engine.embed

    def slow_to_stop(*args: Any) -> EncodedImage:
        try:
            return embed(*args)
        except Cancelled:
            stopping.set()
            assert go_on.wait(60)
            raise

    monkeypatch.setattr(model.engine, "embed", slow_to_stop)
    gate, chat = Gate("encode", 1), model.chat()
    handle = chat.add_image(files.large, on_progress=gate)
    gate.reach()
    with pytest.raises(Cancelled):
        chat.ask("what is this?", on_progress=lambda *_: False)
    gate.open()
    assert stopping.wait(60)
    asked: list[bool] = []

    def on_progress(*_: object) -> None:
        asked.append(True)
        go_on.set()

    assert handle.progress is not None
    reply = chat.ask("what is this?", max_tokens=8, on_progress=on_progress)
    assert asked and reply.timings.image_tokens == 588
    assert fresh(model, chat, reply)


def test_the_conversation_changes_while_a_picture_is_prefilled(model: Model, files) -> None:
    """It is prefilled again, behind what is before it then."""
    chat = model.chat()
    chat.ask("what?", max_tokens=4)
    gate = Gate("prefill", 128)
    handle = chat.add_image(files.large, on_progress=gate)
    gate.reach()
    chat.undo()
    gate.open()
    chat.wait()
    assert handle.state == "ready"
    reply = chat.ask("what is this?", max_tokens=8)
    assert (reply.timings.image_tokens, reply.timings.image_tokens_prefilled) == (588, 0)
    assert fresh(model, chat, reply)


def test_cancelling_a_handle(model: Model, files) -> None:
    for stage, step in (("encode", 0), ("encode", 1), ("encode", 3), ("prefill", 0), ("prefill", 128)):
        gate = Gate(stage, step)
        chat = model.chat()
        handle = chat.add_image(files.large, on_progress=gate)
        waiting = chat.add_image(files.small)
        gate.reach()
        assert handle.cancel()
        gate.open()
        assert handle.state == "cancelled" and chat.pending_images == (waiting,)
        if stage == "encode":
            with pytest.raises(Cancelled):
                handle.result()
            assert isinstance(handle.exception(), Cancelled)
        assert not handle.cancel()
        reply = chat.ask("what is this?", max_tokens=8)
        assert reply.timings.image_tokens == 196, (stage, step)
        assert fresh(model, chat, reply), (stage, step)


def test_on_progress_can_cancel_or_fail(model: Model, files) -> None:
    chat = model.chat()
    handle = chat.add_image(files.large, on_progress=lambda *_: False)
    with pytest.raises(Cancelled):
        handle.result()
    assert chat.pending_images == ()

    def fail(*_: object) -> None:
        raise KeyError("mine")

    handle = chat.add_image(files.large, on_progress=fail)
    with pytest.raises(KeyError, match="mine"):
        handle.result()
    assert handle.state == "failed"
    with pytest.raises(KeyError, match="mine"):
        chat.ask("what?")
    assert fresh(model, chat, chat.ask("what?", max_tokens=4))


def test_a_callback_that_fails_hurts_nobody(model: Model, files, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: ImageHandle) -> None:
        raise KeyError("mine")

    chat = model.chat()
    chat.add_image(files.small).add_done_callback(fail)
    chat.wait()
    assert chat.ask("what?", max_tokens=2).timings.image_tokens == 196
    assert "done callback" in caplog.text


# ---------------------------------------------------------------------------------------------- failures


def test_a_picture_that_fails(model: Model, files, tmp_path) -> None:
    """The handle and the next question raise its error; then the conversation goes on without it."""
    missing = tmp_path / "missing.png"
    chat = model.chat()
    chat.ask("what?", max_tokens=4)
    good, bad = chat.add_image(files.small), chat.add_image(missing)
    for _ in range(2):
        with pytest.raises(ImageError, match=r"missing\.png"):
            bad.result()
    chat.wait()
    assert (good.state, bad.state) == ("ready", "failed")
    assert chat.pending_images == (good, bad)
    turns = chat.turns
    with pytest.raises(ImageError, match=r"missing\.png"):
        chat.ask("what is this?")
    assert chat.turns == turns and chat.pending_images == (good,)
    reply = chat.ask("what is this?", max_tokens=8)
    assert reply.timings.image_tokens == 196 and fresh(model, chat, reply)


@pytest.mark.parametrize("stage", ["encode", "prefill"])
def test_work_that_fails(model: Model, files, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """No memory for the activations, or llama.cpp fails: the error keeps its class, the chat its pictures."""
    error = OutOfMemoryError("no memory") if stage == "encode" else DecodeError("llama.cpp failed")

    def fail(*_: object, **__: object) -> None:
        raise error

    chat = model.chat()
    good = chat.add_image(files.small)
    chat.wait()
    with monkeypatch.context() as patch:
        patch.setattr(
            *((model.engine, "embed") if stage == "encode" else (model.engine.ledger, "bring")), fail
        )
        handle = chat.add_image(files.large)
        chat.wait()
    assert handle.state == "failed" and chat.turns == ()
    assert handle.exception() is (error if stage == "encode" else None)  # it was encoded
    with pytest.raises(type(error)):
        chat.ask("what is this?")
    assert chat.pending_images == (good,)
    reply = chat.ask("what is this?", max_tokens=8)
    assert reply.timings.image_tokens == 196 and fresh(model, chat, reply)


def test_a_picture_that_can_never_fit(files) -> None:
    with Model(files.llm, mmproj=files.mmproj, n_ctx=400, n_threads=1) as model:
        chat = model.chat()
        handle = chat.add_image(files.large)
        with pytest.raises(ContextFullError, match=r"60\d tokens .* 400"):
            handle.result()
        with pytest.raises(ContextFullError):
            chat.ask("what?")
        chat.add_image(files.small)
        assert chat.ask("what?", max_tokens=4).timings.image_tokens == 196


def test_what_is_wrong_at_once(model: Model, files) -> None:
    with (
        Model(files.llm, n_ctx=256, n_threads=1) as text_only,
        pytest.raises(InvalidArgumentError, match="mmproj"),
    ):
        text_only.chat().add_image(files.small)
    encoded = model.encode(files.small)
    wide = EncodedImage(np.zeros((4, 96), np.float32), encoded.plan, encoded.timings, "wide", "wide")
    with pytest.raises(InvalidArgumentError, match="width 96"):
        model.chat().add_image(wide)
    with pytest.raises(InvalidArgumentError, match="'drop' or 'stop'"):
        model.chat(context_full="shift")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        model.chat().stream("what?", no_such_option=1)


def test_waiting_for_oneself_is_refused(model: Model, files) -> None:
    """Neither from the background thread, nor while this thread's own answer has the model."""
    chat = model.chat()
    found: list[str] = []

    def wait(*_: object) -> None:
        for use in (chat.wait, lambda: chat.ask("what?")):
            with pytest.raises(InvalidArgumentError) as caught:
                use()
            found.append(str(caught.value))

    handle = chat.add_image(files.small, on_progress=wait)
    handle.result()
    chat.wait()
    assert found and all("still answering" in text for text in found)  # that thread has the model meanwhile
    with chat.stream("what?", max_tokens=20) as stream:
        next(stream)
        handle = chat.add_image(files.large)
        for use in (chat.wait, handle.result, lambda: chat.ask("and?")):
            with pytest.raises(InvalidArgumentError, match="still answering"):
                use()
    assert handle.result().n_tokens == 588


# ----------------------------------------------------------------------------------------------- closing


@pytest.mark.parametrize("stage", ["encode", "prefill"])
def test_closing_while_background_work_runs(files, stage: str) -> None:
    gate = Gate(stage)
    model = Model(files.llm, mmproj=files.mmproj, n_ctx=1024, n_threads=1, batch=1, chunk=64)
    chat = model.chat()
    handle, waiting = chat.add_image(files.large, on_progress=gate), chat.add_image(files.small)
    gate.reach()
    threading.Timer(0.1, gate.open).start()  # so that close() has to wait for the step
    model.close()
    assert handle.state == waiting.state == "cancelled"
    with pytest.raises(Cancelled, match="closed"):
        waiting.result()
    for use in (lambda: chat.ask("what?"), lambda: chat.add_image(files.small), model.chat):
        with pytest.raises(InvalidArgumentError, match="closed"):
            use()


def test_closing_while_a_question_waits(files) -> None:
    gate = Gate("encode")
    model = Model(files.llm, mmproj=files.mmproj, n_ctx=1024, n_threads=1)
    chat = model.chat()
    chat.add_image(files.large, on_progress=gate)
    gate.reach()
    waiting = threading.Event()
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            chat.ask("what?", on_progress=lambda *_: waiting.set())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert waiting.wait(60)
    gate.open()
    model.close()
    thread.join(60)
    assert not thread.is_alive()
    for error in ended:  # it may have had its answer before
        assert isinstance(error, InvalidArgumentError) and "closed" in str(error)


def test_closing_a_chat_leaves_the_model(model: Model, files) -> None:
    gate = Gate("encode", 1)
    chat = model.chat()
    handle = chat.add_image(files.large, on_progress=gate)
    gate.reach()
    chat.close()
    gate.open()
    chat.close()
    assert handle.state == "cancelled"
    with pytest.raises(InvalidArgumentError, match="the chat is closed"):
        chat.ask("what?")
    assert model.generate("what?", max_tokens=2).tokens


@pytest.mark.parametrize("stage", ["encode", "prefill"])
def test_a_program_may_end_while_background_work_runs(files, stage: str) -> None:
    code = f"""
import threading
from bluelm_gguf import Model
begun = threading.Event()
def on_progress(stage, done, total):
    if stage == {stage!r}:
        begun.set()
model = Model({str(files.llm)!r}, mmproj={str(files.mmproj)!r}, n_ctx=2048, n_threads=1, batch=1, chunk=8)
chat = model.chat()
handles = [chat.add_image({str(files.large)!r}, on_progress=on_progress) for _ in range(20)]
begun.wait()
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_chat_that_is_dropped_frees_its_thread(model: Model, files) -> None:
    chat = model.chat()
    chat.add_image(files.small)
    chat.wait()
    assert chat.ask("what?", max_tokens=2).tokens
    assert not [t for t in threading.enumerate() if t.name == "bluelm-pictures"]


# --------------------------------------------------------------------------------------------- going back


def test_undo(model: Model, files) -> None:
    chat = model.chat()
    assert chat.undo() is None
    first = chat.ask("what?", max_tokens=6)
    chat.add_image(files.large)
    chat.ask("what is this?", max_tokens=6)
    assert chat.undo() == "what is this?"
    assert [t.text for t in chat.turns] == ["what?", first.text]
    (handle,) = chat.pending_images
    assert handle.done() and handle.n_tokens == 588
    chat.wait()
    reply = chat.ask("and the user?", max_tokens=6)
    assert (reply.timings.image_tokens, reply.timings.image_tokens_prefilled) == (588, 0)
    assert fresh(model, chat, reply)
    assert chat.undo() == "and the user?" and chat.undo() == "what?" and chat.undo() is None
    assert len(chat.pending_images) == 1
    assert fresh(model, chat, chat.ask("what?", max_tokens=6))


def test_retry(model: Model, files) -> None:
    chat = model.chat()
    with pytest.raises(InvalidArgumentError, match="no question"):
        chat.retry()
    chat.add_image(files.small)
    hot = {"temp": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    first = chat.ask("what is this?", max_tokens=12, seed=1, **hot)
    later = chat.add_image(files.large)
    chat.wait()
    with chat.retry(seed=2) as stream:  # the other options are as they were
        again = "".join(stream)
    reply = stream.reply
    assert reply is not None and len(reply.tokens) == 12 and reply.tokens != first.tokens
    assert [t.text for t in chat.turns] == ["what is this?", again]
    assert len(chat.turns[0].images) == 1
    assert reply.timings.image_tokens_prefilled == 0
    assert chat.pending_images == (later,)
    with chat.retry(seed=1) as stream:
        list(stream)
    assert stream.reply is not None and stream.reply.tokens == first.tokens
    # A retry that is cancelled before anything came leaves the answer that was there.
    turns = chat.turns
    with pytest.raises(Cancelled):
        list(chat.retry(on_progress=lambda *_: False))
    assert chat.turns == turns
    reply = chat.ask("and this?", max_tokens=6)
    assert reply.timings.image_tokens == 784 and fresh(model, chat, reply)


def test_going_back_while_answering(model: Model) -> None:
    chat = model.chat()
    chat.ask("what?", max_tokens=4)
    stream = chat.stream("and the user?", max_tokens=500)
    next(stream)
    assert chat.undo() == "and the user?"
    assert len(chat.turns) == 2 and list(stream) == []
    stream = chat.stream("and?", max_tokens=500)
    next(stream)
    chat.clear()
    assert chat.turns == () and list(stream) == []
    assert fresh(model, chat, chat.ask("what?", max_tokens=4))


def test_pictures_added_while_answering(model: Model, files) -> None:
    """They go with the next question, and are prefilled after the answer."""
    chat = model.chat()
    with chat.stream("what is this?", max_tokens=6) as stream:
        next(stream)
        handle = chat.add_image(files.large)
        list(stream)
    chat.wait()
    assert chat.turns[0].images == () and chat.pending_images == (handle,)
    reply = chat.ask("and?", max_tokens=6)
    assert (reply.timings.image_tokens, reply.timings.image_tokens_prefilled) == (588, 0)
    assert fresh(model, chat, reply)


def test_a_file_object_is_read_at_once(model: Model, files) -> None:
    """A thread that waits for a pipe could not be stopped."""
    chat = model.chat()
    with files.small.open("rb") as file:
        handle = chat.add_image(file)
        assert file.read() == b""
    assert handle.result().n_tokens == 196 and handle.name == str(files.small)
    with pytest.raises(ImageError, match="mode 'rb'"), files.small.open("r", encoding="latin-1") as file:
        chat.add_image(file)
    assert chat.pending_images == (handle,)


def test_an_array_may_be_given(model: Model) -> None:
    array = np.asarray(Image.new("RGB", (50, 60), "red"))
    chat = model.chat()
    handle = chat.add_image(array)
    assert handle.result().n_tokens == 196 and handle.name == "ndarray"
