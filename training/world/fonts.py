"""Fonts and emoji that are installed: Debian's packages of free fonts, folders of emoji pictures.

Training needs the packages that training/README.md names; evaluation draws with those that it finds.
"""

from __future__ import annotations

import functools
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .names import EMOJI

ROOTS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
TRAINED = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansCondensed",
    "LiberationSans-Regular", "LiberationSans-Bold", "LiberationSerif-Regular", "LiberationSerif-Bold",
    "LiberationMono-Regular", "LiberationMono-Bold", "LiberationSans-Regular", "LiberationSerif-Regular",
    "FreeSans", "FreeSansBold", "FreeSerif", "FreeSerifBold", "FreeMonoBold",
    "Roboto-Regular", "Roboto-Bold", "OpenSans-Regular", "OpenSans-Bold", "Cousine-Regular",
    "Inconsolata", "Hack-Regular", "Comfortaa-Bold", "LinLibertine_R", "",
)  # fmt: skip
HELD_OUT = (
    "Lato-Regular",
    "Lato-Bold",
    "Carlito-Regular",
    "Carlito-Bold",
    "Cantarell-Regular",
    "Cantarell-Bold",
)
TRAINED_EMOJI = ("noto", "twemoji")
HELD_OUT_EMOJI = "openmoji"
EMOJI_SIDE = 128

_assets: list[Path] = []


def use_assets(folder: Path) -> None:
    """Adds a folder with emoji pictures: SET/CODEPOINT.png (training/assets.py makes it)."""
    _assets.append(folder)
    emoji_image.cache_clear()


@functools.cache
def _files() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in ROOTS:
        for pattern in ("*.ttf", "*.otf"):
            for path in sorted(root.rglob(pattern)):
                found.setdefault(path.stem, path)
    return found


@functools.cache
def installed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the names that are installed; "" is Pillow's own font and always there."""
    there = tuple(n for n in names if not n or n in _files())
    return there or ("",)


@functools.lru_cache(maxsize=4000)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    if name:
        return ImageFont.truetype(str(_files()[name]), size, layout_engine=ImageFont.Layout.BASIC)
    own = ImageFont.load_default(size)
    assert isinstance(own, ImageFont.FreeTypeFont), "Pillow without FreeType"
    return own


@functools.cache
def emoji_image(style: str, name: str) -> Image.Image | None:
    """RGBA, its longer side 128 pixels, cut to what is drawn; None if the style is not installed."""
    code = EMOJI[name]
    picture = None
    for folder in _assets:
        path = folder / style / f"{code:x}.png"
        if path.exists():
            picture = Image.open(path).convert("RGBA")
            break
    if picture is None and style == "noto" and "NotoColorEmoji" in _files():
        face = ImageFont.truetype(str(_files()["NotoColorEmoji"]), 109)
        picture = Image.new("RGBA", (150, 150), (255, 255, 255, 0))
        ImageDraw.Draw(picture).text((5, 5), chr(code), font=face, embedded_color=True)
    box = picture.getchannel("A").getbbox() if picture is not None else None
    if picture is None or box is None:
        return None
    picture = picture.crop(box)
    scale = EMOJI_SIDE / max(picture.size)
    return picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
        Image.Resampling.BICUBIC,
    )


@functools.cache
def emoji_styles(styles: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the styles that are installed."""
    return tuple(s for s in styles if emoji_image(s, "cat") is not None)
