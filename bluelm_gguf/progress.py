"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

ProgressFn: TypeAlias = Callable[[str, int, int], "bool | None"]
"""`on_progress(stage, done, total)`: stage "load" counts percent, "encode" tiles, "prefill" tokens. Returning
False cancels."""
