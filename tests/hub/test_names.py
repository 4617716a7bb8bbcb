"""What is a name, what is a path, and what is neither."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bluelm_gguf.errors import InvalidArgumentError
from bluelm_gguf.hub.names import could_be_model, is_path, parse


@pytest.mark.parametrize(
    ("text", "repo", "quant"),
    [
        ("gemma3:4b", None, ""),
        ("smolvlm2:2.2b", None, ""),
        ("gemma3", None, ""),
        ("ggml-org/gemma-3-4b-it-GGUF", "ggml-org/gemma-3-4b-it-GGUF", ""),
        ("ggml-org/gemma-3-4b-it-GGUF:q4_k_m", "ggml-org/gemma-3-4b-it-GGUF", "Q4_K_M"),
        ("a/b:UD-Q4_K_XL", "a/b", "UD-Q4_K_XL"),
        ("under_score/x_1.5", "under_score/x_1.5", ""),
    ],
)
def test_names(text: str, repo: str | None, quant: str) -> None:
    name = parse(text)
    assert (name.text, name.repo, name.quant) == (text, repo, quant)
    assert not is_path(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("gemma3 4b", "there is a space in it"),
        ("owner/repo :Q4_0", "there is a space in it"),
        ("gémma3:4b", "letters a to z"),
        ("模型", "letters a to z"),
        ("a\x1b[31mb", "letters a to z"),
        ("owner/..", "there is .. in it"),
        ("owner/a..b", "there is .. in it"),
        ("gemma3..4b", "there is .. in it"),
        ("a/b/c", "names are like gemma3:4b"),
        ("owner/-repo", "names are like"),
        ("owner/repo:", "names are like"),
        ("x" * 300, "longer than 256"),
    ],
)
def test_no_names(text: str, why: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse(text)
    message = str(caught.value)
    assert "no such file, and no model's name" in message and why in message
    assert message.isprintable() and len(message) < 250


def test_random_text_is_parsed_or_refused() -> None:
    rng = random.Random(5)
    alphabet = "abC9/.:-_ é\n\0\\~\u202e"
    for _ in range(3000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(12)))
        is_path(text)
        try:
            name = parse(text)
        except InvalidArgumentError as error:
            assert "\n" not in str(error)
            continue
        assert ".." not in text and text.isascii() and " " not in text
        assert name.repo is None or name.repo.count("/") == 1


@pytest.mark.parametrize(
    "text",
    ["model.gguf", "owner/model.GGUF", "./x", "../x", "/abs/x", "~/x", "a\\b"],
)
def test_paths_by_their_look(text: str) -> None:
    assert is_path(text)


def test_a_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_path("gemma3:4b")
    Path("gemma3:4b").write_bytes(b"")
    Path("owner").mkdir()
    (Path("owner") / "repo").mkdir()
    assert is_path("gemma3:4b") and is_path("owner/repo")
    assert is_path(Path("nothing"))


def test_words_that_may_be_pictures() -> None:
    assert could_be_model("owner/repo") and could_be_model("owner/repo:Q4_0")
    for picture in ("pics/cat.jpg", "pics/cat.PNG", "cat.png", "photo", "a/b/c"):
        assert not could_be_model(picture)
