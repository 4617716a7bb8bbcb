"""Accuracy by kind of question on held-out pictures, with controls.

Two controls say what an accuracy is worth: the same questions about a blank picture of the same size, which
must fall to chance, and the questions about text in large pictures with the thumbnail alone, which shows that
the tiles matter. Some pictures are drawn with fonts, emoji, words and outlines that training never saw, and
some questions are worded in ways that it never saw.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .drawing import render
from .questions import HONEST_KINDS, KINDS, QA, TEXT_KINDS, ask, right
from .scenes import EVAL_SEEDS, Scene, compose

SERIES = ("plain", "plain", "plain", "plain", "large", "style", "wording", "alone")
MODES = ("distinct", "text", "count", "things", "text", "distinct", "text", "unknown")
MAIN_KINDS = ("colour", "shape", "thing", "count", "position", "side", "exists", "size", "describe")
NO_TILES = {"max_cols": 1, "max_rows": 1}
BLANK_LEVEL = 128
BLANK_EVERY = 3  # the questions of one picture in three are asked about a blank one, too


class Answerer(Protocol):
    """What is needed of `bluelm_gguf.Model`."""

    def encode(self, image: Any, *, tiler: Any = None) -> Any: ...

    def generate(self, prompt: str, *, images: Any = (), max_tokens: int = 256) -> Any: ...


@dataclass(frozen=True)
class Picture:
    """`scene` and `pixels` are None where nothing is shown; series: one of SERIES."""

    seed: int
    series: str
    scene: Scene | None
    pixels: np.ndarray | None  # uint8 [height, width, 3]
    questions: tuple[QA, ...]

    @property
    def is_large(self) -> bool:
        return self.scene is not None and self.scene.grid != (1, 1)


def held_out(n: int, seed: int = 0) -> Iterator[Picture]:
    """n pictures from seeds that training never uses, each with one question of every kind that it allows."""
    for i in range(n):
        number = EVAL_SEEDS.start + seed * 10_000_000 + i
        assert number in EVAL_SEEDS
        series, mode = SERIES[i % len(SERIES)], MODES[i // len(SERIES) % len(MODES)]
        rng = np.random.default_rng([number, 1])
        scene = pixels = None
        if series != "alone":
            if series == "large" and mode == "unknown":
                mode = "menu"
            scene = compose(number, large=series == "large", mode=mode, held_out=series == "style")
            pixels = render(scene)
        questions: dict[str, QA] = {}
        for kind in KINDS:
            if kind in HONEST_KINDS and series != "alone" and mode != "unknown" and rng.random() < 0.75:
                continue
            for _ in range(2 if kind in (*TEXT_KINDS, "price", "thing", "side") else 1):
                turns = ask(scene, rng, kind, held_out=series == "wording")
                if turns is not None and _is_fair(turns[0]):
                    questions[turns[0].question] = turns[0]
        yield Picture(number, series, scene, pixels, tuple(questions.values()))


def _is_fair(qa: QA) -> bool:
    """Counts are asked from one to four."""
    return qa.kind != "count" or qa.key in ("one", "two", "three", "four")


@dataclass
class Row:
    """Counts of one kind of question; `keys`: how often each answer is the right one.

    blank_asked, blank_right: about a blank picture.
    """

    kind: str
    asked: int = 0
    right: int = 0
    blank_asked: int = 0
    blank_right: int = 0
    thumbnail_right: int | None = None
    keys: Counter[str] = field(default_factory=Counter)

    @property
    def chance(self) -> float:
        """What the best constant answer would reach."""
        return max(self.keys.values()) / self.asked if self.asked else 0.0


@dataclass
class Report:
    pictures: int
    large: int
    seconds: float
    rows: list[Row]
    wrong: list[dict[str, Any]]

    @property
    def asked(self) -> int:
        return sum(r.asked for r in self.rows)

    def share(self) -> float:
        """Of right answers among all."""
        return sum(r.right for r in self.rows) / max(1, self.asked)

    def as_dict(self) -> dict[str, Any]:
        rows = [
            {
                **asdict(r),
                "keys": dict(r.keys),
                "accuracy": r.right / r.asked if r.asked else None,
                "chance": r.chance,
            }
            for r in self.rows
        ]
        return {
            "pictures": self.pictures,
            "large": self.large,
            "seconds": self.seconds,
            "share": self.share(),
            "rows": rows,
            "wrong": self.wrong,
        }

    def markdown(self) -> str:
        lines = [
            f"{self.asked} questions, {self.pictures} held-out pictures or none, {self.large} of them "
            f"larger than one tile; {self.seconds:.0f} s",
            "",
            "| question | asked | right | blank picture | chance | thumbnail only |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for r in self.rows:
            if r.asked:
                alone = "" if r.thumbnail_right is None else f"{r.thumbnail_right / r.asked:.1%}"
                blank = f"{r.blank_right / r.blank_asked:.1%}" if r.blank_asked else ""
                lines.append(
                    f"| {r.kind} | {r.asked} | {r.right / r.asked:.1%} | {blank} | {r.chance:.1%} | {alone} |"
                )
        lines += ["", f"all: {self.share():.1%}"]
        return "\n".join(lines)


def _row(picture: Picture, qa: QA) -> str:
    """The row of the table that a question counts for."""
    if picture.series == "alone":
        return f"nothing shown: {qa.kind}"
    if picture.series in ("style", "wording"):
        group = "text" if qa.kind in TEXT_KINDS else "honesty" if qa.kind in HONEST_KINDS else "the rest"
        return f"held-out {picture.series}: {group}"
    return f"{qa.kind}, large picture" if picture.is_large and qa.kind in (*TEXT_KINDS, "price") else qa.kind


def evaluate(
    model: Answerer, *, pictures: int = 600, seed: int = 0, progress: bool = False, controls: bool = True
) -> Report:
    """Asks all questions and judges the answers (questions.right).

    Args:
        model: An open model with vision.
        pictures, seed: Which held-out pictures.
        progress: Report on stderr.
        controls: Also ask about blank pictures, and about text with the thumbnail only.
    """
    rows: dict[str, Row] = {}
    blanks: dict[tuple[int, int], Any] = {}
    blank_answers: dict[tuple[tuple[int, int], str], str] = {}
    wrong: list[dict[str, Any]] = []
    large, start = 0, time.perf_counter()

    def answer(image: Any, question: str) -> str:
        return str(model.generate(question, images=[] if image is None else [image], max_tokens=48).text)

    for i, picture in enumerate(held_out(pictures, seed)):
        large += picture.is_large
        image = None if picture.pixels is None else model.encode(picture.pixels)
        alone = None
        for qa in picture.questions:
            name = _row(picture, qa)
            row = rows.setdefault(name, Row(name))
            reply = answer(image, qa.question)
            good = right(qa, reply)
            row.asked += 1
            row.right += good
            row.keys[qa.key] += 1
            if not good:
                wrong.append(
                    {
                        "seed": picture.seed,
                        "row": name,
                        "kind": qa.kind,
                        "question": qa.question,
                        "expected": qa.answer,
                        "answer": reply,
                    }
                )
            if not controls or picture.scene is None:
                continue
            grid = picture.scene.grid
            if i // len(SERIES) % BLANK_EVERY == 0 and (grid, qa.question) not in blank_answers:
                if (
                    grid not in blanks
                ):  # a blank picture of this grid; which size exactly makes no difference to a uniform one
                    blanks[grid] = model.encode(
                        np.full((384 * grid[1], 384 * grid[0], 3), BLANK_LEVEL, np.uint8)
                    )
                blank_answers[grid, qa.question] = answer(blanks[grid], qa.question)
            if (grid, qa.question) in blank_answers:
                row.blank_asked += 1
                row.blank_right += right(qa, blank_answers[grid, qa.question])
            if picture.is_large and qa.kind in (*TEXT_KINDS, "price"):
                if alone is None:
                    alone = model.encode(picture.pixels, tiler={**NO_TILES, "fit": "stretch"})
                row.thumbnail_right = (row.thumbnail_right or 0) + right(qa, answer(alone, qa.question))
        if progress and (i + 1) % 50 == 0:
            asked, good_ones = sum(r.asked for r in rows.values()), sum(r.right for r in rows.values())
            print(
                f"{i + 1} pictures, {good_ones / max(1, asked):.1%} of {asked} answers right",
                file=sys.stderr,
                flush=True,
            )
    order = [*MAIN_KINDS, *TEXT_KINDS, *(f"{k}, large picture" for k in TEXT_KINDS), "price, large picture"]
    ranked = sorted(
        rows.values(), key=lambda r: (order.index(r.kind) if r.kind in order else len(order), r.kind)
    )
    return Report(pictures, large, time.perf_counter() - start, ranked, wrong)


def draw(folder: Path, n: int, seed: int = 0) -> Iterator[tuple[str, int]]:
    """Writes held-out pictures and questions.json (picture, question, answer) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for picture in held_out(n, seed):
        if picture.pixels is None:
            continue
        name = f"{picture.seed - EVAL_SEEDS.start:06d}.png"
        Image.fromarray(picture.pixels).save(folder / name)
        listed += [
            {"picture": name, "kind": qa.kind, "question": qa.question, "answer": qa.answer}
            for qa in picture.questions
        ]
        yield name, len(picture.questions)
    (folder / "questions.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
