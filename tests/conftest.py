"""Shared by every test directory: tests/support is importable, small models, a way to run the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

import tiny_models
from program import arguments
from pseudo_terminal import Terminal

from bluelm_gguf import Model

# tests/arm needs programs that `make arm-test` builds.
collect_ignore = [] if os.environ.get("BLUELM_ARM_BUILD") else ["arm"]

# A shell has what it runs in the background ignore SIGINT, and programs inherit that: the tests that send
# Ctrl-C to programs would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs' cache of encoded pictures: never the user's own."""
    directory = tmp_path_factory.mktemp("cache")
    before = os.environ.get("BLUELM_CACHE_DIR")
    os.environ["BLUELM_CACHE_DIR"] = str(directory)
    yield directory
    if before is None:
        del os.environ["BLUELM_CACHE_DIR"]
    else:
        os.environ["BLUELM_CACHE_DIR"] = before


@dataclass(frozen=True)
class Files:
    """Paths of a small random pair and two pictures."""

    llm: Path
    mmproj: Path
    small: Path  # one tile
    large: Path  # two tiles and a thumbnail

    @property
    def pair(self) -> list[str]:
        """As arguments of the program."""
        return ["-m", str(self.llm), "--mmproj", str(self.mmproj)]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A pair and pictures, written once."""
    d = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(3)
    for name, size in (("small", (120, 160)), ("large", (300, 640))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(d / f"{name}.png")
    return Files(
        tiny_models.write_llm(d / "llm.gguf"),
        tiny_models.write_mmproj(d / "mmproj.gguf"),
        d / "small.png",
        d / "large.png",
    )


@pytest.fixture(scope="session")
def shared_model(files: Files) -> Iterator[Model]:
    """A loaded pair for tests that leave it as it is."""
    with Model(files.llm, mmproj=files.mmproj, n_ctx=2048, n_threads=1) as model:
        yield model


Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def program() -> Program:
    """Runs `bluelm-gguf` as a process of its own."""

    def run(*args: Any, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            arguments(*args), input=stdin, capture_output=True, timeout=120, check=False, **options
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Opens terminals, and ends their programs after the test. Their typed lines go to tmp_path."""
    made: list[Terminal] = []

    def open_terminal(*args: Any, env: dict[str, str | None] | None = None, **options: Any) -> Terminal:
        mine = {"XDG_STATE_HOME": str(tmp_path / "state"), "BLUELM_CACHE_DIR": str(tmp_path / "cache")}
        one = Terminal(*args, env=mine | (env or {}), **options)
        made.append(one)
        return one

    yield open_terminal
    for one in made:
        one.close()
