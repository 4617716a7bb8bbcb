"""The demo model's questions, wordings and judge, and the evaluation built on them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from training.world import language
from training.world import questions as Q
from training.world import scenes as S
from training.world.evaluate import evaluate

MODES = ("distinct", "count", "text", "things", "menu", "empty", "unknown", None)


def made(n, **options):
    rng = np.random.default_rng(1)
    for i in range(n):
        mode = MODES[i % len(MODES)]
        scene = None if mode is None else S.compose(i, mode=mode, large=i % 5 == 0)
        for kind in Q.KINDS:
            yield scene, Q.ask(scene, rng, kind, **options)


@pytest.mark.parametrize("held_out", [False, True])
def test_questions_have_the_answer_that_the_scene_holds(held_out):
    kinds = set()
    for scene, turns in made(320, held_out=held_out):
        for qa in turns or ():
            kinds.add(qa.kind)
            assert qa.key in qa.answer and Q.right(qa, qa.answer), qa
            assert qa.answer.endswith((".", "!")) and qa.answer[0].isupper()
            assert "{" not in qa.question and "|" not in qa.question
            if qa.kind == "colour":
                assert any(s.colour == qa.key for s in scene.items)
            if qa.kind == "count" and qa.key != "no":
                assert Q.NUMBERS.index(qa.key) <= len(scene.items)
            if qa.kind in Q.TEXT_KINDS:
                assert qa.key == scene.texts[0].string
    assert kinds == set(Q.KINDS) - (set() if S.fonts.emoji_styles(S.fonts.TRAINED_EMOJI) else {"thing"})


def test_sides_are_those_of_the_picture():
    rng = np.random.default_rng(2)
    seen = 0
    for seed in range(300):
        scene = S.compose(seed, mode="distinct")
        turns = Q.ask(scene, rng, "side")
        if turns is None or turns[0].key not in ("to the left of", "to the right of", "above", "below"):
            continue
        answer = (
            turns[0]
            .answer.removeprefix("Yes, the ")
            .removeprefix("No, the ")
            .removeprefix("The ")
            .rstrip(".")
        )
        first, _, second = answer.partition(f" is {turns[0].key} the ")
        a, b = (
            next(
                s
                for s in scene.items
                if name.endswith(s.kind) and (s.colour or "") in (name.split()[0], s.colour)
            )
            for name in (first, second)
        )
        d = a.cx - b.cx if "of" in turns[0].key else a.cy - b.cy
        assert (d < 0) == (turns[0].key in ("to the left of", "above"))
        seen += 1
    assert seen > 60


def test_held_out_wordings_are_never_trained():
    rng = np.random.default_rng(3)
    gaps = dict(s="circle", o="circle", p="circles", c="red", q="star", r="left of", a="a circle", d="soup")
    for kind in language.HELD_OUT:
        trained = {language.phrase(rng, kind, plain=True, **gaps).lower() for _ in range(400)}
        other = {language.phrase(rng, kind, plain=True, held_out=True, **gaps).lower() for _ in range(40)}
        assert other and not trained & other
    wordings = sum(
        len({language.phrase(rng, k, plain=True, **gaps) for _ in range(800)}) for k in language.TRAINED
    )
    assert wordings > 1000


@pytest.mark.parametrize(
    ("kind", "key", "answer", "good"),
    [
        ("colour", "red", "The circle is red.", True),
        ("colour", "red", "The circle is red or blue.", False),
        ("colour", "red", "The circle is blue.", False),
        ("colour", "red", "The circle is coloured.", False),
        ("shape", "star", "The red one is a star.", True),
        ("shape", "star", "They are stars.", True),
        ("shape", "star", "circle square triangle star cross", False),
        ("thing", "cat", "It is a cat.", True),
        ("thing", "cat", "It is a dog.", False),
        ("count", "two", "There are two circles.", True),
        ("count", "two", "There are two or three circles.", False),
        ("position", "in the top left", "The star is in the top left.", True),
        ("position", "in the top left", "The star is in the top right.", False),
        ("position", "on the left", "The star is in the top left.", False),
        ("side", "above", "The star is above the circle.", True),
        ("side", "above", "The star is below the circle.", False),
        ("number", "472", "The number is 472.", True),
        ("number", "472", "The number is 4720.", False),
        ("number", "472", "The number is 472 or 473.", False),
        ("word", "STOP", 'It says "STOP".', True),
        ("word", "STOP", 'It says "Stop".', True),
        ("word", "STOP", 'It says "STOPS".', False),
        ("exists", "Yes", "Yes, there is a red circle.", True),
        ("exists", "Yes", "No, there is no red circle.", False),
        ("no picture", "not see", Q.NO_PICTURE, True),
        ("no picture", "not see", "The circle is red.", False),
        ("unknown", "not know", Q.UNKNOWN, True),
        ("chat", "demo model", f"{Q.ABOUT} {Q.SHOW}", True),
        ("beyond", "not know", f"{Q.BEYOND} {Q.SHOW}", True),
        ("beyond", "not know", f"{Q.ABOUT} {Q.SHOW}", False),
    ],
)
def test_the_judge_wants_one_value_and_the_right_one(kind, key, answer, good):
    assert Q.right(Q.QA(kind, "", "", key), answer) is good


class Constant:
    """Answers every question with the same sentence."""

    def __init__(self, text: str) -> None:
        self.text = text

    def encode(self, image, *, tiler=None):
        return image

    def generate(self, prompt, *, images=(), max_tokens=256):
        return SimpleNamespace(text=self.text)


def test_a_constant_answer_reaches_its_share_and_no_more():
    report = evaluate(Constant("The circle is red."), pictures=128)
    rows = {r.kind: r for r in report.rows}
    assert rows["colour"].right == rows["colour"].keys["red"]
    assert 0 < rows["colour"].blank_right <= rows["colour"].blank_asked < rows["colour"].asked
    assert rows["colour"].right / rows["colour"].asked <= rows["colour"].chance
    assert rows["count"].right == rows["position"].right == rows["nothing shown: no picture"].right == 0
    assert "| colour |" in report.markdown()


def test_answers_are_balanced_enough_for_controls():
    report = evaluate(Constant(""), pictures=512, controls=False)
    chance = {r.kind: r.chance for r in report.rows}
    assert chance["colour"] < 0.25 and chance["shape"] < 0.3 and chance["position"] < 0.25
    assert chance["count"] < 0.5 and chance["side"] < 0.45
    assert 0.4 < chance["exists"] < 0.62
