"""The cache of encoded pictures: what is put comes back, nothing else does, and it never fails."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from bluelm_gguf import InvalidArgumentError
from bluelm_gguf.pictures.cache import EmbeddingCache, default_directory, open_cache

SEED = int.from_bytes(os.urandom(4), "little")


def key(i: int) -> str:
    return hashlib.sha256(b"%d" % i).hexdigest()


def rows(n: int = 196, width: int = 64) -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal((n, width)).astype(np.float32)


def entry_of(cache: EmbeddingCache, i: int) -> Path:
    return cache.directory / "embeddings" / f"{key(i)}.emb"


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache")


def test_what_is_put_comes_back(cache: EmbeddingCache) -> None:
    bits = np.random.default_rng(SEED).integers(0, 2**32, (33, 7), dtype=np.uint32)
    odd = bits.view(np.float32)  # NaNs, infinities and denormals among them
    assert cache.get(key(1)) is None and not cache.directory.exists()
    assert cache.put(key(1), odd)
    found = cache.get(key(1))
    assert found is not None and found.dtype == np.float32 and found.flags.writeable, f"seed {SEED}"
    np.testing.assert_array_equal(found.view(np.uint32), bits, err_msg=f"seed {SEED}")
    assert cache.get(key(2)) is None
    assert cache.get(key(1), shape=(33, 7)) is not None
    assert cache.put(key(3), rows()[::2, ::3])  # not contiguous
    np.testing.assert_array_equal(cache.get(key(3)), rows()[::2, ::3])


def test_nobody_else_may_read_it(cache: EmbeddingCache) -> None:
    before = os.umask(0)
    try:
        cache.put(key(1), rows())
    finally:
        os.umask(before)
    directory = cache.directory / "embeddings"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert entry_of(cache, 1).stat().st_mode & 0o777 == 0o600
    directory.chmod(0o777)
    assert cache.get(key(1)) is not None
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_another_users_directory_is_not_trusted(cache: EmbeddingCache) -> None:
    cache.put(key(1), rows())
    os.chown(cache.directory / "embeddings", 12345, -1)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert cache.get(key(1)) is None
    assert not cache.put(key(2), rows())


def damages() -> dict[str, object]:
    def flip(at: int):
        def change(raw: bytearray) -> bytes:
            raw[at] ^= 1
            return bytes(raw)

        return change

    return {
        "empty": lambda raw: b"",
        "header cut": lambda raw: bytes(raw[:50]),
        "rows cut": lambda raw: bytes(raw[:-1]),
        "longer": lambda raw: bytes(raw) + b"\0",
        "foreign": lambda raw: b"\x89PNG\r\n\x1a\n" + bytes(raw[8:]),
        "text": lambda raw: b"hello",
        "magic": flip(0),
        "version": flip(8),
        "another key": flip(20),
        "rows": flip(48),
        "columns": flip(56),
        "checksum": flip(64),
        "first value": flip(128),
        "last value": flip(-1),
        "huge": lambda raw: bytes(raw[:48]) + (2**40).to_bytes(8, "little") * 2 + bytes(raw[64:]),
    }


@pytest.mark.parametrize("name", damages())
def test_damaged_entries_are_removed(cache: EmbeddingCache, name: str) -> None:
    cache.put(key(1), rows())
    path = entry_of(cache, 1)
    path.write_bytes(damages()[name](bytearray(path.read_bytes())))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get(key(1)) is None
    assert not path.exists()
    assert cache.put(key(1), rows()) and cache.get(key(1)) is not None


def test_an_entry_of_another_shape_is_removed(cache: EmbeddingCache) -> None:
    cache.put(key(1), rows())
    assert cache.get(key(1), shape=(195, 64)) is None
    assert not entry_of(cache, 1).exists()


def test_a_renamed_entry_is_not_believed(cache: EmbeddingCache) -> None:
    cache.put(key(1), rows())
    entry_of(cache, 1).rename(entry_of(cache, 2))
    assert cache.get(key(2)) is None


def test_used_longest_ago_goes_first(tmp_path: Path) -> None:
    one = 128 + rows().nbytes
    cache = EmbeddingCache(tmp_path, max_bytes=3 * one)
    for i in range(3):
        cache.put(key(i), rows())
        os.utime(entry_of(cache, i), (1000 + i, 1000 + i))
    assert cache.get(key(0)) is not None  # used now: 1 is the oldest then
    cache.put(key(3), rows())
    assert {e.key for e in cache.entries()} == {key(0), key(2), key(3)}
    cache.put(key(4), rows())
    assert {e.key for e in cache.entries()} == {key(0), key(3), key(4)}
    # A later process sees the same order: it is in the files.
    later = EmbeddingCache(tmp_path, max_bytes=2 * one)
    os.utime(entry_of(later, 0), (1, 1))
    later.put(key(5), rows())
    assert len(later.entries()) == 2 and key(0) not in {e.key for e in later.entries()}
    assert sum(e.n_bytes for e in later.entries()) <= later.max_bytes


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=128 + rows().nbytes)
    assert cache.put(key(1), rows())
    assert not cache.put(key(2), rows(197))
    assert [e.key for e in cache.entries()] == [key(1)]
    assert not EmbeddingCache(tmp_path / "none", max_bytes=0).put(key(1), rows())


def test_entries_and_clear(cache: EmbeddingCache) -> None:
    assert cache.entries() == [] and cache.clear() == 0
    for i in range(3):
        cache.put(key(i), rows(196 * (i + 1)))
        os.utime(entry_of(cache, i), (i + 1, i + 1))
    found = cache.entries()
    assert [(e.key, e.n_tokens, e.n_embd, e.used) for e in found] == [
        (key(2), 588, 64, 3), (key(1), 392, 64, 2), (key(0), 196, 64, 1)
    ]  # fmt: skip
    assert all(e.n_bytes == e.path.stat().st_size for e in found)
    own = cache.directory / "embeddings" / "notes.txt"
    own.write_text("mine")
    assert cache.clear() == 3
    assert cache.entries() == [] and own.read_text() == "mine"


def test_what_dead_processes_left_goes(cache: EmbeddingCache) -> None:
    cache.put(key(1), rows())
    old, young = (entry_of(cache, 1).with_name(f".{key(1)}.emb.{n}.abcd.part") for n in (1, 2))
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (1, 1))
    cache.put(key(2), rows())
    assert not old.exists() and young.exists()
    cache.clear()
    assert not young.exists()


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A file where the directory should be: refused to root too."""
    (tmp_path / "file").write_bytes(b"")
    cache = EmbeddingCache(tmp_path / "file" / "cache")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(3):
            assert not cache.put(key(i), rows())
            assert cache.get(key(i)) is None
        assert cache.entries() == [] and cache.clear() == 0
    assert len(caught) == 1 and "is off" in str(caught[0].message) and str(tmp_path) in str(caught[0].message)


