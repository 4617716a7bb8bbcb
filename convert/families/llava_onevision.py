"""LLaVA-OneVision with Qwen2: the layout of `transformers` and the original one.

`transformers` (LlavaOnevisionConfig): `vision_tower.*`, `multi_modal_projector.linear_{1,2}`,
`image_newline`, `language_model.*`, with or without `model.` in front. The original (LlavaQwenForCausalLM,
github.com/LLaVA-VL/LLaVA-NeXT): the LLM's config with `mm_...` keys, `model.vision_tower.vision_tower.*`,
`model.mm_projector.{0,2}`, `model.image_newline`, `model.layers.*`; its tower is cut before the last block,
and the output of what is left counts, whatever mm_vision_select_layer says.

How a picture's tiles become tokens is `bluelm.assembly.*` of docs/mmproj.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..checkpoint.config import Section
from ..checkpoint.directory import Checkpoint, read_json_if_there
from ..errors import CheckpointError, UnsupportedModelError
from .layout import ORIGINAL_LLAVA_PREFIXES, RESAMPLING, Layout, PromptForm, rename_prefixes, stored_tower

MODEL_TYPE = "llava_onevision"
SIDES = range(1, 7)  # of the grids where config.json names none
# Where a preprocessor_config.json leaves them out, `transformers` takes CLIP's.
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
PREFIXES = [
    ("model.image_newline", "image_newline"),
    ("language_model.layers.", "language_model.model.layers."),
    ("language_model.embed_tokens.", "language_model.model.embed_tokens."),
    ("language_model.norm.", "language_model.model.norm."),
]
# The conversation that the original was trained on (its `qwen_1_5`).
CHATML = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SEVERAL_PICTURES = (
    "every picture is cut into tiles; where one question has several, the original gives each a single view"
)


def matches(config: Section, checkpoint: Checkpoint) -> bool:
    """Whether config.json says so."""
    values = config.values
    if values.get("model_type") == MODEL_TYPE:
        return True
    return (
        "mm_projector_type" in values
        and "qwen" in f"{values.get('model_type')} {values.get('architectures')}".lower()
        and str(values.get("image_aspect_ratio")).startswith("anyres")
    )


def read(config: Section, checkpoint: Checkpoint) -> Layout:
    """Says the checkpoint in the words of docs/bluelm-v-layout.md.

    Raises:
        CheckpointError: values that contradict each other, or the tower's weights are not there.
        UnsupportedModelError: another LLM, tower, projector, or way to put tiles together.
    """
    if config.values.get("model_type") == MODEL_TYPE:
        return _read_transformers(config, checkpoint)
    return _read_original(config, checkpoint)


def _read_transformers(config: Section, checkpoint: Checkpoint) -> Layout:
    config.choice("vision_feature_select_strategy", "full", ["full"])
    act = config.choice("projector_hidden_act", "gelu", ["gelu", "gelu_pytorch_tanh"])
    if not config.boolean("multimodal_projector_bias", True):
        raise UnsupportedModelError(f"{config.path}: multimodal_projector_bias is false; supported: true")
    tower = config.section("vision_config", required=True)
    tower_size = tower.integer("image_size", 384)
    grids = _grids(config, tower_size, width_first=False)
    processor, image_token = _processor(checkpoint.directory)
    other = _grids(processor, tower_size, width_first=False)
    if "image_grid_pinpoints" in processor.values and sorted(other) != sorted(grids):
        raise CheckpointError(
            f"{processor.path}: image_grid_pinpoints are not those of config.json; correct one of them"
        )
    rename_prefixes(checkpoint, PREFIXES)
    values = {
        "vision_config": tower.values,
        "vision_feature_layer": config.values.get("vision_feature_layer", -1),
        "projector": {"downsample": 1, "hidden_act": act},
        "template_image_token": image_token,
        **_views(config, processor, tower_size, grids, "vision_aspect_ratio"),
    }
    text = config.section("text_config", required=True)
    if config.boolean("tie_word_embeddings", False):
        text.values.setdefault("tie_word_embeddings", True)
    notes = [SEVERAL_PICTURES]
    return Layout(Section(config.path, values), text, checkpoint.directory, PromptForm(CHATML), notes)


def _read_original(config: Section, checkpoint: Checkpoint) -> Layout:
    config.choice("mm_projector_type", "mlp2x_gelu", ["mlp2x_gelu"])
    config.choice("mm_patch_merge_type", "flat", ["spatial_unpad"])
    tower = stored_tower(config, checkpoint)
    size = Section(config.path, tower, "vision_config.").integer("image_size", 384)
    path = checkpoint.directory / "preprocessor_config.json"
    processor = Section(path, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | read_json_if_there(path))
    grids = _grids(config, size, width_first=True)
    rename_prefixes(checkpoint, [("model.image_newline", "image_newline"), *ORIGINAL_LLAVA_PREFIXES])
    values = {
        "vision_config": tower,
        "vision_feature_layer": -2,
        "projector": {"downsample": 1},
        **_views(config, processor, size, grids, "image_aspect_ratio"),
    }
    text = Section(config.path, config.values | {"model_type": "qwen2"})
    notes = [SEVERAL_PICTURES]
    return Layout(Section(config.path, values), text, checkpoint.directory, PromptForm(CHATML), notes)


def _processor(directory: Path) -> tuple[Section, str]:
    """The image processor's settings, wherever this or an earlier version put them, and the image token."""
    whole_path, path = directory / "processor_config.json", directory / "preprocessor_config.json"
    whole = Section(whole_path, read_json_if_there(whole_path))
    token = whole.string("image_token", "<image>")
    old = Section(path, read_json_if_there(path))
    settings = old if path.exists() else whole.section("image_processor")
    if not settings.values:
        settings.values.update(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return settings, token


def _grids(config: Section, size: int, *, width_first: bool) -> list[list[int]]:
    """image_grid_pinpoints as [columns, rows]: pixels of two sides, "(1x1),...,(6x6)" or "(1x2),(2x1)"."""
    value = config.values.get("image_grid_pinpoints")
    if value is None:
        return [[cols, rows] for cols in SIDES for rows in SIDES]
    where = f"{config.path}: {config.prefix}image_grid_pinpoints"
    if isinstance(value, str):
        ends = [(int(a), int(b)) for a, b in re.findall(r"\((\d{1,3})x(\d{1,3})\)", value)]
        if not ends:
            raise CheckpointError(f"{where} is {value!r}; correct the file")
        if "..." not in value:
            return [list(pair) for pair in ends]
        (first_a, first_b), (last_a, last_b) = ends[0], ends[-1]
        return [[a, b] for a in range(first_a, last_a + 1) for b in range(first_b, last_b + 1)]
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair) for pair in value
    ):
        raise CheckpointError(f"{where} is no list of two sides each; correct the file")
    if any(n < size or n % size for pair in value for n in pair):
        raise UnsupportedModelError(f"{where} has sides that are no multiple of the tower's {size} pixels")
    return [[n // size for n in (pair if width_first else reversed(pair))] for pair in value]


def _views(
    config: Section, processor: Section, size: int, grids: list[list[int]], aspect_key: str
) -> dict[str, Any]:
    """`tiler`, `assembly`, `image_mean` and `image_std`."""
    aspect = config.string(aspect_key, "anyres_max_9")
    found = re.fullmatch(r"anyres(?:_max_(\d{1,2}))?", aspect)
    if found is None:
        raise UnsupportedModelError(
            f"{config.path}: {aspect_key} is {aspect!r}; supported: 'anyres_max_' and a number"
        )
    resampling = processor.integer("resample", 3, minimum=0)
    if resampling not in RESAMPLING:
        raise UnsupportedModelError(
            f"{processor.path}: resample is {resampling}; supported: 2 (bilinear), 3 (bicubic)"
        )
    sides = processor.values.get("size")
    if isinstance(sides, dict) and any(n != size for n in sides.values() if n is not None):
        raise UnsupportedModelError(
            f"{processor.path}: size is {sides}, the tower's image_size {size}; they must be the same"
        )
    return {
        "tiler": {
            "method": "llava_next",
            "grids": grids,
            "thumbnail": "first",
            "thumbnail_for_single": True,
            "fit": "pad_center",
            "fit_rounding": "ceil",
            "resize": RESAMPLING[resampling],
        },
        "assembly": {"method": "anyres", "max_tiles": int(found[1] or 0)},
        "image_mean": processor.numbers("image_mean", CLIP_MEAN, 3, low=0.0, high=1.0),
        "image_std": processor.numbers("image_std", CLIP_STD, 3, low=1e-6, high=1e6),
    }
