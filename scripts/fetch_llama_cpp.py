"""Puts llama.cpp's source, as llama-cpp-python's sdist holds it, into a directory.

    python scripts/fetch_llama_cpp.py build/llama.cpp

For builds that compile llama.cpp themselves (docs/phones.md): the same source as in the wheel. pip downloads
the sdist; a directory that is already complete stays as it is. Needs pip, nothing else.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "llama-cpp-python"
REQUIREMENT = re.search(
    rf'"({PACKAGE}==([^"]+))"', (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
)
assert REQUIREMENT, "pyproject.toml pins no llama-cpp-python"
PINNED, VERSION = REQUIREMENT.groups()  # "llama-cpp-python==VERSION", VERSION
PREFIX = "vendor/llama.cpp/"
DONE = ".complete"  # written last


def download(version: str, directory: Path) -> Path:
    """The sdist, brought by pip into a directory."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", PACKAGE, "--dest", str(directory), f"{PACKAGE}=={version}"]
    done = subprocess.run(command, check=False)
    found = sorted(directory.glob("*.tar.gz"))
    if done.returncode or not found:
        raise SystemExit(f"fetch_llama_cpp: pip could not download {PACKAGE}=={version}")
    return found[0]


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Regular files and directories below vendor/llama.cpp, renamed to what lies below it."""
    for member in archive:
        _, _, name = member.name.partition("/")  # llama_cpp_python-VERSION/
        if name.startswith(PREFIX) and (member.isfile() or member.isdir()):
            name = name[len(PREFIX) :]
            if name.startswith("/") or ".." in Path(name).parts:
                raise SystemExit(f"fetch_llama_cpp: the sdist holds an odd path ({member.name})")
            member.name = name
            yield member


def unpack(sdist: Path, directory: Path) -> None:
    """llama.cpp's part of the sdist, complete or not at all."""
    parent = directory.parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=directory.name + ".") as made:
        target = Path(made) / "source"
        target.mkdir()
        with tarfile.open(sdist) as archive:
            for member in members(archive):
                archive.extract(member, target)
        if not (target / "include" / "llama.h").is_file():
            raise SystemExit(f"fetch_llama_cpp: {sdist.name} holds no llama.cpp")
        (target / DONE).touch()
        shutil.rmtree(directory, ignore_errors=True)
        target.rename(directory)


def main() -> None:
    """Parses, downloads, unpacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--version", default=VERSION, help=f"of {PACKAGE} [{VERSION}]")
    parser.add_argument("--sdist", type=Path, help="an sdist that was downloaded before")
    options = parser.parse_args()
    if (options.directory / DONE).exists():
        return
    with tempfile.TemporaryDirectory() as downloads:
        unpack(options.sdist or download(options.version, Path(downloads)), options.directory)


if __name__ == "__main__":
    main()
