"""The views of a picture that the demo model is trained on: a plain Pillow and numpy statement of the tiler.

The runtime has its own tiler in C++ (cpp/src/tiler.cpp); this one exists so that training needs no native
library, and so that a test can hold the two against each other. Paper: BlueLM-V-3B, section 3.1, Algorithm 1.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

TILE = 384


def relaxed_grid(
    width: int, height: int, *, max_cols: int = 4, max_rows: int = 4, alpha: float = 0.1
) -> tuple[int, int]:
    """Columns and rows chosen by relaxed aspect ratio matching (paper, Algorithm 1)."""
    best, best_re, best_rw = (1, 1), 0, float("inf")
    for cols in range(max_cols, 0, -1):
        for rows in range(max_rows, 0, -1):
            w, h = TILE * cols, TILE * rows
            scale = min(w / width, h / height)
            effective = min(int(width * scale) * int(height * scale), width * height)
            wasted = w * h - effective
            if effective - best_re > alpha * best_re or (
                best_re - effective < alpha * best_re and wasted < best_rw
            ):
                best, best_re, best_rw = (cols, rows), effective, wasted
    return best


def placement(width: int, height: int, cols: int, rows: int) -> tuple[float, int, int, int, int]:
    """(scale, fitted width, fitted height, left, top) of the picture on its canvas of cols x rows tiles."""
    w, h = TILE * cols, TILE * rows
    scale = min(w / width, h / height)
    fit_w, fit_h = int(width * scale), int(height * scale)
    return scale, fit_w, fit_h, (w - fit_w) // 2, (h - fit_h) // 2


def views(image: np.ndarray, *, max_cols: int = 4, max_rows: int = 4) -> np.ndarray:
    """uint8 [V, 384, 384, 3]: the thumbnail, then the tiles row by row; a 1:1 grid has one view only."""
    height, width = image.shape[:2]
    cols, rows = relaxed_grid(width, height, max_cols=max_cols, max_rows=max_rows)
    _, fit_w, fit_h, left, top = placement(width, height, cols, rows)
    picture = Image.fromarray(image)
    canvas = np.zeros((TILE * rows, TILE * cols, 3), np.uint8)
    fitted = (
        picture
        if (fit_w, fit_h) == (width, height)
        else picture.resize((fit_w, fit_h), Image.Resampling.BICUBIC)
    )
    canvas[top : top + fit_h, left : left + fit_w] = np.asarray(fitted)
    tiles: np.ndarray = (
        canvas.reshape(rows, TILE, cols, TILE, 3).swapaxes(1, 2).reshape(rows * cols, TILE, TILE, 3)
    )
    if rows * cols == 1:
        return tiles
    thumbnail = np.asarray(picture.resize((TILE, TILE), Image.Resampling.BICUBIC))
    return np.concatenate([thumbnail[None], tiles])
