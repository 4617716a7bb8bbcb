"""Importance matrices: both formats, what they do to the weights, and what does not fit."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import gguf_io
import numpy as np
import pytest
import torch
from bluelm_gguf.convert import ImportanceError, convert
from bluelm_gguf.convert.output.imatrix import read_imatrix
from checkpoints import make_llm_checkpoint

Entries = dict[str, np.ndarray]
N_CALLS = 7


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = {"hidden_size": 256, "intermediate_size": 512}
    return make_llm_checkpoint(tmp_path_factory.mktemp("imatrix") / "ck", text=text, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def entries() -> Entries:
    """A few columns matter a thousand times more than the others."""
    random = np.random.default_rng(5)
    out: Entries = {}
    for i in range(2):
        for name, width in (("attn_q", 256), ("attn_k", 256), ("attn_v", 256), ("attn_output", 256),
                            ("ffn_gate", 256), ("ffn_up", 256), ("ffn_down", 512)):  # fmt: skip
            weights = np.where(random.random(width) < 0.1, 1000.0, 1.0)
            out[f"blk.{i}.{name}.weight"] = weights.astype(np.float32)
    return out


def write_gguf(path: Path, entries: Entries, *, kind: str = "imatrix", counts: bool = True) -> Path:
    """As llama.cpp's imatrix tool saves one: sums of squares, and how many rows they were summed over."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type(kind)
    writer.add_array("imatrix.datasets", ["texts.txt"])
    writer.add_uint32("imatrix.chunk_count", 12)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, means in entries.items():
        writer.add_tensor(f"{name}.in_sum2", (means * 64).astype(np.float32)[None])
        if counts:
            writer.add_tensor(f"{name}.counts", np.full((1, 1), 64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_legacy(path: Path, entries: Entries, *, trailer: bool = True) -> Path:
    data = struct.pack("<i", len(entries))
    for name, means in entries.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", N_CALLS, means.size)
        data += (means * N_CALLS).astype("<f4").tobytes()
    if trailer:
        data += struct.pack("<ii", 12, 9) + b"texts.txt"
    path.write_bytes(data)
    return path


def weighted_error(path: Path, reference: Path, entries: Entries) -> float:
    got, wanted = gguf_io.tensors(path), gguf_io.tensors(reference)
    return float(sum((((got[n] - wanted[n]) ** 2) * w).sum() for n, w in entries.items()))


def test_both_formats_say_the_same(entries: Entries, tmp_path: Path) -> None:
    new = read_imatrix(write_gguf(tmp_path / "new.gguf", entries))
    old = read_imatrix(write_legacy(tmp_path / "old.dat", entries))
    bare = read_imatrix(write_legacy(tmp_path / "bare.dat", entries, trailer=False))
    assert (new.n_chunks, new.dataset) == (old.n_chunks, old.dataset) == (12, "texts.txt")
    assert (bare.n_chunks, bare.dataset) == (0, "")
    for found in (new, old, bare):
        assert set(found.entries) == set(entries)
        for name, means in entries.items():
            np.testing.assert_allclose(found.entries[name], means, rtol=1e-6)


# q4_0 of two blocks: the ffn_down of the first eighth (none here) would become Q4_1.
@pytest.mark.parametrize("llm_type", ["q4_0", "q4_k_m", "q5_k_m"])
def test_what_matters_more_is_kept_better(
    llm_type: str, checkpoint: Path, entries: Entries, tmp_path: Path
) -> None:
    exact = convert(checkpoint, tmp_path / "exact", llm_type="f32").llm_path
    plain = convert(checkpoint, tmp_path / "plain", llm_type=llm_type).llm_path
    source = write_gguf(tmp_path / "imatrix.gguf", entries)
    result = convert(checkpoint, tmp_path / "with", llm_type=llm_type, imatrix=source)
    assert exact is not None and plain is not None and result.llm_path is not None
    assert weighted_error(result.llm_path, exact, entries) < 0.9 * weighted_error(plain, exact, entries)
    assert gguf_io.types(result.llm_path) == gguf_io.types(plain)
    keys = gguf_io.metadata(result.llm_path)
    assert keys["quantize.imatrix.file"] == "imatrix.gguf"
    assert keys["quantize.imatrix.dataset"] == "texts.txt"
    assert keys["quantize.imatrix.entries_count"] == 14 and keys["quantize.imatrix.chunks_count"] == 12
    assert sorted(p.name for p in (tmp_path / "with").iterdir()) == [result.llm_path.name]


def test_entries_that_lack_are_named(checkpoint: Path, entries: Entries, tmp_path: Path) -> None:
    some = {name: means for name, means in entries.items() if "attn_q" not in name}
    path = write_legacy(tmp_path / "i.dat", some)
    result = convert(checkpoint, tmp_path / "out", imatrix=path, dry_run=True)
    assert any("no entry for 2 matrices, the first is blk.0.attn_q.weight" in note for note in result.notes)


def test_all_that_does_not_fit_is_in_one_message(checkpoint: Path, entries: Entries, tmp_path: Path) -> None:
    wrong: dict[str, Any] = dict(entries)
    wrong["blk.0.attn_q.weight"] = np.ones(128, np.float32)
    wrong["blk.9.attn_q.weight"] = np.ones(256, np.float32)
    wrong["blk.1.ffn_up.weight"] = np.full(256, np.nan, np.float32)
    wrong["blk.1.ffn_gate.weight"] = np.full(256, -1, np.float32)
    path = write_gguf(tmp_path / "i.gguf", wrong)
    with pytest.raises(ImportanceError, match="4 of 15 entries do not fit") as caught:
        convert(checkpoint, tmp_path / "out", imatrix=path)
    lines = str(caught.value).splitlines()
    assert sorted(lines[1:]) == [
        "  not finite or negative: blk.1.ffn_gate.weight",
        "  not finite or negative: blk.1.ffn_up.weight",
        "  not in the model: blk.9.attn_q.weight",
        "  wrong width: blk.0.attn_q.weight has 128 values, the model 256",
    ]
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_importance_matrix(checkpoint: Path, entries: Entries, tmp_path: Path) -> None:
    good = write_gguf(tmp_path / "good.gguf", entries).read_bytes()
    legacy = write_legacy(tmp_path / "good.dat", entries, trailer=False).read_bytes()
    cases = {
        "empty": b"", "text": b"name: value\n" * 50, "magic": b"GGUF", "cut.gguf": good[: len(good) // 2],
        "head.gguf": good[:40], "cut.dat": legacy[:-9], "none.dat": struct.pack("<i", 0),
        "huge.dat": struct.pack("<ii", 3, 2**30), "negative.dat": struct.pack("<ii", 3, -5),
    }  # fmt: skip
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    write_gguf(tmp_path / "llm.gguf", entries, kind="model")
    write_gguf(tmp_path / "sums.gguf", entries, counts=False)
    for name in (*cases, "llm.gguf", "sums.gguf", "missing", "."):
        with pytest.raises(ImportanceError) as caught:
            convert(checkpoint, tmp_path / "out", imatrix=tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1, name
    assert not (tmp_path / "out").exists()


def test_types_that_do_not_use_it(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="imatrix has no use with llm_type q8_0"):
        convert(checkpoint, tmp_path, llm_type="q8_0", imatrix=tmp_path / "x")
    with pytest.raises(ValueError, match="no use with vision_only: no LLM"):
        convert(checkpoint, tmp_path, vision_only=True, imatrix=tmp_path / "x")
    with pytest.raises(ValueError, match="no use with llm: no LLM"):
        convert(checkpoint, tmp_path, llm=tmp_path / "llm.gguf", imatrix=tmp_path / "x")
