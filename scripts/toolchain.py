"""Says in one line what a machine lacks to build the package, before a long build finds out the long way.

`python3 scripts/toolchain.py` exits 1 with that line; build_backend.py calls `check()` for pip.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MIN_PYTHON = (3, 10)


class ToolchainError(Exception):
    """The message is the one line to print."""


def _package_hint(debian: str, fedora: str, macos: str, termux: str) -> str:
    if "com.termux" in os.environ.get("PREFIX", ""):
        return f"pkg install {termux}"
    if sys.platform == "darwin":
        return macos
    for tool, hint in (
        ("apt-get", f"sudo apt-get install {debian}"),
        ("dnf", f"sudo dnf install {fedora}"),
        ("pacman", "sudo pacman -S base-devel"),
        ("apk", "sudo apk add build-base linux-headers"),
    ):
        if shutil.which(tool):
            return hint
    return f"install {debian} (Debian's name)"


def _compiles(compiler: str, suffix: str, source: str) -> bool:
    """Whether the compiler makes a program of `source`: a compiler without its headers is no compiler."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"probe{suffix}"
        path.write_text(source)
        command = [*compiler.split(), str(path), "-o", str(Path(directory) / "probe")]
        try:
            return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False


def check(*, need_venv: bool = False) -> None:
    """Looks for Python, a C and a C++17 compiler (and the venv module).

    Raises:
        ToolchainError: with the one line that names what is missing and the package to install.
    """
    if sys.version_info < MIN_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        raise ToolchainError(
            f"Python {found} is too old, 3.10 or newer is needed: make PYTHON=python3.12 ..."
        )
    compilers = (
        (
            "C compiler",
            "CC",
            ("cc", "gcc", "clang"),
            ".c",
            '#include <stdio.h>\nint main(void) { puts(""); return 0; }\n',
        ),
        (
            "C++17 compiler",
            "CXX",
            ("c++", "g++", "clang++"),
            ".cpp",
            "#include <optional>\nint main() { return std::optional<int>(0).value(); }\n",
        ),
    )
    hint = _package_hint("build-essential", "gcc-c++ make", "xcode-select --install", "clang")
    for what, variable, names, suffix, source in compilers:
        candidates = (
            [os.environ[variable]] if os.environ.get(variable) else [n for n in names if shutil.which(n)]
        )
        if not candidates:
            raise ToolchainError(f"no {what} found: {hint}")
        if not any(_compiles(c, suffix, source) for c in candidates):
            raise ToolchainError(f"the {what} {candidates[0]!r} cannot build a small program: {hint}")
    if need_venv and importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise ToolchainError(
            "this Python cannot make a virtual environment: "
            + _package_hint(f"python{version}-venv", "python3", "brew install python", "python")
        )


if __name__ == "__main__":
    try:
        check(need_venv=True)
    except ToolchainError as e:
        sys.exit(f"bluelm-gguf: {e}")
