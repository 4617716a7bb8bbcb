"""What becomes of a picture of a given size: its tiles and tokens, from an mmproj's head alone."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import InvalidArgumentError
from ..native import library as _native

if TYPE_CHECKING:
    from .tiling import TilePlan, TilerParams

TilerOverrides: TypeAlias = "Mapping[str, Any] | TilerParams | None"
"""Departures from a file's tiler by name (see `tiler_params`), or all parameters, or None."""


@dataclass(frozen=True)
class VisionInfo:
    """What the mmproj holds."""

    name: str
    ftype: str
    image_size: int
    patch_size: int
    n_embd: int
    n_layer: int
    n_head: int
    n_ff: int
    n_ff_unpadded: int
    downsample: int
    tokens_per_tile: int
    n_embd_out: int
    n_params: int
    weight_bytes: int


class PicturePlanner:
    """The head of one mmproj file: what it says, without its weights. Thread-safe.

    Args:
        path: The mmproj GGUF (docs/mmproj.md).

    Raises:
        ModelFileError, ModelFormatError, UnsupportedModelError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from .tiling import TilerParams

        self._lib = _native.load()
        self._handle = _native.c_void_p()
        _native.check(self._lib.bluelm_mmproj_open(os.fsencode(path), _native.byref(self._handle)))
        self._free = weakref.finalize(self, self._lib.bluelm_mmproj_free, self._handle)
        self.info = self._read_info()
        tiler = _native.TilerParams()
        _native.check(self._lib.bluelm_mmproj_get_tiler(self._handle, _native.byref(tiler)))
        self.tiler = TilerParams.from_native(tiler)
        """What the file asks for."""

    def _read_info(self) -> VisionInfo:
        raw = _native.VisionInfo()
        _native.check(self._lib.bluelm_mmproj_get_info(self._handle, _native.byref(raw)))
        values: dict[str, Any] = {name: getattr(raw, name) for name in VisionInfo.__dataclass_fields__}
        for name in ("name", "ftype"):
            values[name] = values[name].decode("utf-8", errors="replace")
        return VisionInfo(**values)

    def plan(self, width: int, height: int, *, tiler: TilerOverrides = None) -> TilePlan:
        """Plans the tiles of a picture of width x height pixels, and counts its tokens.

        Raises:
            InvalidArgumentError: an unknown or impossible tiler setting, or sizes outside 1..20000.
        """
        from .tiling import plan_with

        plan = plan_with(tiler_params(self.tiler, tiler), width, height)
        n_tokens = _native.c_int64()
        _native.check(
            self._lib.bluelm_mmproj_plan(
                self._handle, _native.byref(plan.params.to_native()), width, height, None,
                _native.byref(n_tokens),
            )
        )  # fmt: skip
        if n_tokens.value == plan.n_tokens(self.info.tokens_per_tile):
            return plan
        return dataclasses.replace(plan, image_tokens=n_tokens.value)


def tiler_params(base: TilerParams, overrides: TilerOverrides) -> TilerParams:
    """A file's tiler with departures.

    Args:
        base: What the file asks for.
        overrides: By name: any field of `tiling.TilerParams` (`method`, `alpha`, `thumbnail`, `fit`, ...);
            and `max_cols`, `max_rows` and `max_tiles`, which keep those of the file's grids that are no
            larger. A TilerParams replaces the file's altogether.

    Raises:
        InvalidArgumentError: an unknown name, or no grid left.
    """
    from .tiling import TilerParams

    if overrides is None:
        return base
    if isinstance(overrides, TilerParams):
        return overrides
    if not isinstance(overrides, Mapping):
        raise InvalidArgumentError(
            f"tiler: a mapping or TilerParams is needed, not {type(overrides).__name__}"
        )
    fields = {f.name for f in dataclasses.fields(TilerParams)}
    limits = ("max_cols", "max_rows", "max_tiles")
    unknown = sorted(set(overrides) - fields - set(limits))
    if unknown:
        raise InvalidArgumentError(
            f"tiler: unknown setting {unknown[0]!r}; there are {', '.join(sorted({*fields, *limits}))}"
        )
    cols, rows, tiles = (overrides.get(name) or 2**31 for name in limits)
    params = dataclasses.replace(base, **{k: v for k, v in overrides.items() if k in fields})
    grids = tuple((c, r) for c, r in params.grids if c <= cols and r <= rows and c * r <= tiles)
    if not grids:
        raise InvalidArgumentError(f"tiler: none of the file's grids is within {dict(overrides)}")
    return dataclasses.replace(params, grids=grids)
