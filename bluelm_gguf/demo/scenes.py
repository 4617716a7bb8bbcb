"""The pictures of the demo model: drawn from an integer seed, described by dataclasses.

A scene has shapes (never overlapping) and at most one string of letters or digits, on a plain or graded
background.

Training takes its seeds from TRAIN_SEEDS and evaluation from EVAL_SEEDS; the two ranges share no number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .views import TILE, placement, relaxed_grid

Rgb = tuple[int, int, int]
Rect = tuple[float, float, float, float]
Rng = np.random.Generator
T = TypeVar("T")

TRAIN_SEEDS = range(0, 2**40)
EVAL_SEEDS = range(2**40, 2**41)

COLOURS = {
    "red": (214, 32, 36),
    "orange": (250, 135, 10),
    "yellow": (246, 220, 30),
    "green": (34, 152, 52),
    "blue": (36, 78, 214),
    "purple": (136, 46, 168),
    "black": (14, 14, 16),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
REGIONS = ("top left", "top right", "centre", "bottom left", "bottom right")
SIZES = ("small", "big")
WORDS = (
    "STOP",
    "OPEN",
    "SALE",
    "HOTEL",
    "EXIT",
    "TAXI",
    "BUS",
    "CAFE",
    "SHOP",
    "PARK",
    "FREE",
    "NEW",
    "HOT",
    "COLD",
    "BOOK",
    "FISH",
    "MENU",
    "BANK",
    "FARM",
    "GOLD",
    "HELP",
    "HOME",
    "LAMP",
    "MOON",
    "MUSIC",
    "NORTH",
    "SOUTH",
    "PIZZA",
    "POST",
    "RIVER",
    "ROAD",
    "STAR",
    "SUN",
    "TEA",
    "TRAIN",
    "WATER",
    "ZOO",
    "QUIET",
    "JAM",
    "VAN",
)
GLYPHS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LARGE_GRIDS = ((2, 1), (1, 2), (3, 1), (1, 3), (2, 2))


@dataclass(frozen=True)
class Shape:
    """One shape. cx, cy and size in pixels of the picture; `size` is about the diameter."""

    kind: str
    colour: str
    cx: float
    cy: float
    size: float
    size_name: str
    angle: float  # radians
    rgb: Rgb


@dataclass(frozen=True)
class Text:
    """A string; glyph i has its middle at (x[i], y), pixels of the picture."""

    string: str
    x: tuple[float, ...]
    y: float
    font_size: int
    stroke: int
    rgb: Rgb

    @property
    def is_number(self) -> bool:
        return self.string.isdigit()


@dataclass(frozen=True)
class Background:
    start: Rgb
    end: Rgb
    horizontal: bool
    noise: int


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn.

    `frame` is the size of the whole picture and `origin` where this piece of it begins: training also draws
    small windows of a tile, and "top left" always means the top left of the whole picture.
    """

    width: int
    height: int
    background: Background
    shapes: tuple[Shape, ...]
    text: Text | None
    origin: tuple[int, int]
    frame: tuple[int, int]
    grid: tuple[int, int] = (1, 1)
    noise_seed: int = 0

    def region(self, shape: Shape) -> str | None:
        """The name of the shape's place in the picture, None where no name fits clearly."""
        u = (self.origin[0] + shape.cx) / self.frame[0] - 0.5
        v = (self.origin[1] + shape.cy) / self.frame[1] - 0.5
        if abs(u) < 0.1 and abs(v) < 0.1:
            return "centre"
        if abs(u) > 0.15 and abs(v) > 0.15:
            return ("top" if v < 0 else "bottom") + (" left" if u < 0 else " right")
        return None


def _luma(rgb: Rgb) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def pick(rng: Rng, items: Sequence[T]) -> T:
    """One of the items."""
    return items[int(rng.integers(len(items)))]


def random_background(rng: Rng) -> Background:
    level = rng.uniform(172, 232) if rng.random() < 0.6 else rng.uniform(44, 104)
    tint = rng.uniform(-14, 14, 3)
    start = np.clip(level + tint, 30, 240)
    end = start
    if rng.random() < 0.5:
        end = np.clip(start + rng.uniform(-22, 22), 30, 240)
    return Background(
        _rgb(start),
        _rgb(end),
        bool(rng.random() < 0.5),
        int(rng.integers(0, 9)),
    )


