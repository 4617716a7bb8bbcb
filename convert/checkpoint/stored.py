"""Where one tensor of a checkpoint lies, whatever kind of file holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

# safetensors dtype -> how its bytes are read; BF16 has no numpy type and is widened by hand.
DTYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1,
              "F8_E5M2": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        name: as in the file.
        path: the file.
        dtype: safetensors' name ("F32", "BF16", ...).
        shape: rows first.
        offset: of the first byte in the file; 0 with `data`.
        n_bytes: length of the data.
        data: gives the bytes [n_bytes] of a tensor that does not lie in one piece in the file.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    data: Callable[[], Array] | None = None
