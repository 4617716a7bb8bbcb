"""Draws scenes: shapes in several finishes, emoji, text in real fonts, backgrounds, JPEG and blur."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image, ImageDraw

from . import fonts
from .scenes import Item, Scene, Text, compose


def _heart_y(t: float) -> float:
    return 0.031 * (5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t) - 13 * math.cos(t))


_STAR = [(0.56 if i % 2 == 0 else 0.23, i * math.pi / 5) for i in range(10)]
_A, _B = 0.16, 0.5
POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.43, -0.43), (0.43, -0.43), (0.43, 0.43), (-0.43, 0.43)],
    "rectangle": [(-0.54, -0.28), (0.54, -0.28), (0.54, 0.28), (-0.54, 0.28)],
    "diamond": [(0.0, -0.55), (0.42, 0.0), (0.0, 0.55), (-0.42, 0.0)],
    "triangle": [(0.0, -0.52), (0.52, 0.40), (-0.52, 0.40)],
    "star": [(r * math.sin(a), -r * math.cos(a)) for r, a in _STAR],
    "cross": [
        (-_A, -_B), (_A, -_B), (_A, -_A), (_B, -_A), (_B, _A), (_A, _A),
        (_A, _B), (-_A, _B), (-_A, _A), (-_B, _A), (-_B, -_A), (-_A, -_A),
    ],
    "circle": [(0.5 * math.cos(i * math.pi / 18), 0.5 * math.sin(i * math.pi / 18)) for i in range(36)],
    "heart": [
        (0.496 * math.sin(t) ** 3, _heart_y(t))
        for t in (i * math.pi / 16 for i in range(32))
    ],
}  # fmt: skip


def outline(item: Item) -> list[tuple[float, float]]:
    """The polygon of a shape around (0, 0), for a size of 1."""
    points = POLYGONS[item.kind]
    if item.kind == "triangle" and int(item.cx) % 4 == 0:  # a right-angled or wider one
        points = [(-0.5 + 0.02 * (int(item.cy) % 50), -0.5), (0.52, 0.42), (-0.52, 0.42)]
    if item.kind == "rectangle" and int(item.cy) % 2:
        points = [(y, x) for x, y in points]
    if item.finish == "wobbly":
        rng = np.random.default_rng(int(item.cx * 7 + item.cy))
        dense = []
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            dense += [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (0.0, 0.5)]
        points = [
            (x + dx, y + dy)
            for (x, y), (dx, dy) in zip(dense, rng.uniform(-0.03, 0.03, (len(dense), 2)), strict=True)
        ]
    cos, sin = math.cos(item.angle), math.sin(item.angle)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def draw_item(
    draw: ImageDraw.ImageDraw,
    item: Item,
    fill: int,
    scale: float = 1.0,
    dx: float = 0.0,
    dy: float = 0.0,
    grow: float = 1.0,
) -> None:
    """Draws the silhouette, moved by (dx, dy) and then enlarged by scale; an emoji's is an ellipse."""
    cx, cy, size = (item.cx + dx) * scale, (item.cy + dy) * scale, item.size * scale * grow
    if item.colour is None or (item.kind == "circle" and item.finish != "wobbly"):
        r = size * 0.5
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)
    else:
        draw.polygon([(cx + x * size, cy + y * size) for x, y in outline(item)], fill=fill)


@functools.lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    return np.random.default_rng(20260101).standard_normal((1500, 1500, 1)).astype(np.float32)


def _clouds(
    rng: np.random.Generator, w: int, h: int, low: np.ndarray, high: np.ndarray, cell: int
) -> Image.Image:
    grid = rng.random((h // cell + 2, w // cell + 2, 1)) * (high - low) + low
    return Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8)).resize((w, h), Image.Resampling.BICUBIC)


def _paper(scene: Scene) -> Image.Image:
    bg, w, h = scene.background, scene.width, scene.height
    start, end = np.asarray(bg.start, np.float32), np.asarray(bg.end, np.float32)
    rng = np.random.default_rng(scene.noise_seed)
    if scene.unknown and scene.noise_seed % 3:
        return _clouds(rng, w, h, rng.uniform(0, 128, 3), rng.uniform(128, 255, 3), int(rng.integers(6, 60)))
    if bg.kind == "clouds":
        return _clouds(rng, w, h, start, end, int(rng.integers(20, 90)))
    if bg.kind == "gradient":
        n = w if bg.horizontal else h
        ramp = (start + (end - start) * np.linspace(0, 1, n, dtype=np.float32)[:, None]).astype(np.uint8)
        pixels = np.broadcast_to(ramp[None] if bg.horizontal else ramp[:, None], (h, w, 3))
        return Image.fromarray(np.ascontiguousarray(pixels))
    image = Image.new("RGB", (w, h), bg.start)
    if bg.kind in ("stripes", "grid"):
        draw, step = ImageDraw.Draw(image), int(rng.integers(14, 60))
        colour = tuple(int(v) for v in (start * 0.6 + end * 0.4))
        width = int(rng.integers(1, 3)) if bg.kind == "grid" else step // 2
        for x in range(-(scene.origin[0] % step), w, step) if bg.horizontal or bg.kind == "grid" else ():
            draw.line((x, 0, x, h), fill=colour, width=width)
        for y in range(-(scene.origin[1] % step), h, step) if not bg.horizontal or bg.kind == "grid" else ():
            draw.line((0, y, w, y), fill=colour, width=width)
    return image


