"""Grammars that an answer has to follow: GBNF (llama.cpp's notation) and JSON schemas.

llama.cpp parses GBNF in C++ and has three habits that a library cannot live with: it prints syntax errors
straight to stderr, overflows the stack on deep nesting, and does not end on left recursion that hides behind
a rule which may be empty. So a grammar is read here first; what gets through is safe to hand over, and what
does not is named with its line. The notation: llama.cpp 0c1e570, grammars/README.md and
src/llama-grammar.cpp.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..errors import InvalidArgumentError

MAX_NESTING = 100  # parentheses; llama.cpp's parser recurses once or twice for each
MAX_REPEATS = 2000  # MAX_REPETITION_THRESHOLD of llama.cpp
MAX_PATHS = 200_000  # of the search for left recursion, which llama.cpp does path by path
MAX_BYTES = 4 << 20

_WORD = re.compile(r"[A-Za-z0-9-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_CHAR = re.compile(r"\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\[trn\\\"\[\]-]|[^\\]", re.DOTALL)
_TOKEN = re.compile(r"!?<(?:\[([0-9]+)\]|[^>]*)>")
_REPEAT = re.compile(r"\{[ \t]*(?P<low>[0-9]+)[ \t]*(?:(?P<comma>,)[ \t]*(?P<high>[0-9]*)[ \t]*)?\}")

_Alternative = list["int | None"]
"""What follows what: a rule's number, or None for anything that takes a character."""


@dataclass(frozen=True)
class Grammar:
    """A grammar that llama.cpp can take.

    Attributes:
        text: in GBNF.
        tokens: the `<...>` in it, which mean tokens of a vocabulary.
        not_enforced: keywords of a JSON schema that the translation leaves out.
    """

    text: str
    tokens: tuple[str, ...] = ()
    not_enforced: tuple[str, ...] = ()


@functools.lru_cache(maxsize=32)
def read_grammar(text: str) -> Grammar:
    """Checks a grammar in GBNF.

    Raises:
        InvalidArgumentError: not GBNF (with the line), no rule `root`, left recursion, or too large.
    """
    if not text.strip():
        raise InvalidArgumentError("grammar: it is empty")
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError("grammar: it is not valid Unicode") from None
    if "\0" in text:
        raise InvalidArgumentError("grammar: it holds a NUL character; write \\x00")
    if n_bytes > MAX_BYTES:
        raise InvalidArgumentError(f"grammar: it has {n_bytes} bytes, more than the {MAX_BYTES} allowed")
    parser = _Parser(text)
    parser.parse()
    _check_recursion(parser.rules, parser.names)
    return Grammar(text, tuple(parser.tokens))


