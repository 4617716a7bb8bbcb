"""The C++ unit tests, the tiler's bytes and the launcher on emulated CPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from bluelm_gguf.model import demo_paths
from bluelm_gguf.tiling import cut, plan

from .sample import CPUS, Emulate

UNIT_TESTS = sorted(p.stem for p in (Path(__file__).parents[1] / "cpp").glob("test_*.cpp"))
SIZES = [(394, 390), (380, 76), (768, 1536), (1, 900), (1023, 767), (640, 480), (1999, 300), (17, 13)]
LAUNCHER = Path(__file__).parents[2] / "cpp" / "tools" / "launcher.c"


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", UNIT_TESTS)
def test_unit(cpu: str, name: str, build: Path, emulate: Emulate) -> None:
    done = emulate(cpu, build / "tests" / name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("cpu", CPUS)
def test_tiler_is_bit_exact(cpu: str, build: Path, emulate: Emulate) -> None:
    done = emulate(cpu, build / "tests" / "tile_checksums", *(f"{w}x{h}" for w, h in SIZES))
    assert done.returncode == 0, done.stderr
    expected = []
    for width, height in SIZES:
        values = np.arange(width * height * 3, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(21)
        tile_plan = plan(width, height)
        views = cut(values.astype(np.uint8).reshape(height, width, 3), tile_plan)
        checksum = zlib.crc32(views.tobytes())
        expected.append(f"{width}x{height} {tile_plan.cols}:{tile_plan.rows} {checksum:08x}")
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize(("cpu", "level"), CPUS.items())
def test_launcher_picks_the_best_level_of_a_cpu(cpu: str, level: str, build: Path, emulate: Emulate) -> None:
    done = emulate(cpu, build / "bin" / "bluelm-run", "--level")
    assert done.stdout == f"{level}: {(build / 'bin' / level / 'bluelm-run').resolve()}\n"


@pytest.mark.parametrize(("cpu", "level"), CPUS.items())
def test_each_level_holds_its_kernels(cpu: str, level: str, build: Path, emulate: Emulate) -> None:
    done = emulate(cpu, build / "bin" / level / "bluelm-run", "--version")
    features = {"neon": "NEON", "dotprod": "NEON DOTPROD", "i8mm": "NEON DOTPROD I8MM"}[level]
    assert f"ggml built with {features})" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("cpu", "level"), CPUS.items())
def test_language_model_gets_our_kernels_where_there_are_some(
    cpu: str, level: str, build: Path, emulate: Emulate
) -> None:
    few = ("-p", 16, "-n", 2, "-r", 1, "-t", 1, "--no-warmup", "--no-memory-check", "-o", "json")
    done = emulate(cpu, build / "bin" / level / "bluelm-bench", "-m", demo_paths()[0], *few)
    assert done.returncode == 0, done.stderr
    expected = "llama.cpp" if level == "neon" else level
    assert {row["llm_kernels"] for row in json.loads(done.stdout)} == {expected}


def test_launcher_refuses_a_level_that_the_cpu_lacks(build: Path, emulate: Emulate) -> None:
    done = emulate("cortex-a53", build / "bin" / "bluelm-run", "--level", "i8mm", "--version")
    assert done.returncode == 1
    assert "level i8mm needs" in done.stderr
    done = emulate("max", build / "bin" / "bluelm-run", "--level", "i9mm", "--version")
    assert done.returncode == 2
    assert "there are neon, dotprod and i8mm" in done.stderr


def test_launcher_takes_the_next_level_where_a_file_is_missing(
    build: Path, emulate: Emulate, tmp_path: Path
) -> None:
    shutil.copy(build / "bin" / "bluelm-run", tmp_path)
    done = emulate("max", tmp_path / "bluelm-run", "--level")
    assert done.returncode == 1
    assert "copy the whole folder" in done.stderr
    (tmp_path / "neon").mkdir()
    (tmp_path / "neon" / "bluelm-run").touch()
    assert emulate("max", tmp_path / "bluelm-run", "--level").stdout.startswith("neon: ")


def test_launcher_starts_the_program_with_its_arguments(tmp_path: Path) -> None:
    """Natively: emulation cannot start a second program."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    subprocess.run([compiler, LAUNCHER, "-o", tmp_path / "hello"], check=True)
    (tmp_path / "neon").mkdir()
    program = tmp_path / "neon" / "hello"
    program.write_text('#!/bin/sh\necho "$BLUELM_CPU_LEVEL:$#:$1:$2"\nexit 7\n')
    program.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "BLUELM_CPU_LEVEL"}

    def start(*arguments: str, **more: str) -> tuple[int, str]:
        command = [str(tmp_path / "hello"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**environment, **more}
        )
        return done.returncode, done.stdout

    assert start("a b", "-n") == (7, ":2:a b:-n\n")
    assert start("--level", "neon", "x") == (7, "neon:1:x:\n")
    assert start("x", BLUELM_CPU_LEVEL="generic") == (7, "generic:1:x:\n")
    program.chmod(0o644)
    assert start("x")[0] == 1
