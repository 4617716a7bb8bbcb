"""Which files of a repository make a model: llama.cpp's rules for `-hf owner/repo[:quant]`.

Read in llama.cpp's common/download.cpp at the commit that llama-cpp-python 0.3.36 carries (find_best_model,
get_split_files, find_best_sibling):

- the model is the first file, in the listing's order, whose path has the quant followed by "." or "-";
  without a quant Q4_K_M is looked for, then Q8_0, then any model; a quant that is not there is an error;
- files with mmproj, imatrix, mtp-, eagle3-, dflash- or dspark- in their name are no models;
- of a split model (NAME-00001-of-00003.gguf) the first part stands for all, and all parts are taken;
- the mmproj is a .gguf with "mmproj" in its path that lies in the model's directory or one above it: the
  nearest directory wins, then the number of bits closest to the model's, then the first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")
_NO_MODEL = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_SPLIT = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})", re.IGNORECASE)
_TAG = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """Paths in a repository.

    Attributes:
        parts: of the language model, in order; the first is what is loaded.
        mmproj: None where the repository has none.
        n_parts: how many parts the first one's name promises.
    """

    parts: tuple[str, ...]
    mmproj: str | None
    n_parts: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether every part of a split model is among the files."""
        return len(self.parts) == self.n_parts

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        return self.parts if self.mmproj is None else (*self.parts, self.mmproj)


def choose(paths: Sequence[str], quant: str = "") -> Choice | None:
    """The model of a quant and its vision file; None where there is no such model.

    Args:
        paths: Of the repository, with "/", in the order of its listing.
        quant: As in owner/repo:quant; "" takes the first of `DEFAULT_QUANTS` that is there, or any.
    """
    model = _best_model(paths, quant)
    return None if model is None else choose_for(paths, model)


def choose_for(paths: Sequence[str], model: str) -> Choice:
    """The same for a model whose path is known."""
    prefix, _, _, count = _split_info(model)
    parts = [model]
    if count > 1:
        rows = [(_split_info(path), path) for path in paths]
        parts = [path for row, path in sorted(rows) if (row[0], row[3]) == (prefix, count)]
    return Choice(tuple(parts), best_mmproj(paths, model), count)


def quants(paths: Sequence[str]) -> tuple[str, ...]:
    """The quants of the models among some paths, in their order; what `choose` finds by them."""
    tags = [_split_info(path) for path in paths if is_model(path)]
    return tuple(dict.fromkeys(tag for _, tag, index, _ in tags if tag and index == 1))


def quant_of(path: str) -> str:
    """The quant at the end of a file's name, in capitals; "" where there is none."""
    return _split_info(path)[1]


def is_model(path: str) -> bool:
    """Whether a file's name is that of a language model."""
    name = path.rsplit("/", 1)[-1]
    return path.endswith(".gguf") and not any(word in name for word in _NO_MODEL)


def best_mmproj(paths: Sequence[str], model: str) -> str | None:
    """The vision file that belongs to a model."""
    bits, directory = _bits(model), model.split("/")[:-1]
    best: tuple[int, int] | None = None
    found = None
    for path in paths:
        its = path.split("/")[:-1]
        if not path.endswith(".gguf") or "mmproj" not in path or directory[: len(its)] != its:
            continue
        rank = len(its), -abs(_bits(path) - bits)
        if best is None or rank > best:
            best, found = rank, path
    return found


def _best_model(paths: Sequence[str], quant: str) -> str | None:
    models = [path for path in paths if is_model(path) and _split_info(path)[2] == 1]
    for tag in (quant,) if quant else DEFAULT_QUANTS:
        pattern = re.compile(re.escape(tag) + "[.-]", re.IGNORECASE)
        for path in models:
            if pattern.search(path):
                return path
    return models[0] if models and not quant else None


def _split_info(path: str) -> tuple[str, str, int, int]:
    """What comes before the part's number, the quant, the part's number, and how many parts there are."""
    if not path.endswith(".gguf"):
        return "", "", 0, 0
    prefix, index, count = path.removesuffix(".gguf"), 1, 1
    match = _SPLIT.fullmatch(prefix)
    if match:
        prefix, index, count = match[1], int(match[2]), int(match[3])
    tag = _TAG.search(prefix)
    return prefix, tag[1].upper() if tag else "", index, count


def _bits(path: str) -> int:
    """Q4_0: 4, F16: 16, Q8_K_M: 8; 0 where the name says nothing."""
    match = re.search(r"\d+", _split_info(path)[1])
    return int(match[0]) if match else 0
