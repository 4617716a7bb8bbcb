"""Shared by every test directory: makes tests/ importable (checkpoints.py, reference_model.py)."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

# A shell has what it runs in the background ignore SIGINT, and programs inherit that: the tests that send
# Ctrl-C to programs would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
