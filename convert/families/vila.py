"""VILA 1.5: `llm/`, `mm_projector/` and `vision_tower/`, each with its config.json and weights.

Names and order of operations after github.com/NVlabs/VILA
(llava/model/multimodal_projector/base_projector.py): `layers` is a Sequential of the 2x2 merge, LayerNorm,
Linear, GELU, Linear. The merge of `mlp_downsample` lets its tokens leave column by column;
`mlp_downsample_2x2_fix` has the last transposition, which was forgotten there.
"""

from __future__ import annotations

from ..checkpoint.config import Section
from ..checkpoint.directory import PARTS, Checkpoint, read_json
from ..errors import UnsupportedModelError
from .layout import Layout, one_view, read_selection, rename_prefixes, vicuna

TOKEN_ORDER = {"mlp_downsample": "column_major", "mlp_downsample_2x2_fix": "row_major"}
PREFIXES = [
    ("llm.", "language_model."),
    ("vision_tower.vision_tower.", "vision_tower."),
    ("mm_projector.layers.1.", "multi_modal_projector.input_norm."),
    ("mm_projector.layers.2.", "multi_modal_projector.linear_1."),
    ("mm_projector.layers.4.", "multi_modal_projector.linear_2."),
]


def matches(config: Section, checkpoint: Checkpoint) -> bool:
    """Whether this is VILA's layout, by its folders."""
    return all((checkpoint.directory / part).is_dir() for part in PARTS)


def read(config: Section, checkpoint: Checkpoint) -> Layout:
    """Says the checkpoint in the words of docs/bluelm-v-layout.md.

    Raises:
        CheckpointError: a config.json is missing or damaged.
        UnsupportedModelError: another projector, scales, or several views.
    """
    llm, projector, tower = (
        Section(path, read_json(path))
        for path in (checkpoint.directory / part / "config.json" for part in PARTS)
    )
    kind = projector.choice("mm_projector_type", "mlp_downsample", TOKEN_ORDER)
    for key in ("s2", "dynamic_s2", "mm_use_im_start_end"):
        if config.boolean(key, False):
            raise UnsupportedModelError(f"{config.path}: {key} is true; supported: false")
    notes: list[str] = []
    read_selection(config, "mm_vision_select_feature", notes)
    aspect = config.string("image_aspect_ratio", "resize")
    views = one_view(config, tower.path.parent, "square" if aspect == "resize" else aspect, notes)
    rename_prefixes(checkpoint, PREFIXES)
    values = {
        "vision_config": tower.values,
        "vision_feature_layer": config.values.get("mm_vision_select_layer", -2),
        "projector": {"downsample": 2, "input_norm": True, "token_order": TOKEN_ORDER[kind]},
        **views,
    }
    return Layout(Section(config.path, values), llm, llm.path.parent, vicuna(), notes)
