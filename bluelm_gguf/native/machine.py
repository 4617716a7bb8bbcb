"""What this machine gives us: cores and memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from . import library as _native

_STATUS = Path("/proc/self/status")


def default_threads() -> int:
    """The physical cores that this process may use, at least 1.

    Two hyper-threads of a core count once; the process's affinity and a container's CPU quota (cgroup v1 and
    v2) are respected.
    """
    found = _native.c_int32()
    _native.check(_native.load().bluelm_machine_cores(None, 0, _native.byref(found)))
    return found.value


def available_memory() -> int | None:
    """Bytes that can still be had without swapping, within a container's and the process's limit; None where
    nobody says."""
    found = _native.c_int64()
    _native.check(_native.load().bluelm_machine_memory(_native.byref(found)))
    return found.value if found.value >= 0 else None


def resident_memory() -> int | None:
    """Bytes of this process that are in memory now; None where nobody says."""
    return _own_status("VmRSS")


def peak_memory() -> int:
    """The most bytes of this process that ever were in memory at once."""
    peak = _own_status("VmHWM")
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _own_status(key: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
