"""Chunked prefill: the same logits as in one piece, progress, cancelling, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bluelm_gguf.convert import convert
from checkpoints import make_bluelm_v_checkpoint
from llm_context import LlmContext
from models import random_tiles
from native_vision import NativeVision
from reference_model import ReferenceBlueLMV
from tolerances import relative_error

from bluelm_gguf import errors
from bluelm_gguf.native import library as native

# Chunks change the sizes of matmuls, and ggml picks kernels by size: only the order of additions differs.
LOGITS_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bluelm_v_checkpoint(tmp_path_factory.mktemp("checkpoint"), vision={"image_size": 140}, seed=5)


@pytest.fixture(scope="module")
def files(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """LLM and mmproj of one random checkpoint in float32, through the converter."""
    result = convert(checkpoint, tmp_path_factory.mktemp("gguf"), llm_type="f32", mmproj_type="f32", name="m")
    assert result.llm_path is not None and result.mmproj_path is not None
    return result.llm_path, result.mmproj_path


def some_tokens(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, n)


def some_embeddings(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 64), np.float32) * 0.5


@pytest.mark.parametrize("make", [some_tokens, some_embeddings])
def test_chunks_give_the_logits_of_the_whole(
    make: Callable[[int], np.ndarray], files: tuple[Path, Path]
) -> None:
    what = make(300)
    with LlmContext(files[0]) as llm:
        llm.prefill(what, chunk=512)
        whole = llm.logits()
    for chunk in (1, 7, 128, 299, 300):
        with LlmContext(files[0]) as llm:
            llm.prefill(what, chunk=chunk)
            assert (llm.n_done, llm.n_past()) == (300, 300)
            assert relative_error(llm.logits()[None], whole[None]) < LOGITS_TOLERANCE, chunk


def test_without_logits_nothing_else_changes(files: tuple[Path, Path]) -> None:
    """want_logits only decides whether the last token's logits are kept."""
    with LlmContext(files[0]) as llm:
        llm.prefill(some_tokens(200), want_logits=False)
        llm.prefill(some_tokens(9), 200)
        continued = llm.logits()
    with LlmContext(files[0]) as llm:
        llm.prefill(np.concatenate([some_tokens(200), some_tokens(9)]))
        assert relative_error(llm.logits()[None], continued[None]) < LOGITS_TOLERANCE


def test_progress(files: tuple[Path, Path]) -> None:
    seen: list[tuple[str, int, int]] = []
    with LlmContext(files[0]) as llm:
        llm.prefill(some_tokens(300), on_progress=lambda *event: seen.append(event))
    assert seen == [("prefill", n, 300) for n in (0, 128, 256, 300)]


@pytest.mark.parametrize(("stop_at", "done"), [(0, 0), (1, 128), (129, 256), (300, 300)])
def test_cancel_leaves_whole_chunks(stop_at: int, done: int, files: tuple[Path, Path]) -> None:
    with LlmContext(files[0]) as llm:
        with pytest.raises(errors.Cancelled):
            llm.prefill(some_tokens(300), on_progress=lambda stage, n, total: n < stop_at)
        assert (llm.n_done, llm.n_past()) == (done, done)
        llm.prefill(some_tokens(10), done)  # and goes on from there
        assert llm.n_past() == done + 10


def test_an_exception_in_the_callback_comes_through(files: tuple[Path, Path]) -> None:
    def interrupt(*_: Any) -> bool:
        raise KeyboardInterrupt

    with LlmContext(files[0]) as llm:
        with pytest.raises(KeyboardInterrupt):
            llm.prefill(some_tokens(3), on_progress=interrupt)
        assert llm.n_past() == 0


def test_nothing_is_decoded_of_what_does_not_fit(files: tuple[Path, Path]) -> None:
    with LlmContext(files[0], n_ctx=256, n_batch=256) as llm:
        llm.prefill(some_tokens(200))
        with pytest.raises(errors.ContextFullError, match=r"57 .*200.* 256"):
            llm.prefill(some_tokens(57), 200)
        assert (llm.n_done, llm.n_past()) == (0, 200)
        llm.prefill(some_tokens(56), 200)


@pytest.mark.parametrize(
    ("what", "pos0", "options", "error"),
    [
        (some_tokens(4), 0, {"chunk": 0}, errors.InvalidArgumentError),
        (some_tokens(4), 0, {"chunk": 257}, errors.InvalidArgumentError),
        (some_tokens(4), 0, {"seq_id": 1}, errors.InvalidArgumentError),
        (some_tokens(4), 0, {"seq_id": -1}, errors.InvalidArgumentError),
        (some_tokens(4), -1, {}, errors.InvalidArgumentError),
        (some_tokens(4), 7, {}, errors.InvalidArgumentError),
        (np.array([3, -1]), 0, {}, errors.InvalidArgumentError),
        (np.array([3, 10**6]), 0, {}, errors.InvalidArgumentError),
        (np.zeros((4, 32)), 0, {}, errors.MismatchError),
    ],
)
def test_refused(
    what: np.ndarray,
    pos0: int,
    options: dict[str, int],
    error: type[errors.BluelmError],
    files: tuple[Path, Path],
) -> None:
    with LlmContext(files[0], n_ctx=256, n_batch=256) as llm:
        with pytest.raises(error):
            llm.prefill(what, pos0, **options)
        assert (llm.n_done, llm.n_past()) == (0, 0)


def test_null_and_nothing(files: tuple[Path, Path]) -> None:
    lib, no_progress = native.load(), native.PROGRESS()
    with pytest.raises(errors.InvalidArgumentError):
        native.check(lib.bluelm_prefill_tokens(None, None, None, 1, 0, False, no_progress, None, None))
    with LlmContext(files[0]) as llm:
        ctx = native.c_void_p(llm.ctx)
        with pytest.raises(errors.InvalidArgumentError):
            native.check(lib.bluelm_prefill_tokens(ctx, None, None, 1, 0, False, no_progress, None, None))
        llm.prefill(np.zeros(0))
        assert llm.n_done == 0


def test_end_to_end_in_f32_equals_torch(checkpoint: Path, files: tuple[Path, Path]) -> None:
    """Tiles to features within 1e-4, and from there the same 32 greedy tokens."""
    torch.set_num_threads(1)
    reference = ReferenceBlueLMV.from_checkpoint(checkpoint)
    tiles, before, after = random_tiles(3, 140), some_tokens(6), some_tokens(11)
    with NativeVision(files[1], batch=2) as vision:
        features = vision.encode_tiles(tiles)
    expected = reference.encode_tiles(tiles)
    assert relative_error(features, expected.numpy()) < 1e-4
    image = features.reshape(-1, features.shape[-1])
    with LlmContext(files[0]) as llm:
        llm.prefill(before, want_logits=False)
        llm.prefill(image, len(before), chunk=32, want_logits=False)
        llm.prefill(after, len(before) + len(image))
        pieces = [before.tolist(), expected.reshape(-1, expected.shape[-1]), after.tolist()]
        assert relative_error(llm.logits()[None], reference.logits(pieces)[-1:].numpy()) < 1e-4
        assert llm.greedy(32) == reference.greedy(pieces, 32)
