"""Tile plans as drawings: the picture in its grid, the thumbnail beside it, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from ..errors import ImageError
from .images import RGB, ImageLike, load_image
from .tiling import TOKENS_PER_TILE, Method, TilePlan, compare

Color: TypeAlias = tuple[int, int, int]

_INK: Color = (15, 23, 42)
_MUTED: Color = (100, 116, 139)
_PAPER: Color = (255, 255, 255)
_PADDING: Color = (51, 65, 85)
_HATCH: Color = (71, 85, 105)


@dataclass(frozen=True)
class _Scheme:
    title: str
    source: str
    color: Color


_SCHEMES: dict[Method, _Scheme] = {
    "relaxed": _Scheme("Relaxed matching", "BlueLM-V-3B", (37, 99, 235)),
    "llava_next": _Scheme("LLaVA-NeXT", "most effective pixels", (217, 119, 6)),
    "internvl": _Scheme("InternVL 1.5", "closest aspect ratio", (124, 58, 237)),
    "single": _Scheme("Single view", "no tiles", (71, 85, 105)),
}

# Pixels of the drawing. A panel is a column: title, canvas with thumbnail, figures.
_MARGIN, _GAP = 36, 44
_MAX_CANVASES = 1360  # all canvases and thumbnails side by side
_MAX_HEIGHT = 560
_MIN_PANEL = 310  # what the texts need
_HEADER, _FIGURES, _FOOTER = 76, 128, 34


def draw_plan(image: ImageLike, plan: TilePlan, *, tokens_per_tile: int = TOKENS_PER_TILE) -> Image.Image:
    """The plan over the picture: tiles in their order, padding, thumbnail, and what it comes to.

    Raises:
        ImageError: the picture cannot be used, or has another size than the plan.
    """
    return _draw(image, (plan,), tokens_per_tile)


def draw_comparison(
    image: ImageLike,
    *,
    max_cols: int = 4,
    max_rows: int = 4,
    tile: int = 384,
    tokens_per_tile: int = TOKENS_PER_TILE,
) -> Image.Image:
    """The three schemes over the picture, side by side at one scale, with their tile and token counts."""
    rgb = load_image(image)
    plans = compare(rgb.shape[1], rgb.shape[0], max_cols=max_cols, max_rows=max_rows, tile=tile)
    return _draw(rgb, plans, tokens_per_tile)


def _draw(image: ImageLike, plans: Sequence[TilePlan], tokens_per_tile: int) -> Image.Image:
    """One panel for each plan, all at one scale, so that a larger grid looks larger.

    Raises:
        ImageError: the picture cannot be used, or has another size than a plan.
    """
    rgb = load_image(image)
    height, width = rgb.shape[:2]
    for p in plans:
        if (p.width, p.height) != (width, height):
            raise ImageError(
                f"the picture is {width} x {height}, the plan is for {p.width} x {p.height}: plan again"
            )
    inner_gap = 14  # between a canvas and its thumbnail
    views_wide = sum(p.canvas_width + (p.tile if p.thumbnail_index is not None else 0) for p in plans)
    tallest = max(p.canvas_height for p in plans)
    scale = min(_MAX_CANVASES / views_wide, _MAX_HEIGHT / tallest)

    panels = [_panel(rgb, p, scale, inner_gap) for p in plans]
    most_tokens = max(p.n_tokens(tokens_per_tile) for p in plans)
    widths = [max(panel.width, _MIN_PANEL) for panel in panels]
    full_bar = min(widths)  # one scale for the token bars too
    canvas_height = max(panel.height for panel in panels)
    total_width = 2 * _MARGIN + sum(widths) + _GAP * (len(panels) - 1)
    total_height = _MARGIN + _HEADER + canvas_height + _FIGURES + _FOOTER + _MARGIN // 2
    sheet = Image.new("RGB", (total_width, total_height), _PAPER)
    ink = ImageDraw.Draw(sheet)

    x = _MARGIN
    for p, panel, panel_width in zip(plans, panels, widths, strict=True):
        scheme = _SCHEMES[p.method]
        ink.rounded_rectangle((x, _MARGIN + 6, x + 5, _MARGIN + 52), 2, fill=scheme.color)
        ink.text((x + 16, _MARGIN + 4), scheme.title, font=_font(25), fill=_INK)
        ink.text((x + 16, _MARGIN + 35), scheme.source, font=_font(16), fill=_MUTED)
        sheet.paste(panel, (x, _MARGIN + _HEADER))
        _figures(
            ink,
            p,
            (x, _MARGIN + _HEADER + canvas_height + 18),
            p.n_tokens(tokens_per_tile),
            full_bar / most_tokens,
        )
        x += panel_width + _GAP
    ink.text(
        (_MARGIN, total_height - _FOOTER - 4),
        f"Picture {width} x {height}, tiles of {plans[0].tile} pixels, {tokens_per_tile} tokens a view",
        font=_font(15),
        fill=_MUTED,
    )
    return sheet


def _panel(rgb: RGB, plan: TilePlan, scale: float, gap: int) -> Image.Image:
    """The canvas and, to its right, the thumbnail."""
    color = _SCHEMES[plan.method].color
    edge = max(8, round(plan.tile * scale))
    canvas = _hatched(plan.cols * edge, plan.rows * edge)
    shrink = edge / plan.tile  # not `scale`: tiles get whole pixels
    left, top = round(plan.pad_left * shrink), round(plan.pad_top * shrink)
    right = min(canvas.width, max(left + 1, round((plan.pad_left + plan.fit_width) * shrink)))
    bottom = min(canvas.height, max(top + 1, round((plan.pad_top + plan.fit_height) * shrink)))
    picture = Image.fromarray(rgb)
    canvas.paste(_shrunk(picture, right - left, bottom - top), (left, top))

    thumbnail = plan.thumbnail_index is not None
    sheet = Image.new("RGB", (canvas.width + (gap + edge if thumbnail else 0), canvas.height), _PAPER)
    sheet.paste(canvas, (0, 0))
    ink = ImageDraw.Draw(sheet)
    for col in range(1, plan.cols):
        _line(ink, (col * edge, 0, col * edge, canvas.height - 1), color)
    for row in range(1, plan.rows):
        _line(ink, (0, row * edge, canvas.width - 1, row * edge), color)
    ink.rectangle((0, 0, canvas.width - 1, canvas.height - 1), outline=color, width=3)

    first = 1 if plan.thumbnail_index == 0 else 0  # local tiles come behind a leading thumbnail
    for i in range(plan.cols * plan.rows):
        _badge(sheet, (i % plan.cols * edge, i // plan.cols * edge), edge, str(first + i + 1), color)
    if plan.thumbnail_index is not None:
        x = canvas.width + gap
        sheet.paste(_shrunk(picture, edge, edge), (x, 0))
        ink.rectangle((x, 0, x + edge - 1, edge - 1), outline=color, width=3)
        _badge(sheet, (x, 0), edge, str(plan.thumbnail_index + 1), color)
    return sheet


def _shrunk(picture: Image.Image, width: int, height: int) -> Image.Image:
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _figures(
    ink: ImageDraw.ImageDraw, plan: TilePlan, at: tuple[int, int], tokens: int, bar_per_token: float
) -> None:
    """What the plan costs, and how the picture fits."""
    x, y = at
    ink.text((x, y), f"{tokens:,} tokens", font=_font(25), fill=_INK)
    bar = max(7, round(tokens * bar_per_token))
    ink.rounded_rectangle((x, y + 37, x + bar, y + 43), 3, fill=_SCHEMES[plan.method].color)
    n_local = plan.cols * plan.rows
    views = "1 view" if plan.n_tiles == 1 else f"{plan.n_tiles} views"
    if plan.thumbnail_index is not None:
        views += f": {n_local} tile{'s' if n_local > 1 else ''} and the thumbnail"
    ink.text((x, y + 54), f"Grid {plan.grid}, {views}", font=_font(16), fill=_INK)
    ink.text((x, y + 78), _fit_text(plan), font=_font(16), fill=_MUTED)


def _fit_text(plan: TilePlan) -> str:
    across, down = plan.fit_width / plan.width, plan.fit_height / plan.height
    if plan.padding > 0 or abs(across / down - 1) < 0.02:
        return f"Picture at {_percent(min(across, down))}, padding {_percent(plan.padding)}"
    return f"Stretched to {_percent(across)} x {_percent(down)}"


def _percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 or part == 0 else "< 1%"


def _line(ink: ImageDraw.ImageDraw, ends: tuple[int, int, int, int], color: Color) -> None:
    """A tile border that shows on light and dark pictures alike."""
    ink.line(ends, fill=_PAPER, width=5)
    ink.line(ends, fill=color, width=3)


def _badge(sheet: Image.Image, corner: tuple[int, int], edge: int, text: str, color: Color) -> None:
    """The view's number in the corner of its tile, left out where it would hide the picture."""
    size = min(25, edge // 3)
    if size < 12:
        return
    font = _font(max(9, round(size * 0.62)))
    width = max(size, round(font.getlength(text)) + size // 2)
    smooth = 4  # drawn larger and shrunk: Pillow's own curves have steps
    badge = Image.new("L", (width * smooth, size * smooth), 0)
    ImageDraw.Draw(badge).rounded_rectangle(
        (0, 0, width * smooth - 1, size * smooth - 1), size * smooth // 4, fill=255
    )
    mask = badge.resize((width, size), Image.Resampling.BICUBIC)
    at = (corner[0] + 7, corner[1] + 7)
    sheet.paste(Image.new("RGB", (width, size), color), at, mask)
    ImageDraw.Draw(sheet).text(
        (at[0] + width / 2, at[1] + size / 2), text, font=font, fill=_PAPER, anchor="mm"
    )


def _hatched(width: int, height: int) -> Image.Image:
    """Padding, told apart from a dark picture by its hatching."""
    sheet = Image.new("RGB", (width, height), _PADDING)
    ink = ImageDraw.Draw(sheet)
    for x in range(-height, width, 11):
        ink.line((x, height, x + height, 0), fill=_HATCH, width=2)
    return sheet


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
