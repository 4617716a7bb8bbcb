"""Wordings of questions: a grammar of alternatives, then how people type (case, politeness, typos).

A pattern holds alternatives in round brackets, which may be nested and empty: "(what|which) colour is the {s}".
HELD_OUT has patterns that training never uses; evaluation does.
"""

from __future__ import annotations

# Tables of wordings, one kind a line.
# ruff: noqa: E501
import re
from functools import cache

import numpy as np

Rng = np.random.Generator

COL, SEE, PIC = (
    "(colour|color)",
    "(do you see|can you see|are there|are visible|do you count)",
    "(picture|image|drawing|photo)",
)
ASK = "(tell me|say|name|give me|please tell me|can you tell me|could you tell me|i want to know|do you know)"
ONE, MANY = "(object|shape|thing|item|figure)", "(objects|shapes|things|items|figures)"

TRAINED: dict[str, tuple[str, ...]] = {
    "colour": (
        f"what {COL} is the {{s}}", f"what {COL} is the {{s}}", f"(which|what) {COL} does the {{s}} have", f"{ASK} the {COL} of the {{s}}",
        f"what(| i|')s the {COL} of the {{s}}", f"the {{s}} is (what|which) {COL}", f"{COL} of the {{s}}",
        f"{ASK} what {COL} the {{s}} is", f"what {COL} do you see on the {{s}}", f"(in|of) (what|which) {COL} is the {{s}}",
        f"which {COL} is the {{s}} in the {PIC}", f"(and |)what {COL} is (this|that) {{s}}", f"what {COL} has the {{s}}",
        f"the {{s}}, what {COL} is it", f"is the {{s}} red or (blue|green) or (what|another {COL})", "how is the {s} (coloured|colored)",
    ),
    "colour it": (
        f"what {COL} is it", f"(what|which) {COL} is (this|that)", f"what {COL} is the {ONE}", f"which {COL} does it have",
        f"{ASK} the {COL}", f"what(| i|')s the {COL} of (this|the {ONE}|it)", f"{ASK} what {COL} it is", f"which {COL}", f"{COL}",
        f"what {COL} do you see", f"what {COL} is the {ONE} in the {PIC}", f"{COL} of the {ONE}",
    ),
    "colour they": (
        f"what {COL} are (they|these|the {{p}}|the {{p}}|the {{p}}|those {{p}}|the {MANY})", f"(which|what) {COL} do (they|the {{p}}) have",
        f"{ASK} the {COL} of (the {{p}}|the {MANY})", f"what(| i|')s the {COL} of the {{p}}", f"the {{p}} are (what|which) {COL}",
        f"{COL} of the {{p}}", f"{ASK} what {COL} the {{p}} are",
    ),
    "shape": (
        f"what shape is the {{c}} {ONE}", "what shape is the {c} one", "(which|what) shape is {c}", f"what(| i|')s the {{c}} ({ONE}|one)", f"what is the {{c}} ({ONE}|one)",
        f"what is the shape of the {{c}} ({ONE}|one)", f"{ASK} what the {{c}} {ONE} is", f"what kind of {ONE} is the {{c}} one",
        "what (thing|object) is {c}", "what do you see in {c}", f"{ASK} the shape of the {{c}} {ONE}", f"(what|which) {ONE} is (coloured|colored|painted) {{c}}",
        "what is {c}", f"which of the {MANY} is {{c}}", "what shape has the {c} one", "{c} is which shape",
    ),
    "shape it": (
        "what shape is (this|it|that)", "which shape is (this|it)", f"what shape is the {ONE}", f"what shape (do you see|can you see|is shown|is in the {PIC})",
        f"{ASK} the shape", "what kind of shape is (it|this)", "which shape do you see", f"{ASK} (what|which) shape (it is|you see|this is)", "what is the shape", "shape",
        "what (geometric |)(shape|form|figure) is (it|this)", f"which shape is in the {PIC}",
    ),
    "shape they": (
        "what shapes are (these|they|those|there)", "what are (these|they) (shapes|things|objects|)", "what shape are they", f"what kind of {MANY} are (these|they|there)",
        f"which shapes (do you see|are there|are in the {PIC})", f"what shapes (are in the {PIC}|do you see|can you see)", f"{ASK} what these {MANY} are", "what shape do they have",
    ),
    "count": (
        f"how many {{p}} {SEE}", f"how many {{p}} {SEE}", f"how many {{p}} are (in|on) (the|this) {PIC}", "how many {p}", "(please |)count the {p}", "count the {p}(, please| please)",
        f"{ASK} (how many {{p}} there are|the number of {{p}})", "what(| i|')s the number of {p}", "number of {p}", f"how many {{p}} does the {PIC} (have|show|contain)",
        "how many {p} are there (in total|in all|altogether|here)", "how many {p} can you (count|find)", "how many {p} are shown", "are there many {p}, how many",
        f"in this {PIC}, how many {{p}} are there", "how many {p} is that", "how many {p} have you got",
    ),
    "position": (
        "where is the {o}", "where is the {o}", f"where in the {PIC} is the {{o}}", f"in (which|what) part of the {PIC} is the {{o}}", f"{ASK} where the {{o}} is",
        "where(| i|')s the {o}", "(what|which) (position|place) is the {o} in", "where can i find the {o}", "where do you see the {o}", "the {o} is where", "whereabouts is the {o}",
        "what is the (position|place|location) of the {o}", "in which corner (or part |)is the {o}", "where is the {o} (located|placed|drawn)",
    ),
    "position it": ("where is it", f"where in the {PIC} is it", "where(| i|')s that", f"{ASK} where it is", f"where is the {ONE}"),
    "side x": (
        "is the {o} left or right of the {q}", "is the {o} (right or left|to the left or right|to the right or left|on the left or right|on the right or the left) of the {q}",
        "is the {o} to the left or to the right of the {q}", "on (which|what) side of the {q} is the {o}", "on which side of the {q} is the {o}, left or right", f"{ASK} (if|whether) the {{o}} is left or right of the {{q}}",
        "(which|what) side of the {q} is the {o} on", "the {o} is left or right of the {q}", "left or right of the {q}: where is the {o}",
    ),
    "side y": (
        "is the {o} above or below the {q}", "is the {o} (below or above|over or under|under or over|higher or lower than) the {q}", f"{ASK} (if|whether) the {{o}} is above or below the {{q}}",
        "the {o} is above or below the {q}", "is the {o} on top of or beneath the {q}", "above or below the {q}: where is the {o}",
    ),
    "side free": ("where is the {o} relative to the {q}", "where is the {o} compared (to|with) the {q}", "where is the {o}, seen from the {q}", "how is the {o} placed relative to the {q}"),
    "side yes": ("is the {o} {r} the {q}", "is the {o} {r} the {q}", "do you see the {o} {r} the {q}", "is it true that the {o} is {r} the {q}", "(so |)the {o} is {r} the {q}, (right|is that so|correct)"),
    "side what": ("what is {r} the {q}", "what do you see {r} the {q}", f"(what|which) {ONE} is {{r}} the {{q}}", f"{ASK} what is {{r}} the {{q}}"),
    "exists": (
        "is there {a}", "is there {a}", f"is there {{a}} in the {PIC}", "do you see {a}", "can you see {a}", "can you find {a}", f"does the {PIC} (show|have|contain) {{a}}",
        "any {p}", "are there any {p}", "do you see any {p}", f"{ASK} (if|whether) there is {{a}}", "have you found {a}", f"is {{a}} in the {PIC}", "i think there is {a}, (right|is there)",
    ),
    "size": ("is the {o} (big or small|small or big|large or small|little or big)", "what size is the {o}", "how (big|large|small) is the {o}", f"{ASK} the size of the {{o}}", "which size does the {o} have"),
    "describe": (
        "what is this", "what is (this|that|it)", f"describe (the|this) {PIC}", "(so |)what do you see", f"what is (in|on) (the|this) {PIC}", "what can you see", f"what(| i|')s (this|that|it|in the {PIC}|on the {PIC})",
        f"what does the {PIC} show", f"what is shown( in the {PIC}|)", f"{ASK} what (you see|this is|is in the {PIC}|the {PIC} shows)", "(please |)describe what you see", "what is there", "describe", "describe it",
        "what (object|thing) is this", "what am i looking at", "what is it supposed to be", "do you know what this is", "what have we here", "what is drawn (here|there)", "explain this", f"look at (this|the) {PIC}",
    ),
    "text": (
        "what does it say", f"what does the (sign|{PIC}|text|label) say", "read (it|this|the text|the sign|the writing|that)", "(please |)read (it|this|the text)( for me| aloud| to me|)", f"what (text|writing) (is|do you see) (there|in the {PIC}|here)",
        f"what is written (there|here|in the {PIC}|on the (sign|{PIC})|)", "can you read (it|this|that|the text)", f"{ASK} what (it says|is written there|the sign says)", "what is the text", "what does this say", "what do you read", "which text is shown",
        "what stands there", "what(| i|')s written (here|there)",
    ),
    "word": (
        f"(what|which) word is (written|shown|printed) (there|here|in the {PIC}|on the sign|)", "(what|which) word (do you see|is this|is it|can you read)", "read the word", "what is the word", "(what|which) word is in the picture",
        f"{ASK} the word", "please read the word", "can you read the word",
    ),
    "number": (
        f"(what|which) number is (written|shown|printed) (there|here|in the {PIC}|)", "(what|which) number (do you see|is this|is it|is that|can you see)", "read the (number|digits|figures)", "what is the number", "what(| i|')s the number",
        f"{ASK} the number", "which number is it", "can you read the number", f"(what|which) number is (in|on) the {PIC}", "what is this number", "what digits are (there|shown)",
    ),
    "price": (
        "how much is the {d}", "what does the {d} cost", "how much does the {d} cost", "(what is|what's) the price of the {d}", "price of the {d}", f"{ASK} the price of the {{d}}", "how much for the {d}", "what do i pay for the {d}", "how expensive is the {d}",
    ),
    "hello": ("hello", "hi", "hey", "hi there", "hello there", "good (morning|evening|day|afternoon)", "hello(, how are you| again|)", "greetings", "hey you", "hi(,|) (bot|model|computer|friend)", "how are you", "how do you do", "yo", "hello world"),
    "about": (
        "what can you do", "who are you", "what are you", "help", "what do you know", "what is your name", "how do you work", "tell me about (you|yourself)", "what kind of model are you", "are you (a robot|human|an ai|chatgpt|a person)", "what can i ask( you|)", "can you help me",
        "what are you (good|able) (at|to do|for)", "what is this (program|demo)", "introduce yourself", "what are your (skills|limits)", "what should i do", "how does this work", "how can you help( me|)", "explain what you can do",
    ),
    "thanks": ("thanks", "thank you", "thank you very much", "thanks a lot", "great", "(very |)good", "well done", "ok", "okay", "nice", "cool", "i see", "perfect", "wow", "good job", "yes", "correct", "that is right"),
    "bye": ("bye", "goodbye", "see you( later|)", "good night", "bye bye", "that is all", "quit", "exit"),
    "again": ("again", "once more", "say (that|it) again", "read it again", "(can you |)repeat( that|)", "what (did you say|was that)", "sorry", "pardon", "tell me again", "are you sure", "really"),
    "of them": ("how many of them", "how many (are there|of them are there|do you see|is that)", "and how many", "how many are they", "count them", "and how many are there"),
}  # fmt: skip

