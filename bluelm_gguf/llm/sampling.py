"""How the next token is chosen: llama.cpp's samplers in llama.cpp's order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from ..errors import DecodeError, InvalidArgumentError
from ..native import library as _native
from .grammar import Grammar, read_grammar, schema_grammar


class Decoder(Protocol):
    """What a sampler must know of the model whose tokens it chooses: `LanguageModel`."""

    vocab: Any
    """llama.cpp's handle of the vocabulary."""
    n_vocab: int
    n_ctx: int

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text; `special`: whether control tokens may be among them."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Names, defaults and order of the steps are llama.cpp's (but temp is 0).

    Attributes:
        temp: 0 always takes the likeliest token.
        top_k: Choose among the k likeliest; 0 keeps all.
        top_p: Choose among the likeliest that make up this much probability; 1 keeps all.
        min_p: Leave out what is less than this times as likely as the likeliest; 0 keeps all.
        repeat_penalty: Divides the score of tokens that came before; 1 is off.
        seed: None draws one.
        typical_p: Locally typical sampling; 1 keeps all.
        repeat_last_n: How many of the last tokens the penalties look at; 0: none, -1: the whole context.
        presence_penalty: Taken off the score of tokens that came before; 0 is off.
        frequency_penalty: The same, times how often they came.
        grammar: A grammar in llama.cpp's GBNF that the answer has to follow.
        json_schema: A JSON schema (text or dict) that the answer has to follow. What llama_cpp's translation
            leaves out (ranges of numbers, for example) is told by a UserWarning.
    """

    temp: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None
    typical_p: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    grammar: str | None = None
    json_schema: str | dict[str, Any] | None = None

    def validate(self) -> None:
        """Raises InvalidArgumentError for values out of range, and for a grammar or schema that is none."""
        infinity = float("inf")
        checks: list[tuple[str, float, bool, str]] = [
            ("temp", self.temp, 0 <= self.temp < infinity, "at least 0"),
            ("top_k", self.top_k, 0 <= self.top_k < 2**31, "at least 0"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repeat_penalty", self.repeat_penalty, 0 < self.repeat_penalty < infinity, "above 0"),
            ("seed", self.seed or 0, 0 <= (self.seed or 0) < 2**32, "from 0 to 4294967295"),
            ("typical_p", self.typical_p, 0 < self.typical_p <= 1, "above 0 and at most 1"),
            ("repeat_last_n", self.repeat_last_n, -1 <= self.repeat_last_n < 2**31, "-1 or more"),
        ]
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            checks.append((name, value, -infinity < value < infinity, "a finite number"))
        for name, value, good, allowed in checks:
            if not good:
                raise InvalidArgumentError(f"{name} is {value}; it must be {allowed}")
        grammar = self.read_grammar()
        if grammar is not None and grammar.not_enforced:
            warnings.warn(
                f"json_schema: {', '.join(grammar.not_enforced)} will not be enforced", stacklevel=3
            )

    def read_grammar(self) -> Grammar | None:
        """The grammar to follow, if any.

        Raises:
            InvalidArgumentError: not a grammar or schema, or both are given.
        """
        if self.grammar is not None and self.json_schema is not None:
            raise InvalidArgumentError("grammar and json_schema are both given: an answer can follow one")
        if self.json_schema is not None:
            return schema_grammar(self.json_schema)
        return None if self.grammar is None else read_grammar(self.grammar)

    @property
    def has_penalties(self) -> bool:
        """Whether tokens that came before count."""
        factors = (self.repeat_penalty - 1, self.presence_penalty, self.frequency_penalty)
        return self.repeat_last_n != 0 and any(factors)


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as options of a call."""

    temp: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    seed: int | None
    typical_p: float
    repeat_last_n: int
    presence_penalty: float
    frequency_penalty: float
    grammar: str | None
    json_schema: str | dict[str, Any] | None


