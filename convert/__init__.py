"""Converts a Hugging Face checkpoint into an LLM GGUF and an mmproj GGUF.

    from bluelm_gguf.convert import convert
    result = convert("checkpoints/my-model", "models", llm_type="q4_0", mmproj_type="q8_0")
    print(result.table())

Load, validate, quantise, save. Needs numpy and gguf, and llama_cpp for 4- to 6-bit LLMs; no torch. Errors:
errors.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf

from . import tokenizer
from .checkpoint import Checkpoint
from .errors import (
    CheckpointError,
    ConversionError,
    ImportanceError,
    OutputError,
    TensorError,
    TokenizerError,
    UnsupportedModelError,
)
from .families import Family, recognise
from .gguf_types import tensor_table
from .given_llm import read_llm
from .imatrix import ImportanceMatrix, read_imatrix
from .naming import Identity, identify
from .quantize import BY_LLAMA_CPP, DIRECT, LLM_TYPES, MMPROJ_TYPES, lossless_type, n_bytes, tensor_type
from .rebalance import rebalance
from .requantize import predict_types, quantize_by_llama_cpp
from .tensors import MATRIX, TensorSpec, account
from .vocabulary import Vocabulary
from .writer import SLAB, Staging, write

__all__ = [
    "LLM_TYPES",
    "MMPROJ_TYPES",
    "CheckpointError",
    "ConversionError",
    "ConversionResult",
    "ImportanceError",
    "OutputError",
    "TensorError",
    "TokenizerError",
    "UnsupportedModelError",
    "convert",
]

# (stage, done, total): stage is "llm", "llm-quantize" or "mmproj", the unit is bytes.
DEFAULT_N_CTX = 4096  # as the runtime's
PROCESS_BYTES = 150 << 20  # Python, numpy, gguf
ProgressCallback = Callable[[str, int, int], object]


@dataclass(frozen=True)
class ConversionResult:
    """What was written, or with dry_run would be.

    Attributes:
        llm_path: the LLM; None with vision_only.
        mmproj_path: tower and projector; None with llm_only and for text-only checkpoints.
        llm_types: (type, tensors, bytes), largest first.
        mmproj_types: likewise.
        notes: what the user should know: padding, dropped tensors, types other than asked for.
        checkpoint_bytes: of the files that hold the checkpoint's weights.
        output_bytes: of the files written; with dry_run of their tensors.
        is_dry_run: nothing was written.
        convert_memory_bytes: most that the conversion takes, roughly, all processes together.
        run_memory_bytes: weights, and the KV cache of an LLM at `run_n_ctx` tokens.
        run_n_ctx: tokens of context.
    """

    llm_path: Path | None
    mmproj_path: Path | None
    llm_types: list[tuple[str, int, int]] = field(default_factory=list)
    mmproj_types: list[tuple[str, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checkpoint_bytes: int = 0
    output_bytes: int = 0
    is_dry_run: bool = False
    convert_memory_bytes: int = 0
    run_memory_bytes: int = 0
    run_n_ctx: int = 0

    def table(self) -> str:
        """Tensors and bytes by type, and sizes before and after, as text."""
        files = [(self.llm_path, self.llm_types), (self.mmproj_path, self.mmproj_types)]
        named = [(path.name, rows) for path, rows in files if path is not None]
        width = max([40, *(len(name) for name, _ in named)])
        lines = [f"{'file':<{width}} {'type':<6} {'tensors':>8} {'bytes':>15}"]
        for name, rows in named:
            lines += [f"{name:<{width}} {kind:<6} {count:>8} {size:>15,}" for kind, count, size in rows]
        about = "about " if self.is_dry_run else ""
        part = f" ({self.output_bytes / self.checkpoint_bytes:.0%})" if self.checkpoint_bytes else ""
        lines.append(f"checkpoint {_gb(self.checkpoint_bytes)} -> {about}{_gb(self.output_bytes)}{part}")
        if self.is_dry_run:
            cache = f" with {self.run_n_ctx} tokens of context" if self.run_n_ctx else ""
            lines.append(
                f"memory: about {_gb(self.convert_memory_bytes)} to convert; to run{cache} "
                f"{_gb(self.run_memory_bytes)} (weights{' and KV cache' if cache else ''})"
            )
            lines.append("dry run: nothing was written")
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
    llm: str | Path | None = None,
    imatrix: str | Path | None = None,
    dry_run: bool = False,
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
        name: of the model; file names then begin with it. Default: see naming.py.
        llm_only: no mmproj.
        vision_only: no LLM.
        llm: the GGUF of this checkpoint's LLM that somebody else made; only the mmproj is written then, to
            go with it, and the checkpoint's LLM needs no weights.
        imatrix: an importance matrix for the LLM's quantisation, as llama.cpp's imatrix tool writes it.
        dry_run: checks everything and says what would be written, but writes nothing.
        on_progress: (stage, bytes done, bytes in all), stage "llm", "llm-quantize" or "mmproj".

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
    if imatrix is not None and (vision_only or llm is not None or llm_type not in BY_LLAMA_CPP):
        why = f"{llm_type} does not use it"
        if vision_only or llm is not None:
            why = f"{'vision_only' if vision_only else 'llm'} writes no LLM"
        raise ValueError(f"an importance matrix is for LLMs in {', '.join(BY_LLAMA_CPP)}; {why}")
    if llm is not None and llm_only:
        raise ValueError("llm names an LLM that is there already, and llm_only writes nothing else")
    directory = Path(checkpoint_dir)
    out = Path(out_dir)
    report: ProgressCallback = on_progress or (lambda stage, done, total: None)

    given = read_llm(llm) if llm is not None else None
    vision_only = vision_only or given is not None
    checkpoint = Checkpoint(directory, llm_needed=given is None)
    family = recognise(checkpoint)
    if vision_only and family.vision is None:
        raise UnsupportedModelError(
            f"{directory / 'config.json'} describes a text-only model; it has no vision part"
        )
    llm_specs = family.decoder.specs(family.text_prefix)
    vision_specs = family.vision.specs() if family.vision is not None else []
    patterns = family.decoder.dropped(family.text_prefix)
    patterns += family.vision.dropped() if family.vision is not None else []
    needed = [spec for spec in llm_specs if given is None or spec.source in checkpoint] + vision_specs
    dropped = account(checkpoint, needed, patterns)

    n_parameters = sum(math.prod(spec.stored_shape) for spec in llm_specs if spec.source)
    identity, notes = identify(directory, n_parameters, name)
    notes += (
        [f"{len(dropped)} tensors that are not needed were left out: {_shortened(dropped)}"]
        if dropped
        else []
    )
    notes += family.notes
    pair_id = checkpoint.fingerprint()
    if given is not None:
        notes += given.check(family.decoder)
        pair_id = given.pair_id or ""
    llm_path = mmproj_path = None
    jobs: list[_Job] = []
    if not vision_only:
        vocabulary = tokenizer.load(family.tokenizer_dir or directory, family.text_config)
        vocabulary.pre = family.decoder.PRE.get(vocabulary.pre, vocabulary.pre)
        if family.prompt is not None:
            family.prompt.apply(vocabulary)
        vocabulary.fit(family.decoder.n_vocab)
        notes += family.decoder.notes + vocabulary.notes
        importance = None
        if imatrix is not None:
            importance = read_imatrix(imatrix)
            notes += importance.check(llm_specs)
        jobs.append(
            _LlmJob(
                checkpoint, family, vocabulary, llm_specs, llm_type, identity, pair_id, report, importance
            )
        )
        llm_path = out / jobs[-1].file_name
    if family.vision is not None and not llm_only:
        notes += family.vision.notes()
        jobs.append(_MmprojJob(checkpoint, family, vision_specs, mmproj_type, identity, pair_id, report))
        mmproj_path = out / jobs[-1].file_name
    tables: dict[str, list[tuple[str, int, int]]] = {}
    if dry_run:
        for job in jobs:
            tables[job.file_name] = job.plan()
            notes += job.type_notes()
        output_bytes = sum(size for rows in tables.values() for _, _, size in rows)
    else:
        output_bytes = 0
        with Staging(out) as staging:
            staging.need(sum(job.disk_bytes() for job in jobs))
            for job in jobs:
                part = job.run(staging)
                tables[job.file_name] = tensor_table(part)
                notes += job.type_notes()
                output_bytes += part.stat().st_size
            staging.commit()
    decoder = family.decoder
    n_ctx = 0 if llm_path is None else min(DEFAULT_N_CTX, decoder.n_ctx)
    kv_bytes = n_ctx * decoder.n_layer * decoder.n_head_kv * decoder.head_dim * 2 * 2  # keys, values in F16
    return ConversionResult(
        llm_path,
        mmproj_path,
        tables.get(llm_path.name, []) if llm_path else [],
        tables.get(mmproj_path.name, []) if mmproj_path else [],
        notes,
        checkpoint_bytes=sum(path.stat().st_size for path in {t.path for t in checkpoint.tensors.values()}),
        output_bytes=output_bytes,
        is_dry_run=dry_run,
        convert_memory_bytes=max(job.memory_bytes() for job in jobs),
        run_memory_bytes=output_bytes + kv_bytes,
        run_n_ctx=n_ctx,
    )


class _Job:
    """One output file."""

    stage: str
    file_name: str

    def __init__(
        self, checkpoint: Checkpoint, specs: list[TensorSpec], file_type: str, identity: Identity,
        pair_id: str, report: ProgressCallback,
    ) -> None:  # fmt: skip
        self.checkpoint = checkpoint
        self.specs = specs
        self.file_type = file_type
        self.identity = identity
        self.pair_id = pair_id
        self.report = report

    def new_writer(self, arch: str, kind: str, file_type: str) -> gguf.GGUFWriter:
        """A writer with the keys that every file has."""
        writer = gguf.GGUFWriter(None, arch)
        writer.add_type(kind)
        self.identity.add_metadata(writer)
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

    def tensors(self) -> list[tuple[TensorSpec, gguf.GGMLQuantizationType]]:
        """What is streamed from the checkpoint."""
        kind = self.written_type()
        return [(spec, tensor_type(spec, kind)) for spec in self.specs]

    def plan(self) -> list[tuple[str, int, int]]:
        """(type, tensors, bytes) of the file, without writing it."""
        counts: dict[str, tuple[int, int]] = {}
        for spec, kind in self.final_types():
            count, size = counts.get(kind.name, (0, 0))
            counts[kind.name] = (count + 1, size + n_bytes(spec.stored_shape, kind))
        return sorted(((kind, *numbers) for kind, numbers in counts.items()), key=lambda row: -row[2])

    def final_types(self) -> list[tuple[TensorSpec, gguf.GGMLQuantizationType]]:
        """The type of every tensor in the file."""
        return self.tensors()

    def memory_bytes(self) -> int:
        """Most that the job takes, roughly: the largest tensor as it is stored, and slabs on the way."""
        largest = max((n_bytes(spec.stored_shape, kind) for spec, kind in self.tensors()), default=0)
        return PROCESS_BYTES + largest + 6 * 4 * SLAB

    def write(self, path: Path, writer: gguf.GGUFWriter) -> None:
        """Streams the tensors."""
        write(
            path, writer, self.tensors(), self.checkpoint,
            lambda done, total: self.report(self.stage, done, total),
        )  # fmt: skip

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
        file_type: str, identity: Identity, pair_id: str, report: ProgressCallback,
        imatrix: ImportanceMatrix | None,
    ) -> None:  # fmt: skip
        super().__init__(checkpoint, specs, file_type, identity, pair_id, report)
        self.family = family
        self.vocabulary = vocabulary
        self.imatrix = imatrix
        self.file_name = f"{identity.stem}-{file_type.upper()}.gguf"

    def written_type(self) -> str:
        """Types that llama.cpp makes start from a file without loss."""
        if self.file_type in BY_LLAMA_CPP:
            sources = [self.checkpoint.tensors[s.source].dtype for s in self.specs if s.kind == MATRIX]
            return lossless_type(sources)
        return self.file_type

    def disk_bytes(self) -> int:
        # In percent of F16; the output is made beside the file that it is made from.
        part = {"q4_0": 33, "q4_k_m": 35, "q5_k_m": 39, "q6_k": 44}.get(self.file_type, 0)
        f16 = sum(n_bytes(s.stored_shape, gguf.GGMLQuantizationType.F16) for s in self.specs)
        return super().disk_bytes() + f16 * part // 100

    def final_types(self) -> list[tuple[TensorSpec, gguf.GGMLQuantizationType]]:
        if self.file_type not in BY_LLAMA_CPP:
            return super().final_types()
        writer = self.new_writer(self.family.decoder.ARCH, "model", self.written_type())
        self.family.decoder.add_metadata(writer)
        kinds = predict_types(writer, self.tensors(), self.file_type, self.imatrix)
        return [(spec, kinds[spec.name]) for spec in self.specs]

    def run(self, staging: Staging) -> Path:
        decoder = self.family.decoder
        writer = self.new_writer(decoder.ARCH, "model", self.written_type())
        decoder.add_metadata(writer)
        self.vocabulary.add_metadata(writer)
        part = staging.path(self.file_name)
        if self.file_type not in BY_LLAMA_CPP:
            self.write(part, writer)
            return part
        saved = None
        if self.imatrix is not None:
            self.imatrix.add_metadata(writer)
            saved = staging.path(f"{self.file_name}.imatrix", scratch=True)
            self.imatrix.save(saved)
        scratch = staging.path(f"{self.file_name}.{self.written_type()}", scratch=True)
        self.write(scratch, writer)
        sizes = {spec.name: n_bytes(spec.stored_shape, kind) for spec, kind in self.tensors()}
        quantize_by_llama_cpp(
            scratch, part, self.file_type, sizes,
            lambda done, total: self.report("llm-quantize", done, total), imatrix=saved,
        )  # fmt: skip
        scratch.unlink()
        return part

    def type_notes(self) -> list[str]:
        if self.file_type not in BY_LLAMA_CPP:
            return super().type_notes()
        block = 32 if self.file_type == "q4_0" else 256
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
        self, checkpoint: Checkpoint, family: Family, specs: list[TensorSpec], file_type: str,
        identity: Identity, pair_id: str, report: ProgressCallback,
    ) -> None:  # fmt: skip
        if file_type in ("q8_0", "q4_0"):
            specs = rebalance(checkpoint, specs)
        super().__init__(checkpoint, specs, file_type, identity, pair_id, report)
        assert family.vision is not None
        self.vision = family.vision
        self.file_name = f"mmproj-{identity.stem}-{file_type.upper()}.gguf"

    def run(self, staging: Staging) -> Path:
        writer = self.new_writer("clip", "mmproj", self.file_type)
        self.vision.add_metadata(writer)
        part = staging.path(self.file_name)
        self.write(part, writer)
        return part


def _gb(n: int) -> str:
    """Bytes as file managers show them."""
    return f"{n / 1e9:.2f} GB" if n >= 10**9 else f"{n / 1e6:.1f} MB" if n >= 10**6 else f"{n / 1e3:.1f} kB"


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")
