"""Where the chat's lines come from when there is no terminal to edit them on."""

from __future__ import annotations

import sys
from collections import deque
from typing import Protocol


class ClearedLine(Exception):
    """Ctrl-C on a line with something on it: the line is gone."""


class Lines(Protocol):
    """Where lines come from, and where remarks go while one is being typed."""

    def read(self, default: str = "") -> str:
        """The next line; raises EOFError at the end, KeyboardInterrupt for Ctrl-C, ClearedLine."""

    def refresh(self) -> None:
        """The status has changed; from any thread."""

    def notify(self, text: str) -> None:
        """Shows a line without disturbing what is typed; from any thread."""

    def flush(self) -> None:
        """Prints what `notify` had to hold back."""


class PlainLines:
    """Lines from a pipe, a file, or a terminal that can do nothing but print.

    Args:
        prompt: Printed on stderr before each line.
    """

    def __init__(self, prompt: str = "") -> None:
        self._prompt = prompt
        self._notices: deque[str] = deque()

    def read(self, default: str = "") -> str:
        self.flush()
        if self._prompt:
            print(self._prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            if self._prompt:
                print(file=sys.stderr)
            raise EOFError
        return line

    def refresh(self) -> None:
        pass

    def notify(self, text: str) -> None:
        self._notices.append(text)

    def flush(self) -> None:
        while self._notices:
            print(self._notices.popleft(), file=sys.stderr, flush=True)
