"""Llama: no biases unless the config says so; q and k rows are stored in another order in GGUF."""

from __future__ import annotations

from typing import ClassVar

from .decoder import Decoder


class Llama(Decoder):
    """`LlamaForCausalLM` (model_type "llama"): Llama 2 and 3, SmolLM2, TinyLlama, Sheared-LLaMA, ..."""

    ARCH = "llama"
    MODEL_TYPE = "llama"
    DEFAULTS: ClassVar[dict[str, int]] = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    }
    ROPE_HALVES = True

    def biases(self) -> set[str]:
        """`attention_bias` and `mlp_bias` switch the biases of a group on."""
        out: set[str] = set()
        if self.config.boolean("attention_bias", False):
            out |= {"attn_q", "attn_k", "attn_v", "attn_output"}
        if self.config.boolean("mlp_bias", False):
            out |= {"ffn_gate", "ffn_up", "ffn_down"}
        return out