FULL_DISK = """
import resource, sys, warnings
import numpy as np
from bluelm_gguf.pictures.cache import EmbeddingCache
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # what is written beyond fails, as on a full disk
cache = EmbeddingCache(sys.argv[1])
assert cache.put("a" * 64, np.ones((4, 64), np.float32))
assert not cache.put("b" * 64, np.ones((196, 64), np.float32))
assert not cache.put("c" * 64, np.ones((196, 64), np.float32))
assert cache.get("a" * 64) is not None and cache.get("b" * 64) is None
"""


def test_a_full_disk_is_no_error(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is off") == 1
    assert [p.name for p in (tmp_path / "embeddings").iterdir()] == ["a" * 64 + ".emb"]


MANY = """
import hashlib, random, sys
import numpy as np
from bluelm_gguf.pictures.cache import EmbeddingCache
directory, seed, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cache, rng = EmbeddingCache(directory, max_bytes=6 * (128 + 196 * 64 * 4)), random.Random(seed)
hits = 0
for _ in range(n):
    i = rng.randrange(10)
    k = hashlib.sha256(b"%d" % i).hexdigest()
    found = cache.get(k)
    if found is None:
        assert cache.put(k, np.full((196, 64), i, np.float32))
    else:
        hits += 1
        assert found.shape == (196, 64) and (found == i).all(), (i, seed)
print(hits)
"""


def test_several_processes_at_once(tmp_path: Path) -> None:
    """All of them write, read and evict the same ten entries; one that is killed on the way harms nobody."""
    many = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", MANY, tmp_path, str(SEED + i), str(200 if i else 10**6)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(4)
    ]  # fmt: skip
    for process in many[1:]:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, f"seed {SEED}: {err}"
        assert int(out) > 0
    many[0].kill()
    many[0].communicate()
    cache = EmbeddingCache(tmp_path, max_bytes=6 * (128 + 196 * 64 * 4))
    cache.put(key(99), rows())
    entries = cache.entries()
    assert 0 < sum(e.n_bytes for e in entries) <= cache.max_bytes
    assert all(cache.get(e.key) is not None for e in entries)


def test_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLUELM_CACHE_DIR", str(tmp_path))
    assert default_directory() == tmp_path
    monkeypatch.setenv("BLUELM_CACHE_DIR", "")
    monkeypatch.setenv("HOME", "/home/me")
    for platform, variable, value, expected in (
        ("linux", "XDG_CACHE_HOME", "/var/caches", "/var/caches/bluelm-gguf"),
        ("linux", "XDG_CACHE_HOME", "not/absolute", "/home/me/.cache/bluelm-gguf"),
        ("linux", "XDG_CACHE_HOME", "", "/home/me/.cache/bluelm-gguf"),
        ("darwin", "XDG_CACHE_HOME", "/var/caches", "/home/me/Library/Caches/bluelm-gguf"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setenv(variable, value)
        assert default_directory() == Path(expected)


def test_what_a_model_takes_as_cache(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    assert open_cache(None) is None and open_cache(False) is None
    assert open_cache(cache) is cache
    for place in (tmp_path, str(tmp_path)):
        opened = open_cache(place)
        assert opened is not None and opened.directory == tmp_path
    default = open_cache(True)
    assert default is not None and default.directory == default_directory()
    for wrong in (3, "", b"bytes"):
        with pytest.raises(InvalidArgumentError):
            open_cache(wrong)
    with pytest.raises(InvalidArgumentError):
        EmbeddingCache(tmp_path, max_bytes=-1)
    for wrong_key in ("", "../../etc/passwd", "A" * 64, key(1)[:-1]):
        with pytest.raises(InvalidArgumentError):
            cache.get(wrong_key)
