"""What a conversion may start from: pickles, folders of parts, an LLM that is there; what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf_io
import pytest
import torch
from bluelm_gguf.convert import CheckpointError, TensorError, UnsupportedModelError, convert
from checkpoints import make_bluelm_v_checkpoint, make_llm_checkpoint, save_tensors
from family_checkpoints import (
    make_original_llava,
    make_text,
    make_tinyllava,
    make_vila,
    to_pickles,
)
from safetensors.torch import load_file, save_file


def edit_json(path: Path, **change: Any) -> None:
    value = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(value), encoding="utf-8")


def refused(directory: Path, kind: type[Exception], words: str, **options: Any) -> str:
    """Expects the exception, in one line unless it lists tensors, and nothing written."""
    out = directory.parent / "refused"
    with pytest.raises(kind, match=words) as caught:
        convert(directory, out, **options)
    assert not out.exists()
    assert isinstance(caught.value, TensorError) or "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_give_the_same_files(shards: int, dtype: torch.dtype, tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(tmp_path / "ck", dtype=dtype)
    first = convert(directory, tmp_path / "a", llm_type="f32", mmproj_type="f32", name="m")
    to_pickles(directory, shards)
    second = convert(directory, tmp_path / "b", llm_type="f32", mmproj_type="f32", name="m")
    for before, after in ((first.llm_path, second.llm_path), (first.mmproj_path, second.mmproj_path)):
        assert before is not None and after is not None
        assert before.read_bytes() == after.read_bytes()


def test_pickles_with_views_and_without_zip(tmp_path: Path) -> None:
    """Tensors that share a storage, lie transposed in it, or come from a file of before torch 1.6."""
    directory = make_llm_checkpoint(tmp_path / "ck")
    wanted = convert(directory, tmp_path / "a", llm_type="f32", name="m").llm_path
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    for name in list(tensors)[::2]:
        if tensors[name].dim() == 2:
            tensors[name] = tensors[name].t().contiguous().t()
    board = torch.cat([tensors["model.norm.weight"], torch.zeros(7)])
    tensors["model.norm.weight"] = board[:64]
    torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    old = convert(directory, tmp_path / "b", llm_type="f32", name="m").llm_path
    torch.save({"state_dict": tensors}, directory / "pytorch_model.bin")
    nested = convert(directory, tmp_path / "c", llm_type="f32", name="m").llm_path
    assert wanted is not None and old is not None and nested is not None
    assert wanted.read_bytes() == old.read_bytes() == nested.read_bytes()


class RunsCode:
    """Pickles to a call of os.system."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_wants_to_run_code(zipped: bool, tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    tensors: dict[str, Any] = dict(load_file(directory / "model.safetensors"))
    (directory / "model.safetensors").unlink()
    tensors["extra"] = RunsCode(tmp_path / "ran")
    torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    refused(directory, CheckpointError, r"wants to call \w+\.system when it is loaded; refused")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, "entry 'epoch' is no tensor \\(int\\)"),
        ([1, 2], "holds no tensors"),
        ({}, "holds no tensors"),
        ({"a": torch.eye(3).to_sparse()}, "tensor 'a' is sparse"),
    ],
)
def test_pickles_that_hold_something_else(content: Any, words: str, tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    (directory / "model.safetensors").unlink()
    torch.save(content, directory / "pytorch_model.bin")
    refused(directory, CheckpointError, f"pytorch_model.bin.*{words}")


def test_damaged_pickles(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    to_pickles(directory)
    path = directory / "pytorch_model.bin"
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:5], b"<html>404</html>", b"version https://git-lfs"):
        path.write_bytes(damaged)
        refused(directory, CheckpointError, r"pytorch_model\.bin is no PyTorch pickle.*fetch the file again")


