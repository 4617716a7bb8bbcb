"""The converted LLM computes what `transformers` computes, in every type, for every option that is
carried over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_io
import llama_cpp
import numpy as np
import pytest
import torch
from bluelm_gguf.convert import LLM_TYPES, TensorError, UnsupportedModelError, convert
from checkpoints import make_bluelm_v_checkpoint, make_llm_checkpoint
from reference_model import ReferenceBlueLMV
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

N_TOKENS = 48
# f32 weights, f32 KV cache: what is left is the order of additions. Logits reach about 16.
F32_TOLERANCE = 2e-4
ROPE = {
    "theta": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 512,
    },
}


def load(path: Path) -> llama_cpp.Llama:
    """A context that keeps all logits, with keys and values in f32 (type 0).

    Repacked weights are switched off: ggml's AMX kernels crash where a GCC before 12.4 built them (GCC bug
    114098), and `llama_cpp.Llama` has no argument for it.
    """

    def plain() -> llama_cpp.llama_model_params:
        params = defaults()
        params.use_extra_bufts = False
        return params

    defaults = llama_cpp.llama_cpp.llama_model_default_params
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp.llama_cpp, "llama_model_default_params", plain)
        return llama_cpp.Llama(
            str(path),
            n_ctx=256,
            n_batch=256,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            verbose=False,
            type_k=0,
            type_v=0,
        )


def random_tokens(n_vocab: int) -> list[int]:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, n_vocab, (N_TOKENS,), generator=generator).tolist()


def logits(path: Path, tokens: list[int]) -> np.ndarray:
    """[n_tokens, n_vocab] from llama.cpp."""
    llm = load(path)
    llm.eval(tokens)
    out = np.array(llm.scores[: len(tokens)])
    llm.close()
    return out


def greedy(path: Path, tokens: list[int], n: int) -> list[int]:
    llm = load(path)
    out: list[int] = []
    for token in llm.generate(tokens, temp=0.0, repeat_penalty=1.0):
        out.append(int(token))
        if len(out) == n:
            break
    llm.close()
    return out


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-wide-heads": ("llama", {"head_dim": 32}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-rope-theta": ("llama", {"rope_parameters": ROPE["theta"]}),
    "llama-rope-linear": ("llama", {"rope_parameters": ROPE["linear"]}),
    "llama-rope-llama3": ("llama", {"rope_parameters": ROPE["llama3"]}),
    "llama-rope-yarn": ("llama", {"rope_parameters": ROPE["yarn"]}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-rope-theta": ("qwen2", {"rope_parameters": ROPE["theta"]}),
    "qwen2-rope-yarn": ("qwen2", {"rope_parameters": ROPE["yarn"]}),
    "no-gqa": ("llama", {"num_key_value_heads": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_text_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    kind, text = CASES[case]
    directory = make_llm_checkpoint(tmp_path / "ck", kind=kind, text=text, shards=2 if case == "llama" else 1)
    result = convert(directory, tmp_path / "out", llm_type="f32")
    assert result.mmproj_path is None and result.llm_path is not None
    model = AutoModelForCausalLM.from_pretrained(directory).float()
    tokens = random_tokens(model.config.vocab_size)
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0].numpy()
        text_ids = list(tokens)
        for _ in range(32):
            text_ids.append(int(model(torch.tensor([text_ids])).logits[0, -1].argmax()))
    got = logits(result.llm_path, tokens)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() < F32_TOLERANCE
    assert greedy(result.llm_path, tokens, 32) == text_ids[N_TOKENS:]


def test_old_spelling_of_rope_settings(tmp_path: Path) -> None:
    """`rope_theta` and `rope_scaling`, as config.json had them before transformers 5."""
    directory = make_llm_checkpoint(tmp_path / "ck", text={"rope_parameters": ROPE["linear"]})
    new = convert(directory, tmp_path / "new", llm_type="f32", name="m")
    path = directory / "config.json"
    text = path.read_text(encoding="utf-8")
    config = json.loads(text)
    del config["rope_parameters"]
    config |= {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}
    path.write_text(json.dumps(config), encoding="utf-8")
    old = convert(directory, tmp_path / "old", llm_type="f32", name="m")
    assert new.llm_path is not None and old.llm_path is not None
    assert old.llm_path.read_bytes() == new.llm_path.read_bytes()


# Root mean square of the error over that of the logits. Weights are bf16 noise, which quantises worse than
# trained ones. Measured: 9e-7, 5e-4 and 4e-3 (activations are rounded too), 0.024, 0.25, 0.21,
# 0.11, 0.06.
TYPE_TOLERANCE = {
    "f32": 1e-5,
    "f16": 2e-3,
    "bf16": 1e-2,
    "q8_0": 0.05,
    "q4_0": 0.35,
    "q4_k_m": 0.3,
    "q5_k_m": 0.17,
    "q6_k": 0.1,
}
WANTED_TYPES = {
    "f32": {"F32"},
    "f16": {"F16", "F32"},
    "bf16": {"BF16", "F32"},
    "q8_0": {"Q8_0", "F32"},
    "q4_0": {"Q4_0", "Q6_K", "F32"},
    "q4_k_m": {"Q4_K", "Q6_K", "F32"},
    "q5_k_m": {"Q5_K", "Q6_K", "F32"},
    "q6_k": {"Q6_K", "F32"},
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int], np.ndarray]:
    """A checkpoint with rows of 256, tokens, and the reference's logits."""
    text = {"hidden_size": 256, "intermediate_size": 512}
    directory = make_llm_checkpoint(tmp_path_factory.mktemp("wide") / "ck", text=text, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(directory).float()
    tokens = random_tokens(model.config.vocab_size)
    with torch.no_grad():
        return directory, tokens, model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("llm_type", LLM_TYPES)
def test_every_type_runs_and_stays_near(
    llm_type: str, wide: tuple[Path, list[int], np.ndarray], tmp_path: Path
) -> None:
    directory, tokens, wanted = wide
    result = convert(directory, tmp_path, llm_type=llm_type, name="wide")
    assert result.llm_path == tmp_path / f"wide-{llm_type.upper()}.gguf"
    error = logits(result.llm_path, tokens) - wanted
    assert np.sqrt((error**2).mean() / (wanted**2).mean()) < TYPE_TOLERANCE[llm_type]
    kinds = gguf_io.types(result.llm_path)
    assert set(kinds.values()) == WANTED_TYPES[llm_type]
    assert all(kind == "F32" for name, kind in kinds.items() if "norm" in name)
    assert {kind: count for kind, count, _ in result.llm_types} == {
        kind: list(kinds.values()).count(kind) for kind in kinds.values()
    }
    keys = gguf_io.metadata(result.llm_path)
    wanted_ftype = {
        "f32": 0,
        "f16": 1,
        "bf16": 32,
        "q8_0": 7,
        "q4_0": 2,
        "q4_k_m": 15,
        "q5_k_m": 17,
        "q6_k": 18,
    }
    assert keys["general.file_type"] == wanted_ftype[llm_type]
    assert keys["general.quantization_version"] == 2
    assert keys["general.name"] == "wide" and keys["general.type"] == "model"
    assert sorted(p.name for p in tmp_path.iterdir()) == [result.llm_path.name]


@pytest.mark.parametrize("llm_type", ["q8_0", "q4_0", "q4_k_m", "q6_k"])
def test_rows_that_do_not_divide_fall_back_and_say_so(llm_type: str, tmp_path: Path) -> None:
    text = {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 5, "intermediate_size": 96}
    directory = make_llm_checkpoint(tmp_path / "ck", text=text)
    result = convert(directory, tmp_path / "out", llm_type=llm_type)
    assert result.llm_path is not None
    assert any("rows that are no multiple" in note for note in result.notes)
    assert np.isfinite(logits(result.llm_path, [1, 2, 3])).all()


def test_llm_of_a_vision_checkpoint(tmp_path: Path) -> None:
    """The text part under `language_model.`, Qwen2 and tied, next to the reference's own logits."""
    directory = make_bluelm_v_checkpoint(
        tmp_path / "ck", text_model_type="qwen2", text={"tie_word_embeddings": True}
    )
    result = convert(directory, tmp_path / "out", llm_type="f32", llm_only=True)
    assert result.llm_path is not None and result.mmproj_path is None
    tokens = random_tokens(480)
    wanted = ReferenceBlueLMV.from_checkpoint(directory).logits([tokens]).numpy()
    assert np.abs(logits(result.llm_path, tokens) - wanted).max() < F32_TOLERANCE


def test_embedding_rows_without_tokens_are_placeholders(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck", text={"vocab_size": 512})
    result = convert(directory, tmp_path / "out", llm_type="f32")
    assert result.llm_path is not None
    keys = gguf_io.metadata(result.llm_path)
    assert len(keys["tokenizer.ggml.tokens"]) == 512
    assert keys["tokenizer.ggml.tokens"][-1] == "[PAD511]" and keys["tokenizer.ggml.token_type"][-1] == 5
    assert any("26 embedding rows" in note for note in result.notes)
    assert logits(result.llm_path, [1, 2]).shape == (2, 512)


def test_added_token_without_embedding_is_left_out(tmp_path: Path) -> None:
    """`<image>`, the last token, needs no row: pictures come as embeddings."""
    directory = make_llm_checkpoint(tmp_path / "ck", text={"vocab_size": 485})
    result = convert(directory, tmp_path / "out", llm_type="f32")
    assert result.llm_path is not None
    assert len(gguf_io.metadata(result.llm_path)["tokenizer.ggml.tokens"]) == 485
    assert any("<image>" in note for note in result.notes)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("qwen2", {"head_dim": 32}, "head_dim 32"),
        ("qwen2", {"rope_parameters": ROPE["llama3"]}, "llama3"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ],
)
def test_options_that_llama_cpp_does_not_run(
    kind: str, text: dict[str, Any], words: str, tmp_path: Path
) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck", kind=kind, text=text)
    with pytest.raises(UnsupportedModelError, match=words):
        convert(directory, tmp_path / "out")


def test_values_beyond_f16_are_refused_not_turned_into_infinity(tmp_path: Path) -> None:
    directory = make_llm_checkpoint(tmp_path / "ck")
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = 1e6
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(TensorError, match=r"up_proj.*F16.*bf16"):
        convert(directory, tmp_path / "out", llm_type="f16")
    assert list((tmp_path / "out").iterdir()) == []
