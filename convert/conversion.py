"""Load, validate, quantise, save."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .checkpoint.directory import Checkpoint
from .errors import UnsupportedModelError
from .families.recognise import Family, recognise
from .files import LlmFile, MmprojFile, OutputFile, StageProgress, shortened
from .options import Options
from .output.gguf_head import tensor_table
from .output.given_llm import GivenLlm, read_llm
from .output.imatrix import ImportanceMatrix, read_imatrix
from .output.naming import Identity, identify
from .output.writer import Staging
from .result import ConversionResult
from .tensors import TensorSpec, account
from .tokenizers.load import load as load_tokenizer
from .tokenizers.vocabulary import Vocabulary

DEFAULT_N_CTX = 4096  # as the runtime's


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
    on_progress: StageProgress | None = None,
) -> ConversionResult:
    """Converts a checkpoint directory.

    Writes `NAME-TYPE.gguf` and `mmproj-NAME-TYPE.gguf` into out_dir, both or none, replacing files of these
    names.

    Args:
        checkpoint_dir: config.json, safetensors, tokenizer files (docs/bluelm-v-layout.md, or text-only).
        out_dir: created if need be.
        llm_type: one of LLM_TYPES.
        mmproj_type: one of MMPROJ_TYPES.
        name: of the model; file names then begin with it. Default: see output/naming.py.
        llm_only: no mmproj.
        vision_only: no LLM.
        llm: the GGUF of this checkpoint's LLM that somebody else made; only the mmproj is written then, to
            go with it, and the checkpoint's LLM needs no weights.
        imatrix: an importance matrix for the LLM's quantisation, as llama.cpp's imatrix tool writes it.
        dry_run: checks everything and says what would be written, but writes nothing.
        on_progress: (stage, bytes done, bytes in all), stage "llm", "llm-quantize" or "mmproj".

    Raises:
        ConversionError: see errors.py; nothing is left behind.
        OptionError: llm_type, mmproj_type or the combination of flags; a ValueError.
    """
    options = Options(llm_type, mmproj_type, name, llm_only, vision_only, llm, imatrix, dry_run)
    model = _load(Path(checkpoint_dir), options)
    notes = _validate(model)
    files = _output_files(model, options, on_progress or (lambda stage, done, total: None))
    tables, output_bytes = _plan(files) if dry_run else _save(files, Path(out_dir))
    notes += [note for file in files for note in file.notes()]
    return _result(model, options, files, Path(out_dir), tables, output_bytes, notes)


@dataclass
class _Loaded:
    """A recognised checkpoint and what goes with it; no weights are read yet.

    Attributes:
        checkpoint: the directory.
        family: what it is.
        llm_specs: tensors of the LLM.
        vision_specs: tensors of tower and projector; none for text only.
        identity: name, licence and so on.
        vocabulary: the tokenizer; None where no LLM is written.
        importance: the importance matrix, if one was given.
        given: the LLM that is there already, if one was given.
        notes: what came up on the way.
    """

    checkpoint: Checkpoint
    family: Family
    llm_specs: list[TensorSpec]
    vision_specs: list[TensorSpec]
    identity: Identity
    vocabulary: Vocabulary | None
    importance: ImportanceMatrix | None
    given: GivenLlm | None
    notes: list[str] = field(default_factory=list)


def _load(directory: Path, options: Options) -> _Loaded:
    given = read_llm(options.llm) if options.llm is not None else None
    checkpoint = Checkpoint(directory, llm_needed=given is None)
    family = recognise(checkpoint)
    if not options.writes_llm and family.vision is None:
        raise UnsupportedModelError(
            f"{directory / 'config.json'} describes a text-only model; it has no vision part"
        )
    llm_specs = family.decoder.specs(family.text_prefix)
    n_parameters = sum(math.prod(spec.stored_shape) for spec in llm_specs if spec.source)
    identity, notes = identify(directory, n_parameters, options.name)
    return _Loaded(
        checkpoint,
        family,
        llm_specs,
        family.vision.specs() if family.vision is not None else [],
        identity,
        _load_vocabulary(directory, family) if options.writes_llm else None,
        read_imatrix(options.imatrix) if options.imatrix is not None else None,
        given,
        notes,
    )


def _load_vocabulary(directory: Path, family: Family) -> Vocabulary:
    vocabulary = load_tokenizer(family.tokenizer_dir or directory, family.text_config)
    vocabulary.pre = family.decoder.PRE.get(vocabulary.pre, vocabulary.pre)
    if family.prompt is not None:
        family.prompt.apply(vocabulary)
    return vocabulary


def _validate(model: _Loaded) -> list[str]:
    """Checks the parts against each other.

    Returns:
        What the user should know.

    Raises:
        ConversionError: parts that do not belong together.
    """
    family, given = model.family, model.given
    patterns = family.decoder.dropped(family.text_prefix)
    patterns += family.vision.dropped() if family.vision is not None else []
    needed = [spec for spec in model.llm_specs if given is None or spec.source in model.checkpoint]
    dropped = account(model.checkpoint, needed + model.vision_specs, patterns)
    notes = model.notes
    if dropped:
        notes.append(f"{len(dropped)} tensors that are not needed were left out: {shortened(dropped)}")
    notes += family.notes
    if given is not None:
        notes += given.check(family.decoder)
    if model.vocabulary is not None:
        model.vocabulary.fit(family.decoder.n_vocab)
        notes += family.decoder.notes + model.vocabulary.notes
    if model.importance is not None:
        notes += model.importance.check(model.llm_specs)
    return notes


def _output_files(model: _Loaded, options: Options, report: StageProgress) -> list[OutputFile]:
    pair_id = model.checkpoint.fingerprint() if model.given is None else model.given.pair_id or ""
    files: list[OutputFile] = []
    if model.vocabulary is not None:
        llm = LlmFile(
            model.checkpoint, model.family, model.vocabulary, model.llm_specs, options.llm_type,
            model.identity, pair_id, report, model.importance,
        )  # fmt: skip
        files.append(llm)
    if model.family.vision is not None and options.writes_mmproj:
        mmproj = MmprojFile(
            model.checkpoint, model.family.vision, model.vision_specs, options.mmproj_type, model.identity,
            pair_id, report,
        )  # fmt: skip
        files.append(mmproj)
    return files


TypeTable = list[tuple[str, int, int]]  # (type, tensors, bytes)


def _plan(files: Sequence[OutputFile]) -> tuple[dict[str, TypeTable], int]:
    """The types in every file, by the file's stage, and bytes in all; writes nothing."""
    tables = {file.stage: file.plan() for file in files}
    return tables, sum(size for rows in tables.values() for _, _, size in rows)


