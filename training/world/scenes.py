"""The pictures of the demo model, described by dataclasses: what is where, before it is drawn (drawing.py).

A scene has shapes and emoji that never overlap, and lines of text, on one of many backgrounds. Training takes
its seeds from TRAIN_SEEDS and evaluation from EVAL_SEEDS; the two ranges share no number.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from bluelm_gguf.demo.views import TILE, placement, relaxed_grid

from . import fonts
from .names import COLOURS, REGIONS, SHAPES, THINGS, Rgb

Rect = tuple[float, float, float, float]
Rng = np.random.Generator
T = TypeVar("T")

TRAIN_SEEDS = range(0, 2**40)
EVAL_SEEDS = range(2**40, 2**41)
LARGE_GRIDS = ((2, 1), (1, 2), (3, 1), (1, 3), (2, 2))
BACKGROUNDS = ("plain", "plain", "plain", "gradient", "gradient", "noise", "stripes", "grid", "clouds")
FINISHES = ("plain", "plain", "outline", "shadow", "gradient", "rough")
HELD_OUT_FINISH = "wobbly"
WORDS = [
    "stop",
    "open",
    "sale",
    "hotel",
    "exit",
    "taxi",
    "bus",
    "cafe",
    "shop",
    "park",
    "free",
    "new",
    "hot",
    "cold",
    "book",
    "fish",
    "menu",
    "bank",
    "farm",
    "gold",
    "help",
    "home",
    "lamp",
    "moon",
    "music",
    "north",
    "south",
    "pizza",
    "post",
    "river",
    "road",
    "star",
    "sun",
    "tea",
    "train",
    "water",
    "zoo",
    "quiet",
    "jam",
    "van",
    "push",
    "pull",
    "danger",
    "welcome",
    "enter",
    "closed",
    "ticket",
    "street",
    "school",
    "office",
    "coffee",
    "bread",
    "milk",
    "soup",
    "salad",
    "lunch",
    "hello",
    "thanks",
    "please",
    "summer",
    "winter",
    "happy",
    "love",
    "peace",
    "party",
    "game",
    "garden",
    "kitchen",
    "window",
    "door",
    "table",
    "chair",
    "london",
    "paris",
    "berlin",
    "rome",
    "east",
    "west",
    "left",
    "right",
    "start",
    "finish",
    "yes",
    "no",
    "good",
    "day",
    "night",
    "morning",
    "police",
    "doctor",
    "phone",
    "radio",
    "camera",
    "paper",
    "letter",
    "number",
    "house",
    "car",
    "tree",
    "flower",
    "dog",
    "cat",
    "bird",
    "horse",
    "apple",
    "lemon",
    "cake",
    "sugar",
]
DISHES = (
    "soup",
    "salad",
    "pizza",
    "pasta",
    "burger",
    "fish",
    "rice",
    "cake",
    "coffee",
    "tea",
    "juice",
    "bread",
)


@dataclass(frozen=True)
class Item:
    """A shape or an emoji. cx, cy and size in pixels of the picture; `size` is about the diameter."""

    kind: str
    colour: str | None  # None for an emoji
    cx: float
    cy: float
    size: float
    angle: float  # radians
    rgb: Rgb
    finish: str = "plain"
    line: Rgb = (0, 0, 0)  # of an outline
    style: str = ""  # set of an emoji

    @property
    def size_name(self) -> str | None:
        return "small" if self.size <= 66 else "big" if self.size >= 84 else None


@dataclass(frozen=True)
class Text:
    """One line; glyph i has its middle at (x[i], y), pixels of the picture; a blank has one, too."""

    string: str
    x: tuple[float, ...]
    y: float
    font: str
    font_size: int
    rgb: Rgb

    @property
    def is_number(self) -> bool:
        return self.string.isdigit()


@dataclass(frozen=True)
class Background:
    kind: str
    start: Rgb
    end: Rgb
    horizontal: bool
    noise: int
    border: int = 0


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn.

    `frame` is the size of the whole picture and `origin` where this piece of it begins: training also draws
    small windows of a tile, and "top left" always means the top left of the whole picture.
    """

    width: int
    height: int
    background: Background
    items: tuple[Item, ...]
    texts: tuple[Text, ...]
    origin: tuple[int, int]
    frame: tuple[int, int]
    grid: tuple[int, int] = (1, 1)
    noise_seed: int = 0
    quality: int = 0  # of JPEG; 0: none
    blur: float = 1.0  # drawn at this share of the size, then enlarged
    smooth: bool = True  # anti-aliased
    document: tuple[tuple[str, int], ...] = ()  # (dish, price) of a menu or receipt
    unknown: bool = False

    def region(self, item: Item) -> str | None:
        """The name of the item's place in the picture, None where no name fits clearly."""
        u = (self.origin[0] + item.cx) / self.frame[0]
        v = (self.origin[1] + item.cy) / self.frame[1]
        col = 0 if u < 0.31 else 2 if u > 0.69 else 1 if 0.39 < u < 0.61 else None
        row = 0 if v < 0.31 else 2 if v > 0.69 else 1 if 0.39 < v < 0.61 else None
        return None if col is None or row is None else REGIONS[3 * row + col]


