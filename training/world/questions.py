"""Questions about a scene or without one, their answers in whole sentences, and the judge of an answer."""

from __future__ import annotations

# Tables of wordings, one kind a line.
# ruff: noqa: E501
import itertools
import pydoc_data.topics
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from .language import TRAINED, expand, phrase, typed
from .names import COLOURS, KINDS_OF_ITEM, NUMBERS, REGIONS, SHAPES, SIZES, THINGS, article, plural
from .scenes import DISHES, WORDS, Item, Rng, Scene, Text, pick

KINDS = (
    "colour", "shape", "thing", "count", "position", "side", "exists", "size", "describe", "word", "number",
    "price", "absent", "unknown", "no picture", "beyond", "chat",
)  # fmt: skip
TEXT_KINDS = ("word", "number")
HONEST_KINDS = ("absent", "unknown", "no picture", "beyond", "chat")

ABOUT = "I am a small demo model: I know drawn things, words and numbers."
SHOW = "Please show me a picture."
NO_PICTURE = "I do not see a picture. " + SHOW
BEYOND = "I do not know that. " + ABOUT
UNKNOWN = "I do not know what this is."
NO_WRITING = "There is no writing in the picture."
EMPTY = "The picture is empty."


@dataclass(frozen=True)
class QA:
    """`key` is the part of the answer that carries the information (the last place where it occurs)."""

    kind: str
    question: str
    answer: str
    key: str


Dialogue = tuple[QA, ...]


