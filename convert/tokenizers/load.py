"""Carries a tokenizer over: which kind it is, added and special tokens, chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import TokenType

from ..checkpoint.directory import read_json, read_json_if_there
from ..errors import TokenizerError
from . import bpe, spm
from .vocabulary import Vocabulary

# Slow tokenizer classes that put BOS before the text unless told otherwise.
BOS_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
# Tokens that llama.cpp takes for an end by their text (llama-vocab.cpp); others must be named to it.
KNOWN_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
)
SPECIAL_ROLES = {"bos": "bos_token", "eos": "eos_token", "unk": "unk_token", "pad": "pad_token"}


def load(directory: Path, text_config: dict[str, Any]) -> Vocabulary:
    """Reads the tokenizer of a checkpoint directory.

    Args:
        directory: holds tokenizer.json or tokenizer.model, tokenizer_config.json, chat_template.jinja, ...
        text_config: the LLM's config, for eos_token_id and bos_token_id where the tokenizer names none.

    Raises:
        TokenizerError: missing, damaged, or of a kind that llama.cpp cannot reproduce.
        CheckpointError: a file that is not JSON.
    """
    json_path = directory / "tokenizer.json"
    settings = read_json_if_there(directory / "tokenizer_config.json")
    tokenizer = read_json_if_there(json_path)
    if not tokenizer and not (directory / "tokenizer.model").exists():
        tokenizer = bpe.from_vocab_and_merges(directory, settings)
    try:
        vocabulary = _vocabulary(directory, tokenizer)
        _add_tokens(vocabulary, _added_tokens(directory, tokenizer, settings), json_path)
        _find_special(vocabulary, directory, settings, text_config)
        _read_bos_eos(vocabulary, tokenizer, settings)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise TokenizerError(
            f"{json_path} or tokenizer_config.json has a value of the wrong kind ({error}); fetch both again"
        ) from error
    vocabulary.chat_template = _chat_template(directory, settings)
    return vocabulary


def _vocabulary(directory: Path, tokenizer: dict[str, Any]) -> Vocabulary:
    """Tokens and merges or scores, by kind."""
    json_path, model_path = directory / "tokenizer.json", directory / "tokenizer.model"
    if tokenizer and bpe.is_byte_level(tokenizer):
        return _from_bpe(tokenizer, json_path)
    if model_path.exists():
        pieces = spm.read_model(model_path)
        if spm.is_spm(tokenizer):
            spm.read_spaces(tokenizer, json_path, pieces)
        return _from_spm(pieces)
    if tokenizer and spm.is_spm(tokenizer):
        return _from_spm(spm.from_json(tokenizer, json_path))
    if tokenizer:
        kind = (tokenizer.get("model") or {}).get("type")
        raise TokenizerError(
            f"{json_path}: model type {kind!r} is not supported; supported: byte-level BPE, SentencePiece BPE"
        )
    raise TokenizerError(f"{directory} has neither tokenizer.json nor tokenizer.model; fetch one of them")


def _from_bpe(tokenizer: dict[str, Any], path: Path) -> Vocabulary:
    vocab = tokenizer["model"].get("vocab")
    if (
        not isinstance(vocab, dict)
        or not vocab
        or not all(isinstance(i, int) and i >= 0 for i in vocab.values())
    ):
        raise TokenizerError(f"{path} has no vocabulary; fetch the file again")
    size = max(vocab.values()) + 1
    if size > 4 * len(vocab) + 100_000:
        raise TokenizerError(
            f"{path} has a token id {size - 1} for {len(vocab)} tokens; fetch the file again"
        )
    tokens = [""] * size
    types = [int(TokenType.UNUSED)] * size
    for token, i in vocab.items():
        tokens[i], types[i] = token, int(TokenType.NORMAL)
    return Vocabulary(
        "gpt2", bpe.recognise(tokenizer, path), tokens, types, merges=bpe.merges_of(tokenizer, path)
    )


def _from_spm(pieces: spm.Pieces) -> Vocabulary:
    out = Vocabulary("llama", "default", pieces.tokens, pieces.types, pieces.scores)
    out.add_space_prefix = pieces.add_space_prefix
    out.notes = list(pieces.notes)
    marks = [t for t, kind in zip(pieces.tokens, pieces.types, strict=True) if kind == TokenType.USER_DEFINED]
    if marks and pieces.add_space_prefix:
        out.notes.append(
            f"llama.cpp puts a space before text behind {marks[0]!r} and other symbols of the tokenizer's "
            "own; SentencePiece does so only where the whole text begins"
        )
    for role, i in (("unk", pieces.unk_id), ("bos", pieces.bos_id), ("eos", pieces.eos_id)):
        if i is not None and 0 <= i < len(pieces.tokens):
            out.special_ids[role] = i
    return out


def _added_tokens(
    directory: Path, tokenizer: dict[str, Any], settings: dict[str, Any]
) -> dict[int, tuple[str, bool]]:
    """id -> (text, special), from every file that may name them; later files win."""
    out: dict[int, tuple[str, bool]] = {}
    path = directory / "tokenizer.json"
    try:
        for text, i in read_json_if_there(directory / "added_tokens.json").items():
            out[int(i)] = (str(text), False)
        path = directory / "tokenizer_config.json"
        for key, entry in (settings.get("added_tokens_decoder") or {}).items():
            out[int(key)] = (str(entry["content"]), bool(entry.get("special")))
        path = directory / "tokenizer.json"
        for entry in tokenizer.get("added_tokens") or []:
            out[int(entry["id"])] = (str(entry["content"]), bool(entry.get("special")))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TokenizerError(f"{path} describes an added token wrongly; fetch the file again") from None
    return out


def _add_tokens(vocabulary: Vocabulary, added: dict[int, tuple[str, bool]], path: Path) -> None:
    """Puts added tokens at their ids; gaps become unused tokens."""
    limit = len(vocabulary.tokens) + len(added) + 100_000
    for i, (text, special) in sorted(added.items()):
        if not 0 <= i < limit:
            raise TokenizerError(
                f"{path}: added token {text!r} has the impossible id {i}; fetch the file again"
            )
        while len(vocabulary.tokens) <= i:
            vocabulary.tokens.append("")
            vocabulary.types.append(int(TokenType.UNUSED))
            if vocabulary.scores:
                vocabulary.scores.append(-1000.0)
        vocabulary.tokens[i] = text
        if vocabulary.types[i] not in (int(TokenType.UNKNOWN), int(TokenType.BYTE)):
            vocabulary.types[i] = int(TokenType.CONTROL if special else TokenType.USER_DEFINED)
    for i, token in enumerate(vocabulary.tokens):
        if token == "":
            vocabulary.tokens[i] = f"[PAD{i}]"
    doubles = len(vocabulary.tokens) - len(set(vocabulary.tokens))
    if doubles:
        raise TokenizerError(f"{path}: {doubles} tokens stand there twice; fetch the file again")


def _find_special(
    vocabulary: Vocabulary, directory: Path, settings: dict[str, Any], text_config: dict[str, Any]
) -> None:
    """bos, eos, unk, pad by name; where the tokenizer is silent, by the ids of the config."""
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    names = read_json_if_there(directory / "special_tokens_map.json") | settings
    for role, key in SPECIAL_ROLES.items():
        value = names.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            if text not in ids:
                raise TokenizerError(
                    f"{directory / 'tokenizer_config.json'}: {key} {text!r} is no token of the tokenizer; "
                    "correct the file"
                )
            vocabulary.special_ids[role] = ids[text]
            # vocab.json and added_tokens.json do not say which tokens are special.
            plain = (int(TokenType.NORMAL), int(TokenType.USER_DEFINED))
            if role in ("bos", "eos") and vocabulary.types[ids[text]] in plain:
                vocabulary.types[ids[text]] = int(TokenType.CONTROL)
        elif key in settings and value is None:
            vocabulary.special_ids.pop(role, None)
    generation = read_json_if_there(directory / "generation_config.json")
    for role, key in (("bos", "bos_token_id"), ("eos", "eos_token_id")):
        listed: list[int] = []
        for source in (text_config, generation):
            value = source.get(key)
            listed += [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)]
        listed = [i for i in listed if 0 <= i < len(vocabulary.tokens)]
        if listed and role not in vocabulary.special_ids:
            vocabulary.special_ids[role] = listed[0]
        if role == "eos":
            ends = [i for i in listed if i != vocabulary.special_ids.get(role)]
            ends = [i for i in dict.fromkeys(ends) if vocabulary.tokens[i] not in KNOWN_ENDS]
            if ends:
                vocabulary.special_ids["eot"] = ends[0]
            if len(ends) > 1:
                lost = ", ".join(vocabulary.tokens[i] for i in ends[1:])
                vocabulary.notes.append(
                    f"GGUF names one more end token only; these do not stop an answer: {lost}"
                )


def _read_bos_eos(vocabulary: Vocabulary, tokenizer: dict[str, Any], settings: dict[str, Any]) -> None:
    """Whether BOS and EOS are put around the text: the post-processor says, else tokenizer_config.json."""
    add_bos = add_eos = False
    known = False
    stack = [tokenizer.get("post_processor")]
    while stack:
        step = stack.pop()
        if not isinstance(step, dict):
            continue
        stack += step.get("processors") or []
        if step.get("type") == "TemplateProcessing":
            known = True
            parts = [next(iter(part), "") for part in step.get("single") or []]
            add_bos = parts[:1] == ["SpecialToken"]
            add_eos = parts[-1:] == ["SpecialToken"] and len(parts) > 1
    if not known and (not tokenizer or settings.get("tokenizer_class") in BOS_CLASSES):
        add_bos = bool(settings.get("add_bos_token", True))
        add_eos = bool(settings.get("add_eos_token", False))
    vocabulary.add_bos = add_bos and "bos" in vocabulary.special_ids
    vocabulary.add_eos = add_eos and "eos" in vocabulary.special_ids


def _chat_template(directory: Path, settings: dict[str, Any]) -> str | list[dict[str, str]] | None:
    """The template, from wherever `transformers` of this or an earlier version put it."""
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise TokenizerError(f"{path} cannot be read as UTF-8 text; fetch the file again") from None
    json_path = directory / "chat_template.json"
    value = read_json(json_path).get("chat_template") if json_path.exists() else settings.get("chat_template")
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(v, dict) and {"name", "template"} <= set(v) for v in value):
        return value
    raise TokenizerError(
        f"{directory}: chat_template is neither text nor a list of named templates; correct the file"
    )
