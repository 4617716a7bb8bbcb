"""Converts a Hugging Face checkpoint into an LLM GGUF and an mmproj GGUF.

    from bluelm_gguf.convert import convert
    result = convert("checkpoints/my-model", "models", llm_type="q4_0", mmproj_type="q8_0")
    print(result.table())

Load, validate, quantise, save. Needs numpy and gguf, and llama_cpp for q4_0 and q4_k_m; no torch. Errors:
errors.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf

from . import tokenizer
from .checkpoint import Checkpoint
from .errors import (
    CheckpointError,
    ConversionError,
    OutputError,
    TensorError,
    TokenizerError,
    UnsupportedModelError,
)
from .families import Family, recognise
from .gguf_types import tensor_table
from .quantize import BY_LLAMA_CPP, DIRECT, LLM_TYPES, MMPROJ_TYPES, lossless_type, n_bytes, tensor_type
from .tensors import MATRIX, TensorSpec, account
from .vocabulary import Vocabulary
from .writer import Staging, quantize_by_llama_cpp, write

__all__ = [
    "LLM_TYPES",
    "MMPROJ_TYPES",
    "CheckpointError",
    "ConversionError",
    "ConversionResult",
    "OutputError",
    "TensorError",
    "TokenizerError",
    "UnsupportedModelError",
    "convert",
]

# (stage, done, total): stage is "llm", "llm-quantize" or "mmproj", the unit is tensors.
ProgressCallback = Callable[[str, int, int], object]


@dataclass(frozen=True)
class ConversionResult:
    """What was written.

    Attributes:
        llm_path: the LLM; None with vision_only.
        mmproj_path: tower and projector; None with llm_only and for text-only checkpoints.
        llm_types: (type, tensors, bytes), largest first.
        mmproj_types: likewise.
        notes: what the user should know: padding, dropped tensors, types other than asked for.
    """

    llm_path: Path | None
    mmproj_path: Path | None
    llm_types: list[tuple[str, int, int]] = field(default_factory=list)
    mmproj_types: list[tuple[str, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Tensors and bytes by type, as text."""
        lines = [f"{'file':<40} {'type':<6} {'tensors':>8} {'bytes':>15}"]
        for path, rows in ((self.llm_path, self.llm_types), (self.mmproj_path, self.mmproj_types)):
            if path is not None:
                lines += [f"{path.name:<40} {kind:<6} {count:>8} {size:>15,}" for kind, count, size in rows]
        return "\n".join(lines)


def convert(
    checkpoint_dir: str | Path,
    out_dir: str | Path,
    *,
    llm_type: str = "q4_0",
    mmproj_type: str = "q8_0",
    name: str | None = None,
    llm_only: bool = False,
    vision_only: bool = False,
    on_progress: ProgressCallback | None = None,
) -> ConversionResult:
    """Converts a checkpoint directory.

    Writes `NAME-TYPE.gguf` and `mmproj-NAME-TYPE.gguf` into out_dir, both or none, replacing files of these
    names.

    Args:
        checkpoint_dir: config.json, safetensors, tokenizer files (docs/bluelm-v-layout.md, or text-only).
        out_dir: created if need be.
        llm_type: one of LLM_TYPES.
        mmproj_type: one of MMPROJ_TYPES.
        name: of the model; default: the directory's name.
        llm_only: no mmproj.
        vision_only: no LLM.
        on_progress: (stage, tensors done, tensors in all), stage "llm", "llm-quantize" or "mmproj".

    Raises:
        ConversionError: see errors.py; nothing is left behind.
        ValueError: llm_type, mmproj_type or the combination of flags.
    """
    if llm_type not in LLM_TYPES:
        raise ValueError(f"llm_type is {llm_type!r}; choose from {', '.join(LLM_TYPES)}")
    if mmproj_type not in MMPROJ_TYPES:
        raise ValueError(f"mmproj_type is {mmproj_type!r}; choose from {', '.join(MMPROJ_TYPES)}")
    if llm_only and vision_only:
        raise ValueError(
            "llm_only and vision_only exclude each other; give one of them, or none for both files"
        )
    directory = Path(checkpoint_dir)
    out = Path(out_dir)
    name = name or directory.resolve().name or "model"
    report: ProgressCallback = on_progress or (lambda stage, done, total: None)

    checkpoint = Checkpoint(directory)
    family = recognise(checkpoint)
    if vision_only and family.vision is None:
        raise UnsupportedModelError(
            f"{directory / 'config.json'} describes a text-only model; it has no vision part"
        )
    llm_specs = family.decoder.specs(family.text_prefix)
    vision_specs = family.vision.specs() if family.vision is not None else []
    patterns = family.decoder.dropped(family.text_prefix)
    patterns += family.vision.dropped() if family.vision is not None else []
    dropped = account(checkpoint, llm_specs + vision_specs, patterns)

    notes = (
        [f"{len(dropped)} tensors that are not needed were left out: {_shortened(dropped)}"]
        if dropped
        else []
    )
    pair_id = checkpoint.fingerprint()
    llm_path = mmproj_path = None
    jobs: list[_Job] = []
    if not vision_only:
        vocabulary = tokenizer.load(directory, family.text_config)
        vocabulary.fit(family.decoder.n_vocab)
        notes += family.decoder.notes + vocabulary.notes
        jobs.append(_LlmJob(checkpoint, family, vocabulary, llm_specs, llm_type, name, pair_id, report))
        llm_path = out / jobs[-1].file_name
    if family.vision is not None and not llm_only:
        notes += family.vision.notes()
        jobs.append(_MmprojJob(checkpoint, family, vision_specs, mmproj_type, name, pair_id, report))
        mmproj_path = out / jobs[-1].file_name
    with Staging(out) as staging:
        staging.need(sum(job.disk_bytes() for job in jobs))
        tables: dict[str, list[tuple[str, int, int]]] = {}
        for job in jobs:
            part = job.run(staging)
            tables[job.file_name] = tensor_table(part)
            notes += job.type_notes()
        staging.commit()
    return ConversionResult(
        llm_path,
        mmproj_path,
        tables.get(llm_path.name, []) if llm_path else [],
        tables.get(mmproj_path.name, []) if mmproj_path else [],
        notes,
    )


