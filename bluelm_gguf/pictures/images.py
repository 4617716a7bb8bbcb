"""Pictures in, RGB pixels out: the one place where files are decoded.

Everything behind it (resize, padding, cutting, normalising) is libbluelm's and starts from this array.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError, OutOfMemoryError
from ..native.interrupt import interrupt_at_once

RGB: TypeAlias = NDArray[np.uint8]  # [height, width, 3]
ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]"
)

MAX_SIDE = 20_000  # pixels; libbluelm's own limit
# Pixels that a file may unfold to, 512 MiB: Pillow's own limit, whatever Image.MAX_IMAGE_PIXELS says.
MAX_PIXELS = 178_956_970

# What is tried on a file. Not here: formats that run other programs (EPS), or that any file might be (TGA).
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI")


def load_image(source: ImageLike, *, name: str | None = None) -> RGB:
    """Decodes a picture to RGB.

    The EXIF orientation is applied, transparency is laid on white, palettes, greyscale and CMYK are
    converted, 16-bit samples are rounded to 8 bits. Of an animation the first frame is taken.

    Args:
        source: a path; the bytes of a file; an object with `read()`; a PIL image; or an array [H, W],
            [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA) of uint8, uint16, bool, or float from 0 to 1.
        name: what messages call the picture; by default its path, or what kind of object it is.

    Returns:
        uint8 [height, width, 3], C-contiguous; may share memory with an array that was given.

    Raises:
        ImageError: missing, empty, not a picture, truncated, or too large (MAX_SIDE, MAX_PIXELS).
        OutOfMemoryError: too large for this machine.
    """
    label = name or describe(source)
    try:
        if isinstance(source, np.ndarray):
            pixels = _from_array(source, label)
        elif isinstance(source, Image.Image):
            pixels = _from_pil(source, label)
        else:
            with _open(source, label) as image:
                pixels = _from_pil(image, label)
    except MemoryError as e:
        raise OutOfMemoryError(f"{label}: not enough memory to decode it; make it smaller first") from e
    return np.ascontiguousarray(pixels)


_warnings_lock = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: of pictures half as large as the limit, of EXIF and tags that are odd.

    The filters are the process's, so one thread at a time.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def describe(source: ImageLike) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source) or "''"
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "bytes"
    file_name = getattr(source, "name", None) or getattr(source, "filename", None)
    if isinstance(file_name, (str, os.PathLike)) and os.fspath(file_name):
        return str(os.fspath(file_name))
    return "PIL image" if isinstance(source, Image.Image) else "file object"


def _open(source: Any, label: str) -> Image.Image:
    """The picture with its header read and its size checked; pixels are not decoded yet."""
    data = read_file(source, label)
    if not data:
        raise ImageError(f"{label}: the file is empty (0 bytes); copy or download it again")
    Image.init()
    try:
        with _quiet():
            return Image.open(io.BytesIO(data), formats=[f for f in _FORMATS if f in Image.OPEN])
    except Image.DecompressionBombError as e:
        raise ImageError(f"{label}: more than {MAX_PIXELS:,} pixels; make it smaller first") from e
    except UnidentifiedImageError:
        raise ImageError(f"{label}: {_what_is(data)}") from None
    except MemoryError:
        raise
    except Exception as e:  # a damaged header: Pillow's plugins raise whatever they run into
        raise ImageError(f"{label}: damaged picture ({_one_line(e)}); copy or download it again") from e


def read_file(source: Any, label: str) -> bytes:
    """The bytes of a path, bytes, or object with `read()`; Ctrl-C ends the reading.

    Raises:
        ImageError: cannot be read; `label` names it.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, os.PathLike)):
        if str(source).startswith(("http://", "https://")):
            raise ImageError(f"{label}: a web address, not a file; download it first")
        try:
            with interrupt_at_once():
                return Path(source).read_bytes()
        except FileNotFoundError:
            raise ImageError(f"{label}: no such file; check the path") from None
        except IsADirectoryError:
            raise ImageError(f"{label}: a directory, not a picture; name a file in it") from None
        except PermissionError:
            raise ImageError(f"{label}: no permission to read it; check the file's mode") from None
        except (OSError, ValueError) as e:  # ValueError: a NUL in the path
            raise ImageError(f"{label}: cannot be read ({_one_line(e)})") from e
    if not hasattr(source, "read"):
        raise ImageError(
            f"{type(source).__name__} is not a picture: "
            "give a path, bytes, a file object, a PIL image or an array"
        )
    try:
        with interrupt_at_once():  # a pipe may never say anything
            data = source.read()
    except (OSError, ValueError) as e:
        raise ImageError(f"{label}: cannot be read ({_one_line(e)})") from e
    if not isinstance(data, bytes):
        raise ImageError(
            f"{label}: read() gives {type(data).__name__}, not bytes; open the file with mode 'rb'"
        )
    return data


