"""What a tokenizer becomes in GGUF: `tokenizer.ggml.*`."""

from __future__ import annotations

from dataclasses import dataclass, field

import gguf
from gguf import TokenType

from ..errors import TokenizerError


@dataclass
class Vocabulary:
    """Tokens and how text is cut into them, as llama.cpp stores it.

    Attributes:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE with byte fallback).
        pre: llama.cpp's name of the pre-tokenizer.
        tokens: text of every token, by id; byte-level BPE tokens in GPT-2's byte alphabet.
        types: gguf.TokenType of every token.
        scores: SentencePiece only; empty for BPE.
        merges: BPE only, "left right" in order of rank.
        add_bos: whether tokenisation begins with BOS.
        add_eos: whether it ends with EOS.
        add_space_prefix: SentencePiece only: a space is put before the text.
        special_ids: bos, eos, eot, unk, pad -> id.
        chat_template: Jinja source, or a list of named ones; None if there is none.
        notes: what the user should know.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool | None = None
    special_ids: dict[str, int] = field(default_factory=dict)
    chat_template: str | list[dict[str, str]] | None = None
    notes: list[str] = field(default_factory=list)

    def fit(self, n_rows: int) -> None:
        """Makes the number of tokens equal to the rows of the embedding matrix.

        Rows behind the last token get placeholder tokens that text never produces. Tokens behind the last row
        are left out if all of them are special or added ones (a picture's placeholder, say).

        Raises:
            TokenizerError: ordinary tokens have no embedding.
        """
        n_tokens = len(self.tokens)
        if n_tokens < n_rows:
            self.notes.append(f"{n_rows - n_tokens} embedding rows have no token; they are called [PAD<id>]")
            for i in range(n_tokens, n_rows):
                self.tokens.append(f"[PAD{i}]")
                self.types.append(int(TokenType.UNUSED))
                if self.scores:
                    self.scores.append(-1000.0)
            return
        added = (int(TokenType.CONTROL), int(TokenType.USER_DEFINED), int(TokenType.UNUSED))
        ordinary = [i for i in range(n_rows, n_tokens) if self.types[i] not in added]
        if ordinary:
            raise TokenizerError(
                f"the tokenizer has {n_tokens} tokens and the embedding matrix {n_rows} rows (token "
                f"{ordinary[0]} "
                f"is {self.tokens[ordinary[0]]!r}); check that tokenizer and weights belong together"
            )
        if n_tokens > n_rows:
            lost = ", ".join(self.tokens[n_rows : n_rows + 5])
            self.notes.append(f"{n_tokens - n_rows} added tokens have no embedding and are left out: {lost}")
            del self.tokens[n_rows:], self.types[n_rows:]
            del self.scores[n_rows:]
        for role, token in list(self.special_ids.items()):
            if token >= n_rows:
                self.notes.append(f"{role} token {token} has no embedding and is left out")
                del self.special_ids[role]

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        """Adds `tokenizer.*`."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        if self.scores:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        adders = {
            "bos": writer.add_bos_token_id,
            "eos": writer.add_eos_token_id,
            "eot": writer.add_eot_token_id,
            "unk": writer.add_unk_token_id,
            "pad": writer.add_pad_token_id,
        }
        for role, add in adders.items():
            if role in self.special_ids:
                add(self.special_ids[role])
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)