class Asker:
    """Questions about one scene.

    Args:
        scene: None for questions without a picture.
        held_out: Wordings that training does not use.
        plain: No typos, ordinary capitals.
    """

    def __init__(self, scene: Scene | None, rng: Rng, *, held_out: bool = False, plain: bool = False) -> None:
        self.scene, self.rng, self.held_out, self.plain = scene, rng, held_out, plain
        self.items: tuple[Item, ...] = scene.items if scene is not None else ()
        self.is_one_tile = scene is not None and scene.grid == (1, 1)

    def say(self, wording: str, **gaps: str) -> str:
        return phrase(self.rng, wording, held_out=self.held_out, plain=self.plain, **gaps)

    def qa(self, kind: str, wording: str, answer: str, key: str, **gaps: str) -> QA:
        return QA(kind, self.say(wording, **gaps), answer, key)

    def same_kind(self, kind: str) -> list[Item]:
        return [s for s in self.items if s.kind == kind]

    def names(self, item: Item) -> list[str]:
        """The phrases that mean this item and no other one."""
        names = []
        if item.colour and sum(s.kind == item.kind and s.colour == item.colour for s in self.items) == 1:
            names.append(f"{item.colour} {item.kind}")
        if len(self.same_kind(item.kind)) == 1:
            names += [item.kind] * 2
        return names

    def single(self) -> Item | None:
        return self.items[0] if len(self.items) == 1 and not self.scene_texts() else None

    def scene_texts(self) -> tuple[Text, ...]:
        return self.scene.texts if self.scene is not None else ()

    def absent_kind(self) -> str:
        there = {s.kind for s in self.items}
        pool = list(THINGS) if self.rng.random() < 0.3 else SHAPES
        return pick(self.rng, [k for k in pool if k not in there])

    # One method a kind: a dialogue of one or more turns, or None where the scene allows none.

    def colour(self) -> Dialogue | None:
        painted = [s for s in self.items if s.colour]
        if not painted:
            return None
        one = self.single()
        if one is not None and self.rng.random() < 0.5:
            return (self.qa("colour", "colour it", f"It is {one.colour}.", str(one.colour)),)
        kinds = sorted({s.kind for s in painted})
        shared = [
            k for k in kinds if len(self.same_kind(k)) > 1 and len({s.colour for s in self.same_kind(k)}) == 1
        ]
        if shared and self.rng.random() < 0.6:
            kind = pick(self.rng, shared)
            colour = str(self.same_kind(kind)[0].colour)
            name = (
                plural(kind)
                if len(kinds) > 1 or self.rng.random() < 0.5
                else pick(self.rng, ("shapes", "objects"))
            )
            return (self.qa("colour", "colour they", f"The {name} are {colour}.", colour, p=name),)
        only = [k for k in kinds if len(self.same_kind(k)) == 1]
        if not only:
            return None
        picked = [only[int(i)] for i in self.rng.permutation(len(only))]
        made = [self._colour_of(self.same_kind(picked[0])[0])]
        if len(picked) > 1 and self.rng.random() < 0.2:
            other = self.same_kind(picked[1])[0]
            q = typed(
                self.rng,
                pick(self.rng, ("and the {s}", "and of the {s}", "what about the {s}", "the {s}")).format(
                    s=other.kind
                ),
            )
            made.append(QA("colour", q, f"The {other.kind} is {other.colour}.", str(other.colour)))
        return tuple(made)

    def _colour_of(self, item: Item) -> QA:
        return self.qa(
            "colour", "colour", f"The {item.kind} is {item.colour}.", str(item.colour), s=item.kind
        )

    def shape(self) -> Dialogue | None:
        painted = [s for s in self.items if s.colour]
        one = self.single()
        if one is not None and one.colour and self.rng.random() < 0.6:
            qa = self.qa("shape", "shape it", f"It is {article(one.kind)}.", one.kind)
            if self.rng.random() < 0.2:
                return (qa, self.qa("colour", "colour it", f"It is {one.colour}.", str(one.colour)))
            return (qa,)
        if (
            len(painted) > 1
            and len(painted) == len(self.items)
            and len({s.kind for s in painted}) == 1
            and self.rng.random() < 0.5
        ):
            kind = painted[0].kind
            qa = self.qa("shape", "shape they", f"They are {plural(kind)}.", kind)
            if self.rng.random() < 0.3 and self.is_one_tile:
                return (qa, self._count_qa("of them", kind, plural(kind), len(painted)))
            return (qa,)
        only = [s for s in painted if sum(o.colour == s.colour for o in painted) == 1]
        if not only:
            return None
        s = pick(self.rng, only)
        return (
            self.qa("shape", "shape", f"The {s.colour} one is {article(s.kind)}.", s.kind, c=str(s.colour)),
        )

    def thing(self) -> Dialogue | None:
        one = self.single()
        if one is None or one.colour:
            return None
        return (self.qa("thing", "describe", f"It is {article(one.kind)}.", one.kind),)

    def _count_qa(self, wording: str, name: str, names: str, n: int) -> QA:
        answer = f"There is one {name}." if n == 1 else f"There are {NUMBERS[n]} {names}."
        return self.qa("count", wording, answer, NUMBERS[n], p=names)

    def count(self) -> Dialogue | None:
        if not self.items or len(self.items) > 6:
            return None
        groups: dict[tuple[str, str], int] = {}
        for s in self.items:
            groups[s.kind, plural(s.kind)] = groups.get((s.kind, plural(s.kind)), 0) + 1
            if s.colour and self.rng.random() < 0.3:
                name = f"{s.colour} {s.kind}"
                groups[name, plural(name)] = sum(
                    o.kind == s.kind and o.colour == s.colour for o in self.items
                )
            elif s.colour and self.rng.random() < 0.3:
                groups[f"{s.colour} object", f"{s.colour} objects"] = sum(
                    o.colour == s.colour for o in self.items
                )
        word = pick(
            self.rng,
            ("shape", "object", "thing", "item")
            if all(s.colour for s in self.items)
            else ("object", "thing", "item"),
        )
        groups[word, word + "s"] = len(self.items)
        keys = list(groups)
        weight = np.asarray([(0.1 if groups[k] == 1 else 1.0) * (1.5 if k[0] == word else 1.0) for k in keys])
        name, names = keys[int(self.rng.choice(len(keys), p=weight / weight.sum()))]
        made = [self._count_qa("count", name, names, groups[name, names])]
        if self.rng.random() < 0.15 and len(groups) > 1:
            other = pick(self.rng, [k for k in keys if k[0] != name] or [(name, names)])
            q = typed(
                self.rng,
                pick(self.rng, ("and how many {p}", "and {p}", "how many {p}", "what about {p}")).format(
                    p=other[1]
                ),
            )
            made.append(
                QA("count", q, self._count_qa("count", *other, groups[other]).answer, NUMBERS[groups[other]])
            )
        elif self.rng.random() < 0.1:
            kind = self.absent_kind()
            made = [self._count_qa("count", kind, plural(kind), 0)]
        return tuple(made)

    def position(self) -> Dialogue | None:
        if not self.is_one_tile or self.scene is None:
            return None
        fit = [(s, r) for s in self.items if (r := self.scene.region(s)) and self.names(s)]
        if not fit:
            return None
        s, region = pick(self.rng, fit)
        if self.single() is not None and self.rng.random() < 0.3:
            return (self.qa("position", "position it", f"It is {region}.", region),)
        name = pick(self.rng, self.names(s))
        qa = self.qa("position", "position", f"The {name} is {region}.", region, o=name)
        if s.colour and self.rng.random() < 0.1:
            return (qa, self.qa("colour", "colour it", f"It is {s.colour}.", s.colour))
        return (qa,)

    def side(self) -> Dialogue | None:
        fit = [s for s in self.items if self.names(s)]
        if len(fit) < 2 or not self.is_one_tile:
            return None
        a, b = (fit[int(i)] for i in self.rng.permutation(len(fit))[:2])
        dx, dy = a.cx - b.cx, a.cy - b.cy
        axes = [axis for axis, d in (("x", dx), ("y", dy)) if abs(d) > 26]
        if not axes:
            return None
        axis = pick(self.rng, axes)
        side = {"x": ("to the left of", "to the right of"), "y": ("above", "below")}[axis]
        true, false = side if (dx if axis == "x" else dy) < 0 else side[::-1]
        o, q = pick(self.rng, self.names(a)), pick(self.rng, self.names(b))
        main, minor = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
        answer, roll = f"The {o} is {true} the {q}.", self.rng.random()
        if roll < 0.25:
            said = true if self.rng.random() < 0.5 else false
            short = {"to the left of": ("left of", "to the left of", "on the left of"), "to the right of": ("right of", "to the right of", "on the right of"),
                     "above": ("above", "over", "higher than"), "below": ("below", "under", "lower than")}[said]  # fmt: skip
            start = "Yes" if said == true else "No"
            return (
                self.qa(
                    "side",
                    "side yes",
                    f"{start}, the {o} is {true} the {q}.",
                    true,
                    o=o,
                    q=q,
                    r=pick(self.rng, short),
                ),
            )
        if roll < 0.4 and abs(dx if axis == "x" else dy) == main and main > 1.5 * minor:
            return (self.qa("side", "side free", answer, true, o=o, q=q),)
        if roll < 0.55 and len(self.items) == 2:
            return (self.qa("side", "side what", answer, o, q=q, r=true),)
        return (self.qa("side", "side " + axis, answer, true, o=o, q=q),)

    def exists(self) -> Dialogue | None:
        if not self.items:
            return None
        s = pick(self.rng, self.items)
        if self.rng.random() < 0.5:
            name = f"{s.colour} {s.kind}" if s.colour and self.rng.random() < 0.5 else s.kind
            made = [
                self.qa(
                    "exists",
                    "exists",
                    f"Yes, there is {article(name)}.",
                    "Yes",
                    a=article(name),
                    p=plural(name),
                )
            ]
            if s.colour and len(self.same_kind(s.kind)) == 1 and name == s.kind and self.rng.random() < 0.2:
                made.append(self.qa("colour", "colour it", f"It is {s.colour}.", s.colour))
            return tuple(made)
        name = self.absent_kind()
        if s.colour and self.rng.random() < 0.5:
            there = {(o.kind, o.colour) for o in self.items}
            for _ in range(20):
                colour = pick(self.rng, list(COLOURS))
                kind = s.kind if self.rng.random() < 0.5 else pick(self.rng, SHAPES)
                if (kind, colour) not in there:
                    name = f"{colour} {kind}"
                    break
        return (
            self.qa("exists", "exists", f"No, there is no {name}.", "No", a=article(name), p=plural(name)),
        )

    def size(self) -> Dialogue | None:
        fit = [s for s in self.items if self.names(s) and s.size_name]
        if not fit or not self.is_one_tile:
            return None
        s = pick(self.rng, fit)
        name = pick(self.rng, self.names(s))
        return (self.qa("size", "size", f"The {name} is {s.size_name}.", str(s.size_name), o=name),)

    def describe(self) -> Dialogue | None:
        if self.scene is None or self.scene.unknown or self.scene.document:
            return None
        groups: dict[str, int] = {}
        for s in sorted(self.items, key=lambda s: s.cx):
            name = f"{s.colour} {s.kind}" if s.colour else s.kind
            groups[name] = groups.get(name, 0) + 1
        parts = [article(n) if k == 1 else f"{NUMBERS[k]} {plural(n)}" for n, k in groups.items() if k <= 6]
        for text in self.scene_texts():
            parts.insert(0, self._text_name(text.string))
        if not parts:
            return (self.qa("unknown", "describe", EMPTY, "empty"),)
        if len(parts) > 3 or (len(self.items) > 1 and self._is_ambiguous()):
            return None
        body = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
        return (self.qa("describe", "describe", f"The picture shows {body}.", body),)

    def _is_ambiguous(self) -> bool:
        xs = sorted(s.cx for s in self.items)
        return any(b - a < 20 for a, b in itertools.pairwise(xs))

    @staticmethod
    def _text_name(string: str) -> str:
        return f"the number {string}" if string.isdigit() else f'the word "{string}"'

    def word(self) -> Dialogue | None:
        if (
            self.scene is None
            or self.scene.document
            or len(self.scene.texts) != 1
            or self.scene.texts[0].is_number
        ):
            return None
        string = self.scene.texts[0].string
        qa = self.qa("word", pick(self.rng, ("text", "word")), f'It says "{string}".', string)
        if self.rng.random() < 0.08:
            return (qa, self.qa("word", "again", qa.answer, qa.key))
        return (qa,)

    def number(self) -> Dialogue | None:
        if (
            self.scene is None
            or self.scene.document
            or len(self.scene.texts) != 1
            or not self.scene.texts[0].is_number
        ):
            return None
        string = self.scene.texts[0].string
        return (
            self.qa(
                "number", "number" if self.rng.random() < 0.8 else "text", f"The number is {string}.", string
            ),
        )

    def price(self) -> Dialogue | None:
        if self.scene is None or not self.scene.document:
            return None
        dish, price = pick(self.rng, self.scene.document)
        return (self.qa("price", "price", f"The {dish} costs {price}.", str(price), d=dish),)

    def absent(self) -> Dialogue | None:
        """About something that is not in the picture."""
        if self.scene is None:
            return None
        if not self.scene.texts and self.rng.random() < 0.4:
            return (self.qa("absent", pick(self.rng, ("text", "word", "number")), NO_WRITING, "no writing"),)
        if self.scene.document or self.rng.random() < 0.1:
            there = {d for d, _ in self.scene.document}
            dish = pick(self.rng, [d for d in DISHES if d not in there])
            return (self.qa("absent", "price", f"I do not see {article(dish)}.", "not see", d=dish),)
        kind = self.absent_kind()
        wording = pick(
            self.rng, ("colour", "position", "size") if self.rng.random() < 0.8 else ("side x", "side y")
        )
        other = self.absent_kind()
        return (
            self.qa("absent", wording, f"I do not see {article(kind)}.", "not see", s=kind, o=kind, q=other),
        )

    def unknown(self) -> Dialogue | None:
        if self.scene is None or not self.scene.unknown:
            return None
        return (
            self.qa(
                "unknown",
                pick(self.rng, ("describe", "describe", "shape it", "colour it")),
                UNKNOWN,
                "not know",
            ),
        )

    def no_picture(self) -> Dialogue | None:
        """Anything that one asks about a picture, and there is none."""
        if self.scene is not None:
            return None
        kind, other = pick(self.rng, KINDS_OF_ITEM[:60]), pick(self.rng, SHAPES)
        colour = pick(self.rng, list(COLOURS))
        noun = pick(self.rng, (kind, other, f"{colour} {other}"))
        names = pick(self.rng, (plural(noun), "shapes", "objects", "things"))
        wording = pick(
            self.rng, [w for w in TRAINED if w not in ("hello", "about", "thanks", "bye", "again")]
        )
        q = self.say(
            wording,
            s=noun,
            o=noun,
            p=names,
            c=colour,
            q=other,
            r="left of",
            a=article(noun),
            d=pick(self.rng, DISHES),
        )
        return (QA("no picture", q, NO_PICTURE, "not see"),)

    def beyond(self) -> Dialogue | None:
        """About the world, or no question at all."""
        tail = " " + SHOW if self.scene is None else ""
        return (QA("beyond", beyond_text(self.rng), BEYOND + tail, "not know"),)

    def chat(self) -> Dialogue | None:
        """Greetings and what the model is."""
        roll = self.rng.random()
        tail = SHOW if self.scene is None else "Ask me about the picture."
        if roll < 0.35:
            return (self.qa("chat", "hello", f"Hello! {ABOUT} {tail}", "demo model"),)
        if roll < 0.75:
            return (self.qa("chat", "about", f"{ABOUT} {tail}", "demo model"),)
        if roll < 0.9:
            return (self.qa("chat", "thanks", "You are welcome. " + tail, "welcome"),)
        return (self.qa("chat", "bye", "Goodbye!", "Goodbye"),)


