"""Run as a script: quantises a GGUF file of an LLM with llama.cpp's own routine.

    python llama_quantize.py IN.gguf OUT.gguf FTYPE [--imatrix FILE] [--dry-run]

A process of its own, because llama.cpp aborts on some kinds of bad input and cannot be interrupted in
between. Prints on stdout `begin NAME` before every tensor and, in a dry run, `type NAME TYPE` behind it;
llama.cpp's messages go to stderr. FILE is what `ImportanceMatrix.save` writes. A dry run looks at the
tensors' shapes only and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import struct
import sys
from pathlib import Path

MAX_BUFFER_BYTES = 256 << 20  # rows of a tensor that are in memory at once


def main() -> int:
    """Quantises.

    Returns:
        The exit status: 0, 1 (failed) or 3 (no llama_cpp).
    """
    # The script's directory is on the path and holds modules named like others' packages.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) != here]
    import ctypes

    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("ftype", type=int)
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process

    try:
        import llama_cpp
    except ModuleNotFoundError:
        return 3

    name, source_type = "", ""

    def say(text: str) -> None:
        try:
            print(text, flush=True)
        except OSError:  # the parent was killed
            os._exit(1)

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, data: ctypes.c_void_p) -> None:
        nonlocal name, source_type
        line = text.decode("utf-8", "replace")
        begun = re.match(r"\[\s*\d+/\s*\d+\]\s+(\S+)\s+- \[.*\], type =\s*(\w+),", line)
        ended = re.match(r"size =\s*[\d.]+ MiB(?: ->\s*[\d.]+ MiB \((\w+)\))?\s*$", line)
        if begun:
            name, source_type = begun[1], begun[2]
            say(f"begin {name}")
        elif ended and options.dry_run:
            say(f"type {name} {ended[1] or source_type}")
        if level in (3, 4):  # warnings and errors
            sys.stderr.write(line)

    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = options.ftype
    params.dry_run = options.dry_run
    params.max_buf_size = MAX_BUFFER_BYTES
    if options.imatrix is not None:
        entries = _read_imatrix(options.imatrix)
        kept = [ctypes.create_string_buffer(values, len(values)) for _, values in entries]
        array = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))()  # a nameless one ends it
        for i, (entry, values) in enumerate(entries):
            array[i].name = entry
            array[i].data = ctypes.cast(kept[i], ctypes.POINTER(ctypes.c_float))
            array[i].size = len(values) // 4
        params.imatrix = ctypes.cast(array, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    status = llama_cpp.llama_model_quantize(
        os.fsencode(options.source), os.fsencode(options.target), ctypes.byref(params)
    )
    return int(status != 0)


def _read_imatrix(path: Path) -> list[tuple[bytes, bytes]]:
    """(name, float32 values) of every entry."""
    entries = []
    with path.open("rb") as file:
        (count,) = struct.unpack("<i", file.read(4))
        for _ in range(count):
            (length,) = struct.unpack("<i", file.read(4))
            name = file.read(length)
            _, n_values = struct.unpack("<ii", file.read(8))
            entries.append((name, file.read(4 * n_values)))
    return entries


if __name__ == "__main__":
    sys.exit(main())
