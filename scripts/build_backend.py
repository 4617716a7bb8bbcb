"""pip's door to the build: scikit-build-core, with a look at the machine's compiler first.

llama-cpp-python is asked for only after that look, so that a missing compiler is one line and not the end of
somebody else's build log.
"""

from __future__ import annotations

import sys
from typing import Any

import toolchain
from fetch_llama_cpp import PINNED
from scikit_build_core import build as _backend
from scikit_build_core.build import (  # noqa: F401  (the hooks that stay as they are)
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def _check() -> None:
    try:
        toolchain.check()
    except toolchain.ToolchainError as e:
        sys.exit(f"bluelm-gguf: {e}")


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Requirements of a wheel; exits with one line where there is no compiler."""
    _check()
    return [*_backend.get_requires_for_build_wheel(config_settings), PINNED]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """The same for `pip install -e .`."""
    _check()
    return [*_backend.get_requires_for_build_editable(config_settings), PINNED]