def pick(rng: Rng, items: Sequence[T]) -> T:
    """One of the items."""
    return items[int(rng.integers(len(items)))]


def _rgb(values: np.ndarray) -> Rgb:
    r, g, b = (int(v) for v in np.clip(values, 0, 255))
    return r, g, b


def luma(rgb: Rgb) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def random_background(rng: Rng, calm: bool = False) -> Background:
    kind = "plain" if calm else pick(rng, BACKGROUNDS)
    roll = rng.random()
    if roll < 0.25:
        start = np.full(3, 255.0)
    elif roll < 0.5:
        start = np.full(3, rng.choice([128.0, 192.0, 211.0, 240.0, 100.0, 64.0, rng.uniform(40, 245)]))
    elif roll < 0.58:
        start = np.zeros(3) + rng.uniform(0, 20)
    elif roll < 0.9:
        start = np.clip(rng.uniform(60, 245) + rng.uniform(-28, 28, 3), 0, 255)
    else:
        start = rng.uniform(0, 255, 3)
    end = (
        np.clip(start + rng.uniform(-45, 45) + rng.uniform(-10, 10, 3), 0, 255) if kind != "plain" else start
    )
    noise = 0 if rng.random() < 0.5 else int(rng.integers(1, 14))
    border = int(rng.integers(2, 12)) if rng.random() < 0.1 else 0
    return Background(kind, _rgb(start), _rgb(end), bool(rng.random() < 0.5), noise, border)


def _visible(rgb: Rgb, background: Background) -> bool:
    return all(
        float(np.abs(np.asarray(rgb, float) - np.asarray(side, float)).sum()) > 110
        for side in (background.start, background.end)
    )


def _jitter(rng: Rng, rgb: Rgb) -> Rgb:
    return _rgb(np.asarray(rgb) + rng.uniform(-10, 10, 3) * (rng.random() < 0.6))


def paint(rng: Rng, colour: str, background: Background) -> Rgb | None:
    """A value of the colour that stands out from the background."""
    for _ in range(3):
        rgb = _jitter(rng, pick(rng, COLOURS[colour]))
        if _visible(rgb, background):
            return rgb
    return None


def visible_colours(background: Background) -> list[str]:
    """Colours that stand out from a background."""
    return [c for c, values in COLOURS.items() if all(_visible(v, background) for v in values[:2])]


@functools.cache
def _dictionary() -> tuple[str, ...]:
    """English words of 3 to 9 letters (Debian: wamerican), none if it is not installed."""
    path = Path("/usr/share/dict/american-english")
    if not path.exists():
        return ()
    words = path.read_text(encoding="utf-8").split()
    return tuple(w for w in words if 3 <= len(w) <= 9 and w.isascii() and w.isalpha() and w.islower())


def is_held_out_word(word: str) -> bool:
    """One of eleven words of the dictionary is kept for evaluation."""
    return sum(word.lower().encode()) % 11 == 0


def _string(rng: Rng, longest: int, held_out: bool) -> str:
    if rng.random() < 0.42:
        n = int(rng.integers(1, min(5, longest) + 1))
        return str(int(rng.integers(10 ** (n - 1), 10**n))) if n > 1 else str(int(rng.integers(0, 10)))
    n = min(longest, 8)
    word = ""
    if rng.random() < 0.75:
        pool: Sequence[str] = _dictionary() if _dictionary() and (held_out or rng.random() < 0.6) else WORDS
        for _ in range(60):
            word = pick(rng, pool)
            if len(word) <= n and is_held_out_word(word) == held_out:
                break
            word = ""
    if not word:
        length = int(rng.integers(min(2, n), n + 1))
        word = "".join(chr(97 + int(i)) for i in rng.integers(0, 26, length))
    roll = rng.random()
    return word.upper() if roll < 0.5 else word.capitalize() if roll < 0.7 else word