def _save(files: Sequence[OutputFile], out: Path) -> tuple[dict[str, TypeTable], int]:
    """Quantises and writes every file; the types in every file, by its stage, and bytes in all."""
    tables: dict[str, TypeTable] = {}
    output_bytes = 0
    with Staging(out) as staging:
        staging.need(sum(file.disk_bytes() for file in files))
        for file in files:
            part = file.run(staging)
            tables[file.stage] = tensor_table(part)
            output_bytes += part.stat().st_size
        staging.commit()
    return tables, output_bytes


def _result(
    model: _Loaded,
    options: Options,
    files: Sequence[OutputFile],
    out: Path,
    tables: dict[str, TypeTable],
    output_bytes: int,
    notes: list[str],
) -> ConversionResult:
    paths = {file.stage: out / file.file_name for file in files}
    decoder = model.family.decoder
    n_ctx = min(DEFAULT_N_CTX, decoder.n_ctx) if "llm" in paths else 0
    kv_bytes = n_ctx * decoder.n_layer * decoder.n_head_kv * decoder.head_dim * 2 * 2  # keys, values in F16
    sources = {tensor.path for tensor in model.checkpoint.tensors.values()}
    return ConversionResult(
        paths.get("llm"),
        paths.get("mmproj"),
        tables.get("llm", []),
        tables.get("mmproj", []),
        notes,
        checkpoint_bytes=sum(path.stat().st_size for path in sources),
        output_bytes=output_bytes,
        is_dry_run=options.dry_run,
        convert_memory_bytes=max(file.memory_bytes() for file in files),
        run_memory_bytes=output_bytes + kv_bytes,
        run_n_ctx=n_ctx,
    )
