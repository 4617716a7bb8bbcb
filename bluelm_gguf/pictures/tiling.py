"""Which tiles a picture is cut into (paper, section 3.2), and the schemes compared.

    >>> plan(768, 1536).grid
    '2:4'
    >>> [(p.method, p.grid, p.n_tiles, p.n_tokens()) for p in compare(394, 390, max_cols=3, max_rows=3)]
    [('relaxed', '1:1', 1, 196), ('llava_next', '2:2', 5, 980), ('internvl', '1:1', 1, 196)]

Geometry and pixels are libbluelm's; nothing here computes a grid or resizes what a model sees.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, InvalidArgumentError
from ..native import library as _native

if TYPE_CHECKING:
    from .images import ImageLike

Method = Literal["relaxed", "llava_next", "internvl", "single"]

TOKENS_PER_TILE = 196  # SigLIP's 27 x 27 behind the 2 x 2 token downsampler
SCHEMES: tuple[Method, ...] = ("relaxed", "llava_next", "internvl")  # what is compared


@dataclass(frozen=True)
class TilerParams:
    """What a checkpoint (or a caller) decides about tiling; docs/mmproj.md has the meaning of each.

    Attributes:
        grids: candidates as (columns, rows), in any order.
    """

    method: Method = "relaxed"
    grids: tuple[tuple[int, int], ...] = tuple((c, r) for c in range(1, 5) for r in range(1, 5))
    tile: int = 384
    alpha: float = 0.1
    thumbnail: Literal["none", "first", "last"] = "first"
    thumbnail_for_single: bool = False
    fit: Literal["pad_center", "pad_top_left", "stretch"] = "pad_center"
    filter: Literal["bicubic", "bilinear"] = "bicubic"
    pad_rgb: tuple[int, int, int] = (0, 0, 0)
    fit_rounding: Literal["floor", "ceil"] = "floor"

    def to_native(self) -> _native.TilerParams:
        """bluelm_tiler_params.

        Raises:
            InvalidArgumentError: an unknown name, or more grids than the struct holds.
        """
        native = _native.TilerParams()
        native.method = _code("method", self.method, _native.TILER_METHODS)
        native.tile = _int("tile", self.tile)
        native.alpha = self.alpha
        native.thumbnail = _code("thumbnail", self.thumbnail, _native.THUMBNAILS)
        native.thumbnail_for_single = int(self.thumbnail_for_single)
        native.fit = _code("fit", self.fit, _native.FITS)
        native.filter = _code("filter", self.filter, _native.FILTERS)
        native.fit_rounding = _code("fit_rounding", self.fit_rounding, _native.ROUNDINGS)
        if len(self.pad_rgb) != 3 or not all(0 <= v <= 255 for v in self.pad_rgb):
            raise InvalidArgumentError(f"pad_rgb {self.pad_rgb}: must be three values of 0..255")
        native.pad_rgb[:] = self.pad_rgb
        if len(self.grids) > _native.MAX_GRIDS:
            raise InvalidArgumentError(f"{len(self.grids)} grids: at most {_native.MAX_GRIDS} candidates")
        native.n_grids = len(self.grids)
        for i, (cols, rows) in enumerate(self.grids):
            native.grids[i][:] = _int("columns", cols), _int("rows", rows)
        return native

    @classmethod
    def from_native(cls, native: _native.TilerParams) -> TilerParams:
        """The same from bluelm_tiler_params, such as a model file's."""
        return cls(
            method=_name(_native.TILER_METHODS, native.method),
            grids=tuple((native.grids[i][0], native.grids[i][1]) for i in range(native.n_grids)),
            tile=native.tile,
            alpha=round(native.alpha, 6),  # a float: 0.1 is meant where 0.10000000149 is stored
            thumbnail=_name(_native.THUMBNAILS, native.thumbnail),
            thumbnail_for_single=bool(native.thumbnail_for_single),
            fit=_name(_native.FITS, native.fit),
            filter=_name(_native.FILTERS, native.filter),
            pad_rgb=(native.pad_rgb[0], native.pad_rgb[1], native.pad_rgb[2]),
            fit_rounding=_name(_native.ROUNDINGS, native.fit_rounding),
        )


