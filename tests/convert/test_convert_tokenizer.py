"""Token ids of the converted tokenizer equal those of `transformers`; template, special tokens and
types are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf_io
import llama_cpp
import pytest
import sentencepiece
from bluelm_gguf.convert import TokenizerError, convert
from checkpoints import CHATML_TEMPLATE, CORPUS, LLAMA3_TEMPLATE, make_llm_checkpoint
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

TEXTS = [
    "",
    " ",
    "Hello world",
    "What is in this picture?  Two  spaces, and a trailing one ",
    "这张图片里有什么?招牌上写着:商店从九点开到十七点。",
    "日本語と한국어 mixed with English",
    "🙂🚀 emoji 👩‍👩‍👧 joined",
    "def f(x):\n    if x > 3:\n\t\treturn x ** 2  # ok\n\n\nprint(f(12345678))\r\n",
    "I can't, they'LL, we've; it's 3.14159 and 1,000,000.",
    "naïve café, ÄÖÜ ß, Ελληνικά, кириллица",
    "\n\n\n   indented\n \n x",
    "a\tb\u00a0c\u3000d\u200be",
    "https://example.org/?q=1&r=%20#frag <b>bold</b> {json: [1, 2]}",
    "x" * 70 + " " * 20 + "!" * 30,
]


class Pair:
    """A converted tokenizer beside the original; the file is loaded once."""

    def __init__(self, directory: Path, out: Path) -> None:
        result = convert(directory, out, llm_type="f16", name="t")
        assert result.llm_path is not None
        self.notes = result.notes
        self.path = result.llm_path
        self.keys = gguf_io.metadata(self.path)
        self.hf = AutoTokenizer.from_pretrained(directory)
        self.model = llama_cpp.Llama(str(self.path), vocab_only=True, verbose=False)

    def same(self, text: str, *, special: bool = False, add_special: bool = False) -> None:
        wanted = self.hf(text, add_special_tokens=add_special).input_ids
        got = self.model.tokenize(text.encode(), add_bos=add_special, special=special)
        assert list(got) == wanted, text


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_byte_level_bpe(kind: str, tmp_path: Path) -> None:
    pair = Pair(make_llm_checkpoint(tmp_path / "ck", kind=kind), tmp_path / "out")
    for text in TEXTS:
        pair.same(text)
        pair.same(text, add_special=True)
    markup = (
        "<|im_start|>user\n什么 is this?<|im_end|>\n"
        if kind == "qwen2"
        else "<|start_header_id|>user<|eot_id|>\n hi"
    )
    pair.same(markup, special=True)
    pair.same("<image>" + markup + " <image>", special=True)
    keys = pair.keys
    assert keys["tokenizer.ggml.model"] == "gpt2"
    assert keys["tokenizer.ggml.pre"] == {"llama": "llama-bpe", "qwen2": "qwen2"}[kind]
    assert keys["tokenizer.chat_template"] == (LLAMA3_TEMPLATE if kind == "llama" else CHATML_TEMPLATE)
    assert keys["tokenizer.ggml.add_bos_token"] is (kind == "llama")
    eos = "<|eot_id|>" if kind == "llama" else "<|im_end|>"
    assert keys["tokenizer.ggml.tokens"][keys["tokenizer.ggml.eos_token_id"]] == eos
    assert keys["tokenizer.ggml.token_type"][keys["tokenizer.ggml.eos_token_id"]] == 3
    # Ids become text again.
    ids = pair.hf("这张 🙂 café", add_special_tokens=False).input_ids
    assert pair.model.detokenize(ids).decode() == "这张 🙂 café"


def train_byte_level(pre_tokenizer: Any, **model: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def replace_tokenizer(directory: Path, tokenizer: Any, **settings: Any) -> None:
    """Puts another tokenizer.json into a checkpoint (which has rows for 486 tokens)."""
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | settings
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


PRE = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}


@pytest.mark.parametrize("pre", PRE)
def test_other_pre_tokenizers(pre: str, tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    tokenizer = train_byte_level(PRE[pre])
    tokenizer.add_tokens(["<tool>"])
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    replace_tokenizer(directory, tokenizer, eos_token="<|end|>")
    pair = Pair(directory, tmp_path / "out")
    assert pair.keys["tokenizer.ggml.pre"] == pre
    for text in TEXTS:
        pair.same(text)
    pair.same("call <tool> now<tool>x")  # an added token that is not special is always found
    pair.same("the end<|end|>", special=True)
    types = pair.keys["tokenizer.ggml.token_type"]
    assert types[tokenizer.token_to_id("<tool>")] == 4 and types[tokenizer.token_to_id("<|end|>")] == 3


def test_ignore_merges_decides_between_llama_bpe_and_smaug(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    path = directory / "tokenizer.json"
    for ignore, pre in ((True, "llama-bpe"), (False, "smaug-bpe")):
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        tokenizer["model"]["ignore_merges"] = ignore
        path.write_text(json.dumps(tokenizer), encoding="utf-8")
        pair = Pair(directory, tmp_path / pre)
        assert pair.keys["tokenizer.ggml.pre"] == pre
        for text in TEXTS:
            pair.same(text)


def test_unknown_pre_tokenizers_are_refused_with_their_name(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    replace_tokenizer(directory, train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)))
    with pytest.raises(TokenizerError, match=r"add_prefix_space.*supported: .*llama-bpe.*qwen2"):
        convert(directory, tmp_path / "out")
    replace_tokenizer(directory, Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(TokenizerError, match="'WordLevel' is not supported"):
        convert(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def spm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer.model of a small SentencePiece BPE with byte fallback, as Llama 2's."""
    folder = tmp_path_factory.mktemp("spm")
    (folder / "corpus.txt").write_text("\n".join(CORPUS * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=450,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def spm_checkpoint(directory: Path, spm_model: Path) -> Path:
    make_llm_checkpoint(directory)
    for name in ("tokenizer.json", "chat_template.jinja"):
        (directory / name).unlink()
    shutil.copy(spm_model, directory / "tokenizer.model")
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "chat_template": "{{ bos_token }}[{{ messages[0]['content'] }}]",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def test_sentencepiece_model(spm_model: Path, tmp_path: Path) -> None:
    """Against the sentencepiece library itself, which is what Llama 2's tokenizer is."""
    directory = spm_checkpoint(tmp_path / "ck", spm_model)
    result = convert(directory, tmp_path / "out", llm_type="f16")
    assert result.llm_path is not None
    keys = gguf_io.metadata(result.llm_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(spm_model))
    model = llama_cpp.Llama(str(result.llm_path), vocab_only=True, verbose=False)
    for text in TEXTS:
        assert list(model.tokenize(text.encode(), add_bos=False)) == reference.encode(text), text
    assert keys["tokenizer.ggml.model"] == "llama" and keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.tokens"][:3] == ["<unk>", "<s>", "</s>"]
    assert keys["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]
    assert [keys[f"tokenizer.ggml.{r}_token_id"] for r in ("unknown", "bos", "eos")] == [0, 1, 2]
    assert keys["tokenizer.chat_template"].startswith("{{ bos_token }}[")


def json_of(spm_model: Path, scheme: str) -> Tokenizer:
    """A tokenizer.json as it is made of a SentencePiece BPE: every pair that forms a token, best score
    first."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(spm_model))
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    merges = [
        (-pieces.get_score(i), vocab[token[:cut]], vocab[token[cut:]], (token[:cut], token[cut:]))
        for token, i in vocab.items()
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    model = models.BPE(
        vocab, [m[-1] for m in sorted(merges)], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    if scheme == "legacy":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>", "<image>")])
    return tokenizer


@pytest.mark.parametrize("scheme", ["legacy", "always", "never", "first"])
@pytest.mark.parametrize("with_model", [True, False])
def test_tokenizer_json_made_of_sentencepiece(
    with_model: bool, scheme: str, spm_model: Path, tmp_path: Path
) -> None:
    """tokenizer.json with byte fallback, with and without the tokenizer.model that it was made of."""
    directory = make_llm_checkpoint(tmp_path / "ck")
    if with_model:
        shutil.copy(spm_model, directory / "tokenizer.model")
    replace_tokenizer(
        directory, json_of(spm_model, scheme), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    pair = Pair(directory, tmp_path / "out")
    assert pair.keys["tokenizer.ggml.model"] == "llama"
    assert pair.keys["tokenizer.ggml.tokens"][450] == "<image>"
    assert pair.keys["tokenizer.ggml.token_type"][450] == 3
    assert pair.keys["tokenizer.ggml.add_bos_token"] is True
    assert pair.keys["tokenizer.ggml.add_space_prefix"] is (scheme != "never")
    # Metaspace adds no space before one, llama.cpp does: the note says so.
    noted = any("puts a space before" in note for note in pair.notes)
    assert noted is (scheme in ("always", "first"))
    for text in TEXTS:
        if not (noted and text.startswith(" ")):
            pair.same(text)
            pair.same(text, add_special=True)
    if scheme in ("legacy", "never"):
        pair.same("a picture<image>what is this?</s>", special=True)


def test_merges_that_scores_cannot_express_are_refused(tmp_path: Path) -> None:
    """A byte-fallback BPE that was trained as such lists one pair for a token; SentencePiece would
    merge others."""
    directory = make_llm_checkpoint(tmp_path / "ck")
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    replace_tokenizer(directory, tokenizer)
    with pytest.raises(
        TokenizerError, match=r"cannot be expressed by SentencePiece scores.*tokenizer\.model"
    ):
        convert(directory, tmp_path / "out")


def test_unigram_models_are_refused(tmp_path: Path, spm_model: Path) -> None:
    directory = spm_checkpoint(tmp_path / "ck", spm_model)
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(directory / "tokenizer"),
        model_type="unigram",
        vocab_size=300,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(TokenizerError, match="unigram"):
        convert(directory, tmp_path / "out")


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_damaged_sentencepiece_model(damage: str, tmp_path: Path, spm_model: Path) -> None:
    directory = spm_checkpoint(tmp_path / "ck", spm_model)
    path = directory / "tokenizer.model"
    data = {"empty": b"", "text": b"<html>not found</html>", "cut": path.read_bytes()[:-700]}[damage]
    path.write_bytes(data)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        convert(directory, tmp_path / "out")


def test_named_templates_and_second_end_token(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck", kind="qwen2")
    (directory / "chat_template.jinja").unlink()
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["chat_template"] = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    path.write_text(json.dumps(settings), encoding="utf-8")
    generation = {"eos_token_id": [482, 480, 483]}  # <|im_end|>, <|endoftext|>, <image>
    (directory / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    result = convert(directory, tmp_path / "out", llm_type="f16")
    assert result.llm_path is not None
    keys = gguf_io.metadata(result.llm_path)
    assert keys["tokenizer.chat_template"] == "D" and keys["tokenizer.chat_template.tool_use"] == "T"
    assert keys["tokenizer.ggml.eos_token_id"] == 482
    # <|endoftext|> ends by its text in llama.cpp; another one has to be named.
    assert keys["tokenizer.ggml.eot_token_id"] == 483


def test_ordinary_tokens_without_embedding_are_refused(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck", text={"vocab_size": 470})
    with pytest.raises(TokenizerError, match="486 tokens and the embedding matrix 470 rows"):
        convert(directory, tmp_path / "out")


def test_no_tokenizer(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    (directory / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        convert(directory, tmp_path / "out")
