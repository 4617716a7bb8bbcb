"""The mmproj: keys and tensors of docs/mmproj.md, types, exact padding, and the same features as torch.

The forward pass here is numpy on the tensors of the GGUF file, so that a wrong name, order or shape shows
without the runtime.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import gguf_io
import numpy as np
import pytest
import torch
from bluelm_gguf.convert import MMPROJ_TYPES, CheckpointError, UnsupportedModelError, convert
from checkpoints import make_bluelm_v_checkpoint, save_tensors
from reference_model import ReferenceBlueLMV

DOC = Path(__file__).resolve().parents[2] / "docs" / "mmproj.md"
TILES = np.random.default_rng(3).integers(0, 256, (1, 384, 384, 3), dtype=np.uint8)
# float32 on both sides, in another order of additions; features are of size 1.
F32_TOLERANCE = 5e-5


def mmproj(directory: Path, out: Path, mmproj_type: str = "f32") -> Path:
    result = convert(directory, out, mmproj_type=mmproj_type, vision_only=True, name="m")
    assert result.llm_path is None and result.mmproj_path is not None
    assert result.mmproj_path == out / f"mmproj-m-{mmproj_type.upper()}.gguf"
    return result.mmproj_path


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.asarray(torch.erf(torch.from_numpy(x / math.sqrt(2)))))


def norm(x: np.ndarray, t: dict[str, np.ndarray], name: str, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * t[f"{name}.weight"]
        + t[f"{name}.bias"]
    )


def linear(x: np.ndarray, t: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def encode(path: Path, tiles: np.ndarray) -> np.ndarray:
    """[n, S, S, 3] uint8 -> [n, T, n_embd], from the file's keys and tensors alone."""
    k, t = gguf_io.metadata(path), gguf_io.tensors(path)
    n, p, d = len(tiles), k["clip.vision.patch_size"], k["clip.vision.embedding_length"]
    grid, heads = k["clip.vision.image_size"] // p, k["clip.vision.attention.head_count"]
    eps = k["clip.vision.attention.layer_norm_epsilon"]
    pixels = (tiles / 255.0 - k["clip.vision.image_mean"]) / k["clip.vision.image_std"]
    pixels = pixels[:, : grid * p, : grid * p].reshape(n, grid, p, grid, p, 3).transpose(0, 1, 3, 5, 2, 4)
    x = pixels.reshape(n, grid * grid, 3 * p * p) @ t["v.patch_embd.weight"].reshape(d, -1).T
    x = x + t["v.patch_embd.bias"] + t["v.position_embd.weight"]
    for i in range(k["clip.vision.block_count"]):
        b = f"v.blk.{i}"
        y = norm(x, t, f"{b}.ln1", eps)
        q, key, v = (
            linear(y, t, f"{b}.attn_{s}").reshape(n, -1, heads, d // heads).transpose(0, 2, 1, 3)
            for s in "qkv"
        )
        scores = q @ key.transpose(0, 1, 3, 2) / math.sqrt(d // heads)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        y = (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(n, -1, d)
        x = x + linear(y, t, f"{b}.attn_out")
        y = gelu_tanh(linear(norm(x, t, f"{b}.ln2", eps), t, f"{b}.ffn_up"))
        x = x + linear(y, t, f"{b}.ffn_down")
    if k["bluelm.vision.post_layernorm"]:
        x = norm(x, t, "v.post_ln", eps)
    s = k["bluelm.projector.downsample"]
    side = -(-grid // s)
    board = np.zeros((n, side * s, side * s, d))
    board[:, :grid, :grid] = x.reshape(n, grid, grid, d)
    x = np.concatenate([board[:, i::s, j::s] for i in range(s) for j in range(s)], -1)
    if k["bluelm.projector.token_order"] == "column_major":
        x = x.transpose(0, 2, 1, 3)
    x = x.reshape(n, side * side, s * s * d)
    if "mm.input_norm.weight" in t:
        x = norm(x, t, "mm.input_norm", k["bluelm.projector.layer_norm_epsilon"])
    act = gelu_erf if k["bluelm.projector.hidden_act"] == "gelu" else gelu_tanh
    return linear(act(linear(x, t, "mm.0")), t, "mm.2")


CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no downsampler": {"downsample": 1},
    "input norm, other order, tanh": {
        "input_norm": True,
        "projector": {"token_order": "column_major", "hidden_act": "gelu_tanh", "layer_norm_eps": 1e-2},
    },
    "feature layer -2": {"vision": {"num_hidden_layers": 3}, "config": {"vision_feature_layer": -2}},
    "feature layer 1": {"vision": {"num_hidden_layers": 3}, "config": {"vision_feature_layer": 1}},
    "post-LayerNorm": {"config": {"vision_post_layernorm": True}},
    "other mean, other epsilon": {
        "vision": {"layer_norm_eps": 1e-2},
        "config": {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]},
    },
    "wider projector": {"projector": {"hidden_size": 96}},
    "head of 72": {"vision": {"hidden_size": 144, "num_attention_heads": 2, "num_hidden_layers": 1}},
}


@pytest.mark.parametrize("case", CASES)
def test_features_equal_torch(case: str, tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(tmp_path / "ck", **CASES[case])
    wanted = ReferenceBlueLMV.from_checkpoint(directory).encode_tiles(TILES).numpy()
    got = encode(mmproj(directory, tmp_path / "out"), TILES)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() < F32_TOLERANCE


def test_padded_ffn_is_exact(tmp_path: Path) -> None:
    """Bit for bit: the hidden units are summed one after the other, and the padded ones add nothing."""
    directory = make_bluelm_v_checkpoint(tmp_path / "ck", vision={"intermediate_size": 300})
    path = mmproj(directory, tmp_path / "out")
    keys, t = gguf_io.metadata(path), gguf_io.tensors(path)
    assert keys["clip.vision.feed_forward_length"] == 512
    assert keys["bluelm.vision.feed_forward_length_unpadded"] == 300
    tower = ReferenceBlueLMV.from_checkpoint(directory).vision
    x = np.random.default_rng(0).standard_normal((7, 64), dtype=np.float32)

    def mlp(up: np.ndarray, up_bias: np.ndarray, down: np.ndarray, down_bias: np.ndarray) -> np.ndarray:
        out = np.zeros((7, 64), np.float32)
        for unit in range(len(up)):
            hidden = gelu_tanh((x * up[unit]).sum(-1, dtype=np.float32) + up_bias[unit])
            out = out + hidden.astype(np.float32)[:, None] * down[:, unit]
        return out + down_bias

    for i in range(keys["clip.vision.block_count"]):
        b, fc = f"v.blk.{i}", tower.encoder.layers[i].mlp
        plain = [w.detach().numpy() for w in (fc.fc1.weight, fc.fc1.bias, fc.fc2.weight, fc.fc2.bias)]
        padded = [t[f"{b}.{n}"] for n in ("ffn_up.weight", "ffn_up.bias", "ffn_down.weight", "ffn_down.bias")]
        assert [w.shape for w in padded] == [(512, 64), (512,), (64, 512), (64,)]
        assert not padded[0][300:].any() and not padded[1][300:].any() and not padded[2][:, 300:].any()
        assert (padded[0][:300] == plain[0]).all() and (padded[2][:, :300] == plain[2]).all()
        assert (mlp(*padded) == mlp(*plain)).all()


@pytest.mark.parametrize("mmproj_type", MMPROJ_TYPES)
def test_types_are_those_of_the_documentation(mmproj_type: str, tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(tmp_path / "ck", input_norm=True)
    result = convert(directory, tmp_path / "out", mmproj_type=mmproj_type, vision_only=True)
    assert result.mmproj_path is not None
    kinds = gguf_io.types(result.mmproj_path)
    block = mmproj_type.upper()
    for name, kind in kinds.items():
        if name == "v.patch_embd.weight":
            assert kind == {"f32": "F32", "bf16": "BF16"}.get(mmproj_type, "F16")
        elif re.fullmatch(r"v\.blk\.\d+\.(attn_(q|k|v|out)|ffn_(up|down))\.weight|mm\.[02]\.weight", name):
            assert kind == block
        else:
            assert kind == "F32"
    assert Counter(kinds.values()) == {kind: count for kind, count, _ in result.mmproj_types}
    sizes: Counter[str] = Counter()
    for tensor in gguf.GGUFReader(result.mmproj_path).tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_bytes)
    assert sizes == {kind: size for kind, _, size in result.mmproj_types}
    wanted_ftype = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}
    assert gguf_io.metadata(result.mmproj_path)["general.file_type"] == wanted_ftype[mmproj_type]
    # Root mean square error of the features over their size; measured 1e-7, 4e-4, 4e-3, 7e-3, 0.11.
    wanted = ReferenceBlueLMV.from_checkpoint(directory).encode_tiles(TILES).numpy()
    error = encode(result.mmproj_path, TILES) - wanted
    limit = {"f32": 1e-6, "f16": 1e-3, "bf16": 1e-2, "q8_0": 0.02, "q4_0": 0.25}[mmproj_type]
    assert np.sqrt((error**2).mean() / (wanted**2).mean()) < limit


@pytest.mark.parametrize("mmproj_type", ["q8_0", "q4_0"])
def test_rows_that_do_not_divide_stay_f16_and_say_so(mmproj_type: str, tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(
        tmp_path / "ck", vision={"hidden_size": 72, "num_attention_heads": 1}
    )
    result = convert(directory, tmp_path / "out", mmproj_type=mmproj_type, vision_only=True)
    assert result.mmproj_path is not None
    kinds = gguf_io.types(result.mmproj_path)
    assert kinds["v.blk.0.attn_q.weight"] == kinds["v.blk.0.ffn_up.weight"] == "F16"
    assert kinds["v.blk.0.ffn_down.weight"] == kinds["mm.0.weight"] == mmproj_type.upper()
    assert any(note.startswith("10 matrices have rows that are no multiple of 32") for note in result.notes)


def documented_keys() -> dict[str, str]:
    """key -> type out of the table of docs/mmproj.md."""
    out = {}
    for row in re.findall(r"^\| (`.*?) \| ([^|]+) \|", DOC.read_text(encoding="utf-8"), re.M):
        names, kinds = re.findall(r"`([^`]+)`", row[0]), [k.strip() for k in row[1].split(",")]
        for i, name in enumerate(names):
            if re.fullmatch(r"(general|clip|bluelm)\.\S+", name):
                out[name] = kinds[min(i, len(kinds) - 1)]
    return out


def test_every_documented_key_is_there_with_its_type(tmp_path: Path) -> None:
    names = {"str": "STRING", "u32": "UINT32", "f32": "FLOAT32", "bool": "BOOL"}
    keys = gguf_io.metadata(mmproj(make_bluelm_v_checkpoint(tmp_path / "ck"), tmp_path / "out"))
    documented = documented_keys()
    assert len(documented) > 30
    for key, kind in documented.items():
        array = re.fullmatch(r"(\w+)\[.*\]", kind)
        wanted = (
            f"ARRAY/{ {'f32': 'FLOAT32', 'i32': 'INT32'}[array[1]] }".replace(" ", "")
            if array
            else names[kind]
        )
        assert keys.get(f"{key}:type") == wanted, key
    written = {key for key in keys if not key.endswith(":type")}
    assert written - set(documented) <= {"general.quantization_version"}


def test_values_of_the_keys(tmp_path: Path) -> None:
    tiler = {
        "method": "internvl",
        "alpha": 0.25,
        "max_cols": 2,
        "max_rows": 3,
        "thumbnail": "last",
        "thumbnail_for_single": True,
        "fit": "stretch",
        "resize": "bilinear",
        "pad_rgb": [127, 0, 255],
    }
    config = {"tiler": tiler, "image_prefix": "<img>", "image_suffix": "</img>"}
    k = gguf_io.metadata(mmproj(make_bluelm_v_checkpoint(tmp_path / "ck", config=config), tmp_path / "out"))
    assert k["general.architecture"] == "clip" and k["general.type"] == "mmproj" and k["general.name"] == "m"
    assert k["clip.projector_type"] == "bluelm" and k["clip.has_vision_encoder"] and k["clip.use_gelu"]
    assert k["clip.vision.projection_dim"] == 64 and k["clip.vision.block_count"] == 2
    assert k["bluelm.tiler.method"] == "internvl" and k["bluelm.tiler.alpha"] == 0.25
    assert k["bluelm.tiler.grids"] == [1, 1, 1, 2, 1, 3, 2, 1, 2, 2, 2, 3]
    assert k["bluelm.tiler.thumbnail"] == "last" and k["bluelm.tiler.thumbnail_for_single"] is True
    assert k["bluelm.tiler.fit"] == "stretch" and k["bluelm.tiler.resize"] == "bilinear"
    assert k["bluelm.tiler.pad_rgb"] == [127, 0, 255]
    assert k["bluelm.prompt.image_prefix"] == "<img>" and k["bluelm.prompt.image_suffix"] == "</img>"


def test_defaults_of_the_layout(tmp_path: Path) -> None:
    """`projector`, `tiler` and the prompt may be left out of config.json (docs/bluelm-v-layout.md)."""
    directory = make_bluelm_v_checkpoint(tmp_path / "ck")
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = ("model_type", "text_config", "vision_config")
    path.write_text(json.dumps({key: config[key] for key in kept}), encoding="utf-8")
    k = gguf_io.metadata(mmproj(directory, tmp_path / "out"))
    assert k["bluelm.projector.downsample"] == 2 and k["bluelm.projector.token_order"] == "row_major"
    assert k["bluelm.tiler.method"] == "relaxed" and len(k["bluelm.tiler.grids"]) == 32
    assert k["bluelm.tiler.thumbnail"] == "first" and k["bluelm.tiler.fit"] == "pad_center"
    assert k["bluelm.prompt.image_suffix"] == "\n" and k["clip.vision.image_mean"] == [0.5, 0.5, 0.5]


def test_both_files_carry_the_same_pair_id(tmp_path: Path) -> None:
    ids = []
    for seed, kinds in ((0, ("f16", "q8_0")), (0, ("q8_0", "f16")), (1, ("f16", "q8_0"))):
        directory = make_bluelm_v_checkpoint(tmp_path / f"ck{seed}", seed=seed)
        out = tmp_path / f"out{seed}{kinds[0]}"
        result = convert(directory, out, llm_type=kinds[0], mmproj_type=kinds[1])
        assert result.llm_path is not None and result.mmproj_path is not None
        ids += [gguf_io.metadata(p)["bluelm.pair_id"] for p in (result.llm_path, result.mmproj_path)]
    assert ids[0] == ids[1] == ids[2] == ids[3] != ids[4] == ids[5]


@pytest.mark.parametrize("names", ["old", "new"])
def test_llava_layout(names: str, tmp_path: Path) -> None:
    """SigLIP + MLP without a downsampler, with the tensor names of two generations of `transformers`."""
    ours = make_bluelm_v_checkpoint(
        tmp_path / "ours",
        downsample=1,
        vision={"num_hidden_layers": 3},
        config={"vision_feature_layer": -2},
        text_model_type="qwen2",
    )
    model = ReferenceBlueLMV.from_checkpoint(ours)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.checkpoint_tensors().items():
        if names == "new":
            name = name.replace("language_model.model.", "model.language_model.")
            name = name.replace("language_model.lm_head", "lm_head")
            name = re.sub(r"^vision_tower\.vision_model\.", "model.vision_tower.", name)
            name = re.sub(r"^multi_modal_projector", "model.multi_modal_projector", name)
        tensors[name] = tensor
    config = json.loads((ours / "config.json").read_text(encoding="utf-8"))
    llava = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": config["text_config"],
        "vision_config": config["vision_config"],
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "full",
        "projector_hidden_act": "gelu",
        "image_token_index": 483,
    }
    (ours / "config.json").write_text(json.dumps(llava), encoding="utf-8")
    save_tensors(ours, tensors)
    result = convert(ours, tmp_path / "out", llm_type="f32", mmproj_type="f32")
    assert result.mmproj_path is not None and result.llm_path is not None
    assert np.abs(encode(result.mmproj_path, TILES) - model.encode_tiles(TILES).numpy()).max() < F32_TOLERANCE
    keys = gguf_io.metadata(result.mmproj_path)
    assert keys["bluelm.tiler.method"] == "single" and keys["bluelm.tiler.fit"] == "stretch"
    assert gguf_io.metadata(result.llm_path)["general.architecture"] == "qwen2"
    llava["vision_feature_select_strategy"] = "default"
    (ours / "config.json").write_text(json.dumps(llava), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="drops the first token"):
        convert(ours, tmp_path / "out2")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            {"vision_feature_layer": 3},
            CheckpointError,
            "vision_feature_layer 3 is none of the outputs of 2 blocks",
        ),
        ({"vision_feature_layer": 0}, CheckpointError, "vision_feature_layer 0"),
        ({"projector": {"downsample": 3}}, UnsupportedModelError, "downsample is 3; supported: 1, 2"),
        (
            {"projector": {"mode": "avg", "kernel": 2}},
            UnsupportedModelError,
            "keys that are not supported: kernel, mode",
        ),
        ({"projector": {"token_order": "zigzag"}}, UnsupportedModelError, "'zigzag'.*row_major"),
        ({"tiler": {"method": "best"}}, UnsupportedModelError, "'best'.*relaxed"),
        ({"tiler": {"max_cols": 40, "max_rows": 40}}, UnsupportedModelError, "40 x 40"),
        ({"tiler": {"max_cols": 0}}, CheckpointError, "tiler.max_cols is 0"),
        ({"tiler": {"pad_rgb": [0, 0, 300]}}, CheckpointError, "pad_rgb"),
        ({"image_std": [0, 1, 1]}, CheckpointError, "image_std"),
        ({"image_suffix": 3}, CheckpointError, "image_suffix is 3"),
        ({"vision_config": None}, CheckpointError, "vision_config is None"),
    ],
)
def test_bad_settings(change: dict[str, Any], kind: type[Exception], words: str, tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(tmp_path / "ck")
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(kind, match=words) as caught:
        convert(directory, tmp_path / "out")
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"hidden_act": "quick_gelu"}, UnsupportedModelError, "hidden_act is 'quick_gelu'"),
        (
            {"model_type": "clip_vision_model"},
            UnsupportedModelError,
            "clip_vision_model.*siglip_vision_model",
        ),
        (
            {"num_attention_heads": 5},
            CheckpointError,
            "hidden_size 64 is no multiple of num_attention_heads 5",
        ),
        ({"num_channels": 1}, UnsupportedModelError, "num_channels is 1"),
        ({"patch_size": 500}, CheckpointError, "patch_size 500"),
        ({"hidden_size": "64"}, CheckpointError, "hidden_size is '64', expected a whole number"),
    ],
)
def test_bad_vision_config(change: dict[str, Any], kind: type[Exception], words: str, tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(tmp_path / "ck")
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["vision_config"] |= change
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(kind, match=words):
        convert(directory, tmp_path / "out")
