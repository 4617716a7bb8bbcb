"""A model that answers questions about pictures.

from bluelm_gguf import Model

with Model("llm-q4_0.gguf", mmproj="mmproj-q8_0.gguf") as model:
    print(model.generate("What is this?", images=["cat.jpg"]).text)
"""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .chat.answer import Question, ReplyStream, Request
from .chat.lock import OwnedLock
from .chat.results import Reply
from .errors import InvalidArgumentError, ModelFileError
from .gguf.head import GgufHead
from .gguf.kinds import check_llm_file
from .gguf.memory import FREE_VISION, MemoryAccount, fit
from .gguf.pair import read_pair
from .llm.context_full import Policy
from .llm.language_model import LanguageModel
from .llm.ledger import Ledger
from .llm.prompt import PromptBuilder, Turn
from .llm.sampling import Sampling
from .native.machine import available_memory, default_threads, peak_memory, resident_memory
from .pictures.cache import EmbeddingCache, open_cache
from .pictures.vision import EncodedImage, PreparedImage, TilerOverrides, VisionEncoder
from .progress import ProgressFn

if TYPE_CHECKING:
    from .chat.chat import Chat

OnProgress = ProgressFn
"""`on_progress(stage, done, total)`: stage "load" counts percent, "encode" tiles, "prefill" tokens. Returning
False cancels."""


def demo_paths() -> tuple[Path, Path]:
    """The embedded demo model: LLM and mmproj.

    Raises:
        ModelFileError: this installation came without it.
    """
    directory = Path(__file__).parent / "demo" / "data"
    pair = directory / "bluelm-demo-Q8_0.gguf", directory / "mmproj-bluelm-demo-Q8_0.gguf"
    for path in pair:
        if not path.is_file():
            raise ModelFileError(f"{path}: the demo model is not part of this installation; give a model")
    return pair