def test_nan_in_a_pickle(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck", dtype=torch.bfloat16)
    to_pickles(directory)
    tensors = torch.load(directory / "pytorch_model.bin")
    tensors["model.norm.weight"][5] = float("nan")
    torch.save(tensors, directory / "pytorch_model.bin")
    with pytest.raises(TensorError, match=r"pytorch_model\.bin: tensor 'model\.norm\.weight' has 1 NaN"):
        convert(directory, tmp_path / "out")


def test_pickles_without_torch(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    to_pickles(directory)
    script = (
        "import sys, runpy; sys.modules['torch'] = None; "
        f"runpy.run_path({str(Path(__file__).with_name('conftest.py'))!r}); "
        "from bluelm_gguf.convert import convert; convert(sys.argv[1], sys.argv[2])"
    )
    command = [sys.executable, "-c", script, str(directory), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "needs torch: pip install torch" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_every_missing_shard_is_named(kind: str, tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck", shards=4)
    if kind == "bin":
        to_pickles(directory, 4)
    gone = sorted(directory.glob(f"*-of-00004.{kind}"))[1:3]
    for path in gone:
        path.unlink()
    message = refused(directory, CheckpointError, "2 of 4 files that it names are not there")
    assert all(path.name in message for path in gone) and "fetch every file" in message


# ------------------------------------------------------------------------------------- somebody else's LLM


@pytest.mark.parametrize(
    "make",
    [
        lambda path: make_bluelm_v_checkpoint(path),
        lambda path: make_vila(path),
        lambda path: make_original_llava(path, "llava-qwen2", vision={}),
        lambda path: make_tinyllava(path),
    ],
    ids=["bluelm_v", "vila", "nanollava", "tinyllava"],
)
def test_parts_alone_and_somebody_elses_llm(make: Any, tmp_path: Path) -> None:
    directory = tmp_path / "ck"
    make(directory)
    both = convert(directory, tmp_path / "both", llm_type="f16", name="m")
    llm = convert(directory, tmp_path / "l", llm_type="f16", llm_only=True, name="m")
    vision = convert(directory, tmp_path / "v", vision_only=True, name="m")
    assert both.llm_path and both.mmproj_path and llm.llm_path and vision.mmproj_path
    assert llm.mmproj_path is None and vision.llm_path is None
    assert llm.llm_path.read_bytes() == both.llm_path.read_bytes()
    assert vision.mmproj_path.read_bytes() == both.mmproj_path.read_bytes()

    given = convert(directory, tmp_path / "g", llm=both.llm_path, name="m")
    assert given.llm_path is None and given.mmproj_path is not None
    assert given.mmproj_path.read_bytes() == both.mmproj_path.read_bytes()


def test_llm_that_is_there_needs_no_weights(tmp_path: Path) -> None:
    directory = tmp_path / "ck"
    make_vila(directory)
    first = convert(directory, tmp_path / "a", llm_type="f16", name="m")
    (directory / "llm" / "model.safetensors").unlink()
    refused(directory, CheckpointError, "llm holds no")
    second = convert(directory, tmp_path / "b", llm=first.llm_path, name="m")
    assert first.mmproj_path and second.mmproj_path
    assert first.mmproj_path.read_bytes() == second.mmproj_path.read_bytes()


def test_llm_without_pair_id_and_of_another_kind(tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(tmp_path / "ck")
    import tiny_models

    foreign = tiny_models.write_llm(tmp_path / "foreign.gguf")
    result = convert(directory, tmp_path / "out", llm=foreign)
    assert result.mmproj_path is not None
    assert "bluelm.pair_id" not in gguf_io.metadata(result.mmproj_path)
    notes = "\n".join(result.notes)
    assert "has no pair id" in notes and "number of tokens" in notes
    wide = tiny_models.write_llm(tmp_path / "wide.gguf", n_embd=128)
    refused(directory, CheckpointError, "takes embeddings of width 128.*makes 64", llm=wide)
    vision = tiny_models.write_mmproj(tmp_path / "mm.gguf")
    refused(directory, CheckpointError, "is an mmproj", llm=vision)
    refused(directory, CheckpointError, "does not exist", llm=tmp_path / "none.gguf")
    refused(directory, CheckpointError, "is a directory", llm=tmp_path)
    (tmp_path / "text.gguf").write_text("hello", encoding="utf-8")
    refused(directory, CheckpointError, "is no GGUF file", llm=tmp_path / "text.gguf")
    (tmp_path / "cut.gguf").write_bytes(foreign.read_bytes()[:300])
    refused(directory, CheckpointError, "is no GGUF file|names no LLM", llm=tmp_path / "cut.gguf")
    with pytest.raises(ValueError, match="llm_only excludes llm"):
        convert(directory, tmp_path / "out", llm=foreign, llm_only=True)
    text_only = make_llm_checkpoint(tmp_path / "text")
    refused(text_only, UnsupportedModelError, "text-only model", llm=foreign)


# ----------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("mm_projector/config.json", {"mm_projector_type": "mlp_downsample_3x3_fix"},
         "'mlp_downsample_3x3_fix'; supported: 'mlp_downsample', 'mlp_downsample_2x2_fix'"),
        ("config.json", {"s2": True}, "s2 is true; supported: false"),
        ("config.json", {"image_aspect_ratio": "dynamic"}, "'dynamic', several views.*supported: 'square'"),
        ("llm/config.json", {"model_type": "mistral"}, "model_type is 'mistral'; supported LLMs: llama"),
        ("vision_tower/config.json", {"model_type": "intern_vit_6b"}, "'intern_vit_6b'.*siglip_vision_model"),
        ("vision_tower/preprocessor_config.json", {"resample": 1}, "resample is 1; supported: 2 .*, 3"),
    ],
)  # fmt: skip
def test_vila_that_is_not_supported(file: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    make_vila(tmp_path / "ck")
    edit_json(tmp_path / "ck" / file, **change)
    refused(tmp_path / "ck", UnsupportedModelError, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bunny-stablelm", "architectures": ["BunnyStableLMForCausalLM"]},
         "name no LLM that is supported here; supported: llama, phi, qwen2"),
        ({"model_type": "bunny-phi3", "architectures": ["BunnyPhi3ForCausalLM"]}, "name no LLM"),
        ({"mm_projector_type": "linear"}, "'linear'; supported: 'mlp2x_gelu'"),
        ({"use_s2": True}, "use_s2 is true"),
        ({"vision_config": None, "mm_vision_tower": "openai/clip-vit-large-patch14-336"},
         "mm_vision_tower is 'openai/clip.*siglip-so400m-patch14-384"),
    ],
)  # fmt: skip
def test_original_layout_that_is_not_supported(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    make_original_llava(tmp_path / "ck", "llava-qwen2", vision={})
    edit_json(tmp_path / "ck" / "config.json", **change)
    refused(tmp_path / "ck", UnsupportedModelError, words)


def test_tower_that_was_left_at_home(tmp_path: Path) -> None:
    make_original_llava(tmp_path / "ck", "llava-qwen2", vision={})
    path = tmp_path / "ck" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "vision_tower" not in k}, path)
    refused(tmp_path / "ck", CheckpointError, r"no tensors model\.vision_tower\.\*.*left at home")


