"""The catalogue's data, and what is computed from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models

from bluelm_gguf.gguf.head import read_head
from bluelm_gguf.gguf.memory import estimate
from bluelm_gguf.hub.catalogue import entries, fitting, lookup, of_repo
from bluelm_gguf.hub.choice import is_model, quant_of
from bluelm_gguf.hub.names import parse
from bluelm_gguf.hub.shapes import LlmShape, llm_head
from bluelm_gguf.hub.speed import first_answer, read_results, results_path


def test_entries_are_sound() -> None:
    names = [entry.name for entry in entries()]
    assert len(set(names)) == len(names) and 14 <= len(names) <= 18
    for entry in entries():
        assert parse(entry.name).repo is None and parse(entry.repo).repo == entry.repo
        assert entry.licence and entry.good_at and len(entry.good_at) < 80
        if entry.llm is not None:
            assert is_model(entry.llm) and quant_of(entry.llm) == entry.quant
        if entry.mmproj is not None:
            assert "mmproj" in entry.mmproj
        assert lookup(entry.name) is entry and of_repo(entry.repo, entry.quant) is entry
    assert lookup("GEMMA3:4B") is lookup("gemma3") is lookup("gemma3:4b")


@pytest.mark.parametrize("gib", [1, 2, 4, 8, 16])
def test_each_memory_has_its_models(gib: int) -> None:
    assert len(list(fitting(gib << 30))) >= 2


def test_fitting_is_the_largest_first() -> None:
    sizes = [entry.parameters for entry in fitting(8 << 30)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(entry.need().fits(8 << 30) for entry in fitting(8 << 30))
    assert list(fitting(None)) and not list(fitting(0))


# Sizes of published files, as public code that downloads them has them. Norms and biases are counted roughly.
@pytest.mark.parametrize(
    ("name", "llm", "mmproj"),
    [
        ("smolvlm:256m", 175_000_000, 104_000_000),
        ("smolvlm2:2.2b", None, 592_523_200),
        ("qwen3-vl:2b", 1_107_409_952, None),
        ("internvl3:1b", 675_000_000, None),
        ("internvl3:2b", 1_116_758_816, 337_012_000),
        ("gemma3:4b", 2_490_000_000, 851_000_000),
    ],
)
def test_computed_sizes_are_those_of_the_files(name: str, llm: int | None, mmproj: int | None) -> None:
    entry = lookup(name)
    assert entry is not None
    for head, n_bytes in zip(entry.heads, (llm, mmproj), strict=True):
        assert n_bytes is None or head.file_bytes == pytest.approx(n_bytes, rel=0.025)


def test_a_shapes_memory_is_its_files(tmp_path: Path) -> None:
    tokens, _ = tiny_models.vocabulary()
    head = read_head(tiny_models.write_llm(tmp_path / "llm.gguf"))
    shape = LlmShape(2, 64, 4, 2, 16, 128, len(tokens), 2048, tied="output.weight" not in _names(head))
    computed = estimate(llm_head(shape, "F32"))
    real = estimate(head)
    assert computed.kv_cache == real.kv_cache and computed.n_ctx == real.n_ctx
    assert computed.llm_weights == pytest.approx(real.llm_weights, rel=0.01)
    assert computed.working == pytest.approx(real.working, rel=0.01)


def _names(head: object) -> set[str]:
    return {tensor.name for tensor in head.tensors}  # type: ignore[attr-defined]


def row(test: str, ms: float, **values: object) -> dict[str, object]:
    return {"test": test, "avg_ms": ms, **values}


def test_first_answer_in_proportion_to_what_was_measured() -> None:
    entry = lookup("gemma3:4b")
    assert entry is not None
    assert first_answer(entry, []) is None
    # 2 ms for a token of a model of 1e9 parameters
    rows = [row("pp512", 1024.0, model_n_params=10**9, n_prompt=512), row("tg16", 1.0, n_gen=16)]
    answer = first_answer(entry, rows)
    assert answer is not None and answer.encode_s is None  # its tower is libmtmd's
    assert answer.prefill_s == pytest.approx((256 + 32) * 2e-3 * entry.llm_parameters / 1e9)
    assert str(answer).endswith("+ picture")
    # the measured model that is nearest in size counts
    rows.append(row("pp512", 5120.0, model_n_params=entry.llm_parameters, n_prompt=512))
    nearer = first_answer(entry, rows)
    assert nearer is not None and nearer.prefill_s == pytest.approx((256 + 32) * 10e-3)


def test_results_that_cannot_be_used(tmp_path: Path) -> None:
    path = results_path(tmp_path)
    assert read_results(path) == []
    for text in ("", "{}", "[1, null]", "<html>", '[{"test": 3}]'):
        path.write_text(text)
        assert read_results(path) == []
    entry = lookup("gemma3:4b")
    assert entry is not None
    for ms in (None, 0, "fast", True, -1.0):
        assert first_answer(entry, [row("pp8", ms, model_n_params=10, n_prompt=8)]) is None  # type: ignore[arg-type]
