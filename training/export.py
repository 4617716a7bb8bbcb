"""Writes a run as a BlueLM-V checkpoint (docs/bluelm-v-layout.md), after a check against transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from training.data import CELL_SIZES, PATCH_SIZES
from training.model import PATCH, SIDE, Config, Demo
from training.tokenizer import save_pretrained
from training.world import scenes as S
from training.world.drawing import render


def load(run: Path, checkpoint: str = "last.pt", ema: bool = True) -> Demo:
    """The averaged weights of a run in float32."""
    saved = torch.load(run / checkpoint, map_location="cpu", weights_only=False)
    model = Demo(Config(**saved["config"]), CELL_SIZES, PATCH_SIZES)
    model.load_state_dict(saved["ema" if ema else "model"])
    return model.eval()


def vision_tensors(model: Demo) -> dict[str, torch.Tensor]:
    """Names below vision_tower."""
    c, v = model.config, model.vit
    out = {
        "embeddings.patch_embedding.weight": v.patch.weight.view(c.vit_width, 3, PATCH, PATCH),
        "embeddings.patch_embedding.bias": v.patch.bias,
        "embeddings.position_embedding.weight": v.pos.reshape(SIDE * SIDE, -1),
    }
    parts = {
        "layer_norm1": "ln1",
        "layer_norm2": "ln2",
        "self_attn.q_proj": "q",
        "self_attn.k_proj": "k",
        "self_attn.v_proj": "v",
        "self_attn.out_proj": "out",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
    }
    for i, block in enumerate(v.blocks):
        for name, mine in parts.items():
            for kind in ("weight", "bias"):
                out[f"encoder.layers.{i}.{name}.{kind}"] = getattr(getattr(block, mine), kind)
    out["post_layernorm.weight"], out["post_layernorm.bias"] = (
        torch.ones(c.vit_width),
        torch.zeros(c.vit_width),
    )
    return {"vision_model." + k: t.detach().float().contiguous() for k, t in out.items()}


def llm_tensors(model: Demo) -> dict[str, torch.Tensor]:
    """Names of LlamaForCausalLM."""
    m = model.llm
    out = {
        "model.embed_tokens.weight": m.embed.weight,
        "model.norm.weight": m.norm.weight,
        "lm_head.weight": m.head.weight,
    }
    parts = {
        "input_layernorm": "n1",
        "post_attention_layernorm": "n2",
        "self_attn.q_proj": "q",
        "self_attn.k_proj": "k",
        "self_attn.v_proj": "v",
        "self_attn.o_proj": "o",
        "mlp.gate_proj": "gate",
        "mlp.up_proj": "up",
        "mlp.down_proj": "down",
    }
    for i, block in enumerate(m.blocks):
        for name, mine in parts.items():
            out[f"model.layers.{i}.{name}.weight"] = getattr(block, mine).weight
    return {k: t.detach().float().contiguous() for k, t in out.items()}


def configs(c: Config) -> tuple[dict, dict]:
    text = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": c.vocab,
        "hidden_size": c.llm_width,
        "intermediate_size": c.llm_ffn,
        "num_hidden_layers": c.llm_layers,
        "num_attention_heads": c.llm_heads,
        "num_key_value_heads": c.llm_heads,
        "head_dim": c.llm_width // c.llm_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": c.rope_theta,
        "max_position_embeddings": 4096,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": c.vit_width,
        "intermediate_size": c.vit_ffn,
        "num_hidden_layers": c.vit_layers,
        "num_attention_heads": c.vit_heads,
        "image_size": 384,
        "patch_size": PATCH,
        "num_channels": 3,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh",
    }
    return text, vision


@torch.no_grad()
def check(model: Demo, text: dict, vision: dict) -> tuple[float, float]:
    """Largest differences to transformers' SiglipVisionModel and LlamaForCausalLM, of features and logits."""
    from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

    tower = SiglipVisionModel(SiglipVisionConfig(**vision, vision_use_head=False)).eval()
    tensors = vision_tensors(model)
    if not any(k.startswith("vision_model.") for k in tower.state_dict()):
        tensors = {k.removeprefix("vision_model."): t for k, t in tensors.items()}
    tower.load_state_dict(tensors)
    llama = LlamaForCausalLM(LlamaConfig(**text)).eval()
    llama.load_state_dict(llm_tensors(model))
    pixels = (
        torch.from_numpy(np.stack([render(S.compose(S.EVAL_SEEDS.start + i)) for i in range(2)])).float()
        / 127.5
        - 1
    )
    zero = torch.zeros(2, dtype=torch.long)
    features, z = model.encode(pixels, zero, zero)
    theirs = tower(pixels.permute(0, 3, 1, 2), output_hidden_states=True).hidden_states[-1]
    d_vision = (features.view(2, SIDE * SIDE, -1) - theirs).abs().max().item()
    ids = torch.randint(0, model.config.vocab, (2, 40), generator=torch.Generator().manual_seed(1))
    x = torch.cat([model.llm.embed(ids[:, :3]), z, model.llm.embed(ids[:, 3:])], 1)
    t = x.shape[1]
    mask = torch.full((t, t), -1e9).triu(1)[None, None]
    mine = model.llm.head(model.llm(x, torch.arange(t)[None].expand(2, -1), mask))
    d_text = (mine - llama(inputs_embeds=x).logits).abs().max().item()
    assert d_vision < 2e-3 and d_text < 2e-3, (d_vision, d_text)
    return d_vision, d_text


def export(run: Path, out: Path, checkpoint: str = "last.pt") -> None:
    """config.json, model.safetensors and the tokenizer's files."""
    model = load(run, checkpoint)
    text, vision = configs(model.config)
    d_vision, d_text = check(model, text, vision)
    ids = {t["content"]: t["id"] for t in json.loads((run / "tokenizer.json").read_text())["added_tokens"]}
    text |= {"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    out.mkdir(parents=True, exist_ok=True)
    tensors = {"vision_tower." + k: t for k, t in vision_tensors(model).items()}
    tensors |= {"language_model." + k: t for k, t in llm_tensors(model).items()}
    for n in (1, 2):
        for kind in ("weight", "bias"):
            tensors[f"multi_modal_projector.linear_{n}.{kind}"] = (
                getattr(getattr(model.proj, f"linear_{n}"), kind).detach().float().contiguous()
            )
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "bluelm_v",
        "architectures": ["BlueLMVForConditionalGeneration"],
        "text_config": text,
        "vision_config": vision,
        "vision_feature_layer": -1,
        "vision_post_layernorm": False,
        "projector": {
            "downsample": 2,
            "token_order": "row_major",
            "input_norm": False,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
        },
        "image_token": "<image>",
        "tiler": {
            "method": "relaxed",
            "alpha": 0.1,
            "max_cols": 4,
            "max_rows": 4,
            "thumbnail": "first",
            "thumbnail_for_single": False,
            "fit": "pad_center",
            "resize": "bicubic",
            "pad_rgb": [0, 0, 0],
        },
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_prefix": "",
        "image_suffix": "\n",
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"], "do_sample": False}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_pretrained(run / "tokenizer.json", out)
    print(
        f"{out}: {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M parameters; largest difference to "
        f"transformers: features {d_vision:.1e}, logits {d_text:.1e}"
    )
