"""KV cache types, vision weights that come and go, and the account that a model keeps."""

from __future__ import annotations

import sys
import threading
import warnings

import numpy as np
import pytest
import tiny_models

from bluelm_gguf import InvalidArgumentError, Model, ModelFileError, OutOfMemoryError
from bluelm_gguf import model as model_module
from bluelm_gguf.gguf.head import read_head
from bluelm_gguf.gguf.kv_cache import BLOCKS, choose_types, kv_bytes
from bluelm_gguf.gguf.memory import estimate, fit
from bluelm_gguf.pictures.vision import VisionEncoder

# ------------------------------------------------------------------------------------------------ KV cache


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory):
    """A model with heads of 32 values, which every type can be cut into."""
    return tiny_models.write_llm(tmp_path_factory.mktemp("wide") / "llm.gguf", n_embd=128)


@pytest.mark.parametrize("type_k", BLOCKS)
@pytest.mark.parametrize("type_v", ["f16", "q8_0", "q4_0"])
def test_every_type_answers(wide, type_k: str, type_v: str) -> None:
    with Model(wide, n_ctx=256, n_threads=1, type_k=type_k, type_v=type_v) as model:
        assert model.generate("What is this?", max_tokens=8).timings.generated_tokens == 8
        assert model.memory.kv_cache == kv_bytes(read_head(wide), 256, type_k, type_v)


def test_eight_bits_answer_as_sixteen_do(wide) -> None:
    """The first tokens of a random model's answer stand up to an error of 8 bits."""
    texts = set()
    for kind in ("f32", "f16", "q8_0"):
        with Model(wide, n_ctx=256, n_threads=1, type_k=kind, type_v=kind) as model:
            texts.add(model.generate("What is this?", max_tokens=3).text)
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"type_k": "q8_0"}, "type_k q8_0 stores blocks of 32 values, but the heads of .* have 16: use f16"),
        ({"type_v": "q4_0"}, "type_v q4_0 stores blocks of 32"),
        ({"type_k": "int8"}, "type_k is 'int8'; there are f32, f16"),
        ({"type_v": "Q8_0"}, "type_v is 'Q8_0'"),
    ],
)
def test_impossible_types(files, options, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        Model(files.llm, **options)


def test_the_default_goes_with_every_model(files, wide) -> None:
    for path in (files.llm, wide):
        for kind in choose_types(read_head(path), None, None):
            assert kind in BLOCKS
        with Model(path, n_threads=1) as model:
            model.generate("x", max_tokens=1)


# -------------------------------------------------------------------------------------------- vision weights


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng().integers(0, 256, (200, 500, 3), dtype=np.uint8)


def test_the_weights_come_and_go_and_the_embeddings_stay_the_same(files, pixels) -> None:
    with VisionEncoder(files.mmproj, n_threads=1) as kept:
        wanted = kept.encode(pixels)
        assert kept.is_loaded
        kept.unload()
        assert not kept.is_loaded
        assert kept.plan(500, 200) == wanted.plan and kept.info.n_layer == 2 and kept.tiler.tile == 384
        assert not kept.is_loaded  # none of this needs weights
        assert np.array_equal(kept.encode(pixels).embeddings, wanted.embeddings)
        assert kept.is_loaded
    with pytest.raises(InvalidArgumentError, match="closed"):
        kept.encode(pixels)
    with pytest.raises(InvalidArgumentError, match="closed"):
        kept.plan(10, 10)


@pytest.mark.parametrize("free_vision", ["always", "never"])
def test_free_vision(files, pixels, free_vision: str) -> None:
    with Model(files.llm, mmproj=files.mmproj, n_threads=1, n_ctx=2048, free_vision=free_vision) as model:
        text = model.generate("What?", images=[pixels], max_tokens=4).text
        is_kept = free_vision == "never"
        assert model.vision is not None and model.vision.is_loaded == is_kept
        assert (model.memory.vision_weights > 0) == is_kept
        assert model.generate("What?", images=[pixels], max_tokens=4).text == text


def test_auto_looks_at_free_memory(files, pixels, monkeypatch) -> None:
    need = estimate(read_head(files.llm), read_head(files.mmproj), n_ctx=2048)
    for available, is_kept in ((1 << 40, True), (need.total - need.program - 1, False), (None, True)):
        monkeypatch.setattr(model_module, "available_memory", lambda n=available: n)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Model(files.llm, mmproj=files.mmproj, n_threads=1, n_ctx=2048) as model:
                model.encode(pixels)
                assert model.vision is not None and model.vision.is_loaded == is_kept, available
        assert [str(w.message) for w in caught if "of memory are needed" in str(w.message)] == []
    with pytest.raises(InvalidArgumentError, match="free_vision is 'sometimes'"):
        Model(files.llm, free_vision="sometimes")


def test_short_memory_makes_the_cache_small_too(files, wide) -> None:
    head, vision = read_head(wide), read_head(files.mmproj)
    full = estimate(head, vision)
    beside = full.program + full.vision_weights
    assert fit(head, vision, available=None) == fit(head, vision, available=full.total)
    assert fit(head, vision, available=full.total).type_k is None
    freed = fit(head, vision, available=full.total - beside)
    assert (freed.frees_vision, freed.type_k) == (True, None)
    small = fit(head, vision, available=full.total - beside - 1)
    assert (small.frees_vision, small.type_k, small.type_v) == (True, "q8_0", "q8_0")
    assert small.need.kv_cache == kv_bytes(head, small.need.n_ctx, "q8_0", "q8_0")
    # What the user asked for stays, and heads of 16 values have no blocks of 32.
    kept = fit(head, vision, available=1, type_k="f16", free_vision="never")
    assert (kept.frees_vision, kept.type_k, kept.type_v) == (False, "f16", None)
    assert fit(read_head(files.llm), vision, available=1).type_k is None


def test_threads_share_the_weights(files, pixels) -> None:
    """Planning while another thread encodes and frees: no thread pulls the weights from under another."""
    found, failed = [], []
    with Model(files.llm, mmproj=files.mmproj, n_threads=1, n_ctx=2048, free_vision="always") as model:
        assert model.vision is not None
        wanted = model.encode(pixels)

        def encode() -> None:
            try:
                for _ in range(5):
                    found.append(np.array_equal(model.encode(pixels).embeddings, wanted.embeddings))
                    assert model.vision is not None
                    model.vision.plan(300, 700)
                    model.vision.unload()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=encode) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed and len(found) == 20 and all(found)


