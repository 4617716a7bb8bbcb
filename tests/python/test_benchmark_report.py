"""docs/benchmarks.md says what benchmarks/results/*.json say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import report


def test_tables_are_those_of_the_files() -> None:
    text = report.DOCUMENT.read_text(encoding="utf-8")
    assert report.document(text) == text, "python benchmarks/run.py --report"
    assert report.document(report.document(text)) == text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (report.DOCUMENT.parent / line.split("(")[1].rstrip(")")).is_file(), line


def test_a_section_that_is_missing() -> None:
    with pytest.raises(AssertionError, match="has no section"):
        report.document("nothing")


def test_results_name_no_place() -> None:
    """A path in a committed file would tell about the machine that measured."""
    for path in report.RESULTS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(place in text for place in ("/root", "/home", "/tmp", "/Users")), path
