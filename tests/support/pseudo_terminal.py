"""The program on a pseudo-terminal, with a screen that shows what a person would see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable

import pyte
from program import arguments

CTRL_C, CTRL_D = b"\x03", b"\x04"
ROWS, COLUMNS = 120, 160  # large, so that nothing scrolls away or wraps


class _Screen(pyte.Screen):
    """A screen that answers where its cursor is, as terminals do."""

    def __init__(self, answer: Callable[[bytes], None] | None) -> None:
        super().__init__(COLUMNS, ROWS)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        if self._answer is not None:
            self._answer(data.encode())


class Terminal:
    """The program with a terminal of its own.

    Args:
        args: Arguments of `bluelm-gguf`.
        reports_cursor: Whether the terminal answers when asked where its cursor is.
        redirected: Runs the program through `sh -c` with this behind its command line, e.g. "> answers.txt".
        env: Environment variables; None takes one away.

    Attributes:
        seen: All that the program wrote, escape sequences included.
    """

    def __init__(
        self,
        *args: object,
        reports_cursor: bool = True,
        redirected: str = "",
        env: dict[str, str | None] | None = None,
    ) -> None:
        self.seen = ""
        self._raw = b""
        self._status: int | None = None
        self._screen = _Screen(self._reply if reports_cursor else None)
        self._stream = pyte.ByteStream(self._screen)
        command = arguments(*args)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            # Under nohup the tests run with SIGHUP ignored; a new terminal's programs do not.
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            for name, value in {"TERM": "xterm", "LANG": "C.UTF-8", **(env or {})}.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            if redirected:
                os.execv("/bin/sh", ["sh", "-c", f'exec "$@" {redirected}', "sh", *command])
            os.execv(sys.executable, command)

    # ---------------------------------------------------------------------------------------------- keyboard

    def send(self, keys: str | bytes) -> None:
        os.write(self.fd, keys if isinstance(keys, bytes) else keys.encode())

    def enter(self, line: str) -> None:
        """Types a line and presses Enter."""
        self.send(line + "\r")

    def paste(self, text: str) -> None:
        """As terminals do it, and as they hand over dropped files."""
        self.send(f"\x1b[200~{text}\x1b[201~")

    def command(self, line: str, timeout: float = 40) -> list[str]:
        """Enters a line, waits for the next prompt, and returns the lines in between."""
        n = self._n_prompts()
        self.enter(line)
        self.wait_until(lambda: self._n_prompts() > n and self.at_prompt, f"a prompt after {line!r}", timeout)
        lines = self.lines
        rows = [i for i, text in enumerate(lines) if text.startswith(">")]
        return lines[rows[-2] + 1 : rows[-1]]

    def prompt(self) -> None:
        """Waits until a line can be typed."""
        self.wait_until(lambda: self.at_prompt, "a prompt")

    # ------------------------------------------------------------------------------------------------ screen

    @property
    def lines(self) -> list[str]:
        """The screen."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The screen as one text."""
        return "\n".join(self.lines).rstrip()

    @property
    def typed(self) -> str | None:
        """What stands behind the prompt that the cursor is at; None if it is at none."""
        line = self.lines[self._screen.cursor.y]
        return line.removeprefix(">").removeprefix(" ") if line.startswith(">") else None

    @property
    def status(self) -> str:
        """The last line of the screen."""
        return self.lines[-1]

    @property
    def at_prompt(self) -> bool:
        """Whether the cursor stands behind a prompt."""
        return self.typed is not None

    def _n_prompts(self) -> int:
        return sum(line.startswith(">") for line in self.lines)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 40) -> None:
        """Reads until the condition holds."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline or not self._read(0.2, deadline):
                raise AssertionError(f"{what} did not come in\n{self.text}\n({self.seen[-2000:]!r})")

    def wait_for(self, text: str, *, after: int = 0, timeout: float = 40) -> int:
        """Reads until the text was written behind position `after`; returns where it ends."""
        self.wait_until(lambda: text in self.seen[after:], repr(text), timeout)
        return self.seen.index(text, after) + len(text)

    def wait_for_line(self, text: str, timeout: float = 40) -> None:
        """Reads until the text is on the screen."""
        self.wait_until(lambda: text in self.text, repr(text), timeout)

    def _reply(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the program is gone
            os.write(self.fd, data)

    def _read(self, wait: float, deadline: float) -> bool:
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], wait)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""
                self._raw += data
                self.seen = self._raw.decode(errors="ignore").replace("\r\n", "\n")
                self._stream.feed(data)
                return bool(data)
        return False

    # ----------------------------------------------------------------------------------------------- the end

    def exit_code(self, timeout: float = 40) -> int:
        """Reads to the end and waits for the process; the number of the signal, negative, if one ended it."""
        deadline = time.monotonic() + timeout
        while self.fd >= 0 and self._read(0.2, deadline):
            pass
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise AssertionError(f"still running after\n{self.text}\n({self.seen[-2000:]!r})")
            else:
                time.sleep(0.02)
        return self._status

    def hang_up(self) -> None:
        """Closes the terminal, as closing its window does."""
        os.close(self.fd)
        self.fd = -1

    def close(self) -> None:
        """Ends what is left."""
        if self._status is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        if self.fd >= 0:
            self.hang_up()
