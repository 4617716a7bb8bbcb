"""Random models and their files, shared by the parity tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import mmproj_writer
from checkpoints import make_bluelm_v_checkpoint
from models import MODELS
from reference_model import ReferenceBlueLMV


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ReferenceBlueLMV]:
    """A model of MODELS by name."""
    cache: dict[str, ReferenceBlueLMV] = {}

    def make(name: str) -> ReferenceBlueLMV:
        if name not in cache:
            directory = make_bluelm_v_checkpoint(tmp_path_factory.mktemp(name), **MODELS[name])
            cache[name] = ReferenceBlueLMV.from_checkpoint(directory)
        return cache[name]

    return make


@pytest.fixture(scope="session")
def make_mmproj(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[[str], ReferenceBlueLMV]
) -> Callable[[str, str], Path]:
    """The mmproj of a model of MODELS in a type."""
    cache: dict[tuple[str, str], Path] = {}

    def make(name: str, file_type: str = "f32") -> Path:
        if (name, file_type) not in cache:
            path = tmp_path_factory.mktemp("mmproj") / f"{name}-{file_type}.gguf"
            cache[name, file_type] = mmproj_writer.write_mmproj(make_model(name), path, file_type)
        return cache[name, file_type]

    return make
