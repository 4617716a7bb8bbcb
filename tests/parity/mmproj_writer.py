"""Writes mmproj files (docs/mmproj.md) with gguf-py straight from the torch reference.

The encoder's tests do not go through the converter: what is compared here is the C++ graph with torch, and a
file can be spoilt on purpose.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from bluelm_gguf.convert.vision.mmproj_keys import MmprojKeys
from reference_model import ReferenceBlueLMV

TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}

Tensors = dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]]


def padded_ff(n: int) -> int:
    """The FFN's width in the file: a multiple of 256."""
    return -(-n // 256) * 256


def metadata(model: ReferenceBlueLMV, file_type: str) -> dict[str, Any]:
    """Every key of docs/mmproj.md, as Python values (int: u32)."""
    config, v, p = model.config, model.config["vision_config"], model.options
    feature_layer = config.get("vision_feature_layer", -1)
    n_run = feature_layer if feature_layer >= 0 else v["num_hidden_layers"] + 1 + feature_layer
    keys = MmprojKeys(
        image_size=v["image_size"],
        patch_size=v["patch_size"],
        n_embd=v["hidden_size"],
        n_ff=padded_ff(v["intermediate_size"]),
        n_layer=n_run,
        n_head=v["num_attention_heads"],
        layer_norm_eps=float(v["layer_norm_eps"]),
        n_embd_out=config["text_config"]["hidden_size"],
        image_mean=[float(x) for x in config.get("image_mean", [0.5] * 3)],
        image_std=[float(x) for x in config.get("image_std", [0.5] * 3)],
        n_ff_unpadded=v["intermediate_size"],
        post_layernorm=bool(config.get("vision_post_layernorm", False)),
        downsample=p["downsample"],
        token_order=p["token_order"],
        projector_act=p["hidden_act"],
        projector_eps=float(p["layer_norm_eps"]),
        image_prefix=config.get("image_prefix", ""),
        image_suffix=config.get("image_suffix", "\n"),
    )
    general = {"type": "mmproj", "name": "random", "file_type": int(TYPES[file_type][1])}
    return {f"general.{name}": value for name, value in general.items()} | keys.values()


def tensors(model: ReferenceBlueLMV, file_type: str) -> Tensors:
    """Every tensor of docs/mmproj.md, with the type it is stored in."""
    state = {k: t.float().numpy() for k, t in model.checkpoint_tensors().items()}
    config = model.config
    wide = TYPES[file_type][0]
    f32, f16 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16
    patch_type = wide if file_type in ("f32", "f16", "bf16") else f16
    out: Tensors = {}

    def put(name: str, array: np.ndarray, kind: gguf.GGMLQuantizationType = f32) -> None:
        if kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0) and array.shape[-1] % 32:
            kind = f16
        out[name] = (np.ascontiguousarray(array), kind)

    tower = "vision_tower.vision_model."
    n_ff = config["vision_config"]["intermediate_size"]
    extra = padded_ff(n_ff) - n_ff
    put("v.patch_embd.weight", state[tower + "embeddings.patch_embedding.weight"], patch_type)
    put("v.patch_embd.bias", state[tower + "embeddings.patch_embedding.bias"])
    put("v.position_embd.weight", state[tower + "embeddings.position_embedding.weight"])
    for i in range(metadata(model, file_type)["clip.vision.block_count"]):
        source, name = f"{tower}encoder.layers.{i}.", f"v.blk.{i}."
        for ours, theirs in (("ln1", "layer_norm1"), ("ln2", "layer_norm2")):
            put(f"{name}{ours}.weight", state[f"{source}{theirs}.weight"])
            put(f"{name}{ours}.bias", state[f"{source}{theirs}.bias"])
        for part in "q", "k", "v", "out":
            put(f"{name}attn_{part}.weight", state[f"{source}self_attn.{part}_proj.weight"], wide)
            put(f"{name}attn_{part}.bias", state[f"{source}self_attn.{part}_proj.bias"])
        put(f"{name}ffn_up.weight", np.pad(state[f"{source}mlp.fc1.weight"], ((0, extra), (0, 0))), wide)
        put(f"{name}ffn_up.bias", np.pad(state[f"{source}mlp.fc1.bias"], (0, extra)))
        put(f"{name}ffn_down.weight", np.pad(state[f"{source}mlp.fc2.weight"], ((0, 0), (0, extra))), wide)
        put(f"{name}ffn_down.bias", state[f"{source}mlp.fc2.bias"])
    if config.get("vision_post_layernorm", False):
        put("v.post_ln.weight", state[tower + "post_layernorm.weight"])
        put("v.post_ln.bias", state[tower + "post_layernorm.bias"])
    if model.options["input_norm"]:
        put("mm.input_norm.weight", state["multi_modal_projector.input_norm.weight"])
        put("mm.input_norm.bias", state["multi_modal_projector.input_norm.bias"])
    for ours, theirs in (("mm.0", "linear_1"), ("mm.2", "linear_2")):
        put(f"{ours}.weight", state[f"multi_modal_projector.{theirs}.weight"], wide)
        put(f"{ours}.bias", state[f"multi_modal_projector.{theirs}.bias"])
    return out


def load_tensors(model: ReferenceBlueLMV, contents: Tensors) -> ReferenceBlueLMV:
    """A copy of the model whose tower and projector hold the file's values, dequantised to float32."""
    clone = copy.deepcopy(model)
    n_ff = model.config["vision_config"]["intermediate_size"]
    modules: dict[str, torch.nn.Module] = {
        "mm.0": clone.multi_modal_projector.linear_1,
        "mm.2": clone.multi_modal_projector.linear_2,
        "v.patch_embd": clone.vision.embeddings.patch_embedding,
    }
    for i, layer in enumerate(clone.vision.encoder.layers):
        attention, name = layer.self_attn, f"v.blk.{i}"
        for part in "q", "k", "v", "out":
            modules[f"{name}.attn_{part}"] = getattr(attention, f"{part}_proj")
        modules[f"{name}.ffn_up"], modules[f"{name}.ffn_down"] = layer.mlp.fc1, layer.mlp.fc2
    with torch.no_grad():
        for name, module in modules.items():
            if f"{name}.weight" not in contents:
                continue  # a block behind the feature layer
            array, kind = contents[f"{name}.weight"]
            values = gguf.quants.dequantize(gguf.quants.quantize(array.astype(np.float32), kind), kind)
            values = values.reshape(array.shape)
            if name.endswith("ffn_up"):
                values = values[:n_ff]
            if name.endswith("ffn_down"):
                values = values[:, :n_ff]
            module.weight.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    return clone


def open_writer(
    path: Path, keys: dict[str, Any], contents: Tensors, architecture: str = "clip"
) -> gguf.GGUFWriter:
    """A writer with keys and tensors in it, sound or not; None as a value leaves the key out."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, list(value))
    for name, (array, kind) in contents.items():
        data = gguf.quants.quantize(array.astype(np.float32), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    return writer


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(path: Path, keys: dict[str, Any], contents: Tensors, architecture: str = "clip") -> Path:
    """Writes keys and tensors, sound or not."""
    finish(open_writer(path, keys, contents, architecture))
    return path


def write_mmproj(model: ReferenceBlueLMV, path: Path, file_type: str = "f32") -> Path:
    """A sound mmproj of the model."""
    return write_gguf(path, metadata(model, file_type), tensors(model, file_type))
