"""Typed access to a config.json section, with messages that name the file and the key."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UnsupportedModelError

FLOAT32_MAX = 3.4e38  # GGUF stores float32


class Section:
    """A JSON object out of a config file.

    Attributes:
        path: the file, for messages.
        prefix: where in the file the object lies ("text_config."), for messages.
        values: the object itself.
    """

    def __init__(self, path: Path, values: dict[str, Any], prefix: str = "") -> None:
        self.path = path
        self.values = values
        self.prefix = prefix

    def _wrong(self, key: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {self.prefix}{key} is {self.values.get(key)!r}, expected {expected}; correct "
            "the file"
        )

    def section(self, key: str, *, required: bool = False) -> Section:
        """A nested object; an empty one where the key is absent or null.

        Raises:
            CheckpointError: not an object, or absent although required.
        """
        value = self.values.get(key)
        if value is None and not required:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return Section(self.path, value, f"{self.prefix}{key}.")

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """A whole number of at least `minimum`; the default also stands for null."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value < 2**31:
            raise self._wrong(key, f"a whole number of at least {minimum}")
        return value

    def number(self, key: str, default: float | None = None, *, positive: bool = True) -> float:
        """A finite number, by default a positive one."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= FLOAT32_MAX:
            raise self._wrong(key, "a number")
        if positive and value <= 0:
            raise self._wrong(key, "a number above 0")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def string(self, key: str, default: str) -> str:
        """A string."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """One of some strings.

        Raises:
            UnsupportedModelError: another string; the message lists the known ones.
        """
        value = self.string(key, default)
        known = list(choices)
        if value not in known:
            raise UnsupportedModelError(
                f"{self.path}: {self.prefix}{key} is {value!r}; supported: "
                f"{', '.join(repr(c) for c in known)}"
            )
        return value

    def numbers(self, key: str, default: list[float], count: int, *, low: float, high: float) -> list[float]:
        """A list of `count` numbers between low and high, both included."""
        value = self.values.get(key)
        if value is None:
            return default
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(
                isinstance(x, (int, float)) and not isinstance(x, bool) and low <= x <= high for x in value
            )
        ):
            raise self._wrong(key, f"a list of {count} numbers from {low:g} to {high:g}")
        return [float(x) for x in value]

    def only(self, known: Iterable[str]) -> None:
        """Refuses keys that nobody reads: one of them might change the result.

        Raises:
            UnsupportedModelError: all unknown keys in one message.
        """
        names = set(known)
        unknown = sorted(set(self.values) - names)
        if unknown:
            where = self.prefix.rstrip(".") or "the top level"
            raise UnsupportedModelError(
                f"{self.path}: {where} has keys that are not supported: {', '.join(unknown)}; "
                f"supported: {', '.join(sorted(names))}"
            )