def _visible(rgb: Rgb, background: Background) -> bool:
    mean = (np.asarray(background.start, float) + np.asarray(background.end, float)) / 2
    return float(np.abs(np.asarray(rgb) - mean).sum()) > 90


def visible_colours(background: Background) -> list[str]:
    """Colours that stand out from a background."""
    return [c for c, rgb in COLOURS.items() if _visible(rgb, background)]


def _rgb(values: np.ndarray) -> Rgb:
    r, g, b = (int(v) for v in np.clip(values, 0, 255))
    return r, g, b


def _jitter(rng: Rng, rgb: Rgb) -> Rgb:
    return _rgb(np.asarray(rgb) + rng.uniform(-12, 12, 3))


def _string(rng: Rng, longest: int, closed: bool) -> str:
    if rng.random() < (0.5 if closed else 0.4):
        n = int(rng.integers(1, min(4, longest) + 1))
        return str(int(rng.integers(10 ** (n - 1), 10**n))) if n > 1 else str(int(rng.integers(0, 10)))
    words = [w for w in WORDS if len(w) <= longest]
    if words and (closed or rng.random() < 0.6):
        return pick(rng, words)
    n = int(rng.integers(min(3, longest), longest + 1))
    return "".join(GLYPHS[10 + int(i)] for i in rng.integers(0, 26, n))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow without FreeType"
    return font


@functools.cache
def _glyph_box(char: str, size: int, stroke: int) -> tuple[float, float]:
    left, _, right, _ = _font(size).getbbox(char, anchor="ls", stroke_width=stroke)
    return (right - left, (left + right) / 2)


def _place_text(rng: Rng, string: str, rect: Rect, scale: float, background: Background) -> Text | None:
    """A string wholly inside rect (x0, y0, x1, y1). scale: pixels of the tile for one of the picture."""
    font_size = round(rng.uniform(32, 40) / scale)
    stroke = int(rng.integers(1, 3)) if scale > 0.75 else 2
    widest = max(_glyph_box(c, font_size, stroke)[0] for c in string)
    advance = max(rng.uniform(28.5, 33) / scale, widest + 3 / scale)
    half_h = 0.5 * font_size
    x0, y0, x1, y1 = rect
    room_x, room_y = (x1 - x0) - advance * len(string), (y1 - y0) - 2 * half_h
    if room_x < 0 or room_y < 0:
        return None
    left, y = x0 + rng.random() * room_x, y0 + half_h + rng.random() * room_y
    light = _luma(background.start) + _luma(background.end) > 256
    rgb = COLOURS["black"] if light else COLOURS["white"]
    if rng.random() < 0.25:
        other = COLOURS[pick(rng, list(COLOURS))]
        if abs(_luma(other) - (_luma(background.start) + _luma(background.end)) / 2) > 95:
            rgb = other
    return Text(
        string,
        tuple(left + advance * (i + 0.5) for i in range(len(string))),
        y,
        font_size,
        stroke,
        _jitter(rng, rgb),
    )


def _place_shapes(
    rng: Rng,
    wanted: list[tuple[str, str]],
    rects: list[Rect],
    scale: float,
    text: Text | None,
    frame: tuple[int, int],
    spread: bool,
) -> list[Shape]:
    placed: list[Shape] = []
    sizes = {"small": (44, 60), "big": (82, 118)}
    limit = min(min(r[2] - r[0], r[3] - r[1]) for r in rects) * scale * 0.8
    small_share = 0.45 if len(wanted) <= 3 else 0.7
    for kind, colour in wanted:
        size_name = "small" if (limit < 82 or rng.random() < small_share) else "big"
        low, high = sizes[size_name]
        size = rng.uniform(low, min(high, limit)) / scale
        rgb = _jitter(rng, COLOURS[colour])
        region = pick(rng, REGIONS) if spread else None
        for attempt in range(30):
            x0, y0, x1, y1 = rects[int(rng.integers(len(rects)))]
            half = size * 0.58
            if region is not None and attempt < 20:
                if region == "centre":
                    cx, cy = frame[0] * rng.uniform(0.41, 0.59), frame[1] * rng.uniform(0.41, 0.59)
                else:
                    gx, gy = rng.uniform(0.0, 0.34, 2)
                    cx = frame[0] * (gx if "left" in region else 1 - gx)
                    cy = frame[1] * (gy if "top" in region else 1 - gy)
                if attempt % 5 == 4:
                    region = pick(rng, REGIONS)
            else:
                cx, cy = rng.uniform(x0, x1), rng.uniform(y0, y1)
            if not (x0 + half <= cx <= x1 - half and y0 + half <= cy <= y1 - half):
                continue
            gap = 6 / scale
            if any(math.hypot(cx - s.cx, cy - s.cy) < (size + s.size) * 0.56 + gap for s in placed):
                continue
            if text is not None:
                pad = text.font_size * 0.6
                if text.x[0] - pad - half < cx < text.x[-1] + pad + half and abs(cy - text.y) < pad + half:
                    continue
            angle = rng.uniform(-0.25, 0.25)
            placed.append(
                Shape(kind, colour, float(cx), float(cy), float(size), size_name, float(angle), rgb)
            )
            break
    return placed


