"""Batches, the pipeline, whole pictures, progress and cancelling."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import random_tiles
from native_vision import NativeVision

from bluelm_gguf import errors
from bluelm_gguf.native import library as native


@pytest.fixture(scope="module")
def small(make_mmproj: Callable[..., Path]) -> Path:
    """5x5 patches of 20 pixels: 17 tiles cost next to nothing."""
    return make_mmproj("feature_layer")


@pytest.mark.parametrize("file_type", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_any_batch_equals_single_tiles(file_type: str, make_mmproj: Callable[..., Path]) -> None:
    """Bit for bit: a matmul sums each output in the same order however many rows it has."""
    path = make_mmproj("feature_layer", file_type)
    tiles = random_tiles(17, 100)
    with NativeVision(path, batch=1) as vision:
        single = np.concatenate([vision.encode_tiles(tiles[i : i + 1]) for i in range(len(tiles))])
    for batch in range(1, 18):
        with NativeVision(path, batch=batch) as vision:
            assert np.array_equal(vision.encode_tiles(tiles), single), f"batch {batch}"
            assert (vision.timings.n_tiles, vision.timings.n_batches) == (17, -(-17 // batch))


@pytest.mark.parametrize("file_type", ["f32", "q4_0"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pipeline_changes_nothing(file_type: str, threads: int, make_mmproj: Callable[..., Path]) -> None:
    path = make_mmproj("default", file_type)
    tiles = random_tiles(9, 384)
    with NativeVision(path, batch=2, pipeline=0, n_threads=2) as vision:
        plain = vision.encode_tiles(tiles)
    with NativeVision(path, batch=2, pipeline=1, n_threads=threads) as vision:
        assert np.array_equal(vision.encode_tiles(tiles), plain)
        assert np.array_equal(vision.encode_tiles(tiles[:1]), plain[:1])
        assert vision.encode_tiles(tiles[:0]).shape == (0, *plain.shape[1:])


@pytest.mark.parametrize("pipeline", [0, 1])
def test_picture_equals_its_views(pipeline: int, make_mmproj: Callable[..., Path]) -> None:
    """bluelm_vision_encode is plan, cut and encode_tiles in one."""
    rgb = np.random.default_rng(1).integers(0, 256, (900, 450, 3), dtype=np.uint8)
    lib = native.load()
    with NativeVision(make_mmproj("default"), batch=2, pipeline=pipeline) as vision:
        tiler, plan = native.TilerParams(), native.TilePlan()
        native.check(lib.bluelm_vision_get_tiler(vision.handle, native.byref(tiler)))
        native.check(lib.bluelm_tiler_plan(native.byref(tiler), 450, 900, native.byref(plan)))
        views = np.empty((plan.n_tiles, 384, 384, 3), np.uint8)
        native.check(
            lib.bluelm_tiler_cut(
                native.byref(tiler), native.byref(plan), native.pointer(rgb, native.c_uint8), 0, plan.n_tiles,
                native.pointer(views, native.c_uint8), views.nbytes,
            )
        )  # fmt: skip
        assert plan.n_tiles > 2
        tokens = vision.encode(rgb)
        assert np.array_equal(tokens, vision.encode_tiles(views).reshape(tokens.shape))


@pytest.mark.parametrize("pipeline", [0, 1])
def test_progress_counts_tiles(pipeline: int, small: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    with NativeVision(small, batch=3, pipeline=pipeline) as vision:
        vision.encode_tiles(random_tiles(8, 100), lambda *event: seen.append(event))
    assert sorted(set(seen), key=seen.index) == [("encode", n, 8) for n in (0, 3, 6, 8)]


@pytest.mark.parametrize("pipeline", [0, 1])
@pytest.mark.parametrize("stop_at", [0, 3, 6, 8])
def test_cancel_between_batches(stop_at: int, pipeline: int, small: Path) -> None:
    tiles = random_tiles(8, 100)
    with NativeVision(small, batch=3, pipeline=pipeline) as vision:
        with pytest.raises(errors.Cancelled):
            vision.encode_tiles(tiles, lambda stage, done, total: done < stop_at)
        again = vision.encode_tiles(tiles)  # the handle is as good as before
    with NativeVision(small) as vision:
        assert np.array_equal(vision.encode_tiles(tiles), again)


def test_an_exception_in_the_callback_comes_through(small: Path) -> None:
    def interrupt(*_: Any) -> bool:
        raise KeyboardInterrupt

    with NativeVision(small) as vision, pytest.raises(KeyboardInterrupt):
        vision.encode_tiles(random_tiles(2, 100), interrupt)


def test_cancel_inside_a_batch(make_mmproj: Callable[..., Path]) -> None:
    """The callback is asked between the nodes of a batch's graph, too, not only when the batch is done."""
    tiles = random_tiles(17, 384)
    with NativeVision(make_mmproj("default"), batch=17) as vision:
        vision.encode_tiles(tiles)
        start = time.perf_counter()
        asked: list[float] = []

        def stop_later(*_: Any) -> bool:
            asked.append(time.perf_counter() - start)
            return len(asked) < 3

        with pytest.raises(errors.Cancelled):
            vision.encode_tiles(tiles, stop_later)
        assert len(asked) == 3  # two of them before the only batch was done


def test_arguments_are_checked(small: Path) -> None:
    for params in ({"batch": 0}, {"batch": 18}, {"n_threads": 513}, {"struct_size": 4}):
        with pytest.raises(errors.InvalidArgumentError):
            NativeVision(small, **params)
    with NativeVision(small) as vision:
        lib, out, tile = native.load(), np.empty(8, np.float32), random_tiles(1, 100)
        floats, pixels = native.pointer(out, native.c_float), native.pointer(tile, native.c_uint8)
        no_progress = native.PROGRESS()
        for call in (
            lambda: lib.bluelm_vision_encode_tiles(
                vision.handle, pixels, 1, no_progress, None, floats, 8, None
            ),
            lambda: lib.bluelm_vision_encode_tiles(
                vision.handle, pixels, -1, no_progress, None, floats, 8, None
            ),
            lambda: lib.bluelm_vision_encode_tiles(None, pixels, 1, no_progress, None, floats, 8, None),
            lambda: lib.bluelm_vision_encode(
                vision.handle, None, pixels, 0, 7, no_progress, None, floats, 8, None, None
            ),
        ):
            with pytest.raises(errors.InvalidArgumentError):
                native.check(call())
        lib.bluelm_vision_free(None)
