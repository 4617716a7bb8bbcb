"""TinyLLaVA Factory's checkpoints (github.com/TinyLLaVA/TinyLLaVA_Factory, tinyllava/model).

`language_model.*`, `vision_tower._vision_tower.vision_model.*` and `connector._connector.{0,2}`;
`text_config` and `vision_config` are those of the parts.
"""

from __future__ import annotations

from ..checkpoint.config import Section
from ..checkpoint.directory import Checkpoint
from .layout import Layout, known_tower, one_view, read_selection, rename_prefixes, vicuna

PREFIXES = [
    ("vision_tower._vision_tower.", "vision_tower."),
    ("connector._connector.0.", "multi_modal_projector.linear_1."),
    ("connector._connector.2.", "multi_modal_projector.linear_2."),
]


def matches(config: Section, checkpoint: Checkpoint) -> bool:
    """Whether config.json says so."""
    return str(config.values.get("model_type")).startswith("tinyllava")


def read(config: Section, checkpoint: Checkpoint) -> Layout:
    """Says the checkpoint in the words of docs/bluelm-v-layout.md.

    Raises:
        CheckpointError: text_config is missing.
        UnsupportedModelError: another connector or several views.
    """
    config.choice("connector_type", "mlp2x_gelu", ["mlp2x_gelu"])
    notes: list[str] = []
    read_selection(config, "vision_feature_select_strategy", notes)
    views = one_view(config, checkpoint.directory, config.string("image_aspect_ratio", "square"), notes)
    rename_prefixes(checkpoint, PREFIXES)
    tower = known_tower(config, "vision_model_name_or_path") | config.section("vision_config").values
    values = {
        "vision_config": tower,
        "vision_feature_layer": config.values.get("vision_feature_layer", -2),
        "projector": {"downsample": 1},
        **views,
    }
    text = config.section("text_config", required=True)
    return Layout(Section(config.path, values), text, checkpoint.directory, vicuna(), notes)