def compose(
    seed: int,
    *,
    width: int = TILE,
    height: int = TILE,
    origin: tuple[int, int] = (0, 0),
    mode: str | None = None,
    closed_words: bool = True,
    large: bool = False,
    most: int = 5,
    grids: tuple[tuple[int, int], ...] = LARGE_GRIDS,
    wanted: list[tuple[str, str]] | None = None,
    background: Background | None = None,
) -> Scene:
    """The scene of a seed.

    Args:
        width, height: of the picture in pixels (a window of a tile in the first phases of training).
        origin: where a window begins in its 384 x 384 tile; (0, 0) with the full size is a whole picture.
        mode: "distinct" (all shapes and colours differ), "count" (one shape several times), "text"; drawn if
            None.
        closed_words: words only from WORDS; training also shows random letters, so that it learns to read.
        large: a picture of several tiles (of random size) with a string that lies inside one tile.
        most: at most so many shapes.
        grids: the (columns, rows) that a large picture may have.
        wanted: (kind, colour) of the shapes, for a window of a larger scene; drawn if None.
        background: likewise.
    """
    rng = np.random.default_rng(seed)
    scale, rects, grid, frame = 1.0, [(0.0, 0.0, float(width), float(height))], (1, 1), (TILE, TILE)
    if large:
        while True:
            cols, rows = pick(rng, grids)
            width = int(TILE * cols * rng.uniform(0.86, 1.12))
            height = int(TILE * rows * rng.uniform(0.86, 1.12))
            if relaxed_grid(width, height) == (cols, rows):
                break
        scale, _, _, left, top = placement(width, height, cols, rows)
        grid, frame, origin, margin, rects = (cols, rows), (width, height), (0, 0), 7, []
        for r in range(rows):
            for c in range(cols):
                x0, y0 = (
                    max((c * TILE + margin - left) / scale, 2.0),
                    max((r * TILE + margin - top) / scale, 2.0),
                )
                x1, y1 = ((c + 1) * TILE - margin - left) / scale, ((r + 1) * TILE - margin - top) / scale
                rects.append((x0, y0, min(x1, width - 2.0), min(y1, height - 2.0)))
    elif (width, height) == (TILE, TILE):
        rects = [(2.0, 2.0, 376.0, 376.0)]  # 27 patches of 14 pixels end at 378
    background = background or random_background(rng)
    colours = visible_colours(background)
    if mode is None:
        mode = "text" if large else pick(rng, ("distinct",) * 9 + ("count",) * 6 + ("text",) * 5)
    text, given = None, wanted
    wanted = []
    if mode == "text":
        longest = 5
        for _ in range(8):
            rect = pick(rng, rects)
            text = _place_text(rng, _string(rng, longest, closed_words), rect, scale, background)
            if text is not None:
                break
            longest = max(2, longest - 1)
    if mode == "count":
        target, n = pick(rng, SHAPES), int(rng.integers(1, 5))
        extra = int(rng.integers(0, 3)) if rng.random() < 0.6 else 0
        others = [s for s in SHAPES if s != target]
        wanted = [(target, pick(rng, colours)) for _ in range(n)] + [
            (pick(rng, others), pick(rng, colours)) for _ in range(extra)
        ]
        wanted = wanted[:most]
    else:
        n = int(rng.integers(1, 5)) if mode == "distinct" else int(rng.integers(0, 3))
        n = min(n, most)
        kinds, cols_ = rng.permutation(len(SHAPES))[:n], rng.permutation(len(colours))[:n]
        wanted = [(SHAPES[int(k)], colours[int(c)]) for k, c in zip(kinds, cols_, strict=True)]
    if given is not None:
        wanted = given
    whole = (width, height) == frame and not large
    spread = whole and mode != "text" and rng.random() < 0.6
    shapes = _place_shapes(rng, wanted, rects, scale, text, frame, spread)
    return Scene(
        width, height, background, tuple(shapes), text, origin, frame, grid, int(rng.integers(2**31))
    )


