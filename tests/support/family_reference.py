"""Picture-and-text models of other layouts in torch: the ground truth of the converter's families.

Tower and LLM are those of `transformers`, features are its `hidden_states[-2]`. The projector of VILA is
written from its description (docs/checkpoints.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

LLMS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "phi": (PhiConfig, PhiForCausalLM),
    "granite": (GraniteConfig, GraniteForCausalLM),  # computes what MiniCPM does; see family_checkpoints.py
}


class MergeTwoByTwo(nn.Module):
    """VILA's downsampler: [n, 729, D] -> [n, 196, 4D].

    The 27 x 27 map gets a zero row at the bottom and a zero column at the right; each 2x2 block becomes one
    token, top left, top right, bottom left, bottom right. `fixed` lets the tokens leave row by row, else they
    leave column by column.
    """

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        n, count, width = tokens.shape
        edge = round(count**0.5)
        half = (edge + 1) // 2
        cells = {(i // edge, i % edge): tokens[:, i] for i in range(count)}
        zero = torch.zeros(n, width)
        places = [(r, c) for r in range(half) for c in range(half)]
        if not self.fixed:
            places = [(r, c) for c in range(half) for r in range(half)]
        blocks = [
            torch.cat(
                [cells.get((2 * r + i, 2 * c + j), zero) for i in range(2) for j in range(2)],
                dim=-1,
            )
            for r, c in places
        ]
        return torch.stack(blocks, dim=1)


class VilaProjector(nn.Module):
    """`mm_projector` of VILA; its parameters are `layers.1`, `layers.2` and `layers.4`."""

    def __init__(self, width: int, n_embd: int, fixed: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            MergeTwoByTwo(fixed),
            nn.LayerNorm(4 * width),
            nn.Linear(4 * width, n_embd),
            nn.GELU(),
            nn.Linear(n_embd, n_embd),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(features)
        return out


def mlp2x_gelu(width: int, n_embd: int) -> nn.Sequential:
    """LLaVA's two-layer projector; its parameters are `0` and `2`."""
    return nn.Sequential(nn.Linear(width, n_embd), nn.GELU(), nn.Linear(n_embd, n_embd))


class FamilyReference(nn.Module):
    """Tower, projector and LLM.

    Args:
        vision: values of a SiglipVisionConfig.
        text: values of the LLM's config, `model_type` included.
        projector: made for the widths of both.
    """

    def __init__(self, vision: dict[str, Any], text: dict[str, Any], projector: nn.Module) -> None:
        super().__init__()
        config_class, model_class = LLMS[text["model_type"]]
        self.tower = SiglipVisionModel(SiglipVisionConfig(**vision))
        self.projector = projector
        self.llm = model_class(config_class(**{k: v for k, v in text.items() if k != "model_type"}))
        self.eval()

    def tower_tensors(self) -> dict[str, torch.Tensor]:
        """The tower's state with `vision_model.` in front, as checkpoints have it; no pooling head."""
        out = {}
        for name, tensor in self.tower.state_dict().items():
            name = name if name.startswith("vision_model.") else f"vision_model.{name}"
            if not name.startswith("vision_model.head."):
                out[name] = tensor.detach().clone()
        return out

    @torch.no_grad()
    def encode(self, view: np.ndarray) -> torch.Tensor:
        """[S, S, 3] uint8 -> [T, n_embd]."""
        pixels = (torch.as_tensor(view.copy()).permute(2, 0, 1).float() / 255.0 - 0.5) / 0.5
        features = self.tower(pixels[None], output_hidden_states=True).hidden_states[-2]
        out: torch.Tensor = self.projector(features)[0]
        return out

    @torch.no_grad()
    def logits(self, pieces: list[Any]) -> torch.Tensor:
        """Logits [n_tokens, n_vocab] for pieces that are token ids or embeddings [n, n_embd]."""
        embed = self.llm.get_input_embeddings()
        parts = [p if torch.is_tensor(p) else embed(torch.as_tensor(list(p))) for p in pieces]
        out: torch.Tensor = self.llm(inputs_embeds=torch.cat(parts)[None]).logits[0]
        return out

    def greedy(self, pieces: list[Any], n: int) -> list[int]:
        """The n tokens that greedy decoding appends."""
        out: list[int] = []
        for _ in range(n):
            out.append(int(self.logits([*pieces, *([out] if out else [])])[-1].argmax()))
        return out
