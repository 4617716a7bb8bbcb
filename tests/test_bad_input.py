"""Bad input: one line that says what and which file, the right exception, exit code 1, nothing left."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import tiny_models
from PIL import Image
from program import arguments

from bluelm_gguf import (
    BluelmError,
    ContextFullError,
    ImageError,
    MismatchError,
    Model,
    ModelFileError,
    ModelFormatError,
    UnsupportedModelError,
)
from bluelm_gguf.errors import OutOfMemoryError


def png_bomb() -> bytes:
    """74 bytes that claim 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def bad(files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of files with something wrong in each."""
    d = tmp_path_factory.mktemp("bad")
    llm, mmproj = files.llm.read_bytes(), files.mmproj.read_bytes()
    (d / "empty").write_bytes(b"")
    (d / "text.gguf").write_bytes(b"no model, only text\n" * 100)
    (d / "cut-llm.gguf").write_bytes(llm[:-1000])
    (d / "cut-mmproj.gguf").write_bytes(mmproj[:-1000])
    (d / "cut-head.gguf").write_bytes(llm[:2000])
    (d / "text.png").write_bytes(b"no picture, only text\n")
    (d / "cut.png").write_bytes(files.large.read_bytes()[:5000])
    (d / "bomb.png").write_bytes(png_bomb())
    tiny_models.write_mmproj(d / "wide.gguf", n_embd_out=96)
    return d


# what is given as (llm, mmproj, image), in the names of files in `bad`, or None for the good one;
# the exception; and what the message names
CASES: dict[str, tuple[str | None, str | None, str | None, type[BluelmError], tuple[str, ...]]] = {
    "no llm": ("nothing.gguf", None, None, ModelFileError, ("nothing.gguf", "no such file")),
    "llm is a directory": (".", None, None, ModelFileError, ("is a directory",)),
    "llm is empty": ("empty", None, None, ModelFormatError, ("empty",)),
    "llm is text": ("text.gguf", None, None, ModelFormatError, ("text.gguf", "not a GGUF file")),
    "llm is truncated": ("cut-llm.gguf", None, None, ModelFormatError, ("cut-llm.gguf", "truncated")),
    "llm's head is truncated": (
        "cut-head.gguf",
        None,
        None,
        ModelFormatError,
        ("cut-head.gguf", "truncated"),
    ),
    "llm is an mmproj": ("wide.gguf", None, None, UnsupportedModelError, ("wide.gguf", "vision file")),
    "no mmproj": (None, "nothing.gguf", None, ModelFileError, ("nothing.gguf", "no such file")),
    "mmproj is text": (None, "text.gguf", None, ModelFormatError, ("text.gguf", "not a GGUF file")),
    "mmproj is truncated": (
        None,
        "cut-mmproj.gguf",
        None,
        ModelFormatError,
        ("cut-mmproj.gguf", "truncated"),
    ),
    "mmproj is an llm": (None, "llm", None, UnsupportedModelError, ("llm.gguf", "language model")),
    "mmproj of another width": (
        None,
        "wide.gguf",
        None,
        MismatchError,
        ("wide.gguf", "96", "llm.gguf", "64"),
    ),
    "no picture": (None, None, "nothing.png", ImageError, ("nothing.png", "no such file")),
    "picture is empty": (None, None, "empty", ImageError, ("empty", "0 bytes")),
    "picture is text": (None, None, "text.png", ImageError, ("text.png", "not a picture")),
    "picture is truncated": (None, None, "cut.png", ImageError, ("cut.png", "truncated")),
    "picture is a bomb": (None, None, "bomb.png", ImageError, ("bomb.png", "pixels")),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request, files, bad: Path) -> tuple[Path, Path, Path, type[BluelmError], tuple[str, ...]]:
    llm, mmproj, image, error, names = request.param
    return (
        bad / llm if llm else files.llm,
        files.llm if mmproj == "llm" else bad / mmproj if mmproj else files.mmproj,
        bad / image if image else files.small,
        error,
        names,
    )


def _answer(llm: Path, mmproj: Path, image: Path) -> None:
    with Model(llm, mmproj=mmproj, n_ctx=1024, n_threads=1) as model:
        model.generate("what?", images=[image], max_tokens=1)


def test_in_python(case) -> None:
    *paths, error, names = case
    with pytest.raises(error) as caught:
        _answer(*paths)
    assert type(caught.value) is error
    message = str(caught.value)
    assert all(name in message for name in names)
    assert "\n" not in message


def test_in_the_terminal(case, program) -> None:
    llm, mmproj, image, _, names = case
    done = program("run", "-m", llm, "--mmproj", mmproj, "--image", image, "-p", "what?", "-n", 1, "-t", 1)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("bluelm-gguf: error: ")
    assert done.stderr.count("\n") == 1
    assert all(name in done.stderr for name in names)


def test_a_prompt_longer_than_the_context(files, program) -> None:
    with (
        Model(files.llm, n_ctx=64, n_threads=1) as model,
        pytest.raises(ContextFullError, match=r"\d+ tokens .* 64"),
    ):
        model.generate("what is this? " * 100)
    done = program("run", "-m", files.llm, "-c", 64, "-p", "what is this? " * 100)
    assert (done.returncode, done.stdout) == (1, "")
    assert "holds 64" in done.stderr and done.stderr.count("\n") == 1


def test_a_context_that_no_memory_holds(files, program) -> None:
    with pytest.raises(OutOfMemoryError):
        Model(files.llm, n_ctx=2**31 - 1)
    done = program("run", "-m", files.llm, "-c", 2**31 - 1, "-p", "what?")
    assert done.returncode == 1
    assert "llm.gguf" in done.stderr and "GiB" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits on address space are Linux's")
def test_a_picture_that_no_memory_holds(files, tmp_path: Path) -> None:
    Image.new("L", (12_000, 12_000)).save(tmp_path / "large.png")  # 432 MB as RGB

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))

    done = subprocess.run(
        arguments("run", *files.pair, "--image", tmp_path / "large.png", "-p", "a", "-n", 1),
        preexec_fn=limited, capture_output=True, text=True, timeout=120, check=False,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "large.png: not enough memory" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["clip.vision.projection_dim", "clip.vision.embedding_length", "v.blk.0.ln1.weight"]
)
def test_an_mmproj_that_lacks_something(files, tmp_path: Path, name: str) -> None:
    """The name is overwritten in place: the key or tensor is gone, the file is sound."""
    raw = files.mmproj.read_bytes()
    assert raw.count(name.encode()) == 1
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(raw.replace(name.encode(), b"x" * len(name)))
    with pytest.raises(ModelFormatError, match=r"broken\.gguf") as caught:
        Model(files.llm, mmproj=broken, n_ctx=256)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["blk.1.attn_q.weight", "llama.embedding_length", "tokenizer.ggml.tokens"])
def test_an_llm_that_lacks_something(files, tmp_path: Path, name: str) -> None:
    raw = files.llm.read_bytes()
    assert raw.count(name.encode()) == 1
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(raw.replace(name.encode(), b"x" * len(name)))
    with pytest.raises(ModelFormatError, match=r"broken\.gguf: llama\.cpp cannot load it") as caught:
        Model(broken, n_ctx=256)
    assert "\n" not in str(caught.value) and "no reason" not in str(caught.value)


def test_tiles_leaves_no_file_behind(files, bad: Path, tmp_path: Path, program) -> None:
    done = program("tiles", bad / "cut.png", "-o", tmp_path / "plan.png")
    assert done.returncode == 1 and "cut.png" in done.stderr
    for directory in (tmp_path / "none", files.small):  # missing; a file
        done = program("tiles", files.small, "-o", directory / "plan.png")
        assert done.returncode == 1 and f"{directory / 'plan.png'}: cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_convert_leaves_no_file_behind(tmp_path: Path, program) -> None:
    (tmp_path / "checkpoint").mkdir()
    done = program("convert", tmp_path / "checkpoint", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("bluelm-gguf: error: ") and "config.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_info_of_bad_files(bad: Path, program) -> None:
    for name in ("nothing.gguf", "empty", "text.gguf", "cut-head.gguf"):
        done = program("info", bad / name)
        assert (done.returncode, done.stdout) == (1, "")
        assert name in done.stderr and done.stderr.count("\n") == 1
