"""libbluelm's resize against Pillow's, byte by byte."""

from __future__ import annotations

import random

import numpy as np
import pytest
import reference_tiler as reference

from bluelm_gguf import tiling
from bluelm_gguf.errors import InvalidArgumentError


@pytest.fixture
def rng():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # pytest shows it with a failure
    return np.random.default_rng(seed)


def picture(rng, width, height):
    """Noise, or black and white (the filters' overshoot), or a ramp."""
    kind = rng.integers(3)
    if kind == 0:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == 1:
        return (rng.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    ramp = np.add.outer(np.arange(height), np.arange(width)) % 256
    return np.stack([ramp, 255 - ramp, ramp[::-1]], axis=2).astype(np.uint8)


def assert_like_pillow(rgb, width, height, filter):
    expected = reference.resize(rgb, width, height, filter)
    got = tiling.resize(rgb, width, height, filter=filter)
    different = int((got != expected).sum())
    assert different == 0, (
        f"{rgb.shape[1]}x{rgb.shape[0]} to {width}x{height} {filter}: {different} bytes differ"
    )


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
def test_random_sizes(rng, filter):
    for i in range(120):
        sizes = (
            rng.integers(1, 500, 4)
            if i % 2
            else rng.choice([1, 2, 3, 5, 15, 16, 17, 48, 100, 384, 385, 900], 4)
        )
        width, height, new_width, new_height = map(int, sizes)
        if i % 7 == 0:
            new_width = width  # one pass only
        if i % 11 == 0:
            new_height = height
        assert_like_pillow(picture(rng, width, height), new_width, new_height, filter)


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("size", "new"),
    [
        ((1, 1), (1, 1)),
        ((1, 1), (384, 384)),
        ((1, 20000), (1, 384)),
        ((20000, 1), (384, 1)),
        ((20000, 1), (384, 384)),
        ((1, 20000), (384, 384)),
        ((3, 20000), (20, 1)),
        ((20000, 3), (1, 20)),
        ((2, 2), (20000, 1)),
        ((384, 384), (384, 384)),
        ((1536, 1536), (384, 384)),
        ((4096, 300), (1536, 112)),
    ],
)
def test_extreme_sizes(rng, size, new, filter):
    assert_like_pillow(picture(rng, *size), *new, filter)


@pytest.mark.slow
def test_twelve_megapixels(rng):
    rgb = picture(rng, 4000, 3000)
    assert_like_pillow(rgb, 1536, 1152, "bicubic")
    assert_like_pillow(rgb, 384, 384, "bicubic")


@pytest.mark.slow
def test_largest_picture():
    """20,000 x 20,000: offsets beyond 2**30; columns and rows differ, so that a wrapped one would show."""
    rgb = np.empty((20000, 20000, 3), np.uint8)
    rgb[:, :, 0] = (np.arange(20000) // 79).astype(np.uint8)
    rgb[:, :, 1] = (np.arange(20000) // 79).astype(np.uint8)[:, None]
    rgb[:, :, 2] = 7
    small = tiling.resize(rgb, 384, 384)
    columns = reference.resize(np.ascontiguousarray(rgb[:1]), 384, 1)[0, :, 0]
    rows = reference.resize(np.ascontiguousarray(rgb[:, :1]), 1, 384)[:, 0, 1]
    assert (small[:, :, 0] == columns).all()
    assert (small[:, :, 1] == rows[:, None]).all()
    assert (small[:, :, 2] == 7).all()


def test_both_pass_orders(rng):
    """Rounding between the passes makes their order visible: a tall picture goes vertical first."""
    for size, new in [
        ((48, 700), (24, 100)), ((700, 48), (100, 24)), ((768, 1536), (384, 384)),
        ((100, 200), (50, 100)), ((100, 201), (50, 100)), ((50, 200), (100, 100)), ((100, 200), (101, 201)),
    ]:  # fmt: skip
        assert_like_pillow(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8), *new, "bicubic")


def test_strided_input(rng):
    rgb = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert (tiling.resize(rgb[::2, ::3], 30, 30) == reference.resize(rgb[::2, ::3].copy(), 30, 30)).all()


@pytest.mark.parametrize(
    ("rgb", "width", "height", "filter"),
    [
        (np.zeros((4, 4), np.uint8), 4, 4, "bicubic"),
        (np.zeros((4, 4, 4), np.uint8), 4, 4, "bicubic"),
        (np.zeros((4, 4, 3), np.float32), 4, 4, "bicubic"),
        (np.zeros((4, 4, 3), np.uint8), 0, 4, "bicubic"),
        (np.zeros((4, 4, 3), np.uint8), 4, 20001, "bicubic"),
        (np.zeros((4, 4, 3), np.uint8), 4, 2**32 + 4, "bicubic"),
        (np.zeros((4, 4, 3), np.uint8), 4.5, 4, "bicubic"),
        (np.zeros((4, 4, 3), np.uint8), 4, 4, "nearest"),
        (np.zeros((0, 4, 3), np.uint8), 4, 4, "bicubic"),
    ],
)
def test_bad_arguments(rgb, width, height, filter):
    with pytest.raises(InvalidArgumentError):
        tiling.resize(rgb, width, height, filter=filter)
