"""What a vision file's projector asks for: which encoder runs it, how wide its embeddings are, its markers.

The names are those of `clip.projector_type`; llama.cpp's libmtmd knows them (tools/mtmd/clip-impl.h and
mtmd.cpp of llama-cpp-python 0.3.36). A file says its type in `clip.projector_type`, or, where it holds an
encoder for sound too, in `clip.vision.projector_type`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from ..errors import ModelFormatError, UnsupportedModelError
from .head import GgufHead

OWN = "bluelm"
VISION_WAYS = ("auto", "own", "mtmd")
Way = Literal["own", "mtmd"]


@dataclass(frozen=True)
class Overview:
    """How a picture of several views is told by the view of the whole alone.

    Attributes:
        is_first: Whether that view comes first; else it is the last.
        before, after: Texts around it, of special tokens.
    """

    is_first: bool
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Projector:
    """One projector type that libmtmd takes pictures with.

    Attributes:
        markers: Texts around and between a picture's views; each must be one token of the LLM's vocabulary.
        width: Name of the tensor whose rows are as many as the embeddings are wide; "-NAME": whose columns
            are. "": libmtmd compares.
        most_non_causal: Most tokens of a view whose tokens attend to each other in both directions, and which
            must be computed in one step. 0: they need not; -1: it follows from the file.
        overview: None where a picture has no view of the whole among others.
    """

    markers: tuple[str, ...] = ()
    width: str = ""
    most_non_causal: int = 0
    overview: Overview | None = None


_QWEN = ("<|vision_start|>", "<|vision_end|>")
_MINICPM = ("<image>", "</image>", "<slice>", "</slice>")
_OVERVIEW_FIRST = Overview(True, "<image>", "</image>")
_LLAMA4 = ("<|image_start|>", "<|image_end|>")
_GLM = ("<|begin_of_image|>", "<|end_of_image|>")

PROJECTORS: dict[str, Projector] = {
    "mlp": Projector(overview=Overview(False)),
    "ldp": Projector(),
    "ldpv2": Projector(),
    "resampler": Projector(_MINICPM, "resampler.proj.weight", 0, _OVERVIEW_FIRST),
    "minicpmv4_6": Projector(_MINICPM, "", 0, _OVERVIEW_FIRST),
    "adapter": Projector(),
    "qwen2vl_merger": Projector(_QWEN, "mm.2.bias"),
    "qwen2.5vl_merger": Projector(_QWEN, "mm.2.bias"),
    "qwen2.5o": Projector(_QWEN, "mm.2.bias"),
    "qwen3vl_merger": Projector(_QWEN),
    "ling3vl": Projector(_QWEN),
    "mimovl": Projector(_QWEN),
    "step3vl": Projector(("<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>")),
    "gemma3": Projector(("<start_of_image>", "<end_of_image>"), "-mm.input_projection.weight", -1),
    "gemma3nv": Projector(("<start_of_image>", "<end_of_image>"), "-mm.input_projection.weight"),
    "gemma4v": Projector(("<|image>", "<image|>"), "mm.input_projection.weight", 1120),
    "gemma4uv": Projector(("<|image>", "<image|>"), "mm.input_projection.weight", 1120),
    "phi4": Projector((), "mm.2.weight"),
    "idefics3": Projector(
        ("<fake_token_around_image>", "<global-img>"),
        "mm.model.fc.weight",
        0,
        Overview(False, "<fake_token_around_image><global-img>", "<fake_token_around_image>"),
    ),
    "pixtral": Projector(("[IMG_END]",), "mm.2.weight"),
    "lightonocr": Projector(("<|im_start|>", "<|im_end|>"), "mm.2.weight"),
    "internvl": Projector(
        ("<img>", "</img>"), "mm.model.mlp.3.weight", 0, Overview(False, "<img>", "</img>")
    ),
    "nemotron_v2_vl": Projector((), "mm.model.mlp.3.weight"),
    "llama4": Projector(_LLAMA4),
    "lfm2": Projector(
        ("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
        "mm.2.weight",
        0,
        Overview(False, "<|image_start|>", "<|image_end|>"),
    ),
    "kimivl": Projector(("<|media_start|>", "<|media_end|>"), "mm.2.weight"),
    "kimik25": Projector((), "mm.2.weight"),
    "paddleocr": Projector(("<|IMAGE_START|>", "<|IMAGE_END|>"), "mm.2.weight"),
    "cogvlm": Projector(),
    "janus_pro": Projector((), "mm.1.bias"),
    "dots_ocr": Projector(("<|img|>", "<|endofimg|>"), "mm.2.weight"),
    "dots3note_v": Projector(("<|img|>", "<|endofimg|>"), "mm.2.weight"),
    "deepseekocr": Projector(),
    "deepseekocr2": Projector(),
    "glm4v": Projector(_GLM),
    "glm5v": Projector(_GLM),
    "youtuvl": Projector(_QWEN),
    "yasa2": Projector(("<image>", "</image>"), "mm.2.weight"),
    "exaone4_5": Projector(("<vision>", "</vision>")),
    "hunyuanvl": Projector(("<｜hy_place▁holder▁no▁100｜>", "<｜hy_place▁holder▁no▁101｜>")),
    "minimax_m3": Projector(("]<]start of image[>[", "]<]end of image[>[")),
    "granite4_vision": Projector(),
    "muse-glimmer": Projector(_LLAMA4),
}

_AUDIO = (
    "gemma3na", "gemma4a", "gemma4ua", "ultravox", "qwen2a", "qwen3a", "glma", "voxtral", "meralion",
    "musicflamingo", "dots3note_a", "lfm2a", "granite_speech", "mimo_audio", "parakeet", "qwen3tts_spkenc",
    "qwen3tts_gen", "pockettts_spkenc", "pockettts_gen",
)  # fmt: skip

_REFUSED = {
    "deepseek4v": "its padding depends on where in the prompt a picture stands",
}


def projector_type(head: GgufHead) -> str:
    """The name of a vision file's projector; "" where the file names none."""
    for key in ("clip.projector_type", "clip.vision.projector_type"):
        found = head.metadata.get(key)
        if isinstance(found, str) and found:
            return found
    return ""