class _Job:
    """One output file."""

    stage: str
    file_name: str

    def __init__(
        self, checkpoint: Checkpoint, specs: list[TensorSpec], file_type: str, name: str, pair_id: str,
        report: ProgressCallback,
    ) -> None:  # fmt: skip
        self.checkpoint = checkpoint
        self.specs = specs
        self.file_type = file_type
        self.name = name
        self.pair_id = pair_id
        self.report = report

    def new_writer(self, arch: str, kind: str, file_type: str) -> gguf.GGUFWriter:
        """A writer with the keys that every file has."""
        writer = gguf.GGUFWriter(None, arch)
        writer.add_type(kind)
        writer.add_name(self.name)
        writer.add_file_type(int(DIRECT[file_type][1]))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_string("bluelm.pair_id", self.pair_id)
        return writer

    def written_type(self) -> str:
        """The type of what is streamed from the checkpoint."""
        return self.file_type

    def disk_bytes(self) -> int:
        """Bytes needed at the peak, roughly."""
        kind = self.written_type()
        return sum(n_bytes(spec.stored_shape, tensor_type(spec, kind)) for spec in self.specs)

    def write(self, path: Path, writer: gguf.GGUFWriter) -> None:
        """Streams the tensors."""
        kind = self.written_type()
        tensors = [(spec, tensor_type(spec, kind)) for spec in self.specs]
        write(
            path, writer, tensors, self.checkpoint, lambda done, total: self.report(self.stage, done, total)
        )

    def run(self, staging: Staging) -> Path:
        """Writes the file under its temporary name, which is returned."""
        raise NotImplementedError

    def type_notes(self) -> list[str]:
        """Matrices that could not take the type asked for."""
        wanted, _ = DIRECT[self.file_type]
        others = [s.name for s in self.specs if s.kind == MATRIX and tensor_type(s, self.file_type) != wanted]
        if not others:
            return []
        return [
            f"{len(others)} matrices have rows that are no multiple of 32 and are F16: {_shortened(others)}"
        ]


class _LlmJob(_Job):
    stage = "llm"

    def __init__(
        self, checkpoint: Checkpoint, family: Family, vocabulary: Vocabulary, specs: list[TensorSpec],
        file_type: str, name: str, pair_id: str, report: ProgressCallback,
    ) -> None:  # fmt: skip
        super().__init__(checkpoint, specs, file_type, name, pair_id, report)
        self.family = family
        self.vocabulary = vocabulary
        self.file_name = f"{_file_stem(name)}-{file_type.upper()}.gguf"

    def written_type(self) -> str:
        """Types that llama.cpp makes start from a file without loss."""
        if self.file_type in BY_LLAMA_CPP:
            sources = [self.checkpoint.tensors[s.source].dtype for s in self.specs if s.kind == MATRIX]
            return lossless_type(sources)
        return self.file_type

    def disk_bytes(self) -> int:
        extra = sum(n_bytes(s.stored_shape, gguf.GGMLQuantizationType.F16) for s in self.specs) // 3
        return super().disk_bytes() + (extra if self.file_type in BY_LLAMA_CPP else 0)

    def run(self, staging: Staging) -> Path:
        decoder = self.family.decoder
        writer = self.new_writer(decoder.ARCH, "model", self.written_type())
        decoder.add_metadata(writer)
        self.vocabulary.add_metadata(writer)
        part = staging.path(self.file_name)
        if self.file_type not in BY_LLAMA_CPP:
            self.write(part, writer)
            return part
        scratch = staging.path(f"{self.file_name}.{self.written_type()}", scratch=True)
        self.write(scratch, writer)
        ftype = int(BY_LLAMA_CPP[self.file_type])
        quantize_by_llama_cpp(
            scratch, part, ftype, lambda done, total: self.report("llm-quantize", done, total)
        )
        scratch.unlink()
        return part

    def type_notes(self) -> list[str]:
        if self.file_type not in BY_LLAMA_CPP:
            return super().type_notes()
        block = 256 if self.file_type == "q4_k_m" else 32
        others = [s.name for s in self.specs if s.kind == MATRIX and s.stored_shape[-1] % block]
        if not others:
            return []
        return [
            f"{len(others)} matrices have rows that are no multiple of {block}; llama.cpp chose larger "
            "types for them: " + _shortened(others)
        ]


class _MmprojJob(_Job):
    stage = "mmproj"

    def __init__(
        self, checkpoint: Checkpoint, family: Family, specs: list[TensorSpec], file_type: str, name: str,
        pair_id: str, report: ProgressCallback,
    ) -> None:  # fmt: skip
        super().__init__(checkpoint, specs, file_type, name, pair_id, report)
        assert family.vision is not None
        self.vision = family.vision
        self.file_name = f"mmproj-{_file_stem(name)}-{file_type.upper()}.gguf"

    def run(self, staging: Staging) -> Path:
        writer = self.new_writer("clip", "mmproj", self.file_type)
        self.vision.add_metadata(writer)
        part = staging.path(self.file_name)
        self.write(part, writer)
        return part


def _file_stem(name: str) -> str:
    """A model name as part of a file name."""
    stem = re.sub(r"[^\w.+-]+", "-", name).strip("-.")
    return stem or "model"


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")
