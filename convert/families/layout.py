"""What the readers of the picture-and-text layouts have in common.

A reader (vila.py, original_llava.py, tinyllava.py, llava_onevision.py) takes a checkpoint of another layout,
renames its tensors and says the rest in the words of docs/bluelm-v-layout.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.config import Section
from ..checkpoint.directory import Checkpoint, read_json_if_there
from ..errors import CheckpointError, UnsupportedModelError
from ..tokenizers.vocabulary import Vocabulary

# PIL's resampling filters, as preprocessor_config.json counts them.
RESAMPLING = {2: "bilinear", 3: "bicubic"}
# Towers that config.json may name without describing them: their published config.json.
TOWERS: dict[str, dict[str, Any]] = {
    "siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
}
# How tensors are named by the code that LLaVA was published with, and families that grew out of it.
ORIGINAL_LLAVA_PREFIXES = [
    ("model.vision_tower.vision_tower.", "vision_tower."),
    ("model.vision_tower.", "vision_tower."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
]


@dataclass
class PromptForm:
    """How a family writes a conversation.

    Attributes:
        template: Jinja source.
        always: the family's own form counts, whatever template the tokenizer brings.
        end: text of the token that ends an answer; None for the tokenizer's EOS.
    """

    template: str
    always: bool = False
    end: str | None = None

    def apply(self, vocabulary: Vocabulary) -> None:
        """Gives a tokenizer the template, if it needs it, and says so in its notes."""
        if vocabulary.chat_template and not self.always:
            return
        if vocabulary.chat_template:
            vocabulary.notes.append(
                "the tokenizer's chat template is the LLM's; the family's own replaces it"
            )
        else:
            vocabulary.notes.append("the tokenizer has no chat template; the family's own is used")
        vocabulary.chat_template = self.template
        if self.end is not None and self.end in vocabulary.tokens:
            vocabulary.special_ids["eos"] = vocabulary.tokens.index(self.end)


@dataclass
class Layout:
    """A checkpoint in the words of docs/bluelm-v-layout.md; its tensors have that page's names.

    Attributes:
        config: the top level.
        text: the LLM's config.
        tokenizer_dir: where the tokenizer's files lie.
        prompt: the family's form of a conversation; None if the tokenizer's template is all there is.
        notes: what the user should know.
    """

    config: Section
    text: Section
    tokenizer_dir: Path
    prompt: PromptForm | None = None
    notes: list[str] = field(default_factory=list)


def vicuna(end: str | None = None, *, always: bool = False) -> PromptForm:
    """The prompt of Vicuna 1.1 and LLaVA 1.5: `SYSTEM USER: ... ASSISTANT: ...</s>USER: ... ASSISTANT:`."""
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    closing = "eos_token" if end is None else f"'{end}'"
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}"
        '{% else %}{{ "' + system + ' " }}{% endif %}'
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
        "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + "
        + closing
        + " }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    return PromptForm(template, always, end)


def rename_prefixes(checkpoint: Checkpoint, prefixes: list[tuple[str, str]]) -> None:
    """Renames tensors by the first prefix that fits."""
    mapping: dict[str, str] = {}
    for name in checkpoint:
        for old, new in prefixes:
            if name.startswith(old):
                mapping[name] = new + name.removeprefix(old)
                break
    checkpoint.rename(mapping)


def one_view(config: Section, directory: Path, aspect: str, notes: list[str]) -> dict[str, Any]:
    """`tiler`, `image_mean` and `image_std` of a family that looks at one view.

    Args:
        config: for messages.
        directory: with the tower's preprocessor_config.json, if there is one.
        aspect: "square" (stretched) or "pad" (a grey margin first).
        notes: gets what differs from the original.

    Raises:
        UnsupportedModelError: several views, or a filter that the runtime does not have.
    """
    path = directory / "preprocessor_config.json"
    processor = Section(path, read_json_if_there(path))
    resampling = processor.integer("resample", 3, minimum=0)
    if resampling not in RESAMPLING:
        raise UnsupportedModelError(f"{path}: resample is {resampling}; supported: 2 (bilinear), 3 (bicubic)")
    mean = processor.numbers("image_mean", [0.5] * 3, 3, low=0.0, high=1.0)
    std = processor.numbers("image_std", [0.5] * 3, 3, low=1e-6, high=1e6)
    tiler: dict[str, Any] = {"method": "single", "thumbnail": "none", "resize": RESAMPLING[resampling]}
    if aspect == "square":
        tiler["fit"] = "stretch"
    elif aspect == "pad":
        tiler |= {"fit": "pad_center", "pad_rgb": [int(255 * m) for m in mean]}
        notes.append(
            "pictures are resized, then padded; the original pads first, so that their edges differ by less "
            "than a pixel"
        )
    else:
        raise UnsupportedModelError(
            f"{config.path}: image_aspect_ratio is {aspect!r}, several views of one picture; supported: "
            "'square', 'resize', 'pad'"
        )
    return {"tiler": tiler, "image_mean": mean, "image_std": std}


def read_selection(config: Section, key: str, notes: list[str]) -> None:
    """Which tokens of the tower are used: all of them, or all but the first.

    SigLIP has no class token, so that "patch" takes a real one away. It is kept here, and noted.

    Raises:
        UnsupportedModelError: another word.
    """
    if config.choice(key, "cls_patch", ["cls_patch", "patch", "full"]) == "patch":
        notes.append(
            f"{key} 'patch' drops the first of the tower's tokens, the top left corner; it is kept here"
        )


def known_tower(config: Section, key: str) -> dict[str, Any]:
    """The config of a tower that is only named, by the last part of its name; {} for an unknown one."""
    name = config.string(key, "").rstrip("/").rsplit("/", 1)[-1]
    return dict(TOWERS.get(name, {}))


def stored_tower(config: Section, checkpoint: Checkpoint) -> dict[str, Any]:
    """The SigLIP config of a checkpoint in the original LLaVA code's names, whose weights must be in it.

    Raises:
        CheckpointError: the tower's weights are not there.
        UnsupportedModelError: a tower that is neither described nor known, S2 scales, image marks.
    """
    for key in ("use_s2", "mm_use_im_start_end"):
        if config.boolean(key, False):
            raise UnsupportedModelError(f"{config.path}: {key} is true; supported: false")
    tower = known_tower(config, "mm_vision_tower") | config.section("vision_config").values
    if not tower:
        raise UnsupportedModelError(
            f"{config.path}: mm_vision_tower is {config.values.get('mm_vision_tower')!r} and there is no "
            f"vision_config; supported without one: {', '.join(TOWERS)}"
        )
    if not any(name.startswith("model.vision_tower.") for name in checkpoint):
        raise CheckpointError(
            f"{checkpoint.directory} holds no tensors model.vision_tower.*: the tower "
            f"{config.values.get('mm_vision_tower')!r} was left at home. Save the whole model, tower "
            "included, and convert that"
        )
    return tower
