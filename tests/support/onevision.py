"""Small random LLaVA-OneVision checkpoints in the published layouts; `transformers` is the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import randomize, save_tensors, write_tokenizer
from tokenizers import Tokenizer
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

# Published with llava-hf/llava-onevision-qwen2-*-ov-hf (chat_template.json): interface facts.
HUB_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LAYOUTS = ("hub", "transformers5", "original")


def make_model(
    *,
    n_vocab: int,
    image_token: int,
    image_size: int = 384,
    max_tiles: int = 9,
    tied: bool = False,
    seed: int = 0,
) -> LlavaOnevisionForConditionalGeneration:
    """A model of 2 vision blocks of width 32 and 2 Qwen2 blocks of width 64; patches of 14 pixels."""
    pinpoints = [[r * image_size, c * image_size] for r in range(1, 7) for c in range(1, 7)]
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": image_size, "patch_size": 14,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": n_vocab, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 4096, "tie_word_embeddings": tied, "bos_token_id": None,
        },
        image_token_index=image_token, image_grid_pinpoints=pinpoints, tie_word_embeddings=tied,
        vision_aspect_ratio=f"anyres_max_{max_tiles}", video_token_index=image_token + 1,
    )  # fmt: skip
    model = LlavaOnevisionForConditionalGeneration(config)
    randomize(model, seed)
    model.tie_weights()
    return model.eval()


def make_checkpoint(
    directory: Path, layout: str = "hub", **options: Any
) -> tuple[Path, LlavaOnevisionForConditionalGeneration]:
    """Writes a random checkpoint in one of LAYOUTS; `options` are those of `make_model`."""
    directory.mkdir(parents=True)
    n_vocab = write_tokenizer(directory, "qwen2")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    model = make_model(n_vocab=n_vocab + 3, image_token=tokenizer.token_to_id("<image>"), **options)
    config = json.loads(model.config.to_json_string(use_diff=False))
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    if layout == "original":
        config = _original_config(config, model)
        (directory / "chat_template.jinja").unlink()
    else:
        config["architectures"] = ["LlavaOnevisionForConditionalGeneration"]
        (directory / "chat_template.jinja").write_text(HUB_TEMPLATE, encoding="utf-8")
        (directory / "preprocessor_config.json").write_text(json.dumps(_processor_settings(model), indent=2))
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_tensors(directory, {_name(name, layout): tensor for name, tensor in tensors.items()})
    return directory, model


def _name(name: str, layout: str) -> str:
    """A tensor's name: `model.vision_tower.*` in transformers 5, `vision_tower.vision_model.*` on the hub."""
    if layout == "transformers5":
        return name
    inner = name.removeprefix("model.")
    tower, _, rest = inner.partition(".")
    if tower == "vision_tower":
        inner = "vision_tower.vision_model." + rest.removeprefix("vision_model.")
    if layout == "original":
        for old, new in (
            ("vision_tower.", "model.vision_tower.vision_tower."),
            ("multi_modal_projector.linear_1", "model.mm_projector.0"),
            ("multi_modal_projector.linear_2", "model.mm_projector.2"),
            ("image_newline", "model.image_newline"),
            ("language_model.", "model."),
        ):
            if inner.startswith(old):
                return new + inner.removeprefix(old)
        return inner
    if tower == "language_model":
        return "language_model.model." + rest
    return "language_model.lm_head.weight" if tower == "lm_head" else inner


def _original_config(config: dict[str, Any], model: LlavaOnevisionForConditionalGeneration) -> dict[str, Any]:
    """The keys of an original config.json; a tower that is not SigLIP-400M needs its vision_config beside."""
    tower = config["vision_config"]
    return config["text_config"] | {
        "model_type": "llava",
        "architectures": ["LlavaQwenForCausalLM"],
        "tie_word_embeddings": model.config.tie_word_embeddings,
        "image_aspect_ratio": config["vision_aspect_ratio"],
        "image_grid_pinpoints": config["image_grid_pinpoints"],
        "mm_hidden_size": tower["hidden_size"],
        "mm_patch_merge_type": "spatial_unpad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "vision_config": tower | {"num_hidden_layers": tower["num_hidden_layers"] + 1},
    }


def _processor_settings(model: LlavaOnevisionForConditionalGeneration) -> dict[str, Any]:
    size = model.config.vision_config.image_size
    return {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": model.config.image_grid_pinpoints,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "size": {"height": size, "width": size},
    }


def inputs(model: LlavaOnevisionForConditionalGeneration, rgb: np.ndarray) -> dict[str, torch.Tensor]:
    """pixel_values [1, n, 3, S, S] and image_sizes [1, 2] as the image processor on Pillow gives them."""
    from PIL import Image

    settings = {k: v for k, v in _processor_settings(model).items() if k != "image_processor_type"}
    batch = LlavaOnevisionImageProcessorPil(**settings)([Image.fromarray(rgb)], return_tensors="pt")
    return {name: batch[name] for name in ("pixel_values", "image_sizes")}


@torch.no_grad()
def features(model: LlavaOnevisionForConditionalGeneration, rgb: np.ndarray) -> np.ndarray:
    """What `transformers` puts into the language model for a picture, [n_tokens, n_embd]."""
    config = model.config
    found = model.model.get_image_features(
        **inputs(model, rgb), vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_aspect_ratio=config.vision_aspect_ratio, return_dict=True,
    )  # fmt: skip
    return found.pooler_output[0].numpy()


@torch.no_grad()
def packed(
    model: LlavaOnevisionForConditionalGeneration, views: np.ndarray, width: int, height: int
) -> np.ndarray:
    """`transformers` puts the views' features [n, T, n_embd] of a picture together, [n_tokens, n_embd]."""
    out, _ = model.model.pack_image_features(
        [torch.from_numpy(views)], torch.tensor([[height, width]]), image_newline=model.model.image_newline,
        vision_aspect_ratio=model.config.vision_aspect_ratio,
    )  # fmt: skip
    return out[0].numpy()
