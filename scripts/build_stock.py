"""Builds llama-bench and llama-mtmd-cli from the llama.cpp inside llama-cpp-python's sdist, to compare with.

    python scripts/build_stock.py build/stock        (minutes, once; the programs lie in build/stock/bin)

Nothing is changed but one thing: GCC before 12.4, and 13 before 13.3, compiles ggml's AMX kernels into code
that crashes (GCC bug 114098), so there they are left out. Needs pip, CMake and a compiler.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import fetch_llama_cpp

PROGRAMS = ("llama-bench", "llama-mtmd-cli")
OPTIONS = ("CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "LLAMA_OPENSSL=OFF", "LLAMA_BUILD_TESTS=OFF",
           "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_SERVER=OFF")  # fmt: skip
WITHOUT_AMX = "-U__AMX_INT8__ -U__AMX_TILE__ -U__AMX_BF16__"


def breaks_amx(macros: str) -> bool:
    """Whether a compiler with these predefined macros has GCC bug 114098."""
    defined = dict(line.split(" ", 2)[1:] for line in macros.splitlines() if line.count(" ") >= 2)
    if "__clang__" in defined or "__GNUC__" not in defined:
        return False
    version = int(defined["__GNUC__"]), int(defined["__GNUC_MINOR__"])
    return version < (12, 4) or (13, 0) <= version < (13, 3)


def run(*command: object) -> None:
    """Runs one step; its own messages say what is wrong."""
    code = subprocess.run(list(map(str, command))).returncode
    if code:
        raise SystemExit(f"build_stock: {command[0]} ended with {code}")


def main() -> None:
    """Fetches, configures, builds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cmake", default="cmake")
    options = parser.parse_args()
    source = options.directory.parent / f"llama.cpp-{fetch_llama_cpp.VERSION}"
    run(sys.executable, Path(__file__).with_name("fetch_llama_cpp.py"), source)
    compiler = os.environ.get("CXX", "c++").split()
    macros = subprocess.run([*compiler, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True)
    settings = list(OPTIONS)
    if macros.returncode == 0 and breaks_amx(macros.stdout):
        settings += [f"CMAKE_C_FLAGS={WITHOUT_AMX}", f"CMAKE_CXX_FLAGS={WITHOUT_AMX}"]
    run(options.cmake, "-S", source, "-B", options.directory, *(f"-D{setting}" for setting in settings))
    jobs = ["--parallel", str(os.cpu_count() or 1)]
    run(options.cmake, "--build", options.directory, *jobs, "--target", *PROGRAMS)


if __name__ == "__main__":
    main()
