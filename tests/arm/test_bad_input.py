"""What bluelm-run and bluelm-bench say on a phone where something is wrong, and Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import termios
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bluelm_gguf.model import demo_paths

from .sample import Emulate, Emulated

CPU = "max"


@pytest.fixture
def run(build: Path) -> list[Any]:
    """bluelm-run with the demo model, up to the question."""
    llm, mmproj = demo_paths()
    return [build / "bin" / "i8mm" / "bluelm-run", "-m", llm, "--mmproj", mmproj, "-t", 1, "-p", "Hello"]


def error_of(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of a program that failed."""
    assert done.returncode == code, done.stderr
    assert not done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("bluelm-bench: ").removeprefix("error: ")


def test_too_little_memory_is_said_before_anything_is_loaded(run: list[Any], emulate: Emulate) -> None:
    text = error_of(emulate(CPU, *run, "-c", 10**9), 1)
    assert re.match(
        r"the files: .* for the weights and .* GiB for the KV cache, .* are available: .*--no-memory-check",
        text,
    )


def test_cpu_masks_and_threads(run: list[Any], build: Path, emulate: Emulate) -> None:
    cpu = min(os.sched_getaffinity(0))
    for program in (run, [build / "bin" / "i8mm" / "bluelm-bench"]):
        text = error_of(emulate(CPU, *program, "-C", "0x1" + 64 * "0"), 2)
        assert "there is no CPU 256, or this process may not use it; it may use 0x" in text
        assert "not a hexadecimal mask" in error_of(emulate(CPU, *program, "-C", "cpu4"), 2)
    done = emulate(CPU, *run, "-n", 1, "-C", hex(1 << cpu), "-t", 2)
    assert done.returncode == 0, done.stderr
    warning = "warning: 2 threads on 1 CPU share them: expect less speed and more deviation\n"
    assert done.stderr.startswith(warning)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk(run: list[Any], emulate: Emulate) -> None:
    with open("/dev/full", "w") as nowhere:
        for json in ((), ("--json",)):
            done = emulate(CPU, *run, "-n", 1, *json, stdout=nowhere)
            assert (done.returncode, done.stderr) == (
                1,
                "error: the answer cannot be written (No space left on device)\n",
            )


def test_ctrl_c_while_a_picture_is_encoded(run: list[Any], emulated: Emulated, tmp_path: Path) -> None:
    picture = tmp_path / "large.png"  # many tiles, each of which takes seconds
    Image.fromarray(np.zeros((1536, 768, 3), np.uint8)).save(picture)
    process = subprocess.Popen(
        emulated(CPU, *run, "--image", picture, "--tile-batch", 1, "--verbose"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("llama_context:"):
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (130, ""), stderr


def test_ctrl_c_ends_the_answer(run: list[Any], emulated: Emulated) -> None:
    """The pipe has room for the first words only: the program cannot be done when the signal comes."""
    reader, writer = os.pipe()
    filled = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096) - 8
    os.write(writer, b"." * filled)
    process = subprocess.Popen(emulated(CPU, *run), stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    waiting = array("i", [filled])
    while waiting[0] == filled:
        assert process.poll() is None
        time.sleep(0.01)
        fcntl.ioctl(reader, termios.FIONREAD, waiting)
    process.send_signal(signal.SIGINT)
    with open(reader, "rb") as pipe:
        text = pipe.read()[filled:].decode()
    assert process.wait(60) == 130
    assert text.endswith("\n") and not text.endswith(".\n"), text
