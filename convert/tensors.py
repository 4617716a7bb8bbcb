"""Which tensor of the checkpoint becomes which tensor of the GGUF file, and the accounting of both sides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .checkpoint.directory import Checkpoint, Float32
from .errors import TensorError

MATRIX = "matrix"  # takes the file's type
PATCH = "patch"  # F32, F16 or BF16: the patch embedding
VECTOR = "vector"  # always F32: norms, biases, positions


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the output.

    Attributes:
        name: in the GGUF file.
        source: in the checkpoint; "" for a computed tensor (then `transform` ignores its argument).
        shape: in the checkpoint, rows first.
        kind: MATRIX, PATCH or VECTOR.
        out_shape: after `transform`; None for the same.
        transform: float32 [shape] -> float32 [out_shape]; None for identity.
        also: names and shapes of further tensors that `transform` takes behind the first.
        row_wise: `transform` treats every row alone, so that some rows may be given to it at a time.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    kind: str = VECTOR
    out_shape: tuple[int, ...] | None = None
    transform: Callable[..., Float32] | None = None
    also: tuple[tuple[str, tuple[int, ...]], ...] = ()
    row_wise: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape in the GGUF file, rows first."""
        return self.shape if self.out_shape is None else self.out_shape

    def load(self, checkpoint: Checkpoint) -> Float32:
        """Reads and transforms the tensor.

        Raises:
            TensorError: NaN or infinite values.
        """
        values = checkpoint.read(self.source) if self.source else NOTHING
        if self.transform is not None:
            values = self.transform(values, *(checkpoint.read(name) for name, _ in self.also))
        assert values.shape == self.stored_shape, (self.name, values.shape, self.stored_shape)
        return values


NOTHING: Float32 = np.zeros(0, np.float32)


def account(checkpoint: Checkpoint, specs: Iterable[TensorSpec], dropped: Iterable[str]) -> list[str]:
    """Checks that every tensor is used exactly as expected, or known to be dropped.

    Args:
        checkpoint: with the names that the specs use.
        specs: of all output files together.
        dropped: regular expressions (whole names) of tensors that are known and not needed.

    Returns:
        The names of the dropped tensors.

    Raises:
        TensorError: every missing, misshapen and left-over tensor in one message, one line each.
    """
    problems: list[str] = []
    used: set[str] = set()
    for spec in specs:
        for source, shape in ((spec.source, spec.shape), *spec.also):
            if not source or source in used:
                continue
            used.add(source)
            if source not in checkpoint:
                problems.append(f"missing: {source} {list(shape)}")
            elif checkpoint.shape(source) != shape:
                found = list(checkpoint.shape(source))
                problems.append(f"wrong shape: {source} is {found}, config.json asks for {list(shape)}")
    patterns = [re.compile(pattern) for pattern in dropped]
    left_out = [name for name in checkpoint if name not in used]
    unknown = [name for name in left_out if not any(p.fullmatch(name) for p in patterns)]
    problems += [f"not known: {name} {list(checkpoint.shape(name))}" for name in unknown]
    if problems:
        raise TensorError(
            f"{checkpoint.directory}: {len(problems)} tensors do not fit config.json; "
            "check that config and weights belong together:\n  " + "\n  ".join(problems)
        )
    return left_out
