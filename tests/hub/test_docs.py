"""docs/catalogue.md and docs/names-recording.md are what their scripts write."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import names_recording

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import write_catalogue  # noqa: E402


def test_the_catalogues_page_is_the_catalogue() -> None:
    text = write_catalogue.PAGE.read_text(encoding="utf-8")
    assert text == write_catalogue.page(text), "run scripts/write_catalogue.py"


def shape(text: str) -> list[str]:
    """Lines without figures, which differ from run to run, and without the spaces that they move."""
    return [" ".join(re.sub(r"[\d.#]+", "0", line).split()) for line in text.splitlines()]


def cut(text: str) -> str:
    """Without what a line of progress says behind its bar."""
    return re.sub(r"\[[#.]{24}\].*", "", text)


def test_the_recorded_session_still_goes_like_that(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "names-recording.md").read_text(encoding="utf-8")
    recorded = re.findall(r"```\n\$ (.*?)\n(.*?)\n```", page, re.DOTALL)
    scenes = list(names_recording.session(tmp_path))
    assert [command for command, _ in recorded] == [scene.command for scene in scenes]
    for (_, before), scene in zip(recorded, scenes, strict=True):
        if "models" in scene.command:  # the list depends on the memory that is free
            common = set(shape(before)) & set(shape(scene.after))
            assert any(line.startswith("smolvlm:") for line in common) and len(common) > 3
        else:
            now = f"{scene.during}\n{scene.after}".strip()
            assert shape(cut(before)) == shape(cut(now))
