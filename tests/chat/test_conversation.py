"""Saved conversations: they go on as if nothing had happened, or are refused with the reason."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from bluelm_gguf import (
    BluelmError,
    Chat,
    ContextFullError,
    ConversationError,
    ImageError,
    InvalidArgumentError,
    MismatchError,
    Model,
    VisionEncoder,
)
from bluelm_gguf.chat.conversation import ConversationFile

SEED = int.from_bytes(os.urandom(4), "little")


@pytest.fixture(scope="module")
def model(files) -> Iterator[Model]:
    with Model(files.llm, mmproj=files.mmproj, n_ctx=2048, n_threads=1) as one:
        yield one


def talk(model: Model, files) -> Chat:
    """Two questions, the first about two pictures; a third picture waits."""
    chat = model.chat(system="the user is this")
    chat.add_image(files.large)
    chat.add_image(files.small)
    chat.ask("what is this?", max_tokens=6)
    chat.ask("and the user? 🙂", max_tokens=6)
    chat.add_image(files.small, tiler={"max_cols": 1, "max_rows": 1, "fit": "stretch"})
    return chat


def continued(chat: Chat) -> tuple[int, ...]:
    return chat.ask("what?", max_tokens=8).tokens


@pytest.fixture(scope="module")
def saved(model: Model, files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversation with its KV state, and `saved.tokens` beside it: how it went on."""
    path = tmp_path_factory.mktemp("saved") / "chat.bluelm"
    chat = talk(model, files)
    chat.save(path, kv=True)
    reply = chat.ask("what?", max_tokens=8)
    path.with_suffix(".json").write_text(json.dumps([reply.tokens, reply.timings.text_tokens_prefilled]))
    return path


def expected(saved: Path) -> tuple[tuple[int, ...], int]:
    tokens, n_prefilled = json.loads(saved.with_suffix(".json").read_text())
    return tuple(tokens), n_prefilled


def rewritten(saved: Path, path: Path, change: Callable[[dict[str, Any]], Any], **members: bytes) -> Path:
    """A copy with another conversation.json, and with members replaced, all checksums right."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            raw = old.read(info)
            if info.filename == "conversation.json":
                values = json.loads(raw)
                values = change(values) or values
                raw = json.dumps(values).encode()
            new.writestr(info.filename, members.get(info.filename.replace(".", "_"), raw))
    return path


# --------------------------------------------------------------------------------------------------- going on


def test_everything_comes_back(model: Model, files, tmp_path: Path) -> None:
    chat = talk(model, files)
    path = tmp_path / "chat.bluelm"
    chat.save(path)
    again = model.load_chat(path)
    assert again.system == chat.system
    assert len(again.turns) == 4 and len(again.pending_images) == 1
    first, second = ([image for turn in one.turns for image in turn.images] for one in (chat, again))
    pairs = list(zip(first, second, strict=True))
    pairs.append((chat.pending_images[0].result(), again.pending_images[0].result()))
    assert len(pairs) == 3
    for one, two in pairs:
        np.testing.assert_array_equal(one.embeddings, two.embeddings)
        assert (one.key, one.digest, one.plan) == (two.key, two.digest, two.plan)
    for one, two in zip(chat.turns, again.turns, strict=True):
        assert (one.role, one.text, one.tokens) == (two.role, two.text, two.tokens)
    tokens = continued(chat)
    assert continued(again) == tokens
    assert path.stat().st_mode & 0o777 == 0o600
    # What goes on can be saved again, over the old file, and taken back.
    again.save(path)
    third = model.load_chat(path)
    assert len(third.turns) == 6
    assert third.undo() == "what?" and len(third.pending_images) == 1
    assert continued(third) == tokens


OTHER_PROCESS = """
import json, sys
from bluelm_gguf import Model
llm, mmproj, path = sys.argv[1:]
with Model(llm, mmproj=mmproj, n_ctx=2048, n_threads=1) as model:
    chat = model.load_chat(path)
    reply = chat.ask("what?", max_tokens=8)
    print(json.dumps([reply.tokens, reply.timings.as_dict()]))
