"""llama.cpp's rules for -hf: which file is the model, and which mmproj is its own."""

from __future__ import annotations

import pytest

from bluelm_gguf.hub.choice import Choice, best_mmproj, choose, quants

GEMMA = [
    ".gitattributes",
    "README.md",
    "gemma-3-4b-it-Q4_K_M.gguf",
    "gemma-3-4b-it-Q8_0.gguf",
    "gemma-3-4b-it-f16.gguf",
    "mmproj-model-f16.gguf",
]
NESTED = [
    "BF16/big-BF16-00001-of-00002.gguf",
    "BF16/big-BF16-00002-of-00002.gguf",
    "Q4_K_M/big-Q4_K_M-00001-of-00002.gguf",
    "Q4_K_M/big-Q4_K_M-00002-of-00002.gguf",
    "big-UD-Q4_K_XL.gguf",
    "imatrix_big.gguf",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
    "mmproj-F32.gguf",
]


@pytest.mark.parametrize(
    ("paths", "quant", "model", "mmproj"),
    [
        (GEMMA, "", "gemma-3-4b-it-Q4_K_M.gguf", "mmproj-model-f16.gguf"),
        (GEMMA, "Q8_0", "gemma-3-4b-it-Q8_0.gguf", "mmproj-model-f16.gguf"),
        (GEMMA, "F16", "gemma-3-4b-it-f16.gguf", "mmproj-model-f16.gguf"),
        (NESTED, "Q4_K_XL", "big-UD-Q4_K_XL.gguf", "mmproj-BF16.gguf"),
        (["a-Q5_0.gguf", "a-Q8_0.gguf"], "", "a-Q8_0.gguf", None),
        (["b-Q5_0.gguf", "a-Q6_K.gguf"], "", "b-Q5_0.gguf", None),
        # Q4_K_M before Q8_0, whatever comes first; Q4_K is not Q4_K_M
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf"], "", "a-Q4_K_M.gguf", None),
        (["a-Q4_K_M.gguf", "a-Q4_K.gguf"], "Q4_K", "a-Q4_K.gguf", None),
    ],
)
def test_one_file(paths: list[str], quant: str, model: str, mmproj: str | None) -> None:
    assert choose(paths, quant) == Choice((model,), mmproj)


def test_a_split_model_is_taken_whole() -> None:
    assert choose(NESTED) == Choice(tuple(NESTED[2:4]), "mmproj-BF16.gguf", 2)
    missing = choose(NESTED[:3], "Q4_K_M")
    assert missing is not None and not missing.is_whole


def test_none() -> None:
    assert choose(GEMMA, "Q2_K") is None
    assert choose(["README.md", "mmproj-F16.gguf", "mtp-a-Q4_K_M.gguf", "imatrix.gguf"]) is None


def test_the_nearest_mmproj_wins_then_the_closest_bits() -> None:
    paths = ["mmproj-a-Q8_0.gguf", "one/mmproj-b-F16.gguf", "one/m-Q4_0.gguf", "two/mmproj-c-Q4_0.gguf"]
    assert best_mmproj(paths, "one/m-Q4_0.gguf") == "one/mmproj-b-F16.gguf"
    assert best_mmproj(paths, "m-Q4_0.gguf") == "mmproj-a-Q8_0.gguf"
    several = ["mmproj-F16.gguf", "mmproj-Q8_0.gguf", "mmproj-F32.gguf"]
    assert best_mmproj(several, "m-Q8_0.gguf") == "mmproj-Q8_0.gguf"
    assert best_mmproj(several, "m-F16.gguf") == "mmproj-F16.gguf"
    assert best_mmproj(several, "m.gguf") == "mmproj-Q8_0.gguf"


def test_quants() -> None:
    assert quants(NESTED) == ("BF16", "Q4_K_M", "Q4_K_XL")
    assert quants(GEMMA) == ("Q4_K_M", "Q8_0", "F16")
