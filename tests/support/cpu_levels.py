"""The levels of instructions that this CPU runs."""

from __future__ import annotations

import os
import subprocess
import sys


def levels() -> list[str]:
    """What this CPU runs, as the library's own error message lists it."""
    code = (
        "from bluelm_gguf import errors\nfrom bluelm_gguf.native import library as _native\n"
        "try:\n    _native.cpu_level()\n"
        "except errors.InvalidArgumentError as e:\n    print(str(e).split('runs ')[1].split(';')[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BLUELM_CPU_LEVEL": "?"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip().split(", ")
