"""Installs what some tests need beside Python: emulators, a cross-compiler, valgrind.

    python3 scripts/test_tools.py arm|arm-count|x86|memory

On Debian and Ubuntu, as root, what is missing is installed with apt-get; elsewhere one line names the
packages and the exit code is 1. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

ARM = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64-static": "qemu-user-static"}
NEEDED = {
    "arm": ARM,
    "arm-count": {**ARM, "qemu-aarch64": "qemu-user", "cc": "gcc"},  # only this qemu takes plugins
    "x86": {"qemu-x86_64": "qemu-user"},
    "memory": {"valgrind": "valgrind"},
}
"""By what is tested: programs, and Debian's package for each."""


def main() -> None:
    """Installs or complains."""
    if len(sys.argv) != 2 or sys.argv[1] not in NEEDED:
        sys.exit(f"usage: test_tools.py {'|'.join(NEEDED)}")
    wanted = NEEDED[sys.argv[1]]
    packages = [package for program, package in wanted.items() if shutil.which(program) is None]
    if not packages:
        return
    hint = f"apt-get install {' '.join(packages)}"
    if not (os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get")):
        sys.exit(f"test_tools: missing for {sys.argv[1]}: {hint} (Debian's names)")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            sys.exit(f"test_tools: apt-get {command[0]} failed; {hint}")


if __name__ == "__main__":
    main()
