"""Checks an installation: `bluelm-gguf doctor`."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ..errors import BluelmError
from ..native import library as _native
from ..native.machine import default_threads
from ..version import __version__


@dataclass(frozen=True)
class Finding:
    """One check: good, or with a text that says what to do."""

    what: str
    good: bool
    text: str


def examine() -> Iterator[Finding]:
    """Runs the checks one after the other; loads the native library."""
    yield Finding("bluelm-gguf", True, f"{__version__} in {Path(__file__).parent}")
    yield Finding(
        "Python", sys.version_info >= (3, 10), f"{platform.python_version()} on {platform.platform()}"
    )
    yield _llama_cpp_python()
    try:
        info = _native.build_info()
    except (BluelmError, ImportError, OSError) as error:
        yield Finding("libbluelm", False, " ".join(str(error).split()))
        return
    yield Finding("libbluelm", True, f"{info} in {_native.library_path()}")
    yield Finding("CPU", True, _cpu())
    try:
        yield Finding("kernels", True, f"{_native.cpu_level()} (BLUELM_CPU_LEVEL forces a lower level)")
    except BluelmError as error:
        yield Finding("kernels", False, str(error))
    yield _one_ggml()
    yield Finding("threads", True, f"{default_threads()} (physical cores that this process may use)")
    yield _demo_model()


def _llama_cpp_python() -> Finding:
    """Compares with the version that the package was installed for."""
    package = "llama-cpp-python"
    try:
        needed = next(r.partition("==")[2] for r in requires("bluelm-gguf") or [] if r.startswith(package))
    except (PackageNotFoundError, StopIteration):
        return Finding(package, False, "bluelm-gguf is not installed: pip install . in the source directory")
    try:
        found = version(package)
    except PackageNotFoundError:
        return Finding(package, False, f"not installed: pip install {package}=={needed}")
    if found != needed:
        advice = f"{found}, but {needed} is needed: reinstall bluelm-gguf with pip"
        return Finding(package, False, advice)
    return Finding(package, True, found)


def _cpu() -> str:
    """What llama.cpp says that it uses of this CPU."""
    import llama_cpp

    raw: bytes = llama_cpp.llama_print_system_info()
    text = raw.decode(errors="replace").split("|")
    used = [part.split(":")[-1].split("=")[0].strip() for part in text if part.strip().endswith("= 1")]
    return ", ".join(used) or "no special instructions"


def _one_ggml() -> Finding:
    """Two copies of ggml in one process would each have their own state: crashes far from the cause."""
    maps = Path("/proc/self/maps")
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return Finding("one ggml", True, "not checked: this system has no /proc/self/maps")
    copies = {}
    for library in ("libggml-base", "libllama"):
        paths = {line.split(maxsplit=5)[5] for line in lines if f"/{library}." in line}
        copies[library] = sorted(paths)
    bad = [path for paths in copies.values() if len(paths) != 1 for path in paths]
    if bad or not all(copies.values()):
        return Finding("one ggml", False, f"loaded twice or not at all: {', '.join(bad) or 'no copy found'}")
    return Finding("one ggml", True, copies["libggml-base"][0])


def _demo_model() -> Finding:
    from ..gguf.info import describe, size
    from ..model import demo_paths

    try:
        infos = [describe(path) for path in demo_paths()]
    except BluelmError as error:
        return Finding("demo model", False, str(error))
    total = sum(info.file_bytes for info in infos)
    return Finding("demo model", True, f"{size(total)} in {Path(infos[0].path).parent}")
