"""`bluelm-gguf cache`, and the cache behind the commands that encode."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bluelm_gguf.pictures.cache import EmbeddingCache


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "BLUELM_CACHE_DIR": str(tmp_path / "cache")}


def test_ls_clear_and_path(program, environment: dict[str, str], tmp_path: Path) -> None:
    def cache(*args: str, code: int = 0) -> str:
        done = program("cache", *args, env=environment)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        return str(done.stdout)

    directory = tmp_path / "cache"
    assert cache("path") == f"{directory}\n"
    assert cache("ls") == f"0 pictures, 0 bytes of at most 1.0 GiB, in {directory}\n"
    kept = EmbeddingCache(directory)
    for i, name in enumerate("abc"):
        kept.put(name * 64, np.ones((196 * (i + 1), 64), np.float32))
        os.utime(directory / "embeddings" / f"{name * 64}.emb", (i, i))
    head, *rows, last = cache("ls").splitlines()
    assert head.split() == ["last", "used", "tokens", "width", "size", "key"]
    assert [row.split()[2:4] + row.split()[-1:] for row in rows] == [
        ["588", "64", "c" * 16], ["392", "64", "b" * 16], ["196", "64", "a" * 16]
    ]  # fmt: skip
    assert last == f"3 pictures, 294.4 KiB of at most 1.0 GiB, in {directory}"
    assert cache("clear") == "3 pictures removed, 294.4 KiB\n"
    assert cache("clear") == "0 pictures removed, 0 bytes\n"
    assert kept.entries() == []
    assert "clear" in cache("-h")
    cache(code=2)
    cache("fly", code=2)


def run(program, environment: dict[str, str], files, *args: object) -> tuple[str, int, int, str]:
    """Text, pictures encoded, pictures from the cache, stderr."""
    done = program(
        "run", *files.pair, "--image", files.large, "-p", "what?", "-n", "8", "--json", *args, env=environment
    )
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    timings = reply["timings"]
    return reply["text"], timings["images_encoded"], timings["images_cached"], done.stderr


def test_a_second_run_encodes_nothing(program, environment: dict[str, str], files, tmp_path: Path) -> None:
    text, *counts = run(program, environment, files, "--no-cache")
    assert counts == [1, 0, ""] and not (tmp_path / "cache").exists()
    assert run(program, environment, files) == (text, 1, 0, "")
    # The batch of tiles is no part of what a picture is.
    assert run(program, environment, files, "--tile-batch", "1") == (text, 0, 1, "")
    (entry,) = EmbeddingCache(tmp_path / "cache").entries()
    entry.path.write_bytes(b"damaged")
    assert run(program, environment, files) == (text, 1, 0, "")


def test_a_cache_that_cannot_be_written(program, environment: dict[str, str], files, tmp_path: Path) -> None:
    """One warning, and the same answer."""
    (tmp_path / "cache").write_bytes(b"a file")
    _, n_encoded, _, stderr = run(program, environment, files)
    assert n_encoded == 1
    assert stderr.count("\n") == 1
    assert stderr.startswith("bluelm-gguf: warning: the cache of encoded pictures is off: ")


def test_a_conversation_goes_on_in_another_process(
    program, environment: dict[str, str], files, tmp_path: Path
) -> None:
    def chat(*lines: object, code: int = 0) -> tuple[list[str], str]:
        text = "\n".join(str(line) for line in (*lines, "/quit", ""))
        done = program("chat", *files.pair, "-n", "6", "--timings", stdin=text.encode(), env=environment)
        assert "Traceback" not in done.stderr
        return done.stdout.splitlines(), done.stderr

    saved = tmp_path / "a chat"
    first, _ = chat(f"/image {files.large}", "what is this?", f"/save {saved} --kv", "and the user?")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(saved.read_bytes()[:-100])
    after, errors = chat(f"/load {saved}", f"/load {damaged}", "and the user?")
    assert len(first) == 2 and after == first[1:]  # the damaged file changed nothing
    assert "damaged" in errors and "tokens (0 image)" in errors