class Model:
    """A language model, a vision encoder if an mmproj is given, and one KV cache.

    Calls from several threads wait for each other. Close it, or use it as a context manager, to free its
    memory.

    Args:
        llm: Path of the LLM's GGUF. None, without an mmproj: the embedded demo pair.
        mmproj: Path of the vision file; without it the model takes text only.
        n_ctx: Tokens of context. None: as many as the model was trained with, at most 4096.
        n_batch: Most tokens in one llama_decode.
        n_threads: None: the physical cores this process may use.
        chunk: Tokens per step of the prefill, 1..n_batch (paper section 3.4: 128). What was prefilled
            when it is cancelled stays in the KV cache by whole steps.
        batch: Tiles per run of the vision encoder, 1..17 (paper section 3.3: 4).
        pipeline: Whether the patch embedding of the next tiles overlaps the encoder's blocks for these: worth
            it where there is a core to spare, so off unless asked for.
        type_k, type_v: What the KV cache stores keys and values as, by llama.cpp's names: f16, q8_0, ...
            None: f16, or q8_0 where everything together would not fit in free memory (docs/memory.md).
        free_vision: Whether the vision weights leave memory after each picture and are read again for the
            next: "always", "never", or "auto": where everything together would not fit in free memory.
        cache: Where encoded pictures are kept on disk: True: the platform's place; a directory; an
            `EmbeddingCache`. None: nowhere. See docs/cache.md.
        verbose: Show llama.cpp's own log on stderr.
        on_progress: Called with ("load", percent, 100) while the LLM is loaded; returning False cancels.

    Raises:
        ModelFileError, ModelFormatError, UnsupportedModelError: a file is missing, broken or of the wrong
            kind.
        MismatchError: the two files do not belong together.
        OutOfMemoryError, InvalidArgumentError, Cancelled.
    """

    def __init__(
        self,
        llm: str | Path | None = None,
        *,
        mmproj: str | Path | None = None,
        n_ctx: int | None = None,
        n_batch: int = 512,
        n_threads: int | None = None,
        chunk: int = 128,
        batch: int = 4,
        pipeline: bool = False,
        type_k: str | None = None,
        type_v: str | None = None,
        free_vision: str = "auto",
        cache: bool | str | Path | EmbeddingCache | None = None,
        verbose: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._llm: LanguageModel | None = None
        self._vision: VisionEncoder | None = None
        self._lock = OwnedLock()
        self._active: weakref.ref[ReplyStream] | None = None
        self._chats: weakref.WeakSet[Chat] = weakref.WeakSet()
        _check_range("n_ctx", n_ctx, 1, 2**31 - 1)
        _check_range("n_batch", n_batch, 1, 2**20)
        _check_range("n_threads", n_threads, 1, 512)
        _check_range("chunk", chunk, 1, n_batch)
        _check_range("batch", batch, 1, 17)
        if free_vision not in FREE_VISION:
            raise InvalidArgumentError(
                f"free_vision is {free_vision!r}; it must be one of {', '.join(FREE_VISION)}"
            )
        embedding_cache = open_cache(cache)
        self.is_demo = llm is None and mmproj is None
        if self.is_demo:
            llm, mmproj = demo_paths()
        elif llm is None:
            raise InvalidArgumentError(
                f"{mmproj}: a vision file alone cannot answer; give the language model too"
            )
        assert llm is not None
        mmproj_head = None
        if mmproj is None:
            llm_head = check_llm_file(llm)
        else:
            llm_head, mmproj_head = read_pair(llm, mmproj)
        self.n_threads = n_threads or default_threads()
        self.chunk = chunk
        available = available_memory()
        fitting = fit(
            llm_head, mmproj_head, available=available, free_vision=free_vision, n_ctx=n_ctx, chunk=chunk,
            batch=batch, type_k=type_k, type_v=type_v,
        )  # fmt: skip
        need = fitting.need
        self._buffer_bytes = need.working
        # A KV cache that cannot be had is an error, see LanguageModel.
        if available is not None and (need.kv_cache or 0) <= available and not need.fits(available):
            warnings.warn(need.warning(available), stacklevel=2)
        _open_models.add(self)
        try:
            self._llm = LanguageModel(
                llm,
                n_ctx=n_ctx,
                n_batch=min(chunk, n_batch),
                n_threads=self.n_threads,
                type_k=fitting.type_k,
                type_v=fitting.type_v,
                verbose=verbose,
                head=llm_head,
                on_progress=on_progress,
            )
            self._ledger = Ledger(self._llm, chunk)
            if mmproj is not None:
                self._vision = VisionEncoder(
                    mmproj, n_threads=self.n_threads, batch=batch, pipeline=pipeline, head=mmproj_head,
                    cache=embedding_cache, free_weights=fitting.frees_vision,
                )  # fmt: skip
            self._prompts = self._make_prompts(self._llm, llm_head)
        except BaseException:
            self.close()
            raise
        if n_ctx is not None and n_ctx > self._llm.n_ctx_train:
            warnings.warn(
                f"{llm} was trained with a context of {self._llm.n_ctx_train} tokens; beyond it answers may "
                f"be nonsense (n_ctx is {n_ctx})",
                stacklevel=2,
            )

    def _make_prompts(self, llm: LanguageModel, head: GgufHead) -> PromptBuilder:
        template = head.metadata.get("tokenizer.chat_template")
        prefix, suffix = self._vision.prompt if self._vision is not None else ("", "")
        image_token = self._vision.image_token if self._vision is not None else ""
        return PromptBuilder(
            tokenize=llm.tokenize,
            template=template if isinstance(template, str) and template.strip() else None,
            bos=llm.bos,
            bos_text=llm.bos_text,
            eos_text=llm.eos_text,
            add_bos=llm.add_bos,
            image_prefix=prefix,
            image_suffix=suffix,
            image_token=image_token,
            origin=str(llm.path),
        )

    # --------------------------------------------------------------------------------------------- properties

    @property
    def llm(self) -> LanguageModel:
        """The language model; raises InvalidArgumentError after close()."""
        if self._llm is None:
            raise InvalidArgumentError("the model is closed")
        return self._llm

    @property
    def vision(self) -> VisionEncoder | None:
        """The vision encoder, or None for a model that takes text only."""
        self.llm  # noqa: B018  (raises if closed)
        return self._vision

    @property
    def n_ctx(self) -> int:
        """Tokens the KV cache holds."""
        return self.llm.n_ctx

    @property
    def n_embd(self) -> int:
        """Width of the LLM's embeddings."""
        return self.llm.n_embd

    @property
    def memory(self) -> MemoryAccount:
        """What is in memory now, and the most this process ever had."""
        llm, vision = self.llm, self._vision
        return MemoryAccount(
            llm_weights=llm.weight_bytes,
            vision_weights=vision.info.weight_bytes if vision is not None and vision.is_loaded else 0,
            kv_cache=llm.kv_bytes,
            buffers=self._buffer_bytes,
            resident=resident_memory(),
            peak=peak_memory(),
        )

    @property
    def has_chat_template(self) -> bool:
        """Whether the LLM's file brings a chat template; without one, prompts are written plainly."""
        return self._prompts.template is not None

    # ------------------------------------------------------------------------------------------------- calls

    def encode(
        self,
        image: Any,
        *,
        tiler: TilerOverrides = None,
        on_progress: OnProgress | None = None,
    ) -> EncodedImage:
        """Encodes a picture once, for use in several questions.

        Args:
            image: Path, bytes, PIL image or uint8 array [H, W, 3]; an EncodedImage comes back as it is.
            tiler: Departures from the tiler that the mmproj asks for, see `VisionEncoder.encode`.
            on_progress: Called with ("encode", tiles done, tiles in all).

        Raises:
            ImageError: not a usable picture.
            InvalidArgumentError: the model has no mmproj; an encoded image of another model's width.
            Cancelled: on_progress returned False.
        """
        if isinstance(image, EncodedImage):
            return self._check_encoded(image)
        with self._lock.held() as interrupt:

            def report(stage: str, done: int, total: int) -> bool:
                if interrupt.pending:  # while the picture was read
                    return False
                return on_progress is None or on_progress(stage, done, total) is not False

            return self._embed(self._need_vision().prepare(image, tiler=tiler), report)

    def generate(self, prompt: str, **options: Any) -> Reply:
        """Answers a question; takes what `stream` takes.

        Returns:
            The whole answer.

        Raises:
            Cancelled: on_progress returned False.
        """
        with self.stream(prompt, **options) as stream:
            for _ in stream:
                pass
        assert stream.reply is not None
        return stream.reply

    def stream(
        self,
        prompt: str,
        *,
        images: Iterable[Any] = (),
        system: str | None = None,
        **options: Any,
    ) -> ReplyStream:
        """Answers a question piece by piece.

            for piece in model.stream("Read the sign.", images=["sign.png"]):
                print(piece, end="", flush=True)

        Args:
            prompt: The question.
            images: Pictures, in order: paths, bytes, PIL images, uint8 arrays [H, W, 3], or what `encode`
                returned.
            system: System prompt.
            options: How to answer:
                max_tokens: Most tokens of the answer (256); None: until the context is full.
                stop: Texts that end the answer and are not part of it.
                tiler: Departures from the mmproj's tiler for these pictures.
                on_progress: See `OnProgress`.
                temp, top_k, seed, json_schema, ...: Fields of `Sampling`. The default takes the likeliest
                    token.

        Returns:
            An iterator over pieces of text. When it is exhausted, its `reply` holds the Reply.

        Raises (while iterating):
            ImageError, InvalidArgumentError, ContextFullError, Cancelled, DecodeError.
        """
        turns = [Turn("system", system)] if system else []
        turns.append(Turn("user", prompt))
        return self._stream(Question(turns, as_list(images)), reuse=False, **options)

    def chat(self, *, system: str | None = None, context_full: Policy = "drop") -> Chat:
        """A conversation with memory; see `Chat`."""
        from .chat.chat import Chat

        self.llm  # noqa: B018  (raises if closed)
        return Chat(self, system=system, context_full=context_full)

    def load_chat(self, path: str | os.PathLike[str]) -> Chat:
        """Continues a conversation that `Chat.save` wrote.

        Its KV state, if it has one and this model's cache can take it, replaces what the cache holds; with
        one that does not fit, a UserWarning says why, and it is computed again.

        Raises:
            ConversationError: the file is missing, damaged, or of another version.
            MismatchError: it was saved with another language model or vision file.
            ContextFullError: the conversation is longer than this model's context.
        """
        from .chat.saved_chat import load

        return load(self, path)

    def stream_turns(
        self, turns: Sequence[Turn], *, images: Sequence[Any] = (), reuse: bool = False, **options: Any
    ) -> ReplyStream:
        """Answers the last of several turns.

        Args:
            turns: The conversation; its pictures are encoded.
            images: Further pictures of the last turn, encoded or not.
            reuse: Keep what the KV cache already holds of this prompt. Otherwise it is computed anew, which
                makes the answer independent of what was asked before, to the last bit.
            options: As for `stream`.
        """
        return self._stream(Question(turns, images), reuse=reuse, **options)

    def _stream(
        self,
        question: Question,
        *,
        reuse: bool,
        max_tokens: int | None = 256,
        stop: Sequence[str] = (),
        tiler: TilerOverrides = None,
        on_progress: OnProgress | None = None,
        **sampling: Any,
    ) -> ReplyStream:
        """What `stream` and `Chat.stream` are made of."""
        if max_tokens is not None:
            _check_range("max_tokens", max_tokens, 1, 2**31 - 1)
        if isinstance(stop, str):
            stop = (stop,)
        chosen = Sampling(**sampling)
        chosen.validate()
        self.llm  # noqa: B018  (raises if closed)
        request = Request(
            question=question,
            sampling=chosen,
            max_tokens=max_tokens,
            stop=(*stop, *self._prompts.stop),
            tiler=tiler,
            on_progress=on_progress,
            reuse=reuse,
        )
        return ReplyStream(self, request)

    def close(self) -> None:
        """Frees all memory; what is being computed is cancelled, later calls raise InvalidArgumentError."""
        for chat in list(self._chats):
            chat.close()
        active = self._active() if self._active is not None else None
        if active is not None:
            active.close()
        with self._lock.held():
            if self._vision is not None:
                self._vision.close()
                self._vision = None
            if self._llm is not None:
                self._llm.close()
                self._llm = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_llm", None) is not None or getattr(self, "_vision", None) is not None:
            self.close()

    # ----------------------------------------------------------------------------------------------- innards

    def _need_vision(self) -> VisionEncoder:
        vision = self.vision
        if vision is None:
            raise InvalidArgumentError(
                f"{self.llm.path} was loaded without a vision file: pictures need an mmproj"
            )
        return vision

    def _embed(self, picture: PreparedImage, on_progress: OnProgress | None) -> EncodedImage:
        """The one way from a picture to its embeddings; the lock is held."""
        return self._need_vision().encode_prepared(picture, on_progress=on_progress)

    def _check_encoded(self, image: EncodedImage) -> EncodedImage:
        if image.embeddings.shape[1] != self.n_embd:
            raise InvalidArgumentError(
                f"the image was encoded to width {image.embeddings.shape[1]}, but {self.llm.path} needs "
                f"{self.n_embd}"
            )
        return image


_open_models: weakref.WeakSet[Model] = weakref.WeakSet()


@atexit.register
def _close_models() -> None:
    """Before the interpreter ends: no thread may be inside native code when its libraries are taken down."""
    for model in list(_open_models):
        model.close()


def as_list(images: Any) -> list[Any]:
    """The pictures of a call; one picture given without a list is meant as one."""
    if images is None:
        return []
    single = (str, bytes, bytearray, memoryview, Path, EncodedImage)
    if isinstance(images, single) or hasattr(images, "size") or hasattr(images, "read"):
        return [images]
    return list(images)


def _check_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise InvalidArgumentError(f"{name} is {value}; it must be from {low} to {high}")
