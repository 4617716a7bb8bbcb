"""docs/benchmarks.md says what benchmarks/results/*.json say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import report

from bluelm_gguf import bench


def test_tables_are_those_of_the_files() -> None:
    text = report.DOCUMENT.read_text(encoding="utf-8")
    assert report.document(text) == text, "python benchmarks/run.py --report"
    assert report.document(report.document(text)) == text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (report.DOCUMENT.parent / line.split("(")[1].rstrip(")")).is_file(), line


def test_tables_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.speeds("3b") == report.limits() == report.stock() == "Not measured yet."
    options = ["-t", "1", "-p", "8", "-n", "2", "-r", "2", "--table5", "--roofline", "--bandwidth", "50"]
    command = [bench.program(), *options, "--json", tmp_path / "3b.json"]
    subprocess.run(command, env=bench.environment(), check=True, stdout=subprocess.DEVNULL)
    rows = bench.read(tmp_path / "3b.json")
    table = report.speeds("3b").splitlines()
    assert table[0] == "| test | ms | per second | of limit |"
    assert len({line.count("|") for line in table[:5]}) == 1
    assert table[4].startswith("| tg2 | ") and table[4].endswith("% bandwidth |")
    assert rows[0]["cpu"] in table[-1] and "table5" not in "".join(table)
    assert report.limits().startswith("Reading 50.0 GB/s, int8 ")
    assert "| bluelm, synthetic 3b, vision weights resident, KV f16; " in report.table5()
    sides = {"encode_ms": [10.0, 12.0, 90.0], "pp8": [5.0], "peak_rss": [100.0]}
    result = {"cpu": "X", "n_cores": 2, "n_threads": 1, "llama_cpp_commit": "abc", "stock": sides,
              "ours": {"encode_ms": [6.0], "pp8": [10.0], "peak_rss": [50.0]}}  # fmt: skip
    (tmp_path / "stock-3b.json").write_text(json.dumps(result))
    text = report.stock()
    assert "| encode one 384x384 tile | 12 ms | 6 ms | 0.50x |" in text
    assert "| prefill 8 | 5 token/s | 10 token/s | 2.00x the speed |" in text


def test_a_section_that_is_missing() -> None:
    with pytest.raises(AssertionError, match="has no section"):
        report.document("nothing")


def test_results_name_no_place() -> None:
    """A path in a committed file would tell about the machine that measured."""
    for path in report.RESULTS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(place in text for place in ("/root", "/home", "/tmp", "/Users")), path
