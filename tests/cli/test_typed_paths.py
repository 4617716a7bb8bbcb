"""Paths as people type them and terminals drop them."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import quote

import pytest

from bluelm_gguf.cli.typed_paths import dropped_pictures, path_from, paths_from

NAMES = [
    "plain.png",
    "two words.JPG",
    "it's.webp",
    'a "quoted" one.png',
    "100%20#?;&.gif",
    "猫 🙂.tiff",
    "back\\slash.bmp",
]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files of all sorts of names, in the current directory."""
    monkeypatch.chdir(tmp_path)
    paths = [tmp_path / name for name in NAMES]
    for path in paths:
        path.touch()
    return paths


def escaped(path: object) -> str:
    """As macOS's terminals drop a file."""
    return "".join(c if c.isalnum() or c in "/._-" else "\\" + c for c in str(path))


WAYS = {
    "plain": str,
    "shell-quoted": lambda path: shlex.quote(str(path)),
    "escaped": escaped,
    "url": lambda path: "file://" + quote(str(path)),
    "url with host": lambda path: "file://localhost" + quote(str(path)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_one_dropped_file(pictures: list[Path], way: str, name: str) -> None:
    path = pictures[NAMES.index(name)]
    line = WAYS[way](path)
    assert dropped_pictures(f" {line} ") == [str(path)]
    assert paths_from(line) == [str(path)]
    assert path_from(line) == str(path)


@pytest.mark.parametrize("way", ["shell-quoted", "escaped", "url"])
@pytest.mark.parametrize("separator", [" ", "\n", "  "])
def test_several_dropped_files(pictures: list[Path], way: str, separator: str) -> None:
    line = separator.join(map(WAYS[way], pictures))
    assert dropped_pictures(line) == list(map(str, pictures))
    assert paths_from(line) == list(map(str, pictures))


@pytest.mark.parametrize(
    "line",
    ["", " ", "what is plain.png", "plain.png?", "plain.png missing.png", "missing.png", "/help",
     "'", '"', "\\", "notes.txt", "x" * 5000, "a\0b.png", "file://", "plain", "."],
)  # fmt: skip
def test_other_lines_are_no_drop(pictures: list[Path], line: str) -> None:
    Path("notes.txt").touch()
    Path("plain").mkdir()
    assert dropped_pictures(line) == []


def test_a_deliberate_path_needs_no_suffix(pictures: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "scan"
    path.touch()
    assert dropped_pictures("scan") == []
    for line in (str(path), "'scan'", f"file://{path}"):
        assert [Path(p).absolute() for p in dropped_pictures(line)] == [path]


def test_paths_behind_a_command(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths_from("two words.JPG") == ["two words.JPG"]
    assert paths_from("plain.png 'two words.JPG'") == ["plain.png", "two words.JPG"]
    assert paths_from("no such file.png") == ["no such file.png"]  # the message names all of it
    assert paths_from("~/plain.png") == [str(tmp_path / "plain.png")]
    assert paths_from("'~/plain.png'") == ["~/plain.png"]
