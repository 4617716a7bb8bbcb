"""Which tiles a picture is cut into, and drawings of it (pictures/tiling.py, pictures/tile_drawing.py).

>>> from bluelm_gguf.tiling import plan
>>> plan(768, 1536).grid
'2:4'
"""

from .pictures.tile_drawing import draw_comparison, draw_plan
from .pictures.tiling import (
    SCHEMES,
    TOKENS_PER_TILE,
    Method,
    TilePlan,
    TilerParams,
    compare,
    cut,
    grids_up_to,
    plan,
    plan_with,
    resize,
)

__all__ = [
    "SCHEMES",
    "TOKENS_PER_TILE",
    "Method",
    "TilePlan",
    "TilerParams",
    "compare",
    "cut",
    "draw_comparison",
    "draw_plan",
    "grids_up_to",
    "plan",
    "plan_with",
    "resize",
]
