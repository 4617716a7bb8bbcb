"""From the turns of a conversation to what is decoded: runs of tokens and pictures.

The chat template comes from the LLM's GGUF and is rendered with a placeholder for every text that a person or
the model wrote, so that nothing in those texts can act as template syntax. Then the texts take the
placeholders' places:

    <|im_start|>user\\n[picture][image_suffix]What is this?<|im_end|>\\n<|im_start|>assistant\\n

Pictures come before the text of their turn (docs/bluelm-v-layout.md), or where the template puts them: one
that takes contents as lists of parts ({"type": "image"}, {"type": "text", ...}) writes an image token there,
which the vision file names (`bluelm.prompt.image_token`). Special tokens are recognised in what the template
wrote and never in what a user typed: a question about `<|im_end|>` is only a question.

Without a template in the file the conversation is written plainly, as `PLAIN_TEMPLATE` shows.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..errors import InvalidArgumentError, ModelFormatError
from ..pieces import Marker, Piece, View

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}User: {{ message.content }}\n"
    "{% else %}Assistant: {{ message.content }}\n{% endif %}"
    "{% endfor %}Assistant:"
)
"""Used where the GGUF has no chat template; the answer then also ends at "\\nUser:"."""

PLAIN_STOP = "\nUser:"

_MAX_RUNS = 64
"""Texts whose tokens are remembered: those of the last 30 turns or so."""


class Picture(Protocol):
    """What a turn's image must offer: `EncodedImage`."""

    @property
    def n_tokens(self) -> int:
        """Rows of its embeddings."""

    @property
    def key(self) -> str:
        """Tells pictures apart in the KV cache."""

    @property
    def layout(self) -> tuple[Piece, ...]:
        """Its views and the tokens around them."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    """"system", "user" or "assistant"."""
    text: str
    images: tuple[Any, ...] = ()
    tokens: tuple[int, ...] | None = None
    """For an answer: the tokens as generated, which may differ from what its text would give."""


@dataclass(frozen=True)
class TextSegment:
    """Tokens in a row."""

    tokens: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class ImageSegment:
    """The place of one view of a picture."""

    image: Any
    view: View

    def __len__(self) -> int:
        return self.view.n_tokens


Segment = TextSegment | ImageSegment


def n_tokens(segments: Sequence[Segment], *, kind: type[Any] | None = None) -> int:
    """Tokens of all segments, or of those of one kind."""
    return sum(len(segment) for segment in segments if kind is None or isinstance(segment, kind))


_SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")  # how special tokens are spelled


def with_images(segments: Sequence[Segment], images: Iterable[Picture]) -> list[Segment]:
    """A prompt with these pictures in the places of those of the same key."""
    found = {image.key: image for image in images}
    return [
        ImageSegment(found.get(segment.image.key, segment.image), segment.view)
        if isinstance(segment, ImageSegment)
        else segment
        for segment in segments
    ]


@dataclass(frozen=True)
class _Written:
    """Text of a user or the model: no special tokens in it."""

    text: str


@dataclass
class PromptBuilder:
    """Builds prompts for one model.

    Args:
        tokenize: `tokenize(text, special=...) -> tokens`, without BOS.
        template: The Jinja chat template, or None.
        bos, bos_text: The BOS token (-1 if there is none) and its spelling.
        eos_text: The EOS token's spelling.
        add_bos: Whether prompts start with BOS.
        image_prefix, image_suffix: Texts around a picture's tokens (`bluelm.prompt.*` of the mmproj), unless
            the template places pictures itself.
        image_token: What the template writes where a picture belongs (`bluelm.prompt.image_token`), or "".
        finds_image_token: Whether that is found out from the template; pictures then bring the tokens around
            them with them, in place of all that the template writes for one.
        origin: The file, for messages.
    """

    tokenize: Callable[..., list[int]]
    template: str | None
    bos: int
    bos_text: str
    eos_text: str
    add_bos: bool
    image_prefix: str = ""
    image_suffix: str = ""
    image_token: str = ""
    finds_image_token: bool = False
    origin: str = "the model"
    _render: Callable[..., str] = field(init=False, repr=False)
    _takes_parts: bool = field(init=False, repr=False)
    _runs: dict[tuple[str | _Written, ...], tuple[int, ...]] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        import jinja2
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        try:
            formatter = Jinja2ChatFormatter(
                template=self.template or PLAIN_TEMPLATE, eos_token=self.eos_text, bos_token=self.bos_text
            )
        except jinja2.TemplateError as error:
            raise ModelFormatError(f"{self.origin}: its chat template cannot be read ({error})") from None

        def render(messages: list[Any]) -> str:
            try:
                return str(formatter(messages=messages).prompt)
            except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
                reason = " ".join(str(error).split())
                message = f"{self.origin}: its chat template refuses this conversation ({reason})"
                raise InvalidArgumentError(message) from None

        self._render = render
        self._takes_parts = self._probe()
        if self.finds_image_token and not self.image_token:
            self.image_token = self._find_image_token()
            self._takes_parts = self._takes_parts or bool(self.image_token)

    def _find_image_token(self) -> str:
        """What the template writes for a picture among parts; "" where it knows none."""
        a, b = secrets.token_hex(8), secrets.token_hex(8)
        text = {"type": "text", "text": b}
        found = ""
        try:
            both = self._render(
                [{"role": "user", "content": [{"type": "text", "text": a}, {"type": "image"}, text]}]
            )
            found = both.partition(a)[2].partition(b)[0]
            if not found.strip() or a in found:  # a template that writes pictures first, wherever they are
                with_image = self._render([{"role": "user", "content": [{"type": "image"}, text]}])
                without = self._render([{"role": "user", "content": [text]}])
                n = next((i for i, (x, y) in enumerate(zip(with_image, without, strict=False)) if x != y), 0)
                found = with_image[n:].partition(b)[0]
        except InvalidArgumentError:
            return ""
        if "'type'" in found:  # a template for plain texts, which shows the list as Python writes it
            return ""
        spelled = list(_SPECIAL.finditer(found))
        return found[spelled[0].start() : spelled[-1].end()] if spelled else found.strip()

    def _probe(self) -> bool:
        """Whether the template wants contents as lists of parts: it shows those, and no plain text."""
        mark = secrets.token_hex(8)
        for content in (mark, [{"type": "text", "text": mark}]):
            try:
                if mark in self._render([{"role": "user", "content": content}]):
                    return isinstance(content, list)
            except InvalidArgumentError:
                continue
        return False

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings that belong to the form of the prompt."""
        return () if self.template else (PLAIN_STOP,)

    def build(self, turns: Sequence[Turn]) -> list[Segment]:
        """The whole conversation up to where the model's next answer begins.

        Raises:
            InvalidArgumentError: the template refuses the conversation (for example a system prompt where it
                knows none) or leaves a text out.
        """
        return self._assemble(list(self._parts(turns)))

    def build_variants(self, turns: Sequence[Turn], texts: Sequence[str]) -> list[list[Segment]]:
        """`build` with each of these as the last turn's text; the template is rendered once."""
        parts = list(self._parts([*turns[:-1], replace(turns[-1], text="", tokens=None)]))
        last = max(i for i, part in enumerate(parts) if isinstance(part, _Written))
        return [self._assemble([*parts[:last], _Written(text), *parts[last + 1 :]]) for text in texts]

    def _assemble(self, parts: Sequence[str | _Written | Segment]) -> list[Segment]:
        segments: list[Segment] = []
        run: list[str | _Written] = []
        tokens: list[int] = []
        text_start = parts[0] if isinstance(parts[0], str) else ""
        if self.add_bos and self.bos >= 0 and not (self.bos_text and text_start.startswith(self.bos_text)):
            tokens.append(self.bos)

        def end_run() -> None:
            tokens.extend(self._tokens_of(tuple(run)))
            run.clear()

        def end_text() -> None:
            end_run()
            if tokens:
                segments.append(TextSegment(tuple(tokens)))
                tokens.clear()

        for part in parts:
            if isinstance(part, str | _Written):
                run.append(part)
            elif isinstance(part, TextSegment):
                end_run()
                tokens.extend(part.tokens)
            else:
                end_text()
                segments.append(part)
        end_text()
        return segments

    def _parts(self, turns: Sequence[Turn]) -> Iterator[str | _Written | Segment]:
        """The rendered conversation in order, with the turns in the placeholders' places."""
        nonce = secrets.token_hex(8)
        marks = [f"[[{nonce}:{i}]]" for i in range(len(turns))]
        placed = self._takes_parts and bool(self.image_token)  # the template places the pictures
        rendered = self._render(
            [
                {"role": turn.role, "content": self._content(mark, len(turn.images) if placed else 0)}
                for turn, mark in zip(turns, marks, strict=True)
            ]
        )
        images = iter([image for turn in turns for image in turn.images]) if placed else iter(())
        if placed:
            self._check_places(rendered, sum(len(turn.images) for turn in turns))
        for turn, mark in zip(turns, marks, strict=True):
            before, found, rest = rendered.partition(mark)
            if not found or mark in rest:
                fault = "leaves out" if not found else "repeats"
                raise InvalidArgumentError(
                    f"{self.origin}: its chat template {fault} the text of a {turn.role} turn"
                )
            yield from self._with_images(before, images)
            for image in () if placed else turn.images:
                yield self.image_prefix
                yield from _pieces(image)
                yield self.image_suffix
            yield TextSegment(turn.tokens) if turn.tokens is not None else _Written(turn.text)
            rendered = rest
        yield from self._with_images(rendered, images)

    def _content(self, mark: str, n_images: int) -> str | list[dict[str, str]]:
        if not self._takes_parts:
            return mark
        return [*({"type": "image"} for _ in range(n_images)), {"type": "text", "text": mark}]

    def _check_places(self, rendered: str, n_images: int) -> None:
        found = rendered.count(self.image_token)
        if n_images and found != n_images:
            raise InvalidArgumentError(
                f"{self.origin}: its chat template writes {self.image_token!r} {found} times for {n_images} "
                "pictures"
            )

    def _with_images(self, text: str, images: Iterator[Any]) -> Iterator[str | Segment]:
        """What the template wrote, with pictures in the places of its image tokens."""
        pieces = text.split(self.image_token) if self.image_token else [text]
        yield pieces[0]
        for piece in pieces[1:]:
            image = next(images, None)
            if image is None:  # only what the template wrote
                yield self.image_token
            else:
                yield from _pieces(image)
            yield piece

    def _tokens_of(self, run: tuple[str | _Written, ...]) -> tuple[int, ...]:
        """Tokens of adjacent texts, remembered: of the next prompt of a conversation only the end is new."""
        found = self._runs.pop(run, None)
        if found is None:
            found = tuple(self._tokenize_run(run))
        self._runs[run] = found  # the latest is the last
        if len(self._runs) > _MAX_RUNS:
            del self._runs[next(iter(self._runs))]
        return found

    def _tokenize_run(self, run: Sequence[str | _Written]) -> list[int]:
        """Tokens of adjacent texts.

        They are tokenised as one text, as in training, unless a written text spells a special token: then
        piece by piece, with the written ones taken literally.
        """
        if all(isinstance(part, str) or self._is_plain(part.text) for part in run):
            return self.tokenize("".join(p if isinstance(p, str) else p.text for p in run), special=True)
        tokens: list[int] = []
        for part in run:
            text, special = (part, True) if isinstance(part, str) else (part.text, False)
            tokens += self.tokenize(text, special=special)
        return tokens

    def _is_plain(self, text: str) -> bool:
        return self.tokenize(text, special=True) == self.tokenize(text, special=False)


def _pieces(image: Picture) -> Iterator[Segment]:
    """A picture's tokens and views."""
    for piece in image.layout:
        if isinstance(piece, Marker):
            yield TextSegment(piece.tokens)
        else:
            yield ImageSegment(image, piece)
