"""Accuracy by kind of question on held-out pictures, with controls.

Two controls say what an accuracy is worth: the same questions about a blank picture of the same size, which
must fall to chance, and the questions about text with the thumbnail alone, which shows that the tiles matter.
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

from .questions import BAR_KINDS, KINDS, QA, TEXT_KINDS, ask, right
from .scenes import EVAL_SEEDS, Scene, draw_picture

LARGE_EVERY = 4  # every fourth picture is larger than one tile
NO_TILES = {"max_cols": 1, "max_rows": 1}
BLANK_LEVEL = 128


class Answerer(Protocol):
    """What is needed of `bluelm_gguf.Model`."""

    def encode(self, image: Any, *, tiler: Any = None) -> Any: ...

    def generate(self, prompt: str, *, images: Any = (), max_tokens: int = 256) -> Any: ...


@dataclass(frozen=True)
class Picture:
    seed: int
    scene: Scene
    pixels: np.ndarray  # uint8 [height, width, 3]
    questions: tuple[QA, ...]

    @property
    def is_large(self) -> bool:
        return self.scene.grid != (1, 1)


def held_out(n: int, seed: int = 0) -> Iterator[Picture]:
    """n pictures from seeds that training never uses, each with one question of every kind that it allows."""
    for i in range(n):
        number = EVAL_SEEDS.start + seed * 10_000_000 + i
        assert number in EVAL_SEEDS
        scene, pixels = draw_picture(number, large=i % LARGE_EVERY == LARGE_EVERY - 1)
        rng = np.random.default_rng([number, 1])
        asked = [ask(scene, rng, kind) for kind in KINDS]
        yield Picture(number, scene, pixels, tuple(qa for qa in asked if qa is not None and _is_fair(qa)))


def _is_fair(qa: QA) -> bool:
    """Counts are asked from one to four."""
    return qa.kind != "count" or qa.key in ("one", "two", "three", "four")


@dataclass
class Row:
    """Counts of one kind of question; `keys`: how often each answer is the right one."""

    kind: str
    asked: int = 0
    right: int = 0
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

    def bar(self) -> float:
        """Accuracy over colour, shape, count and position together."""
        rows = [r for r in self.rows if r.kind in BAR_KINDS]
        return sum(r.right for r in rows) / max(1, sum(r.asked for r in rows))

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
            "bar": self.bar(),
            "rows": rows,
            "wrong": self.wrong,
        }

    def markdown(self) -> str:
        lines = [
            f"{self.pictures} held-out pictures, {self.large} of them larger than one tile; "
            f"{self.seconds:.0f} s",
            "",
            "| question | asked | right | blank picture | chance | thumbnail only |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for r in self.rows:
            if r.asked:
                alone = "" if r.thumbnail_right is None else f"{r.thumbnail_right / r.asked:.1%}"
                lines.append(
                    f"| {r.kind} | {r.asked} | {r.right / r.asked:.1%} | {r.blank_right / r.asked:.1%} "
                    f"| {r.chance:.1%} | {alone} |"
                )
        lines += ["", f"colour, shape, count up to four and position together: {self.bar():.1%}"]
        return "\n".join(lines)


def evaluate(
    model: Answerer, *, pictures: int = 1000, seed: int = 0, progress: bool = False, controls: bool = True
) -> Report:
    """Asks all questions and judges the answers (questions.right).

    Args:
        model: An open model with vision.
        pictures, seed: Which held-out pictures.
        progress: Report on stderr.
        controls: Also ask about blank pictures, and about text with the thumbnail only.
    """
    names = [*BAR_KINDS, *(k for k in KINDS if k not in BAR_KINDS and k not in TEXT_KINDS)]
    names += [f"{k}, {where}" for k in TEXT_KINDS for where in ("one tile", "large picture")]
    rows = {name: Row(name) for name in names}
    blanks: dict[tuple[int, int], Any] = {}
    blank_answers: dict[tuple[tuple[int, int], str], str] = {}
    wrong: list[dict[str, Any]] = []
    large, start = 0, time.perf_counter()

    def answer(image: Any, question: str) -> str:
        return str(model.generate(question, images=[image], max_tokens=32).text)

    for i, picture in enumerate(held_out(pictures, seed)):
        large += picture.is_large
        image = model.encode(picture.pixels)
        alone = None
        for qa in picture.questions:
            name = qa.kind
            if qa.kind in TEXT_KINDS:
                name += ", large picture" if picture.is_large else ", one tile"
            row = rows[name]
            reply = answer(image, qa.question)
            good = right(qa, reply)
            row.asked += 1
            row.right += good
            row.keys[qa.key] += 1
            if not good:
                wrong.append(
                    {
                        "seed": picture.seed,
                        "large": picture.is_large,
                        "kind": qa.kind,
                        "question": qa.question,
                        "expected": qa.answer,
                        "answer": reply,
                    }
                )
            if not controls:
                continue
            grid = picture.scene.grid
            if (grid, qa.question) not in blank_answers:
                if (
                    grid not in blanks
                ):  # a blank picture of this grid; which size exactly makes no difference to a uniform one
                    blanks[grid] = model.encode(
                        np.full((384 * grid[1], 384 * grid[0], 3), BLANK_LEVEL, np.uint8)
                    )
                blank_answers[grid, qa.question] = answer(blanks[grid], qa.question)
            row.blank_right += right(qa, blank_answers[grid, qa.question])
            if picture.is_large and qa.kind in TEXT_KINDS:
                if alone is None:
                    alone = model.encode(picture.pixels, tiler={**NO_TILES, "fit": "stretch"})
                row.thumbnail_right = (row.thumbnail_right or 0) + right(qa, answer(alone, qa.question))
        if progress and (i + 1) % 50 == 0:
            asked, good_ones = sum(r.asked for r in rows.values()), sum(r.right for r in rows.values())
            print(
                f"{i + 1} pictures, {good_ones / asked:.1%} of {asked} answers right",
                file=sys.stderr,
                flush=True,
            )
    return Report(pictures, large, time.perf_counter() - start, list(rows.values()), wrong)


def draw(folder: Path, n: int, seed: int = 0) -> Iterator[tuple[str, int]]:
    """Writes held-out pictures and questions.json (picture, question, answer) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for picture in held_out(n, seed):
        name = f"{picture.seed - EVAL_SEEDS.start:06d}.png"
        Image.fromarray(picture.pixels).save(folder / name)
        listed += [
            {"picture": name, "kind": qa.kind, "question": qa.question, "answer": qa.answer}
            for qa in picture.questions
        ]
        yield name, len(picture.questions)
    (folder / "questions.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
