"""The demo model's pictures: what training and evaluation rely on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bluelm_gguf.demo.views import TILE, placement, relaxed_grid, views
from bluelm_gguf.tiling import plan
from training.world import fonts
from training.world import scenes as S
from training.world.drawing import render
from training.world.evaluate import held_out
from training.world.names import COLOURS, REGIONS


def test_training_and_evaluation_share_no_seed_and_no_style():
    assert len(S.TRAIN_SEEDS) and len(S.EVAL_SEEDS)
    assert S.TRAIN_SEEDS.stop <= S.EVAL_SEEDS.start
    assert all(p.seed in S.EVAL_SEEDS for p in held_out(8, seed=3))
    assert not set(fonts.TRAINED) & set(fonts.HELD_OUT)
    assert fonts.HELD_OUT_EMOJI not in fonts.TRAINED_EMOJI and S.HELD_OUT_FINISH not in S.FINISHES
    held = {
        t.string.lower() for seed in range(150) for t in S.compose(seed, mode="text", held_out=True).texts
    }
    trained = {t.string.lower() for seed in range(150) for t in S.compose(seed, mode="text").texts}
    words = {w for w in held if w.isalpha() and S.is_held_out_word(w)}
    assert len(words) > 3 and not words & {w for w in trained if w in S.WORDS}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("mode", ["distinct", "count", "text", "things", "unknown", "menu"])
def test_a_seed_always_gives_the_same_picture(mode, large):
    one, two = (S.compose(S.EVAL_SEEDS.start + 5, large=large, mode=mode) for _ in range(2))
    a, b = render(one), render(two)
    assert one == two
    assert a.dtype == np.uint8 and a.shape == (one.height, one.width, 3)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("large", [False, True])
def test_items_lie_inside_and_never_overlap(large):
    seen = 0
    for seed in range(150):
        scene = S.compose(seed, large=large)
        for s in scene.items:
            assert s.size / 2 <= s.cx <= scene.width - s.size / 2
            assert s.size / 2 <= s.cy <= scene.height - s.size / 2
        for a, b in itertools.combinations(scene.items, 2):
            seen += 1
            assert math.hypot(a.cx - b.cx, a.cy - b.cy) > (a.size + b.size) / 2
    assert seen > 100


def test_the_colour_of_a_shape_is_the_one_it_is_drawn_in():
    seen = 0
    for seed in range(60):
        scene = S.compose(seed, mode="distinct", finish="plain")
        pixels = render(scene).astype(int)
        for s in scene.items:
            middle = pixels[int(s.cy) - 2 : int(s.cy) + 3, int(s.cx) - 2 : int(s.cx) + 3].mean((0, 1))
            nearest = min(COLOURS, key=lambda name: min(np.abs(middle - v).sum() for v in COLOURS[name]))
            assert nearest == s.colour
            seen += 1
    assert seen > 60


def test_glyphs_are_drawn_where_the_scene_says():
    """Ink lies at every glyph's middle column and nowhere far from the line."""
    for seed in range(40):
        scene = S.compose(seed, mode="text", most=0)
        calm = S.Scene(
            scene.width,
            scene.height,
            S.Background("plain", (255, 255, 255), (255, 255, 255), True, 0),
            (),
            scene.texts,
            (0, 0),
            (TILE, TILE),
        )
        pixels = render(calm).astype(int)
        for text in calm.texts:
            dark = np.abs(pixels - 255).sum(2) > 60
            if luma_of(text.rgb) > 215:
                continue
            rows, cols = np.nonzero(dark)
            assert text.x[0] - text.font_size < cols.min() and cols.max() < text.x[-1] + text.font_size
            assert abs((rows.min() + rows.max()) / 2 - text.y) < 0.1 * text.font_size + 2


def luma_of(rgb):
    return S.luma(rgb)


def test_regions_name_the_place_in_the_whole_picture():
    scene = S.compose(3, mode="distinct", width=140, height=140, origin=(240, 0), wanted=[("circle", "red")])
    item = scene.items[0]
    assert scene.region(item) in {*REGIONS[0:6], None} - {REGIONS[0], REGIONS[3]}


def test_text_of_a_large_picture_lies_inside_one_tile():
    seen = 0
    for seed in range(120):
        scene = S.compose(seed, large=True, mode="text")
        assert scene.grid == relaxed_grid(scene.width, scene.height) != (1, 1)
        scale, _, _, left, top = placement(scene.width, scene.height, *scene.grid)
        for text in scene.texts:
            seen += 1
            x = np.asarray(text.x) * scale + left
            y = text.y * scale + top
            assert int(x[0] // TILE) == int(x[-1] // TILE)
            half = 0.3 * text.font_size * scale
            assert int((y - half) // TILE) == int((y + half) // TILE)
    assert seen > 80


def test_a_menu_holds_its_prices():
    for seed in range(20):
        scene = S.compose(seed, large=True, mode="menu")
        written = [t.string for t in scene.texts]
        assert scene.document and all(
            d.capitalize() in written and str(p) in written for d, p in scene.document
        )


def test_training_cuts_pictures_like_the_runtime():
    rng = np.random.default_rng(0)
    for width, height in [(394, 390), (380, 76), (768, 1536), *rng.integers(40, 1700, (60, 2)).tolist()]:
        got = plan(width, height)
        assert (got.cols, got.rows) == relaxed_grid(width, height), (width, height)
    picture = rng.integers(0, 256, (380, 760, 3), dtype=np.uint8)
    assert views(picture).shape == (3, TILE, TILE, 3)
    assert views(picture, max_cols=1, max_rows=1).shape == (1, TILE, TILE, 3)
