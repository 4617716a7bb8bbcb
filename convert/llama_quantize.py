"""Run as a script: quantises a GGUF file of an LLM with llama.cpp's own routine.

    python llama_quantize.py IN.gguf OUT.gguf FTYPE

A process of its own, because llama.cpp aborts on some kinds of bad input and cannot be interrupted in
between. Prints `i n` on stdout for every tensor, llama.cpp's messages on stderr.
"""

from __future__ import annotations

import os
import re
import sys


def main() -> int:
    """Quantises argv[1] into argv[2] as llama_ftype argv[3].

    Returns:
        The exit status: 0, 1 (failed) or 3 (no llama_cpp).
    """
    # The script's directory is on the path and holds modules named like others' packages.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) != here]
    import ctypes

    try:
        import llama_cpp
    except ModuleNotFoundError:
        return 3

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, data: ctypes.c_void_p) -> None:
        line = text.decode("utf-8", "replace")
        found = re.match(r"\[\s*(\d+)/\s*(\d+)\]", line)
        if found:
            print(found[1], found[2], flush=True)
        if level in (3, 4):  # warnings and errors
            sys.stderr.write(line)

    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(sys.argv[3])
    status = llama_cpp.llama_model_quantize(
        os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), ctypes.byref(params)
    )
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
