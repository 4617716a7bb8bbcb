"""Damaged language models: an error of ours or an answer, never the end of the process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mutations
import pytest
import tiny_models

from bluelm_gguf.errors import ModelFormatError, UnsupportedModelError
from bluelm_gguf.gguf.kinds import check_llm_file

Damage = Callable[[mutations.Head], None]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_models.write_llm(tmp_path_factory.mktemp("llm") / "llm.gguf").read_bytes()


def set_key(name: str, value: object, kind: int | None = None) -> Damage:
    def damage(head: mutations.Head) -> None:
        for key in head.keys:
            if key[0] == name.encode():
                key[2] = value
                key[1] = key[1] if kind is None else kind
                return
        assert kind is not None
        head.keys.append([name.encode(), kind, value])

    return damage


def tokens_like(i: int, j: int) -> Damage:
    def damage(head: mutations.Head) -> None:
        items = next(key for key in head.keys if key[0] == b"tokenizer.ggml.tokens")[2][1]
        items[i] = items[j]

    return damage


def tensor(name: str, kind: int | None = None, shape: list[int] | None = None) -> Damage:
    def damage(head: mutations.Head) -> None:
        row = next(row for row in head.tensors if row[0] == name.encode())
        row[1], row[2] = shape or row[1], row[2] if kind is None else kind
        mutations.lay_out(head)

    return damage


U32, F32, STRING = 4, 6, 8
CASES: dict[str, tuple[Damage, str]] = {
    "a token twice": (tokens_like(70, 60), "vocabulary twice"),
    "no layers": (set_key("llama.block_count", 0), "block_count is 0"),
    "more layers than llama.cpp has room for": (set_key("llama.block_count", 513), "block_count is 513"),
    "layers of another kind only": (set_key("llama.nextn_predict_layers", 2, U32), "nextn_predict_layers"),
    "no heads": (set_key("llama.attention.head_count", 0), "head_count is 0"),
    "heads that share no keys": (set_key("llama.attention.head_count_kv", 3), "3 of them for keys"),
    "half a pair rotated": (set_key("llama.rope.dimension_count", 15), "rope.dimension_count is 15"),
    "nothing rotated": (set_key("llama.rope.dimension_count", 0), "rope.dimension_count is 0"),
    "keys and values of two sizes": (set_key("llama.attention.value_length", 8, U32), "8 values"),
    "experts used, but none there": (set_key("llama.expert_used_count", 2, U32), "2 of 0 experts"),
    "too many experts": (set_key("llama.expert_count", 5000, U32), "expert_count is 5000"),
    "unknown scaling": (set_key("llama.rope.scaling.type", b"twice", STRING), "rope.scaling.type is 'twice'"),
    "negative epsilon": (set_key("llama.attention.layer_norm_rms_epsilon", -1.0, F32), "epsilon"),
    "no context": (set_key("llama.context_length", 0), "context_length is 0"),
    "small alignment": (set_key("general.alignment", 8, U32), "aligned to 8 bytes"),
    "an F16 norm": (tensor("blk.0.attn_norm.weight", kind=1), "attn_norm.weight is f16"),
    "a matrix of whole numbers": (tensor("blk.0.ffn_up.weight", kind=26), "ffn_up.weight is i32"),
    "an empty tensor": (tensor("blk.0.ffn_up.weight", shape=[64, 0]), "ffn_up.weight is empty"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_llama_cpp_would_abort_over_is_named(raw: bytes, tmp_path: Path, case: str) -> None:
    damage, says = CASES[case]
    head = mutations.parse(raw)
    damage(head)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(mutations.write(head))
    with pytest.raises(ModelFormatError, match=r"damaged\.gguf: not a sound language model") as error:
        check_llm_file(path)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"), [("general.architecture", b"bert"), ("tokenizer.ggml.model", b"none")]
)
def test_files_of_other_kinds(raw: bytes, tmp_path: Path, key: str, value: bytes) -> None:
    head = mutations.parse(raw)
    set_key(key, value)(head)
    path = tmp_path / "other.gguf"
    path.write_bytes(mutations.write(head))
    with pytest.raises(UnsupportedModelError, match=r"other\.gguf"):
        check_llm_file(path)


def test_parts_of_a_split_model_are_checked(raw: bytes, tmp_path: Path) -> None:
    head = mutations.parse(raw)
    head.keys += [[b"split.count", 2, 2], [b"split.no", 2, 0], [b"split.tensors.count", 5, 40]]
    first = tmp_path / "llm-00001-of-00002.gguf"
    first.write_bytes(mutations.write(head))
    second = tmp_path / "llm-00002-of-00002.gguf"
    second.write_bytes(raw)  # split.no is missing; llama.cpp asserts its type
    with pytest.raises(ModelFormatError, match=r"00002-of-00002\.gguf.*split\.no"):
        check_llm_file(first)


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "llama": lambda raw: raw,
    "qwen2": lambda raw: mutations.as_architecture(raw, "qwen2"),
    "phi3": lambda raw: mutations.as_architecture(raw, "phi3"),
    "sentencepiece": mutations.with_sentencepiece,
}


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_end_in_an_error_or_an_answer(raw: bytes, tmp_path: Path, kind: str) -> None:
    """40 of each kind; docs/reliability.md says how many were run once."""
    n = 40
    path = tmp_path / f"{kind}.gguf"
    path.write_bytes(KINDS[kind](raw))
    script = Path(mutations.__file__)
    done = subprocess.run(
        [sys.executable, str(script), str(path), "0", str(n), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-200:]} {done.stderr[-2000:]}"
    outcomes = [line.split()[1] for line in done.stdout.splitlines()]
    assert len(outcomes) == n
    assert not {"wrong", "cause"} & set(outcomes), done.stdout
    assert "answer" in outcomes and "ModelFormatError" in outcomes
