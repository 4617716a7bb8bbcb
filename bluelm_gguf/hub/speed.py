"""How long a catalogue's model takes to its first word on this machine, from what `bench` measured here.

Prefill takes time in proportion to tokens and parameters, our encoder in proportion to patches and
parameters. That is a rule of thumb: kernels, threads and memory move it by some tens of per cent. For a tower
that libmtmd runs there is no measurement to start from, and none is made up.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalogue import Entry

QUESTION_TOKENS = 32
_PATCHES_PER_TILE = 729  # of the tower that bench measures: SigLIP at 384 pixels in patches of 14


@dataclass(frozen=True)
class FirstAnswer:
    """Seconds from the question to the first word, about one view of a picture.

    Attributes:
        prefill_s: the view's tokens and a question of `QUESTION_TOKENS`.
        encode_s: the view; None where nothing was measured.
    """

    prefill_s: float
    encode_s: float | None

    def __str__(self) -> str:
        if self.encode_s is None:
            return f"{_seconds(self.prefill_s)} + picture"
        return _seconds(self.prefill_s + self.encode_s)


def _seconds(s: float) -> str:
    return f"{s:.1f} s" if s < 10 else f"{s:.0f} s"


def results_path(directory: Path) -> Path:
    """Where `bench --save` puts what it measured on this machine."""
    node = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node()) or "here"
    return directory / f"bench-{node}.json"


def read_results(path: Path) -> list[Mapping[str, Any]]:
    """The rows of `bench`; none where the file is not there or is something else."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("test"), str)]


def first_answer(entry: Entry, rows: Sequence[Mapping[str, Any]]) -> FirstAnswer | None:
    """What to expect of a model; None where no prefill was measured.

    Args:
        entry: The model.
        rows: Of `bench -o json`.
    """
    prefill = _nearest(rows, "pp", "model_n_params", "n_prompt", entry.llm_parameters)
    if prefill is None:
        return None
    tokens = entry.vision_shape.tokens + QUESTION_TOKENS
    encode_s = None
    if entry.sees_natively:
        parameters = sum(tensor.n_elements for tensor in entry.heads[1].tensors)
        rate = _nearest(rows, "img", "mmproj_n_params", "n_tiles", parameters)
        n_patches = (entry.vision_shape.image // entry.vision_shape.patch) ** 2
        encode_s = None if rate is None else rate * parameters * n_patches / _PATCHES_PER_TILE
    return FirstAnswer(prefill * tokens * entry.llm_parameters, encode_s)


def _nearest(
    rows: Sequence[Mapping[str, Any]], test: str, size_key: str, count_key: str, parameters: int
) -> float | None:
    """Seconds per item and parameter, of the measured model closest in size; of its rows the fastest."""
    best: tuple[float, float] | None = None
    for row in rows:
        n, count, ms = (row.get(key) for key in (size_key, count_key, "avg_ms"))
        if not row["test"].startswith(test) or not all(_is_positive(x) for x in (n, count, ms)):
            continue
        assert (
            isinstance(n, (int, float)) and isinstance(count, (int, float)) and isinstance(ms, (int, float))
        )
        candidate = max(n / parameters, parameters / n), ms / 1e3 / (count * n)
        best = candidate if best is None or candidate < best else best
    return None if best is None else best[1]


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
