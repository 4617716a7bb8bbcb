"""What comes in as a picture, and what is said of everything else."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bluelm_gguf.errors import BluelmError, ImageError, InvalidArgumentError
from bluelm_gguf.pictures import images
from bluelm_gguf.pictures.images import load_image


@pytest.fixture
def rgb():
    return np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width, height, data, depth=8, color_type=2):
    """A PNG by hand, also with a header that lies."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


# --------------------------------------------------------------------------------------------------- sources


def test_every_kind_of_source(rgb, tmp_path):
    data = encoded(Image.fromarray(rgb))
    path = tmp_path / "bild mit Ümläuten.png"
    path.write_bytes(data)
    sources = [
        path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), Image.fromarray(rgb),
        Image.open(path), rgb, rgb[::-1][::-1],
    ]  # fmt: skip
    with path.open("rb") as file:
        for source in [*sources, file]:
            got = load_image(source)
            assert got.dtype == np.uint8 and got.flags.c_contiguous and (got == rgb).all()


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP", "JPEG"])
def test_formats(format):
    flat = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    got = load_image(encoded(Image.fromarray(flat), format))
    assert got.shape == flat.shape and np.abs(got.astype(int) - flat).max() <= (
        4 if format in ("JPEG", "WEBP") else 0
    )


def test_exif_orientation(rgb):
    image = Image.fromarray(rgb)
    turned = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        6: np.rot90(rgb, -1),
        8: np.rot90(rgb),
    }
    turned[5], turned[7] = rgb.transpose(1, 0, 2), rgb[::-1, ::-1].transpose(1, 0, 2)
    for orientation, expected in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert (load_image(encoded(image, exif=exif)) == expected).all(), orientation


def test_broken_exif_is_ignored(rgb):
    assert (load_image(encoded(Image.fromarray(rgb), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")) == rgb).all()


def test_animation_gives_the_first_frame():
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (load_image(data) == (255, 0, 0)).all()


# ---------------------------------------------------------------------------------------------------- modes


def test_transparency_is_laid_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 255, (0, 128, 255)
    expected = [[255, 255, 255], [255, 127, 127], [255, 0, 0]]
    for source in (Image.fromarray(rgba), encoded(Image.fromarray(rgba)), rgba):
        assert np.abs(load_image(source)[0].astype(int) - expected).max() <= 1
    grey = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 0)])
    assert (load_image(encoded(grey)) == 255).all()


def test_palettes():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert (load_image(encoded(image)) == [[[10, 20, 30], [40, 50, 60]]]).all()
    assert (load_image(encoded(image, transparency=0)) == [[[255, 255, 255], [40, 50, 60]]]).all()


def test_colour_key():
    image = Image.new("RGB", (1, 1), (1, 2, 3))
    assert (load_image(encoded(image, transparency=(1, 2, 3))) == 255).all()


def test_greyscale_bilevel_cmyk():
    assert (load_image(encoded(Image.new("L", (3, 2), 77))) == 77).all()
    assert (load_image(encoded(Image.new("1", (3, 2), 1))) == 255).all()
    assert (load_image(encoded(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "TIFF")) == (255, 0, 0)).all()


def test_sixteen_bits():
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    expected = np.array([0, 0, 1, 1, 128, 255])
    sources = [
        png(6, 1, b"\0" + values.astype(">u2").tobytes(), depth=16, color_type=0),
        encoded(Image.fromarray(values), "TIFF"),
        Image.fromarray(values),
        Image.fromarray(values.astype(np.int32)),
        values,
    ]
    for source in sources:
        assert (load_image(source)[0] == expected[:, None]).all()


def test_float_images():
    assert (load_image(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)))[0, :, 0] == [0, 128, 255]).all()
    assert (
        load_image(Image.fromarray(np.array([[0, 100, 255]], np.float32)))[0, :, 0] == [0, 100, 255]
    ).all()
    strange = np.array([[np.nan, -5, 1020]], np.float32)
    assert (load_image(Image.fromarray(strange))[0, :, 0] == [0, 0, 255]).all()


