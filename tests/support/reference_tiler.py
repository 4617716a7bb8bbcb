"""The tiler once more, as plainly as can be, with Pillow and numpy; nothing of bluelm_gguf is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
PILLOW_ORDERS_PASSES = int(PIL.__version__.split(".")[0]) >= 13


@dataclass
class Plan:
    cols: int
    rows: int
    fit: tuple[int, int]
    pad: tuple[int, int]
    kinds: list[object]  # of each view: "thumbnail" or (column, row)
    effective: int
    wasted: int


def fitted(size, grid, tile):
    """dW, dH of Algorithm 1, each at least 1."""
    scale = min(grid[0] * tile / size[0], grid[1] * tile / size[1])
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def resolutions(size, grid, tile):
    """Re and Rw."""
    w, h = fitted(size, grid, tile)
    effective = min(w * h, size[0] * size[1])
    return effective, grid[0] * tile * grid[1] * tile - effective


def choose(method, size, grids, tile, alpha):
    descending = sorted(set(grids), key=lambda g: (g[0] * g[1], g[0]), reverse=True)
    best = (1, 1)
    if method == "relaxed":  # the paper's Algorithm 1, line by line
        max_effective, min_wasted = 0, float("inf")
        for grid in descending:
            effective, wasted = resolutions(size, grid, tile)
            if (effective - max_effective) > alpha * max_effective or (
                (max_effective - effective) < alpha * max_effective and wasted < min_wasted
            ):
                max_effective, min_wasted, best = effective, wasted, grid
    elif method == "llava_next":
        best = max(
            descending, key=lambda g: (resolutions(size, g, tile)[0], -resolutions(size, g, tile)[1])
        )  # the first of equals
    elif method == "internvl":
        nearest = float("inf")
        for grid in reversed(descending):
            distance = abs(size[0] / size[1] - grid[0] / grid[1])
            if distance < nearest:
                nearest, best = distance, grid
            elif distance == nearest and size[0] * size[1] > 0.5 * tile * tile * grid[0] * grid[1]:
                best = grid
    return best


def plan(params, width, height) -> Plan:
    """`params` has the fields of bluelm_gguf.tiling.TilerParams."""
    size = (width, height)
    cols, rows = grid = choose(params.method, size, params.grids, params.tile, params.alpha)
    canvas = (cols * params.tile, rows * params.tile)
    fit = fitted(size, grid, params.tile)
    if params.fit == "stretch" or params.method == "internvl":
        fit = canvas
    pad = (0, 0)
    if params.fit == "pad_center":
        pad = ((canvas[0] - fit[0]) // 2, (canvas[1] - fit[1]) // 2)
    kinds: list[object] = [(c, r) for r in range(rows) for c in range(cols)]
    if params.method != "single" and (len(kinds) > 1 or params.thumbnail_for_single):
        if params.thumbnail == "first":
            kinds.insert(0, "thumbnail")
        elif params.thumbnail == "last":
            kinds.append("thumbnail")
    return Plan(cols, rows, fit, pad, kinds, *resolutions(size, grid, params.tile))


def resize(rgb, width, height, filter="bicubic"):
    """Image.resize of Pillow 13, also on an older one, which runs the horizontal pass first always."""
    image = Image.fromarray(rgb)
    if not PILLOW_ORDERS_PASSES:
        less_wide, less_high = image.width - width, image.height - height
        if less_high > 0 and less_high > 2 * less_wide:
            image = image.resize((image.width, height), FILTERS[filter])
    return np.asarray(image.resize((width, height), FILTERS[filter]))


def cut(params, rgb):
    """All views, [n, tile, tile, 3]."""
    tile = params.tile
    p = plan(params, rgb.shape[1], rgb.shape[0])
    canvas = Image.new("RGB", (p.cols * tile, p.rows * tile), tuple(params.pad_rgb))
    canvas.paste(Image.fromarray(resize(rgb, *p.fit, params.filter)), p.pad)
    views = []
    for kind in p.kinds:
        if kind == "thumbnail":
            views.append(resize(rgb, tile, tile, params.filter))
        else:
            col, row = kind
            box = (col * tile, row * tile, (col + 1) * tile, (row + 1) * tile)
            views.append(np.asarray(canvas.crop(box)))
    return np.stack(views)
