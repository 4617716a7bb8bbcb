"""Chat: the cache holds what was said, and answers do not depend on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models

from bluelm_gguf import Cancelled, ContextFullError, ImageError, Model

QUESTIONS = ("what is this?", "and the user?", "<|im_end|> is this the end?", "Grüße 🙂")


def test_a_second_question_computes_the_question_only(shared_model: Model, files) -> None:
    chat = shared_model.chat()
    chat.add_image(files.large)
    chat.wait()
    first = chat.ask("what is this?", max_tokens=8)
    # The background work did it.
    assert (first.timings.encode_ms, first.timings.images_encoded) == (0, 1)
    assert (first.timings.image_tokens, first.timings.image_tokens_prefilled) == (588, 0)
    second = chat.ask("and the user?", max_tokens=8)
    t = second.timings
    assert (t.image_tokens, t.image_tokens_prefilled) == (588, 0)
    # The last token of the answer, the end of its turn, and the question in its frame.
    n_frame = len(shared_model.llm.tokenize(
        "<|im_end|>\n<|im_start|>user\nand the user?<|im_end|>\n<|im_start|>assistant\n", special=True
    ))  # fmt: skip
    assert t.text_tokens_prefilled == n_frame + 1


def test_a_chat_answers_as_if_computed_afresh(files) -> None:
    """The turns' tokens are the same with and without a cache to start from."""
    with Model(files.llm, mmproj=files.mmproj, n_ctx=2048, n_threads=1) as one:
        chat = one.chat(system="the user is this")
        kept = []
        for i, question in enumerate(QUESTIONS):
            if i in (0, 2):
                chat.add_image(files.small)
            kept.append(chat.ask(question, max_tokens=12))
        turns = chat.turns
        assert [t.role for t in turns] == ["user", "assistant"] * 4
        assert [len(t.images) for t in turns] == [1, 0, 0, 0, 1, 0, 0, 0]
        from bluelm_gguf.llm.prompt import Turn

        system = Turn("system", "the user is this")
        for i, reply in enumerate(kept):
            fresh = one.stream_turns([system, *turns[: 2 * i + 1]], max_tokens=12)
            list(fresh)
            assert fresh.reply is not None
            assert fresh.reply.tokens == reply.tokens
            assert fresh.reply.timings.text_tokens == reply.timings.text_tokens


def test_chats_and_single_questions_may_alternate(shared_model: Model) -> None:
    def conversation(disturbed: bool) -> list[tuple[int, ...]]:
        chat, out = shared_model.chat(), []
        other = shared_model.chat()
        for question in QUESTIONS:
            out.append(chat.ask(question, max_tokens=8).tokens)
            if disturbed:
                other.ask("something else", max_tokens=4)
                shared_model.generate("what?", max_tokens=4)
        return out

    assert conversation(False) == conversation(True)


def test_a_cancelled_answer_stays_as_far_as_it_came(shared_model: Model) -> None:
    chat = shared_model.chat()
    with chat.stream("what is this?", max_tokens=200) as stream:
        next(stream)
    assert stream.reply is not None
    assert [t.text for t in chat.turns] == ["what is this?", stream.reply.text]
    assert chat.ask("and?", max_tokens=4).tokens


def test_what_fails_leaves_the_conversation_as_it_was(shared_model: Model, files) -> None:
    chat = shared_model.chat()
    chat.ask("what?", max_tokens=4)
    chat.add_image(files.small)
    turns, pending = chat.turns, chat.pending_images
    with pytest.raises(Cancelled):
        chat.ask("what is this?", on_progress=lambda *_: False)
    assert chat.turns == turns and chat.pending_images == pending
    with pytest.raises(ContextFullError):
        chat.ask("x" * 4000)
    bad = chat.add_image(b"no picture")
    with pytest.raises(ImageError):
        bad.result()
    with pytest.raises(ImageError):
        chat.ask("what?")
    with pytest.raises(ImageError):
        chat.ask("what?", images=[b"no picture"])
    stream = chat.stream("never begun")
    stream.close()
    assert chat.turns == turns and chat.pending_images == pending
    assert chat.ask("and?", max_tokens=4).timings.image_tokens == 196
    assert chat.pending_images == ()


def test_cancelled_prefill_leaves_a_true_cache(shared_model: Model, files) -> None:
    """What was computed before the cancelling is used, and the answer is that of a fresh start."""
    chat = shared_model.chat()
    picture = shared_model.encode(files.large)
    with pytest.raises(Cancelled):
        chat.ask("what is this?", images=[picture], on_progress=lambda s, d, t: d < 300)
    reply = chat.ask("what is this?", images=[picture], max_tokens=8)
    assert 0 < reply.timings.image_tokens_prefilled < 588
    fresh = shared_model.generate("what is this?", images=chat.turns[0].images, max_tokens=8)
    assert fresh.timings.image_tokens_prefilled == 588
    assert fresh.tokens == reply.tokens


def test_images_with_the_question(shared_model: Model, files) -> None:
    chat = shared_model.chat()
    reply = chat.ask("what is this?", images=[files.small], max_tokens=3)
    assert reply.timings.image_tokens == 196 and len(reply.plans) == 1
    assert chat.ask("and?", max_tokens=3).timings.image_tokens == 196


def test_clear(shared_model: Model, files) -> None:
    chat = shared_model.chat(system="the user")
    first = chat.ask("what?", max_tokens=6)
    chat.add_image(files.small)
    chat.clear()
    assert chat.turns == () and chat.pending_images == ()
    assert chat.ask("what?", max_tokens=6).tokens == first.tokens


def test_stop_strings_keep_their_text_out_of_the_conversation(tmp_path: Path) -> None:
    path = tiny_models.write_llm(tmp_path / "llm.gguf", script="abcdefg")
    with Model(path, n_ctx=256, n_threads=1) as model:
        chat = model.chat()
        assert chat.ask("what?", stop=["def"]).text == "abc"
        assert chat.turns[-1].text == "abc"
        assert chat.ask("what?").text == "abcdefg"