def test_arrays(rgb):
    assert (load_image(rgb[:, :, 0]) == rgb[:, :, :1]).all()
    assert (load_image(rgb[:, :, :1]) == rgb[:, :, :1]).all()
    assert (load_image(rgb[:, ::2]) == rgb[:, ::2]).all()
    assert (load_image(rgb / 255) == rgb).all()
    assert (load_image((rgb / 255).astype(np.float32)) == rgb).all()
    assert (load_image(rgb.astype(np.uint16) * 257) == rgb).all()
    assert (load_image(rgb > 100) == (rgb > 100) * 255).all()
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    assert (load_image(opaque) == rgb).all()


# ---------------------------------------------------------------------------------------------------- errors


def check(source, *words, **options):
    with pytest.raises(ImageError) as e:
        load_image(source, **options)
    message = str(e.value)
    assert "\n" not in message and isinstance(e.value, (InvalidArgumentError, ValueError, BluelmError))
    for word in words:
        assert word in message, message
    return message


def test_files_that_are_no_pictures(tmp_path, rgb):
    check(tmp_path / "none.png", "none.png", "no such file", "check the path")
    check(tmp_path, "directory")
    check("a\0b.png", "cannot be read")
    check("https://example.org/a.png", "download it first")
    contents = {
        "empty.png": (b"", "empty (0 bytes)"),
        "text.png": (b"hello, this is text", "not a picture"),
        "page.pdf": (b"%PDF-1.7 ...", "PDF"),
        "drawing.svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        "film.mp4": (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        "start.png": (encoded(Image.fromarray(rgb))[:10], "truncated"),
        "zeros.jpg": (bytes(5000), "not a picture"),
    }
    for file_name, (data, word) in contents.items():
        path = tmp_path / file_name
        path.write_bytes(data)
        check(path, file_name, word)
        check(data, "bytes", word)
        check(data, "upload 7", word, name="upload 7")


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user whom file modes bind")
def test_no_permission(tmp_path, rgb):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.fromarray(rgb)))
    path.chmod(0)
    check(path, "permission")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_at_every_length(format):
    """Never anything but ImageError, and never half a picture."""
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    data = encoded(noise, format)
    whole = load_image(data)
    for part in (2, 5, 9, 20, 50, 100, len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        try:
            got = load_image(data[:part])
        except ImageError as e:
            assert re.search("truncated|damaged|not a picture", str(e)), e
        else:
            assert (got == whole).all(), (
                f"{format} cut to {part} of {len(data)} bytes decodes to something else"
            )


def test_damaged_files():
    """Any bytes changed: a picture or ImageError, nothing else."""
    rng = np.random.default_rng(4)
    noise = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    for format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        data = np.frombuffer(encoded(noise, format), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            at = rng.integers(0, len(data), 1 + rng.integers(8))
            damaged[at] = rng.integers(0, 256, len(at))
            try:
                load_image(damaged.tobytes())
            except ImageError as e:
                assert "\n" not in str(e)


def test_too_large(monkeypatch):
    check(png(20001, 1, b""), "20001 x 1", "20000")
    check(png(19000, 19000, b""), "pixels", "make it smaller")  # beyond Pillow's own limit
    check(png(14000, 13000, b""), "pixels", "make it smaller")  # beyond ours
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a caller who switched Pillow's check off
    check(png(19000, 19000, b""), "19000 x 19000", "make it smaller")
    check(np.zeros((1, 20001, 3), np.uint8), "20001")
    assert images.MAX_PIXELS < images.MAX_SIDE**2


def test_pillows_settings_are_left_alone(rgb):
    before = Image.MAX_IMAGE_PIXELS
    load_image(encoded(Image.fromarray(rgb)))
    assert before == Image.MAX_IMAGE_PIXELS


def test_bad_arrays_and_objects(rgb):
    check(np.zeros((3, 4, 5), np.uint8), "3x4x5", "[H, W, 3]")
    check(np.zeros((3,), np.uint8), "[H, W, 3]")
    check(np.zeros((0, 4, 3), np.uint8), "at least one")
    check(rgb.astype(np.int64), "int64", "uint8")
    check(rgb.astype(np.float32), "0..1")
    check(np.full((2, 2, 3), np.nan), "0..1")
    check(None, "NoneType", "give a path")
    check(17, "int")
    check(io.StringIO("text"), "'rb'")
    closed = io.BytesIO(b"x")
    closed.close()
    check(closed, "cannot be read")
    check(Image.new("RGB", (0, 5)), "at least one")