def outline(shape: Shape) -> list[tuple[float, float]]:
    """The polygon of a shape (not the circle) around (0, 0), for a size of 1."""
    if shape.kind == "square":
        points = [(-0.43, -0.43), (0.43, -0.43), (0.43, 0.43), (-0.43, 0.43)]
    elif shape.kind == "triangle":
        points = [(0.0, -0.52), (0.52, 0.40), (-0.52, 0.40)]
    elif shape.kind == "star":
        points = [
            (
                (0.56 if i % 2 == 0 else 0.23) * math.sin(i * math.pi / 5),
                -(0.56 if i % 2 == 0 else 0.23) * math.cos(i * math.pi / 5),
            )
            for i in range(10)
        ]
    else:
        a, b = 0.16, 0.5
        points = [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def draw_shape(
    draw: ImageDraw.ImageDraw, shape: Shape, fill: int, scale: float = 1.0, dx: float = 0.0, dy: float = 0.0
) -> None:
    """Draws a shape, moved by (dx, dy) and then enlarged by scale."""
    cx, cy, size = (shape.cx + dx) * scale, (shape.cy + dy) * scale, shape.size * scale
    if shape.kind == "circle":
        r = size * 0.5
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)
    else:
        draw.polygon([(cx + x * size, cy + y * size) for x, y in outline(shape)], fill=fill)


@functools.lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    return np.random.default_rng(20260101).standard_normal((1500, 1500, 1)).astype(np.float32)


def render(scene: Scene) -> np.ndarray:
    """uint8 [height, width, 3]."""
    bg, w, h = scene.background, scene.width, scene.height
    start, end = np.asarray(bg.start, np.float32), np.asarray(bg.end, np.float32)
    n = w if bg.horizontal else h
    ramp = start + (end - start) * np.linspace(0, 1, n, dtype=np.float32)[:, None]
    ramp = ramp.astype(np.uint8)
    pixels = np.broadcast_to(ramp[None] if bg.horizontal else ramp[:, None], (h, w, 3))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for shape in scene.shapes:
        half = int(shape.size * 0.58) + 2
        x0, y0 = int(shape.cx) - half, int(shape.cy) - half
        mask = Image.new("L", (2 * half * 3, 2 * half * 3), 0)
        draw_shape(ImageDraw.Draw(mask), shape, 255, 3.0, -x0, -y0)
        image.paste(shape.rgb, (x0, y0), mask.reduce(3))
    if scene.text is not None:
        text, draw = scene.text, ImageDraw.Draw(image)
        font = _font(text.font_size)
        for char, x in zip(text.string, text.x, strict=True):
            _, middle = _glyph_box(char, text.font_size, text.stroke)
            draw.text(
                (x - middle, text.y + 0.36 * text.font_size),
                char,
                fill=text.rgb,
                font=font,
                anchor="ls",
                stroke_width=text.stroke,
                stroke_fill=text.rgb,
            )
    if bg.noise == 0:
        return np.asarray(image)
    bank = _noise_bank()
    oy, ox = scene.noise_seed % (bank.shape[0] - h), (scene.noise_seed // 1500) % (bank.shape[1] - w)
    noisy = np.asarray(image).astype(np.int16) + (bank[oy : oy + h, ox : ox + w] * bg.noise).astype(np.int16)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def draw_picture(seed: int, *, large: bool = False) -> tuple[Scene, np.ndarray]:
    """A whole picture: 384 x 384, or larger than one tile."""
    scene = compose(seed, large=large)
    return scene, render(scene)
