"""Files that are not a sound mmproj: told apart in a message, before anything is computed; never fatal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import mmproj_writer
import numpy as np
import pytest
from native_vision import NativeVision

from bluelm_gguf import errors

F32 = gguf.GGMLQuantizationType.F32


@pytest.fixture(scope="module")
def parts(make_model: Callable[..., Any]) -> tuple[dict[str, Any], mmproj_writer.Tensors]:
    """Keys and tensors of a sound file of a few kB."""
    model = make_model("feature_layer")
    return mmproj_writer.metadata(model, "f32"), mmproj_writer.tensors(model, "f32")


def message_of(path: Path, error: type[errors.BluelmError] = errors.ModelFormatError) -> str:
    with pytest.raises(error) as raised:
        NativeVision(path)
    text = str(raised.value)
    assert str(path) in text and "\n" not in text
    return text


def test_no_file(tmp_path: Path) -> None:
    message_of(tmp_path / "nothing.gguf", errors.ModelFileError)
    message_of(tmp_path, errors.ModelFileError)  # a directory


@pytest.mark.parametrize(
    "content", [b"", b"GG", b"PK\x03\x04 not GGUF at all", b"GGUF", b"GGUF\x03\x00\x00\x00"]
)
def test_not_gguf(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    message_of(path)


def test_every_truncation_is_noticed(
    parts: tuple[dict[str, Any], mmproj_writer.Tensors], tmp_path: Path
) -> None:
    whole = mmproj_writer.write_gguf(tmp_path / "whole.gguf", *parts).read_bytes()
    path = tmp_path / "cut.gguf"
    n = len(whole)
    last_tensor = n - n % 32 - 64  # the file may end in padding, which nobody misses
    for size in [*range(0, 4000, 97), *range(4000, last_tensor, n // 40)]:
        path.write_bytes(whole[:size])
        message_of(path)


def test_all_problems_in_one_message(
    parts: tuple[dict[str, Any], mmproj_writer.Tensors], tmp_path: Path
) -> None:
    keys, tensors = parts[0], dict(parts[1])
    del tensors["v.blk.0.ffn_up.bias"], tensors["mm.2.weight"]
    tensors["v.blk.1.attn_q.weight"] = (np.zeros((64, 32), np.float32), F32)
    tensors["v.blk.1.ln1.weight"] = (np.zeros(64, np.float32), gguf.GGMLQuantizationType.F16)
    tensors["v.patch_embd.weight"] = (np.zeros((3, 20, 20, 64), np.float32), F32)
    tensors["v.image_newline"] = (np.zeros(64, np.float32), F32)
    text = message_of(mmproj_writer.write_gguf(tmp_path / "x.gguf", keys, tensors))
    for part in (
        "tensor v.blk.0.ffn_up.bias is missing",
        "tensor mm.2.weight is missing",
        "tensor v.blk.1.attn_q.weight is [64, 32], not [64, 64]",
        "tensor v.blk.1.ln1.weight is of type f16, not one of f32",
        "tensor v.patch_embd.weight is [3, 20, 20, 64], not [64, 3, 20, 20]",
        "tensor v.image_newline is not known",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Q8_0", "v.patch_embd.weight"), ("Q5_0", "v.blk.0.attn_q.weight"), ("F64", "v.blk.0.ln1.bias")],
)
def test_types_that_the_graph_does_not_take(
    kind: str, name: str, parts: tuple[dict[str, Any], mmproj_writer.Tensors], tmp_path: Path
) -> None:
    keys, tensors = parts[0], dict(parts[1])
    quantization = gguf.GGMLQuantizationType[kind]
    array = tensors[name][0].astype(np.float64 if kind == "F64" else np.float32)
    if name == "v.patch_embd.weight":
        array = array.reshape(64, 3, 10, 40)[..., :32]
    writer_path = tmp_path / "x.gguf"
    if kind == "F64":
        tensors.pop(name)
        writer = mmproj_writer.open_writer(writer_path, keys, tensors)
        writer.add_tensor(name, array)
        mmproj_writer.finish(writer)
    else:
        tensors[name] = (array, quantization)
        mmproj_writer.write_gguf(writer_path, keys, tensors)
    assert f"tensor {name} is of type {kind.lower()}" in message_of(writer_path)


def test_a_language_model_given_as_mmproj(tmp_path: Path) -> None:
    path = mmproj_writer.write_gguf(tmp_path / "llm.gguf", {"llama.block_count": 2}, {}, architecture="llama")
    assert "language model" in message_of(path, errors.UnsupportedModelError)


def test_another_projector(parts: tuple[dict[str, Any], mmproj_writer.Tensors], tmp_path: Path) -> None:
    keys = parts[0] | {"clip.projector_type": "ldp"}
    path = mmproj_writer.write_gguf(tmp_path / "ldp.gguf", keys, parts[1])
    assert "'ldp'" in message_of(path, errors.UnsupportedModelError)


UNPADDED = "bluelm.vision.feed_forward_length_unpadded"
EPSILON = "clip.vision.attention.layer_norm_epsilon"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("bluelm.version", 2, "bluelm.version is 2, not in 1..1"),
        ("clip.use_gelu", False, "clip.use_gelu is not true"),
        ("clip.vision.image_size", 0, "clip.vision.image_size is 0, not in 1.."),
        ("clip.vision.image_size", 2**32 - 1, "clip.vision.image_size is 4294967295, not in 1.."),
        ("clip.vision.image_size", 384.0, "key clip.vision.image_size is of type f32, not u32"),
        ("clip.vision.patch_size", 101, "the patch is larger than the image"),
        ("clip.vision.patch_size", 1, "v.patch_embd.weight is [64, 3, 20, 20], not [64, 3, 1, 1]"),
        ("clip.vision.embedding_length", 2**31, "clip.vision.embedding_length is 2147483648, not in 1.."),
        ("clip.vision.embedding_length", None, "key clip.vision.embedding_length is missing"),
        ("clip.vision.feed_forward_length", 2**32 - 1, "feed_forward_length is 4294967295, not in 1.."),
        ("clip.vision.block_count", 0, "clip.vision.block_count is 0, not in 1.."),
        ("clip.vision.block_count", 2**32 - 1, "clip.vision.block_count is 4294967295, not in 1.."),
        ("clip.vision.attention.head_count", 7, "embedding_length 64 is no multiple of head_count 7"),
        ("clip.vision.attention.head_count", 0, "clip.vision.attention.head_count is 0, not in 1.."),
        (EPSILON, float("nan"), f"{EPSILON} is nan, not in 1e-12..0.01"),
        (EPSILON, -1.0, f"{EPSILON} is -1, not in 1e-12..0.01"),
        ("clip.vision.projection_dim", 0, "clip.vision.projection_dim is 0, not in 1.."),
        ("clip.vision.image_mean", [0.5, 0.5], "key clip.vision.image_mean has 2 elements, not 3"),
        ("clip.vision.image_mean", [1, 2, 3], "key clip.vision.image_mean is an array of i32, not of f32"),
        ("clip.vision.image_std", [0.5, 0.0, 0.5], "clip.vision.image_std is 0, not in 1e-06..1000"),
        ("clip.vision.image_std", 0.5, "key clip.vision.image_std is of type f32, not arr"),
        (UNPADDED, 10**6, f"{UNPADDED} is 1000000, not in 1.."),
        ("bluelm.projector.downsample", 3, "bluelm.projector.downsample is 3, not in 1..2"),
        ("bluelm.projector.token_order", "diagonal", "'diagonal', not one of row_major, column_major"),
        ("bluelm.projector.hidden_act", 1, "key bluelm.projector.hidden_act is of type u32, not str"),
        ("bluelm.tiler.alpha", float("inf"), "bluelm.tiler.alpha is inf, not in 0..1"),
        ("bluelm.tiler.grids", [1, 1, 2], "bluelm.tiler.grids has an odd number of elements"),
        ("bluelm.tiler.grids", [0, 1], "bluelm.tiler.*: grid 0:1: a grid has at least one column and row"),
        ("bluelm.tiler.grids", [1] * 1026, "key bluelm.tiler.grids has 1026 elements, not 2..512"),
        ("bluelm.tiler.pad_rgb", [0, 0, 256], "bluelm.tiler.pad_rgb is not in 0..255"),
        ("bluelm.tiler.method", None, "key bluelm.tiler.method is missing"),
        ("bluelm.prompt.image_suffix", 3, "key bluelm.prompt.image_suffix is of type u32, not str"),
    ],
)
def test_absurd_metadata(
    key: str, value: Any, said: str, parts: tuple[dict[str, Any], mmproj_writer.Tensors], tmp_path: Path
) -> None:
    path = mmproj_writer.write_gguf(tmp_path / "x.gguf", parts[0] | {key: value}, parts[1])
    assert said in message_of(path)


FUZZ = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from native_vision import NativeVision
from bluelm_gguf import errors
path, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
whole = path.read_bytes()
spoilt, outcomes = path.with_suffix(".spoilt"), [0, 0]
for _ in range(300):
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(min(len(data), 6000))] = rng.randrange(256)
    spoilt.write_bytes(data)
    try:
        NativeVision(spoilt).close()
        outcomes[0] += 1
    except (errors.ModelFormatError, errors.UnsupportedModelError):
        outcomes[1] += 1
print(*outcomes)
"""


@pytest.mark.parametrize("seed", range(2))
def test_random_bytes_in_the_header_never_kill_the_process(
    seed: int, parts: tuple[dict[str, Any], mmproj_writer.Tensors], tmp_path: Path
) -> None:
    path = mmproj_writer.write_gguf(tmp_path / "x.gguf", *parts)
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(path), str(seed), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    loaded, refused = map(int, done.stdout.split())
    assert loaded + refused == 300 and refused > 100
