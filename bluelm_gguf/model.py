"""A model that answers questions about pictures.

from bluelm_gguf import Model

with Model("llm-q4_0.gguf", mmproj="mmproj-q8_0.gguf") as model:
    print(model.generate("What is this?", images=["cat.jpg"]).text)
"""

from __future__ import annotations

import atexit
import contextlib
import os
import warnings
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .chat.answer import ReplyStream
from .chat.chat import Chat
from .chat.engine import Engine
from .chat.history import ChatState
from .chat.request import AnswerOptions, Question, Request, as_list
from .chat.results import Reply
from .errors import InvalidArgumentError, ModelFileError, check_range
from .gguf.kinds import check_llm_file
from .gguf.memory import FREE_VISION, MemoryAccount, fit
from .gguf.pair import read_pair
from .gguf.projector import VISION_WAYS, least_batch, way_of
from .hub.names import is_path
from .hub.resolve import files_of
from .llm.context_full import Policy
from .llm.language_model import LanguageModel
from .llm.prompt import PromptBuilder, Turn
from .native.machine import available_memory, default_threads, peak_memory, resident_memory
from .pictures.cache import EmbeddingCache, open_cache
from .pictures.encoded import EncodedImage
from .pictures.encoders import Vision
from .pictures.mtmd_vision import MtmdVision
from .pictures.planner import TilerOverrides
from .pictures.vision import VisionEncoder
from .progress import ProgressFn

if TYPE_CHECKING:
    from typing_extensions import Unpack

