"""Checkpoints of other families, from their files to the answer, against torch.

Each is written with the names and keys of its hub files, converted, and run through VisionEncoder, Model and
llama.cpp in float32: features, prompt tokens, next-token logits and the greedy answer. The last tests report
(record_property) how near every quantised type stays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onevision
import pytest
import sentencepiece
import torch
from bluelm_gguf.convert import BY_LLAMA_CPP, convert
from checkpoints import make_bluelm_v_checkpoint
from family_checkpoints import (
    make_original_llava,
    make_text,
    make_tinyllava,
    make_vila,
    sentencepiece_model,
)
from family_reference import FamilyReference
from llm_context import LlmContext
from PIL import Image
from reference_model import ReferenceBlueLMV
from tokenizers import Tokenizer
from tolerances import relative_error

from bluelm_gguf import Model, VisionEncoder
from bluelm_gguf.llm.prompt import TextSegment, Turn

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VICUNA = (f"{SYSTEM} USER: ", "\nWhat is this? ASSISTANT:")
CHATML = ("<|im_start|>user\n", "\nWhat is this?<|im_end|>\n<|im_start|>assistant\n")
QUESTION = "What is this?"
N_NEW = 3
# float32 on both sides; only the order of additions differs. Measured: 4e-6 and 5e-6.
FEATURE_TOLERANCE = 2e-5
LOGIT_TOLERANCE = 3e-5
PHI_TOLERANCE = 1e-3  # ggml looks GELU up in a table of F16 values; measured 3e-4
LLM_TYPES = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")

Maker = Callable[..., FamilyReference]
FAMILIES: dict[str, tuple[Maker, dict[str, Any], tuple[str, str]]] = {
    "vila": (make_vila, {}, VICUNA),
    "vila-2x2-fix": (make_vila, {"fixed": True, "shards": 2}, VICUNA),
    "nanollava": (make_original_llava, {"model_type": "llava-qwen2", "vision": {}}, CHATML),
    # Only named, the tower has its 27 blocks and 16 heads; the last block is never run and may be missing.
    "bunny-phi": (
        make_original_llava,
        {"model_type": "bunny-phi", "stored_blocks": 26},
        VICUNA,
    ),
    "bunny-llama": (make_original_llava, {"model_type": "bunny-llama", "vision": {}}, VICUNA),
    "tinyllava-phi": (make_tinyllava, {}, VICUNA),
    "tinyllava-llama": (make_tinyllava, {"text_type": "llama"}, VICUNA),
}


def logit_tolerance(family: str) -> float:
    """By the LLM."""
    return PHI_TOLERANCE if "phi" in family else LOGIT_TOLERANCE


def picture(width: int, height: int) -> np.ndarray:
    """Smooth noise, so that resizing matters."""
    noise = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def view_of(pixels: np.ndarray, pad: bool) -> np.ndarray:
    """The one view of 384 pixels, as the original code makes it."""
    image = Image.fromarray(pixels)
    if pad:
        edge = max(image.size)
        board = Image.new("RGB", (edge, edge), (127, 127, 127))
        board.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
        image = board
    return np.asarray(image.resize((384, 384), Image.Resampling.BICUBIC))


def make(name: str, directory: Path, **more: Any) -> FamilyReference:
    maker, options, _ = FAMILIES[name]
    if name == "bunny-phi":  # the tower that config.json only names, at a small width
        more["vision"] = None
        options = options | {"model_type": "bunny-phi"}
        return _small_so400m(directory, options | more)
    return maker(directory, **(options | more))


def _small_so400m(directory: Path, options: dict[str, Any]) -> FamilyReference:
    """Bunny's config.json names a tower; the known one's width is put down to 64 for this test."""
    import json

    vision = {"num_hidden_layers": 27, "num_attention_heads": 16}
    model = make_original_llava(directory, **(options | {"vision": vision}))
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["vision_config"] = {"hidden_size": 64, "intermediate_size": 96}  # the rest is the named tower's
    path.write_text(json.dumps(config), encoding="utf-8")
    return model


def encode_text(directory: Path, text: str) -> list[int]:
    """Tokens by the original tokenizer: sentencepiece, or tokenizer.json with special tokens found."""
    for folder in (directory / "llm", directory):
        if (folder / "tokenizer.model").exists():
            return list(sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model()).encode(text))
    path = directory / "tokenizer.json"
    if not path.exists():
        from family_checkpoints import _codegen_json

        return list(Tokenizer.from_str(_codegen_json()).encode(text, add_special_tokens=False).ids)
    return list(Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_picture_and_question_to_the_same_answer(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "ck"
    reference = make(name, directory)
    result = convert(directory, tmp_path / "out", llm_type="f32", mmproj_type="f32")
    assert result.llm_path is not None and result.mmproj_path is not None
    pad = name in ("nanollava", "bunny-phi", "bunny-llama")
    # Padded to a square first, then resized: ours only for squares does exactly that.
    pixels = picture(500, 500) if pad else picture(500, 300)
    features = reference.encode(view_of(pixels, pad))
    before, after = (encode_text(directory, text) for text in FAMILIES[name][2])
    if (directory / "tokenizer.model").exists() or (directory / "llm").exists():
        before = [1, *before]
    elif name == "bunny-llama":
        before = [480, *before]
    wanted = reference.logits([before, features, after])[-1].numpy()
    with Model(result.llm_path, mmproj=result.mmproj_path, n_ctx=1024) as model:
        image = model.encode(pixels)
        ours = image.embeddings
        assert ours.shape == features.shape == (196 if "vila" in name else 729, 64)
        assert relative_error(ours, features.numpy()) < FEATURE_TOLERANCE
        segments = model.engine.prompts.build([Turn("user", QUESTION, (image,))])
        tokens = [list(part.tokens) for part in segments if isinstance(part, TextSegment)]
        assert tokens == [before, after]
        reply = model.generate(QUESTION, images=[image], max_tokens=N_NEW)
        assert model.llm is not None
        answer = [int(wanted.argmax())]
        answer += reference.greedy([before, features, after, answer], N_NEW - 1)
        ends = [i for i, token in enumerate(answer) if model.llm.is_end(token)]
        pieces = b"".join(model.llm.piece(token) for token in answer[: ends[0] if ends else N_NEW])
    # Random answers are cut in the middle of a character.
    assert reply.text.replace("\ufffd", "").strip() == pieces.decode("utf-8", "ignore").strip()

    with LlmContext(result.llm_path, n_ctx=1024, n_batch=1024) as llm:
        llm.prefill(before)
        llm.prefill(ours, len(before))
        llm.prefill(after, len(before) + len(ours))
        got = llm.logits()
    assert relative_error(got[None], wanted[None]) < logit_tolerance(name)
    assert got.argmax() == wanted.argmax()


@pytest.mark.parametrize("family", ["phi", "minicpm", "bluelm", "smollm2"])
def test_text_only(family: str, tmp_path: Path) -> None:
    model = make_text(tmp_path / "ck", family)
    result = convert(tmp_path / "ck", tmp_path / "out", llm_type="f32")
    assert result.llm_path is not None and result.mmproj_path is None
    tokens = [int(t) for t in np.random.default_rng(2).integers(3, 400, 48)]
    text = list(tokens)
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0, -1].numpy()
        for _ in range(N_NEW):
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    with LlmContext(result.llm_path) as llm:
        llm.prefill(tokens)
        got = llm.logits()
        assert relative_error(got[None], wanted[None]) < logit_tolerance(family)
        assert llm.greedy(N_NEW) == text[48:]


def test_padded_pictures_stay_near(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """`pad`: the original pads, then resizes; here the picture is resized, then padded."""
    reference = make("nanollava", tmp_path / "ck")
    result = convert(tmp_path / "ck", tmp_path / "out", mmproj_type="f32", vision_only=True)
    assert result.mmproj_path is not None
    assert any("resized, then padded" in note for note in result.notes)
    with VisionEncoder(result.mmproj_path) as encoder:
        for size in ((500, 300), (333, 500), (640, 480)):
            wanted = reference.encode(view_of(picture(*size), True)).numpy()
            near = cosine(encoder.encode(picture(*size)).embeddings, wanted)
            record_property(f"cosine {size[0]}x{size[1]}", round(near, 5))
            assert near > 0.99


def cosine(ours: np.ndarray, reference: np.ndarray) -> float:
    """Of all values together."""
    a, b = ours.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


class Whole:
    """A reference of two parts: the LLM's torch module, and the features of one 384x384 picture."""

    def __init__(self, llm: Any, encode: Callable[[np.ndarray], np.ndarray]) -> None:
        self.llm = llm
        self.encode = encode


