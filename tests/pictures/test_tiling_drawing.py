"""The drawing: what it must show can be measured, how it looks is seen in docs/tiling.png."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from bluelm_gguf.errors import ImageError
from bluelm_gguf.tiling import SCHEMES, TilerParams, compare, draw_comparison, draw_plan, plan, plan_with

GREEN = (0, 200, 0)  # the picture; no colour of the drawing itself
COLORS = {"relaxed": (37, 99, 235), "llava_next": (217, 119, 6), "internvl": (124, 58, 237)}


def flat(width, height, color=GREEN):
    return Image.new("RGB", (width, height), color)


def count(drawing, color):
    return int((np.asarray(drawing) == color).all(axis=2).sum())


def test_plan_shows_the_picture_in_its_place():
    p = plan(800, 600)
    drawing = np.asarray(draw_plan(flat(800, 600), p))
    assert drawing.ndim == 3
    padding = count(drawing, (51, 65, 85)) + count(drawing, (71, 85, 105))
    green = count(drawing, GREEN)
    edge2 = (560 // p.rows) ** 2  # of a tile as drawn
    canvas = p.cols * p.rows * edge2
    assert padding / canvas == pytest.approx(p.padding, abs=0.04)  # lines and badges cover some of it
    assert green / (canvas * (1 - p.padding) + edge2) == pytest.approx(1, abs=0.06)  # and the thumbnail


def test_plan_of_one_view_has_neither_lines_nor_padding():
    drawing = draw_plan(flat(300, 300), plan(300, 300))
    assert count(drawing, (51, 65, 85)) == 0
    assert count(drawing, GREEN) == pytest.approx(560 * 560, rel=0.03)


def test_comparison_has_three_panels_at_one_scale():
    plans = compare(800, 600)
    assert [p.method for p in plans] == list(SCHEMES)
    drawing = np.asarray(draw_comparison(flat(800, 600)))
    widths = {}
    for method, color in COLORS.items():
        columns = (drawing == color).all(axis=2).sum(axis=0).nonzero()[0]
        widths[method] = columns[-1] - columns[0] + 1
    per_tile = [widths[p.method] / (p.cols + 1) for p in plans]  # the thumbnail is one more
    assert max(per_tile) / min(per_tile) < 1.12  # the gap before the thumbnail


def test_token_bars_are_proportional():
    drawing = np.asarray(draw_comparison(flat(800, 600)))
    bars = {}
    for p in compare(800, 600):
        lower = (drawing[-140:] == COLORS[p.method]).all(axis=2).sum(axis=1)
        bars[p.method] = Counter(lower[lower > 0].tolist()).most_common(1)[0][0] / p.n_tokens()
    assert max(bars.values()) / min(bars.values()) < 1.02


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (394, 390), (768, 1536), (3000, 200)])
def test_any_size_draws(size):
    drawing = draw_comparison(flat(*size))
    assert drawing.mode == "RGB" and 600 < drawing.width < 2600 and 250 < drawing.height < 1000


def test_other_plans_draw():
    for options in (
        {"method": "single"},
        {"thumbnail": "last"},
        {"thumbnail": "none"},
        {"fit": "pad_top_left"},
        {"fit": "stretch"},
        {"thumbnail_for_single": True, "grids": ((1, 1),)},
        {"grids": ((16, 16),)},
        {"tile": 7},
    ):
        draw_plan(flat(500, 300), plan_with(TilerParams(**options), 500, 300))


def test_takes_what_load_image_takes(tmp_path):
    flat(60, 40).save(tmp_path / "a.png")
    draw_plan(tmp_path / "a.png", plan(60, 40))
    draw_comparison(str(tmp_path / "a.png"))
    with pytest.raises(ImageError, match="no such file"):
        draw_comparison(tmp_path / "b.png")
    with pytest.raises(ImageError, match="plan again"):
        draw_plan(tmp_path / "a.png", plan(40, 60))
