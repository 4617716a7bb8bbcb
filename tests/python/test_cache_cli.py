"""`bluelm-gguf cache`, and the cache behind the commands that encode."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bluelm_gguf.cache import EmbeddingCache


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
