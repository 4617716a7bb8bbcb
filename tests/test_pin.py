"""llama-cpp-python's version stands in pyproject.toml; everything else reads it there.

Comments and docstrings may name it: as the version in which something was read.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT = {
    ".git",
    ".venv",
    "build",
    "dist",
    "results",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
}


def pinned() -> str:
    found = re.findall(r'"llama-cpp-python==([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert len(found) == 1
    return found[0]


def texts(*suffixes: str) -> list[Path]:
    found = [p for p in ROOT.rglob("*") if p.suffix in suffixes or p.name in ("Makefile", "run")]
    return [p for p in found if p.is_file() and not BUILT & set(p.relative_to(ROOT).parts)]


def code(path: Path) -> str:
    """What a file does: its text without comments, and of Python the constants without docstrings."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".py":
        comment = r"//.*" if path.suffix in (".h", ".cpp", ".c") else r"#.*"
        return text if path.suffix in (".json", ".txt") else re.sub(comment, "", text)
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    statements = {
        id(node.value)
        for parent in ast.walk(tree)
        if isinstance(parent, documented)
        for node in parent.body
        if isinstance(node, ast.Expr)
    }
    constants = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in statements)
    return "\n".join(n.value for n in constants if isinstance(n.value, str))


@pytest.mark.skipif(not (ROOT / "Makefile").is_file(), reason="no source tree")
def test_no_second_pin() -> None:
    version = pinned()
    again = [
        path.relative_to(ROOT)
        for path in texts(".py", ".txt", ".cmake", ".json", ".toml", ".sh", ".h", ".cpp")
        if path.name != "pyproject.toml" and version in code(path)
    ]
    assert not again


def test_pages_that_name_a_version_to_install_name_this_one() -> None:
    for path in texts(".md"):
        for named in re.findall(r"llama-cpp-python==([0-9][0-9.]*)", path.read_text(encoding="utf-8")):
            assert named == pinned(), path