"""


def test_another_machine_goes_on(saved: Path, files, tmp_path: Path) -> None:
    """Another process, and copies of all files elsewhere under other names."""
    copies = [
        shutil.copy(path, tmp_path / f"{i}.copy") for i, path in enumerate((files.llm, files.mmproj, saved))
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OTHER_PROCESS, *copies],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    tokens, timings = json.loads(done.stdout)
    assert (tuple(tokens), timings["text_tokens_prefilled"]) == expected(saved)
    assert timings["image_tokens"] == 588 + 196 + 196 and timings["images_encoded"] == 0


def test_with_the_kv_state_a_question_computes_itself_only(saved: Path, files) -> None:
    with Model(files.llm, mmproj=files.mmproj, n_ctx=1500, n_threads=1) as model:  # smaller, and large enough
        chat = model.load_chat(saved)
        assert chat.wait()
        reply = chat.ask("what?", max_tokens=8)
        tokens, n_prefilled = expected(saved)
        assert reply.tokens == tokens
        assert reply.timings.text_tokens_prefilled == n_prefilled
        assert reply.timings.image_tokens_prefilled == 0


def test_without_it_all_is_computed_from_the_embeddings(model: Model, saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "plain", lambda values: values.update(kv=None))
    model.generate("something else", max_tokens=1)
    chat = model.load_chat(path)
    while chat.pending_images:
        chat.remove_image(chat.pending_images[0])
    reply = chat.ask("what?", max_tokens=8)
    assert reply.timings.image_tokens_prefilled + reply.timings.images_encoded == 588 + 196


def test_the_kv_state_is_this_chats_only(model: Model, tmp_path: Path) -> None:
    """What another chat asked stays out of the file, though it is in the same cache."""
    one, other = model.chat(system="the user"), model.chat(system="the user")
    one.ask("what is this?", max_tokens=4)
    other.ask("this is the secret?", max_tokens=4)
    path = tmp_path / "chat"
    one.save(path, kv=True)
    with ConversationFile(path) as file:
        assert file.conversation.kv is not None
        (run,) = file.conversation.kv.runs
        text = b"".join(model.llm.piece(token) for token in run.tokens)
        with file.kv() as state:
            small = len(state)
            del state
    assert b"secret" not in text and b"the user" in text
    expected_tokens = one.ask("and?", max_tokens=8).tokens
    assert model.load_chat(path).ask("and?", max_tokens=8).tokens == expected_tokens
    one.save(path, kv=True)
    with ConversationFile(path) as file, file.kv() as state:
        assert len(state) > small
        del state


def test_an_empty_chat_and_text_only(files, tmp_path: Path) -> None:
    with Model(files.llm, n_ctx=256, n_threads=1) as model:
        chat = model.chat(context_full="stop")
        chat.save(tmp_path / "empty", kv=True)
        empty = model.load_chat(tmp_path / "empty")
        assert empty.turns == () and empty.system is None
        first = chat.ask("what?", max_tokens=4).tokens
        assert empty.ask("what?", max_tokens=4).tokens == first
        chat.save(tmp_path / "text", kv=True)
        again = model.load_chat(tmp_path / "text")
        assert chat.ask("and?", max_tokens=4).tokens == again.ask("and?", max_tokens=4).tokens
        with pytest.raises(ContextFullError):  # context_full came along
            again.ask("what is this " * 40)


def test_dropped_turns_stay_dropped(files, tmp_path: Path) -> None:
    with Model(files.llm, mmproj=files.mmproj, n_ctx=400, n_threads=1) as model:
        chat = model.chat()
        chat.add_image(files.small)
        for _ in range(6):
            chat.ask("what is this?", max_tokens=24)
        assert chat.dropped_turns > 0
        chat.save(tmp_path / "chat")
        again = model.load_chat(tmp_path / "chat")
        assert again.dropped_turns == chat.dropped_turns and len(again.turns) == 12
        assert again.ask("and?", max_tokens=8).tokens == chat.ask("and?", max_tokens=8).tokens
        for one in (chat, again):
            one.undo()
            one.undo()
        assert again.dropped_turns == chat.dropped_turns


def test_saving_waits_for_pictures(model: Model, files, tmp_path: Path) -> None:
    chat = model.chat()
    chat.add_image(files.large)
    bad = chat.add_image(b"no picture")
    chat.save(tmp_path / "chat")
    again = model.load_chat(tmp_path / "chat")
    assert isinstance(bad.exception(), ImageError)
    assert [handle.n_tokens for handle in again.pending_images] == [588]


def test_the_same_picture_is_the_same_cells(model: Model, files, saved: Path) -> None:
    """Added again after loading, it is known to the KV cache."""
    chat = model.load_chat(saved)
    fresh = model.encode(files.large)
    assert fresh.key == chat.turns[0].images[0].key


# ---------------------------------------------------------------------------------------------------- refused


def refused(model: Model, path: Path, kind: type[BluelmError], match: str) -> None:
    """Loading fails with this, and the model's cache has not changed."""
    cells = list(model.engine.ledger.cells)
    with pytest.raises(kind, match=match) as caught:
        model.load_chat(path)
    assert type(caught.value) is kind and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert model.engine.ledger.cells == cells


