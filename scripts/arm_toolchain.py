"""Makes sure that programs for aarch64 can be compiled and run here: a cross compiler and an emulator.

    python3 scripts/arm_toolchain.py [--count]

On Debian and Ubuntu, as root, what is missing is installed with apt-get; elsewhere one line names the
packages and the exit code is 1. --count: also what `make arm-count` needs. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# Program and Debian's package for it.
NEEDED = {
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "qemu-aarch64-static": "qemu-user-static",
}
COUNTING = {"qemu-aarch64": "qemu-user", "cc": "gcc"}  # only the dynamic qemu-aarch64 takes plugins


def main() -> None:
    """Installs or complains."""
    needed = {**NEEDED, **COUNTING} if "--count" in sys.argv[1:] else NEEDED
    packages = [package for program, package in needed.items() if shutil.which(program) is None]
    if not packages:
        return
    hint = f"apt-get install {' '.join(packages)}"
    if not (os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get")):
        sys.exit(f"arm_toolchain: missing for aarch64: {hint} (Debian's names)")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            sys.exit(f"arm_toolchain: apt-get {command[0]} failed; {hint}")


if __name__ == "__main__":
    main()
