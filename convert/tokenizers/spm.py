"""SentencePiece BPE: from tokenizer.model, or from a tokenizer.json that was made of one.

tokenizer.model is a protocol buffer (sentencepiece_model.proto of google/sentencepiece); the few fields that
matter are read here by hand, so that no package is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from ..errors import TokenizerError

SPACE = "\u2581"  # SentencePiece's mark for a space
BPE_MODEL = 2  # TrainerSpec.ModelType


@dataclass
class Pieces:
    """Tokens, scores and types by id, and how spaces are treated."""

    tokens: list[str]
    scores: list[float]
    types: list[int]
    add_space_prefix: bool
    notes: list[str]
    unk_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise IndexError


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protocol buffer message; lengths give bytes, the rest integers."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value: Any
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, at = data[at : at + width], at + width
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise IndexError
        if at > len(data):
            raise IndexError
        yield tag >> 3, value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def read_model(path: Path) -> Pieces:
    """Reads tokenizer.model.

    Raises:
        TokenizerError: unreadable, cut off, or a unigram model (llama.cpp's `llama` tokenizer merges by BPE).
    """
    out = Pieces([], [], [], True, [])
    model_type, remove_spaces = 1, True
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                piece = dict(_fields(value))
                out.tokens.append(piece[1].decode("utf-8"))
                out.scores.append(struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0)
                out.types.append(piece.get(3, int(TokenType.NORMAL)))
            elif number == 2:
                trainer = dict(_fields(value))
                model_type = trainer.get(3, 1)
                out.unk_id = _signed(trainer.get(40, 0))
                out.bos_id = _signed(trainer.get(41, 1))
                out.eos_id = _signed(trainer.get(42, 2))
            elif number == 3:
                normaliser = dict(_fields(value))
                out.add_space_prefix = bool(normaliser.get(3, 1))
                remove_spaces = bool(normaliser.get(4, 1))
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error):
        raise TokenizerError(
            f"{path} is no SentencePiece model or is damaged; fetch the file again"
        ) from None
    if not all(isinstance(kind, int) and 1 <= kind <= 6 for kind in out.types):
        raise TokenizerError(f"{path} has pieces of an unknown type; fetch the file again")
    if not out.tokens:
        raise TokenizerError(f"{path} is no SentencePiece model: it has no pieces; fetch the file again")
    if model_type != BPE_MODEL:
        raise TokenizerError(
            f"{path} is a SentencePiece model of type {model_type} (1 is unigram), which llama.cpp's "
            "`llama` tokenizer "
            "does not reproduce; supported: 2 (BPE)"
        )
    if remove_spaces:
        out.notes.append("the tokenizer removes repeated spaces, llama.cpp keeps them")
    if len(set(out.tokens)) != len(out.tokens):
        raise TokenizerError(f"{path} has a piece twice; fetch the file again")
    return out


def is_spm(tokenizer: dict[str, Any]) -> bool:
    """Whether tokenizer.json is a BPE with byte fallback, as made from a SentencePiece model."""
    model = tokenizer.get("model") or {}
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def from_json(tokenizer: dict[str, Any], path: Path) -> Pieces:
    """Turns a BPE with byte fallback into SentencePiece's form: merges become scores.

    SentencePiece merges the pair whose result has the best score, whatever the pair; tokenizer.json merges
    by a list of pairs. Both agree if every pair of tokens that forms a token is listed, and the pairs of one
    token stand together. That is how `transformers` writes a SentencePiece model; it is checked here.

    Raises:
        TokenizerError: the list of merges cannot be expressed by scores.
    """
    model = tokenizer["model"]
    vocab: dict[str, int] = model.get("vocab") or {}
    tokens = [""] * (max(vocab.values(), default=-1) + 1)
    for token, i in vocab.items():
        tokens[i] = token
    if not tokens or len(vocab) != len(tokens):
        raise TokenizerError(f"{path}: the ids of the vocabulary have gaps; fetch the file again")
    rank: dict[str, list[int]] = {}
    pairs: set[tuple[str, str]] = set()
    for i, merge in enumerate(model.get("merges") or []):
        pair = tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
        if len(pair) != 2:
            raise TokenizerError(f"{path}: merge {merge!r} is no pair; fetch the file again")
        pairs.add((pair[0], pair[1]))
        rank.setdefault(pair[0] + pair[1], []).append(i)
    refuse = (
        f"{path}: its merges cannot be expressed by SentencePiece scores (token {{!r}}); "
        "put the tokenizer.model that it was made of beside it"
    )
    added = {entry.get("content") for entry in tokenizer.get("added_tokens") or [] if isinstance(entry, dict)}
    types, scores = [], []
    for token in tokens:
        is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        types.append(int(TokenType.BYTE if is_byte else TokenType.NORMAL))
        ranks = rank.get(token)
        if ranks is None:
            scores.append(-1e6)
        else:
            if max(ranks) - min(ranks) != len(ranks) - 1:
                raise TokenizerError(refuse.format(token))
            scores.append(float(-min(ranks)))
        if is_byte or token in added:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab and (left, right) not in pairs:
                raise TokenizerError(refuse.format(token))
    out = Pieces(tokens, scores, types, False, [])
    unk = model.get("unk_token")
    if isinstance(unk, str) and unk in vocab:
        out.unk_id = vocab[unk]
        types[out.unk_id] = int(TokenType.UNKNOWN)
    read_spaces(tokenizer, path, out)
    return out


def read_spaces(tokenizer: dict[str, Any], path: Path, out: Pieces) -> None:
    """Takes from tokenizer.json whether a space is put before the text.

    Raises:
        TokenizerError: spaces are treated in a way that llama.cpp's `llama` tokenizer does not have.
    """

    def flatten(node: Any, key: str) -> list[dict[str, Any]]:
        if not isinstance(node, dict):
            return []
        return (
            [s for child in node[key] for s in flatten(child, key)]
            if node.get("type") == "Sequence"
            else [node]
        )

    replaced = False
    for step in flatten(tokenizer.get("normalizer"), "normalizers") + flatten(
        tokenizer.get("pre_tokenizer"), "pretokenizers"
    ):
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            out.add_space_prefix = True
        elif kind == "Replace" and step.get("content") == SPACE and step.get("pattern") == {"String": " "}:
            replaced = True
        elif kind == "Metaspace" and step.get("replacement") == SPACE and not step.get("split", True):
            replaced = True
            scheme = step.get("prepend_scheme", "always")
            out.add_space_prefix = scheme != "never"
            if out.add_space_prefix:
                where = "the first piece of text" if scheme == "first" else "text"
                out.notes.append(
                    f"the tokenizer puts a space before {where} unless there is one; llama.cpp does so "
                    "always, "
                    "also behind special tokens"
                )
        else:
            raise TokenizerError(f"{path}: step {kind} of the SentencePiece tokenizer is not supported")
    if not replaced:
        raise TokenizerError(
            f"{path}: spaces do not become {SPACE!r}; this kind of tokenizer is not supported"
        )
