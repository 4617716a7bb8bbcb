"""Phi-1, 1.5 and 2: LayerNorm, biases everywhere, attention beside the MLP, a part of each head rotated."""

from __future__ import annotations

from typing import ClassVar

import gguf

from ..checkpoint.config import Section
from ..errors import UnsupportedModelError
from ..tensors import MATRIX, TensorSpec
from .decoder import Decoder


class Phi(Decoder):
    """`PhiForCausalLM` (model_type "phi"); llama.cpp's "phi2" (src/models/phi2.cpp)."""

    ARCH = "phi2"
    MODEL_TYPE = "phi"
    DEFAULTS: ClassVar[dict[str, int]] = {
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    }
    ROPE_HALVES = False
    ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")
    EPS = ("layer_norm_eps", 1e-5)
    PARTIAL_ROTARY = 0.5
    PRE: ClassVar[dict[str, str]] = {"gpt-2": "phi-2"}

    def __init__(self, config: Section) -> None:
        super().__init__(config)
        where = f"{config.path}: {config.prefix}"
        if config.boolean("qk_layernorm", False):
            raise UnsupportedModelError(
                f"{where}qk_layernorm is true, which llama.cpp does not run for Phi; supported: false"
            )
        if self.head_dim * self.n_head != self.n_embd:
            raise UnsupportedModelError(
                f"{where}head_dim {self.head_dim} times {self.n_head} heads is not hidden_size "
                f"{self.n_embd}, which llama.cpp does not run for Phi"
            )
        if self.rope.scaling == "llama3":
            raise UnsupportedModelError(
                f"{config.path}: rope scaling 'llama3' does not exist for Phi in llama.cpp; supported: "
                "linear, yarn"
            )

    def add_norm_eps(self, writer: gguf.GGUFWriter) -> None:
        """LayerNorm, not RMSNorm."""
        writer.add_layer_norm_eps(self.norm_eps)

    def specs(self, prefix: str) -> list[TensorSpec]:
        """The tensor table; see Decoder."""
        root, d = f"{prefix}model", self.n_embd
        embedding = f"{root}.embed_tokens.weight"
        out = [TensorSpec("token_embd.weight", embedding, (self.n_vocab, d), MATRIX)]

        def linear(name: str, source: str, rows: int, columns: int) -> None:
            out.append(TensorSpec(f"{name}.weight", f"{source}.weight", (rows, columns), MATRIX))
            out.append(TensorSpec(f"{name}.bias", f"{source}.bias", (rows,)))

        def norm(name: str, source: str) -> None:
            out.append(TensorSpec(f"{name}.weight", f"{source}.weight", (d,)))
            out.append(TensorSpec(f"{name}.bias", f"{source}.bias", (d,)))

        for i in range(self.n_layer):
            blk, layer = f"blk.{i}", f"{root}.layers.{i}"
            norm(f"{blk}.attn_norm", f"{layer}.input_layernorm")
            n_kv = self.n_head_kv * self.head_dim
            for part, rows in (("q", d), ("k", n_kv), ("v", n_kv)):
                linear(f"{blk}.attn_{part}", f"{layer}.self_attn.{part}_proj", rows, d)
            linear(f"{blk}.attn_output", f"{layer}.self_attn.dense", d, d)
            linear(f"{blk}.ffn_up", f"{layer}.mlp.fc1", self.n_ff, d)
            linear(f"{blk}.ffn_down", f"{layer}.mlp.fc2", d, self.n_ff)
        norm("output_norm", f"{root}.final_layernorm")
        head = f"{prefix}lm_head"
        # llama.cpp has no tied head for this architecture, so a tied one is stored twice.
        source = embedding if self.tied else f"{head}.weight"
        out.append(TensorSpec("output.weight", source, (self.n_vocab, d), MATRIX))
        out.append(TensorSpec("output.bias", f"{head}.bias", (self.n_vocab,)))
        return out
