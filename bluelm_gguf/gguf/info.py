"""What a model file holds, for people and as JSON: `bluelm-gguf info`. Reads the head of the file only."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import BluelmError
from .head import GgufHead, LongArray, read_head
from .projector import projector_type, projector_width, way_of


@dataclass(frozen=True)
class TypeShare:
    """The tensors of one type."""

    type: str
    tensors: int
    bytes: int


@dataclass(frozen=True)
class FileInfo:
    """What both kinds of file have."""

    path: str
    kind: str
    """"llm" or "mmproj"."""
    name: str
    architecture: str
    file_bytes: int
    parameters: int
    tensors: int
    types: tuple[TypeShare, ...]
    """By type, the largest first."""
    pair_id: str | None
    license: str
    source: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) for people."""
        types = ", ".join(f"{t.type} {size(t.bytes)} in {t.tensors}" for t in self.types)
        rows = [
            ("name", self.name or "(none)"),
            ("kind", f"{_KINDS.get(self.kind, self.kind)}, architecture {self.architecture or '(none)'}"),
            ("file", f"{size(self.file_bytes)}, {self.tensors} tensors"),
            ("parameters", f"{self.parameters:,} ({count(self.parameters)})"),
            ("types", types or "(none)"),
        ]
        more = (("licence", self.license), ("source", self.source), ("pair id", self.pair_id))
        return rows + [(label, text) for label, text in more if text]