def _line(
    rng: Rng, string: str, rect: Rect, name: str, size: int, background: Background, at: str = ""
) -> Text | None:
    """A line wholly inside rect (x0, y0, x1, y1), at random or at its "left" or "right" end."""
    face = fonts.font(name, size)
    x0, y0, x1, y1 = rect
    box = face.getbbox(string, anchor="ls")
    width, top, bottom = box[2] - box[0], box[1], box[3]
    room_x, room_y = x1 - x0 - width - 6, y1 - y0 - (bottom - top) - 4
    if room_x < 0 or room_y < 0:
        return None
    left = x0 + 3 + (0 if at == "left" else room_x if at == "right" else rng.random() * room_x) - box[0]
    base = y0 + 2 - top + rng.random() * room_y
    ends = [face.getlength(string[:i]) for i in range(len(string) + 1)]
    x = tuple(float(left + (a + b) / 2) for a, b in itertools.pairwise(ends))
    light = luma(background.start) + luma(background.end) > 256
    rgb: Rgb = (10, 10, 10) if light else (245, 245, 245)
    if rng.random() < 0.3:
        other = paint(rng, pick(rng, list(COLOURS)), background)
        if other is not None and abs(luma(other) - (luma(background.start) + luma(background.end)) / 2) > 80:
            rgb = other
    return Text(string, x, float(base + (top + bottom) / 2), name, size, _jitter(rng, rgb))


def _place_text(
    rng: Rng, rect: Rect, scale: float, background: Background, held_out: bool, sizes: tuple[int, int]
) -> Text | None:
    name = pick(rng, fonts.installed(fonts.HELD_OUT if held_out else fonts.TRAINED))
    for _ in range(6):
        size = round(math.exp(rng.uniform(math.log(sizes[0]), math.log(sizes[1]))) / scale)
        room = (rect[2] - rect[0]) / (0.62 * size)
        if room < 1:
            continue
        text = _line(rng, _string(rng, int(min(9, max(1, room))), held_out), rect, name, size, background)
        if text is not None:
            return text
    return None


