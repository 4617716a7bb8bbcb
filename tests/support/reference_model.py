"""The BlueLM-V network in torch: SigLIP, 2x2 downsampler, projector and LLM, as the tests' ground truth.

It follows docs/bluelm-v-layout.md, computes in float32 and shows every stage by the name that
`bluelm_vision_dump_stage` uses, so that C++ and torch can be compared step by step. The layers are
those of `transformers`; the blocks are walked by hand because the meaning of `output_hidden_states[-1]`
(before or after the post-LayerNorm) differs between versions of that library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

TEXT_CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}

PROJECTOR_DEFAULTS: dict[str, Any] = {
    "downsample": 2,
    "token_order": "row_major",
    "input_norm": False,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}


def merge_tokens(tokens: torch.Tensor, s: int, token_order: str = "row_major") -> torch.Tensor:
    """Concatenates every s x s block of neighbouring tokens.

    Args:
        tokens: [n, g*g, D], row-major over the g x g map.
        s: edge of a block; zero rows and columns come at the bottom and right, up to a multiple of s.
        token_order: "row_major" or "column_major", the order in which blocks leave.

    Returns:
        [n, T, s*s*D]; inside a block: top-left, top-right, bottom-left, bottom-right.
    """
    n, count, width = tokens.shape
    grid = round(count**0.5)
    assert grid * grid == count
    if s == 1 and token_order == "row_major":
        return tokens
    side = -(-grid // s)
    board = torch.zeros(n, side * s, side * s, width, dtype=tokens.dtype)
    board[:, :grid, :grid] = tokens.reshape(n, grid, grid, width)
    blocks = torch.cat([board[:, i::s, j::s] for i in range(s) for j in range(s)], dim=-1)
    if token_order == "column_major":
        blocks = blocks.transpose(1, 2)
    return blocks.reshape(n, side * side, s * s * width)


class Projector(nn.Module):
    """Optional LayerNorm, linear, GELU, linear: [.., s*s*D] -> [.., n_embd]."""

    def __init__(self, width_in: int, width: int, n_embd: int, options: dict[str, Any]) -> None:
        super().__init__()
        if options["input_norm"]:
            self.input_norm = nn.LayerNorm(width_in, eps=options["layer_norm_eps"])
        self.linear_1 = nn.Linear(width_in, width)
        self.linear_2 = nn.Linear(width, n_embd)
        self.act = nn.GELU(approximate="tanh" if options["hidden_act"] == "gelu_tanh" else "none")

    def forward(self, merged: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "input_norm"):
            merged = self.input_norm(merged)
        return self.linear_2(self.act(self.linear_1(merged)))


class ReferenceBlueLMV(nn.Module):
    """SigLIP + downsampler + projector + LLM from a config of docs/bluelm-v-layout.md."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.options: dict[str, Any] = PROJECTOR_DEFAULTS | config.get("projector", {})
        vision = SiglipVisionConfig(**config["vision_config"])
        text_class, model_class = TEXT_CLASSES[config["text_config"]["model_type"]]
        text = text_class(**config["text_config"])
        self.vision_tower = SiglipVisionModel(vision)
        self.language_model = model_class(text)
        width_in = self.options["downsample"] ** 2 * vision.hidden_size
        width = self.options.get("hidden_size", text.hidden_size)
        self.multi_modal_projector = Projector(width_in, width, text.hidden_size, self.options)
        self.eval()

    @property
    def vision(self) -> Any:
        """The transformer inside the tower (older `transformers` wrap it once more)."""
        return getattr(self.vision_tower, "vision_model", self.vision_tower)

    def checkpoint_tensors(self) -> dict[str, torch.Tensor]:
        """The state under the names of docs/bluelm-v-layout.md; a tied lm_head is left out."""
        tied = bool(self.config["text_config"].get("tie_word_embeddings", False))
        out: dict[str, torch.Tensor] = {}
        for name, tensor in self.state_dict().items():
            if tied and name == "language_model.lm_head.weight":
                continue
            head, _, tail = name.partition(".")
            if head == "vision_tower" and not tail.startswith("vision_model."):
                name = f"vision_tower.vision_model.{tail}"
            out[name] = tensor.detach().clone().contiguous()
        return out

    @classmethod
    def from_checkpoint(cls, directory: str | Path) -> ReferenceBlueLMV:
        """Loads a directory written in that layout; weights become float32."""
        directory = Path(directory)
        model = cls(json.loads((directory / "config.json").read_text(encoding="utf-8")))
        tensors: dict[str, torch.Tensor] = {}
        for path in sorted(directory.glob("*.safetensors")):
            tensors |= load_file(path)
        wrapped = hasattr(model.vision_tower, "vision_model")
        state = {}
        for name, tensor in tensors.items():
            if not wrapped:
                name = name.replace("vision_tower.vision_model.", "vision_tower.")
            state[name] = tensor.float()
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        model.language_model.tie_weights()
        tied = bool(model.config["text_config"].get("tie_word_embeddings", False))
        assert set(missing) <= ({"language_model.lm_head.weight"} if tied else set()), missing
        return model

    @torch.no_grad()
    def stages(self, tiles: Any) -> dict[str, torch.Tensor]:
        """Every stage for views that are already cut.

        Args:
            tiles: [n, S, S, 3] uint8 (numpy or torch).

        Returns:
            "pixels" [n, 3, S, S], "patch_embd" [n, N, D] (with positions), "layer.K" [n, N, D] for every
            block that is run, "post_ln" [n, N, D] (if the config asks for it), "merged" [n, T, s*s*D],
            "projector" [n, T, n_embd].
        """
        out: dict[str, torch.Tensor] = {}
        mean = torch.tensor(self.config.get("image_mean", [0.5] * 3)).view(1, 3, 1, 1)
        std = torch.tensor(self.config.get("image_std", [0.5] * 3)).view(1, 3, 1, 1)
        pixels = (torch.as_tensor(tiles).permute(0, 3, 1, 2).float() / 255.0 - mean) / std
        out["pixels"] = pixels
        hidden = self.vision.embeddings(pixels)
        out["patch_embd"] = hidden
        layers = self.vision.encoder.layers
        feature_layer = self.config.get("vision_feature_layer", -1)
        n_run = feature_layer if feature_layer >= 0 else len(layers) + 1 + feature_layer
        for k in range(n_run):
            result = layers[k](hidden, attention_mask=None)
            hidden = result[0] if isinstance(result, tuple) else result
            out[f"layer.{k}"] = hidden
        if self.config.get("vision_post_layernorm", False):
            hidden = self.vision.post_layernorm(hidden)
            out["post_ln"] = hidden
        out["merged"] = merge_tokens(hidden, self.options["downsample"], self.options["token_order"])
        out["projector"] = self.multi_modal_projector(out["merged"])
        return out

    def encode_tiles(self, tiles: Any) -> torch.Tensor:
        """[n, S, S, 3] uint8 -> [n, T, n_embd] float32, what the LLM is given."""
        return self.stages(tiles)["projector"]

    @torch.no_grad()
    def logits(self, pieces: list[Any]) -> torch.Tensor:
        """Logits [n_tokens, n_vocab] for pieces that are token ids or embeddings [n, n_embd]."""
        embed = self.language_model.get_input_embeddings()
        parts = [
            p if torch.is_tensor(p) and p.is_floating_point() else embed(torch.as_tensor(p)) for p in pieces
        ]
        sequence = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        return self.language_model(inputs_embeds=sequence[None]).logits[0]

    @torch.no_grad()
    def greedy(self, pieces: list[Any], n: int) -> list[int]:
        """The n tokens that greedy decoding appends to `pieces` (end-of-sequence does not stop it)."""
        out: list[int] = []
        for _ in range(n):
            out.append(int(self.logits([*pieces, *([out] if out else [])])[-1].argmax()))
        return out