MAKERS: dict[str, Callable[[Asker], Dialogue | None]] = {
    kind: getattr(Asker, kind.replace(" ", "_")) for kind in KINDS
}
WEIGHTS = {
    "colour": 1.0, "shape": 1.0, "thing": 2.0, "count": 2.4, "position": 1.2, "side": 2.4, "exists": 1.2, "size": 0.3,
    "describe": 1.0, "word": 2.5, "number": 2.5, "price": 3.0, "absent": 0.8, "unknown": 2.0, "beyond": 0.15, "chat": 0.2,
}  # fmt: skip
ALONE = {"no picture": 1.0, "beyond": 1.0, "chat": 1.0}

_ASKED = (
    "who is (the|) (president|king|queen|chancellor|pope|boss|mayor) of (france|germany|england|spain|china|italy|the world|america)", "who (was|is) (einstein|mozart|napoleon|shakespeare|your father|the best)",
    "what is the capital of (france|germany|spain|italy|japan|peru|china)", "(tell|write) me a (joke|story|poem|song)( about {n}|)", "what(| i|')s the weather( like|)( today| tomorrow|)", "what time is it",
    "what (day|date|year) is it( today|)", "how do (i|you) (cook|make|build|buy|repair) (a |an |some |){n}", "why is the (sky|sea|grass|{n}) (blue|green|{w})", "what is the meaning of (life|{w})", "how (old|tall|far|heavy) is (the|) {n}",
    "what is {n}", "what does {w} mean", "how many (people|countries|days|legs|planets) (are there in|has) (the world|{n})", "write (a program|python code|an email|a letter)( about {n}| to {n}|)", "translate {w} (into|to) (german|french|spanish)",
    "do you (like|love|want|eat|know|hate) {n}", "can you (dance|sing|cook|drive|play chess|write|{w})", "(solve|what is|compute|calculate) {d} (plus|times|minus|+|x) {d}", "who (won|wrote|made|invented|built) (the|) {n}",
    "when (did|was|is) (the|) {n} ({w}|born|end|start)", "where (is|are|do) (paris|london|the {n}|my {n}|you live)", "what should i (eat|do|read|buy|wear) (today|tonight|tomorrow)", "i (am|feel) (tired|happy|sad|hungry|{w})", "my {n} is {w}", "{w} {n}",
    "{w} {w} {w}", "is {n} (good|bad|better|worse|bigger) (for|than) {n}", "what do you think (about|of) {n}", "(explain|define|describe) (the theory of |){n}( to me|)", "how does (a|the) {n} work", "(give me|recommend) a (recipe|book|film|name) (for|about) {n}",
    "what(| i|')s your (age|favourite {n}|opinion on {n}|phone number)", "let(| u|')s talk about {n}", "the {n} (is|was) {w}", "who are the {n}", "is it (raining|late|monday|true)", "how much (money|water) is (a|the) {n}",
)  # fmt: skip


