"""The programs for aarch64, run by QEMU's user emulation: correctness on CPUs that are not here.

`make arm-test` builds them and sets BLUELM_ARM_BUILD to the build's directory; without it this directory is
not collected. An emulated picture takes many seconds, so all answers are asked for at once and computed on as
many cores as there are, while tests wait for theirs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bluelm_gguf import Model
from bluelm_gguf.demo.evaluate import held_out
from bluelm_gguf.model import demo_paths

from .sample import CPUS, LARGE, QUESTIONS, Answer, Emulate, Emulated, Question


@pytest.fixture(scope="session")
def build() -> Path:
    """The directory of the aarch64 build."""
    return Path(os.environ["BLUELM_ARM_BUILD"])


@pytest.fixture(scope="session")
def emulated() -> Emulated:
    """The command line that runs an aarch64 program: emulated(cpu, path, arguments...)."""
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    assert emulator is not None, "qemu-aarch64 is missing: apt-get install qemu-user-static"
    return lambda cpu, *command: [emulator, "-cpu", cpu, *map(str, command)]


@pytest.fixture(scope="session")
def emulate(emulated: Emulated) -> Emulate:
    """Runs an aarch64 program: emulate(cpu, path, arguments...)."""

    def run(cpu: str, *command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.run(emulated(cpu, *command), text=True, check=False, **options)

    return run


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Question]:
    """The sample, answered by the Python package on this machine."""
    directory = tmp_path_factory.mktemp("pictures")
    out = {}
    with Model() as model:
        for number, picture in enumerate(held_out(max(QUESTIONS) + 1)):
            if number not in QUESTIONS:
                continue
            asked = [qa for qa in picture.questions if qa.kind == QUESTIONS[number]] or picture.questions
            path = directory / f"{number}.png"
            Image.fromarray(picture.pixels).save(path)
            image = model.encode(picture.pixels)
            reply = model.generate(asked[0].question, images=[image], max_tokens=32)
            out[number] = Question(
                number, path, picture.pixels, asked[0].question, image.embeddings, reply.tokens, reply.text
            )
    return out


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return getattr(getattr(item, "callspec", None), "params", {})


@pytest.fixture(scope="session")
def answers(
    request: pytest.FixtureRequest,
    build: Path,
    emulate: Emulate,
    questions: dict[int, Question],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[tuple[str, int], Future[Answer]]]:
    """By CPU and picture."""
    directory = tmp_path_factory.mktemp("answers")
    llm, mmproj = demo_paths()

    def ask(cpu: str, question: Question) -> Answer:
        embeddings = directory / f"{cpu}-{question.number}.f32"
        done = emulate(
            cpu, build / "bin" / CPUS[cpu] / "bluelm-run", "-m", llm, "--mmproj", mmproj, "--image",
            question.path, "-p", question.text, "-n", 32, "-t", 1, "--json", "--embeddings", embeddings,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        return Answer(said, np.fromfile(embeddings, np.float32).reshape(-1, question.embeddings.shape[1]))

    # What the selected tests ask for, the large picture first.
    asked = [p for p in map(_parameters, request.session.items) if "number" in p]
    wanted = sorted(((p["cpu"], p["number"]) for p in asked), key=lambda pair: pair[1] != LARGE)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {(cpu, n): pool.submit(ask, cpu, questions[n]) for cpu, n in wanted}
        yield futures
        for future in futures.values():
            future.cancel()
