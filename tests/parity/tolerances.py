"""How far a stage may be from torch, by (stage, type of the file), and the measure for it.

The torch reference is given the file's own weights (dequantised), so what is left is arithmetic: the
order of additions, and the type that activations are rounded to in front of a matmul. Every figure is
about three times what was seen over the configurations of test_stages.py.
"""

from __future__ import annotations

import numpy as np

# float32 throughout; only the order of additions differs. Well inside the 1e-4 promised for features.
_F32 = {"pixels": 0.0, "patch_embd": 3e-6, "layer": 5e-6, "post_ln": 5e-6, "merged": 5e-6, "projector": 5e-6}
# Matmul inputs are rounded to 11 significant bits: 2^-12 relative each, averaged down by the sum.
_F16 = {"pixels": 0.0, "patch_embd": 8e-4, "layer": 2e-3, "post_ln": 2e-3, "merged": 2e-3, "projector": 3e-3}
# Matmul inputs are rounded to 8 significant bits: 2^-9 relative each.
_BF16 = {
    "pixels": 0.0,
    "patch_embd": 6e-3,
    "layer": 1.5e-2,
    "post_ln": 1.5e-2,
    "merged": 1.5e-2,
    "projector": 2.5e-2,
}
# Matmul inputs are quantised to 8 bits with one scale per token (by ggml: per 32 values): up to 1/254 of the
# largest value each, anew in front of each of the six matmuls of a block. (ggml's patch embedding: F16.)
_Q8_0 = {"pixels": 0.0, "patch_embd": 8e-4, "layer": 5e-2, "post_ln": 5e-2, "merged": 5e-2, "projector": 9e-2}

TOLERANCES: dict[str, dict[str, float]] = {
    "f32": _F32,
    "f16": _F16,
    "bf16": _BF16,
    "q8_0": _Q8_0,
    "q4_0": _Q8_0,  # 4-bit weights meet the same 8-bit inputs, and the weights' own error is in the reference
}


def tolerance(stage: str, file_type: str) -> float:
    """The bound for `relative_error`; "layer.3" counts as "layer"."""
    return TOLERANCES[file_type][stage.partition(".")[0]]


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """The worst token: the largest ||ours - reference|| / ||reference|| over the last axis.

    One wrong token among 729 shows, which it would not in an average; rows of zeros (padding) must be zeros.
    """
    difference = np.linalg.norm((ours - reference).astype(np.float64), axis=-1)
    size = np.linalg.norm(reference.astype(np.float64), axis=-1)
    assert np.all(difference[size == 0] == 0)
    return float(np.max(difference / np.where(size == 0, 1, size)))
