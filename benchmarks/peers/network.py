"""The network that the contenders share: SigLIP-so400m/14-384 and a two-layer MLP in PyTorch, random weights.

Only `transformers` and torch here: contender_torch.py and contender_openvino.py run it, the runner saves it
as a checkpoint for our own converter.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

N_EMBD_OUT = 2560


class Network(torch.nn.Module):
    """Normalised pixels [n, 3, 384, 384] to features [n, 729, 2560]: no downsampler, as in stock."""

    def __init__(self, n_layers: int = 27) -> None:
        super().__init__()
        config = SiglipVisionConfig(
            hidden_size=1152, intermediate_size=4304, num_hidden_layers=n_layers, num_attention_heads=16,
            image_size=384, patch_size=14, vision_use_head=False, attn_implementation="sdpa",
        )  # fmt: skip
        self.tower = SiglipVisionModel(config)
        self.up = torch.nn.Linear(config.hidden_size, N_EMBD_OUT)
        self.down = torch.nn.Linear(N_EMBD_OUT, N_EMBD_OUT)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The encoder's last hidden state, before its post_layernorm, through the MLP."""
        model = getattr(self.tower, "vision_model", self.tower)
        hidden = model.encoder(inputs_embeds=model.embeddings(pixels)).last_hidden_state
        return self.down(torch.nn.functional.gelu(self.up(hidden)))


def network(n_layers: int = 27, outliers: float = 1.0) -> Network:
    """The same weights at every call.

    Args:
        n_layers: Blocks of the encoder.
        outliers: What six channels of every LayerNorm in front of a matmul are multiplied with, as large
            models grow them; the matmuls behind shrink by the same, so that the function stays sane.
    """
    torch.manual_seed(0)
    made = Network(n_layers).eval()
    model = getattr(made.tower, "vision_model", made.tower)
    with torch.no_grad():
        for layer in model.encoder.layers:
            for norm in (layer.layer_norm1, layer.layer_norm2):
                # Trained LayerNorms are not all ones.
                norm.weight.mul_(torch.empty_like(norm.weight).uniform_(0.5, 1.5))
                norm.bias.add_(torch.empty_like(norm.bias).normal_(0, 0.1))
            attention = layer.self_attn
            pairs = [
                (layer.layer_norm1, [attention.q_proj, attention.k_proj, attention.v_proj]),
                (layer.layer_norm2, [layer.mlp.fc1]),
            ]
            for norm, behind in pairs if outliers != 1 else ():
                channels = torch.randperm(norm.weight.numel())[:6]
                norm.weight[channels] *= outliers
                norm.bias[channels] *= outliers
                for linear in behind:
                    linear.weight[:, channels] /= outliers**0.5
    return made


def pixels_of(tiles) -> torch.Tensor:
    """[n, 384, 384, 3] uint8 to what the network takes: mean 0.5, deviation 0.5."""
    return torch.from_numpy(tiles).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def save_checkpoint(made: Network, directory: Path) -> None:
    """Writes the network in the layout of docs/bluelm-v-layout.md, for `bluelm-gguf convert`."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    directory.mkdir()
    config = made.tower.config
    tower = {
        k if k.startswith("vision_model.") else f"vision_model.{k}": v
        for k, v in made.tower.state_dict().items()
    }
    tensors = {f"vision_tower.{name}": value for name, value in tower.items()}
    for ours, theirs in ((made.up, "linear_1"), (made.down, "linear_2")):
        for name, value in ours.state_dict().items():
            tensors[f"multi_modal_projector.{theirs}.{name}"] = value
    # The converter checks that a language model is there, also where only the vision file is asked for.
    llm = LlamaConfig(
        hidden_size=N_EMBD_OUT, num_hidden_layers=1, num_attention_heads=20, num_key_value_heads=1,
        intermediate_size=32, vocab_size=32, tie_word_embeddings=False,
    )  # fmt: skip
    for name, value in LlamaForCausalLM(llm).state_dict().items():
        tensors[f"language_model.{name}"] = value
    save_file({name: value.contiguous() for name, value in tensors.items()}, directory / "model.safetensors")
    text = llm.to_dict()
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size",
            "patch_size", "num_channels", "layer_norm_eps", "hidden_act")  # fmt: skip
    vision = {key: getattr(config, key) for key in keys} | {"model_type": "siglip_vision_model"}
    whole = {
        "model_type": "bluelm_v", "architectures": ["BlueLMVForConditionalGeneration"], "text_config": text,
        "vision_config": vision, "vision_feature_layer": -1, "projector": {"downsample": 1},
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(whole), encoding="utf-8")