def test_other_model_files_are_refused(saved: Path, files, tmp_path: Path) -> None:
    other_llm = tiny_models.write_llm(tmp_path / "other.gguf", seed=5)
    other_mmproj = tiny_models.write_mmproj(tmp_path / files.mmproj.name, seed=5)
    with Model(other_llm, mmproj=files.mmproj, n_ctx=2048, n_threads=1) as model:
        refused(
            model, saved, MismatchError, "another language model .*llm.gguf of .* bytes, not other.gguf of"
        )
    with Model(files.llm, mmproj=other_mmproj, n_ctx=2048, n_threads=1) as model:
        refused(
            model, saved, MismatchError, "another vision file .*same name and size but with other contents"
        )
    with Model(files.llm, n_ctx=2048, n_threads=1) as model:
        refused(model, saved, MismatchError, "without a vision file; give mmproj.gguf")


def test_a_picture_of_another_vision_file_is_not_saved_as_this_ones(
    model: Model, files, tmp_path: Path
) -> None:
    other = tiny_models.write_mmproj(tmp_path / "other.gguf", seed=5)
    with VisionEncoder(other, n_threads=1) as vision:
        foreign = vision.encode(files.small)
    chat = model.chat()
    chat.add_image(foreign)
    with pytest.raises(MismatchError, match="another vision file encoded"):
        chat.save(tmp_path / "chat")
    assert not (tmp_path / "chat").exists()


def test_a_context_too_small_is_refused(saved: Path, files) -> None:
    with Model(files.llm, mmproj=files.mmproj, n_ctx=1000, n_threads=1) as model:
        model.generate("what?", max_tokens=1)
        refused(
            model, saved, ContextFullError, r"needs 10\d\d tokens .* saved with 2048, .* loaded with 1000"
        )


def test_a_replaced_model_file_is_noticed(files, tmp_path: Path) -> None:
    llm = Path(shutil.copy(files.llm, tmp_path / "llm.gguf"))
    with Model(llm, n_ctx=256, n_threads=1) as model:
        chat = model.chat()
        chat.ask("what?", max_tokens=2)
        tiny_models.write_llm(tmp_path / "new.gguf", seed=5).replace(llm)
        with pytest.raises(MismatchError, match="changed while it was in use"):
            chat.save(tmp_path / "chat")
        assert not (tmp_path / "chat").exists()


