"""MiniCPM-1B and 2B: Llama with scaled embeddings, residual branches and logits."""

from __future__ import annotations

import math
from typing import ClassVar

import gguf

from ..checkpoint.config import Section
from .llama import Llama


class MiniCPM(Llama):
    """`MiniCPMForCausalLM` (model_type "minicpm"); llama.cpp's "minicpm" (src/models/minicpm.cpp).

    Embeddings are multiplied by `scale_emb`, what a block adds by `scale_depth / sqrt(layers)`, and the
    head's input is divided by `hidden_size / dim_model_base`.
    """

    ARCH = "minicpm"
    MODEL_TYPE = "minicpm"
    TIED: ClassVar[bool] = True

    def __init__(self, config: Section) -> None:
        super().__init__(config)
        self.embedding_scale = config.number("scale_emb", 1.0)
        self.residual_scale = config.number("scale_depth", 1.0) / math.sqrt(self.n_layer)
        self.logit_scale = self.n_embd / config.number("dim_model_base", 1.0)

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        """Adds the keys of llama.cpp's `minicpm.*`."""
        super().add_metadata(writer)
        writer.add_embedding_scale(self.embedding_scale)
        writer.add_residual_scale(self.residual_scale)
        writer.add_logit_scale(self.logit_scale)