HELD_OUT: dict[str, tuple[str, ...]] = {
    "colour": (f"i would like to hear which {COL} the {{s}} was given", f"let me know the {{s}}'s {COL}", f"{COL} please: the {{s}}"),
    "colour it": (f"let me know its {COL}", f"its {COL} is"),
    "colour they": (f"let me know which {COL} all the {{p}} share",),
    "shape": ("identify the {c} one", "the {c} one has what shape", "describe the shape drawn in {c}"),
    "shape it": ("identify the shape", "name this geometric form"),
    "shape they": ("identify these shapes",),
    "count": ("give the total of {p}", "can you work out how many {p} we have", "{p}: how many"),
    "position": ("locate the {o}", "point me to the {o}", "show me the place of the {o}"),
    "side x": ("does the {o} lie to the left or to the right of the {q}", "would you say the {o} is left or right of the {q}"),
    "side y": ("does the {o} lie above or below the {q}", "would you say the {o} is above or below the {q}"),
    "side free": ("where does the {o} lie as seen from the {q}",),
    "side yes": ("would you say the {o} is {r} the {q}",),
    "side what": ("i wonder what lies {r} the {q}",),
    "exists": ("does {a} appear anywhere", "is {a} part of it", "check for {a}"),
    "size": ("would you call the {o} big or small", "size of the {o}"),
    "describe": ("give me a short description", "what might this be", "summarise the picture"),
    "text": ("transcribe it", "spell out what is printed here"),
    "word": ("tell me which word they wrote", "the word is"),
    "number": ("tell me which number they wrote", "the number, please"),
    "price": ("the {d} costs how much", "how many euros is the {d}"),
}  # fmt: skip


