"""The demo model on emulated Arm CPUs answers as it does here."""

from __future__ import annotations

import zlib
from concurrent.futures import Future

import numpy as np
import pytest

from bluelm_gguf.tiling import cut, plan

from .sample import CPUS, LARGE, QUESTIONS, Answer, Question

ASKED = [(cpu, n) for n in QUESTIONS if n != LARGE for cpu in CPUS] + [("max", LARGE)]

# Relative error of the embeddings, root mean square over a picture. Both sides quantise activations to 8
# bits, each with its own kernels: measured 0.0062 (neon), 0.0065 (dotprod), 0.0067 (i8mm) against
# AVX-512 VNNI.
TOLERANCE = 0.02


@pytest.mark.parametrize(("cpu", "number"), ASKED)
def test_demo_model_answers_as_on_this_machine(
    cpu: str,
    number: int,
    questions: dict[int, Question],
    answers: dict[tuple[str, int], Future[Answer]],
) -> None:
    question, answer = questions[number], answers[cpu, number].result()
    said = answer.said
    assert (said["text"], tuple(said["tokens"])) == (question.answer, question.tokens), question.text

    (image,) = said["images"]
    tile_plan = plan(question.pixels.shape[1], question.pixels.shape[0])
    assert (image["cols"], image["rows"]) == (tile_plan.cols, tile_plan.rows)
    assert image["pixels_crc32"] == f"{zlib.crc32(question.pixels.tobytes()):08x}", "stb_image against Pillow"
    assert image["views_crc32"] == f"{zlib.crc32(cut(question.pixels, tile_plan).tobytes()):08x}"

    here = question.embeddings
    assert answer.embeddings.shape == here.shape
    error = np.sqrt(np.mean((answer.embeddings - here) ** 2) / np.mean(here**2))
    assert error < TOLERANCE