def test_misfits_of_a_family_are_in_one_list(tmp_path: Path) -> None:
    make_vila(tmp_path / "ck")
    folder = tmp_path / "ck" / "mm_projector"
    tensors = load_file(folder / "model.safetensors")
    del tensors["layers.2.bias"]
    tensors["layers.6.weight"] = torch.zeros(2, 2)
    tensors["layers.4.bias"] = torch.zeros(63)
    save_tensors(folder, tensors)
    message = refused(tmp_path / "ck", TensorError, "3 tensors do not fit")
    assert "missing: multi_modal_projector.linear_1.bias [64]" in message
    assert "not known: mm_projector.layers.6.weight [2, 2]" in message
    assert "multi_modal_projector.linear_2.bias is [63]" in message


@pytest.mark.parametrize("family", ["phi", "minicpm", "bluelm"])
def test_nan_is_refused(family: str, tmp_path: Path) -> None:
    make_text(tmp_path / "ck", family)
    path = tmp_path / "ck" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][7, 3] = float("nan")
    save_file(tensors, path)
    with pytest.raises(TensorError, match=r"embed_tokens\.weight' has 1 NaN"):
        convert(tmp_path / "ck", tmp_path / "out", llm_type="f16")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("phi", {"qk_layernorm": True}, "qk_layernorm is true"),
        ("phi", {"hidden_act": "silu"}, "'silu'; supported: 'gelu_new'"),
        ("bluelm", {"rope_scaling": {"type": "ntkmixed", "factor": 16.0}},
         "rope_type 'ntkmixed'.*supported: default, linear"),
        ("bluelm", {"tie_word_embeddings": True}, "no architecture with a LayerNorm behind the token"),
        ("minicpm", {"rope_scaling": {"rope_type": "longrope"}}, "rope_type 'longrope'"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_run(family: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    make_text(tmp_path / "ck", family)
    edit_json(tmp_path / "ck" / "config.json", **change)
    refused(tmp_path / "ck", UnsupportedModelError, words)


def test_large_matrices_are_normalised_in_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_text(tmp_path / "ck", "bluelm")
    whole = convert(tmp_path / "ck", tmp_path / "a", llm_type="q8_0", name="m").llm_path
    monkeypatch.setattr("bluelm_gguf.convert.output.writer.SLAB", 1000)
    slabs = convert(tmp_path / "ck", tmp_path / "b", llm_type="q8_0", name="m").llm_path
    assert whole is not None and slabs is not None
    assert whole.read_bytes() == slabs.read_bytes()


def test_metadata_of_a_vila(tmp_path: Path) -> None:
    make_vila(tmp_path / "ck")
    result = convert(tmp_path / "ck", tmp_path / "out", llm_type="f16")
    assert result.llm_path is not None and result.mmproj_path is not None
    keys = gguf_io.metadata(result.mmproj_path)
    assert keys["bluelm.projector.token_order"] == "column_major" and keys["bluelm.projector.downsample"] == 2
    assert keys["bluelm.tiler.method"] == "single" and keys["bluelm.tiler.fit"] == "stretch"
    assert keys["bluelm.tiler.grids"] == [1, 1] and keys["bluelm.tiler.thumbnail"] == "none"
    assert keys["clip.vision.block_count"] == 2 and keys["bluelm.prompt.image_suffix"] == "\n"
    text = gguf_io.metadata(result.llm_path)
    assert text["general.architecture"] == "llama" and text["tokenizer.ggml.add_bos_token"] is True
    assert "ASSISTANT:" in text["tokenizer.chat_template"]
    assert text["bluelm.pair_id"] == keys["bluelm.pair_id"]
    assert any("no chat template; the family's own" in note for note in result.notes)


def test_a_template_of_its_own_is_kept_but_not_by_bunny(tmp_path: Path) -> None:
    make_vila(tmp_path / "ck")
    edit_json(tmp_path / "ck" / "llm" / "tokenizer_config.json", chat_template="{{ messages }}")
    result = convert(tmp_path / "ck", tmp_path / "out", llm_type="f16", llm_only=True)
    assert result.llm_path is not None
    assert gguf_io.metadata(result.llm_path)["tokenizer.chat_template"] == "{{ messages }}"
    make_original_llava(tmp_path / "bunny", "bunny-qwen2", vision={})
    result = convert(tmp_path / "bunny", tmp_path / "out2", llm_type="f16", llm_only=True)
    assert result.llm_path is not None
    keys = gguf_io.metadata(result.llm_path)
    assert "USER: " in keys["tokenizer.chat_template"]
    assert keys["tokenizer.ggml.tokens"][keys["tokenizer.ggml.eos_token_id"]] == "<|endoftext|>"
    assert any("family's own replaces it" in note for note in result.notes)


def test_tests_that_the_documentation_names_exist() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    sources = {path.name: path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py")}
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+)(?:\[([\w-]+)\])?)?", page)
    assert len(named) >= 10
    for file, name, case in named:
        assert f"def {name}(" in sources[file] or not name
        assert f'"{case}"' in sources[file] or not case
    for case in re.findall(r"`\[([\w-]+)\]`", page):
        assert f'"{case}"' in sources["test_families.py"]


def test_first_token_dropped_by_the_original_is_noted(tmp_path: Path) -> None:
    make_tinyllava(tmp_path / "ck", config={"vision_feature_select_strategy": "patch"})
    notes = convert(tmp_path / "ck", tmp_path / "out", vision_only=True).notes
    assert any("drops the first of the tower's tokens" in note for note in notes)
