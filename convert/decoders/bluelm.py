"""BlueLM-7B: Llama plus a LayerNorm behind the token embedding.

llama.cpp (0c1e570) has no architecture of that kind. None is needed: the norm sees one token's embedding and
nothing else, so that it is applied to the rows of the embedding matrix here, once, and what is left is Llama.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..checkpoint.config import Section
from ..checkpoint.directory import Float32
from ..errors import UnsupportedModelError
from ..tensors import TensorSpec
from .llama import Llama


class BlueLM(Llama):
    """`BlueLMForCausalLM` (model_type "BlueLM") of vivo's BlueLM-7B, written as llama.cpp's "llama"."""

    MODEL_TYPE = "BlueLM"

    def __init__(self, config: Section) -> None:
        super().__init__(config)
        self.embedding_norm = config.boolean("use_stable_embedding", False)
        if not self.embedding_norm:
            return
        if self.tied:
            raise UnsupportedModelError(
                f"{config.path}: tie_word_embeddings is true with use_stable_embedding, and llama.cpp has no "
                "architecture with a LayerNorm behind the token embedding; supported: untied models, where "
                "the norm goes into the embedding matrix"
            )
        self.notes.append("the LayerNorm behind the token embedding went into the embedding matrix (exact)")

    def specs(self, prefix: str) -> list[TensorSpec]:
        """The tensor table; see Decoder."""
        out = super().specs(prefix)
        if self.embedding_norm:
            norm, shape = f"{prefix}model.embed_layer_norm", (self.n_embd,)
            also = ((f"{norm}.weight", shape), (f"{norm}.bias", shape))
            out[0] = replace(out[0], transform=self._normalise, also=also, row_wise=True)
        return out

    def _normalise(self, values: Float32, weight: Float32, bias: Float32) -> Float32:
        """LayerNorm of every row: [n, n_embd]."""
        rows = values.astype(np.float64)
        rows -= rows.mean(-1, keepdims=True)
        rows /= np.sqrt((rows**2).mean(-1, keepdims=True) + self.norm_eps)
        return (rows * weight + bias).astype(np.float32)