def way_of(head: GgufHead, wanted: str = "auto") -> Way:
    """Which encoder a vision file runs on: "own" or "mtmd".

    Args:
        head: Of the vision file.
        wanted: "auto", "own" or "mtmd".

    Raises:
        UnsupportedModelError: none knows its projector, or not the one that is wanted.
    """
    name = projector_type(head)
    if name == OWN:
        if wanted == "mtmd":
            raise UnsupportedModelError(f"{head.path}: libmtmd does not know projectors of type {OWN!r}")
        return "own"
    if wanted == "own":
        raise UnsupportedModelError(
            f"{head.path}: bluelm-gguf's own encoder does not run projectors of type {name!r}; libmtmd may"
        )
    if name == "":
        if head.metadata.get("clip.has_vision_encoder") is not True and "clip.audio.projector_type" in (
            head.metadata
        ):
            raise UnsupportedModelError(f"{head.path}: this projector takes sound only, no pictures")
        raise ModelFormatError(f"{head.path}: the file does not name its projector (clip.projector_type)")
    if name in _AUDIO or head.metadata.get("clip.has_vision_encoder") is not True:
        raise UnsupportedModelError(f"{head.path}: projector type {name!r} takes sound only, no pictures")
    if name in _REFUSED:
        raise UnsupportedModelError(
            f"{head.path}: projector type {name!r} is not supported: {_REFUSED[name]}"
        )
    if name not in PROJECTORS:
        raise UnsupportedModelError(
            f"{head.path}: projector type {name!r} is not known to llama.cpp as in llama-cpp-python "
            f"{version('llama-cpp-python')}"
        )
    return "mtmd"


def projector_width(head: GgufHead) -> int | None:
    """Width of the embeddings that a projector makes; None where only libmtmd can tell."""
    name = projector_type(head)
    if name == OWN:
        found: Any = head.metadata.get("clip.vision.projection_dim")
        return found if isinstance(found, int) else None
    known = PROJECTORS.get(name)
    if known is None or not known.width:
        return None
    tensor, side = (known.width[1:], -1) if known.width.startswith("-") else (known.width, 0)
    shape = next((entry.shape for entry in head.tensors if entry.name == tensor), ())
    return shape[side] if shape else None


def least_batch(head: GgufHead) -> int:
    """Tokens that the language model must take in one step, for a view that is not causal; 0: any will do."""
    known = PROJECTORS.get(projector_type(head))
    if known is None or known.most_non_causal >= 0:
        return 0 if known is None else known.most_non_causal
    keys = ("clip.vision.image_size", "clip.vision.patch_size", "clip.vision.projector.scale_factor")
    image, patch, scale = (
        head.metadata.get(key, default) for key, default in zip(keys, (0, 0, 4), strict=True)
    )
    if (
        not (isinstance(image, int) and isinstance(patch, int) and isinstance(scale, int))
        or min(image, patch, scale) < 1
    ):
        raise ModelFormatError(f"{head.path}: the size of its pictures is missing (clip.vision.image_size)")
    n_side = image // patch // scale
    return n_side * n_side