def _place_items(
    rng: Rng,
    wanted: list[tuple[str, str | None]],
    rects: list[Rect],
    scale: float,
    texts: Sequence[Text],
    frame: tuple[int, int],
    background: Background,
    finish: str,
    style: str,
    spread: bool,
) -> list[Item]:
    placed: list[Item] = []
    limit = min(min(r[2] - r[0], r[3] - r[1]) for r in rects) * scale * 0.84
    most = min(limit, {1: 260, 2: 170, 3: 130}.get(len(wanted), 105))
    line = _rgb(rng.uniform(0, 255, 3)) if rng.random() < 0.5 else (0, 0, 0)
    same = math.exp(rng.uniform(math.log(38), math.log(max(40, most)))) if rng.random() < 0.4 else None
    aligned = (
        rng.uniform(frame[1] * 0.25, frame[1] * 0.75) if len(wanted) > 1 and rng.random() < 0.2 else None
    )
    shrink = 1.0
    for kind, colour in wanted:
        tall = pick(rng, REGIONS) if spread else None
        for attempt in range(40):
            size = (same or math.exp(rng.uniform(math.log(38), math.log(max(40, most))))) * shrink / scale
            size = max(34 / scale, min(size, limit / scale))
            x0, y0, x1, y1 = rects[int(rng.integers(len(rects)))]
            half = size * 0.56
            if tall is not None and attempt < 20:
                index = REGIONS.index(tall)
                cx = frame[0] * ((index % 3) * 0.36 + rng.uniform(0.02, 0.26))
                cy = frame[1] * ((index // 3) * 0.36 + rng.uniform(0.02, 0.26))
                if attempt % 5 == 4:
                    tall = pick(rng, REGIONS)
            else:
                cx, cy = rng.uniform(x0, x1), rng.uniform(y0, y1)
            if aligned is not None and attempt < 30:
                cy = aligned
            shrink = 1.0 if attempt < 10 else 0.8 if attempt < 25 else 0.6
            if not (x0 + half <= cx <= x1 - half and y0 + half <= cy <= y1 - half):
                continue
            gap = 5 / scale
            if any(math.hypot(cx - s.cx, cy - s.cy) < (size + s.size) * 0.55 + gap for s in placed):
                continue
            if any(
                t.x[0] - t.font_size * 0.6 - half < cx < t.x[-1] + t.font_size * 0.6 + half
                and abs(cy - t.y) < t.font_size * 0.6 + half
                for t in texts
            ):
                continue
            rgb = paint(rng, colour, background) if colour is not None else (0, 0, 0)
            if rgb is None:
                break
            angle = 0.0 if rng.random() < 0.4 else float(rng.uniform(-0.26, 0.26))
            placed.append(
                Item(kind, colour, float(cx), float(cy), float(size), angle, rgb, finish, line, style)
            )
            break
    return placed


def _random_large(rng: Rng, grids: Sequence[tuple[int, int]]) -> tuple[int, int, tuple[int, int]]:
    cols, rows = grids[int(rng.integers(len(grids)))]
    for _ in range(400):
        width = int(rng.uniform(0.8, 1.1) * cols * TILE)
        height = int(rng.uniform(0.8, 1.1) * rows * TILE)
        if relaxed_grid(width, height) == (cols, rows):
            return width, height, (cols, rows)
    return cols * TILE, rows * TILE, (cols, rows)


def _wanted(
    rng: Rng, mode: str, most: int, colours: list[str], styles: Sequence[str]
) -> list[tuple[str, str | None]]:
    """Kinds and colours of the items of a scene."""
    things = list(THINGS)
    if mode == "things":
        if not styles:
            return _wanted(rng, "distinct", most, colours, styles)
        n = min(most, int(rng.choice([1, 1, 2, 3, 4])))
        if n > 1 and rng.random() < 0.4:
            target = pick(rng, things)
            return [
                (target if i < n - 1 or rng.random() < 0.6 else pick(rng, things), None) for i in range(n)
            ]
        return [(things[int(k)], None) for k in rng.permutation(len(things))[:n]]
    if mode == "count":
        n = int(rng.integers(1, 7))
        target, colour = pick(rng, SHAPES), pick(rng, colours)
        uniform = rng.random() < 0.45
        wanted: list[tuple[str, str | None]] = [
            (target, colour if uniform else pick(rng, colours)) for _ in range(min(n, most))
        ]
        others = [k for k in SHAPES if k != target]
        extra = int(rng.integers(0, 4)) if rng.random() < 0.6 else 0
        wanted += [(pick(rng, others), pick(rng, colours)) for _ in range(extra)]
        return wanted[:most]
    n = int(rng.integers(1, 5)) if mode == "distinct" else int(rng.integers(0, 3))
    n = min(n, most)
    kinds, cols_ = rng.permutation(len(SHAPES))[:n], rng.permutation(len(colours))[:n]
    return [(SHAPES[int(k)], colours[int(c)]) for k, c in zip(kinds, cols_, strict=False)]


def compose(
    seed: int,
    *,
    width: int = TILE,
    height: int = TILE,
    origin: tuple[int, int] = (0, 0),
    frame: tuple[int, int] | None = None,
    large: bool = False,
    mode: str | None = None,
    held_out: bool = False,
    most: int = 6,
    grids: Sequence[tuple[int, int]] = LARGE_GRIDS,
    wanted: list[tuple[str, str | None]] | None = None,
    background: Background | None = None,
    finish: str | None = None,
    style: str | None = None,
    text_sizes: tuple[int, int] = (34, 130),
) -> Scene:
    """A scene from a seed.

    Args:
        seed: An integer of TRAIN_SEEDS or EVAL_SEEDS.
        width, height, origin: The piece to draw of a tile of 384 x 384 (not for large pictures).
        frame: The picture's size, where it is not the tile.
        large: A picture of several tiles; each line of text lies inside one of them.
        mode: "distinct", "count", "text", "things", "empty", "unknown" or "menu".
        held_out: Fonts, emoji, words and a way of drawing that training never sees.
        most: Of items.
        wanted: Kinds and colours of the items instead of random ones.
        background, finish, style: Instead of random ones.
    """
    rng = np.random.default_rng(seed)
    grid, scale = (1, 1), 1.0
    if large:
        width, height, grid = _random_large(rng, grids)
        scale = placement(width, height, *grid)[0]
        origin, frame = (0, 0), (width, height)
    frame = frame or (TILE, TILE)
    mode = mode or str(rng.choice(["distinct", "count", "text", "things"], p=[0.3, 0.3, 0.25, 0.15]))
    given_background = background is not None
    background = background or random_background(rng)
    if mode in ("text", "menu") and not given_background and background.kind in ("stripes", "grid"):
        background = random_background(rng, calm=True)
    colours = visible_colours(background)
    while len(colours) < 4:
        background = random_background(rng)
        colours = visible_colours(background)
    rects: list[Rect] = [(2.0, 2.0, width - 2.0, height - 2.0)]
    if large and mode == "text":
        cols, rows = grid
        _, _, _, left, top = placement(width, height, cols, rows)
        margin = 4 / scale
        rects = []
        for r in range(rows):
            for c in range(cols):
                x0, y0 = (c * TILE - left) / scale, (r * TILE - top) / scale
                x1, y1 = ((c + 1) * TILE - left) / scale, ((r + 1) * TILE - top) / scale
                rects.append(
                    (
                        max(x0, 0) + margin,
                        max(y0, 0) + margin,
                        min(x1, width) - margin,
                        min(y1, height) - margin,
                    )
                )
        most = min(most, 2)
    styles = fonts.emoji_styles((fonts.HELD_OUT_EMOJI,) if held_out else fonts.TRAINED_EMOJI)
    styles = styles or fonts.emoji_styles(fonts.TRAINED_EMOJI)
    style = style or (pick(rng, styles) if styles else "")
    if finish is None:
        finish = HELD_OUT_FINISH if held_out and rng.random() < 0.5 else pick(rng, FINISHES)
    texts: list[Text] = []
    document: tuple[tuple[str, int], ...] = ()
    if mode == "text":
        text = _place_text(rng, pick(rng, rects), scale, background, held_out, text_sizes)
        texts = [text] if text is not None else []
    elif mode == "menu":
        texts, document = _menu(rng, rects[0], scale, background, held_out)
    if wanted is None:
        wanted = [] if mode in ("empty", "unknown", "menu") else _wanted(rng, mode, most, colours, styles)
    whole = (width, height) == frame and not large
    spread = whole and mode != "text" and rng.random() < 0.5
    items = _place_items(rng, wanted, rects, scale, texts, frame, background, finish, style, spread)
    return Scene(
        width, height, background, tuple(items), tuple(texts), origin, frame, grid, int(rng.integers(2**31)),
        quality=int(rng.integers(30, 92)) if rng.random() < 0.2 else 0,
        blur=float(rng.uniform(0.55, 0.95)) if rng.random() < 0.2 else 1.0,
        smooth=bool(rng.random() < 0.6), document=document, unknown=mode == "unknown",
    )  # fmt: skip


def _menu(
    rng: Rng, rect: Rect, scale: float, background: Background, held_out: bool
) -> tuple[list[Text], tuple[tuple[str, int], ...]]:
    """A heading and lines of a dish and its price."""
    name = pick(rng, fonts.installed(fonts.HELD_OUT if held_out else fonts.TRAINED))
    x0, y0, x1, y1 = rect
    n = int(rng.integers(2, 5))
    pitch = (y1 - y0) / (n + 1)
    size = round(min(pitch * 0.55, (x1 - x0) / 7, rng.uniform(30, 52) / scale))
    heading = _line(
        rng, pick(rng, ("MENU", "Menu", "CAFE", "Lunch")), (x0, y0, x1, y0 + pitch), name, size, background
    )
    lines = [heading] if heading is not None else []
    document = []
    for i, k in enumerate(rng.permutation(len(DISHES))[:n]):
        dish, price = DISHES[int(k)], int(rng.integers(1, 20))
        top = y0 + pitch * (i + 1)
        middle = (x0 + x1) / 2
        left = _line(
            rng, dish.capitalize(), (x0 + 8, top, middle + 30, top + pitch), name, size, background, "left"
        )
        right = _line(
            rng, str(price), (middle + 40, top, x1 - 8, top + pitch), name, size, background, "right"
        )
        if left is not None and right is not None:
            shift = left.y - right.y
            lines += [left, Text(right.string, right.x, right.y + shift, name, size, left.rgb)]
            document.append((dish, price))
    return lines, tuple(document)
