"""Writes docs/names-recording.md: a session with names against a hub on loopback, and what failures say.

    python scripts/record_names.py

tests/hub/test_docs.py plays the session again and compares.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import names_recording  # noqa: E402

PAGE = ROOT / "docs" / "names-recording.md"
HEAD = """\
# A session with names, recorded

<!-- Written by scripts/record_names.py. -->

The hub is the one of the tests, on loopback: under the catalogue's name it has a pair of some megabytes with
random weights that gives the same answer to everything. Everything else is the program on a pseudo-terminal.
The memory that is free, and so the list in the middle, is that of the machine that recorded it.

"""
FAILURES = """
## What each failure says

Each was run anew; every message is one line on stderr, with exit code 1.

| tried | said |
|---|---|
"""


def main() -> None:
    """Plays everything and writes the page."""
    with tempfile.TemporaryDirectory(prefix="names-") as directory:
        place = Path(directory)
        page = HEAD
        for scene in names_recording.session(place):
            during = f"{scene.during}\n" if scene.during else ""
            page += f"```\n$ {scene.command}\n{during}{scene.after}\n```\n\n"
        page = page.rstrip() + "\n" + FAILURES
        for failure in names_recording.failures(place):
            message = failure.message.replace("|", "\\|")
            page += f"| {failure.tried} | {message} |\n"
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
