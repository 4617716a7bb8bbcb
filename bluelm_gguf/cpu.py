"""How many threads to compute with."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


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