@dataclass(frozen=True)
class LlmInfo(FileInfo):
    """A language model."""

    n_ctx_train: int | None
    n_embd: int | None
    n_layer: int | None
    n_head: int | None
    n_head_kv: int | None
    n_ff: int | None
    n_vocab: int | None
    tokenizer: str
    pre_tokenizer: str
    chat_template: bool

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) for people."""
        heads = f"{_known(self.n_head)} heads"
        if self.n_head_kv is not None and self.n_head_kv != self.n_head:
            heads += f" ({self.n_head_kv} for keys and values)"
        pre = f", pre-tokenizer {self.pre_tokenizer}" if self.pre_tokenizer else ""
        return [
            *super().rows(),
            ("context", f"{_known(self.n_ctx_train)} tokens"),
            (
                "width",
                f"{_known(self.n_embd)}, {_known(self.n_layer)} layers, {heads}, FFN {_known(self.n_ff)}",
            ),
            ("tokenizer", f"{self.tokenizer or '(none)'}{pre}, {_known(self.n_vocab)} tokens"),
            ("template", "in the file" if self.chat_template else "none: prompts are written plainly"),
        ]


@dataclass(frozen=True)
class MmprojInfo(FileInfo):
    """A vision tower with downsampler and projector."""

    projector_type: str
    encoder: str
    """What runs it: "own" (bluelm-gguf), "mtmd" (llama.cpp's libmtmd), or why nothing does."""
    image_size: int | None
    patch_size: int | None
    n_embd: int | None
    n_layer: int | None
    n_head: int | None
    n_ff: int | None
    n_ff_unpadded: int | None
    downsample: int | None
    tokens_per_tile: int | None
    n_embd_out: int | None
    tiler: dict[str, Any]
    assembly: str
    max_tokens_per_image: int | None

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) for people."""
        return self._own_rows() if self.encoder == "own" else self._foreign_rows()

    def _foreign_rows(self) -> list[tuple[str, str]]:
        runs = "llama.cpp's libmtmd (--vision mtmd)" if self.encoder == "mtmd" else f"none: {self.encoder}"
        return [
            *super().rows(),
            ("picture", f"{_known(self.image_size)} pixels in patches of {_known(self.patch_size)}"),
            (
                "tower",
                f"{_known(self.n_layer)} layers, width {_known(self.n_embd)}, {_known(self.n_head)} heads, "
                f"FFN {_known(self.n_ff)}",
            ),
            ("projector", f"{self.projector_type or '(none)'}, width {_known(self.n_embd_out)}"),
            ("encoder", runs),
        ]

    def _own_rows(self) -> list[tuple[str, str]]:
        padded = f", stored as {self.n_ff}" if self.n_ff != self.n_ff_unpadded else ""
        grids = self.tiler.get("grids") or []
        most = max(grids, key=lambda g: (g[0] * g[1], g), default=None)
        thumbnail = self.tiler.get("thumbnail") or "none"
        alpha = self.tiler.get("alpha")
        relaxed = self.tiler.get("method") == "relaxed" and isinstance(alpha, float)
        return [
            *super().rows(),
            ("picture", f"tiles of {_known(self.image_size)} pixels in patches of {_known(self.patch_size)}"),
            (
                "encoder",
                f"{_known(self.n_layer)} layers, width {_known(self.n_embd)}, {_known(self.n_head)} heads, "
                f"FFN {_known(self.n_ff_unpadded)}{padded}",
            ),
            (
                "projector",
                f"{self.projector_type or '(none)'}, {_known(self.downsample)}x{_known(self.downsample)} "
                f"merge, {_known(self.tokens_per_tile)} tokens per tile, width {_known(self.n_embd_out)}",
            ),
            (
                "tiler",
                f"{self.tiler.get('method') or '?'}"
                + (f", alpha {alpha:g}" if relaxed else "")
                + f", {len(grids)} grids"
                + (f" up to {most[0]}:{most[1]}" if most else "")
                + f", thumbnail {thumbnail}, "
                + f"{self.tiler.get('resize') or '?'}, {self.tiler.get('fit') or '?'}",
            ),
            *([("assembly", "tiles stitched, padding cropped")] if self.assembly == "anyres" else []),
            ("at most", f"{_known(self.max_tokens_per_image)} tokens per picture"),
        ]


_KINDS = {"llm": "language model", "mmproj": "vision file (mmproj)"}


def describe(path: str | os.PathLike[str]) -> LlmInfo | MmprojInfo:
    """Describes one GGUF file.

    Raises:
        ModelFileError, ModelFormatError: see `gguf_file.read_head`.
    """
    return describe_head(read_head(path))


def describe_head(head: GgufHead) -> LlmInfo | MmprojInfo:
    """Describes a file whose head was read."""
    return _describe_mmproj(head) if head.is_mmproj else _describe_llm(head)


def _common(head: GgufHead, kind: str) -> dict[str, Any]:
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for tensor in head.tensors:
        totals[tensor.type][0] += 1
        totals[tensor.type][1] += tensor.n_bytes
    types = sorted((TypeShare(t, n, b) for t, (n, b) in totals.items()), key=lambda s: -s.bytes)
    return {
        "path": str(head.path),
        "kind": kind,
        "name": str(head.metadata.get("general.name", "")),
        "architecture": head.architecture,
        "file_bytes": head.file_bytes,
        "parameters": sum(tensor.n_elements for tensor in head.tensors),
        "tensors": len(head.tensors),
        "types": tuple(types),
        "pair_id": head.metadata.get("bluelm.pair_id"),
        "license": _text(head, "license.name", "license"),
        "source": _text(head, "source.repo_url", "source.url", "repo_url", "url"),
    }


def _text(head: GgufHead, *keys: str) -> str:
    """The first of some keys of `general.` that holds a text."""
    values = (head.metadata.get(f"general.{key}") for key in keys)
    return next((value for value in values if isinstance(value, str) and value), "")


def _describe_llm(head: GgufHead) -> LlmInfo:
    tokens = head.metadata.get("tokenizer.ggml.tokens")
    n_vocab = tokens.length if isinstance(tokens, LongArray) else None
    if isinstance(tokens, list):
        n_vocab = len(tokens)
    n_head = _number(head.of_architecture("attention.head_count"))
    return LlmInfo(
        **_common(head, "llm"),
        n_ctx_train=_number(head.of_architecture("context_length")),
        n_embd=_number(head.of_architecture("embedding_length")),
        n_layer=_number(head.of_architecture("block_count")),
        n_head=n_head,
        n_head_kv=_number(head.of_architecture("attention.head_count_kv", n_head)),
        n_ff=_number(head.of_architecture("feed_forward_length")),
        n_vocab=n_vocab,
        tokenizer=str(head.metadata.get("tokenizer.ggml.model", "")),
        pre_tokenizer=str(head.metadata.get("tokenizer.ggml.pre", "")),
        chat_template=bool(head.metadata.get("tokenizer.chat_template")),
    )


def _describe_mmproj(head: GgufHead) -> MmprojInfo:
    meta = head.metadata
    image, patch = _number(meta.get("clip.vision.image_size")), _number(meta.get("clip.vision.patch_size"))
    downsample = _number(meta.get("bluelm.projector.downsample"))
    per_tile = None
    if image and patch and downsample and min(image, patch, downsample) > 0:
        # An incomplete block at the edge counts as one: 27 patches in blocks of 2 are 14.
        per_tile = (-(-(image // patch) // downsample)) ** 2
    flat = meta.get("bluelm.tiler.grids")
    if not (isinstance(flat, list) and all(isinstance(n, int) and n > 0 for n in flat)):
        flat = []
    grids = [(flat[i], flat[i + 1]) for i in range(0, len(flat) - 1, 2)]
    keys = ("method", "alpha", "thumbnail", "thumbnail_for_single", "fit", "resize", "pad_rgb")
    tiler: dict[str, Any] = {key: meta.get(f"bluelm.tiler.{key}") for key in (*keys, "fit_rounding")}
    tiler["grids"] = grids
    most = 1 if tiler["method"] == "single" else max((c * r for c, r in grids), default=1)
    if tiler["thumbnail"] in ("first", "last") and (most > 1 or tiler["thumbnail_for_single"]):
        most += 1
    n_ff = _number(meta.get("clip.vision.feed_forward_length"))
    assembly = str(meta.get("bluelm.assembly.method", "concat"))
    return MmprojInfo(
        **_common(head, "mmproj"),
        projector_type=projector_type(head),
        encoder=_encoder(head),
        image_size=image,
        patch_size=patch,
        n_embd=_number(meta.get("clip.vision.embedding_length")),
        n_layer=_number(meta.get("clip.vision.block_count")),
        n_head=_number(meta.get("clip.vision.attention.head_count")),
        n_ff=n_ff,
        n_ff_unpadded=_number(meta.get("bluelm.vision.feed_forward_length_unpadded", n_ff)),
        downsample=downsample,
        tokens_per_tile=per_tile,
        n_embd_out=projector_width(head),
        tiler=tiler,
        assembly=assembly,
        max_tokens_per_image=_most_tokens(meta, assembly, per_tile, most, grids) if per_tile else None,
    )


def _encoder(head: GgufHead) -> str:
    try:
        return way_of(head)
    except BluelmError as error:
        return str(error).removeprefix(f"{head.path}: ")


def _most_tokens(
    meta: dict[str, Any], assembly: str, per_tile: int, n_views: int, grids: list[tuple[int, int]]
) -> int:
    """An upper bound of a picture's tokens."""
    max_tiles = _number(meta.get("bluelm.assembly.max_tiles")) or 0
    if assembly != "anyres":
        return per_tile * n_views
    if n_views == 1:
        return per_tile + 1
    tokens = max(c * r for c, r in grids) * per_tile
    if max_tiles > 0:  # a map that is larger by up to 1.1 in each direction is not shrunk
        tokens = min(tokens, int(1.1 * 1.1 * max_tiles * per_tile))
    rows = max(r for _, r in grids) * math.isqrt(per_tile)  # one newline each
    return per_tile + tokens + rows


def _number(value: Any) -> int | None:
    """One number; models that differ by layer give a list, of which the largest stands here."""
    if isinstance(value, list) and value and all(isinstance(n, int) for n in value):
        value = max(value)
    return value if isinstance(value, int) else None


def _known(value: int | None) -> str:
    return "?" if value is None else f"{value:,}" if value >= 10000 else str(value)


def count(n: int) -> str:
    """A count of parameters in short: 2.7B, 428M, 512."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= limit:
            return f"{n / limit:.1f}{unit}"
    return str(n)


def size(n_bytes: int) -> str:
    """Bytes in short: 1.6 GiB, 24 MiB, 512 bytes."""
    for limit, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if n_bytes >= limit:
            return f"{n_bytes / limit:.1f} {unit}"
    return f"{n_bytes} bytes"
