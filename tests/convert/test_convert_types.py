"""Which type every tensor has, what a dry run foretells, and that large tensors go through in slabs."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import gguf
import gguf_io
import numpy as np
import pytest
import torch
from bluelm_gguf.convert import LLM_TYPES, MMPROJ_TYPES, ConversionError, ConversionResult, convert
from bluelm_gguf.convert.checkpoint.directory import Checkpoint
from bluelm_gguf.convert.output import writer
from bluelm_gguf.convert.tensors import MATRIX, TensorSpec
from checkpoints import make_bluelm_v_checkpoint, make_llm_checkpoint
from safetensors.torch import save_file

BLOCK_PARTS = ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down")
# width, FFN, heads of the tower -> the parts of a block whose rows are no multiple of 32
WIDTHS = {
    "padded": ((64, 96, 4), ()),
    "odd FFN": ((96, 301, 4), ()),
    "odd width": ((80, 200, 5), ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up")),
}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = {}
    for name, ((width, n_ff, heads), _) in WIDTHS.items():
        vision = {"hidden_size": width, "intermediate_size": n_ff, "num_attention_heads": heads}
        out[name] = make_bluelm_v_checkpoint(tmp_path_factory.mktemp("towers") / "ck", vision=vision)
    return out


@pytest.mark.parametrize("mmproj_type", MMPROJ_TYPES)
@pytest.mark.parametrize("case", WIDTHS)
def test_every_block_weight_has_the_type_asked_for(
    case: str, mmproj_type: str, towers: dict[str, Path], tmp_path: Path
) -> None:
    result = convert(towers[case], tmp_path, vision_only=True, mmproj_type=mmproj_type)
    assert result.mmproj_path is not None
    wanted, kinds = mmproj_type.upper(), gguf_io.types(result.mmproj_path)
    odd = WIDTHS[case][1] if wanted in ("Q8_0", "Q4_0") else ()
    weights = [n for n in kinds if n.endswith(".weight") and n.split(".")[-2] in BLOCK_PARTS]
    assert len(weights) == 2 * len(BLOCK_PARTS)
    for name in weights:
        assert kinds[name] == ("F16" if name.split(".")[-2] in odd else wanted), name
    assert {kinds["mm.0.weight"], kinds["mm.2.weight"]} == {wanted}
    others = set(kinds) - set(weights) - {"mm.0.weight", "mm.2.weight", "v.patch_embd.weight"}
    assert {kinds[name] for name in others} == {"F32"}
    if odd:
        assert any("10 matrices have rows that are no multiple of 32" in note for note in result.notes)
    rows = {kind: count for kind, count, _ in result.mmproj_types}
    assert rows == Counter(kinds.values())
    sizes = {t.name: t.n_bytes for t in gguf.GGUFReader(result.mmproj_path).tensors}
    assert sum(size for *_, size in result.mmproj_types) == sum(sizes.values())


def totals(rows: list[tuple[str, int, int]]) -> set[tuple[str, int, int]]:
    return set(rows)


@pytest.fixture(scope="module")
def llms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows of 256; rows that K-quants cannot take; tied, in more blocks."""
    d = tmp_path_factory.mktemp("llms")
    odd = {"hidden_size": 96, "intermediate_size": 80, "num_attention_heads": 3, "num_key_value_heads": 3}
    tied = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 8, "tie_word_embeddings": True}
    return {
        "wide": make_llm_checkpoint(d / "wide", text={"hidden_size": 256, "intermediate_size": 512}),
        "odd": make_llm_checkpoint(d / "odd", text=odd),
        "tied": make_llm_checkpoint(d / "tied", kind="qwen2", text=tied, dtype=torch.bfloat16),
    }


@pytest.mark.parametrize("llm_type", LLM_TYPES)
@pytest.mark.parametrize("case", ["wide", "odd", "tied"])
def test_a_dry_run_foretells_types_bytes_and_names(
    case: str, llm_type: str, llms: dict[str, Path], tmp_path: Path
) -> None:
    planned = convert(llms[case], tmp_path / "out", llm_type=llm_type, dry_run=True)
    assert list(tmp_path.iterdir()) == []
    done = convert(llms[case], tmp_path / "out", llm_type=llm_type)
    assert planned.is_dry_run and not done.is_dry_run
    assert totals(planned.llm_types) == totals(done.llm_types)
    assert planned.llm_path == done.llm_path and planned.notes == done.notes
    assert done.llm_path is not None and done.output_bytes == done.llm_path.stat().st_size
    assert 0 < done.output_bytes - planned.output_bytes < 100_000  # metadata and padding
    assert planned.checkpoint_bytes == (llms[case] / "model.safetensors").stat().st_size


def test_the_table(towers: dict[str, Path], tmp_path: Path) -> None:
    def lines(result: ConversionResult) -> list[list[str]]:
        return [line.split() for line in result.table().splitlines()]

    planned = convert(towers["padded"], tmp_path / "out", dry_run=True, name="m")
    assert not (tmp_path / "out").exists()
    done = convert(towers["padded"], tmp_path / "out", name="m")
    assert lines(done)[0] == ["file", "type", "tensors", "bytes"]
    assert [row[:2] for row in lines(done)[1:4]] == [
        ["m-Q4_0.gguf", kind] for kind in ("Q4_0", "Q8_0", "F32")
    ]
    assert {row[1] for row in lines(done)[4:-1]} == {"Q8_0", "F16", "F32"}
    assert lines(done)[-1][0] == "checkpoint" and "->" in lines(done)[-1]
    n = len(lines(done)) - 1
    assert lines(planned)[:n] == lines(done)[:n]
    assert "about" in lines(planned)[n] and lines(planned)[n + 1][0] == "memory:"
    assert "2048 tokens of context" in planned.table() and lines(planned)[-1][:2] == ["dry", "run:"]


def test_a_dry_run_refuses_what_a_conversion_refuses(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConversionError):
        convert(directory, tmp_path / "out", dry_run=True)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_slabs_change_nothing_and_bound_the_memory(
    kind: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.randn(3001, 512, generator=torch.Generator().manual_seed(1)).to(dtype)
    save_file({"w": tensor}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    checkpoint = Checkpoint(tmp_path)
    spec = TensorSpec("w", "w", (3001, 512), MATRIX)
    wanted = gguf.GGMLQuantizationType[kind]
    whole = writer.load_encoded(spec, wanted, checkpoint)
    monkeypatch.setattr(writer, "SLAB", 10_000)
    tracemalloc.start()
    slabs = writer.load_encoded(spec, wanted, checkpoint)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert slabs.dtype == whole.dtype and np.array_equal(slabs, whole)
    # The result, and little beside it; the whole tensor as float32 would be 6.1 MB.
    assert peak < slabs.nbytes + 1_000_000
