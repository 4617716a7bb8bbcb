"""Checkpoints of the original LLaVA code and its heirs: nanoLLaVA, Bunny.

The LLM's config is the top level, with `mm_...` keys beside; tensors are `model.layers...`, `lm_head`,
`model.mm_projector.{0,2}` and `model.vision_tower.vision_tower.vision_model...`
(github.com/haotian-liu/LLaVA, llava/model/llava_arch.py; github.com/BAAI-DCAI/Bunny, bunny/model). Features
are those before the last block.
"""

from __future__ import annotations

from ..checkpoint.config import Section
from ..checkpoint.directory import Checkpoint
from ..errors import UnsupportedModelError
from .layout import (
    ORIGINAL_LLAVA_PREFIXES,
    Layout,
    PromptForm,
    one_view,
    rename_prefixes,
    stored_tower,
    vicuna,
)

# A word in model_type or the architecture's name -> the LLM's model_type; the first that fits.
LLMS = (("phi3", ""), ("qwen", "qwen2"), ("minicpm", ""), ("phi", "phi"), ("llama", "llama"))
# Bunny was trained with its own separators, whatever template the LLM's tokenizer brings.
BUNNY_END = {"llama": "<|end_of_text|>", "qwen2": "<|endoftext|>", "phi": "<|endoftext|>"}


def matches(config: Section, checkpoint: Checkpoint) -> bool:
    """Whether this is the original layout, by its keys."""
    return "mm_projector_type" in config.values and (
        "mm_vision_tower" in config.values or "vision_config" in config.values
    )


def read(config: Section, checkpoint: Checkpoint) -> Layout:
    """Says the checkpoint in the words of docs/bluelm-v-layout.md.

    Raises:
        CheckpointError: the tower's weights are not there.
        UnsupportedModelError: another LLM, tower or projector, scales, or several views.
    """
    llm = _llm(config)
    config.choice("mm_projector_type", "mlp2x_gelu", ["mlp2x_gelu"])
    tower = stored_tower(config, checkpoint)
    notes: list[str] = []
    aspect = config.string("image_aspect_ratio", "square")
    views = one_view(config, checkpoint.directory, aspect, notes)
    rename_prefixes(checkpoint, ORIGINAL_LLAVA_PREFIXES)
    values = {
        "vision_config": tower,
        "vision_feature_layer": config.values.get("mm_vision_select_layer", -2),
        "projector": {"downsample": 1},
        **views,
    }
    text = Section(config.path, config.values | {"model_type": llm})
    return Layout(Section(config.path, values), text, checkpoint.directory, _prompt(config, llm), notes)


def _llm(config: Section) -> str:
    """The LLM's own model_type."""
    architectures = config.values.get("architectures")
    names = [config.values.get("model_type"), *(architectures if isinstance(architectures, list) else [])]
    for name in names:
        for word, model_type in LLMS if isinstance(name, str) else ():
            if word in name.lower():
                if model_type:
                    return model_type
                break
    raise UnsupportedModelError(
        f"{config.path}: model_type {config.values.get('model_type')!r}, architectures {architectures!r} "
        f"name no LLM that is supported here; supported: {', '.join(sorted({t for _, t in LLMS if t}))}"
    )


def _prompt(config: Section, llm: str) -> PromptForm:
    if str(config.values.get("model_type")).startswith("bunny"):
        return vicuna(BUNNY_END[llm], always=True)
    return vicuna()
