"""Questions about a scene, their answers in full sentences, and the judge of an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .scenes import COLOURS, GLYPHS, REGIONS, SHAPES, SIZES, WORDS, Rng, Scene, Shape, pick

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
KINDS = ("colour", "shape", "count", "position", "number", "word", "size", "side", "exists", "describe")
BAR_KINDS = ("colour", "shape", "count", "position")  # the kinds that have to reach 90%
TEXT_KINDS = ("number", "word")

PHRASES = {
    "colour": (
        "What colour is the {s}?",
        "What color is the {s}?",
        "Which colour does the {s} have?",
        "Tell me the colour of the {s}.",
        "What is the color of the {s}?",
    ),
    "shape": (
        "What shape is the {c} object?",
        "Which shape is {c}?",
        "What is the shape of the {c} object?",
        "What is the {c} object?",
    ),
    "count": (
        "How many {p} are there?",
        "How many {p} do you see?",
        "Count the {p}.",
        "How many {p} are in the picture?",
    ),
    "position": (
        "Where is the {o}?",
        "Where in the picture is the {o}?",
        "In which part of the picture is the {o}?",
        "Tell me where the {o} is.",
    ),
    "number": (
        "What number is written in the picture?",
        "Which number do you see?",
        "Read the number.",
        "What is the number?",
        "What number is shown?",
    ),
    "word": (
        "What word is written in the picture?",
        "Which word do you see?",
        "Read the word.",
        "What does the sign say?",
        "What word is shown?",
    ),
    "size": ("Is the {o} big or small?", "Is the {o} small or big?", "What size is the {o}?"),
    "side": ("Is the {o} left or right of the {q}?", "On which side of the {q} is the {o}?"),
    "exists": (
        "Is there a {o}?",
        "Is there a {o} in the picture?",
        "Do you see a {o}?",
        "Can you see a {o}?",
    ),
    "describe": (
        "What is this?",
        "Describe the picture.",
        "What do you see?",
        "What is in the picture?",
        "Describe this image.",
    ),
}


Made = tuple[dict[str, str], str, str] | None  # what a phrase's gaps hold, the answer, its key


@dataclass(frozen=True)
class QA:
    """`key` is the part of the answer that carries the information (the last place where it occurs)."""

    kind: str
    question: str
    answer: str
    key: str


def article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _names(scene: Scene, shape: Shape) -> list[str]:
    """The phrases that mean this shape and no other one."""
    names = []
    if sum(s.kind == shape.kind and s.colour == shape.colour for s in scene.shapes) == 1:
        names.append(f"{shape.colour} {shape.kind}")
    if sum(s.kind == shape.kind for s in scene.shapes) == 1:
        names.append(shape.kind)
    return names


def _colour(scene: Scene, rng: Rng) -> Made:
    only = [s for s in scene.shapes if sum(o.kind == s.kind for o in scene.shapes) == 1]
    if only:
        s = pick(rng, only)
        return dict(s=s.kind), f"The {s.kind} is {s.colour}.", s.colour
    return None


def _shape(scene: Scene, rng: Rng) -> Made:
    only = [s for s in scene.shapes if sum(o.colour == s.colour for o in scene.shapes) == 1]
    if only:
        s = pick(rng, only)
        return dict(c=s.colour), f"The {s.colour} object is a {s.kind}.", s.kind
    return None


def _count(scene: Scene, rng: Rng) -> Made:
    if not scene.shapes or scene.grid != (1, 1):
        return None
    if rng.random() < 0.06:
        absent = [k for k in SHAPES if all(s.kind != k for s in scene.shapes)]
        if not absent:
            return None
        what, n = pick(rng, absent), 0
    else:
        counts = {k: sum(s.kind == k for s in scene.shapes) for k in SHAPES} | {"shape": len(scene.shapes)}
        counts = {k: n for k, n in counts.items() if n}
        names = list(counts)
        weight = np.asarray(
            [0.12 if counts[k] == 1 else 1.0 for k in names]
        )  # or one would be the answer far too often
        if len(names) == 2 and len(scene.shapes) == 1 and rng.random() < 0.4:
            return None
        what = names[int(rng.choice(len(names), p=weight / weight.sum()))]
        n = counts[what]
    plural = {"cross": "crosses"}.get(what, what + "s")
    answer = f"There is one {what}." if n == 1 else f"There are {NUMBERS[n]} {plural}."
    return dict(p=plural), answer, NUMBERS[n]


def _position(scene: Scene, rng: Rng) -> Made:
    if scene.grid != (1, 1):
        return None
    fit = [(s, r) for s in scene.shapes if (r := scene.region(s)) and _names(scene, s)]
    if fit:
        s, region = pick(rng, fit)
        name = pick(rng, _names(scene, s))
        return dict(o=name), f"The {name} is in the {region}.", region
    return None


def _number(scene: Scene, rng: Rng) -> Made:
    if scene.text is not None and scene.text.is_number:
        return {}, f"The number is {scene.text.string}.", scene.text.string
    return None


def _word(scene: Scene, rng: Rng) -> Made:
    if scene.text is not None and not scene.text.is_number:
        return {}, f'The word is "{scene.text.string}".', scene.text.string
    return None


def _size(scene: Scene, rng: Rng) -> Made:
    fit = [s for s in scene.shapes if _names(scene, s)]
    if fit and scene.grid == (1, 1):
        s = pick(rng, fit)
        name = pick(rng, _names(scene, s))
        return dict(o=name), f"The {name} is {s.size_name}.", s.size_name
    return None


def _side(scene: Scene, rng: Rng) -> Made:
    fit = [s for s in scene.shapes if sum(o.kind == s.kind for o in scene.shapes) == 1]
    if len(fit) >= 2 and scene.grid == (1, 1):
        a, b = (fit[int(i)] for i in rng.permutation(len(fit))[:2])
        if abs(a.cx - b.cx) > 28:
            side = "left" if a.cx < b.cx else "right"
            return dict(o=a.kind, q=b.kind), f"The {a.kind} is on the {side}.", side
    return None


def _exists(scene: Scene, rng: Rng) -> Made:
    if not scene.shapes:
        return None
    s = pick(rng, scene.shapes)
    kind, colour = s.kind, s.colour
    if rng.random() < 0.5:
        there = {(o.kind, o.colour) for o in scene.shapes}
        for _ in range(20):
            roll = rng.random()
            kind = s.kind if roll < 0.4 else pick(rng, SHAPES)
            colour = s.colour if roll > 0.6 else pick(rng, list(COLOURS))
            if (kind, colour) not in there:
                break
        else:
            return None
        name = f"{colour} {kind}"
        return dict(o=name), f"No, there is no {name}.", "No"
    name = f"{colour} {kind}"
    return dict(o=name), f"Yes, there is {article(name)}.", "Yes"


def _describe(scene: Scene, rng: Rng) -> Made:
    parts = [article(f"{s.colour} {s.kind}") for s in sorted(scene.shapes, key=lambda s: s.cx)]
    if scene.text is not None:
        parts.insert(
            0,
            f"the number {scene.text.string}" if scene.text.is_number else f'the word "{scene.text.string}"',
        )
    if not 1 <= len(parts) <= 2:
        return None
    if len(scene.shapes) == 2 and abs(scene.shapes[0].cx - scene.shapes[1].cx) < 28:
        return None
    body = " and ".join(parts)
    return {}, f"The picture shows {body}.", body


MAKERS = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "position": _position,
    "number": _number,
    "word": _word,
    "size": _size,
    "side": _side,
    "exists": _exists,
    "describe": _describe,
}
WEIGHTS = {
    "colour": 1.0,
    "shape": 1.2,
    "count": 1.6,
    "position": 1.2,
    "number": 2.0,
    "word": 2.0,
    "size": 0.6,
    "side": 0.5,
    "exists": 1.4,
    "describe": 0.6,
}


def ask(scene: Scene, rng: Rng, kind: str) -> QA | None:
    """A question of this kind about the scene, None where the scene allows none."""
    made = MAKERS[kind](scene, rng)
    if made is None:
        return None
    fields, answer, key = made
    question = pick(rng, PHRASES[kind]).format(**fields)
    question = re.sub(r"\ba (?=[aeiou])", "an ", question)
    return QA(kind, question, re.sub(r"\ba (?=[aeiou])", "an ", answer), key)


def questions(scene: Scene, rng: Rng, n: int, weights: dict[str, float] | None = None) -> list[QA]:
    """Up to n different questions about the scene."""
    weights = weights or WEIGHTS
    kinds = list(weights)
    p = np.asarray([weights[k] for k in kinds])
    p /= p.sum()
    found: dict[str, QA] = {}
    for i in rng.choice(len(kinds), size=4 * n, p=p):
        qa = ask(scene, rng, kinds[int(i)])
        if qa is not None:
            found.setdefault(qa.question, qa)
        if len(found) == n:
            break
    return list(found.values())


def _only(words: Iterable[str], text: str) -> str | None:
    """The one of `words` that the text holds, None if it holds none or several different ones."""
    hits = {w for w in words if re.search(rf"(?<![a-z]){w}(?![a-z])", text)}
    hits = {w for w in hits if not any(w != o and w in o for o in hits)}
    return hits.pop() if len(hits) == 1 else None


def key_of(kind: str, answer: str) -> str | None:
    """What an answer says, None where it says nothing or more than one thing."""
    text = " ".join(answer.split())
    low = text.lower()
    if kind == "colour":
        return _only(COLOURS, low)
    if kind == "shape":
        return _only(SHAPES, low)
    if kind == "count":
        return _only(NUMBERS, low)
    if kind == "position":
        return _only(REGIONS, low.replace("center", "centre"))
    if kind == "size":
        return _only(SIZES, low)
    if kind == "side":
        return _only(("left", "right"), low)
    if kind == "exists":
        return {"yes,": "Yes", "no,": "No"}.get(low.split(" ")[0])
    if kind == "number":
        hits = re.findall(r"\d+", text)
        return hits[0] if len(hits) == 1 else None
    if kind == "word":
        hits = re.findall(r'"([^"]*)"', text)
        return hits[0] if len(hits) == 1 else None
    match = re.fullmatch(r"The picture shows (.*)\.", text)
    return match.group(1) if match else None


def right(qa: QA, answer: str) -> bool:
    """Whether the answer says exactly what the scene holds: one value, and the right one."""
    return key_of(qa.kind, answer) == qa.key


def corpus(rng: Rng) -> list[str]:
    """Text for the tokenizer. Words in capitals are left out, so that they are spelled letter by letter."""
    lines = [
        p.format(s=s, c=c, p=s + ("es" if s == "cross" else "s"), o=f"{c} {s}", q=s)
        for phrases in PHRASES.values()
        for p in phrases
        for s in (*SHAPES, "shape")
        for c in COLOURS
    ]
    for s in SHAPES:
        for c in COLOURS:
            lines += [
                f"The {s} is {c}.",
                f"The {c} object is a {s}.",
                f"Yes, there is {article(c)} {s}.",
                f"No, there is no {c} {s}.",
                f"The picture shows {article(c)} {s} and {article(c)} {s}.",
                f"The {c} {s} is small.",
                f"The {c} {s} is big.",
                f"The {s} is on the left.",
                f"The {s} is on the right.",
            ]
            lines += [f"The {c} {s} is in the {r}." for r in REGIONS]
        for n in NUMBERS:
            lines += [f"There are {n} {s}s.", f"There is {n} {s}.", "There are three crosses."]
    lines += [
        "The number is 1.",
        'The word is "A".',
        'The picture shows the word "A" and',
        "The picture shows the number 1 and",
    ] * 40
    return lines


__all__ = [
    "BAR_KINDS",
    "GLYPHS",
    "KINDS",
    "NUMBERS",
    "PHRASES",
    "QA",
    "TEXT_KINDS",
    "WEIGHTS",
    "WORDS",
    "article",
    "ask",
    "corpus",
    "key_of",
    "questions",
    "right",
]
