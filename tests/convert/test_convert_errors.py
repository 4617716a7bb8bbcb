"""Bad checkpoints: the right class, one message with everything that is wrong, and nothing written."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bluelm_gguf.convert import (
    CheckpointError,
    ConversionError,
    TensorError,
    TokenizerError,
    UnsupportedModelError,
    convert,
)
from checkpoints import make_bluelm_v_checkpoint, make_llm_checkpoint
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_bluelm_v_checkpoint(tmp_path / "ck")


def edit_tensors(directory: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(directory / WEIGHTS)
    edit(tensors)
    save_file(tensors, directory / WEIGHTS)


def edit_json(path: Path, **change: Any) -> None:
    value = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(value), encoding="utf-8")


def refused(directory: Path, kind: type[ConversionError], words: str) -> str:
    """Converts, expects the exception, and that the output directory stays empty; returns the message."""
    out = directory.parent / "out"
    with pytest.raises(kind, match=words) as caught:
        convert(directory, out)
    assert type(caught.value) is kind
    assert isinstance(caught.value, ValueError)
    assert not out.exists() or list(out.iterdir()) == []
    return str(caught.value)


def test_every_misfit_is_in_one_message(checkpoint: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["language_model.model.layers.1.mlp.gate_proj.weight"]
        del tensors["vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.bias"]
        tensors["multi_modal_projector.linear_2.bias"] = torch.zeros(63)
        tensors["language_model.model.norm.weight"] = torch.ones(1, 64)
        tensors["language_model.model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)
        tensors["image_newline"] = torch.zeros(64)

    edit_tensors(checkpoint, spoil)
    message = refused(checkpoint, TensorError, "6 tensors do not fit")
    assert sorted(message.splitlines()[1:]) == [
        "  missing: language_model.model.layers.1.mlp.gate_proj.weight [128, 64]",
        "  missing: vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.bias [64]",
        "  not known: image_newline [64]",
        "  not known: language_model.model.layers.0.self_attn.q_norm.weight [16]",
        "  wrong shape: language_model.model.norm.weight is [1, 64], config.json asks for [64]",
        "  wrong shape: multi_modal_projector.linear_2.bias is [63], config.json asks for [64]",
    ]
    assert "check that config and weights belong together" in message


def test_tensors_that_may_be_there_are_dropped_and_named(checkpoint: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(729)[None]

    edit_tensors(checkpoint, add)
    notes = convert(checkpoint, checkpoint.parent / "out", llm_type="f16").notes
    assert any("15 tensors that are not needed were left out" in note for note in notes)


def test_stored_copy_of_a_tied_head_is_dropped(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck", text={"tie_word_embeddings": True})
    edit_tensors(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert any(
        "lm_head.weight" in note for note in convert(directory, tmp_path / "out", llm_type="f16").notes
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.1.mlp.down_proj.weight",
        "vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
    ],
)
def test_nan_and_infinity_are_refused(value: float, dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(tmp_path / "ck", dtype=dtype)

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[5] = value

    edit_tensors(directory, spoil)
    message = refused(directory, TensorError, "1 NaN or infinite values")
    assert name in message and WEIGHTS in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn])
def test_weights_that_are_not_floats(dtype: torch.dtype, checkpoint: Path) -> None:
    name = "multi_modal_projector.linear_1.weight"
    edit_tensors(checkpoint, lambda t: t.update({name: t[name].to(dtype)}))
    refused(checkpoint, TensorError, f"{name}' is stored as .*only F64, F32, F16 and BF16")


def test_float64_weights_are_read(checkpoint: Path) -> None:
    name = "multi_modal_projector.linear_1.weight"
    before = convert(checkpoint, checkpoint.parent / "a", vision_only=True).mmproj_path
    edit_tensors(checkpoint, lambda t: t.update({name: t[name].double()}))
    after = convert(checkpoint, checkpoint.parent / "b", vision_only=True).mmproj_path
    assert before is not None and after is not None
    assert len(before.read_bytes()) == len(after.read_bytes())


def test_directories_that_are_none(tmp_path: Path, checkpoint: Path) -> None:
    refused(tmp_path / "nowhere", CheckpointError, "nowhere does not exist; give the directory")
    refused(checkpoint / "config.json", CheckpointError, r"config\.json is a file; give the directory")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, CheckpointError, r"config\.json is missing")
    (empty / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    refused(empty, CheckpointError, r"holds no \*\.safetensors")
    (empty / "pytorch_model.bin").touch()
    refused(empty, CheckpointError, "is no PyTorch pickle or is damaged.*fetch the file again")


@pytest.mark.parametrize("text", ["", "<html>404</html>", "[1, 2]", "\x00\xff", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_damaged_json(name: str, text: str, checkpoint: Path) -> None:
    (checkpoint / name).write_bytes(text.encode("latin-1"))
    refused(checkpoint, CheckpointError, rf"{name.replace('.', '[.]')} .*fetch the file again")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]},
        {"model_type": None, "architectures": None},
        {},
        {"model_type": ["bluelm_v"]},
    ],
)
def test_unknown_architectures_say_what_was_found_and_what_is_supported(
    config: dict[str, Any], checkpoint: Path
) -> None:
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    message = refused(checkpoint, UnsupportedModelError, "supported: bluelm_v")
    assert repr(config.get("model_type")) in message and "text-only llama, qwen2, phi" in message


def test_unknown_llm_inside(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", text_config={"model_type": "mistral"})
    refused(
        checkpoint,
        UnsupportedModelError,
        r"text_config\.model_type is 'mistral'; supported LLMs: llama, qwen2, phi",
    )


def test_quantised_checkpoints(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(checkpoint, UnsupportedModelError, "quantised \\(gptq\\); give the f32, f16 or bf16 original")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 66}, "hidden_size 66 is no multiple of num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({"num_hidden_layers": 0}, r"text_config\.num_hidden_layers is 0"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"rope_parameters": 3}, "rope_parameters is 3, expected an object"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    ],
)
def test_contradicting_text_config(change: dict[str, Any], words: str, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    text = {k: v for k, v in config["text_config"].items() if k != "head_dim"}
    edit_json(checkpoint / "config.json", text_config=text | change)
    refused(checkpoint, CheckpointError, words)


def test_text_config_of_another_size_is_a_misfit(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    edit_json(checkpoint / "config.json", text_config=config["text_config"] | {"num_hidden_layers": 3})
    message = refused(checkpoint, TensorError, "9 tensors do not fit")
    assert message.count("missing: language_model.model.layers.2.") == 9


def test_missing_head_of_an_untied_model(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    edit_tensors(directory, lambda t: t.__delitem__("lm_head.weight"))
    refused(directory, TensorError, "missing: lm_head.weight")


def test_cut_off_and_overlong_safetensors(checkpoint: Path) -> None:
    path = checkpoint / WEIGHTS
    data = path.read_bytes()
    header = struct.unpack("<Q", data[:8])[0]
    for damaged, words in (
        (data[: len(data) // 2], "is cut off: tensor"),
        (data[: header // 2], "is no safetensors file or is cut off"),
        (data[:5], "is no safetensors file or is cut off"),
        (b"", "is no safetensors file or is cut off"),
        (b"\xff" * 64, "is no safetensors file or is cut off"),
        (data[:8] + b"x" * header + data[8 + header :], "header that is not JSON"),
        (data.replace(b'"F32"', b'"F16"', 1), "gives tensor .* bytes for shape"),
        (data.replace(b'"shape"', b'"shave"', 1), "describes tensor .* wrongly"),
    ):
        path.write_bytes(damaged)
        refused(checkpoint, CheckpointError, f"{WEIGHTS}.*{words}.*fetch the file again")


def test_shards(tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(tmp_path / "ck", shards=3)
    index = directory / "model.safetensors.index.json"
    part = directory / "model-00002-of-00003.safetensors"
    text, data = index.read_text(encoding="utf-8"), part.read_bytes()
    assert convert(directory, tmp_path / "fine", llm_type="f16").llm_path is not None
    part.unlink()
    refused(directory, CheckpointError, f"{part.name} is missing; fetch every file")
    part.write_bytes((directory / "model-00001-of-00003.safetensors").read_bytes())
    refused(directory, CheckpointError, "is in .* and in .*; keep one")
    part.write_bytes(data)
    edit_json(index, weight_map=json.loads(text)["weight_map"] | {"ghost.weight": part.name})
    refused(directory, CheckpointError, "1 tensors that no file holds, the first is 'ghost.weight'")
    edit_json(index, weight_map={"a": "../outside.safetensors"})
    refused(directory, CheckpointError, "lies outside the directory")
    index.write_text("{}", encoding="utf-8")
    refused(directory, CheckpointError, "has no weight_map")
    index.unlink()
    refused(directory, CheckpointError, r"3 safetensors files but no model\.safetensors\.index\.json")


def test_special_token_that_does_not_exist(checkpoint: Path) -> None:
    edit_json(checkpoint / "tokenizer_config.json", eos_token="<|nope|>")
    refused(checkpoint, TokenizerError, r"tokenizer_config\.json: eos_token '<\|nope\|>' is no token")


def test_arguments(checkpoint: Path) -> None:
    out = checkpoint.parent / "out"
    with pytest.raises(ValueError, match="llm_type is 'q5_0'; choose from f32"):
        convert(checkpoint, out, llm_type="q5_0")
    with pytest.raises(ValueError, match="mmproj_type is 'q4_k_m'; choose from f32"):
        convert(checkpoint, out, mmproj_type="q4_k_m")
    with pytest.raises(ValueError, match="llm_only excludes vision_only"):
        convert(checkpoint, out, llm_only=True, vision_only=True)
    text_only = make_llm_checkpoint(checkpoint.parent / "text")
    with pytest.raises(UnsupportedModelError, match="text-only model"):
        convert(text_only, out, vision_only=True)
    assert not out.exists()


WRONG: list[Any] = [None, True, 0, -1, 2**40, 1e308, "x", "", [], [1], {}, {"a": 1}, [None]]


def spoil_one_value(value: Any, generator: random.Random) -> None:
    """Replaces or deletes one value somewhere inside a JSON object."""
    holder: Any = value
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(min(len(holder), 20)))
        key = generator.choice(keys)
        inner = holder[key]
        if isinstance(inner, (dict, list)) and inner and generator.random() < 0.8:
            holder = inner
            continue
        if isinstance(holder, dict) and generator.random() < 0.2:
            del holder[key]
        else:
            holder[key] = generator.choice(WRONG)
        return


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS])
def test_random_damage_raises_nothing_else(name: str, checkpoint: Path) -> None:
    """Whatever one wrong value does, it is a ConversionError or harmless."""
    path, out = checkpoint / name, checkpoint.parent / "out"
    data, generator = path.read_bytes(), random.Random(name)
    refusals = 0
    out.mkdir()
    for _ in range(80):
        if name == WEIGHTS:
            size = struct.unpack("<Q", data[:8])[0]
            header = json.loads(data[8 : 8 + size])
            spoil_one_value(header, generator)
            text = json.dumps(header).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        else:
            value = json.loads(data)
            spoil_one_value(value, generator)
            path.write_text(json.dumps(value), encoding="utf-8")
        try:
            convert(checkpoint, out, llm_type="f16")
        except ConversionError:
            refusals += 1
        assert not list(out.glob(".*"))
    assert refusals > 0
