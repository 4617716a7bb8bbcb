"""The encoder's own kernels: every level of this CPU, int8 and float activations, streamed weights.

Levels are forced by BLUELM_CPU_LEVEL, which each encoder reads when it is made; `generic` is the reference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmproj_writer
import numpy as np
import pytest
import torch
from cpu_levels import levels
from models import dequantised, random_tiles
from native_vision import NativeVision
from tolerances import relative_error, tolerance

from bluelm_gguf import errors
from bluelm_gguf.native import library as native

LEVELS = levels()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sets of features, each taken as one vector."""
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("file_type", ["f32", "bf16", "q8_0"])
def test_levels_agree(
    file_type: str, activations: str, make_mmproj: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs between levels: whether floats between matmuls are kept in bf16, and rounding, which now
    and then tips a value into the next of 255 steps. The bounds are those of the types against torch."""
    path, tiles = make_mmproj("head_dim_72", file_type), random_tiles(2, 224)
    results = {}
    for level in LEVELS:
        monkeypatch.setenv("BLUELM_CPU_LEVEL", level)
        with NativeVision(path, activations=native.ACTIVATIONS[activations]) as vision:
            results[level] = vision.encode_tiles(tiles)
    kind = "q8_0" if activations == "int8" else "f32" if file_type == "f32" else "bf16"
    for level, result in results.items():
        assert relative_error(result, results["generic"]) < tolerance("projector", kind), level


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["default", "norms", "no_downsample", "head_dim_72", "feature_layer"])
def test_each_level_equals_torch(
    name: str,
    level: str,
    make_model: Callable[..., Any],
    make_mmproj: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model(name)
    tiles = random_tiles(1, model.config["vision_config"]["image_size"])
    expected = dequantised(model, "q8_0").stages(tiles)["projector"].numpy()
    monkeypatch.setenv("BLUELM_CPU_LEVEL", level)
    for activations in "int8", "float":
        with NativeVision(
            make_mmproj(name, "q8_0"), activations=native.ACTIVATIONS[activations], n_threads=3
        ) as vision:
            result = vision.encode_tiles(tiles)
        assert relative_error(result, expected) < tolerance("projector", "q8_0")
        assert cosine(result, expected) > 0.999


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("name", "file_type"), [("default", "f32"), ("feature_layer", "q8_0"), ("norms", "bf16")]
)
def test_patch_embedding_at_each_level(
    name: str,
    file_type: str,
    level: str,
    make_model: Callable[..., Any],
    make_mmproj: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float32 arithmetic at every level, whatever the file's type; by any number of threads."""
    model, seed = make_model(name), int(np.random.default_rng().integers(1 << 30))
    tiles = random_tiles(3, model.config["vision_config"]["image_size"], seed)
    expected = dequantised(model, file_type).stages(tiles)["patch_embd"].numpy()
    monkeypatch.setenv("BLUELM_CPU_LEVEL", level)
    results = []
    for threads in 1, 3:
        with NativeVision(make_mmproj(name, file_type), n_threads=threads, batch=2) as vision:
            results.append(vision.dump(tiles, "patch_embd", expected.shape))
    assert relative_error(results[0], expected) < tolerance("patch_embd", "f32"), f"seed {seed}"
    assert np.array_equal(results[1], results[0]), f"seed {seed}"


@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("file_type", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_streamed_weights_change_nothing(
    file_type: str, activations: str, make_mmproj: Callable[..., Path]
) -> None:
    path, tiles = make_mmproj("feature_layer", file_type), random_tiles(19, 100)
    params = {"activations": native.ACTIVATIONS[activations], "n_threads": 2}
    with NativeVision(path, **params) as vision:
        resident = vision.encode_tiles(tiles)
    with NativeVision(path, weights=native.WEIGHTS["streamed"], **params) as vision:
        assert np.array_equal(vision.encode_tiles(tiles), resident)
        assert vision.timings.n_batches == 3  # at most 8 tiles each
        assert np.array_equal(vision.encode_tiles(tiles[:1]), resident[:1])


def test_threads_change_nothing(make_mmproj: Callable[..., Path]) -> None:
    path, tiles = make_mmproj("head_dim_72", "q8_0"), random_tiles(3, 224)
    results = []
    for threads in 1, 2, 3, 7, 64:  # mostly more than cores, and at last more than blocks of rows
        with NativeVision(path, n_threads=threads, batch=2) as vision:
            results.append(vision.encode_tiles(tiles))
    assert all(np.array_equal(result, results[0]) for result in results)


def test_profile_adds_up(make_mmproj: Callable[..., Path]) -> None:
    with NativeVision(make_mmproj("default", "q8_0"), batch=2) as vision:
        assert vision.profile().n_tiles == 0
        vision.encode_tiles(random_tiles(3, 384))
        profile = vision.profile()
    assert (profile.n_tiles, profile.n_batches) == (3, 2)
    stages = {name: getattr(profile, name) for name, _ in profile._fields_ if name.endswith("_ms")}
    total = stages.pop("total_ms")
    assert stages["pack_ms"] == 0
    for name in (
        "patch_embd_ms",
        "norm_ms",
        "qkv_ms",
        "attention_ms",
        "attn_out_ms",
        "ffn_up_ms",
        "ffn_down_ms",
    ):
        assert stages[name] > 0, stages
    assert stages["projector_ms"] > 0 and sum(stages.values()) <= total


def test_choices_out_of_range(make_mmproj: Callable[..., Path]) -> None:
    path = make_mmproj("default", "q8_0")
    for params in {"weights": 2}, {"weights": -1}, {"activations": 3}, {"activations": -1}:
        with pytest.raises(errors.InvalidArgumentError):
            NativeVision(path, **params)


def test_a_streamed_file_that_shrinks(make_mmproj: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "shrinks.gguf"
    path.write_bytes(make_mmproj("feature_layer", "q8_0").read_bytes())
    tiles = random_tiles(2, 100)
    with NativeVision(path, weights=1, n_threads=2) as vision:
        vision.encode_tiles(tiles)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        with pytest.raises(errors.ModelFileError, match=r"shrinks\.gguf.*change"):
            vision.encode_tiles(tiles)


def test_outlier_channels(make_model: Callable[..., Any], tmp_path: Path) -> None:
    """Six channels of every LayerNorm a hundred times larger, the weights behind them a tenth: they are
    evened out and split, so that 8 bits do as well as without them."""
    model = copy.deepcopy(make_model("head_dim_72"))
    draws = torch.Generator().manual_seed(1)  # the bound below was measured: the same channels every time
    with torch.no_grad():
        for layer in model.vision.encoder.layers:
            attention = layer.self_attn
            for norm, behind in (
                (layer.layer_norm1, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (layer.layer_norm2, (layer.mlp.fc1,)),
            ):
                channels = torch.randperm(norm.weight.numel(), generator=draws)[:6]
                norm.weight[channels] *= 100
                norm.bias[channels] *= 100
                for linear in behind:
                    linear.weight[:, channels] /= 10
    tiles = random_tiles(1, 224)
    expected = model.stages(tiles)["projector"].numpy()
    path = mmproj_writer.write_mmproj(model, tmp_path / "outliers.gguf", "f32")
    with NativeVision(path, activations=native.ACTIVATIONS["int8"]) as vision:
        # 40 random draws gave 0.9993 at the least: a narrow model averages rounding less than a wide one.
        assert cosine(vision.encode_tiles(tiles), expected) > 0.9988
