"""Recognises a checkpoint by its config.json and gives its parts one set of names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.config import Section
from ..checkpoint.directory import Checkpoint
from ..decoders.bluelm import BlueLM
from ..decoders.decoder import Decoder
from ..decoders.llama import Llama
from ..decoders.minicpm import MiniCPM
from ..decoders.phi import Phi
from ..decoders.qwen2 import Qwen2
from ..errors import UnsupportedModelError
from ..vision.siglip import TOWER, SiglipProjector
from . import llava_onevision, original_llava, tinyllava, vila
from .layout import Layout, PromptForm

DECODERS: dict[str, type[Decoder]] = {
    family.MODEL_TYPE: family for family in (Llama, Qwen2, Phi, MiniCPM, BlueLM)
}
# Readers of other layouts, asked in this order.
LAYOUTS = (vila, tinyllava, llava_onevision, original_llava)
TEXT_PREFIX = "language_model."


@dataclass
class Family:
    """A recognised checkpoint.

    Attributes:
        decoder: the LLM.
        text_config: its part of config.json.
        text_prefix: before the names of its tensors.
        vision: tower and projector; None for a text-only model.
        tokenizer_dir: where the tokenizer's files lie; None for the checkpoint's directory.
        prompt: the family's own form of a conversation, if it has one.
        notes: what the user should know.
    """

    decoder: Decoder
    text_config: dict[str, Any]
    text_prefix: str
    vision: SiglipProjector | None
    tokenizer_dir: Path | None = None
    prompt: PromptForm | None = None
    notes: list[str] = field(default_factory=list)


def _supported() -> str:
    texts = ", ".join(DECODERS)
    return (
        "bluelm_v (docs/bluelm-v-layout.md); llava with a SigLIP tower; VILA 1.5 (llm/, mm_projector/, "
        "vision_tower/); LLaVA-OneVision Qwen2; TinyLLaVA, nanoLLaVA and Bunny; text-only " + texts
    )


def _decoder(config: Section) -> Decoder:
    model_type = config.values.get("model_type")
    if not isinstance(model_type, str) or model_type not in DECODERS:
        raise UnsupportedModelError(
            f"{config.path}: {config.prefix}model_type is {model_type!r}; supported LLMs: "
            f"{', '.join(DECODERS)}"
        )
    return DECODERS[model_type](config)


def recognise(checkpoint: Checkpoint) -> Family:
    """Says what a checkpoint is, and renames its tensors to docs/bluelm-v-layout.md's where they differ.

    Raises:
        UnsupportedModelError: says what was found and what is supported.
        CheckpointError: values in config.json that contradict each other.
    """
    path = checkpoint.directory / "config.json"
    config = Section(path, checkpoint.config)
    for reader in LAYOUTS:
        if reader.matches(config, checkpoint):
            return _from_layout(reader.read(config, checkpoint), checkpoint)
    model_type = config.values.get("model_type")
    if isinstance(model_type, str) and model_type in DECODERS:
        checkpoint.rename({name: f"model.{name}" for name in checkpoint if _bare(name)})
        return Family(_decoder(config), config.values, "", None)
    if model_type == "llava":
        config = _from_llava(config)
        model_type = "bluelm_v"
    if model_type != "bluelm_v":
        found = f"model_type {model_type!r}, architectures {config.values.get('architectures')!r}"
        raise UnsupportedModelError(f"{path} says {found}; supported: {_supported()}")
    _rename_parts(checkpoint)
    text = config.section("text_config", required=True)
    if "tie_word_embeddings" in config.values:  # some models say it at the top only
        text.values.setdefault("tie_word_embeddings", config.values["tie_word_embeddings"])
    decoder = _decoder(text)
    return Family(decoder, text.values, TEXT_PREFIX, SiglipProjector(config, checkpoint, decoder.n_embd))


def _from_layout(layout: Layout, checkpoint: Checkpoint) -> Family:
    _rename_parts(checkpoint)
    decoder = _decoder(layout.text)
    return Family(
        decoder,
        layout.text.values,
        TEXT_PREFIX,
        SiglipProjector(layout.config, checkpoint, decoder.n_embd),
        layout.tokenizer_dir,
        layout.prompt,
        layout.notes,
    )


def _bare(name: str) -> bool:
    """Names of a LlamaModel that was saved without its CausalLM."""
    return name.startswith(("layers.", "embed_tokens.", "norm."))


def _rename_parts(checkpoint: Checkpoint) -> None:
    """Maps the prefixes that versions of `transformers` write to those of docs/bluelm-v-layout.md."""
    mapping: dict[str, str] = {}
    for name in checkpoint:
        new = name
        for part in ("language_model", "vision_tower", "multi_modal_projector"):
            if new.startswith(f"model.{part}."):
                new = new.removeprefix("model.")
                if part == "language_model":
                    new = f"{TEXT_PREFIX}model." + new.removeprefix(TEXT_PREFIX)
        if new == "lm_head.weight":
            new = f"{TEXT_PREFIX}lm_head.weight"
        tower = TOWER.split(".")[0]
        if new.startswith(f"{tower}.") and not new.startswith(f"{TOWER}."):
            new = f"{TOWER}.{new.removeprefix(f'{tower}.')}"
        if new != name:
            mapping[name] = new
    checkpoint.rename(mapping)


def _from_llava(config: Section) -> Section:
    """A `LlavaConfig` of `transformers` with a SigLIP tower in the words of docs/bluelm-v-layout.md.

    The picture is stretched to one view, as the SigLIP image processor does.
    """
    values = config.values
    strategy = config.choice("vision_feature_select_strategy", "default", ["default", "full"])
    if strategy != "full":
        raise UnsupportedModelError(
            f"{config.path}: vision_feature_select_strategy {strategy!r} drops the first token; "
            "supported: 'full'"
        )
    act = config.choice("projector_hidden_act", "gelu", ["gelu", "gelu_pytorch_tanh"])
    if not config.boolean("multimodal_projector_bias", True):
        raise UnsupportedModelError(f"{config.path}: multimodal_projector_bias is false; supported: true")
    return Section(
        config.path,
        {
            "text_config": values.get("text_config"),
            "vision_config": values.get("vision_config"),
            "vision_feature_layer": values.get("vision_feature_layer", -2),
            "projector": {"downsample": 1, "hidden_act": act},
            "tiler": {"method": "single", "thumbnail": "none", "fit": "stretch"},
        },
    )
