"""How much memory a model needs, estimated from the heads of its files, and what it really takes.

Counted are the weights, the KV cache, what the encoder and the prefill compute with, the vocabulary, a
picture's embeddings, and the program itself. Not counted are a picture's own pixels, and what only
loading takes: pages of a matrix that is being packed are given back right after it (docs/memory.md).

tests/gguf/test_memory.py compares the estimate with what a process really takes.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import InvalidArgumentError
from .head import GgufHead, LongArray
from .info import MmprojInfo, describe_head, size
from .kv_cache import choose_types, kv_bytes

FREE_VISION = ("auto", "always", "never")
DEFAULT_N_CTX = 4096
PROGRAM_BYTES = 60 << 20  # Python, numpy, Pillow, llama.cpp and libbluelm
TOKEN_BYTES = 450  # of the vocabulary, per token: text, id, merges


@dataclass(frozen=True)
class MemoryNeed:
    """An estimate in bytes.

    Attributes:
        n_ctx: tokens of context; 0 without an LLM.
        llm_weights, vision_weights: of the two files.
        kv_cache: of all n_ctx tokens; None where the file does not tell.
        working: buffers of the encoder and the prefill, vocabulary, a picture's embeddings.
        program: everything that is there without a model.
    """

    n_ctx: int
    llm_weights: int
    vision_weights: int
    kv_cache: int | None
    working: int
    program: int = PROGRAM_BYTES

    @property
    def weights(self) -> int:
        """Of both files."""
        return self.llm_weights + self.vision_weights

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + (self.kv_cache or 0) + self.working + self.program

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "weights": self.weights, "total": self.total}

    def fits(self, available: int | None) -> bool:
        """Whether that many free bytes are enough; the program itself is there already. None: unknown."""
        return available is None or self.total - self.program <= available

    def warning(self, available: int) -> str:
        """One line on what does not fit."""
        advice = f", or a context below {self.n_ctx} tokens" if self.kv_cache else ""
        return (
            f"about {size(self.total - self.program)} of memory are needed and {size(available)} are free: "
            f"expect it to be slow, or to be stopped by the system (take a smaller model{advice})"
        )


@dataclass(frozen=True)
class MemoryAccount:
    """What is in memory, in bytes: `Model.memory`.

    Attributes:
        llm_weights: tensors of the language model.
        vision_weights: tensors of the vision file; 0 while they are not in memory.
        kv_cache: of the whole context, filled or not; None where it cannot be told.
        buffers: what the encoder and the prefill compute with, estimated from the files' heads.
        resident: of the whole process now; None where the system does not tell.
        peak: the most it ever was.
    """

    llm_weights: int
    vision_weights: int
    kv_cache: int | None
    buffers: int
    resident: int | None
    peak: int | None

    def as_dict(self) -> dict[str, int | None]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        def known(n: int | None) -> str:
            return "unknown" if n is None else size(n)

        return (
            f"memory: weights {size(self.llm_weights)} + {size(self.vision_weights)} vision, "
            f"KV cache {known(self.kv_cache)}, buffers {size(self.buffers)}, process {known(self.resident)}, "
            f"at most {known(self.peak)}"
        )


def estimate(
    llm: GgufHead | None,
    mmproj: GgufHead | None = None,
    *,
    n_ctx: int | None = None,
    chunk: int = 128,
    batch: int = 4,
    type_k: str | None = None,
    type_v: str | None = None,
) -> MemoryNeed:
    """Estimates what a loaded model takes at its fullest.

    Args:
        llm: head of the language model's file.
        mmproj: head of the vision file.
        n_ctx: tokens of context; None: as `Model` chooses.
        chunk: tokens per step of the prefill.
        batch: tiles per run of the encoder.
        type_k, type_v: of the KV cache; None: the default.

    Raises:
        InvalidArgumentError: types that this model's KV cache cannot have.
    """
    working = 0
    kv: int | None = 0
    if llm is None:
        n_ctx = 0
    else:
        if n_ctx is None:
            n_ctx = min(DEFAULT_N_CTX, _number(llm.of_architecture("context_length")) or DEFAULT_N_CTX)
        kv = kv_bytes(llm, n_ctx, *choose_types(llm, type_k, type_v))
        working += _llm_working_bytes(llm, chunk)
    if mmproj is not None:
        working += _vision_working_bytes(mmproj, batch)
    return MemoryNeed(n_ctx, _tensor_bytes(llm), _tensor_bytes(mmproj), kv, working)


@dataclass(frozen=True)
class Fitting:
    """How a model is loaded so that it fits.

    Attributes:
        need: what it takes then.
        frees_vision: whether the vision weights leave memory after each picture.
        type_k, type_v: of the KV cache.
    """

    need: MemoryNeed
    frees_vision: bool
    type_k: str | None
    type_v: str | None


def fit(
    llm: GgufHead,
    mmproj: GgufHead | None,
    *,
    available: int | None,
    free_vision: str = "auto",
    n_ctx: int | None = None,
    chunk: int = 128,
    batch: int = 4,
    type_k: str | None = None,
    type_v: str | None = None,
) -> Fitting:
    """Gives up speed for memory where memory is short: first vision weights that are not kept, which costs
    reading them for each picture; then keys and values of 8 bits, which cost a slower prefill.

    Args:
        llm, mmproj, n_ctx, chunk, batch: as for `estimate`.
        available: free bytes; None where nobody knows: nothing is given up then.
        free_vision: "auto", or what the user wants.
        type_k, type_v: what the user wants; None leaves the choice.
    """

    def need_of(k: str | None, v: str | None, frees: bool) -> MemoryNeed:
        need = estimate(llm, mmproj, n_ctx=n_ctx, chunk=chunk, batch=batch, type_k=k, type_v=v)
        return replace(need, vision_weights=0) if frees else need

    frees = free_vision == "always"
    need = need_of(type_k, type_v, frees)
    if not need.fits(available) and free_vision == "auto" and mmproj is not None:
        frees = True
        need = need_of(type_k, type_v, frees)
    if not need.fits(available) and type_k is None and type_v is None:
        with contextlib.suppress(InvalidArgumentError):  # heads that cannot be cut into blocks
            small = need_of("q8_0", "q8_0", frees)
            return Fitting(small, frees, "q8_0", "q8_0")
    return Fitting(need, frees, type_k, type_v)


def _tensor_bytes(head: GgufHead | None) -> int:
    return 0 if head is None else sum(tensor.n_bytes for tensor in head.tensors)


def _llm_working_bytes(head: GgufHead, chunk: int) -> int:
    """Activations of one chunk (about eight rows of the width and three of the FFN per token), logits of one
    token, and the vocabulary."""
    tokens = head.metadata.get("tokenizer.ggml.tokens")
    n_vocab = (
        tokens.length if isinstance(tokens, LongArray) else len(tokens) if isinstance(tokens, list) else 0
    )
    n_embd = _number(head.of_architecture("embedding_length"))
    n_ff = _number(head.of_architecture("feed_forward_length"))
    return 4 * chunk * (8 * n_embd + 3 * n_ff) + n_vocab * (TOKEN_BYTES + 4)


def _vision_working_bytes(head: GgufHead, batch: int) -> int:
    """Activations of one batch (about ten rows of the width and one of the FFN per patch, float32), and the
    embeddings of the largest picture; where its tiles are stitched, also those of all its views."""
    info = describe_head(head)
    numbers = (_number(getattr(info, key, 0)) for key in ("image_size", "patch_size", "n_embd", "n_ff"))
    image, patch, n_embd, n_ff = numbers
    n_patches = (image // patch) ** 2 if patch else 0
    most = _number(getattr(info, "max_tokens_per_image", 0))
    if isinstance(info, MmprojInfo) and info.assembly == "anyres":
        n_views = 1 + max((cols * rows for cols, rows in info.tiler["grids"]), default=0)
        most += n_views * _number(info.tokens_per_tile)
    return 4 * batch * n_patches * (10 * n_embd + n_ff) + 4 * most * _number(getattr(info, "n_embd_out", 0))


def _number(value: Any) -> int:
    """A whole number above 0, or 0; of a list (layers that differ) the largest."""
    if isinstance(value, list) and value and all(isinstance(n, int) for n in value):
        value = max(value)
    return value if isinstance(value, int) and value > 0 else 0


def memory_text(need: MemoryNeed) -> str:
    """An estimate in one line."""
    parts = [f"weights {size(need.weights)}"]
    if need.n_ctx:
        parts.append(f"KV cache {'unknown' if need.kv_cache is None else size(need.kv_cache)}")
    parts += [f"working {size(need.working)}", f"program {size(need.program)}"]
    at = f" with {need.n_ctx} tokens of context (-c)" if need.n_ctx else ""
    return f"about {size(need.total)}{at}: {', '.join(parts)}"