@cache
def _english() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(sentences, words) of ordinary English: the manual that comes with Python."""
    text = "\n".join(pydoc_data.topics.topics.values())
    sentences = [s.strip().replace("\n", " ") for s in re.split(r"(?<=[.?!])\s+", text)]
    sentences = [
        re.sub(r" +", " ", s) for s in sentences if 15 < len(s) < 110 and not re.search(r"[*`_<>=(){}|]", s)
    ]
    words = sorted({w for s in sentences for w in re.findall(r"\b[a-z]{3,10}\b", s)})
    return tuple(sentences), tuple(words)


def beyond_text(rng: Rng) -> str:
    """Something typed that is not about a picture."""
    sentences, words = _english()
    if rng.random() < 0.15:
        return pick(rng, sentences)
    text = expand(rng, pick(rng, _ASKED))
    while "{" in text:
        text = text.replace(
            "{n}", pick(rng, (*WORDS, *THINGS)) if rng.random() < 0.6 else pick(rng, words), 1
        )
        text = text.replace("{w}", pick(rng, words), 1).replace("{d}", str(int(rng.integers(1, 100))), 1)
    return typed(rng, text.replace("what s ", "whats ").replace("is's", "'s"))


def ask(
    scene: Scene | None, rng: Rng, kind: str, *, held_out: bool = False, plain: bool = False
) -> Dialogue | None:
    """A dialogue that begins with a question of this kind, None where the scene allows none."""
    return MAKERS[kind](Asker(scene, rng, held_out=held_out, plain=plain))


def dialogues(
    scene: Scene | None, rng: Rng, n: int, weights: dict[str, float] | None = None
) -> list[Dialogue]:
    """Up to n different dialogues about the scene; without one, some of several turns."""
    weights = ALONE if scene is None else WEIGHTS | (weights or {})
    if scene is not None and not scene.items and not scene.texts and not scene.unknown:
        weights = weights | {"describe": 2.0}
    kinds = list(weights)
    p = np.asarray([weights[k] for k in kinds])
    p /= p.sum()
    found: dict[str, Dialogue] = {}
    for i in rng.choice(len(kinds), size=5 * n, p=p):
        made = ask(scene, rng, kinds[int(i)])
        if made is not None:
            found.setdefault(made[0].question, made)
        if len(found) == n:
            break
    out = list(found.values())
    joined: list[Dialogue] = []
    while out:  # now and then several questions in one chat
        turns = out.pop()
        share = 0.5 if scene is None else 0.12
        while out and len(turns) < 4 and rng.random() < share:
            turns += out.pop()
        joined.append(turns)
    return joined


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
    if kind in ("shape", "thing"):
        singular = {plural(k): k for k in KINDS_OF_ITEM} | {k: k for k in KINDS_OF_ITEM}
        hit = _only(singular, low)
        return singular[hit] if hit else None
    if kind == "count":
        return _only(NUMBERS, low)
    if kind == "position":
        return _only(REGIONS, low)
    if kind == "size":
        return _only(SIZES, low)
    if kind == "side":
        return _only(("to the left of", "to the right of", "above", "below"), low)
    if kind == "exists":
        return {"yes,": "Yes", "no,": "No"}.get(low.split(" ")[0])
    if kind in ("number", "price"):
        hits = re.findall(r"\d+", text)
        return hits[0] if len(hits) == 1 else None
    if kind == "word":
        hits = re.findall(r'"([^"]*)"', text)
        return hits[0] if len(hits) == 1 else None
    if kind in HONEST_KINDS:
        return _only(
            ("not see", "not know", "no writing", "empty", "demo model", "welcome", "goodbye"),
            low.replace("do not know that. i am a small demo model", "not know"),
        )
    match = re.fullmatch(r"The picture shows (.*)\.", text)
    return match.group(1) if match else None


def right(qa: QA, answer: str) -> bool:
    """Whether the answer says exactly what the scene holds: one value, and the right one.

    Words are compared without their capitals: C and c, O and o differ in size alone.
    """
    if (qa.kind == "side" and qa.key in KINDS_OF_ITEM) or (
        qa.kind == "side" and qa.key.split(" ")[-1] in KINDS_OF_ITEM
    ):
        return answer.strip() == qa.answer
    said = key_of(qa.kind, answer)
    return said is not None and said.lower() == qa.key.lower()


def corpus(rng: Rng) -> list[str]:
    """Text for the tokenizer: questions and answers of every kind, and ordinary English."""
    from .scenes import compose

    lines = []
    for i in range(3000):
        scene = (
            None
            if i % 4 == 0
            else compose(
                i, mode=("distinct", "count", "things", "empty", "unknown")[i % 5], large=i % 40 == 1
            )
        )
        for turns in dialogues(scene, rng, 6):
            lines += [t for qa in turns for t in (qa.question, qa.answer)]
    sentences, _ = _english()
    names = [n for k in KINDS_OF_ITEM for n in (f"The {k} is", f"the {plural(k)}")] + [
        f"the {w} of" for w in (*WORDS, *DISHES)
    ]
    return lines + list(sentences) + names * 12