OnProgress = ProgressFn


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
        llm: Path of the LLM's GGUF, or a name (docs/catalogue.md), which brings its mmproj along; see
            `from_pretrained`. None, without an mmproj: the embedded demo pair.
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
        vision: Which encoder pictures run on: "own", "mtmd" (llama.cpp's libmtmd), or "auto": bluelm-gguf's
            own where it knows the projector, else libmtmd. See docs/models.md.
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
        vision: str = "auto",
        cache: bool | str | Path | EmbeddingCache | None = None,
        verbose: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        check_range("n_ctx", n_ctx, 1, 2**31 - 1)
        check_range("n_batch", n_batch, 1, 2**20)
        check_range("n_threads", n_threads, 1, 512)
        check_range("chunk", chunk, 1, n_batch)
        check_range("batch", batch, 1, 17)
        if free_vision not in FREE_VISION:
            raise InvalidArgumentError(
                f"free_vision is {free_vision!r}; it must be one of {', '.join(FREE_VISION)}"
            )
        if vision not in VISION_WAYS:
            raise InvalidArgumentError(f"vision is {vision!r}; it must be one of {', '.join(VISION_WAYS)}")
        embedding_cache = open_cache(cache)
        if llm is not None and not is_path(llm):
            llm, mmproj = files_of(str(llm), mmproj, on_progress=on_progress)
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
        way = way_of(mmproj_head, vision) if mmproj_head is not None else None
        at_once = least_batch(mmproj_head) if mmproj_head is not None else 0
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
        with contextlib.ExitStack() as stack:
            language_model = LanguageModel(
                llm,
                n_ctx=n_ctx,
                n_batch=max(min(chunk, n_batch), at_once),
                n_threads=self.n_threads,
                type_k=fitting.type_k,
                type_v=fitting.type_v,
                verbose=verbose,
                head=llm_head,
                on_progress=on_progress,
            )
            stack.callback(language_model.close)
            encoder: Vision | None = None
            if way == "mtmd":
                assert mmproj is not None
                encoder = MtmdVision(
                    mmproj, language_model, n_threads=self.n_threads, head=mmproj_head, cache=embedding_cache,
                    free_weights=fitting.frees_vision, verbose=verbose,
                )  # fmt: skip
            elif mmproj is not None:
                encoder = VisionEncoder(
                    mmproj, n_threads=self.n_threads, batch=batch, pipeline=pipeline, head=mmproj_head,
                    cache=embedding_cache, free_weights=fitting.frees_vision,
                )  # fmt: skip
            if encoder is not None:
                stack.callback(encoder.close)
            prompts = _prompts(language_model, encoder)
            self._engine = Engine(language_model, encoder, prompts, chunk=chunk)
            stack.pop_all()
        _open_models.add(self)
        if n_ctx is not None and n_ctx > language_model.n_ctx_train:
            warnings.warn(
                f"{llm} was trained with a context of {language_model.n_ctx_train} tokens; beyond it answers "
                f"may be nonsense (n_ctx is {n_ctx})",
                stacklevel=2,
            )

    @classmethod
    def from_pretrained(
        cls, name: str, *, download: bool | None = None, update: bool = False, **options: Any
    ) -> Model:
        """Opens a model by its name: of the catalogue, owner/repo[:quant], or Ollama's.

        Args:
            name: What is on this disk already, in whichever program's store, is used where it lies.
            download: Whether the hub may be asked for what is not: True for any size, None up to a gigabyte,
                False not at all.
            update: Ask the hub for what is newer.
            options: As for `Model`; on_progress is also called with ("download", bytes done, bytes in all).

        Raises:
            HubError: the name leads nowhere, or what it leads to may not or could not be downloaded.
            As `Model`.
        """
        mmproj = options.pop("mmproj", None)
        llm, mmproj = files_of(
            name, mmproj, download=download, update=update, on_progress=options.get("on_progress")
        )
        return cls(llm, mmproj=mmproj, **options)

    # --------------------------------------------------------------------------------------------- properties

    @property
    def llm(self) -> LanguageModel:
        """The language model; raises InvalidArgumentError after close()."""
        return self._engine.llm

    @property
    def vision(self) -> Vision | None:
        """The vision encoder, or None for a model that takes text only."""
        return self._engine.vision

    @property
    def engine(self) -> Engine:
        """What answers, chats and background work share: language model, KV cache, prompts, lock."""
        return self._engine

    @property
    def n_ctx(self) -> int:
        """Tokens the KV cache holds."""
        return self._engine.n_ctx

    @property
    def n_embd(self) -> int:
        """Width of the LLM's embeddings."""
        return self._engine.n_embd

    @property
    def memory(self) -> MemoryAccount:
        """What is in memory now, and the most this process ever had."""
        llm, vision = self.llm, self.vision
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
        return self._engine.prompts.template is not None

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
        engine = self._engine
        if isinstance(image, EncodedImage):
            return engine.check_encoded(image)
        with engine.lock.held() as interrupt:

            def report(stage: str, done: int, total: int) -> bool:
                if interrupt.pending:  # while the picture was read
                    return False
                return on_progress is None or on_progress(stage, done, total) is not False

            return engine.embed(engine.prepare(image, tiler=tiler), report)

    def generate(
        self,
        prompt: str,
        *,
        images: Iterable[Any] = (),
        system: str | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Reply:
        """Answers a question; takes what `stream` takes.

        Returns:
            The whole answer.

        Raises:
            Cancelled: on_progress returned False.
        """
        with self.stream(prompt, images=images, system=system, **options) as stream:
            return stream.complete()

    def stream(
        self,
        prompt: str,
        *,
        images: Iterable[Any] = (),
        system: str | None = None,
        **options: Unpack[AnswerOptions],
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
        return self._ask(Request.of(Question(turns, as_list(images)), reuse=False, **options))

    def chat(self, *, system: str | None = None, context_full: Policy = "drop") -> Chat:
        """A conversation with memory; see `Chat`."""
        return Chat(self._engine, ChatState(system=system, context_full=context_full))

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

        return Chat(self._engine, load(self._engine, path))

    def stream_turns(
        self,
        turns: Sequence[Turn],
        *,
        images: Sequence[Any] = (),
        reuse: bool = False,
        **options: Unpack[AnswerOptions],
    ) -> ReplyStream:
        """Answers the last of several turns.

        Args:
            turns: The conversation; its pictures are encoded.
            images: Further pictures of the last turn, encoded or not.
            reuse: Keep what the KV cache already holds of this prompt. Otherwise it is computed anew, which
                makes the answer independent of what was asked before, to the last bit.
            options: As for `stream`.
        """
        return self._ask(Request.of(Question(turns, images), reuse=reuse, **options))

    def _ask(self, request: Request) -> ReplyStream:
        self._engine.check_open()
        return ReplyStream(self._engine, request)

    def close(self) -> None:
        """Frees all memory; what is being computed is cancelled, later calls raise InvalidArgumentError."""
        self._engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_engine") and not self._engine.is_closed:
            self.close()


def _prompts(llm: LanguageModel, vision: Vision | None) -> PromptBuilder:
    template = llm.head.metadata.get("tokenizer.chat_template")
    prefix, suffix = vision.prompt if vision is not None else ("", "")
    return PromptBuilder(
        tokenize=llm.tokenize,
        template=template if isinstance(template, str) and template.strip() else None,
        bos=llm.bos,
        bos_text=llm.bos_text,
        eos_text=llm.eos_text,
        add_bos=llm.add_bos,
        image_prefix=prefix,
        image_suffix=suffix,
        image_token=vision.image_token if vision is not None else "",
        finds_image_token=isinstance(vision, MtmdVision),
        origin=str(llm.path),
    )


_open_models: weakref.WeakSet[Model] = weakref.WeakSet()


@atexit.register
def _close_models() -> None:
    """Before the interpreter ends: no thread may be inside native code when its libraries are taken down."""
    for model in list(_open_models):
        model.close()
