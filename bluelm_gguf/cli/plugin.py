"""`bluelm-gguf plugin`: the encoder kernels in a stock llama.cpp."""

from __future__ import annotations

import shlex

from .common import Failure, command


@command
def plugin() -> None:
    """Prints what makes a stock llama-server or llama-mtmd-cli encode pictures with these kernels."""
    from ..native.library import plugin_path

    path = plugin_path()
    if path is None:
        raise Failure(
            "this installation has no libggml-bluelm; install the package again (pip install bluelm-gguf)"
        )
    print(f"export GGML_BACKEND_PATH={shlex.quote(str(path))}")
    print(
        "llama-server -m MODEL.gguf --mmproj MMPROJ.gguf -mmdev BLUELM  # or llama-mtmd-cli ... -mmdev BLUELM"
    )