def schema_grammar(schema: str | dict[str, Any]) -> Grammar:
    """Translates a JSON schema with llama_cpp's converter.

    Args:
        schema: the JSON text, or what it stands for. Patterns with classes like [^x] let through what JSON
            would have to escape.

    Raises:
        InvalidArgumentError: not JSON, or a schema that cannot be translated.
    """
    if not isinstance(schema, str):
        try:
            schema = json.dumps(schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgumentError(f"json_schema: it cannot be written as JSON ({error})") from None
    return _translate(schema)


@functools.lru_cache(maxsize=32)
def _translate(schema: str) -> Grammar:
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"json_schema: it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"json_schema: an object is needed, not {type(value).__name__}")
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        text = "\n" + json_schema_to_gbnf(json.dumps(_without_root_ref(value)))
    except Exception as error:  # whatever a malformed schema makes it stumble over
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        elif isinstance(error, (KeyError, TypeError, AttributeError)):
            reason = f"malformed near {reason}"
        raise InvalidArgumentError(f"json_schema: it cannot be translated ({reason[:200]})") from None
    for rule, plain in _JSON_CHARACTERS.items():
        text = text.replace(rule, plain)
    try:
        grammar = read_grammar(text)
    except InvalidArgumentError as error:
        what = str(error).removeprefix("grammar: ")
        raise InvalidArgumentError(f"json_schema: what it is translated to cannot be used ({what})") from None
    return Grammar(grammar.text, not_enforced=tuple(sorted(_not_enforced(value))))


# llama_cpp's rules let control characters stand in strings, and "." of a pattern even quotes: no JSON.
_JSON_CHARACTERS = {
    '\nchar ::= [^"\\\\] |': '\nchar ::= [^"\\\\\\x00-\\x1F\\x7F] |',
    "\ndot ::= [^\\x0A\\x0D]": '\ndot ::= [^"\\\\\\x00-\\x1F\\x7F]',
}
# What llama_cpp's converter does not look at.
_NOT_ENFORCED = {
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "uniqueItems", "contains",
    "minProperties", "maxProperties", "patternProperties", "propertyNames", "dependentRequired",
    "dependentSchemas", "not", "if",
}  # fmt: skip


def _without_root_ref(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that is nothing but a reference into itself, with what it refers to in its place: the
    converter does not look further into such a one."""
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    target: Any = schema
    for key in reference[2:].split("/"):
        target = target[key]
    return {**{k: v for k, v in schema.items() if k != "$ref"}, **target}


def _not_enforced(schema: Any) -> set[str]:
    """Keywords in a schema that the translation leaves out."""
    if isinstance(schema, list):
        return {name for item in schema for name in _not_enforced(item)}
    if not isinstance(schema, dict):
        return set()
    found = _NOT_ENFORCED & set(schema)
    for key, value in schema.items():
        if key in ("properties", "definitions", "$defs") and isinstance(value, dict):
            found |= _not_enforced(list(value.values()))
        elif key not in ("enum", "const", "default", "examples"):
            found |= _not_enforced(value)
    return found


@dataclass
class _Parser:
    """Reads GBNF into rules, following llama.cpp's parser step by step.

    Attributes:
        rules: by number, their alternatives; none while a rule is only referred to.
        names: numbers of the rules by name; groups and repetitions have none.
    """

    text: str
    pos: int = 0
    depth: int = 0
    rules: list[list[_Alternative]] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    used_at: dict[int, int] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)

    def parse(self) -> None:
        self._space(lines=True)
        while self.pos < len(self.text):
            self._rule()
        for name, number in self.names.items():
            if not self.rules[number]:
                self._fail(f"the rule {name!r} is not defined", self.used_at[number])
        if "root" not in self.names:
            raise InvalidArgumentError("grammar: it has no rule 'root', with which an answer begins")

    def _rule(self) -> None:
        number = self._name()
        self._space()
        if not self.text.startswith("::=", self.pos):
            self._fail("::= is missing after the rule's name")
        self.pos += 3
        self._space(lines=True)
        self.rules[number] = self._alternatives(nested=False)
        if self.pos < len(self.text) and self._peek() not in "\r\n":
            self._fail(f"unexpected {self._peek()!r}")
        self._space(lines=True)

    def _alternatives(self, *, nested: bool) -> list[_Alternative]:
        found = [self._sequence(nested)]
        while self._peek() == "|":
            self.pos += 1
            self._space(lines=True)
            found.append(self._sequence(nested))
        return found

    def _sequence(self, nested: bool) -> _Alternative:
        items: _Alternative = []
        start = 0  # of the last symbol, which * + ? {} repeat
        n_rules = 1  # that repeating it multiplies
        while True:
            char = self._peek()
            if char and char in "*+?{":
                n_rules *= self._repetition(items, start, n_rules)
            elif char == "(":
                start, before = len(items), len(self.rules)
                items.append(self._group())
                n_rules = max(1, len(self.rules) - before)
            else:
                symbol = self._symbol(char)
                if symbol is None:
                    return items
                start, n_rules = len(items), 1
                items += symbol
            self._space(lines=nested)

    def _symbol(self, char: str) -> _Alternative | None:
        """A literal, class, token or name; None if something else begins here."""
        if char == '"':
            return [None] * self._chars('"')
        if char == "[":
            if self.text.startswith("^", self.pos + 1):
                self.pos += 1
            return [None] * min(1, self._chars("]"))
        if char == ".":
            self.pos += 1
            return [None]
        if char and char in "<!":
            match = _TOKEN.match(self.text, self.pos)
            if match is None:
                self._fail("a token is written <[number]> or <text>")
            self.tokens.append(match[0].removeprefix("!"))
            self.pos = match.end()
            return [None]
        if _WORD.match(self.text, self.pos):
            return [self._name()]
        return None

    def _group(self) -> int:
        begin = self.pos
        self.depth += 1
        if self.depth > MAX_NESTING:
            self._fail(f"more than {MAX_NESTING} parentheses inside each other")
        self.pos += 1
        self._space(lines=True)
        number = self._add()
        self.rules[number] = self._alternatives(nested=True)
        if self._peek() != ")":
            if self._peek():
                self._fail(f"unexpected {self._peek()!r}")
            self._fail("the parenthesis is never closed", begin)
        self.pos += 1
        self.depth -= 1
        return number

    def _repetition(self, items: _Alternative, start: int, n_rules: int) -> int:
        """Repeats items[start:]; returns by how much the number of rules grows."""
        at, char = self.pos, self._peek()
        if char == "{":
            match = _REPEAT.match(self.text, self.pos)
            if match is None:
                self._fail("a repetition is written {n}, {n,} or {n,m}")
            self.pos = match.end()
            if any(len(digits or "") > 18 for digits in match.group("low", "high")):
                self._fail("the number of repetitions is too large", at)
            low = int(match["low"])
            high = low if not match["comma"] else int(match["high"]) if match["high"] else None
        else:
            self.pos += 1
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        if start == len(items):
            self._fail(f"there is nothing before {char!r} to repeat", at)
        if high is not None and high < low:
            self._fail(f"{high} is less than {low}", at)
        if low > MAX_REPEATS:
            self._fail(f"more than {MAX_REPEATS} repetitions", at)
        if high is not None and high > MAX_REPEATS:
            high = None
        factor = high or low or 1
        if n_rules * factor > MAX_REPEATS:
            self._fail(f"more than {MAX_REPEATS} repetitions, counting those inside each other", at)
        item = items[start:]
        del items[start:]
        items += item * low
        n_optional = 1 if high is None else high - low
        rest: int | None = None
        for i in range(n_optional):
            number = self._add()
            again = number if high is None else rest
            self.rules[number] = [[*item] if i == 0 and high is not None else [*item, again], []]
            rest = number
        if rest is not None:
            items.append(rest)
        return factor

    def _chars(self, end: str) -> int:
        """Characters up to `end`, with escapes; returns how many."""
        begin = self.pos
        self.pos += 1
        n = 0
        while not self.text.startswith(end, self.pos):
            if self.pos >= len(self.text):
                self._fail(f"{self.text[begin]} is never closed", begin)
            match = _CHAR.match(self.text, self.pos)
            if match is None:
                self._fail(f"unknown escape {self.text[self.pos : self.pos + 2]!r}")
            self.pos = match.end()
            n += 1
        self.pos += 1
        return n

    def _name(self) -> int:
        match = _WORD.match(self.text, self.pos)
        if match is None:
            self._fail("a rule's name (letters, digits, -) is expected")
        number = self.names.get(match[0])
        if number is None:
            number = self.names[match[0]] = self._add()
            self.used_at[number] = self.pos
        self.pos = match.end()
        return number

    def _add(self) -> int:
        self.rules.append([])
        return len(self.rules) - 1

    def _peek(self) -> str:
        return self.text[self.pos : self.pos + 1]

    def _space(self, *, lines: bool = False) -> None:
        match = (_SPACE_LINES if lines else _SPACE).match(self.text, self.pos)
        assert match is not None
        self.pos = match.end()

    def _fail(self, what: str, at: int | None = None) -> NoReturn:
        line = self.text.count("\n", 0, self.pos if at is None else at) + 1
        raise InvalidArgumentError(f"grammar: line {line}: {what}")


def _check_recursion(rules: list[list[_Alternative]], names: dict[str, int]) -> None:
    """Refuses rules that come back to themselves before a character was taken.

    Raises:
        InvalidArgumentError: with the name of such a rule.
    """
    named = {number: name for name, number in names.items()}
    may_be_empty = _nullable(rules)
    begins: list[list[int]] = []  # with which rules a rule may begin
    for number, alternatives in enumerate(rules):
        heads: list[int] = []
        for items in alternatives:
            for item in items:
                if item is None:
                    break
                heads.append(item)
                if not may_be_empty[item]:
                    break
        if number not in named:
            heads = [
                head for head in heads if head != number
            ]  # the repetition of something empty: llama.cpp drops the duplicates
        begins.append(heads)
    # From the rules that begin with no rule upwards; what is never reached goes in a circle.
    parents: list[list[int]] = [[] for _ in rules]
    for number, heads in enumerate(begins):
        for head in heads:
            parents[head].append(number)
    left = [len(heads) for heads in begins]
    n_paths = [1] * len(rules)
    ready = [number for number, n in enumerate(left) if n == 0]
    while ready:
        number = ready.pop()
        for parent in parents[number]:
            n_paths[parent] += n_paths[number]
            left[parent] -= 1
            if left[parent] == 0:
                ready.append(parent)
    number = next((number for number, n in enumerate(left) if n), -1)
    if number >= 0:
        seen: list[int] = []
        while number not in seen:
            seen.append(number)
            number = next(head for head in begins[number] if left[head])
        name = next(named[n] for n in seen[seen.index(number) :] if n in named)
        raise InvalidArgumentError(f"grammar: the rule {name!r} can begin with itself (left recursion)")
    if max(n_paths) > MAX_PATHS:
        raise InvalidArgumentError("grammar: its rules begin with each other in too many ways")


def _nullable(rules: list[list[_Alternative]]) -> list[bool]:
    """Which rules may stand for nothing."""
    users: list[list[int]] = [[] for _ in rules]
    for number, alternatives in enumerate(rules):
        for items in alternatives:
            for item in items:
                if item is not None:
                    users[item].append(number)
    found = [False] * len(rules)
    waiting = list(range(len(rules)))
    while waiting:
        number = waiting.pop()
        if not found[number] and any(
            all(item is not None and found[item] for item in items) for items in rules[number]
        ):
            found[number] = True
            waiting += users[number]
    return found
