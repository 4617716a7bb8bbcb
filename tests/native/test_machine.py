"""Cores and memory of this machine, within what the process may use.

What is read from files of /proc and /sys is tested in tests/cpp/test_machine.cpp.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bluelm_gguf.native.machine import available_memory, default_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="affinity and limits on address space")

MEASURE = """
import os, resource, sys
from bluelm_gguf.native.machine import available_memory, default_threads
before = available_memory()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
used = next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmSize:"))
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
print(default_threads(), before, available_memory())
"""


def test_affinity_and_the_limit_on_address_space_count() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=120, check=True
    )
    threads, before, after = (int(n) for n in done.stdout.split())
    assert threads == 1
    # What Python itself maps between the two lines.
    assert before > 64 << 20 and 60 << 20 < after <= 64 << 20


def test_no_more_cores_than_cpus() -> None:
    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))
    free = available_memory()
    assert free is not None and 0 < free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