def _bluelm_v(path: Path) -> Whole:
    make_bluelm_v_checkpoint(path, text=WIDE, vision={"hidden_size": 128}, dtype=torch.bfloat16)
    reference = ReferenceBlueLMV.from_checkpoint(path)
    return Whole(reference.language_model, lambda pixels: reference.encode_tiles(pixels[None])[0].numpy())


def _llava_onevision(path: Path) -> Whole:
    _, model = onevision.make_checkpoint(path)

    class Llm:
        """Its language model takes tokens alone, as the others do."""

        def __call__(self, tokens: torch.Tensor) -> Any:
            return model(input_ids=tokens)

    return Whole(Llm(), lambda pixels: onevision.features(model, pixels))


WIDE = {"hidden_size": 256, "intermediate_size": 512}
QUANTISED: dict[str, Callable[[Path], Any]] = {
    "bluelm-v": _bluelm_v,
    "llava-onevision": _llava_onevision,
    "bunny-llama": lambda path: make_original_llava(
        path, "bunny-llama", text=WIDE, vision={"hidden_size": 128}, dtype=torch.bfloat16
    ),
    "vila": lambda path: make_vila(path, text=WIDE, vision={"hidden_size": 128}, dtype=torch.bfloat16),
    "nanollava": lambda path: make_original_llava(
        path, "llava-qwen2", text=WIDE, vision={"hidden_size": 128}, dtype=torch.bfloat16
    ),
    "tinyllava-phi": lambda path: make_tinyllava(
        path, text=WIDE, vision={"hidden_size": 128}, dtype=torch.bfloat16
    ),
    "minicpm": lambda path: make_text(path, "minicpm", text=WIDE, dtype=torch.bfloat16),
    "bluelm": lambda path: make_text(path, "bluelm", text=WIDE, dtype=torch.bfloat16),
}
# Least cosine of logits and of features. The weights are noise, which quantises worse than trained ones.
LEAST = {"q8_0": 0.995, "q6_k": 0.99, "q5_k_m": 0.98, "q4_k_m": 0.93, "q4_0": 0.9}


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_types_stay_near(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Reports cosine and top-1 agreement over 64 positions for every type (pytest --junitxml shows them)."""
    directory = tmp_path / "ck"
    reference = QUANTISED[name](directory)
    tokens = [int(t) for t in np.random.default_rng(3).integers(3, 400, 64)]
    language = getattr(reference, "llm", reference)
    with torch.no_grad():
        wanted = language(torch.tensor([tokens])).logits[0].numpy()
    for llm_type in LLM_TYPES:
        assert llm_type == "q8_0" or llm_type in BY_LLAMA_CPP
        result = convert(directory, tmp_path / llm_type, llm_type=llm_type, llm_only=True)
        assert result.llm_path is not None
        got = []
        with LlmContext(result.llm_path) as llm:
            for i, token in enumerate(tokens):
                llm.prefill([token], i)
                got.append(llm.logits())
        ours = np.stack(got)
        near = cosine(ours, wanted)
        agreement = float((ours.argmax(-1) == wanted.argmax(-1)).mean())
        record_property(f"{name} LLM {llm_type}", f"cosine {near:.4f}, top-1 {agreement:.2f}")
        assert near > LEAST[llm_type]
    if not isinstance(reference, (FamilyReference, Whole)):
        return
    pixels = picture(384, 384)
    features = np.asarray(reference.encode(pixels))
    for mmproj_type in ("q8_0", "q4_0"):
        result = convert(directory, tmp_path / "mm", mmproj_type=mmproj_type, vision_only=True)
        assert result.mmproj_path is not None
        with VisionEncoder(result.mmproj_path) as encoder:
            near = cosine(encoder.encode(pixels).embeddings, features)
        record_property(f"{name} mmproj {mmproj_type}", f"cosine {near:.4f}")
        assert near > LEAST[mmproj_type]


@pytest.mark.slow
def test_full_width(tmp_path: Path) -> None:
    """VILA1.5-3b's widths: tower 1152/4304, LLM 2560/6912 with 20 heads; two blocks of each are run."""
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}
    text = {"hidden_size": 2560, "intermediate_size": 6912, "num_attention_heads": 20,
            "num_key_value_heads": 20}  # fmt: skip
    reference = make_vila(tmp_path / "ck", vision=vision, text=text, dtype=torch.bfloat16)
    result = convert(tmp_path / "ck", tmp_path / "out", llm_type="f32", mmproj_type="f32")
    assert result.llm_path is not None and result.mmproj_path is not None
    pixels = picture(384, 384)
    features = reference.encode(pixels)
    with VisionEncoder(result.mmproj_path) as encoder:
        ours = encoder.encode(pixels).embeddings
    assert relative_error(ours, features.numpy()) < FEATURE_TOLERANCE
    before, after = [1, 20, 30], [40, 50, 60]
    wanted = reference.logits([before, features, after])[-1].numpy()
    with LlmContext(result.llm_path) as llm:
        for i, part in enumerate((before, ours, after)):
            llm.prefill(part, (0, 3, 199)[i])
        assert relative_error(llm.logits()[None], wanted[None]) < LOGIT_TOLERANCE
    result = convert(tmp_path / "ck", tmp_path / "q", mmproj_type="q8_0", vision_only=True, dry_run=True)
    assert {kind for kind, _, _ in result.mmproj_types} == {"Q8_0", "F16", "F32"}
