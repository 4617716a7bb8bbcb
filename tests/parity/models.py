"""The small random models of the parity tests."""

from __future__ import annotations

from typing import Any

import mmproj_writer
import numpy as np
from reference_model import ReferenceBlueLMV

# Small models that between them take every branch of the graph: padded and unpadded FFN, odd and even
# grids, head sizes 16 to 72, both token orders, with and without the optional norms, both activations
# of the projector.
MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "norms": {
        "input_norm": True,
        "projector": {"token_order": "column_major", "hidden_act": "gelu_tanh"},
        "config": {"vision_post_layernorm": True},
        "seed": 1,
    },
    "no_downsample": {"downsample": 1, "projector": {"token_order": "column_major"}, "seed": 2},
    "head_dim_72": {
        "vision": {"hidden_size": 288, "intermediate_size": 256, "num_attention_heads": 4, "image_size": 224},
        "seed": 3,
    },  # 16x16 patches: nothing to pad
    "feature_layer": {
        "vision": {"num_hidden_layers": 3, "image_size": 100, "patch_size": 20},
        "config": {
            "vision_feature_layer": -2,
            "image_mean": [0.48, 0.46, 0.41],
            "image_std": [0.27, 0.26, 0.28],
        },
        "seed": 4,
    },
}


def dequantised(model: ReferenceBlueLMV, file_type: str) -> ReferenceBlueLMV:
    """The model with the weights that a file of this type holds, in float32."""
    return mmproj_writer.load_tensors(model, mmproj_writer.tensors(model, file_type))


def random_tiles(n: int, size: int, seed: int = 0) -> np.ndarray:
    """[n, size, size, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
