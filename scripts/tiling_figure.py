"""Draws docs/tiling.png: the three tiling schemes over a picture that is itself drawn here.

python scripts/tiling_figure.py [docs/tiling.png]
"""

from __future__ import annotations

import math
import sys

from PIL import Image, ImageDraw

from bluelm_gguf.tiling import draw_comparison

WIDTH, HEIGHT = 800, 600
SMOOTH = 3  # drawn larger and shrunk


def harbour() -> Image.Image:
    """A lighthouse and a boat at sunset."""
    scale = SMOOTH
    w, h = WIDTH * scale, HEIGHT * scale
    horizon = int(h * 0.62)
    image = Image.new("RGB", (w, h))
    ink = ImageDraw.Draw(image)
    for y in range(horizon):
        ink.line((0, y, w, y), fill=_sky(y / horizon))
    sun_x, sun_y, sun_r = int(w * 0.33), horizon - 20 * scale, 58 * scale
    for grow in range(60, 0, -2):
        sky = _sky((sun_y - sun_r - grow * scale) / horizon)
        ink.ellipse(
            _box(sun_x, sun_y, sun_r + grow * scale), fill=_mix((255, 214, 140), sky, 0.55 + grow / 134)
        )
    ink.ellipse(_box(sun_x, sun_y, sun_r), fill=(255, 236, 190))
    for peak, height, color in (
        (0.12, 0.16, (96, 84, 128)),
        (0.55, 0.11, (110, 92, 130)),
        (0.86, 0.2, (72, 68, 112)),
    ):
        points = [
            (
                x,
                horizon
                - int(
                    h
                    * height
                    * math.exp(-(((x / w - peak) / 0.17) ** 2))
                    * (1 + 0.06 * math.sin(x / 23 / scale))
                ),
            )
            for x in range(0, w + 1, scale)
        ]
        ink.polygon([(0, horizon), *points, (w, horizon)], fill=color)
    for y in range(horizon, h):  # the sea, with the sun's path
        t = (y - horizon) / (h - horizon)
        ink.line((0, y, w, y), fill=_mix((214, 150, 122), (24, 48, 84), t**0.6))
        if (y // scale) % 7 < 3:
            half = int((30 + 60 * t + 16 * math.sin(y / 9 / scale)) * scale)
            ink.line((sun_x - half, y, sun_x + half, y), fill=_mix((255, 226, 170), (120, 110, 130), t))

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * scale), round(y * scale)

    # the rock and the lighthouse
    ink.polygon(
        [at(560, 430), at(600, 380), at(650, 362), at(716, 366), at(770, 396), at(800, 400), at(800, 440)],
        fill=(40, 42, 66),
    )
    ink.polygon([at(643, 366), at(655, 170), at(693, 170), at(705, 366)], fill=(244, 240, 232))
    for top in (205, 275, 345):
        a = 12 * (366 - top) / 196
        bottom = min(top + 32, 366)
        b = 12 * (366 - bottom) / 196
        ink.polygon(
            [at(643 + a, top), at(705 - a, top), at(705 - b, bottom), at(643 + b, bottom)], fill=(196, 58, 52)
        )
    ink.rectangle((*at(648, 158), *at(700, 170)), fill=(52, 54, 74))
    ink.rectangle((*at(660, 132), *at(688, 158)), fill=(255, 232, 150))
    ink.polygon([at(654, 132), at(694, 132), at(674, 108)], fill=(150, 44, 44))
    # the boat
    ink.polygon([at(180, 468), at(330, 468), at(304, 504), at(206, 504)], fill=(122, 52, 44))
    ink.line((*at(252, 468), *at(252, 300)), fill=(60, 44, 40), width=4 * scale)
    ink.polygon([at(258, 304), at(258, 456), at(340, 456)], fill=(252, 246, 232))
    ink.polygon([at(246, 322), at(246, 456), at(182, 456)], fill=(240, 222, 196))
    for x, y in ((420, 120), (462, 98), (500, 140)):  # gulls
        ink.arc((*at(x - 18, y - 8), *at(x, y + 10)), 200, 340, fill=(70, 66, 96), width=3 * scale)
        ink.arc((*at(x, y - 8), *at(x + 18, y + 10)), 200, 340, fill=(70, 66, 96), width=3 * scale)
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _sky(down: float) -> tuple[int, ...]:
    return _mix((44, 62, 122), (250, 178, 116), down**1.3)


def _box(x: int, y: int, r: int) -> tuple[int, int, int, int]:
    return x - r, y - r, x + r, y + r


def _mix(a: tuple[int, ...], b: tuple[int, ...], t: float) -> tuple[int, ...]:
    t = min(max(t, 0.0), 1.0)
    return tuple(round(p + (q - p) * t) for p, q in zip(a, b, strict=True))


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else "docs/tiling.png"
    drawing = draw_comparison(harbour())
    # 255 colours are enough for a drawing, and keep the file small
    drawing.quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        target, optimize=True
    )
    print(target)
