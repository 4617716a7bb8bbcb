"""What Llama-type LLMs have in common: configuration, GGUF metadata, tensor table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import gguf
import numpy as np

from ..checkpoint.config import Section
from ..checkpoint.directory import Float32
from ..errors import CheckpointError, UnsupportedModelError
from ..tensors import MATRIX, VECTOR, TensorSpec


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: base, and how positions are scaled.

    Attributes:
        theta: base of the frequencies.
        scaling: "none", "linear", "llama3" or "yarn".
        factor: of the scaling.
        original_context: tokens, for llama3 and yarn.
        low_freq_factor, high_freq_factor: llama3 only.
    """

    theta: float
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def frequency_factors(self, head_dim: int) -> Float32:
        """llama3's divisor of every frequency, [head_dim / 2] (modeling_rope_utils.py of `transformers`)."""
        frequencies = self.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        wavelengths = 2 * np.pi / frequencies
        low, high = self.low_freq_factor, self.high_freq_factor
        smooth = (self.original_context / wavelengths - low) / (high - low)
        factors = 1.0 / ((1 - smooth) / self.factor + smooth)
        factors = np.where(wavelengths < self.original_context / high, 1.0, factors)
        factors = np.where(wavelengths > self.original_context / low, self.factor, factors)
        return factors.astype(np.float32)