def _scribble(image: Image.Image, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    w, h = image.size
    for _ in range(int(rng.integers(4, 20))):
        points = [tuple(p) for p in (rng.random((int(rng.integers(3, 8)), 2)) * (w, h)).tolist()]
        draw.line(points, fill=tuple(int(v) for v in rng.integers(0, 256, 3)), width=int(rng.integers(1, 7)))


def _paste(image: Image.Image, item: Item, smooth: bool) -> None:
    half = int(item.size * 0.68) + 3
    x0, y0 = int(item.cx) - half, int(item.cy) - half
    if item.colour is None:
        picture = fonts.emoji_image(item.style, item.kind)
        if picture is None:
            raise ValueError(f"emoji set {item.style!r} is not installed")
        factor = item.size / max(picture.size)
        size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        if item.angle:
            picture = picture.rotate(-math.degrees(item.angle), Image.Resampling.BILINEAR, expand=True)
        image.paste(
            picture, (round(item.cx - picture.width / 2), round(item.cy - picture.height / 2)), picture
        )
        return
    factor = 3 if smooth else 1

    def mask(grow: float = 1.0, dx: float = 0.0) -> Image.Image:
        m = Image.new("L", (2 * half * factor, 2 * half * factor), 0)
        draw_item(ImageDraw.Draw(m), item, 255, float(factor), -x0 + dx, -y0 + dx, grow)
        return m.reduce(factor) if factor > 1 else m

    if item.finish == "shadow":
        under = np.asarray(image.crop((max(0, x0), max(0, y0), max(0, x0) + 1, max(0, y0) + 1)))[0, 0]
        dark = (int(under[0] * 0.4), int(under[1] * 0.4), int(under[2] * 0.4))
        image.paste(dark, (x0, y0), mask(1.0, 3 + item.size * 0.03))
    if item.finish == "outline":
        image.paste(item.line, (x0, y0), mask())
        image.paste(item.rgb, (x0, y0), mask(0.88))
    elif item.finish in ("gradient", "rough"):
        rng = np.random.default_rng(int(item.cx * 31 + item.cy))
        base = np.asarray(item.rgb, np.float32)
        if item.finish == "gradient":
            fill = base + np.linspace(-22, 22, 2 * half, dtype=np.float32)[:, None, None] * np.ones(
                (1, 2 * half, 1), np.float32
            )
        else:
            fill = base + rng.normal(0, 12, (2 * half, 2 * half, 1)).astype(np.float32)
        image.paste(Image.fromarray(np.clip(fill, 0, 255).astype(np.uint8)), (x0, y0), mask())
    else:
        image.paste(item.rgb, (x0, y0), mask())


def _write(image: Image.Image, text: Text) -> None:
    face = fonts.font(text.font, text.font_size)
    box = face.getbbox(text.string, anchor="ls")
    left = text.x[0] - face.getlength(text.string[:1]) / 2
    ImageDraw.Draw(image).text(
        (left, text.y - (box[1] + box[3]) / 2), text.string, fill=text.rgb, font=face, anchor="ls"
    )


def render(scene: Scene) -> np.ndarray:
    """uint8 [height, width, 3]."""
    bg, w, h = scene.background, scene.width, scene.height
    image = _paper(scene)
    if scene.unknown:
        _scribble(image, np.random.default_rng(scene.noise_seed))
    if bg.border:
        ImageDraw.Draw(image).rectangle(
            (0, 0, w - 1, h - 1), outline=bg.end if bg.kind != "plain" else (60, 60, 60), width=bg.border
        )
    for item in scene.items:
        _paste(image, item, scene.smooth)
    for text in scene.texts:
        _write(image, text)
    if scene.blur < 1.0:
        small = image.resize(
            (max(1, int(w * scene.blur)), max(1, int(h * scene.blur))), Image.Resampling.BILINEAR
        )
        image = small.resize((w, h), Image.Resampling.BICUBIC)
    if scene.quality:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=scene.quality)
        image = Image.open(file).convert("RGB")
    if bg.noise == 0:
        return np.asarray(image)
    bank = _noise_bank()
    oy, ox = scene.noise_seed % (bank.shape[0] - h), (scene.noise_seed // 1500) % (bank.shape[1] - w)
    noisy = np.asarray(image).astype(np.int16) + (bank[oy : oy + h, ox : ox + w] * bg.noise).astype(np.int16)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def draw_picture(seed: int, **options: object) -> tuple[Scene, np.ndarray]:
    """A whole picture: 384 x 384, or larger than one tile; options as for `compose`."""
    scene = compose(seed, **options)  # type: ignore[arg-type]
    return scene, render(scene)
