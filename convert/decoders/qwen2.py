"""Qwen2 and Qwen2.5: biases on q, k and v; llama.cpp rotates halves as the checkpoint does."""

from __future__ import annotations

from typing import ClassVar

from ..checkpoint.config import Section
from ..errors import UnsupportedModelError
from .decoder import Decoder


class Qwen2(Decoder):
    """`Qwen2ForCausalLM` (model_type "qwen2")."""

    ARCH = "qwen2"
    MODEL_TYPE = "qwen2"
    DEFAULTS: ClassVar[dict[str, int]] = {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 32768,
    }
    ROPE_HALVES = False

    def __init__(self, config: Section) -> None:
        super().__init__(config)
        if config.boolean("use_sliding_window", False):
            raise UnsupportedModelError(
                f"{config.path}: {config.prefix}use_sliding_window is true, which llama.cpp does not run "
                "for Qwen2; "
                "supported: false"
            )

        if self.head_dim * self.n_head != self.n_embd:
            raise UnsupportedModelError(
                f"{config.path}: {config.prefix}head_dim {self.head_dim} times {self.n_head} heads is not "
                f"hidden_size {self.n_embd}, which llama.cpp does not run for Qwen2"
            )
        if self.rope.scaling == "llama3":
            raise UnsupportedModelError(
                f"{config.path}: rope scaling 'llama3' does not exist for Qwen2 in llama.cpp; supported: "
                "linear, yarn"
            )

    def biases(self) -> set[str]:
        """q, k and v always have one."""
        return {"attn_q", "attn_k", "attn_v"}
