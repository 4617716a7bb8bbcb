"""What the terminal shows: answers, progress, timings, and text that cannot play tricks on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from ..chat.results import Reply, Timings

if TYPE_CHECKING:
    from ..chat.answer import ReplyStream

_LABELS = {
    "load": ("loading the model", "%"),
    "encode": ("looking at the picture", "tiles"),
    "prefill": ("reading", "tokens"),
    "llm": ("language model", "bytes"),
    "llm-quantize": ("quantising", "bytes"),
    "mmproj": ("vision file", "bytes"),
    "download": ("downloading", "bytes"),
    "check": ("checking", "bytes"),
}
_BAR = 24
_INTERVAL = 0.05  # seconds between two drawings
_ESTIMATE_AFTER = 1.0  # seconds of a stage before its end is foretold


class ProgressLine:
    """One line that is drawn over and over, on a terminal only; elsewhere it does nothing.

    Use as `on_progress`, and call `clear` before anything else is written.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._enabled = self._out.isatty() and not is_dumb()
        self._drawn = 0.0
        self._begun = 0.0, 0  # of the stage: time, and what was done by then
        self._stage = ""
        self._visible = False

    def __call__(self, stage: str, done: int, total: int) -> bool:
        now = time.monotonic()
        is_news = stage != self._stage or done >= total
        if stage != self._stage:
            self._begun = now, done
        if self._enabled and total > 0 and (is_news or now - self._drawn >= _INTERVAL):
            self._stage, self._drawn = stage, now
            label, unit = _LABELS.get(stage, (stage, ""))
            n_full = min(_BAR, _BAR * done // total)
            bar = "#" * n_full + "." * (_BAR - n_full)
            line = f"{label} [{bar}] {self._amount(done, total, unit, now)}"
            width = shutil.get_terminal_size().columns
            self._write("\r\x1b[K" + line[: max(1, width - 1)])
            self._visible = True
        return True

    def _amount(self, done: int, total: int, unit: str, now: float) -> str:
        """How far it is; for bytes with the time that is left, at the stage's pace; a download's rate."""
        if unit != "bytes":
            return f"{done}/{total} {unit}"
        text = f"{done / 1e6:.0f}/{total / 1e6:.0f} MB"
        begun, before = self._begun
        if now - begun < _ESTIMATE_AFTER or done <= before or done >= total:
            return text
        seconds = round((total - done) * (now - begun) / (done - before))
        left = f"{seconds} s" if seconds < 100 else f"{seconds // 60}:{seconds % 60:02d} min"
        rate = f", {(done - before) / (now - begun) / 1e6:.1f} MB/s" if self._stage == "download" else ""
        return f"{text}{rate}, {left} left"

    def clear(self) -> None:
        """Takes the line away."""
        if self._visible:
            self._write("\r\x1b[K")
            self._visible = False
        self._stage = ""

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:  # the terminal is gone; the answer may still have somewhere to go
            self._enabled = False


def say(text: str) -> None:
    """One message on stderr."""
    with contextlib.suppress(OSError):  # the terminal is gone
        print(f"bluelm-gguf: {printable(text)}", file=sys.stderr, flush=True)


def is_dumb() -> bool:
    """Whether the terminal can do nothing but print."""
    return os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")


@contextlib.contextmanager
def silent_keys() -> Iterator[None]:
    """What is typed while the program writes does not appear in between; the next prompt shows it."""
    if not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    is_gone = contextlib.suppress(OSError, termios.error)  # the terminal
    before: list[Any] | None = None
    with is_gone:
        before = termios.tcgetattr(fd)
        flags = before[3] & ~termios.ECHO
        termios.tcsetattr(fd, termios.TCSADRAIN, [*before[:3], flags, *before[4:]])
    try:
        yield
    finally:
        if before is not None:
            with is_gone:
                termios.tcsetattr(fd, termios.TCSADRAIN, before)


def print_answer(stream: ReplyStream, progress: ProgressLine, *, is_shown: bool = True) -> Reply:
    """Brings an answer to its end and writes it to stdout as it comes; a terminal gets printable text only.

    Args:
        stream: The answer; closed at the end.
        progress: Taken away before the first piece.
        is_shown: False writes nothing.

    Raises:
        KeyboardInterrupt: Ctrl-C; `stream.reply` holds what there is, and the line is ended.
    """
    clean = printable if sys.stdout.isatty() else str
    is_begun = False
    try:
        with stream:
            for piece in stream:
                if not is_begun:
                    progress.clear()
                if is_shown:
                    is_begun = True
                    sys.stdout.write(clean(piece))
                    sys.stdout.flush()
    finally:
        progress.clear()
        if is_begun or (is_shown and stream.reply is not None):
            print(flush=True)
    assert stream.reply is not None
    return stream.reply


def printable(text: str) -> str:
    """Model output without control characters: a terminal must not take orders from it."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def profile_lines(profile: Mapping[str, float]) -> str:
    """Where a picture's time in the encoder went: `EncodeTimings.profile`, a line for each stage that ran."""
    if not profile:
        return "encoder: no picture was encoded"
    total = profile["total_ms"]
    lines = [f"encoder: {total:.1f} ms, {profile['gops']:.0f} GOP/s"]
    for name, ms in profile.items():
        if name.endswith("_ms") and name != "total_ms" and ms > 0:
            lines.append(f"  {name.removesuffix('_ms'):12} {ms:9.1f} ms {100 * ms / total:5.1f}%")
    return "\n".join(lines)


def timings_line(timings: Timings) -> str:
    """Timings in one line."""
    parts = []
    if timings.wait_ms >= 100:  # for pictures; less is the scheduler's
        parts.append(f"waited {timings.wait_ms:.0f} ms")
    if timings.encode_ms:
        cached = " from the cache" if timings.images_cached and not timings.images_encoded else ""
        parts.append(f"image {timings.encode_ms:.0f} ms{cached}")
    n_prefilled = timings.image_tokens_prefilled + timings.text_tokens_prefilled
    n_prompt = timings.image_tokens + timings.text_tokens
    of = "" if n_prefilled == n_prompt else f" of {n_prompt}"
    image = f" ({timings.image_tokens_prefilled} image)" if timings.image_tokens else ""
    parts.append(f"prefill {n_prefilled}{of} tokens{image}, {timings.prefill_tps:.1f} token/s")
    parts.append(f"decode {timings.generated_tokens} tokens, {timings.decode_tps:.1f} token/s")
    parts.append(f"first token after {timings.ttft_ms:.0f} ms")
    return " | ".join(parts)
