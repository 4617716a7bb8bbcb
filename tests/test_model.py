"""Model: answers, streams, timings, cancelling; with small random models."""

from __future__ import annotations

import gc
import io
import itertools
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from PIL import Image

from bluelm_gguf import (
    Cancelled,
    ContextFullError,
    InvalidArgumentError,
    MismatchError,
    Model,
    OutOfMemoryError,
    Reply,
    UnsupportedModelError,
)
from bluelm_gguf.gguf.head import read_head
from bluelm_gguf.gguf.kv_cache import kv_bytes


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Always answers `SCRIPT`."""
    path = tiny_models.write_llm(tmp_path_factory.mktemp("scripted") / "llm.gguf", script=SCRIPT)
    with Model(path, n_ctx=256, n_threads=1) as model:
        yield model


SCRIPT = "a猫b🙂cüd!"


def test_an_answer_ends_where_the_model_ends_it(scripted: Model) -> None:
    reply = scripted.generate("what is this?")
    assert reply.text == str(reply) == SCRIPT
    assert reply.finish_reason == "stop"
    assert len(reply.tokens) == reply.timings.generated_tokens == len(SCRIPT.encode())
    with pytest.raises(FrozenInstanceError):
        reply.text = ""  # type: ignore[misc]


def test_pieces_are_whole_characters(scripted: Model) -> None:
    stream = scripted.stream("what?")
    assert stream.reply is None
    pieces = list(stream)
    assert pieces == list(SCRIPT)
    assert stream.reply is not None and stream.reply.text == SCRIPT
    assert list(stream) == []


def test_length_and_stop_strings(scripted: Model) -> None:
    reply = scripted.generate("what?", max_tokens=1)
    assert (reply.text, reply.finish_reason) == ("a", "length")
    reply = scripted.generate("what?", max_tokens=2)  # ends within a character
    assert (reply.text, reply.finish_reason) == ("a", "length")
    for stop in (["b🙂"], "b🙂", ["x", "🙂", "b🙂"]):
        reply = scripted.generate("what?", stop=stop)
        assert (reply.text, reply.finish_reason) == ("a猫", "stop")


def test_an_answer_ends_with_the_context(files) -> None:
    with Model(files.llm, n_ctx=64, n_threads=1) as model:
        reply = model.generate("what is this?", max_tokens=None)
        assert reply.finish_reason == "length"
        assert reply.timings.text_tokens + reply.timings.generated_tokens == 64 + 1


def test_the_same_question_gets_the_same_answer(shared_model: Model, files) -> None:
    first = shared_model.generate("what is this?", images=[files.large], max_tokens=24)
    shared_model.generate("something else", max_tokens=8)
    again = shared_model.generate("what is this?", images=[files.large], max_tokens=24)
    assert first.tokens == again.tokens
    assert first.text == again.text


@pytest.mark.parametrize("chunk", [1, 7, 100, 512])
def test_the_chunk_does_not_change_the_answer(files, chunk: int) -> None:
    def answer(**options: int) -> tuple[int, ...]:
        with Model(files.llm, mmproj=files.mmproj, n_ctx=1024, n_threads=1, **options) as model:
            return model.generate("what is this?", images=[files.small], max_tokens=8).tokens

    assert answer(chunk=chunk) == answer(chunk=128)


def test_every_kind_of_picture_is_the_same_picture(shared_model: Model, files) -> None:
    image = Image.open(files.small)
    kinds = [files.small, str(files.small), files.small.read_bytes(), image, np.asarray(image)]
    encoded = [shared_model.encode(kind) for kind in kinds]
    raw = io.BytesIO(files.small.read_bytes())
    for one in encoded[1:]:
        np.testing.assert_array_equal(one.embeddings, encoded[0].embeddings)
    assert len({one.key for one in encoded}) == 1
    answers = {
        shared_model.generate("what?", images=images, max_tokens=8).tokens
        for images in ([files.small], files.small, [encoded[0]], encoded[1], image, np.asarray(image), raw)
    }
    assert len(answers) == 1


def test_pictures_matter_and_their_order(shared_model: Model, files) -> None:
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    one, other = (shared_model.encode(i) for i in (red, blue))
    assert not np.allclose(one.embeddings, other.embeddings)
    replies = [
        shared_model.generate("what?", images=i, max_tokens=4) for i in ([one, other], [other, one], [one])
    ]
    assert [r.timings.image_tokens for r in replies] == [392, 392, 196]
    assert all(r.timings.encode_ms == 0 for r in replies)


def test_encoded_image(shared_model: Model, files) -> None:
    encoded = shared_model.encode(files.large)
    assert encoded.plan.n_tiles == 3
    assert encoded.embeddings.shape == (3 * 196, 64) == (encoded.n_tokens, shared_model.n_embd)
    assert encoded.embeddings.dtype == np.float32 and np.isfinite(encoded.embeddings).all()
    assert encoded.timings.total_ms > 0 and encoded.timings.n_batches == 1
    assert shared_model.encode(encoded) is encoded


def test_tiler_overrides(shared_model: Model, files) -> None:
    def n_tiles(tiler: object) -> int:
        return shared_model.encode(files.large, tiler=tiler).plan.n_tiles  # type: ignore[arg-type]

    assert n_tiles(None) == n_tiles({}) == 3
    assert n_tiles({"max_cols": 1, "max_rows": 1}) == 1
    assert n_tiles({"thumbnail": "none"}) == 2
    assert n_tiles({"method": "single"}) == 1
    assert shared_model.vision is not None
    assert n_tiles(shared_model.vision.tiler) == 3
    for bad, text in (
        ({"colour": 3}, "unknown setting 'colour'"),
        ({"method": "best"}, "best"),
        ({"grids": ((5, 5),), "max_cols": 2}, "none of the file's grids"),
        (7, "a mapping or TilerParams"),
    ):
        with pytest.raises(InvalidArgumentError, match=text):
            n_tiles(bad)


def test_timings(shared_model: Model, files) -> None:
    t = shared_model.generate("what is this?", images=[files.large], max_tokens=6).timings
    assert t.encode_ms > 0 and t.prefill_ms > 0 and t.decode_ms > 0
    assert t.image_tokens == t.image_tokens_prefilled == 3 * 196
    assert t.text_tokens == t.text_tokens_prefilled
    assert t.prefill_tps == pytest.approx((t.image_tokens + t.text_tokens) / t.prefill_ms * 1e3)
    assert t.decode_tps == pytest.approx(5 / t.decode_ms * 1e3)
    assert t.encode_ms + t.prefill_ms <= t.ttft_ms <= t.total_ms
    assert set(t.as_dict()) >= {"encode_ms", "prefill_tps", "decode_tps", "ttft_ms", "image_tokens"}


def test_sampling(shared_model: Model) -> None:
    def tokens(**options: float) -> tuple[int, ...]:
        return shared_model.generate("what is this?", max_tokens=16, **options).tokens

    hot = {"temp": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert tokens(**hot, seed=1) == tokens(**hot, seed=1)
    assert len({tokens(**hot, seed=seed) for seed in range(4)}) > 1
    assert len({tokens(**hot) for _ in range(4)}) > 1  # no seed: a new one each time
    greedy = tokens()
    assert tokens(temp=1.0, top_k=1) == greedy


def test_repeat_penalty(shared_model: Model) -> None:
    """Greedy, so nothing but the penalty keeps a token from coming twice among the last 64."""

    def tokens(**options: float) -> tuple[int, ...]:
        return shared_model.generate("what is this?", max_tokens=48, **options).tokens

    plain = tokens()
    assert len(set(plain)) < len(plain) == 48, "the model has to repeat itself for this test to say anything"
    assert tokens(repeat_penalty=1.0) == plain
    strict = tokens(repeat_penalty=1000.0)
    assert len(set(strict)) == len(strict)
    # With one token looked back at, only neighbours differ.
    near = tokens(repeat_penalty=1000.0, repeat_last_n=1)
    assert all(a != b for a, b in itertools.pairwise(near)) and len(set(near)) < len(near)


@pytest.mark.parametrize(
    "options",
    [
        {"temp": -1.0}, {"temp": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": -0.1},
        {"top_k": -1},
        {"repeat_penalty": 0.0}, {"seed": -1}, {"seed": 2**32}, {"max_tokens": 0}, {"max_tokens": -1},
    ],
)  # fmt: skip
def test_values_out_of_range(shared_model: Model, options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(InvalidArgumentError, match=f"{name} is "):
        shared_model.stream("what?", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk": 0},
        {"chunk": 513},
        {"batch": 0},
        {"batch": 18},
        {"n_ctx": 0},
        {"n_threads": 0},
        {"n_batch": 0},
    ],
)
def test_model_values_out_of_range(files, options: dict[str, int]) -> None:
    with pytest.raises(InvalidArgumentError):
        Model(files.llm, **options)


def test_a_prompt_that_does_not_fit_decodes_nothing(shared_model: Model, files) -> None:
    stages: list[str] = []
    with pytest.raises(ContextFullError, match=r"\b\d{4} tokens .* holds 2048"):
        shared_model.generate(
            "what?", images=[files.large] * 4, on_progress=lambda stage, *_: stages.append(stage)
        )
    with pytest.raises(ContextFullError):
        shared_model.generate("x" * 5000)
    assert stages == []  # refused before anything was encoded


def test_progress_counts_up_over_all_pictures(shared_model: Model, files) -> None:
    calls: list[tuple[str, int, int]] = []
    shared_model.generate(
        "what?", images=[files.large, files.small], max_tokens=1, on_progress=lambda *a: calls.append(a)
    )
    for stage, total in (("encode", 4), ("prefill", calls[-1][2])):
        done = [d for s, d, t in calls if s == stage]
        assert done == sorted(done) and done[-1] == total
        assert {t for s, _, t in calls if s == stage} == {total}
    assert [s for s, *_ in calls] == sorted(s for s, *_ in calls)  # "encode" before "prefill"


@pytest.mark.parametrize("stage", ["encode", "prefill"])
def test_progress_cancels(shared_model: Model, files, stage: str) -> None:
    with pytest.raises(Cancelled):
        shared_model.generate("what?", images=[files.large], on_progress=lambda s, d, t: s != stage or d == 0)
    assert shared_model.generate("what is this?", max_tokens=4).tokens  # usable afterwards


def test_an_exception_in_on_progress_comes_through(shared_model: Model, files) -> None:
    def fail(*_: object) -> bool:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        shared_model.generate("what?", images=[files.large], on_progress=fail)
    with pytest.raises(KeyError, match="mine"):
        shared_model.encode(files.large, on_progress=fail)
    with pytest.raises(KeyError, match="mine"):
        shared_model.generate("what?", on_progress=fail)
    assert shared_model.generate("what?", max_tokens=2).tokens


def test_cancelling_a_stream(shared_model: Model) -> None:
    stream = shared_model.stream("what is this?", max_tokens=200)
    first = next(stream)
    stream.cancel()
    rest = list(stream)
    assert stream.reply is not None
    assert stream.reply.finish_reason == "cancelled"
    assert stream.reply.text == first + "".join(rest)
    assert 1 <= len(stream.reply.tokens) < 10


def test_leaving_a_stream_lets_the_model_go(shared_model: Model) -> None:
    for _ in shared_model.stream("what?", max_tokens=50):
        break
    gc.collect()
    with shared_model.stream("what?", max_tokens=50) as stream:
        next(stream)
    assert isinstance(stream.reply, Reply) and stream.reply.finish_reason == "cancelled"
    assert shared_model.generate("what?", max_tokens=2).finish_reason == "length"


def test_asking_while_answering_says_so(shared_model: Model) -> None:
    with shared_model.stream("what?", max_tokens=50) as stream:
        next(stream)
        with pytest.raises(InvalidArgumentError, match="still answering"):
            shared_model.generate("and?")
        assert next(stream)


def test_threads_wait_for_each_other(shared_model: Model) -> None:
    alone = {q: shared_model.generate(q, max_tokens=12).tokens for q in ("what", "is", "this", "the")}
    together: dict[str, tuple[int, ...]] = {}

    def ask(question: str) -> None:
        together[question] = shared_model.generate(question, max_tokens=12).tokens

    threads = [threading.Thread(target=ask, args=(q,)) for q in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_cancelling_from_another_thread(shared_model: Model, files) -> None:
    started = threading.Event()
    stream = shared_model.stream("what?", images=[files.large] * 2, on_progress=lambda *_: started.set())
    stopper = threading.Thread(target=lambda: (started.wait(), stream.cancel()))
    stopper.start()
    text = "".join(stream)
    stopper.join()
    assert stream.reply is not None
    assert (text, stream.reply.finish_reason) == ("", "cancelled")


def test_closing(files) -> None:
    model = Model(files.llm, mmproj=files.mmproj, n_ctx=512, n_threads=1)
    stream = model.stream("what?", max_tokens=100)
    next(stream)
    model.close()
    assert stream.reply is not None and stream.reply.finish_reason == "cancelled"
    assert list(stream) == []
    model.close()
    for use in (
        lambda: model.generate("what?"),
        lambda: model.encode(files.small),
        lambda: model.n_ctx,
        lambda: model.vision,
        lambda: model.chat().ask("what?"),
    ):
        with pytest.raises(InvalidArgumentError, match="closed"):
            use()


def test_loading_reports_and_can_be_cancelled(files) -> None:
    calls: list[tuple[str, int, int]] = []
    Model(files.llm, n_ctx=256, n_threads=1, on_progress=lambda *a: calls.append(a)).close()
    assert [c[0] for c in calls] == ["load"] * len(calls) and calls[-1] == ("load", 100, 100)
    with pytest.raises(Cancelled, match=r"llm\.gguf: loading was cancelled"):
        Model(files.llm, on_progress=lambda *_: False)

    def fail(*_: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Model(files.llm, on_progress=fail)


def test_a_program_may_end_with_models_open(files) -> None:
    code = f"""