@dataclass(frozen=True)
class TilePlan:
    """What is cut from a picture of width x height; pixels throughout.

    Attributes:
        params: what the plan was made with.
        cols, rows: the grid.
        fit_width, fit_height: the picture resized into the grid.
        pad_left, pad_top: where it lies on the canvas of cols*tile x rows*tile.
        thumbnail_index: index of the thumbnail among the views, or None.
        n_tiles: views in all: cols*rows, and the thumbnail if there is one.
        effective, wasted: Re and Rw of Algorithm 1.
        image_tokens: tokens as a model puts them together (`VisionEncoder.plan`), where they are not simply
            those of the views; else None.
    """

    params: TilerParams = field(repr=False)
    width: int
    height: int
    cols: int
    rows: int
    tile: int
    fit_width: int
    fit_height: int
    pad_left: int
    pad_top: int
    thumbnail_index: int | None
    n_tiles: int
    effective: int
    wasted: int
    image_tokens: int | None = None

    @property
    def method(self) -> Method:
        return self.params.method

    @property
    def grid(self) -> str:
        """Columns and rows as the paper writes them: "2:4"."""
        return f"{self.cols}:{self.rows}"

    @property
    def canvas_width(self) -> int:
        return self.cols * self.tile

    @property
    def canvas_height(self) -> int:
        return self.rows * self.tile

    @property
    def padding(self) -> float:
        """The part of the canvas that the picture does not cover, 0..1."""
        return 1 - self.fit_width * self.fit_height / (self.canvas_width * self.canvas_height)

    def n_tokens(self, tokens_per_tile: int = TOKENS_PER_TILE) -> int:
        """Image tokens that the language model reads."""
        return self.n_tiles * tokens_per_tile if self.image_tokens is None else self.image_tokens

    def to_native(self) -> _native.TilePlan:
        native = _native.TilePlan()
        for name in _PLAN_FIELDS:
            setattr(native, name, getattr(self, name))
        native.thumbnail_index = -1 if self.thumbnail_index is None else self.thumbnail_index
        return native


_PLAN_FIELDS = (
    "width", "height", "cols", "rows", "tile", "fit_width", "fit_height", "pad_left", "pad_top", "n_tiles",
    "effective", "wasted",
)  # fmt: skip


def grids_up_to(max_cols: int, max_rows: int, max_tiles: int = 0) -> tuple[tuple[int, int], ...]:
    """All grids of 1..max_cols x 1..max_rows; max_tiles > 0 keeps those with at most that many tiles.

    Raises:
        InvalidArgumentError: none, or more than 256 candidates.
    """
    native = _native.TilerParams()
    _native.check(
        _native.load().bluelm_tiler_params_set_grids(
            _native.byref(native),
            _int("max_cols", max_cols),
            _int("max_rows", max_rows),
            _int("max_tiles", max_tiles),
        )
    )
    return tuple((native.grids[i][0], native.grids[i][1]) for i in range(native.n_grids))


def plan(
    width: int,
    height: int,
    *,
    method: Method = "relaxed",
    max_cols: int = 4,
    max_rows: int = 4,
    max_tiles: int | None = None,
    alpha: float = 0.1,
    tile: int = 384,
    thumbnail: Literal["none", "first", "last"] = "first",
) -> TilePlan:
    """Plans the tiles of a picture of width x height pixels.

    Args:
        method: "relaxed" (the paper's Algorithm 1), "llava_next", "internvl", or "single" (always one view).
        max_cols: most columns. InternVL limits the number of tiles instead, not the sides: see max_tiles.
        max_rows: most rows.
        max_tiles: most tiles without the thumbnail; by default max_cols * max_rows. For "internvl" (its
            max_num) any grid of so many tiles is a candidate.
        alpha: how much effective resolution "relaxed" gives up for less waste.
        tile: edge of a tile in pixels.
        thumbnail: where the view of the whole picture goes; a 1:1 grid has none.

    Raises:
        InvalidArgumentError: sizes outside 1..20000, or parameters out of range.
    """
    most = max_cols * max_rows if max_tiles is None else max_tiles
    if most < 1:
        raise InvalidArgumentError(
            f"max_cols {max_cols}, max_rows {max_rows}, max_tiles {max_tiles}: at least 1 each"
        )
    if method == "internvl":
        max_cols = max_rows = most
    grids = grids_up_to(max_cols, max_rows, most)
    params = TilerParams(method=method, grids=grids, alpha=alpha, tile=tile, thumbnail=thumbnail)
    return plan_with(params, width, height)