@pytest.mark.parametrize(
    ("raw", "match"),
    [(None, "no such file"), (b"", "not a saved"), (b"PK\3\4", "not a saved"), (b"\x89PNG", "not a saved")],
)
def test_what_is_no_conversation(model: Model, tmp_path: Path, raw: bytes | None, match: str) -> None:
    path = tmp_path / "file"
    if raw is not None:
        path.write_bytes(raw)
    refused(model, path, ConversationError, match)
    refused(model, tmp_path, ConversationError, "directory")


def test_truncated_files_are_refused(model: Model, saved: Path, tmp_path: Path) -> None:
    raw, path = saved.read_bytes(), tmp_path / "cut"
    for n in [*random.Random(SEED).sample(range(200, len(raw) - 1), 12), len(raw) - 1]:
        path.write_bytes(raw[:n])
        refused(model, path, ConversationError, "damaged .its end is missing.")


def test_a_flipped_bit_is_refused_or_harmless(model: Model, saved: Path, tmp_path: Path) -> None:
    """Bits that mean something are noticed; some of a zip file's mean nothing (dates, versions)."""
    raw, path, rng = bytearray(saved.read_bytes()), tmp_path / "flipped", random.Random(SEED)
    with zipfile.ZipFile(saved) as archive:
        heads = [i.header_offset + k for i in archive.infolist() for k in range(46)]
    ends = range(len(raw) - 400, len(raw))
    places = [*rng.sample(range(len(raw)), 20), *rng.sample(heads, 25), *rng.sample(ends, 40)]
    n_refused = 0
    for at in places:
        raw[at] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        raw[:] = saved.read_bytes()
        try:
            with ConversationFile(path) as file:
                assert file.conversation.system == "the user is this", (SEED, at)
                assert len(file.conversation.pictures) == 3
                with file.kv() as state:
                    assert len(state) > 1000
                    del state
        except ConversationError as error:
            n_refused += 1
            assert str(path) in str(error)
    assert n_refused >= 20, SEED


def test_another_version_is_refused(model: Model, saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "new", lambda values: values.update(version=2, written_by="9.0"))
    refused(model, path, ConversationError, "saved in version 2 of the format, by bluelm-gguf '9.0'; this is")


def deeper(values: dict[str, Any], *keys: Any) -> Any:
    for key in keys:
        values = values[key]
    return values


WRONG: list[tuple[tuple[Any, ...], str, Any]] = [
    ((), "turns", None),
    ((), "turns", [3]),
    ((), "n_ctx", "many"),
    ((), "n_ctx", True),
    ((), "n_dropped", 99),
    ((), "dropped_before", [[1]]),
    ((), "dropped_before", [1]),
    ((), "pending", [3]),
    ((), "pending", [-1]),
    ((), "context_full", "explode"),
    ((), "system", 5),
    ((), "mmproj", None),
    ((), "pictures", []),
    (("turns", 0), "role", "assistant"),
    (("turns", 1), "role", "user"),
    (("turns", 1), "tokens", [10**6]),
    (("turns", 1), "tokens", [-1]),
    (("turns", 1), "tokens", [2**70]),
    (("turns", 0), "text", None),
    (("turns", 0), "images", [0.5]),
    (("pictures", 0), "shape", [588, 65]),
    (("pictures", 0), "shape", [2**24, 2**24]),
    (("pictures", 0), "shape", [588 * 64]),
    (("pictures", 0), "plan", None),
    (("pictures", 0, "plan"), "cols", -1),
    (("pictures", 0, "plan", "params"), "method", "guess"),
    (("pictures", 0, "plan", "params"), "grids", [[1, 1, 1]]),
    (("pictures", 0, "plan", "params"), "grids", [[1, 1]] * 300),
    (("pictures", 0, "plan", "params"), "alpha", "x"),
    (("pictures", 0, "plan", "params"), "pad_rgb", [0, 0]),
    (("kv",), "runs", [{"tokens": [], "picture": 0, "first": 500, "n_rows": 100}]),
    (("kv",), "runs", [{"tokens": [1], "picture": 7, "first": 0, "n_rows": 1}]),
    (("kv",), "type_k", 3),
    (("llm",), "identity", None),
]


