"""The chat's prompt on a terminal: editing, history, completion, and a status line (prompt_toolkit)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application.run_in_terminal import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import create_output
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style

from .lines import ClearedLine
from .typed_paths import dropped_pictures

MAX_HISTORY_BYTES = 256 << 10  # what is read of the history file; of a longer one the older half goes
_TICK_S = 0.1
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "rprompt": "fg:ansibrightblack"})


class LineEditor:
    """Reads lines from the terminal while other threads report.

    Args:
        commands: Name and whether a path follows it, for completion.
        status: What the status line shows ("" for none), and whether that may change by itself.
        on_drop: Called with the paths when picture files are dropped on an empty line. Without Enter.
        history_file: None keeps the history in memory.
    """

    def __init__(
        self,
        commands: Sequence[tuple[str, bool]],
        *,
        status: Callable[[], tuple[str, bool]],
        on_drop: Callable[[list[str]], None],
        history_file: Path | None,
    ) -> None:
        self._status = status
        self._on_drop = on_drop
        self._notices: deque[str] = deque()
        self._has_cursor_reports = True
        self._tick: asyncio.TimerHandle | None = None
        self._session: PromptSession[str] = PromptSession(
            "> ",
            completer=_Completer(commands),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            enable_history_search=False,
            enable_suspend=True,
            history=_history(history_file),
            key_bindings=self._keys(),
            style=_STYLE,
            output=create_output(stdout=sys.stderr if sys.stderr.isatty() else sys.stdout),
        )
        app = self._session.app
        # The toolbar needs the terminal to tell where the cursor is. One that does not answer gets the status
        # at the right of the line, and is spared prompt_toolkit's warning.
        app.renderer.cpr_not_supported_callback = self._use_right_side

    def read(self, default: str = "") -> str:
        """The next line, with `default` on it to begin with.

        Raises:
            EOFError: Ctrl-D, or the terminal is gone.
            KeyboardInterrupt: Ctrl-C on an empty line.
            ClearedLine: Ctrl-C on another one.
        """
        self._arrange()
        try:
            return self._session.prompt(default=default, pre_run=self._begin)
        finally:
            if self._tick is not None:
                self._tick.cancel()
                self._tick = None
            self.flush()

    def _begin(self) -> None:
        self._flush_notices()
        self._redraw()

    def refresh(self) -> None:
        """Draws the status anew; from any thread."""
        self._later(self._redraw)

    def notify(self, text: str) -> None:
        """Shows a line above the prompt, now or, while nobody is asked for a line, at the next `flush`."""
        self._notices.append(text)
        self._later(self._flush_notices)

    def flush(self) -> None:
        """Prints what was to be shown while no line was being read."""
        while self._notices:
            print(self._notices.popleft(), file=sys.stderr, flush=True)

    def _later(self, function: Callable[[], None]) -> None:
        loop = self._session.app.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile: read() has returned
                loop.call_soon_threadsafe(function)

    def _flush_notices(self) -> None:
        if self._notices and self._session.app.is_running:
            run_in_terminal(self.flush)

    def _redraw(self) -> None:
        """Draws the status, again and again while it changes; runs in the prompt's event loop."""
        app = self._session.app
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if app.is_running and app.loop is not None:
            if self._arrange():
                self._tick = app.loop.call_later(_TICK_S, self._redraw)
            app.invalidate()

    def _arrange(self) -> bool:
        """Puts the status where it belongs: without any, no line of the screen is taken."""
        status, is_changing = self._status()
        self._session.bottom_toolbar = status if status and self._has_cursor_reports else None
        self._session.rprompt = status if status and not self._has_cursor_reports else None
        return is_changing

    def _use_right_side(self) -> None:
        self._has_cursor_reports = False
        self._redraw()

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c")
        @keys.add("<sigint>")
        def _interrupt(event: KeyPressEvent) -> None:
            typed = event.app.current_buffer.text
            event.app.exit(exception=ClearedLine if typed else KeyboardInterrupt, style="class:aborting")

        @keys.add(Keys.BracketedPaste)
        def _paste(event: KeyPressEvent) -> None:
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            pictures = [] if event.current_buffer.text else dropped_pictures(text)
            if pictures:
                self._on_drop(pictures)
            else:
                event.current_buffer.insert_text(text)

        return keys


class _Completer(Completer):
    """Commands at the beginning of a line, paths behind those that take one."""

    def __init__(self, commands: Sequence[tuple[str, bool]]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/"):
            return
        name, space, rest = text.partition(" ")
        if not space:
            for command, takes_path in self._commands:
                if command.startswith(name):
                    yield Completion(command + " " * takes_path, -len(name), display=command)
        elif (name, True) in self._commands:
            yield from self._paths.get_completions(Document(rest.lstrip()), complete_event)


class _FileHistory(FileHistory):
    """A history that a full disk or a read-only home cannot stop."""

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string.encode(errors="replace").decode())  # typed bytes that are no UTF-8


def _history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            is_long = file.tell() > MAX_HISTORY_BYTES
        if is_long:
            _halve(path)
    except OSError:
        return InMemoryHistory()
    return _FileHistory(str(path))


def _halve(path: Path) -> None:
    """Drops the older entries; each begins with an empty line and a comment."""
    data = path.read_bytes()[-MAX_HISTORY_BYTES // 2 :]
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data[max(0, data.find(b"\n# ")) :])
    os.replace(part, path)


def history_path() -> Path:
    """Where the platform keeps what a program remembers between runs."""
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        named = os.environ.get("XDG_STATE_HOME", "")
        base = Path(named) if os.path.isabs(named) else home / ".local" / "state"
    return base / "bluelm-gguf" / "history"
