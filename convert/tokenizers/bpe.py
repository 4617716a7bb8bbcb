"""Byte-level BPE from tokenizer.json, and which of llama.cpp's pre-tokenizers it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint.directory import read_json
from ..errors import TokenizerError

# Split patterns as published tokenizer.json files spell them, and llama.cpp's name for each
# (llama-vocab.cpp, llama_vocab::impl::load and llm_tokenizer_bpe).
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
QWEN2_PATTERN = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
QWEN35_PATTERN = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LETTERS_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LETTERS_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTERS_UPPER}*{_LETTERS_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_LETTERS_UPPER}+{_LETTERS_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# (steps of the pre-tokenizer, ignore_merges) -> tokenizer.ggml.pre. None: either value of ignore_merges.
PRE_TOKENIZERS: list[tuple[tuple[str, ...], bool | None, str]] = [
    ((f"split {LLAMA3_PATTERN}", "bytes"), True, "llama-bpe"),
    ((f"split {LLAMA3_PATTERN}", "bytes"), False, "smaug-bpe"),
    ((f"split {QWEN2_PATTERN}", "bytes"), False, "qwen2"),
    ((f"split {QWEN35_PATTERN}", "bytes"), False, "qwen35"),
    ((f"split {O200K_PATTERN}", "bytes"), False, "gpt-4o"),
    ((f"split {GPT2_PATTERN}", "bytes"), False, "gpt-2"),
    (("bytes gpt2",), False, "gpt-2"),
    (("digits", "bytes gpt2"), False, "smollm"),
]


# Tokenizer classes whose vocab.json and merges.txt are a byte-level BPE, and the split of each.
SLOW_CLASSES: dict[str, str | None] = {
    "GPT2Tokenizer": None,
    "GPT2TokenizerFast": None,
    "CodeGenTokenizer": None,
    "CodeGenTokenizerFast": None,
    "Qwen2Tokenizer": QWEN2_PATTERN,
    "Qwen2TokenizerFast": QWEN2_PATTERN,
}


def from_vocab_and_merges(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What tokenizer.json would say, made of vocab.json and merges.txt; {} where they are not there.

    Args:
        directory: of the tokenizer.
        settings: tokenizer_config.json.

    Raises:
        TokenizerError: a tokenizer class whose way of splitting is not known here, or a damaged file.
    """
    vocab_path, merges_path = directory / "vocab.json", directory / "merges.txt"
    if not vocab_path.exists() or not merges_path.exists():
        return {}
    kind = settings.get("tokenizer_class")
    if kind not in SLOW_CLASSES:
        raise TokenizerError(
            f"{directory}: there is no tokenizer.json, and tokenizer_class {kind!r} is not known; supported: "
            f"{', '.join(SLOW_CLASSES)}"
        )
    if settings.get("add_prefix_space"):
        raise TokenizerError(
            f"{directory / 'tokenizer_config.json'}: add_prefix_space is true; supported: false"
        )
    try:
        lines = merges_path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        raise TokenizerError(f"{merges_path} cannot be read as UTF-8 text; fetch the file again") from None
    pattern = SLOW_CLASSES[kind]
    bytes_step = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": pattern is None}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "normalizer": {"type": "NFC"} if pattern is not None else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [bytes_step] if pattern is None else [split, bytes_step],
        },
        "model": {
            "type": "BPE",
            "vocab": read_json(vocab_path),
            "merges": [line for line in lines if line.strip() and not line.startswith("#version")],
        },
    }


def is_byte_level(tokenizer: dict[str, Any]) -> bool:
    """Whether tokenizer.json is a byte-level BPE (GPT-2's byte alphabet)."""
    model = tokenizer.get("model") or {}
    steps = _flatten(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return (
        model.get("type") == "BPE"
        and not model.get("byte_fallback")
        and any(step.get("type") == "ByteLevel" for step in steps)
    )


def _flatten(node: Any, key: str) -> list[dict[str, Any]]:
    """The steps of a (possibly nested) Sequence of tokenizer.json."""
    if not isinstance(node, dict):
        return []
    if node.get("type") == "Sequence":
        return [step for child in node.get(key) or [] for step in _flatten(child, key)]
    return [node]


def _describe(step: dict[str, Any]) -> str:
    """One step in the words of PRE_TOKENIZERS; with unknown settings it keeps its JSON and matches
    nothing."""
    kind = step.get("type")
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern = step.get("pattern") or {}
        if isinstance(pattern.get("Regex"), str):
            return f"split {pattern['Regex']}"
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        return "bytes gpt2" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    return str(step)


def recognise(tokenizer: dict[str, Any], path: Path) -> str:
    """llama.cpp's name of the pre-tokenizer.

    Args:
        tokenizer: tokenizer.json of a byte-level BPE.
        path: for messages.

    Raises:
        TokenizerError: one that llama.cpp (or this table) does not know: a wrong guess would cost quality
        silently.
    """
    normalisers = [step.get("type") for step in _flatten(tokenizer.get("normalizer"), "normalizers")]
    if any(kind != "NFC" for kind in normalisers):
        raise TokenizerError(f"{path}: normalizer {normalisers} is not supported; supported: none, NFC")
    model = tokenizer["model"]
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise TokenizerError(f"{path}: model.{key} is {model[key]!r}; llama.cpp has no such option")
    steps = tuple(_describe(step) for step in _flatten(tokenizer.get("pre_tokenizer"), "pretokenizers"))
    ignore_merges = bool(model.get("ignore_merges"))
    for known, ignore, pre in PRE_TOKENIZERS:
        if steps == known and ignore in (None, ignore_merges):
            return pre
    names = ", ".join(sorted({pre for _, _, pre in PRE_TOKENIZERS}))
    raise TokenizerError(
        f"{path}: the pre-tokenizer ({' + '.join(steps) or 'none'}; ignore_merges "
        f"{str(ignore_merges).lower()}) is not "
        f"known; supported: {names}, and SentencePiece BPE"
    )


def _is_pair(merge: Any) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge)


def merges_of(tokenizer: dict[str, Any], path: Path) -> list[str]:
    """The merges as "left right", in order of rank; tokenizer.json has them as strings or as pairs.

    Raises:
        TokenizerError: neither.
    """
    out: list[str] = []
    for merge in tokenizer["model"].get("merges") or []:
        if isinstance(merge, str) and merge.count(" ") == 1:
            out.append(merge)
        elif _is_pair(merge) and not any(" " in part for part in merge):
            out.append(" ".join(merge))
        else:
            raise TokenizerError(
                f"{path}: merge {merge!r} is no pair of byte-level tokens; fetch the file again"
            )
    return out
