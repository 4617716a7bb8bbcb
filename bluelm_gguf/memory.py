"""How much memory a model needs, estimated from the heads of its files.

Counted are the weights, the KV cache (F16, as `Model` asks for), what the encoder and the prefill compute
with, the vocabulary, a picture's embeddings, and the program itself. Not counted are a picture's own
pixels, and that an LLM's file stays mapped while llama.cpp holds some weights a second time in another
order (`shown_twice`): the system takes those pages back when memory runs short, but until then they are
part of the process's resident size.

tests/python/test_memory.py compares the estimate with what a process really takes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .gguf_file import GgufHead, LongArray
from .gguf_info import MmprojInfo, describe_head, size

DEFAULT_N_CTX = 4096
PROGRAM_BYTES = 60 << 20  # Python, numpy, Pillow, llama.cpp and libbluelm
TOKEN_BYTES = 450  # of the vocabulary, per token: text, id, merges
# What llama.cpp's CPU kernels keep in an order of their own; embeddings are looked up and stay as they are.
REPACKED = ("Q4_0", "Q4_K", "IQ4_NL", "Q2_K")


@dataclass(frozen=True)
class MemoryNeed:
    """An estimate in bytes.

    Attributes:
        n_ctx: tokens of context; 0 without an LLM.
        weights: of all files.
        kv_cache: of all n_ctx tokens; None where the file does not tell.
        working: buffers of the encoder and the prefill, vocabulary, a picture's embeddings.
        program: everything that is there without a model.
        shown_twice: weights that the resident size counts twice.
    """

    n_ctx: int
    weights: int
    kv_cache: int | None
    working: int
    program: int = PROGRAM_BYTES
    shown_twice: int = 0

    @property
    def total(self) -> int:
        """All of it, without `shown_twice`."""
        return self.weights + (self.kv_cache or 0) + self.working + self.program

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "total": self.total}


def estimate(
    llm: GgufHead | None,
    mmproj: GgufHead | None = None,
    *,
    n_ctx: int | None = None,
    chunk: int = 128,
    batch: int = 4,
) -> MemoryNeed:
    """Estimates what a loaded model takes at its fullest.

    Args:
        llm: head of the language model's file.
        mmproj: head of the vision file.
        n_ctx: tokens of context; None: as `Model` chooses.
        chunk: tokens per step of the prefill.
        batch: tiles per run of the encoder.
    """
    heads = [head for head in (llm, mmproj) if head is not None]
    weights = sum(tensor.n_bytes for head in heads for tensor in head.tensors)
    working = 0
    kv: int | None = 0
    twice = 0
    if llm is None:
        n_ctx = 0
    else:
        from .llm import kv_bytes

        if n_ctx is None:
            n_ctx = min(DEFAULT_N_CTX, _number(llm.of_architecture("context_length")) or DEFAULT_N_CTX)
        kv = kv_bytes(llm, n_ctx)
        working += _llm_working_bytes(llm, chunk)
        twice = sum(t.n_bytes for t in llm.tensors if t.type in REPACKED and _is_multiplied(t.name, t.shape))
    if mmproj is not None:
        working += _vision_working_bytes(mmproj, batch)
    return MemoryNeed(n_ctx, weights, kv, working, shown_twice=twice)


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


def _is_multiplied(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and not name.startswith("token_embd")


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