from bluelm_gguf import Model
model = Model({str(files.llm)!r}, mmproj={str(files.mmproj)!r}, n_ctx=512, n_threads=1)
image = model.encode({str(files.small)!r})
stream = model.stream("what?", images=[image])
print(bool(next(stream)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_the_context_by_default(files, tmp_path: Path) -> None:
    with Model(files.llm, n_threads=1) as model:
        assert model.n_ctx == 2048  # what it was trained with
    long = tiny_models.write_llm(tmp_path / "long.gguf", n_ctx_train=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Model(long, n_threads=1) as model:
            assert model.n_ctx == 4096
    with (
        pytest.warns(UserWarning, match="trained with a context of 2048"),
        Model(files.llm, n_ctx=3000) as model,
    ):
        assert model.n_ctx == 3000


def test_text_only(files) -> None:
    with Model(files.llm, n_ctx=256, n_threads=1) as model:
        assert model.vision is None
        assert model.generate("what?", max_tokens=3).timings.image_tokens == 0
        for use in (lambda: model.encode(files.small), lambda: model.generate("what?", images=[files.small])):
            with pytest.raises(InvalidArgumentError, match=r"llm\.gguf .* need an mmproj"):
                use()


def test_no_template_in_the_file(tmp_path: Path) -> None:
    path = tiny_models.write_llm(tmp_path / "plain.gguf", template=None)
    with Model(path, n_ctx=256, n_threads=1) as model:
        assert not model.has_chat_template
        assert model.generate("what?", max_tokens=3).tokens


def test_a_prompt_of_no_tokens(tmp_path: Path) -> None:
    path = tiny_models.write_llm(tmp_path / "bare.gguf", template="{{ messages[0].content }}")
    with Model(path, n_ctx=256, n_threads=1) as model:
        with pytest.raises(InvalidArgumentError, match="empty"):
            model.generate("")
        assert model.generate("a", max_tokens=1).tokens


def test_files_that_do_not_fit(files, tmp_path: Path) -> None:
    wide = tiny_models.write_mmproj(tmp_path / "wide.gguf", n_embd_out=96)
    with pytest.raises(MismatchError) as caught:
        Model(files.llm, mmproj=wide)
    assert all(part in str(caught.value) for part in (str(wide), "96", str(files.llm), "64"))
    with pytest.raises(UnsupportedModelError, match=r"llm\.gguf: this is a language model"):
        Model(files.llm, mmproj=files.llm)
    with pytest.raises(UnsupportedModelError, match=r"mmproj\.gguf: this is a vision file"):
        Model(files.mmproj, mmproj=files.mmproj)
    with pytest.raises(InvalidArgumentError, match="cannot answer"):
        Model(mmproj=files.mmproj)


def test_files_of_different_checkpoints_are_warned_of(tmp_path: Path) -> None:
    llm = tiny_models.write_llm(tmp_path / "llm.gguf", metadata={"bluelm.pair_id": "a"})
    mmproj = tiny_models.write_mmproj(tmp_path / "mmproj.gguf", metadata={"bluelm.pair_id": "b"})
    with pytest.warns(UserWarning, match="different checkpoints"):
        Model(llm, mmproj=mmproj, n_ctx=256).close()


def test_an_image_of_another_model(shared_model: Model, files, tmp_path: Path) -> None:
    llm = tiny_models.write_llm(tmp_path / "llm.gguf", n_embd=128)
    encoded = shared_model.encode(files.small)
    with (
        Model(llm, n_ctx=512, n_threads=1) as other,
        pytest.raises(InvalidArgumentError, match=r"width 64, .* 128"),
    ):
        other.generate("what?", images=[encoded])


def test_a_context_larger_than_memory(files) -> None:
    assert kv_bytes(read_head(files.llm), 1000) == 1024 * 2 * 2 * 32 * 2
    with pytest.raises(OutOfMemoryError, match=r"llm\.gguf: a context of 2000000000 tokens needs .* GiB"):
        Model(files.llm, n_ctx=2_000_000_000)


def test_what_llama_cpp_refuses_says_why(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "no-such-architecture")
    writer.add_tensor("x", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(OSError, match=r"odd\.gguf: llama\.cpp cannot load it .*no-such-architecture"):
        Model(tmp_path / "odd.gguf")
