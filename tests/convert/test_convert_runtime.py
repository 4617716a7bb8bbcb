"""From the checkpoint through the converter and the runtime, against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bluelm_gguf.convert import convert
from checkpoints import make_bluelm_v_checkpoint
from reference_model import ReferenceBlueLMV
from tokenizers import Tokenizer

from bluelm_gguf import Model, VisionEncoder

N_NEW = 12


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_picture_and_question_to_the_same_text(kind: str, tmp_path: Path) -> None:
    """One view, f32 files: features within float32's rounding, and the greedy answer token for token."""
    directory = make_bluelm_v_checkpoint(tmp_path / "ck", text_model_type=kind, input_norm=True, seed=2)
    result = convert(directory, tmp_path / "out", llm_type="f32", mmproj_type="f32")
    assert result.llm_path is not None and result.mmproj_path is not None
    reference = ReferenceBlueLMV.from_checkpoint(directory)
    picture = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
    features = reference.encode_tiles(picture[None])[0]
    with VisionEncoder(result.mmproj_path) as encoder:
        assert np.abs(encoder.encode(picture).embeddings - features.numpy()).max() < 5e-5

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    before, after = {
        "qwen2": ("<|im_start|>user\n", "\nWhat is this?<|im_end|>\n<|im_start|>assistant\n"),
        "llama": (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
            "\nWhat is this?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    }[kind]
    pieces = [tokenizer.encode(text, add_special_tokens=False).ids for text in (before, after)]
    ids = reference.greedy([pieces[0], features, pieces[1]], N_NEW)
    with Model(result.llm_path, mmproj=result.mmproj_path, n_ctx=1024) as model:
        reply = model.generate("What is this?", images=[picture], max_tokens=N_NEW)
    assert reply.finish_reason == "length"
    assert reply.text == tokenizer.decode(ids, skip_special_tokens=True)
