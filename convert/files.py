"""The GGUF files of a conversion: what each needs, which types its tensors get, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf

from .checkpoint.directory import Checkpoint
from .families.recognise import Family
from .output.by_llama_cpp import predict_types, quantize_by_llama_cpp
from .output.gguf_head import count_types
from .output.imatrix import ImportanceMatrix
from .output.naming import Identity
from .output.tensor_types import BY_LLAMA_CPP, DIRECT, lossless_type, n_bytes, tensor_type
from .output.writer import SLAB, Staging, write
from .tensors import MATRIX, TensorSpec
from .tokenizers.vocabulary import Vocabulary
from .vision.rebalance import rebalance
from .vision.siglip import SiglipProjector

PROCESS_BYTES = 150 << 20  # Python, numpy, gguf
StageProgress = Callable[[str, int, int], object]  # (stage, bytes done, bytes in all)


def shortened(names: list[str]) -> str:
    """The first of some names, and how many there are."""
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")


class OutputFile:
    """One GGUF file that a conversion writes."""

    stage: str
    file_name: str

    def __init__(
        self, checkpoint: Checkpoint, specs: list[TensorSpec], file_type: str, identity: Identity,
        pair_id: str, report: StageProgress,
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
        return count_types([(kind, spec.stored_shape) for spec, kind in self.final_types()])

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

    def notes(self) -> list[str]:
        """Matrices that could not take the type asked for."""
        wanted, _ = DIRECT[self.file_type]
        others = [s.name for s in self.specs if s.kind == MATRIX and tensor_type(s, self.file_type) != wanted]
        if not others:
            return []
        return [
            f"{len(others)} matrices have rows that are no multiple of 32 and are F16: {shortened(others)}"
        ]


class LlmFile(OutputFile):
    """The language model."""

    stage = "llm"

    def __init__(
        self, checkpoint: Checkpoint, family: Family, vocabulary: Vocabulary, specs: list[TensorSpec],
        file_type: str, identity: Identity, pair_id: str, report: StageProgress,
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

    def notes(self) -> list[str]:
        if self.file_type not in BY_LLAMA_CPP:
            return super().notes()
        block = 32 if self.file_type == "q4_0" else 256
        others = [s.name for s in self.specs if s.kind == MATRIX and s.stored_shape[-1] % block]
        if not others:
            return []
        return [
            f"{len(others)} matrices have rows that are no multiple of {block}; llama.cpp chose larger "
            "types for them: " + shortened(others)
        ]


class MmprojFile(OutputFile):
    """Tower and projector."""

    stage = "mmproj"

    def __init__(
        self, checkpoint: Checkpoint, vision: SiglipProjector, specs: list[TensorSpec], file_type: str,
        identity: Identity, pair_id: str, report: StageProgress,
    ) -> None:  # fmt: skip
        if file_type in ("q8_0", "q4_0"):
            specs = rebalance(checkpoint, specs)
        super().__init__(checkpoint, specs, file_type, identity, pair_id, report)
        self.vision = vision
        self.file_name = f"mmproj-{identity.stem}-{file_type.upper()}.gguf"

    def notes(self) -> list[str]:
        """What differs from the checkpoint, and matrices of another type."""
        return self.vision.notes() + super().notes()

    def run(self, staging: Staging) -> Path:
        writer = self.new_writer("clip", "mmproj", self.file_type)
        self.vision.add_metadata(writer)
        part = staging.path(self.file_name)
        self.write(part, writer)
        return part
