"""The catalogue: pairs that make sense on a phone to a workstation, by short names. Its data: catalogue.json.

Typed are names and shapes; parameters, sizes and memory are computed (see `shapes`). `verified` says whether
the repository's file names were checked against its listing; of others the names are hints, and the listing
decides (see `choice`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..gguf.head import GgufHead
from ..gguf.memory import MemoryNeed, estimate
from .shapes import LlmShape, VisionShape, llm_head, mmproj_head

NATIVE_PROJECTORS = ("bluelm",)
"""Towers that our own encoder runs; others are libmtmd's."""


@dataclass(frozen=True)
class Entry:
    """A pair.

    Attributes:
        name: short, as it is typed.
        repo, quant: where its files are.
        llm, mmproj: their names, as public sources have them; None: unknown, the listing decides.
        verified: whether the names were checked against the repository's listing.
        projector: clip's projector_type.
        licence: of the weights.
        good_at: in a few words.
        llm_shape, vision_shape: what sizes are computed from.
    """

    name: str
    repo: str
    quant: str
    llm: str | None
    mmproj: str | None
    verified: bool
    projector: str
    licence: str
    good_at: str
    llm_shape: LlmShape
    vision_shape: VisionShape

    @functools.cached_property
    def heads(self) -> tuple[GgufHead, GgufHead]:
        """Computed heads of both files."""
        return llm_head(self.llm_shape, self.quant), mmproj_head(self.vision_shape)

    @property
    def parameters(self) -> int:
        """Of both files."""
        return sum(tensor.n_elements for head in self.heads for tensor in head.tensors)

    @property
    def llm_parameters(self) -> int:
        """Of the language model without its vocabulary's matrices: what a token of prefill multiplies."""
        tensors = self.heads[0].tensors
        return sum(tensor.n_elements for tensor in tensors if tensor.name.startswith("blk."))

    @property
    def download_bytes(self) -> int:
        """Of both files, computed."""
        return sum(head.file_bytes for head in self.heads)

    @property
    def sees_natively(self) -> bool:
        """Whether our own encoder runs the tower."""
        return self.projector in NATIVE_PROJECTORS

    def need(self, n_ctx: int | None = None) -> MemoryNeed:
        """Memory to run, by the account that `info` prints. A sliding window's smaller KV cache is counted in
        full."""
        return estimate(*self.heads, n_ctx=n_ctx)


@functools.cache
def entries() -> tuple[Entry, ...]:
    """The catalogue in its file's order: by memory."""
    rows = json.loads((Path(__file__).parent / "catalogue.json").read_text(encoding="utf-8"))
    return tuple(_entry(row) for row in rows)


def _entry(row: dict[str, Any]) -> Entry:
    vision = row["vision_shape"]
    projector = tuple((rows, columns) for rows, columns in vision["projector"])
    shapes = {
        "llm_shape": LlmShape(**row["llm_shape"]),
        "vision_shape": VisionShape(**{**vision, "projector": projector}),
    }
    return Entry(**{**row, **shapes})


def lookup(name: str) -> Entry | None:
    """The entry of a short name; without a size (gemma3) the smallest of the family."""
    text = name.lower()
    return next((e for e in entries() if text in (e.name, e.name.partition(":")[0])), None)


def of_repo(repo: str, quant: str = "") -> Entry | None:
    """The entry of a repository, if the quant is the entry's."""
    return next((e for e in entries() if e.repo == repo and quant in ("", e.quant)), None)


def fitting(available: int | None) -> Iterator[Entry]:
    """What runs in so many free bytes, the largest first."""
    for entry in sorted(entries(), key=lambda e: -e.parameters):
        if entry.need().fits(available):
            yield entry
