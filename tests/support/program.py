"""How tests start the program."""

from __future__ import annotations

import os
import sys
from typing import Any


def arguments(*args: Any) -> list[str]:
    """The command line. Tiny models answer faster on one thread, above all where the cores are busy."""
    one_thread = ("-t", "1") if args and args[0] in ("run", "chat") and "-t" not in args else ()
    words = [os.fsdecode(a) if isinstance(a, bytes) else str(a) for a in (*args, *one_thread)]
    return [sys.executable, "-m", "bluelm_gguf.cli.main", *words]