@pytest.mark.parametrize(("keys", "name", "value"), WRONG)
def test_values_that_cannot_be_are_refused(
    model: Model, saved: Path, tmp_path: Path, keys: tuple[Any, ...], name: str, value: Any
) -> None:
    path = rewritten(saved, tmp_path / "wrong", lambda values: deeper(values, *keys).update({name: value}))
    refused(model, path, ConversationError, "damaged")
    path = rewritten(saved, tmp_path / "wrong", lambda values: deeper(values, *keys).pop(name) and None)
    refused(model, path, ConversationError, "damaged")


def test_hostile_archives(model: Model, saved: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}

    def archive_of(name: str, changed: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> Path:
        path = tmp_path / name
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compress) as out:
            warnings.simplefilter("ignore")  # of a name that comes twice
            for member, raw in [*members.items(), *changed.items()]:
                out.writestr(member, changed.get(member, raw))
        return path

    nan = np.full(588 * 64, np.nan, "<f4").tobytes()
    cases = {
        "bomb": archive_of("bomb", {"pictures/0.f32": bytes(50_000_000)}, zipfile.ZIP_DEFLATED),
        "deep": archive_of("deep", {"conversation.json": b"[" * 10**6}),
        "list": archive_of("list", {"conversation.json": b"[]"}),
        "latin": archive_of("latin", {"conversation.json": b'{"format": "\xff"}'}),
        "nan": archive_of("nan", {"pictures/0.f32": nan}),
        "short": archive_of("short", {"pictures/0.f32": b"1234"}),
    }
    for path in cases.values():
        refused(model, path, ConversationError, "damaged|not a saved conversation")
    # A path among the names is only a name: nothing is unpacked.
    before = sorted(tmp_path.parent.rglob("*"))
    path = archive_of("paths", {"../evil": b"x", "/tmp/evil": b"x"})
    model.load_chat(path).close()
    assert sorted(set(tmp_path.parent.rglob("*")) - set(before)) == [path]


# ----------------------------------------------------------------------------------------------- the KV state


