"""What the terminal shows: progress, timings, and text that cannot play tricks on it."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from .results import Timings

_LABELS = {
    "load": ("loading the model", "%"),
    "encode": ("looking at the picture", "tiles"),
    "prefill": ("reading", "tokens"),
    "llm": ("language model", "tensors"),
    "llm-quantize": ("quantising", "tensors"),
    "mmproj": ("vision file", "tensors"),
}
_BAR = 24
_INTERVAL = 0.05  # seconds between two drawings


class ProgressLine:
    """One line that is drawn over and over, on a terminal only; elsewhere it does nothing.

    Use as `on_progress`, and call `clear` before anything else is written.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._enabled = self._out.isatty()
        self._drawn = 0.0
        self._stage = ""
        self._visible = False

    def __call__(self, stage: str, done: int, total: int) -> bool:
        now = time.monotonic()
        is_news = stage != self._stage or done >= total
        if self._enabled and total > 0 and (is_news or now - self._drawn >= _INTERVAL):
            self._stage, self._drawn = stage, now
            label, unit = _LABELS.get(stage, (stage, ""))
            n_full = min(_BAR, _BAR * done // total)
            bar = "#" * n_full + "." * (_BAR - n_full)
            line = f"{label} [{bar}] {done}/{total} {unit}"
            width = shutil.get_terminal_size().columns
            self._write("\r\x1b[K" + line[: max(1, width - 1)])
            self._visible = True
        return True

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


def printable(text: str) -> str:
    """Model output without control characters: a terminal must not take orders from it."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def timings_line(timings: Timings) -> str:
    """Timings in one line."""
    parts = []
    if timings.encode_ms:
        parts.append(f"image {timings.encode_ms:.0f} ms")
    n_prefilled = timings.image_tokens_prefilled + timings.text_tokens_prefilled
    n_prompt = timings.image_tokens + timings.text_tokens
    of = "" if n_prefilled == n_prompt else f" of {n_prompt}"
    parts.append(f"prefill {n_prefilled}{of} tokens, {timings.prefill_tps:.1f} token/s")
    parts.append(f"decode {timings.generated_tokens} tokens, {timings.decode_tps:.1f} token/s")
    parts.append(f"first token after {timings.ttft_ms:.0f} ms")
    return " | ".join(parts)
