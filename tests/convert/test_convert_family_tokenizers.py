"""Token ids of the families' tokenizers equal those of `transformers` or of sentencepiece itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_io
import llama_cpp
import pytest
import sentencepiece
from bluelm_gguf.convert import TokenizerError, convert
from checkpoints import make_llm_checkpoint
from family_checkpoints import _codegen_json, make_text, sentencepiece_model, write_codegen
from test_convert_tokenizer import TEXTS, Pair
from tokenizers import Tokenizer
from transformers import AutoTokenizer

SPACED = [
    "def f(x):\n        return x\n",
    "a" + " " * 40 + "b",
    "\t\t\tx = 1\t\t# two" + " " * 33,
    "  two\n   three\n    four\n     five 这是 \t 🙂",
]


class Converted:
    """The tokenizer of a converted LLM."""

    def __init__(self, directory: Path, out: Path) -> None:
        result = convert(directory, out, llm_type="f16", name="t")
        assert result.llm_path is not None
        self.notes = result.notes
        self.keys = gguf_io.metadata(result.llm_path)
        self.llm = llama_cpp.Llama(str(result.llm_path), vocab_only=True, verbose=False)

    def ids(self, text: str, special: bool = False) -> list[int]:
        return list(self.llm.tokenize(text.encode(), add_bos=False, special=special))


@pytest.mark.parametrize("slow", [False, True])
def test_phi(slow: bool, tmp_path: Path) -> None:
    """CodeGen's BPE with runs of spaces as added tokens; from tokenizer.json, or vocab.json and others."""
    make_text(tmp_path / "ck", "phi")
    if slow:
        (tmp_path / "ck" / "tokenizer.json").unlink()
        write_codegen(tmp_path / "ck", slow=True)
    ours = Converted(tmp_path / "ck", tmp_path / "out")
    reference = Tokenizer.from_str(_codegen_json())
    for text in TEXTS + SPACED:
        assert ours.ids(text) == reference.encode(text, add_special_tokens=False).ids, text
    text = "Question<|endoftext|>  answer\t\t<|endoftext|>"
    assert ours.ids(text, special=True) == reference.encode(text, add_special_tokens=False).ids
    assert ours.keys["tokenizer.ggml.pre"] == "phi-2" and ours.keys["tokenizer.ggml.model"] == "gpt2"
    assert ours.keys["tokenizer.ggml.add_bos_token"] is False
    end = ours.keys["tokenizer.ggml.eos_token_id"]
    assert ours.keys["tokenizer.ggml.tokens"][end] == "<|endoftext|>"
    assert ours.keys["tokenizer.ggml.token_type"][end] == 3


def test_phi_as_transformers_loads_it(tmp_path: Path) -> None:
    make_text(tmp_path / "ck", "phi")
    pair = Pair(tmp_path / "ck", tmp_path / "out")
    for text in TEXTS + SPACED:
        pair.same(text)
        pair.same(text, add_special=True)


def test_smollm2(tmp_path: Path) -> None:
    make_text(tmp_path / "ck", "smollm2")
    ours = Converted(tmp_path / "ck", tmp_path / "out")
    reference = Tokenizer.from_file(str(tmp_path / "ck" / "tokenizer.json"))
    markup = "<|im_start|>user\n2024年11月20日 什么?<|im_end|>\n"
    for text in [*TEXTS, *SPACED, markup]:
        assert ours.ids(text, special=True) == reference.encode(text, add_special_tokens=False).ids, text
    assert ours.keys["tokenizer.ggml.pre"] == "smollm"


def test_minicpm(tmp_path: Path) -> None:
    """SentencePiece with the turn marks as user-defined symbols, and MiniCPM's own template."""
    make_text(tmp_path / "ck", "minicpm")
    model = sentencepiece_model(symbols=("<用户>", "<AI>"))
    (tmp_path / "ck" / "tokenizer.model").write_bytes(model)
    path = tmp_path / "ck" / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["chat_template"] = "{% for m in messages %}<用户>{{ m['content'] }}<AI>{% endfor %}"
    path.write_text(json.dumps(settings), encoding="utf-8")
    ours = Converted(tmp_path / "ck", tmp_path / "out")
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in [*TEXTS, *SPACED]:
        assert ours.ids(text) == reference.encode(text), text
    for text in ("<用户>写一首诗<AI>", "<用户>🙂<AI>"):
        # llama.cpp puts the space of the text's beginning behind every mark (a note says so).
        space = reference.piece_to_id("\u2581")
        got, wanted = ours.ids(text, special=True), reference.encode(text)
        assert [i for i in got if i != space] == [i for i in wanted if i != space], text
    assert any("SentencePiece does so only where the whole text begins" in note for note in ours.notes)
    assert ours.keys["general.architecture"] == "minicpm"
    assert ours.keys["tokenizer.ggml.add_bos_token"] is True
    assert ours.keys["tokenizer.chat_template"] == settings["chat_template"]
    marks = [ours.keys["tokenizer.ggml.tokens"].index(mark) for mark in ("<用户>", "<AI>")]
    assert [ours.keys["tokenizer.ggml.token_type"][i] for i in marks] == [4, 4]


def make_slow(directory: Path, **settings: Any) -> None:
    """Turns a directory's tokenizer.json into vocab.json, merges.txt and added_tokens.json."""
    path = directory / "tokenizer.json"
    full = json.loads(path.read_text(encoding="utf-8"))
    added = {entry["content"]: entry["id"] for entry in full["added_tokens"]}
    vocab = {t: i for t, i in full["model"]["vocab"].items() if t not in added}
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = "\n".join(" ".join(m) if isinstance(m, list) else m for m in full["model"]["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (directory / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    path.unlink()
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8")) | settings
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_qwen2_from_vocab_and_merges(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck", kind="qwen2")
    reference = AutoTokenizer.from_pretrained(directory)
    make_slow(directory, tokenizer_class="Qwen2Tokenizer")
    ours = Converted(directory, tmp_path / "out")
    for text in TEXTS + SPACED:
        assert ours.ids(text) == reference(text, add_special_tokens=False).input_ids, text
    assert ours.keys["tokenizer.ggml.pre"] == "qwen2"


def test_unknown_class_of_vocab_and_merges(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck", kind="qwen2")
    make_slow(directory, tokenizer_class="BartTokenizer")
    with pytest.raises(TokenizerError, match="tokenizer_class 'BartTokenizer' is not known; supported: GPT2"):
        convert(directory, tmp_path / "out")
