"""What tests/arm asks of which emulated CPU."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Emulate = Callable[..., "subprocess.CompletedProcess[str]"]
Emulated = Callable[..., "list[str]"]

CPUS = {"cortex-a53": "neon", "cortex-a76": "dotprod", "max": "i8mm"}
"""QEMU's name of a CPU, and the level that it runs."""

# Held-out pictures by their number in the evaluation, and the kind of question asked about each. Three is
# larger than a tile; it is asked about on one CPU only, since an emulated tile takes ten seconds and more.
QUESTIONS = {0: "colour", 1: "shape", 2: "number", 4: "position", 5: "count", 6: "word", 3: "number"}
LARGE = 3


@dataclass(frozen=True)
class Answer:
    """What a program said: its JSON, and its embeddings [tokens, width]."""

    said: dict[str, Any]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Question:
    """A held-out picture as a file, a question, and what this machine's CPU makes of it."""

    number: int
    path: Path
    pixels: NDArray[np.uint8]
    text: str
    embeddings: NDArray[np.float32]
    tokens: tuple[int, ...]
    answer: str
