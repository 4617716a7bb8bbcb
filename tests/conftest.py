"""Shared by every test directory: makes tests/ importable (checkpoints.py, reference_model.py)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

# tests/arm needs programs that `make arm-test` builds.
collect_ignore = [] if os.environ.get("BLUELM_ARM_BUILD") else ["arm"]

# A shell has what it runs in the background ignore SIGINT, and programs inherit that: the tests that send
# Ctrl-C to programs would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs' cache of encoded pictures: never the user's own."""
    directory = tmp_path_factory.mktemp("cache")
    before = os.environ.get("BLUELM_CACHE_DIR")
    os.environ["BLUELM_CACHE_DIR"] = str(directory)
    yield directory
    if before is None:
        del os.environ["BLUELM_CACHE_DIR"]
    else:
        os.environ["BLUELM_CACHE_DIR"] = before
