"""Heads of GGUF files: sound, truncated, damaged."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from bluelm_gguf.errors import ModelFileError, ModelFormatError
from bluelm_gguf.gguf.head import GGML_TYPES, LongArray, read_head
from bluelm_gguf.gguf.info import LlmInfo, MmprojInfo, count, describe, size


def test_same_as_the_gguf_package(files) -> None:
    for path in (files.llm, files.mmproj):
        ours, theirs = read_head(path), gguf.GGUFReader(path)
        assert [(t.name, t.type, t.offset, t.n_bytes, t.n_elements) for t in ours.tensors] == [
            (t.name, t.tensor_type.name, t.data_offset, t.n_bytes, t.n_elements) for t in theirs.tensors
        ]
        keys = {name for name in theirs.fields if not name.startswith("GGUF.")}
        assert set(ours.metadata) == keys
        for key in keys:
            assert ours.metadata[key] == theirs.fields[key].contents()


def test_type_sizes_are_ggmls() -> None:
    for kind, (name, block, n_bytes) in GGML_TYPES.items():
        known = gguf.GGMLQuantizationType(kind)
        assert (known.name, *gguf.GGML_QUANT_SIZES[known]) == (name, block, n_bytes)


def test_long_arrays_are_stepped_over(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_token_list([f"token {i}" for i in range(150_000)])
    writer.add_token_scores([0.0] * 150_000)
    writer.add_string("after", "them")
    writer.add_tensor("x", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    start = time.perf_counter()
    head = read_head(tmp_path / "a.gguf")
    assert time.perf_counter() - start < 2  # some 50 ms; as many Python objects would take seconds
    assert head.metadata["tokenizer.ggml.tokens"] == LongArray(150_000)
    assert head.metadata["tokenizer.ggml.scores"] == LongArray(150_000)
    assert head.metadata["after"] == "them"
    assert head.tensors[0].shape == (2, 32)


def test_truncated_anywhere(files, tmp_path: Path) -> None:
    whole = files.llm.read_bytes()
    end_of_head = read_head(files.llm).tensors[0].offset
    cuts = [
        *range(1, 64),
        *range(64, end_of_head, 97),
        *range(end_of_head, len(whole), 20_011),
        len(whole) - 1,
    ]
    for cut in cuts:
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelFormatError) as caught:
            read_head(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damage_never_escapes_as_another_error(files, tmp_path: Path) -> None:
    whole = bytearray(files.mmproj.read_bytes())
    end_of_head = read_head(files.mmproj).tensors[0].offset
    rng = random.Random(5)
    path = tmp_path / "damaged.gguf"
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(4, end_of_head)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        path.write_bytes(damaged)
        try:
            describe(path).rows()
        except ModelFormatError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the file is empty"),
        (b"GGU", "not a GGUF file"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 100, "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 3), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "more entries than bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "more entries than bytes"),
    ],
)
def test_no_gguf(content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=text):
        read_head(path)


def test_missing_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nothing\.gguf: no such file"):
        read_head(tmp_path / "nothing.gguf")
    with pytest.raises(ModelFileError, match="is a directory"):
        read_head(tmp_path)


def test_info_of_a_pair(files) -> None:
    llm, mmproj = describe(files.llm), describe(files.mmproj)
    assert isinstance(llm, LlmInfo) and isinstance(mmproj, MmprojInfo)
    assert (llm.n_embd, llm.n_layer, llm.n_head, llm.n_head_kv, llm.n_ctx_train) == (64, 2, 4, 2, 2048)
    assert llm.parameters == sum(t.n_elements for t in gguf.GGUFReader(files.llm).tensors)
    assert (mmproj.image_size, mmproj.patch_size, mmproj.tokens_per_tile, mmproj.n_embd_out) == (
        384,
        14,
        196,
        64,
    )
    assert mmproj.max_tokens_per_image == 17 * 196
    assert mmproj.tiler["grids"][-1] == (4, 4)


def test_short_numbers() -> None:
    assert [count(n) for n in (12, 1200, 5_500_000, 2_700_000_000)] == ["12", "1.2k", "5.5M", "2.7B"]
    assert [size(n) for n in (12, 2048, 3 << 20, 3 << 29)] == ["12 bytes", "2.0 KiB", "3.0 MiB", "1.5 GiB"]
