"""Cancelling within one view: libmtmd's encoder says that all is well then, with rubbish in its buffer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_pairs

from bluelm_gguf import Cancelled, Model


def test_an_encode_that_was_stopped_leaves_nothing_wrong(
    pair: Callable[[str], tuple[Path, Path]], picture: Path, tmp_path: Path
) -> None:
    llm, _ = pair("gemma3")
    mmproj = tmp_path / "larger.gguf"
    tiny_pairs.write_gemma3(mmproj, 64, 7, image=448, n=256)  # 1024 patches, 0.3e9 multiply-adds a layer
    with Model(llm, mmproj=mmproj, n_threads=1, n_ctx=1024, cache=tmp_path / "cache") as model:
        calls: list[tuple[int, int]] = []

        def count(stage: str, done: int, total: int) -> bool:
            calls.append((done, total))
            return True

        other = model.encode(picture, on_progress=count)
        assert len(calls) > 5, "the callback is asked within a view"
        assert set(calls[:-1]) == {(0, 1)} and calls[-1] == (1, 1)
        rgb = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        for at in range(1, len(calls)):
            left = [at]

            def stop(stage: str, done: int, total: int, left: list[int] = left) -> bool:
                left[0] -= 1
                return left[0] > 0

            with pytest.raises(Cancelled):
                model.encode(rgb, on_progress=stop)
        encoded = model.encode(rgb)
        assert not encoded.is_cached, "nothing of a cancelled picture is kept"
        assert not np.array_equal(encoded.embeddings, other.embeddings)
    with Model(llm, mmproj=mmproj, n_threads=1, n_ctx=1024) as fresh:
        assert np.array_equal(encoded.embeddings, fresh.encode(rgb).embeddings)
