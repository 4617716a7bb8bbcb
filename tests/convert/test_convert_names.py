"""File names after GGUF's convention, `general.*` of the model card, and one pair id in both files."""

from __future__ import annotations

from pathlib import Path

import gguf_io
import pytest
from bluelm_gguf.convert import convert
from bluelm_gguf.convert.output.naming import identify
from checkpoints import make_bluelm_v_checkpoint

CARD = """---
license: other
license_name: tiny-licence
license_link: https://example.org/licence
language:
- en
- no
- zh
tags: [vision, tiny]
base_model: example/Tiny-Base
model_url: https://example.org/tiny
---
# A card
license: gpl
"""


def card(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "README.md").write_bytes(text.encode())
    return directory


@pytest.mark.parametrize(
    ("directory", "n", "stem"),
    [
        ("BlueLM-V", 2_712_000_000, "BlueLM-V-2.7B"),
        ("bluelm-v-3b", 2_712_000_000, "bluelm-v-3B"),
        ("VILA1.5-3b", 2_700_000_000, "VILA1.5-3B"),
        ("SmolLM2-135M-Instruct", 134_515_008, "SmolLM2-135M-Instruct"),
        ("BlueLM-7B-Chat", 7_267_946_496, "BlueLM-7B-Chat"),
        ("Tiny-Chat-v1.2", 123_456, "Tiny-123K-Chat-v1.2"),
        ("my model (old)", 2_000_000_000, "my-model-old-2.0B"),
        ("1234", 5_000_000, "1234-5.0M-1234"),
        ("plain", 0, "plain"),
    ],
)
def test_stems(directory: str, n: int, stem: str, tmp_path: Path) -> None:
    found, notes = identify(card(tmp_path / directory, "no front matter"), n)
    assert found.stem == stem and notes == []


def test_a_name_that_is_given_is_used_as_it_is(tmp_path: Path) -> None:
    found, _ = identify(card(tmp_path / "x", CARD), 5_000_000, "bluelm-demo")
    assert (found.stem, found.name) == ("bluelm-demo", "bluelm-demo")
    assert found.texts["general.size_label"] == "5.0M"


def test_a_hubs_cache_directory_has_the_repositorys_name(tmp_path: Path) -> None:
    directory = tmp_path / "models--example--Tiny-Chat-v2" / "snapshots" / ("0" * 40)
    found, _ = identify(card(directory, ""), 5_000_000)
    assert found.stem == "Tiny-5.0M-Chat-v2" and found.name == "Tiny-Chat-v2"
    assert found.texts["general.source.repo_url"] == "https://huggingface.co/example/Tiny-Chat-v2"
    assert found.texts["general.organization"] == "example"
    assert found.texts["general.version"] == "v2" and found.texts["general.finetune"] == "Chat"


@pytest.mark.parametrize(
    "text", [CARD, CARD.replace("\n", "\r\n"), "\ufeff" + CARD, CARD.replace("---\n#", "--- \n#")]
)
def test_the_card_is_copied(text: str, tmp_path: Path) -> None:
    found, notes = identify(card(tmp_path / "x", text), 1)
    assert notes == []
    assert found.texts["general.license"] == "other"
    assert found.texts["general.license.name"] == "tiny-licence"
    assert found.languages == ("en", "no", "zh") and found.tags == ("vision", "tiny")
    assert found.base_models == ("example/Tiny-Base",)


@pytest.mark.parametrize(
    ("text", "n_notes"),
    [
        ("---\nlicense: [unclosed\n---\n", 1), ("---\n- a list\n---\n", 0), ("---\nno end", 0), ("", 0),
        ("---\nlicense: {a: 1}\nlanguage: 5\ntags: [1, [2]]\nmodel_name: [x]\n---\n", 0),
        ("---\nlicense: &a [*a]\n---\n", 0), ("---\n" + "[" * 5000 + "\n---\n", 1),
        ("---\nlicense: !!python/object/apply:os.system [false]\n---\n", 1),
        ("---\nlicense: " + "x" * 5000 + "\n---\n", 0),
    ],
)  # fmt: skip
def test_a_bad_card_costs_its_facts_only(text: str, n_notes: int, tmp_path: Path) -> None:
    found, notes = identify(card(tmp_path / "x", text), 5000)
    assert len(notes) == n_notes and found.stem == "x-5.0K"
    assert "general.license" not in found.texts and found.languages == ()


def test_a_card_that_is_no_text(tmp_path: Path) -> None:
    card(tmp_path / "x", "")
    (tmp_path / "x" / "README.md").write_bytes(b"---\n\xff\xfe\n---\n")
    assert "not copied" in identify(tmp_path / "x", 1)[1][0]


def test_both_files_say_the_same(tmp_path: Path) -> None:
    directory = make_bluelm_v_checkpoint(tmp_path / "Tiny-Chat-v1.2")
    card(directory, CARD)
    result = convert(directory, tmp_path / "out", llm_type="q8_0")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "Tiny-136K-Chat-v1.2-Q8_0.gguf",
        "mmproj-Tiny-136K-Chat-v1.2-Q8_0.gguf",
    ]
    assert result.llm_path is not None and result.mmproj_path is not None
    llm, mmproj = gguf_io.metadata(result.llm_path), gguf_io.metadata(result.mmproj_path)
    wanted = {
        "general.name": "Tiny-Chat-v1.2",
        "general.basename": "Tiny",
        "general.size_label": "136K",
        "general.version": "v1.2",
        "general.finetune": "Chat",
        "general.license": "other",
        "general.source.url": "https://example.org/tiny",
        "general.languages": ["en", "no", "zh"],
        "general.tags": ["vision", "tiny"],
        "general.base_model.count": 1,
        "general.base_model.0.name": "Tiny-Base",
        "general.base_model.0.repo_url": "https://huggingface.co/example/Tiny-Base",
    }
    for keys in (llm, mmproj):
        assert {key: keys.get(key) for key in wanted} == wanted
    assert len(llm["bluelm.pair_id"]) == 32 and llm["bluelm.pair_id"] == mmproj["bluelm.pair_id"]
    demo = convert(directory, tmp_path / "demo", llm_type="q8_0", name="bluelm-demo")
    assert demo.llm_path is not None and demo.llm_path.name == "bluelm-demo-Q8_0.gguf"
    assert demo.mmproj_path is not None and demo.mmproj_path.name == "mmproj-bluelm-demo-Q8_0.gguf"