def test_a_file_that_was_replaced_is_not_read_again(tmp_path, pixels) -> None:
    path = tiny_models.write_mmproj(tmp_path / "mmproj.gguf")
    with VisionEncoder(path, n_threads=1, free_weights=True) as vision:
        vision.encode(pixels)
        tiny_models.write_mmproj(path, seed=7)
        with pytest.raises(ModelFileError, match="has changed since it was loaded"):
            vision.encode(pixels)
        path.unlink()
        with pytest.raises(ModelFileError):
            vision.encode(pixels)


# --------------------------------------------------------------------------------------------------- account


def test_the_account(files, pixels) -> None:
    with Model(files.llm, mmproj=files.mmproj, n_threads=1, n_ctx=512) as model:
        memory = model.memory
        need = estimate(read_head(files.llm), read_head(files.mmproj), n_ctx=512)
        assert memory.llm_weights == need.llm_weights and memory.vision_weights == need.vision_weights
        assert memory.kv_cache == need.kv_cache
        assert all(word in str(memory) for word in ("weights", "KV cache", "buffers", "process", "at most"))
        if sys.platform == "linux":
            assert memory.resident is not None and memory.peak is not None
            assert need.weights < memory.resident <= memory.peak < 1 << 36
    with pytest.raises(InvalidArgumentError, match="closed"):
        _ = model.memory


def test_too_little_memory_is_warned_of(files, monkeypatch) -> None:
    need = estimate(read_head(files.llm), n_ctx=2048)
    monkeypatch.setattr(model_module, "available_memory", lambda: need.kv_cache)
    with (
        pytest.warns(
            UserWarning,
            match=r"^about .* of memory are needed and .* are free: .* below 2048 tokens\)$",
        ),
        Model(files.llm, n_ctx=2048, n_threads=1) as model,
    ):
        assert model.generate("x", max_tokens=2).tokens


def test_a_context_that_cannot_be_had_is_an_error(files) -> None:
    with pytest.raises(OutOfMemoryError, match="ask for fewer"):
        Model(files.llm, n_ctx=2_000_000_000)