def plan_with(params: TilerParams, width: int, height: int) -> TilePlan:
    """Plans with all parameters given, such as those of a model file.

    Raises:
        InvalidArgumentError: sizes outside 1..20000, or parameters out of range.
    """
    native = _native.TilePlan()
    _native.check(
        _native.load().bluelm_tiler_plan(
            _native.byref(params.to_native()),
            _int("width", width),
            _int("height", height),
            _native.byref(native),
        )
    )
    values: dict[str, int] = {name: getattr(native, name) for name in _PLAN_FIELDS}
    index = native.thumbnail_index
    return TilePlan(params=params, thumbnail_index=None if index < 0 else index, **values)


def compare(
    width: int, height: int, *, max_cols: int = 4, max_rows: int = 4, tile: int = 384
) -> tuple[TilePlan, ...]:
    """The plans of the three SCHEMES, all with the same tiles and thumbnail: only the search differs."""
    return tuple(
        plan(width, height, method=m, max_cols=max_cols, max_rows=max_rows, tile=tile) for m in SCHEMES
    )


def cut(image: ImageLike, plan: TilePlan, first: int = 0, count: int | None = None) -> NDArray[np.uint8]:
    """The views of a picture, as a model sees them before normalisation.

    Args:
        image: what `images.load_image` takes, of the plan's size.
        plan: from plan() or plan_with().
        first: the first view.
        count: how many; by default all that follow.

    Returns:
        uint8 [count, tile, tile, 3].

    Raises:
        ImageError: the picture cannot be used, or has another size.
        InvalidArgumentError: views that the plan does not have.
    """
    from .images import load_image

    rgb = load_image(image)
    if rgb.shape[:2] != (plan.height, plan.width):
        raise ImageError(
            f"the picture is {rgb.shape[1]} x {rgb.shape[0]}, "
            f"the plan is for {plan.width} x {plan.height}: plan again"
        )
    count = plan.n_tiles - first if count is None else count
    if first < 0 or count < 0 or first + count > plan.n_tiles:
        raise InvalidArgumentError(f"views {first}..{first + count - 1} of a plan with {plan.n_tiles}")
    out = np.empty((count, plan.tile, plan.tile, 3), np.uint8)
    _native.check(
        _native.load().bluelm_tiler_cut(
            _native.byref(plan.params.to_native()),
            _native.byref(plan.to_native()),
            _native.pointer(rgb, _native.c_uint8),
            first,
            count,
            _native.pointer(out, _native.c_uint8),
            out.nbytes,
        )
    )
    return out


def resize(rgb: NDArray[np.uint8], width: int, height: int, *, filter: str = "bicubic") -> NDArray[np.uint8]:
    """Antialiased resize of uint8 [H, W, 3], byte for byte as Pillow 13's `Image.resize`.

    Raises:
        InvalidArgumentError: another array, a side outside 1..20000, or an unknown filter.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InvalidArgumentError(f"{rgb.dtype} {list(rgb.shape)}: must be uint8 [H, W, 3]")
    width, height = _int("width", width), _int("height", height)
    if not (1 <= width <= 20000 and 1 <= height <= 20000):
        raise InvalidArgumentError(f"a resize to {width} x {height}: each side must be 1..20000 pixels")
    rgb = np.ascontiguousarray(rgb)
    out = np.empty((height, width, 3), np.uint8)
    _native.check(
        _native.load().bluelm_resize_rgb8(
            _native.pointer(rgb, _native.c_uint8),
            rgb.shape[1],
            rgb.shape[0],
            _native.pointer(out, _native.c_uint8),
            width,
            height,
            _code("filter", filter, _native.FILTERS),
        )
    )
    return out


def _int(name: str, value: int) -> int:
    """An int32: ctypes would take a larger number and drop its upper bits."""
    try:
        value = operator.index(value)
    except TypeError:
        raise InvalidArgumentError(f"{name} {value!r}: must be a whole number") from None
    if not -(2**31) <= value < 2**31:
        raise InvalidArgumentError(f"{name} {value}: out of range")
    return value


def _code(name: str, value: str, codes: dict[str, int]) -> int:
    if value not in codes:
        raise InvalidArgumentError(f"{name} {value!r}: must be one of {', '.join(codes)}")
    return codes[value]


def _name(codes: dict[str, int], code: int) -> Any:
    return next(name for name, known in codes.items() if known == code)