class Decoder:
    """Base of the LLM families; a subclass says what is particular to it.

    Class attributes:
        ARCH: GGUF's name of the architecture.
        MODEL_TYPE: config.json's.
        DEFAULTS: values that `transformers` assumes where config.json is silent.
        ROPE_HALVES: the checkpoint rotates halves of a head and GGUF neighbours, so that q and k rows move.
        ACTIVATIONS: that llama.cpp has for it, the default first.
        EPS: config.json's name of the norms' epsilon, and its default.
        TIED: whether the head is tied where config.json is silent.
        PARTIAL_ROTARY: the rotated share of a head where config.json is silent; None if it must be all.
        PRE: llama.cpp's own name of a pre-tokenizer in files of this family.
    """

    ARCH: ClassVar[str]
    MODEL_TYPE: ClassVar[str]
    DEFAULTS: ClassVar[dict[str, int]]
    ROPE_HALVES: ClassVar[bool]
    ACTIVATIONS: ClassVar[tuple[str, ...]] = ("silu",)
    EPS: ClassVar[tuple[str, float]] = ("rms_norm_eps", 1e-6)
    TIED: ClassVar[bool] = False
    PARTIAL_ROTARY: ClassVar[float | None] = None
    PRE: ClassVar[dict[str, str]] = {}

    def __init__(self, config: Section) -> None:
        """Reads and checks the configuration.

        Raises:
            CheckpointError: values that contradict each other.
            UnsupportedModelError: options that llama.cpp does not run.
        """
        defaults = self.DEFAULTS
        self.config = config
        self.n_vocab = config.integer("vocab_size", defaults["vocab_size"])
        self.n_embd = config.integer("hidden_size", defaults["hidden_size"])
        self.n_ff = config.integer("intermediate_size", defaults["intermediate_size"])
        self.n_layer = config.integer("num_hidden_layers", defaults["num_hidden_layers"])
        self.n_head = config.integer("num_attention_heads", defaults["num_attention_heads"])
        self.n_head_kv = config.integer("num_key_value_heads", self.n_head)
        self.n_ctx = config.integer("max_position_embeddings", defaults["max_position_embeddings"])
        self.norm_eps = config.number(*self.EPS)
        self.tied = config.boolean("tie_word_embeddings", self.TIED)
        where = f"{config.path}: {config.prefix}"
        if config.values.get("head_dim") is None and self.n_embd % self.n_head:
            raise CheckpointError(
                f"{where}hidden_size {self.n_embd} is no multiple of num_attention_heads {self.n_head}; "
                "correct the file"
            )
        self.head_dim = config.integer("head_dim", self.n_embd // self.n_head)
        if self.n_head % self.n_head_kv:
            raise CheckpointError(
                f"{where}num_attention_heads {self.n_head} is no multiple of num_key_value_heads "
                f"{self.n_head_kv}; "
                "correct the file"
            )
        if self.head_dim % 2:
            raise UnsupportedModelError(
                f"{where}head_dim is {self.head_dim}; rotary embeddings need an even one"
            )
        config.choice("hidden_act", self.ACTIVATIONS[0], self.ACTIVATIONS)
        self.n_rot = self.head_dim
        self.rope, self.notes = self._read_rope()

    def _read_rope(self) -> tuple[Rope, list[str]]:
        """Rope from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
        config = self.config
        notes: list[str] = []
        old, new = config.section("rope_scaling"), config.section("rope_parameters")
        scaling = new if new.values else old
        theta = new.number("rope_theta", config.number("rope_theta", 10000.0))
        whole = self.PARTIAL_ROTARY or 1.0
        partial = scaling.number("partial_rotary_factor", config.number("partial_rotary_factor", whole))
        self.n_rot = int(self.head_dim * partial)
        if self.PARTIAL_ROTARY is not None and not (0 < partial <= 1 and self.n_rot and self.n_rot % 2 == 0):
            raise CheckpointError(
                f"{config.path}: partial_rotary_factor {partial:g} of {self.head_dim} is no even number of "
                "dimensions; correct the file"
            )
        if self.PARTIAL_ROTARY is None and partial != 1.0:
            raise UnsupportedModelError(f"{config.path}: partial_rotary_factor is {partial:g}; supported: 1")
        kind = scaling.string("rope_type", scaling.string("type", "default"))
        if kind == "default":
            return Rope(theta), notes
        factor = scaling.number("factor", 1.0)
        if kind == "dynamic":
            notes.append(f"rope scaling 'dynamic' begins behind {self.n_ctx} tokens and is left out")
            return Rope(theta), notes
        if kind == "linear":
            return Rope(theta, "linear", factor), notes
        original = scaling.integer("original_max_position_embeddings", self.n_ctx)
        if kind == "llama3":
            low, high = scaling.number("low_freq_factor", 1.0), scaling.number("high_freq_factor", 4.0)
            if high <= low:
                raise CheckpointError(
                    f"{config.path}: high_freq_factor {high:g} is not above low_freq_factor {low:g}"
                )
            return Rope(theta, "llama3", factor, original, low, high), notes
        special = ("attention_factor", "mscale", "mscale_all_dim")
        plain = not any(scaling.values.get(key) for key in special)
        plain = (
            plain and scaling.number("beta_fast", 32.0) == 32.0 and scaling.number("beta_slow", 1.0) == 1.0
        )
        if kind == "yarn" and plain:
            return Rope(theta, "yarn", factor, original), notes
        raise UnsupportedModelError(
            f"{config.path}: {scaling.prefix}rope_type {kind!r} with {sorted(scaling.values)} is not "
            "supported; "
            "supported: default, linear, llama3, dynamic, yarn (with its default attention_factor and betas)"
        )

    def biases(self) -> set[str]:
        """Linear layers that have a bias, by their GGUF name ("attn_q", ...)."""
        raise NotImplementedError

    def add_norm_eps(self, writer: gguf.GGUFWriter) -> None:
        """Adds the norms' epsilon."""
        writer.add_layer_norm_rms_eps(self.norm_eps)

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        """Adds the keys of llama.cpp's `<arch>.*`."""
        writer.add_vocab_size(self.n_vocab)
        writer.add_context_length(self.n_ctx)
        writer.add_embedding_length(self.n_embd)
        writer.add_block_count(self.n_layer)
        writer.add_feed_forward_length(self.n_ff)
        writer.add_head_count(self.n_head)
        writer.add_head_count_kv(self.n_head_kv)
        self.add_norm_eps(writer)
        writer.add_rope_dimension_count(self.n_rot)
        writer.add_rope_freq_base(self.rope.theta)
        if self.head_dim * self.n_head != self.n_embd:
            writer.add_key_length(self.head_dim)
            writer.add_value_length(self.head_dim)
        if self.rope.scaling == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self.rope.factor)
        elif self.rope.scaling == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(self.rope.factor)
            writer.add_rope_scaling_orig_ctx_len(self.rope.original_context)

    def _neighbours(self, values: Float32, n_head: int) -> Float32:
        """Moves q or k rows so that GGUF's rotation of neighbours equals the checkpoint's rotation of halves.

        A head's row i (first half) becomes row 2i, and row i + head_dim/2 becomes row 2i + 1:
        [n_head * head_dim, ...].
        """
        moved = values.reshape(n_head, 2, self.head_dim // 2, *values.shape[1:]).swapaxes(1, 2)
        return np.ascontiguousarray(moved.reshape(values.shape))

    def specs(self, prefix: str) -> list[TensorSpec]:
        """The tensor table.

        Args:
            prefix: "" or "language_model.", before `model.layers...` and `lm_head`.
        """
        biases = self.biases()
        n_q, n_kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        out = [
            TensorSpec(
                "token_embd.weight", f"{prefix}model.embed_tokens.weight", (self.n_vocab, self.n_embd), MATRIX
            )
        ]

        def linear(name: str, source: str, rows: int, columns: int, rotated_heads: int = 0) -> None:
            transform = None
            if rotated_heads and self.ROPE_HALVES:
                transform = lambda values: self._neighbours(values, rotated_heads)  # noqa: E731
            out.append(
                TensorSpec(f"{name}.weight", f"{source}.weight", (rows, columns), MATRIX, None, transform)
            )
            if name.rsplit(".", 1)[-1] in biases:
                out.append(TensorSpec(f"{name}.bias", f"{source}.bias", (rows,), VECTOR, None, transform))

        if self.rope.scaling == "llama3":
            factors = self.rope.frequency_factors(self.head_dim)
            out.append(TensorSpec("rope_freqs.weight", "", factors.shape, VECTOR, None, lambda _: factors))
        for i in range(self.n_layer):
            blk, layer = f"blk.{i}", f"{prefix}model.layers.{i}"
            out.append(
                TensorSpec(f"{blk}.attn_norm.weight", f"{layer}.input_layernorm.weight", (self.n_embd,))
            )
            linear(f"{blk}.attn_q", f"{layer}.self_attn.q_proj", n_q, self.n_embd, self.n_head)
            linear(f"{blk}.attn_k", f"{layer}.self_attn.k_proj", n_kv, self.n_embd, self.n_head_kv)
            linear(f"{blk}.attn_v", f"{layer}.self_attn.v_proj", n_kv, self.n_embd)
            linear(f"{blk}.attn_output", f"{layer}.self_attn.o_proj", self.n_embd, n_q)
            out.append(
                TensorSpec(
                    f"{blk}.ffn_norm.weight", f"{layer}.post_attention_layernorm.weight", (self.n_embd,)
                )
            )
            linear(f"{blk}.ffn_gate", f"{layer}.mlp.gate_proj", self.n_ff, self.n_embd)
            linear(f"{blk}.ffn_up", f"{layer}.mlp.up_proj", self.n_ff, self.n_embd)
            linear(f"{blk}.ffn_down", f"{layer}.mlp.down_proj", self.n_embd, self.n_ff)
        out.append(TensorSpec("output_norm.weight", f"{prefix}model.norm.weight", (self.n_embd,)))
        if not self.tied:
            out.append(
                TensorSpec("output.weight", f"{prefix}lm_head.weight", (self.n_vocab, self.n_embd), MATRIX)
            )
        return out

    def dropped(self, prefix: str) -> list[str]:
        """Patterns of known tensors that are not needed: old rope buffers, the copy of a tied lm_head."""
        root = prefix.replace(".", r"\.")
        out = [root + r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"]
        if self.tied:
            out.append(root + r"lm_head\.weight")
        return out
