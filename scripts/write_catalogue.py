"""Writes the table of docs/catalogue.md from bluelm_gguf/hub/catalogue.json.

    python scripts/write_catalogue.py

tests/hub/test_docs.py fails when the table is not what this writes.
"""

from __future__ import annotations

from pathlib import Path

from bluelm_gguf.gguf.info import count, size
from bluelm_gguf.hub.catalogue import Entry, entries

PAGE = Path(__file__).parents[1] / "docs" / "catalogue.md"

BEGIN, END = "<!-- written by scripts/write_catalogue.py -->\n", "<!-- end of the table -->\n"
COLUMNS = (
    "name", "parameters", "download", "memory to run", "sees by", "licence", "good at", "repository, quant",
    "checked",
)  # fmt: skip


def page(text: str) -> str:
    """The file with the table as the catalogue is now."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    rule = "|---|---:|---:|---:|---|---|---|---|---|"
    rows = [f"| {' | '.join(COLUMNS)} |", rule, *map(_row, entries())]
    return before + BEGIN + "\n".join(rows) + "\n" + END + after


def _row(entry: Entry) -> str:
    way = "our encoder" if entry.sees_natively else f"libmtmd ({entry.projector})"
    cells = [
        f"`{entry.name}`", count(entry.parameters), size(entry.download_bytes), size(entry.need().total), way,
        entry.licence, entry.good_at, f"{entry.repo}, {entry.quant}", "yes" if entry.verified else "no",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
