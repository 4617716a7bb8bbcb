"""How often a prompt is rendered and tokenised on its way, and a picture planned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from bluelm_gguf import Model, VisionEncoder

SYSTEM = "You are the keeper of a lighthouse and answer briefly."


@pytest.fixture
def model(files) -> Iterator[Model]:
    with Model(files.llm, mmproj=files.mmproj, n_ctx=2048, n_threads=1) as model:
        yield model


class Counts:
    """Calls of the chat template, of the tokenizer for one text, and of the tiler."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rendered = self.planned = 0
        self.tokenised: list[str] = []
        render, plan, tokenize = (
            Jinja2ChatFormatter.__call__,
            VisionEncoder.plan,
            model.engine.prompts.tokenize,
        )

        def counting_render(*args: Any, **options: Any) -> Any:
            self.rendered += 1
            return render(*args, **options)

        def counting_plan(*args: Any, **options: Any) -> Any:
            self.planned += 1
            return plan(*args, **options)

        def counting_tokenize(text: str, *, special: bool) -> list[int]:
            self.tokenised.append(text)
            return tokenize(text, special=special)

        monkeypatch.setattr(Jinja2ChatFormatter, "__call__", counting_render)
        monkeypatch.setattr(VisionEncoder, "plan", counting_plan)
        monkeypatch.setattr(model.engine.prompts, "tokenize", counting_tokenize)

    def prompts_with(self, text: str) -> int:
        """How often a text was tokenised together with what the template wrote around it."""
        return sum(text in found and text != found for found in self.tokenised)


def test_a_background_picture_and_a_question(model: Model, files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once when the picture comes, once when the question does."""
    chat = model.chat(system=SYSTEM)
    counts = Counts(model, monkeypatch)
    chat.add_image(files.large)
    chat.wait()
    assert (counts.rendered, counts.planned, counts.prompts_with(SYSTEM)) == (1, 1, 1)
    reply = chat.ask("what is this?", max_tokens=4)
    assert (reply.timings.image_tokens, reply.timings.image_tokens_prefilled) == (588, 0)
    assert (counts.rendered, counts.planned, counts.prompts_with(SYSTEM)) == (2, 1, 1)
    # Of a conversation that goes on, only what is new is tokenised.
    chat.ask("and this?", max_tokens=4)
    assert (counts.rendered, counts.prompts_with(SYSTEM)) == (3, 1)
    assert counts.prompts_with("what is this?") == 1


def test_a_question_with_its_picture(model: Model, files, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(model, monkeypatch)
    model.generate("what is this?", images=[files.large], system=SYSTEM, max_tokens=4)
    assert (counts.rendered, counts.planned, counts.prompts_with(SYSTEM)) == (1, 1, 1)


def test_two_pictures_and_a_turn_taken_back(model: Model, files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversation before a picture changes: its prompt is built again, and holds what it should."""
    chat = model.chat(system=SYSTEM)
    counts = Counts(model, monkeypatch)
    chat.add_image(files.small)
    chat.add_image(files.large)
    chat.wait()
    assert counts.rendered == 2
    first = chat.ask("what is this?", max_tokens=8)
    assert first.timings.image_tokens == 784 and first.timings.image_tokens_prefilled == 0
    assert chat.undo() == "what is this?"
    chat.wait()
    again = chat.ask("what is this?", max_tokens=8)
    assert again.tokens == first.tokens
