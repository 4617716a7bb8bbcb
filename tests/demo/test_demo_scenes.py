"""The demo model's pictures and questions: what evaluation relies on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bluelm_gguf.demo import questions as Q
from bluelm_gguf.demo import scenes as S
from bluelm_gguf.demo.evaluate import evaluate, held_out
from bluelm_gguf.demo.views import TILE, placement, relaxed_grid, views
from bluelm_gguf.tiling import plan


def test_training_and_evaluation_share_no_seed():
    assert len(S.TRAIN_SEEDS) and len(S.EVAL_SEEDS)
    assert S.TRAIN_SEEDS.stop <= S.EVAL_SEEDS.start
    assert all(p.seed in S.EVAL_SEEDS for p in held_out(8, seed=3))


@pytest.mark.parametrize("large", [False, True])
def test_a_seed_always_gives_the_same_picture(large):
    (one, a), (two, b) = (S.draw_picture(S.EVAL_SEEDS.start + 5, large=large) for _ in range(2))
    assert one == two
    assert a.dtype == np.uint8 and a.shape == (one.height, one.width, 3)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("large", [False, True])
def test_shapes_lie_inside_and_never_overlap(large):
    for seed in range(150):
        scene = S.compose(seed, large=large)
        for s in scene.shapes:
            assert s.size / 2 <= s.cx <= scene.width - s.size / 2
            assert s.size / 2 <= s.cy <= scene.height - s.size / 2
        for a, b in itertools.combinations(scene.shapes, 2):
            assert math.hypot(a.cx - b.cx, a.cy - b.cy) > (a.size + b.size) / 2


def test_the_colour_of_a_shape_is_the_one_it_is_drawn_in():
    for seed in range(40):
        scene = S.compose(seed)
        pixels = S.render(scene).astype(int)
        for s in scene.shapes:
            middle = pixels[int(s.cy) - 2 : int(s.cy) + 3, int(s.cx) - 2 : int(s.cx) + 3].mean((0, 1))
            nearest = min(S.COLOURS, key=lambda name: np.abs(middle - S.COLOURS[name]).sum())
            assert nearest == s.colour


def test_text_of_a_large_picture_lies_inside_one_tile():
    seen = 0
    for seed in range(150):
        scene = S.compose(seed, large=True)
        assert scene.grid == relaxed_grid(scene.width, scene.height) != (1, 1)
        if scene.text is None:
            continue
        seen += 1
        scale, _, _, left, top = placement(scene.width, scene.height, *scene.grid)
        x = np.asarray(scene.text.x) * scale + left
        half = 0.5 * (x[1] - x[0]) if len(x) > 1 else 14
        y = scene.text.y * scale + top
        assert int((x[0] - half) // TILE) == int((x[-1] + half) // TILE)
        assert int((y - 14) // TILE) == int((y + 14) // TILE)
        assert len(x) == 1 or np.diff(x).min() > 28  # one glyph for each merged token
    assert seen > 120


def test_training_cuts_pictures_like_the_runtime():
    rng = np.random.default_rng(0)
    for width, height in [(394, 390), (380, 76), (768, 1536), *rng.integers(40, 1700, (60, 2)).tolist()]:
        got = plan(width, height)
        assert (got.cols, got.rows) == relaxed_grid(width, height), (width, height)
    picture = rng.integers(0, 256, (380, 760, 3), dtype=np.uint8)
    assert views(picture).shape == (3, TILE, TILE, 3)
    assert views(picture, max_cols=1, max_rows=1).shape == (1, TILE, TILE, 3)


def test_questions_have_the_answer_that_the_scene_holds():
    rng = np.random.default_rng(1)
    kinds = set()
    for seed in range(300):
        scene = S.compose(seed, large=seed % 5 == 0)
        for kind in Q.KINDS:
            qa = Q.ask(scene, rng, kind)
            if qa is None:
                continue
            kinds.add(kind)
            assert qa.key in qa.answer and Q.right(qa, qa.answer), qa
            if kind == "colour":
                assert any(s.colour == qa.key and s.kind in qa.question for s in scene.shapes)
            if kind in Q.TEXT_KINDS:
                assert scene.text is not None and qa.key == scene.text.string
    assert kinds == set(Q.KINDS)


@pytest.mark.parametrize(
    ("kind", "key", "answer", "good"),
    [
        ("colour", "red", "The circle is red.", True),
        ("colour", "red", "The circle is red or blue.", False),
        ("colour", "red", "The circle is blue.", False),
        ("colour", "red", "The circle is coloured.", False),
        ("shape", "star", "The red object is a star.", True),
        ("shape", "star", "circle square triangle star cross", False),
        ("count", "two", "There are two circles.", True),
        ("count", "two", "There are two or three circles.", False),
        ("position", "top left", "The star is in the top left.", True),
        ("position", "top left", "The star is in the top right.", False),
        ("position", "top left", "The star is left.", False),
        ("number", "472", "The number is 472.", True),
        ("number", "472", "The number is 4720.", False),
        ("number", "472", "The number is 472 or 473.", False),
        ("word", "STOP", 'The word is "STOP".', True),
        ("word", "STOP", 'The word is "STOPS".', False),
        ("exists", "Yes", "Yes, there is a red circle.", True),
        ("exists", "Yes", "No, there is no red circle.", False),
    ],
)
def test_the_judge_wants_one_value_and_the_right_one(kind, key, answer, good):
    assert Q.right(Q.QA(kind, "", "", key), answer) is good


class _Reply:
    def __init__(self, text: str) -> None:
        self.text = text


class _Constant:
    """Answers every question with the same sentence."""

    def __init__(self, text: str) -> None:
        self.text = text

    def encode(self, image, *, tiler=None):
        return image

    def generate(self, prompt, *, images=(), max_tokens=256):
        return _Reply(self.text)


def test_a_constant_answer_reaches_its_share_and_no_more():
    report = evaluate(_Constant("The circle is red."), pictures=60)
    rows = {r.kind: r for r in report.rows}
    assert rows["colour"].right == rows["colour"].keys["red"] == rows["colour"].blank_right
    assert rows["colour"].right / rows["colour"].asked <= rows["colour"].chance
    assert rows["count"].right == rows["position"].right == 0
    assert "| colour |" in report.markdown()


def test_answers_are_balanced_enough_for_controls():
    report = evaluate(_Constant(""), pictures=400, controls=False)
    chance = {r.kind: r.chance for r in report.rows}
    assert (
        chance["colour"] < 0.25
        and chance["shape"] < 0.3
        and chance["position"] < 0.35
        and chance["count"] < 0.5
    )
    assert 0.4 < chance["exists"] < 0.6
