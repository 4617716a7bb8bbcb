"""Outlier channels are evened out before a vision file is quantised, and the function stays the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bluelm_gguf.convert import convert, files
from bluelm_gguf.convert.vision.rebalance import factors
from checkpoints import make_bluelm_v_checkpoint
from safetensors.torch import load_file, save_file
from test_convert_mmproj import TILES, encode


def test_factors_are_powers_of_two_around_one() -> None:
    rng = np.random.default_rng()
    activations = np.exp(rng.normal(size=64)).astype(np.float32)
    weights = np.ones(64, np.float32)
    activations[3], weights[5], activations[7] = 1e4, 1e-4, 0.0
    found = factors(activations, weights)
    mantissas, _ = np.frexp(found)
    assert np.all(mantissas == 0.5) and np.median(found) in (0.5, 1, 2)
    assert found[3] >= 32 and found[5] >= 32 and np.all(np.isfinite(found))
    assert np.all(factors(np.full(8, 3.0, np.float32), np.full(8, 0.02, np.float32)) == 1)


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Channels whose LayerNorm is a hundred times larger, and their weights behind it a tenth."""
    directory = make_bluelm_v_checkpoint(tmp_path_factory.mktemp("outliers"))
    rng = np.random.default_rng(5)
    for path in directory.glob("*.safetensors"):
        tensors = load_file(path)
        for layer in range(2):
            name = f"vision_tower.vision_model.encoder.layers.{layer}."
            behind = {"layer_norm1": [f"self_attn.{part}_proj" for part in "qkv"], "layer_norm2": ["mlp.fc1"]}
            for norm, matrices in behind.items():
                channels = rng.choice(64, 3, replace=False)
                if f"{name}{norm}.weight" not in tensors:
                    continue
                tensors[f"{name}{norm}.weight"][channels] *= 100
                tensors[f"{name}{norm}.bias"][channels] *= 100
                for matrix in matrices:
                    tensors[f"{name}{matrix}.weight"][:, channels] /= 10
        save_file(tensors, path, metadata={"format": "pt"})
    return directory


def test_outlier_channels_cost_little(
    outliers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error of the features over their size, with the file's weights and float arithmetic."""
    paths = {"f32": convert(outliers, tmp_path / "f32", mmproj_type="f32", vision_only=True).mmproj_path}
    paths["q8_0"] = convert(outliers, tmp_path / "q8_0", mmproj_type="q8_0", vision_only=True).mmproj_path
    monkeypatch.setattr(files, "rebalance", lambda checkpoint, specs: specs)
    plain = convert(outliers, tmp_path / "plain", mmproj_type="q8_0", vision_only=True)
    paths["plain"] = plain.mmproj_path
    features = {name: encode(path, TILES) for name, path in paths.items() if path is not None}
    wanted = features.pop("f32")
    errors = {name: np.sqrt(((x - wanted) ** 2).mean() / (wanted**2).mean()) for name, x in features.items()}
    assert errors["q8_0"] < 0.02 and errors["q8_0"] < errors["plain"], errors
