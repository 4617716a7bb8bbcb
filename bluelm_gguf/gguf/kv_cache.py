"""The KV cache: what its values can be stored as, and how large it is."""

from __future__ import annotations

from ..errors import InvalidArgumentError
from .head import GGML_TYPES, GgufHead

_NAMES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_SIZES = {name.lower(): (block, n_bytes) for name, block, n_bytes in GGML_TYPES.values()}
BLOCKS = {name: _SIZES[name] for name in _NAMES}
"""The types by llama.cpp's names: values per block, bytes per block."""
PADDING = 256  # llama.cpp rounds the number of cells up to a multiple of this


def choose_types(head: GgufHead, type_k: str | None, type_v: str | None) -> tuple[str, str]:
    """The types of keys and values; None takes the default (docs/memory.md).

    Raises:
        InvalidArgumentError: no such type, or one that this model's heads cannot be cut into.
    """
    sizes = head_sizes(head)
    chosen = []
    for i, (name, given) in enumerate((("type_k", type_k), ("type_v", type_v))):
        kind = given or DEFAULT_TYPES[i]
        if kind not in BLOCKS:
            raise InvalidArgumentError(f"{name} is {kind!r}; there are {', '.join(BLOCKS)}")
        size, block = sizes[i] if sizes else None, BLOCKS[kind][0]
        if size is not None and size % block:
            if given is not None:
                raise InvalidArgumentError(
                    f"{name} {kind} stores blocks of {block} values, but the heads of {head.path} have "
                    f"{size}: use f16"
                )
            kind = "f16"
        chosen.append(kind)
    return chosen[0], chosen[1]


DEFAULT_TYPES = ("f16", "f16")


def is_quantised(kind: str) -> bool:
    """Whether values share a scale in blocks; values (not keys) of such a type need flash attention."""
    return BLOCKS[kind][0] > 1


def head_sizes(head: GgufHead) -> tuple[int, int] | None:
    """Values per head of keys and of values; None where the file does not tell."""
    n_embd, n_head = (head.of_architecture(key) for key in ("embedding_length", "attention.head_count"))
    if not (isinstance(n_embd, int) and isinstance(n_head, int) and n_head > 0):
        return None
    key = head.of_architecture("attention.key_length", n_embd // n_head)
    value = head.of_architecture("attention.value_length", n_embd // n_head)
    return (key, value) if isinstance(key, int) and isinstance(value, int) else None


def kv_bytes(head: GgufHead, n_ctx: int, type_k: str = "f16", type_v: str = "f16") -> int | None:
    """Size of a KV cache; None where the head does not tell (recurrent states, sliding windows)."""
    keys = ("block_count", "attention.head_count", "attention.head_count_kv")
    n_layer, n_head, n_kv = (head.of_architecture(key) for key in keys)
    n_kv = n_head if n_kv is None else n_kv
    sizes = head_sizes(head)
    if head.of_architecture("attention.sliding_window") or sizes is None:
        return None
    if not all(isinstance(n, int) and n > 0 for n in (n_layer, n_kv)):
        return None
    n_cells = -(-n_ctx // PADDING) * PADDING
    row_bytes = 0
    for size, kind in zip(sizes, (type_k, type_v), strict=True):
        block, n_bytes = BLOCKS[kind]
        row_bytes += n_kv * size // block * n_bytes
    return int(n_cells * n_layer * row_bytes)
