"""When the context is full the oldest turns go, never the system prompt or a picture; or a question does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bluelm_gguf import Cancelled, ContextFullError, Model
from bluelm_gguf.llm.context_full import n_to_drop, shortened
from bluelm_gguf.llm.prompt import Turn

N_CTX = 700


@pytest.fixture(scope="module")
def model(files) -> Iterator[Model]:
    with Model(files.llm, mmproj=files.mmproj, n_ctx=N_CTX, n_threads=1) as model:
        yield model


def sent(model: Model, chat, n_turns: int) -> list[Turn]:
    """The conversation up to its n-th turn as the model sees it now."""
    turns = [Turn("system", chat.system), *chat.turns[:n_turns]]
    return shortened(turns, chat.dropped_turns)


def test_dropping_keeps_the_system_prompt_and_the_pictures(model: Model, files) -> None:
    encodings = 0

    def count(stage: str, *_: int) -> None:
        nonlocal encodings
        encodings += stage == "encode"

    chat = model.chat(system="the user is this")
    chat.add_image(files.small, on_progress=count)
    chat.wait()
    before, dropped, prefilled = encodings, 0, []
    for i in range(30):
        if i == 5:
            chat.add_image(files.small.read_bytes())
        reply = chat.ask(f"{i}: what is this? " + "what " * 8, max_tokens=24)
        dropped += reply.dropped_turns
        assert chat.dropped_turns == dropped
        n_pictures = 1 if i < 5 else 2
        assert reply.timings.image_tokens == 196 * n_pictures, i
        assert reply.timings.images_encoded == (i in (0, 5))
        assert reply.timings.text_tokens + reply.timings.image_tokens + 24 <= N_CTX
        assert len(reply.tokens) == 24  # there was room for it
        prefilled.append((reply.dropped_turns, reply.timings.image_tokens_prefilled))
        # To the token what a fresh session says to what is left of the conversation.
        with model.stream_turns(sent(model, chat, len(chat.turns) - 1), max_tokens=24) as stream:
            list(stream)
        assert stream.reply is not None and stream.reply.tokens == reply.tokens, i
    assert encodings == before  # never again
    assert dropped >= 20 and dropped % 2 == 0
    assert len(chat.turns) == 60 and chat.turns[0].text.startswith("0:")
    # Dropping makes room for several questions: not every one of them pays for it.
    n_drops = sum(n > 0 for n, _ in prefilled)
    assert n_drops <= 15, prefilled


def test_questions_after_dropping_reuse_the_cache(model: Model, files) -> None:
    """Rows of pictures are prefilled again when they move, and only then."""
    chat = model.chat()
    chat.ask("first", max_tokens=8)
    chat.add_image(files.small)
    chat.wait()
    moved = 0
    for i in range(12):
        reply = chat.ask(f"{i}: " + "what " * 10, max_tokens=24)
        if reply.dropped_turns and not moved:
            # The picture came after the first question, and stands in front now.
            assert reply.timings.image_tokens_prefilled == 196
            moved += 1
        else:
            # It was in front already, at the same place.
            assert reply.timings.image_tokens_prefilled == 0, i
    assert moved


def test_stopping(model: Model, files) -> None:
    chat = model.chat(context_full="stop")
    chat.add_image(files.small)
    with pytest.raises(ContextFullError, match=r"conversation has \d+ tokens.* 700.*taken? "):
        for i in range(30):
            turns = chat.turns
            chat.ask(f"{i}: what is this? " + "what " * 8, max_tokens=24)
    assert chat.turns == turns and chat.dropped_turns == 0 and len(turns) > 8
    with pytest.raises(ContextFullError):
        chat.ask("x" * 500)
    assert chat.undo()
    assert chat.ask("?", max_tokens=4).tokens


def test_what_can_never_fit(model: Model, files) -> None:
    for policy in ("drop", "stop"):
        chat = model.chat(context_full=policy)
        chat.ask("what?", max_tokens=4)
        turns = chat.turns
        with pytest.raises(ContextFullError, match=f"at least one more, but the context holds {N_CTX}"):
            chat.ask("x" * 800)
        chat.add_image(files.large)
        chat.wait()
        with pytest.raises(ContextFullError):
            chat.ask("what is this? " * 20)
        (handle,) = chat.pending_images
        chat.remove_image(handle)
        assert chat.turns == turns and chat.dropped_turns == 0
        assert chat.ask("and?", max_tokens=4).tokens


def test_one_large_picture_leaves_room_to_ask(model: Model, files) -> None:
    """588 of 700 tokens are a picture: the answer gets what is left, and the oldest turns go for it."""
    chat = model.chat()
    chat.add_image(files.large)
    first = chat.ask("what is this?")
    assert first.finish_reason == "length" and len(first.tokens) > 60
    reply = chat.ask("and?")
    assert reply.dropped_turns == 2 and len(reply.tokens) > 60
    assert reply.timings.image_tokens == 588 and reply.timings.image_tokens_prefilled == 0


def test_undo_brings_dropped_turns_back(model: Model) -> None:
    chat = model.chat()
    before = []
    for i in range(24):
        before.append((chat.dropped_turns, chat.turns))
        reply = chat.ask(f"{i}: " + "what is this? " * 6, max_tokens=24)
    assert chat.dropped_turns
    with chat.retry() as stream:
        list(stream)
    assert stream.reply is not None and stream.reply.tokens == reply.tokens
    while before:
        chat.undo()
        assert (chat.dropped_turns, chat.turns) == before.pop()


def test_a_failed_question_drops_nothing(model: Model) -> None:
    chat = model.chat()
    while True:
        state = chat.dropped_turns, chat.turns
        # Cancelled in the prefill first: had it dropped turns, they are back.
        with pytest.raises(Cancelled):
            chat.ask("what is this? " * 6, max_tokens=24, on_progress=lambda *_: False)
        assert (chat.dropped_turns, chat.turns) == state
        if chat.ask("what is this? " * 6, max_tokens=24).dropped_turns:
            break


def turn_pairs(n: int) -> list[Turn]:
    return [t for i in range(n) for t in (Turn("user", f"q{i}", (f"p{i}",)), Turn("assistant", f"a{i}"))]


def test_shortened() -> None:
    turns = [Turn("system", "s"), *turn_pairs(2), Turn("user", "q", ("p",))]
    assert shortened(turns, 0) == turns
    assert shortened(turns, 2) == [
        Turn("system", "s"), Turn("user", "q1", ("p0", "p1")), Turn("assistant", "a1"), turns[-1],
    ]  # fmt: skip
    assert shortened(turns, 4) == [Turn("system", "s"), Turn("user", "q", ("p0", "p1", "p"))]
    assert shortened(turns[1:], 4) == [Turn("user", "q", ("p0", "p1", "p"))]


@pytest.mark.parametrize(
    ("sizes", "n_dropped", "max_tokens", "expected"),
    [
        ([10, 10, 10, 10, 10], 0, 50, 0),  # all of it fits
        ([100, 100, 100, 100, 10], 0, 50, 2),  # 410 of 400: the first pair goes
        ([80, 80, 80, 80, 40], 0, 100, 2),  # 360 + 100 of 400
        ([80, 80, 80, 80, 40], 2, 100, 2),  # it went before
        ([2, 2, 150, 150, 60], 0, 100, 4),  # without the first pair it would just not fit
        ([10, 10, 135, 135, 60], 0, 60, 4),  # it would fit without the first pair, but leave no slack
        ([5, 5, 5, 5, 399], 0, 50, 4),  # only the question fits, and one token
        ([300, 20, 20], 0, 256, 2),  # at most a quarter of the context is kept for the answer
    ],
)
def test_how_much_is_dropped(sizes: list[int], n_dropped: int, max_tokens: int, expected: int) -> None:
    turns = [Turn("user" if i % 2 == 0 else "assistant", "") for i in range(len(sizes))]
    found = n_to_drop(
        turns, n_dropped, lambda n: sum(sizes[n:]), n_ctx=400, max_tokens=max_tokens, policy="drop"
    )
    assert found == expected
