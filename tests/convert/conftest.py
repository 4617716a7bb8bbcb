"""Lets `bluelm_gguf.convert` be imported from the source tree where the package is not installed with it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _from_source_tree() -> None:
    if "bluelm_gguf" not in sys.modules and importlib.util.find_spec("bluelm_gguf") is None:
        sys.path.insert(0, str(ROOT))
    if importlib.util.find_spec("bluelm_gguf.convert") is not None:
        return
    folder = ROOT / "convert"
    spec = importlib.util.spec_from_file_location(
        "bluelm_gguf.convert", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bluelm_gguf.convert"] = module
    spec.loader.exec_module(module)


_from_source_tree()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small only lose by more threads."""
    import torch

    torch.set_num_threads(1)
