"""One table of the mmproj's keys: docs, C++ and the runtime name the same ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bluelm_gguf.convert.vision.mmproj_keys import MmprojKeys, kinds

ROOT = Path(__file__).resolve().parents[2]
IN_BOTH_FILES = {"bluelm.pair_id"}  # of the LLM's file, too
NOT_FOR_CPP = {"bluelm.prompt.image_token"}  # chat templates are Python's business
LITERAL = re.compile(r"\"((?:clip|bluelm)\.[a-z_]+(?:\.[a-z_]+)*)\"")


def named_in(*folders: str, suffixes: tuple[str, ...]) -> set[str]:
    """Keys that stand as string literals in source files."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    assert paths
    found = {name for path in paths for name in LITERAL.findall(path.read_text(encoding="utf-8"))}
    return {name for name in found if not name.endswith((".h", ".dll"))}


def test_the_page_has_every_key_with_its_type() -> None:
    found: dict[str, str] = {}
    for line in (ROOT / "docs" / "mmproj.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`") and cells[1] != "" and "." in cells[0]:
            for name in re.findall(r"`([a-z_.]+)`", cells[0]):
                if name.startswith(("clip.", "bluelm.")):
                    found[name] = cells[1].split(",")[0]
    assert found.pop("bluelm.pair_id") == "str"
    assert found == kinds()


def test_cpp_reads_every_key() -> None:
    read = named_in("cpp/src/mmproj", suffixes=(".h", ".cpp"))
    assert set(kinds()) - read == NOT_FOR_CPP
    assert {name for name in read if name.startswith("bluelm.")} <= set(kinds()) | IN_BOTH_FILES


@pytest.mark.parametrize("folder", ["cpp/tools", "bluelm_gguf"])
def test_nobody_names_a_key_that_is_not_in_the_table(folder: str) -> None:
    named = named_in(folder, suffixes=(".h", ".cpp", ".py"))
    assert {name for name in named if name.startswith("bluelm.")} <= set(kinds()) | IN_BOTH_FILES


def test_a_key_that_is_forgotten() -> None:
    with pytest.raises(TypeError, match="n_head"):
        MmprojKeys(image_size=384, patch_size=14, n_embd=8, n_ff=8, n_layer=1, n_embd_out=8, n_ff_unpadded=8)