class Sampler:
    """A chain of llama.cpp samplers for one answer; free it with `close`.

    With a grammar, the token is chosen freely first and only checked against the grammar; what the grammar
    refuses is left out and another one chosen. Nearly all tokens pass, and checking one is thousands of times
    cheaper than checking a vocabulary.

    Args:
        sampling: What is wanted, validated.
        llm: Whose tokens are chosen.
        history: Tokens of the prompt, which the penalties look at.

    Raises:
        InvalidArgumentError: a grammar with tokens that the vocabulary lacks.
    """

    def __init__(self, sampling: Sampling, llm: Decoder, history: Sequence[int] = ()) -> None:
        import llama_cpp as lc

        self._chain: Any = None
        self._grammar: Any = None
        self._lc = lc
        grammar = sampling.read_grammar()
        if grammar is not None:
            self._vocab = llm.vocab
            self._grammar = _init_grammar(grammar, llm)
            self._candidates, self._single = _Candidates(llm.n_vocab), _Candidates(1)
        self._chain = lc.llama_sampler_chain_init(lc.llama_sampler_chain_default_params())
        for sampler in _steps(sampling, llm.n_vocab, llm.n_ctx):
            lc.llama_sampler_chain_add(self._chain, sampler)
        if sampling.has_penalties:
            n = len(history) if sampling.repeat_last_n < 0 else sampling.repeat_last_n
            for token in history[-n:]:
                lc.llama_sampler_accept(self._chain, token)

    def sample(self, ctx: Any) -> int:
        """The token after the last one decoded.

        Raises:
            DecodeError: the grammar allows nothing that this vocabulary could write here.
        """
        if self._grammar is None:
            return int(self._lc.llama_sampler_sample(self._chain, ctx, -1))
        token = self._sample_checked(ctx)
        self._lc.llama_sampler_accept(self._chain, token)
        return token

    def _sample_checked(self, ctx: Any) -> int:
        lc, candidates = self._lc, self._candidates
        logits = lc.llama_get_logits_ith(ctx, -1)
        candidates.fill(logits)
        lc.llama_sampler_apply(self._chain, candidates.array)
        token = candidates.chosen
        if not self._allows(token):
            candidates.fill(logits)
            lc.llama_sampler_apply(self._grammar, candidates.array)
            if candidates.drop_refused() == 0:
                raise DecodeError("the grammar cannot be followed: no token of this vocabulary fits here")
            lc.llama_sampler_apply(self._chain, candidates.array)
            token = candidates.chosen
        if not lc.llama_vocab_is_eog(self._vocab, token):
            # What does not fit would end the process; nothing but tokens that passed gets here.
            lc.llama_sampler_accept(self._grammar, token)
        return token

    def _allows(self, token: int) -> bool:
        """Whether the grammar lets a token come next."""
        one = self._single
        one.set(token)
        self._lc.llama_sampler_apply(self._grammar, one.array)
        return one.drop_refused() == 1

    def close(self) -> None:
        """Frees the samplers."""
        for name in ("_chain", "_grammar"):
            sampler = getattr(self, name)
            if sampler is not None:
                self._lc.llama_sampler_free(sampler)
                setattr(self, name, None)


def _steps(sampling: Sampling, n_vocab: int, n_ctx: int) -> Iterator[Any]:
    """The samplers in llama.cpp's default order (common/common.h, `samplers`)."""
    import llama_cpp as lc

    if sampling.has_penalties:
        last_n = n_ctx if sampling.repeat_last_n < 0 else sampling.repeat_last_n
        yield lc.llama_sampler_init_penalties(
            n_vocab, last_n, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty
        )
    is_greedy = sampling.temp <= 0
    # Of these only typical_p can leave out the likeliest token, and it depends on what top_k left.
    if sampling.top_k > 0 and not (is_greedy and sampling.typical_p == 1):
        yield lc.llama_sampler_init_top_k(sampling.top_k)
    if sampling.typical_p < 1:
        yield lc.llama_sampler_init_typical(sampling.typical_p, 1)
    if is_greedy:
        yield lc.llama_sampler_init_greedy()
        return
    if sampling.top_p < 1:
        yield lc.llama_sampler_init_top_p(sampling.top_p, 1)
    if sampling.min_p > 0:
        yield lc.llama_sampler_init_min_p(sampling.min_p, 1)
    yield lc.llama_sampler_init_temp(sampling.temp)
    yield lc.llama_sampler_init_dist(lc.LLAMA_DEFAULT_SEED if sampling.seed is None else sampling.seed)


def _init_grammar(grammar: Grammar, llm: Decoder) -> Any:
    """llama.cpp's sampler for a grammar that was read before."""
    import llama_cpp as lc

    for text in grammar.tokens:
        number = text[2:-2] if text.startswith("<[") else None
        known = len(llm.tokenize(text, special=True)) == 1 if number is None else int(number) < llm.n_vocab
        if not known:
            raise InvalidArgumentError(f"grammar: {text} is no token of this model's vocabulary")
    sampler = lc.llama_sampler_init_grammar(llm.vocab, grammar.text.encode(), b"root")
    if not sampler:
        raise InvalidArgumentError("grammar: llama.cpp refuses it")
    return sampler


class _Candidates:
    """Tokens with their scores, as llama.cpp's samplers take them."""

    def __init__(self, capacity: int) -> None:
        import llama_cpp as lc
        import numpy as np

        self._data = (lc.llama_token_data * capacity)()
        self._rows = np.ctypeslib.as_array(self._data)  # with the fields id, logit, p
        self._array = lc.llama_token_data_array(self._data, capacity, -1, False)
        self.array = _native.byref(self._array)

    def fill(self, logits: Any) -> None:
        """The whole vocabulary; logits is llama.cpp's pointer."""
        import numpy as np

        n = len(self._rows)
        self._rows["id"] = np.arange(n, dtype=np.int32)
        self._rows["logit"] = np.ctypeslib.as_array(logits, (n,))
        self._begin(n)

    def set(self, token: int) -> None:
        """One token."""
        self._rows[0] = (token, 1.0, 0.0)
        self._begin(1)

    def _begin(self, n: int) -> None:
        self._rows["p"] = 0.0
        self._array.size, self._array.selected, self._array.sorted = n, -1, False

    def drop_refused(self) -> int:
        """Leaves out what a sampler set to minus infinity; returns how many are left."""
        kept = self._rows[: self._array.size]
        kept = kept[kept["logit"] > -float("inf")]
        self._rows[: len(kept)] = kept
        self._array.size = len(kept)
        return len(kept)

    @property
    def chosen(self) -> int:
        """The token that the last sampler of a chain chose."""
        return int(self._rows["id"][self._array.selected])
