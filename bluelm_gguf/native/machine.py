"""What this machine gives us: cores and memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")


def default_threads() -> int:
    """The physical cores that this process may use, at least 1.

    Two hyper-threads of a core count once; the process's affinity and a container's CPU quota (cgroup v1 and
    v2) are respected.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS or Windows
        allowed = set(range(os.cpu_count() or 1))
    n_cores = len({_core_of(cpu) for cpu in allowed})
    quota = _cgroup_quota()
    if quota is not None:
        n_cores = min(n_cores, max(1, int(quota)))
    return max(1, n_cores)


def _core_of(cpu: int) -> str:
    """A name shared by the hyper-threads of one core."""
    try:
        return (_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _cgroup_quota() -> float | None:
    """CPUs granted by the container, or None for no limit."""
    try:
        limit, period = (_CGROUP / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            limit = (_CGROUP / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (_CGROUP / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None


def available_memory() -> int | None:
    """Bytes that can still be had without swapping, within a container's limit; None where nobody says."""
    found = [n for n in (_free_memory(), _cgroup_memory()) if n is not None]
    return min(found, default=None)


def _free_memory() -> int | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_memory() -> int | None:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return max(0, int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text()))
        except (OSError, ValueError):  # ValueError: "max", which is no limit
            continue
    return None


def resident_memory() -> int | None:
    """Bytes of this process that are in memory now; None where nobody says."""
    return _own_status("VmRSS")


def peak_memory() -> int | None:
    """The most bytes of this process that ever were in memory at once; None where nobody says."""
    peak = _own_status("VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _own_status(key: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
