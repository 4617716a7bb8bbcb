"""How long llama.cpp's threads spin at a barrier before they sleep.

There are about 500 barriers in a decoded token. GNU OpenMP spins for some 10 ms by default, longer than a
slice of the scheduler: where another program keeps a core busy, the thread that spins takes the core from the
one that everybody waits for, and decoding becomes 20 times slower. Waits on an idle machine are shorter than
the few turns that are left here; on a busy one they give the core away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SPINS = "1000"
"""Some 10 to 50 microseconds."""


def spin_settings() -> dict[str, str]:
    """What to add to the environment; nothing where the user has decided."""
    is_decided = "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ
    return {} if is_decided else {"GOMP_SPINCOUNT": SPINS}


@contextmanager
def short_spins() -> Iterator[None]:
    """Has an effect on an OpenMP library that is loaded meanwhile; the environment is then as before."""
    added = spin_settings()
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