def _what_is(data: bytes) -> str:
    """What to do about a file that no decoder knows, by its first bytes."""
    start = data[:512].lstrip()
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "a HEIC picture, which is not supported; convert it to JPEG or PNG"
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis"):
        return "a video, not a picture; take a frame of it as JPEG or PNG"
    if start.startswith(b"%PDF"):
        return "a PDF, not a picture; convert its page to PNG"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in data[:4096]):
        return "an SVG drawing, which is not supported; convert it to PNG"
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")):
        return "damaged or truncated at its beginning; copy or download it again"
    return "not a picture (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, ...); check that it is the file you mean"


def _check_size(width: int, height: int, label: str, *, pixels: bool) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{label}: {width} x {height} pixels; a picture has at least one")
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{label}: {width} x {height} pixels; the longer side may have {MAX_SIDE}, make it smaller first"
        )
    if pixels and width * height > MAX_PIXELS:
        raise ImageError(
            f"{label}: {width} x {height} is more than {MAX_PIXELS:,} pixels; make it smaller first"
        )


def _from_pil(image: Image.Image, label: str) -> RGB:
    _check_size(*image.size, label, pixels=True)  # before anything is decoded
    try:
        with _quiet():
            image.load()
    except MemoryError:
        raise
    except (
        Exception
    ) as e:  # "image file is truncated", "broken data stream", zlib's and libtiff's errors, ...
        reason = _one_line(e)
        what = "truncated" if "truncated" in reason.lower() else "damaged or truncated"
        raise ImageError(f"{label}: {what} picture ({reason}); copy or download it again") from e
    try:
        with _quiet():
            image = ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # EXIF that cannot be parsed says nothing about the orientation
        pass
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(_deep_to_8_bit(np.asarray(image), image.mode))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    try:
        return np.asarray(image.convert("RGB"))
    except ValueError as e:
        raise ImageError(
            f"{label}: pixels of mode {image.mode} are not supported; convert it to RGB first"
        ) from e


def _from_array(array: NDArray[Any], label: str) -> RGB:
    shape = "x".join(map(str, array.shape))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{label} of shape {shape}: must be [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    _check_size(array.shape[1], array.shape[0], f"{label} of shape {shape}", pixels=False)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _deep_to_8_bit(array, "I;16")
    elif array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageError(
                f"{label} of {array.dtype}: values must lie in 0..1; divide by 255, or give uint8"
            )
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"{label} of {array.dtype}: must be uint8, uint16, bool, or float from 0 to 1")
    if array.ndim == 2 or array.shape[2] == 1:
        return _grey(array.reshape(array.shape[:2]))
    if array.shape[2] == 4:
        return _from_pil(Image.fromarray(np.ascontiguousarray(array)), label)
    return array


def _grey(grey: NDArray[np.uint8]) -> RGB:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _deep_to_8_bit(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """One channel of more than 8 bits, from 0 to 255.

    16-bit samples (modes I;16*, and I, as which Pillow opens some) are divided by 257. Wider integers and
    floats have no range of their own: floats up to 1 count as 0..1, up to 255 as 0..255, whatever goes
    higher is scaled by its largest value.
    """
    if values.dtype.kind == "u":
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    exact = np.clip(np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0), 0, None)
    largest = float(exact.max())
    low = 65535.0 if mode.startswith("I") else 1.0 if largest <= 1 else 255.0
    top = max(low, largest)
    return np.rint(exact * (255.0 / top)).astype(np.uint8)


def _one_line(e: BaseException) -> str:
    return " ".join(str(e).split()) or type(e).__name__
