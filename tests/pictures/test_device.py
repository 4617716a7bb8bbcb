"""libmtmd's encoders on the device against libmtmd's own CPU backend, with tiny random towers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bluelm_gguf.native.library import plugin_path

pytestmark = pytest.mark.skipif(plugin_path() is None, reason="libggml-bluelm is not compiled")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from mtmd_tower import TOWERS, Mtmd, cosines, plugin_device, tiny, write_tower, write_vocabulary  # noqa: E402

# int8 with one scale per row: 0.9998 per token at full size, a little less where rows are 96 wide. With
# quantised files stock rounds its activations to 8 bits, too.
LEAST = {"f32": 0.9995, "f16": 0.9995, "q8_0": 0.999, "q4_0": 0.999}


def features(
    tmp_path: Path, name: str, file_type: str, outliers: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Of libmtmd's own backend and of the device."""
    tower = tiny(name)
    vocabulary = write_vocabulary(tmp_path / "vocabulary.gguf", tower.n_out)
    mmproj = write_tower(tmp_path / "mmproj.gguf", tower, file_type, outliers=outliers, seed=3)
    side = tower.image_size
    picture = np.random.default_rng(5).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path = plugin_path()
    assert path is not None
    results = []
    for device in (None, plugin_device(path)):
        mtmd = Mtmd(mmproj, vocabulary, tower.n_out, device=device, warmup=device is not None)
        results.append(mtmd.encode(picture))
        if device is not None:
            assert np.array_equal(mtmd.encode(picture), results[-1]), "a second encode differs"
        mtmd.close()
    return results[0], results[1]


@pytest.mark.parametrize("file_type", LEAST)
@pytest.mark.parametrize("name", TOWERS)
def test_features_are_those_of_stock(tmp_path: Path, name: str, file_type: str) -> None:
    stock, ours = features(tmp_path, name, file_type)
    assert stock.shape == ours.shape
    assert cosines(stock, ours).min() >= LEAST[file_type]


@pytest.mark.parametrize("name", ["siglip", "internvl"])
def test_outlier_channels_keep_their_neighbours_precision(tmp_path: Path, name: str) -> None:
    stock, ours = features(tmp_path, name, "f32", outliers=100.0)
    assert cosines(stock, ours).min() >= 0.9995


def test_plugin_prints_a_path_that_exists() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bluelm_gguf", "plugin"],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    first, second = done.stdout.splitlines()
    variable, _, path = first.partition("=")
    assert variable == "export GGML_BACKEND_PATH" and Path(path.strip("'")).is_file()
    assert "-mmdev BLUELM" in second
