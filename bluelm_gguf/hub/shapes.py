"""Heads of files that are not here, from a model's shape, so that gguf.memory can compute what they need.

A shape lists matrices; the type that each is stored as follows llama.cpp's quantiser (src/llama-quant.cpp),
for the few types of files that the catalogue has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..gguf.head import GGML_TYPES, GgufHead, LongArray, TensorEntry

_SIZES = {name: (block, n_bytes) for name, block, n_bytes in GGML_TYPES.values()}
# Rows that cannot be cut into blocks of 256 (K-quants) or 32 take the next simpler type.
_FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0", "Q4_0": "F16", "Q5_0": "F16", "Q8_0": "F16"}


@dataclass(frozen=True)
class LlmShape:
    """A language model.

    Attributes:
        layers, width, heads, kv_heads, head_size, ffn, vocab, context: as the GGUF's keys of these meanings.
        tied: the output matrix is the embedding.
        attention_layers: that many of the layers attend and have a KV cache; the others are short
            convolutions (LFM2). None: all.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocab: int
    context: int
    tied: bool = True
    attention_layers: int | None = None


@dataclass(frozen=True)
class VisionShape:
    """A vision tower and its projector.

    Attributes:
        layers, width, heads, ffn: of the transformer.
        image: side of a view in pixels; patch: of a patch.
        tokens: that the language model gets for one view.
        projector: (rows, columns) of its matrices.
        file_type: F16 or Q8_0.
    """

    layers: int
    width: int
    heads: int
    ffn: int
    image: int
    patch: int
    tokens: int
    projector: tuple[tuple[int, int], ...]
    file_type: str = "F16"


def llm_head(shape: LlmShape, quant: str) -> GgufHead:
    """A head with the shape's keys and table of tensors; it has no file."""
    attending = shape.layers if shape.attention_layers is None else shape.attention_layers
    keys = {
        "block_count": attending,  # what has a KV cache
        "embedding_length": shape.width,
        "feed_forward_length": shape.ffn,
        "context_length": shape.context,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_size,
        "attention.value_length": shape.head_size,
    }
    metadata = {"general.architecture": "llama", "tokenizer.ggml.tokens": LongArray(shape.vocab)}
    return _head(metadata | {f"llama.{key}": n for key, n in keys.items()}, _llm_tensors(shape, quant))


def mmproj_head(shape: VisionShape) -> GgufHead:
    """The same for a vision file."""
    keys = {
        "image_size": shape.image,
        "patch_size": shape.patch,
        "embedding_length": shape.width,
        "feed_forward_length": shape.ffn,
        "block_count": shape.layers,
        "attention.head_count": shape.heads,
        "projection_dim": shape.projector[-1][0],
    }
    metadata = {"general.architecture": "clip"} | {f"clip.vision.{key}": n for key, n in keys.items()}
    return _head(metadata, _vision_tensors(shape))


def _head(metadata: Mapping[str, object], tensors: Iterator[TensorEntry]) -> GgufHead:
    table = tuple(tensors)
    return GgufHead(Path(), 3, sum(tensor.n_bytes for tensor in table), dict(metadata), table)


def _llm_tensors(shape: LlmShape, quant: str) -> Iterator[TensorEntry]:
    w, kv, n = shape.width, shape.kv_heads * shape.head_size, shape.layers
    q = shape.heads * shape.head_size
    usual, better = _types_of(quant)
    attending = n if shape.attention_layers is None else shape.attention_layers
    yield _tensor("token_embd.weight", (shape.vocab, w), better if shape.tied else usual)
    if not shape.tied:
        yield _tensor("output.weight", (shape.vocab, w), better)
    for i in range(n):
        more = better if quant == "Q4_K_M" and _has_more_bits(i, n) else usual
        yield _tensor(f"blk.{i}.norms", (2, w), "F32")
        if i < attending:
            yield _tensor(f"blk.{i}.attn_q.weight", (q, w), usual)
            yield _tensor(f"blk.{i}.attn_k.weight", (kv, w), usual)
            yield _tensor(f"blk.{i}.attn_v.weight", (kv, w), more)
            yield _tensor(f"blk.{i}.attn_output.weight", (w, q), usual)
        else:
            yield _tensor(f"blk.{i}.shortconv.in_proj.weight", (3 * w, w), usual)
            yield _tensor(f"blk.{i}.shortconv.out_proj.weight", (w, w), usual)
        yield _tensor(f"blk.{i}.ffn_gate.weight", (shape.ffn, w), usual)
        yield _tensor(f"blk.{i}.ffn_up.weight", (shape.ffn, w), usual)
        yield _tensor(f"blk.{i}.ffn_down.weight", (w, shape.ffn), more)


def _types_of(quant: str) -> tuple[str, str]:
    """Of most matrices, and of those that a quant treats better."""
    return {"Q4_K_M": ("Q4_K", "Q6_K"), "Q4_0": ("Q4_0", "Q6_K")}.get(quant, (quant, quant))


def _has_more_bits(i: int, n: int) -> bool:
    """The layers in which Q4_K_M stores values and the FFN's second matrix in six bits."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _vision_tensors(shape: VisionShape) -> Iterator[TensorEntry]:
    w, n_patches = shape.width, (shape.image // shape.patch) ** 2
    yield _tensor("v.patch_embd.weight", (w, 3 * shape.patch**2), "F16")
    yield _tensor("v.position_embd.weight", (n_patches, w), "F32")
    for i in range(shape.layers):
        yield _tensor(f"v.blk.{i}.norms_and_biases", (9, w), "F32")
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            yield _tensor(f"v.blk.{i}.{part}.weight", (w, w), shape.file_type)
        yield _tensor(f"v.blk.{i}.ffn_up.weight", (shape.ffn, w), shape.file_type)
        yield _tensor(f"v.blk.{i}.ffn_down.weight", (w, shape.ffn), shape.file_type)
    for i, matrix in enumerate(shape.projector):
        yield _tensor(f"mm.{i}.weight", matrix, shape.file_type)


def _tensor(name: str, shape: tuple[int, int], kind: str) -> TensorEntry:
    rows, columns = shape
    while columns % _SIZES[kind][0]:
        kind = _FALLBACK[kind]
    block, n_bytes = _SIZES[kind]
    return TensorEntry(name, shape, kind, 0, rows * columns // block * n_bytes)
