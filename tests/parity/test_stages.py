"""Every stage of the encoder against torch, for every type of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_bluelm_v_checkpoint
from mmproj_writer import write_mmproj
from models import MODELS, dequantised, random_tiles
from native_vision import NativeVision
from reference_model import ReferenceBlueLMV
from tolerances import TOLERANCES, relative_error, tolerance

from bluelm_gguf import errors


def compare(
    path: Path, reference: ReferenceBlueLMV, file_type: str, tiles: np.ndarray, **params: int
) -> None:
    """Holds every stage and the encoder's result against torch."""
    stages = {name: x.numpy() for name, x in reference.stages(tiles).items()}
    with NativeVision(path, **params) as vision:
        seen = {name: relative_error(vision.dump(tiles, name, x.shape), x) for name, x in stages.items()}
        seen["result"] = relative_error(vision.encode_tiles(tiles), stages["projector"])
    bounds = {name: tolerance("projector" if name == "result" else name, file_type) for name in seen}
    bounds["patch_embd"] = tolerance("patch_embd", "f32")  # in float32 whatever the file's type
    far = {name: error for name, error in seen.items() if error > bounds[name]}
    assert not far, f"beyond the tolerance: {far}; all: {seen}"


@pytest.mark.parametrize("level", ["generic", ""])  # plain C++, and this CPU's best
@pytest.mark.parametrize("file_type", TOLERANCES)
@pytest.mark.parametrize("name", MODELS)
def test_stages_equal_torch(
    name: str,
    file_type: str,
    level: str,
    make_model: Callable[..., Any],
    make_mmproj: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BLUELM_CPU_LEVEL", level)
    model = make_model(name)
    tiles = random_tiles(3, model.config["vision_config"]["image_size"])
    compare(make_mmproj(name, file_type), dequantised(model, file_type), file_type, tiles)


def test_info(make_mmproj: Callable[..., Path]) -> None:
    with NativeVision(make_mmproj("norms", "q8_0")) as vision:
        info = vision.info
    assert (info.image_size, info.patch_size, info.n_embd, info.n_layer, info.n_head) == (384, 14, 64, 2, 4)
    assert (info.n_ff, info.n_ff_unpadded, info.downsample, info.tokens_per_tile) == (256, 96, 2, 196)
    assert (info.n_embd_out, info.has_post_ln, info.has_input_norm, info.column_major) == (64, 1, 1, 1)
    assert (info.name, info.ftype) == (b"random", b"q8_0")


@pytest.mark.parametrize("stage", ["", "layer", "layer.2", "layer.-1", "layer.0x", "post_ln", "logits"])
def test_unknown_stage(stage: str, make_mmproj: Callable[..., Path]) -> None:
    with (
        NativeVision(make_mmproj("default")) as vision,
        pytest.raises(errors.InvalidArgumentError, match="stage"),
    ):
        vision.dump(random_tiles(1, 384), stage, (1,))


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> ReferenceBlueLMV:
    """One block of SigLIP-so400m/14-384 and a projector into 2560."""
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 1,
        "num_attention_heads": 16,
    }
    text = {"hidden_size": 2560, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 20,
            "num_key_value_heads": 20}  # fmt: skip
    directory = make_bluelm_v_checkpoint(tmp_path_factory.mktemp("full"), vision=vision, text=text)
    return ReferenceBlueLMV.from_checkpoint(directory)


@pytest.mark.slow
@pytest.mark.parametrize("file_type", TOLERANCES)
def test_full_size_layer(file_type: str, full_size: ReferenceBlueLMV, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = write_mmproj(full_size, tmp_path / "full.gguf", file_type)
    compare(path, dequantised(full_size, file_type), file_type, random_tiles(2, 384), batch=2)
