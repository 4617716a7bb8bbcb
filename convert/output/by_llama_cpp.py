"""Quantises an LLM file with llama.cpp, in a process of its own: llama_quantize.py."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
from gguf import GGMLQuantizationType as Type

from ..errors import OutputError
from ..tensors import TensorSpec
from .imatrix import ImportanceMatrix
from .tensor_types import BY_LLAMA_CPP, n_bytes
from .writer import Progress, add_tensor_infos

NO_LLAMA_CPP = 3  # exit status of llama_quantize.py


def quantize_by_llama_cpp(
    source: Path,
    target: Path,
    file_type: str,
    sizes: Mapping[str, int],
    on_progress: Progress,
    *,
    imatrix: Path | None = None,
) -> None:
    """Quantises an LLM file.

    Args:
        source: f32, f16 or bf16.
        target: written.
        file_type: of BY_LLAMA_CPP.
        sizes: bytes of every tensor of the source, for the progress.
        on_progress: called with bytes of the source before every tensor, and at the end.
        imatrix: what `ImportanceMatrix.save` wrote.

    Raises:
        OutputError: it failed; the message has its last words.
    """
    total = sum(sizes.values())
    done = last = 0

    def follow(words: list[str]) -> None:
        nonlocal done, last
        done += last
        last = sizes.get(words[1], 0)
        if done:
            on_progress(done, total)

    _run(source, target, file_type, imatrix, [], {"begin": follow})
    on_progress(total, total)


def predict_types(
    arch_writer: gguf.GGUFWriter,
    tensors: Sequence[tuple[TensorSpec, Type]],
    file_type: str,
    imatrix: ImportanceMatrix | None,
) -> dict[str, Type]:
    """Asks llama.cpp which type every tensor would get, without weights.

    It is shown a file of nothing but holes, which takes no room on the disk, in the directory for temporary
    files.

    Args:
        arch_writer: with the architecture's keys.
        tensors: of the file that would be quantised.
        file_type: of BY_LLAMA_CPP.
        imatrix: if one will be used: it changes some choices.

    Returns:
        The type of every tensor by its name.

    Raises:
        OutputError: llama.cpp refuses.
    """
    found: dict[str, Type] = {}

    def note(words: list[str]) -> None:
        found[words[1]] = Type[words[2].upper()]

    with tempfile.TemporaryDirectory(prefix="bluelm-gguf-") as directory:
        path = Path(directory) / "holes.gguf"
        add_tensor_infos(arch_writer, tensors)
        arch_writer.write_header_to_file(path)
        arch_writer.write_kv_data_to_file()
        arch_writer.write_ti_data_to_file()
        arch_writer.close()
        align = gguf.GGUF_DEFAULT_ALIGNMENT
        size = sum(-(-n_bytes(spec.stored_shape, kind) // align) * align for spec, kind in tensors)
        os.truncate(path, path.stat().st_size + align + size)
        saved = None
        if imatrix is not None:
            saved = Path(directory) / "imatrix"
            imatrix.save(saved)
        _run(path, Path(directory) / "out.gguf", file_type, saved, ["--dry-run"], {"type": note})
    return {spec.name: found.get(spec.name, kind) for spec, kind in tensors}


def _run(
    source: Path,
    target: Path,
    file_type: str,
    imatrix: Path | None,
    options: list[str],
    handlers: Mapping[str, object],
) -> None:
    script = Path(__file__).with_name("llama_quantize.py")
    ftype = str(int(BY_LLAMA_CPP[file_type]))
    command = [sys.executable, str(script), str(source), str(target), ftype, *options]
    if imatrix is not None:
        command += ["--imatrix", str(imatrix)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                words = line.split()
                handler = handlers.get(words[0]) if words else None
                if callable(handler):
                    handler(words)
                elif words and words[0] not in ("begin", "type"):
                    last = line.strip()
            status = process.wait()
        except BaseException:
            process.kill()
            raise
    if status == NO_LLAMA_CPP:
        raise OutputError(
            f"{', '.join(BY_LLAMA_CPP)} need llama-cpp-python: install it, or choose f32, f16, bf16 or q8_0"
        )
    if status != 0:
        raise OutputError(f"llama.cpp could not quantise the LLM (status {status}): {last or 'no message'}")