@pytest.mark.parametrize("case", ["another llama.cpp", "another type", "cut", "garbage", "other cells"])
def test_a_kv_state_that_does_not_fit_is_left_out(
    model: Model, saved: Path, tmp_path: Path, case: str
) -> None:
    with zipfile.ZipFile(saved) as archive:
        state = archive.read("kv.bin")
    change: Callable[[dict[str, Any]], Any] = lambda values: None  # noqa: E731
    members: dict[str, bytes] = {}
    match = "llama.cpp refuses it"
    if case == "another llama.cpp":
        match = "written by llama-cpp-python 0.1, and this is"
        change = lambda values: values["kv"].update(llama_cpp="0.1")  # noqa: E731
    elif case == "another type":
        match = "of type q8_0/q8_0 .K/V., and the model was loaded with f16/f16"
        change = lambda values: values["kv"].update(type_k="q8_0", type_v="q8_0")  # noqa: E731
    elif case == "cut":
        members["kv_bin"] = state[: len(state) // 2]
    elif case == "garbage":
        members["kv_bin"] = random.Random(SEED).randbytes(len(state))
    else:
        change = lambda values: values["kv"]["runs"].pop() and None  # noqa: E731
    path = rewritten(saved, tmp_path / "chat", change, **members)
    with pytest.warns(UserWarning, match=f"is left out, and is computed again: {match}"):
        chat = model.load_chat(path)
    reply = chat.ask("what?", max_tokens=8)
    assert reply.tokens == expected(saved)[0]


def test_types_of_the_kv_cache(saved: Path, files, tmp_path: Path) -> None:
    """Another type than it was saved with is computed again; the same goes on."""
    with Model(
        files.llm, mmproj=files.mmproj, n_ctx=2048, n_threads=1, type_k="bf16", type_v="bf16"
    ) as model:
        with pytest.warns(
            UserWarning, match=r"of type f16/f16 \(K/V\), and the model was loaded with bf16/bf16"
        ):
            chat = model.load_chat(saved)
        chat.wait()
        chat.save(tmp_path / "bf16", kv=True)
        tokens = chat.ask("what?", max_tokens=8).tokens
        model.generate("something else", max_tokens=1)
        reply = model.load_chat(tmp_path / "bf16").ask("what?", max_tokens=8)
        assert reply.tokens == tokens and reply.timings.image_tokens_prefilled == 0


def test_a_damaged_kv_state_is_refused(model: Model, saved: Path, tmp_path: Path) -> None:
    raw = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        info = archive.getinfo("kv.bin")
    raw[info.header_offset + 100 + random.Random(SEED).randrange(info.file_size - 100)] ^= 1
    path = tmp_path / "chat"
    path.write_bytes(raw)
    refused(model, path, ConversationError, "kv.bin has another checksum")


# ----------------------------------------------------------------------------------------------------- saving


def test_other_files_are_not_overwritten(model: Model, files, tmp_path: Path) -> None:
    chat = model.chat()
    picture = Path(shutil.copy(files.small, tmp_path / "cat.png"))
    before = picture.read_bytes()
    with pytest.raises(ConversationError, match=r"cat.png: exists and is no saved conversation"):
        chat.save(picture)
    assert picture.read_bytes() == before
    with pytest.raises(ConversationError, match=r"cannot be written .no such file"):
        chat.save(tmp_path / "none" / "chat")
    with pytest.raises(ConversationError, match="directory"):
        chat.save(tmp_path)
    chat.close()
    with pytest.raises(InvalidArgumentError):
        chat.save(tmp_path / "chat")
    assert [p.name for p in tmp_path.iterdir()] == ["cat.png"]


def test_what_a_killed_process_left_goes(model: Model, tmp_path: Path) -> None:
    old, young, other = (tmp_path / f".{name}.part" for name in ("chat.7.ab", "chat.8.cd", "chats.9.ef"))
    for part in (old, young, other):
        part.write_bytes(b"half")
        os.utime(part, (1, 1))
    os.utime(young)
    model.chat().save(tmp_path / "chat")
    assert sorted(p.name for p in tmp_path.iterdir()) == [young.name, other.name, "chat"]


FULL_DISK = """
import resource, sys
from bluelm_gguf import ConversationError, Model
llm, mmproj, picture, path = sys.argv[1:]
with Model(llm, mmproj=mmproj, n_ctx=2048, n_threads=1) as model:
    chat = model.chat()
    chat.ask("what?", max_tokens=4)
    chat.save(path, kv=True)
    chat.add_image(picture).result()
    for limit in (1000, 50_000, 150_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for kv in (False, True):
            try:
                chat.save(path, kv=kv)
                raise SystemExit("it fits")
            except ConversationError as error:
                print(error)
    assert len(model.load_chat(path).turns) == 2  # the old one
"""


def test_a_full_disk_leaves_the_old_file(files, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    path = tmp_path / "chat"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, files.llm, files.mmproj, files.large, path],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("cannot be written (") + done.stdout.count("no room") == 6, done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["chat"]


def test_the_reader_alone(saved: Path) -> None:
    with ConversationFile(saved) as file:
        found = file.conversation
    assert found.llm.name == "llm.gguf" and found.n_ctx == 2048
    assert found.kv is not None and sum(run.n for run in found.kv.runs) > 588 + 196
    assert [turn.images for turn in found.turns] == [(0, 1), (), (), ()] and found.pending == (2,)
    assert all(dataclasses.is_dataclass(picture.plan) for picture in found.pictures)
