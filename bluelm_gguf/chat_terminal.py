"""`bluelm-gguf chat`: reads lines, answers questions, obeys commands."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlparse

from .chat import Chat
from .errors import BluelmError
from .terminal import ProgressLine, printable, timings_line

HELP = """\
/image PATH   add a picture to the next question
/clear        forget the conversation and its pictures
/timings      show times after each answer, or stop showing them
/help         this list
/quit         leave, as Ctrl-D does
Ctrl-C ends an answer; at the prompt, twice in a row, it leaves."""


class ChatTerminal:
    """One conversation on stdin, stdout and stderr.

    Args:
        chat: The conversation.
        options: Handed to `Chat.stream` with every question.
        show_timings: Whether times follow each answer.
        say: Prints a message.
    """

    def __init__(
        self, chat: Chat, options: Mapping[str, Any], *, show_timings: bool, say: Callable[[str], None]
    ) -> None:
        self._chat = chat
        self._options = dict(options)
        self._show_timings = show_timings
        self._say = say
        self._progress = ProgressLine()
        self._is_tty = sys.stdin.isatty()
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/clear": self._clear,
            "/timings": self._timings,
            "/help": self._help,
        }

    def run(self, images: Sequence[str] = ()) -> None:
        """Until /quit, Ctrl-D, or Ctrl-C twice.

        Raises:
            BluelmError: a picture given at the start cannot be used.
            KeyboardInterrupt: left with Ctrl-C.
        """
        for image in images:
            self._add(image)
        if self._is_tty:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (gives input() line editing and history)
            print("Ask something. /image PATH adds a picture, /help lists the rest.", file=sys.stderr)
        is_leaving = False
        while True:
            try:
                line = self._read()
            except EOFError:
                if self._is_tty:
                    print(file=sys.stderr)
                return
            except KeyboardInterrupt:
                print(file=sys.stderr)
                if is_leaving or not self._is_tty:
                    raise
                is_leaving = True
                print("(Ctrl-C again, or Ctrl-D, leaves)", file=sys.stderr)
                continue
            is_leaving = False
            line = line.strip()
            if line in ("/quit", "/exit"):
                return
            try:
                self._obey(line)
            except KeyboardInterrupt:
                self._progress.clear()
                if not self._is_tty:
                    raise
                print("(stopped)", file=sys.stderr)
            except BluelmError as error:
                self._progress.clear()
                self._say(f"error: {error}")

    def _read(self) -> str:
        if self._is_tty and sys.stdout.isatty():
            return input("> ")
        if self._is_tty:
            # input() would write its prompt to stdout, which is a file or a pipe.
            print("> ", end="", file=sys.stderr, flush=True)
        return input()

    def _obey(self, line: str) -> None:
        if not line:
            return
        if line.startswith("/"):
            command, _, argument = line.partition(" ")
            if command in self._commands:
                self._commands[command](argument.strip())
            else:
                self._say(f"there is no {command}; /help lists what there is")
            return
        self._answer(line)

    def _answer(self, question: str) -> None:
        clean = printable if sys.stdout.isatty() else str
        stream = self._chat.stream(question, on_progress=self._progress, **self._options)
        is_begun = False
        try:
            with stream:
                for piece in stream:
                    if not is_begun:
                        self._progress.clear()
                        is_begun = True
                    sys.stdout.write(clean(piece))
                    sys.stdout.flush()
        finally:
            self._progress.clear()
            if is_begun:
                print(flush=True)
        reply = stream.reply
        if reply is not None and not reply.text:
            print("(no answer)", file=sys.stderr)
        if reply is not None and self._show_timings:
            print(timings_line(reply.timings), file=sys.stderr)

    # --------------------------------------------------------------------------------------------- commands

    def _image(self, argument: str) -> None:
        if not argument:
            self._say("/image needs a path")
            return
        self._add(path_from(argument))

    def _add(self, path: str) -> None:
        handle = self._chat.add_image(path, on_progress=self._progress)
        try:
            encoded = handle.result()
        except BaseException:
            self._chat.remove_image(handle)
            raise
        self._progress.clear()
        plan = encoded.plan
        unit = "tile" if plan.n_tiles == 1 else "tiles"
        print(
            f"{path}: {plan.width} x {plan.height}, {plan.n_tiles} {unit}, {encoded.n_tokens} tokens, "
            f"{encoded.timings.total_ms:.0f} ms",
            file=sys.stderr,
        )

    def _clear(self, _argument: str) -> None:
        self._chat.clear()
        print("(a new conversation)", file=sys.stderr)

    def _timings(self, _argument: str) -> None:
        self._show_timings = not self._show_timings
        print(f"(times are {'shown' if self._show_timings else 'no longer shown'})", file=sys.stderr)

    def _help(self, _argument: str) -> None:
        print(HELP, file=sys.stderr)


def path_from(text: str) -> str:
    """A path as a person or a terminal's drag and drop writes it: plain, quoted, escaped, or file://."""
    text = text.strip()
    if text.startswith("file://"):
        return unquote(urlparse(text).path)
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    out, escaped = [], False
    for c in text:
        if c == "\\" and not escaped:
            escaped = True
            continue
        out.append(c)
        escaped = False
    return "".join(out)
