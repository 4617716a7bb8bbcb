"""Answers through libmtmd equal llama.cpp's own loop, and stay the same however they are come by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pairs
from mtmd_reference import reference

from bluelm_gguf import Cancelled, Model
from bluelm_gguf.llm.prompt import Turn

QUESTION = "what is this?"
DIALECTS = list(tiny_pairs.DIALECTS)
Open = Callable[..., Model]

pytestmark = pytest.mark.parametrize("dialect", DIALECTS)


def fresh(model: Model, turns: list[Turn], picture: Path) -> Any:
    """The answer to the last of some turns, nothing reused; the picture belongs to the first."""
    image = model.encode(picture)
    turns = [Turn(turns[0].role, turns[0].text, (image,)), *turns[1:]]
    with model.stream_turns(turns, max_tokens=12) as stream:
        for _ in stream:
            pass
    assert stream.reply is not None
    return stream.reply


def test_the_answer_and_the_count_of_tokens_are_llama_cpps(
    dialect: str, open_model: Open, pair: Callable[[str], Any], picture: Path, mirrored: Path
) -> None:
    model = open_model(dialect)
    expected = reference(*pair(dialect), picture, QUESTION, 12)
    reply = model.generate(QUESTION, images=[picture], max_tokens=12)
    assert list(reply.tokens) == expected["tokens"]
    assert reply.timings.image_tokens + reply.timings.text_tokens == expected["prompt"]
    other = model.generate(QUESTION, images=[mirrored], max_tokens=12)
    assert other.tokens != reply.tokens, "a seed whose answer does not depend on the picture proves nothing"


def test_a_second_question_computes_nothing_of_the_picture(
    dialect: str, open_model: Open, picture: Path
) -> None:
    model = open_model(dialect)
    chat = model.chat()
    chat.add_image(picture)
    first = chat.ask(QUESTION, max_tokens=8)
    second = chat.ask("the user?", max_tokens=12)
    assert second.timings.image_tokens > 0
    assert second.timings.image_tokens_prefilled == 0
    turns = [
        Turn("user", QUESTION), Turn("assistant", first.text, tokens=first.tokens), Turn("user", "the user?")
    ]  # fmt: skip
    assert second.tokens == fresh(open_model(dialect), turns, picture).tokens


def test_retrying_goes_back_and_computes_nothing_of_the_picture(
    dialect: str, open_model: Open, picture: Path
) -> None:
    model = open_model(dialect)
    chat = model.chat()
    chat.add_image(picture)
    first = chat.ask(QUESTION, max_tokens=12)
    with chat.retry() as stream:
        for _ in stream:
            pass
    assert stream.reply is not None
    assert stream.reply.tokens == first.tokens
    assert stream.reply.timings.image_tokens_prefilled == 0


@pytest.mark.parametrize("stage", ["encode", "prefill"])
def test_cancelled_in_the_middle_and_asked_again(
    dialect: str, stage: str, open_model: Open, picture: Path
) -> None:
    model = open_model(dialect, chunk=8)
    expected = model.generate(QUESTION, images=[picture], max_tokens=12)
    for at in (1, 2):
        calls = []

        def stop(now: str, done: int, total: int, at: int = at, calls: list[int] = calls) -> bool:
            if now == stage:
                calls.append(done)
            return len(calls) < at

        with pytest.raises(Cancelled):
            model.generate(QUESTION, images=[picture], max_tokens=12, on_progress=stop)
        again = model.stream_turns(
            [Turn("user", QUESTION)], images=[model.encode(picture)], reuse=True, max_tokens=12
        )
        with again:
            for _ in again:
                pass
        assert again.reply is not None and again.reply.tokens == expected.tokens


@pytest.mark.parametrize("kv", [False, True])
def test_a_saved_chat_goes_on(
    dialect: str, kv: bool, open_model: Open, picture: Path, tmp_path: Path
) -> None:
    model = open_model(dialect)
    chat = model.chat()
    chat.add_image(picture)
    chat.ask(QUESTION, max_tokens=8)
    chat.save(tmp_path / "chat", kv=kv)
    expected = chat.ask("the user?", max_tokens=12)
    loaded = open_model(dialect).load_chat(tmp_path / "chat")
    reply = loaded.ask("the user?", max_tokens=12)
    assert reply.tokens == expected.tokens
    assert (reply.timings.image_tokens_prefilled == 0) is kv


def test_a_picture_from_the_cache(dialect: str, open_model: Open, picture: Path, tmp_path: Path) -> None:
    first = open_model(dialect, cache=tmp_path).generate(QUESTION, images=[picture], max_tokens=12)
    second = open_model(dialect, cache=tmp_path).generate(QUESTION, images=[picture], max_tokens=12)
    assert (first.timings.images_cached, second.timings.images_cached) == (0, 1)
    assert first.tokens == second.tokens


def test_two_pictures_are_two(dialect: str, open_model: Open, picture: Path, mirrored: Path) -> None:
    model = open_model(dialect)
    one = model.generate(QUESTION, images=[picture], max_tokens=12)
    both = model.generate(QUESTION, images=[picture, mirrored], max_tokens=12)
    assert both.timings.image_tokens == 2 * one.timings.image_tokens
    assert (
        both.tokens
        == open_model(dialect).generate(QUESTION, images=[picture, mirrored], max_tokens=12).tokens
    )


def test_weights_that_leave_memory(dialect: str, open_model: Open, picture: Path) -> None:
    expected = open_model(dialect).generate(QUESTION, images=[picture], max_tokens=12)
    model = open_model(dialect, free_vision="always")
    for _ in range(2):
        assert model.generate(QUESTION, images=[picture], max_tokens=12).tokens == expected.tokens
        assert model.vision is not None and not model.vision.is_loaded
