"""`bluelm-gguf chat`: reads lines, answers questions, obeys commands."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import BluelmError, Cancelled
from .lines import ClearedLine, Lines, PlainLines
from .terminal import (
    ProgressLine,
    is_dumb,
    print_answer,
    printable,
    say,
    silent_keys,
    timings_line,
)
from .typed_paths import dropped_pictures, path_from, paths_from

if TYPE_CHECKING:
    from ..chat.answer import ReplyStream
    from ..chat.chat import Chat
    from ..chat.image_handle import ImageHandle
    from ..llm.context_full import Policy
    from ..model import Model

HELP = """\
/image PATH   add a picture to the next question; dropping a file on the line does the same
/images       the pictures that wait for the next question
/remove N     take picture N back
/retry        answer the last question again
/undo         take the last question back
/clear        forget the conversation and its pictures
/system TEXT  a new conversation with this system prompt
/save FILE    write the conversation with its pictures; --kv: with the KV cache too
/load FILE    go on with a saved conversation
/timings      show times after each answer, or stop showing them
/help         this list
/quit         leave, as Ctrl-D does
Ctrl-C ends an answer; on an empty line it stops the work on a picture; twice in a row it leaves."""

_UNITS = {"encode": "tiles", "prefill": "tokens"}
_TAKES_PATH = ("/image", "/save", "/load")


class ChatTerminal:
    """One conversation on stdin, stdout and stderr.

    Args:
        model: Answers; stays the caller's.
        options: Handed to `Chat.stream` with every question.
        system: System prompt.
        context_full: What happens then, see `Chat`.
        show_timings: Whether times follow each answer.
        keep_history: Whether typed lines are remembered in a file.
        tiler: How pictures are cut, see `Chat.add_image`.
    """

    def __init__(
        self,
        model: Model,
        options: Mapping[str, Any],
        *,
        system: str | None = None,
        context_full: Policy = "drop",
        show_timings: bool = False,
        keep_history: bool = True,
        tiler: Mapping[str, int] | None = None,
    ) -> None:
        self._model = model
        self._tiler = tiler
        self._context_full: Policy = context_full
        self._chat = model.chat(system=system, context_full=context_full)
        self._options = dict(options)
        self._show_timings = show_timings
        self._progress = ProgressLine()
        self._leaving = _Leaving()
        self._draft = ""  # what the next prompt begins with
        self._is_leaving = False
        self._names: dict[str, str] = {}  # of pictures, by their content
        self._guard = threading.Lock()
        self._is_asking = False  # a question waits for its pictures, and reports what is wrong with them
        self._is_tty = sys.stdin.isatty()
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/images": self._images,
            "/remove": self._remove,
            "/retry": self._retry,
            "/undo": self._undo,
            "/clear": self._clear,
            "/system": self._system,
            "/save": self._save,
            "/load": self._load,
            "/timings": self._timings,
            "/help": self._help,
        }
        self._lines = self._open_lines(keep_history)

    def _open_lines(self, keep_history: bool) -> Lines:
        if not self._is_tty:
            return PlainLines()
        if is_dumb() or not (sys.stderr.isatty() or sys.stdout.isatty()):
            return PlainLines("> ")
        from .line_editor import LineEditor, history_path

        return LineEditor(
            [(name, name in _TAKES_PATH) for name in (*self._commands, "/quit")],
            status=self._status,
            on_drop=self._drop,
            history_file=history_path() if keep_history else None,
        )

    def run(self, images: Sequence[str] = ()) -> None:
        """Until /quit, Ctrl-D, Ctrl-C twice, or the end of the input.

        Raises:
            BluelmError: a picture given at the start cannot be used, where nobody is there to give another.
            KeyboardInterrupt: left with Ctrl-C.
            SystemExit: the terminal was closed, or the process was asked to end.
        """
        with self._leaving, warnings.catch_warnings():
            warnings.showwarning = self._show_warning
            try:
                self._begin(images)
                self._loop()
            except (KeyboardInterrupt, OSError):
                self._leaving.check()  # a terminal that is gone cannot be written to either
                raise
            finally:
                self._chat.close()
                self._lines.flush()

    def _show_warning(self, message: Warning | str, *_args: Any, **_options: Any) -> None:
        """A warning, of whichever thread, does not disturb the line either."""
        self._lines.notify(f"bluelm-gguf: warning: {printable(str(message))}")

    def _begin(self, images: Sequence[str]) -> None:
        if self._is_tty:
            print("Ask something. /image PATH adds a picture, /help lists the rest.", file=sys.stderr)
        self._add(images)

    def _loop(self) -> None:
        while True:
            try:
                draft, self._draft = self._draft, ""
                line = self._lines.read(draft).strip()
            except EOFError:
                return
            except ClearedLine:
                self._leaving.check()
                continue
            except KeyboardInterrupt:
                self._leaving.check()
                self._interrupted()
                continue
            self._is_leaving = False
            if line in ("/quit", "/exit"):
                return
            try:
                with silent_keys():
                    self._obey(line)
            except KeyboardInterrupt:
                self._leaving.check()
                self._progress.clear()
                if not self._is_tty:
                    raise
                print("(stopped)", file=sys.stderr)
            except Cancelled:
                self._progress.clear()
            except (BluelmError, MemoryError) as error:
                self._progress.clear()
                say(f"error: {error or 'not enough memory'}")
            self._lines.flush()

    def _interrupted(self) -> None:
        """Ctrl-C at an empty prompt."""
        if self._is_leaving or not self._is_tty:
            raise KeyboardInterrupt
        self._is_leaving = True
        what = "Ctrl-C again, or Ctrl-D, leaves"
        if self._status()[1]:
            self._chat.pause()
            what = f"stopped; the next question goes on with the pictures; {what}"
        print(f"({what})", file=sys.stderr)

    def _obey(self, line: str) -> None:
        if not line:
            return
        pictures = dropped_pictures(line)
        if pictures:
            self._add(pictures)
        elif line.startswith("/"):
            command, _, argument = line.partition(" ")
            if command in self._commands:
                self._commands[command](argument.strip())
            else:
                say(f"there is no {printable(command)}; /help lists what there is")
        else:
            self._answer(lambda: self._chat.stream(line, on_progress=self._progress, **self._options), line)

    def _answer(self, begin: Callable[[], ReplyStream], question: str = "") -> None:
        """Prints an answer; a question that could not be asked comes back to be edited."""
        with self._guard:
            self._is_asking = True
        try:
            reply = print_answer(begin(), self._progress)
        except BluelmError:
            self._draft = question
            raise
        finally:
            with self._guard:
                self._is_asking = False
                self._report_failed()
        if not reply.text:
            print("(no answer)", file=sys.stderr)
        if reply.dropped_turns:
            n = reply.dropped_turns
            what = "the oldest turn is" if n == 1 else f"the {n} oldest turns are"
            print(f"(the context is full: {what} left out)", file=sys.stderr)
        if self._show_timings:
            print(timings_line(reply.timings), file=sys.stderr)
            print(self._model.memory, file=sys.stderr)

    # --------------------------------------------------------------------------------------------- pictures

    def _add(self, paths: Sequence[str]) -> None:
        """Has pictures encoded and prefilled in the background; where nobody types meanwhile, waits."""
        for path in paths:
            handle = self._chat.add_image(path, tiler=self._tiler)
            if self._is_tty:
                handle.add_done_callback(self._on_picture)
            else:
                self._wait_for(handle)
        self._lines.refresh()

    def _drop(self, paths: Sequence[str]) -> None:
        """The same while a line is being read."""
        try:
            self._add(paths)
        except BluelmError as error:
            self._lines.notify(f"bluelm-gguf: error: {printable(str(error))}")

    def _wait_for(self, handle: ImageHandle) -> None:
        try:
            self._chat.wait(on_progress=self._progress)
            handle.result()
        except BaseException:
            self._chat.remove_image(handle)
            raise
        finally:
            self._progress.clear()
        self._names[handle.result().key] = handle.name
        print(self._described(handle), file=sys.stderr)

    def _on_picture(self, handle: ImageHandle) -> None:
        """A picture was encoded, failed or was taken back; called by the thread that worked on it."""
        if handle.exception() is None:
            self._names[handle.result().key] = handle.name
        with self._guard:
            if not self._is_asking:  # else the question says so
                self._report_failed()

    def _report_failed(self) -> None:
        for handle in self._chat.pending_images:
            if handle.state == "failed":
                self._chat.remove_image(handle)
                self._lines.notify(f"bluelm-gguf: error: {printable(str(handle.exception()))}")
                self._lines.refresh()

    def _status(self) -> tuple[str, bool]:
        """What the background does, in one line; whether it is at work."""
        handles = self._chat.pending_images
        return " | ".join(map(self._state, handles)), any(
            handle.state not in ("ready", "failed") for handle in handles
        )

    def _name(self, handle: ImageHandle) -> str:
        """What the user called a picture, also after /undo, when only its content is left."""
        if handle.done() and handle.exception() is None:
            return printable(self._names.get(handle.result().key, "picture"))
        return printable(handle.name)

    def _state(self, handle: ImageHandle) -> str:
        """What is being done with a picture."""
        name, state, progress = Path(self._name(handle)).name, handle.state, handle.progress
        if state == "ready":
            return f"{name} ready, {handle.n_tokens} tokens"
        if progress is None:
            return f"{name}: {state}"
        stage, done, total = progress
        return f"{name}: {state} {done}/{total} {_UNITS.get(stage, '')}"

    def _described(self, handle: ImageHandle) -> str:
        """A picture in one line, as far as it is known."""
        plan = handle.plan
        if plan is None or handle.state != "ready":
            return self._state(handle)
        unit = "tile" if plan.n_tiles == 1 else "tiles"
        size = f"{plan.width} x {plan.height}"
        return f"{self._name(handle)}: {size}, {plan.n_tiles} {unit}, {handle.n_tokens} tokens"

    def _image(self, argument: str) -> None:
        if argument:
            self._add(paths_from(argument))
        else:
            say("/image needs a path")

    def _images(self, _argument: str) -> None:
        handles = self._chat.pending_images
        for i, handle in enumerate(handles, 1):
            print(f"{i}  {self._described(handle)}", file=sys.stderr)
        n_before = sum(len(turn.images) for turn in self._chat.turns)
        if not handles or n_before:
            print(f"({n_before} in the conversation, {len(handles)} for the next question)", file=sys.stderr)

    def _remove(self, argument: str) -> None:
        handles = self._chat.pending_images
        if not handles:
            say("no picture waits for the next question")
        elif not argument.isdecimal() or not 1 <= int(argument) <= len(handles):
            say(f"/remove needs a number from 1 to {len(handles)}; /images lists them")
        else:
            handle = handles[int(argument) - 1]
            self._chat.remove_image(handle)
            print(f"(taken back: {self._name(handle)})", file=sys.stderr)

    # ----------------------------------------------------------------------------------------- conversation

    def _retry(self, _argument: str) -> None:
        self._answer(lambda: self._chat.retry(on_progress=self._progress, **self._options))

    def _undo(self, _argument: str) -> None:
        question = self._chat.undo()
        if question is None:
            say("there is no question to take back")
            return
        self._draft = question
        print(f"(taken back: {printable(question)})", file=sys.stderr)

    def _clear(self, _argument: str) -> None:
        self._chat.clear()
        print("(a new conversation)", file=sys.stderr)

    def _system(self, argument: str) -> None:
        self._replace(self._model.chat(system=argument or None, context_full=self._context_full))
        print("(a new conversation)", file=sys.stderr)

    def _save(self, argument: str) -> None:
        words = argument.split()
        has_kv = "--kv" in (words[:1] + words[-1:])
        path = path_from(argument.removeprefix("--kv").removesuffix("--kv") if has_kv else argument)
        if not path:
            say("/save needs a path")
            return
        self._chat.wait(on_progress=self._progress)
        self._progress.clear()
        self._chat.save(path, kv=has_kv)
        n_bytes = Path(path).stat().st_size
        print(f"({printable(path)}: {n_bytes / 1e6:.1f} MB)", file=sys.stderr)

    def _load(self, argument: str) -> None:
        if not argument:
            say("/load needs a path")
            return
        self._replace(self._model.load_chat(path_from(argument)))
        turns = self._chat.turns
        n_questions = sum(turn.role == "user" for turn in turns)
        n_images = sum(len(turn.images) for turn in turns)
        what = f"{n_questions} question{'s' * (n_questions != 1)}, {n_images} picture{'s' * (n_images != 1)}"
        print(f"(a conversation of {what})", file=sys.stderr)

    def _replace(self, chat: Chat) -> None:
        before, self._chat = self._chat, chat
        before.close()

    def _timings(self, _argument: str) -> None:
        self._show_timings = not self._show_timings
        print(f"(times are {'shown' if self._show_timings else 'no longer shown'})", file=sys.stderr)

    def _help(self, _argument: str) -> None:
        print(HELP, file=sys.stderr)


class _Leaving:
    """Has the program leave in order when the terminal closes or somebody ends it.

    Such a signal acts as Ctrl-C does, which stops whatever is being done without harm to native code; whoever
    catches that KeyboardInterrupt calls `check`.
    """

    def __init__(self) -> None:
        self._code: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Leaving:
        for name in ("SIGHUP", "SIGTERM"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                self._before[number] = signal.signal(number, self._leave)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        self._code = 128 + number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)  # the second time without ado
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise SystemExit(self._code)
        signal.raise_signal(signal.SIGINT)

    def check(self) -> None:
        """Raises SystemExit if it is time to leave."""
        if self._code is not None:
            raise SystemExit(self._code)
