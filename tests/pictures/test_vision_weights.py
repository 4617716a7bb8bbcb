"""When the vision weights are in memory: counting needs none, and unload() waits for whoever uses them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import tiny_models

from bluelm_gguf.native import library as _native
from bluelm_gguf.pictures.vision import VisionEncoder
from bluelm_gguf.pictures.vision_weights import VisionWeights


def weights_of(path: Path) -> VisionWeights:
    params = _native.VisionParams()
    _native.check(_native.load().bluelm_vision_params_default(_native.byref(params)))
    params.n_threads = 1
    return VisionWeights(path, params, free=False)


def test_counting_loads_no_weights(tmp_path: Path) -> None:
    """An anyres picture's tokens are geometry: with the weights unloaded, they stay so."""
    path = tiny_models.write_mmproj(tmp_path / "anyres.gguf", metadata={"bluelm.assembly.method": "anyres"})
    rgb = np.zeros((500, 800, 3), np.uint8)
    with VisionEncoder(path, n_threads=1) as encoder:
        encoder.unload()
        plan = encoder.plan(800, 500)
        prepared = encoder.prepare(rgb)
        assert not encoder.is_loaded
        assert plan.n_tokens(encoder.info.tokens_per_tile) == prepared.n_tokens
        assert plan.image_tokens not in (None, plan.n_tiles * encoder.info.tokens_per_tile)
        assert encoder.encode(rgb).n_tokens == prepared.n_tokens


def test_unload_while_in_use(files) -> None:
    weights = weights_of(files.mmproj)
    using, done = threading.Event(), threading.Event()

    def use() -> None:
        with weights.use():
            using.set()
            done.wait(60)

    thread = threading.Thread(target=use)
    thread.start()
    assert using.wait(60)
    weights.unload()
    assert weights.is_loaded
    done.set()
    thread.join()
    assert not weights.is_loaded
    with weights.use():
        pass
    assert weights.is_loaded  # it was asked for once
    weights.unload()
    assert not weights.is_loaded
    weights.close()