def _split(text: str) -> list[str]:
    """Alternatives at the top level."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "|" and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


@cache
def _parsed(pattern: str) -> tuple[str | tuple[str, ...], ...]:
    """Literal pieces and groups of alternatives."""
    out: list[str | tuple[str, ...]] = []
    at = 0
    while at < len(pattern):
        if pattern[at] != "(":
            end = pattern.find("(", at)
            end = len(pattern) if end < 0 else end
            out.append(pattern[at:end])
            at = end
            continue
        depth, end = 1, at + 1
        while depth:
            depth += (pattern[end] == "(") - (pattern[end] == ")")
            end += 1
        out.append(tuple(_split(pattern[at + 1 : end - 1])))
        at = end
    return tuple(out)


def expand(rng: Rng, pattern: str) -> str:
    """One of the pattern's texts."""
    pieces = []
    for part in _parsed(pattern):
        if isinstance(part, tuple):
            chosen = part[int(rng.integers(len(part)))]
            part = expand(rng, chosen) if "(" in chosen else chosen
        pieces.append(part)
    return re.sub(r" +", " ", "".join(pieces)).strip()


def _typo(rng: Rng, text: str) -> str:
    """One letter doubled, lost, or changed with its neighbour, not in the first letter of a word."""
    places = [i for i in range(1, len(text) - 1) if text[i - 1 : i + 2].isalpha()]
    if not places:
        return text
    i = places[int(rng.integers(len(places)))]
    kind = int(rng.integers(3))
    if kind == 0:
        return text[:i] + text[i] + text[i:]
    return text[:i] + text[i + 1 :] if kind == 1 else text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def typed(rng: Rng, text: str, *, is_question: bool = True, plain: bool = False) -> str:
    """As somebody types it: capitals, question mark, politeness, typos."""
    if not plain:
        roll = rng.random()
        if roll < 0.06:
            text = ("hi, ", "ok, ", "so ", "and ", "now ", "please ", "well, ", "hey, ")[
                int(rng.integers(8))
            ] + text
        elif roll < 0.1:
            text += (" please", ", please", " here", " now")[int(rng.integers(4))]
        if rng.random() < 0.08:
            text = _typo(rng, text)
        text = text.replace("i want", "I want").replace("i think", "I think") if rng.random() < 0.7 else text
    end = "?" if is_question else "."
    if plain or rng.random() < 0.68:
        text = text[:1].upper() + text[1:]
    elif rng.random() < 0.04:
        text = text.upper()
    if plain or rng.random() < 0.75:
        text += end if plain or rng.random() < 0.93 else end * 2
    return text


IMPERATIVE = (
    "tell",
    "say",
    "name",
    "give",
    "please",
    "count",
    "read",
    "describe",
    "look",
    "explain",
    "i ",
    "let",
    "identify",
    "locate",
    "point",
    "show",
    "check",
    "summarise",
    "transcribe",
    "spell",
    "number of",
    "colo",
    "price",
    "size",
)


def phrase(rng: Rng, kind: str, *, held_out: bool = False, plain: bool = False, **gaps: str) -> str:
    """A wording of a kind of question with its gaps filled."""
    table = HELD_OUT if held_out and kind in HELD_OUT else TRAINED
    patterns = table[kind]
    text = expand(rng, patterns[int(rng.integers(len(patterns)))]).format(**gaps)
    text = text.replace("what s ", "whats ").replace("what is's", "what's").replace("where s ", "wheres ")
    is_question = not text.startswith(IMPERATIVE) and kind not in ("hello", "thanks", "bye")
    return typed(rng, text, is_question=is_question, plain=plain)
