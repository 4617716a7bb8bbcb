"""Which files belong together, what `info` says about it, and what a loader says about the wrong two."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import tiny_models

from bluelm_gguf import Model
from bluelm_gguf.errors import MismatchError, UnsupportedModelError
from bluelm_gguf.gguf.head import LongArray, read_head
from bluelm_gguf.gguf.info import describe_head
from bluelm_gguf.gguf.memory import estimate, memory_text
from bluelm_gguf.gguf.pair import judge, read_pair


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pair (a), the LLM of another checkpoint (b), and a vision file of another width."""
    d = tmp_path_factory.mktemp("pairs")
    a, b = {"bluelm.pair_id": "a" * 32}, {"bluelm.pair_id": "b" * 32}
    return {
        "llm": tiny_models.write_llm(d / "llm.gguf", metadata=a | {"general.license": "mit"}),
        "mmproj": tiny_models.write_mmproj(d / "mmproj.gguf", metadata=a),
        "other": tiny_models.write_llm(d / "other.gguf", metadata=b),
        "unnamed": tiny_models.write_llm(d / "unnamed.gguf"),
        "wide": tiny_models.write_mmproj(d / "wide.gguf", n_embd_out=96, metadata=a),
    }


@pytest.mark.parametrize(
    ("llm", "mmproj", "verdict", "words"),
    [
        ("llm", "mmproj", (True, True), "width 64, made from the same checkpoint"),
        ("other", "mmproj", (True, False), "different checkpoints"),
        ("unnamed", "mmproj", (True, None), "not both say"),
        ("llm", "wide", (False, False), "width 96, the LLM reads 64"),
    ],
)
def test_verdicts(named, llm: str, mmproj: str, verdict: tuple[bool, bool | None], words: str) -> None:
    found = judge(read_head(named[llm]), read_head(named[mmproj]))
    assert (found.runs, found.belongs) == verdict
    assert words in found.reason


@pytest.mark.parametrize(
    ("llm", "mmproj", "error", "words"),
    [
        ("mmproj", "llm", UnsupportedModelError, r"mmproj\.gguf.* vision .*llm\.gguf.*other way round"),
        ("mmproj", "wide", UnsupportedModelError, r"so is .*wide\.gguf: the language model is missing"),
        ("llm", "other", UnsupportedModelError, r"other\.gguf: this is a language model"),
        ("llm", "wide", MismatchError, r"wide\.gguf makes .* 96, but .*llm\.gguf needs 64"),
    ],
)
def test_the_wrong_pair_is_refused_with_the_right_reason(
    named, llm: str, mmproj: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        Model(named[llm], mmproj=named[mmproj])
    assert len(str(caught.value).splitlines()) == 1


def test_another_checkpoint_is_a_warning_at_the_callers_line(named) -> None:
    with pytest.warns(UserWarning, match="different checkpoints") as caught:
        Model(named["other"], mmproj=named["mmproj"], n_ctx=64).close()
    assert caught[0].filename == __file__
    assert [head.path for head in read_pair(named["llm"], named["mmproj"])] == [named["llm"], named["mmproj"]]


def test_info_of_one_file(program, named) -> None:
    done = program("info", named["llm"], "-c", 1000)
    rows = dict(line.strip().split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert rows["memory"].startswith("about ") and "with 1000 tokens of context" in rows["memory"]
    assert rows["licence"] == "mit"
    assert "weights" in rows["memory"] and "KV cache 256.0 KiB" in rows["memory"]
    assert "with" not in program("info", named["mmproj"]).stdout.split("memory")[1].split(":")[0]


@pytest.mark.parametrize("turned", [False, True])
def test_info_of_a_pair(program, named, turned: bool) -> None:
    files = [named["llm"], named["mmproj"]]
    done = program("info", *(reversed(files) if turned else files))
    assert done.returncode == 0
    assert "a pair      yes: both have width 64, made from the same checkpoint" in done.stdout
    assert done.stdout.count("memory ") == 1 and "2048 tokens of context" in done.stdout


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("other", "mmproj", "no: both have width 64, but they come from different checkpoints"),
        ("unnamed", "mmproj", "perhaps: both have width 64, but not both say"),
        ("llm", "wide", "no: the vision file makes embeddings of width 96, the LLM reads 64"),
        ("llm", "other", "no: two language models"),
        ("mmproj", "wide", "no: two vision files"),
    ],
)
def test_info_of_no_pair(program, named, first: str, second: str, words: str) -> None:
    done = program("info", named[first], named[second])
    assert done.returncode == 0 and f"a pair      {words}" in done.stdout


def test_info_as_json(program, named) -> None:
    found = json.loads(program("info", "--json", "-c", 512, named["llm"], named["mmproj"]).stdout)
    assert [one["pair"]["belongs"] for one in found] == [True, True]
    memory = found[0]["memory"]
    assert memory["n_ctx"] == 512 and memory["kv_cache"] == 512 * 2 * 2 * 32 * 2
    parts = ("weights", "kv_cache", "working", "program")
    assert memory["total"] == sum(memory[key] for key in parts)
    assert "pair" not in json.loads(program("info", "--json", named["llm"]).stdout)[0]


def test_odd_metadata_breaks_nothing(named) -> None:
    """Files of other makers: any key may hold anything."""
    heads = read_head(named["llm"]), read_head(named["mmproj"])
    for i, head in enumerate(heads):
        for key in head.metadata:
            if key in ("general.architecture", "general.type"):
                continue
            for value in (0, -1, 2**63, 1.5, True, "x", "", [], [0], [1, 2], ["a"], LongArray(7), None):
                odd = dataclasses.replace(head, metadata=head.metadata | {key: value})
                pair = (odd, heads[1]) if i == 0 else (heads[0], odd)
                assert judge(*pair).reason
                assert memory_text(estimate(*pair, n_ctx=64)).startswith("about ")
                assert describe_head(odd).rows()
