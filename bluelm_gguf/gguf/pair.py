"""Whether a language model and a vision file belong together, from their heads alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from ..errors import MismatchError, UnsupportedModelError
from .head import GgufHead, read_head
from .kinds import check_llm_file, check_mmproj_file
from .projector import projector_width


@dataclass(frozen=True)
class Verdict:
    """The answer for two files.

    Attributes:
        runs: the vision file's embeddings have the width that the language model reads.
        belongs: True: made from the same checkpoint. False: not, or `runs` is False. None: the files do not
            say.
        reason: in a few words.
    """

    runs: bool
    belongs: bool | None
    reason: str


def judge(llm: GgufHead, mmproj: GgufHead) -> Verdict:
    """Compares width and pair id of a language model and a vision file."""
    n_embd = llm.of_architecture("embedding_length")
    n_out = projector_width(mmproj)
    if isinstance(n_embd, int) and isinstance(n_out, int) and n_embd != n_out:
        return Verdict(
            False, False, f"the vision file makes embeddings of width {n_out}, the LLM reads {n_embd}"
        )
    ids = llm.metadata.get("bluelm.pair_id"), mmproj.metadata.get("bluelm.pair_id")
    width = f"both have width {n_embd}" if n_embd == n_out and n_embd is not None else "widths unknown"
    if None in ids:
        return Verdict(True, None, f"{width}, but not both say which checkpoint they come from")
    if ids[0] != ids[1]:
        return Verdict(True, False, f"{width}, but they come from different checkpoints")
    return Verdict(True, True, f"{width}, made from the same checkpoint")


def check_pair(llm: GgufHead, mmproj: GgufHead) -> None:
    """Makes sure that a language model and a vision file belong together, before either is loaded.

    Files of different checkpoints are warned of: one part may have been trained on with the other frozen.

    Raises:
        MismatchError: the projector's width is not the LLM's; the message names both files and both numbers.
    """
    verdict = judge(llm, mmproj)
    if not verdict.runs:
        n_embd = llm.of_architecture("embedding_length")
        n_out = projector_width(mmproj)
        raise MismatchError(
            f"{mmproj.path} makes embeddings of width {n_out}, but {llm.path} needs {n_embd}: they "
            "do not belong together"
        )
    if verdict.belongs is False:
        warnings.warn(
            f"{mmproj.path} and {llm.path} come from different checkpoints; answers may be nonsense",
            stacklevel=4,
        )


def read_pair(llm: str | Path, mmproj: str | Path) -> tuple[GgufHead, GgufHead]:
    """Reads the heads of both files and makes sure that they can be used together.

    Raises:
        ModelFileError, ModelFormatError: a file is missing or broken.
        UnsupportedModelError: a file is of the wrong kind; the message says whether the two are swapped, or
            which kind is there twice.
        MismatchError: see `check_pair`.
    """
    try:
        llm_head = check_llm_file(llm)
    except UnsupportedModelError:
        first, second = read_head(llm), read_head(mmproj)
        if not first.is_mmproj:
            raise
        what = f"{first.path}: this is a vision file (mmproj), and"
        if second.is_mmproj:
            raise UnsupportedModelError(
                f"{what} so is {second.path}: the language model is missing"
            ) from None
        raise UnsupportedModelError(f"{what} {second.path} is none: give them the other way round") from None
    mmproj_head = check_mmproj_file(mmproj)
    check_pair(llm_head, mmproj_head)
    return llm_head, mmproj_head
