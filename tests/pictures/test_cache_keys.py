"""What makes a picture another picture: its pixels, each setting of the tiler, and the vision file."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from PIL import Image

from bluelm_gguf import MismatchError, Model, ModelFileError, VisionEncoder
from bluelm_gguf.file_stamp import FileStamp
from bluelm_gguf.gguf.kinds import check_llm_file
from bluelm_gguf.pictures import identity
from bluelm_gguf.pictures.cache import EmbeddingCache
from bluelm_gguf.pictures.identity import (
    RememberedDigests,
    file_sha256,
    llm_identity,
    picture_digest,
)
from bluelm_gguf.pictures.images import load_image
from bluelm_gguf.tiling import TilerParams

SEED = int.from_bytes(os.urandom(4), "little")
BASE = TilerParams()


def pixels(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_pixel_counts() -> None:
    rgb = pixels()
    same = picture_digest(rgb, BASE)
    assert picture_digest(rgb.copy(), TilerParams()) == same
    assert picture_digest(np.asfortranarray(rgb), BASE) == same
    for y, x, c in ((0, 0, 0), (19, 29, 2), (7, 11, 1)):
        other = rgb.copy()
        other[y, x, c] ^= 1
        assert picture_digest(other, BASE) != same, f"seed {SEED}"
    # The same bytes in another shape.
    assert picture_digest(rgb.reshape(30, 20, 3), BASE) != same
    assert picture_digest(rgb.reshape(10, 60, 3), BASE) != same


CHANGES: dict[str, Any] = {
    "method": "internvl",
    "grids": BASE.grids[:-1],
    "tile": 392,
    "alpha": 0.100001,
    "thumbnail": "last",
    "thumbnail_for_single": True,
    "fit": "pad_top_left",
    "filter": "bilinear",
    "pad_rgb": (0, 0, 1),
    "fit_rounding": "ceil",
}


def test_every_setting_counts() -> None:
    rgb = pixels()
    assert set(CHANGES) == {f.name for f in dataclasses.fields(TilerParams)}  # a new one needs its line here
    changed = [dataclasses.replace(BASE, **{name: value}) for name, value in CHANGES.items()]
    digests = {picture_digest(rgb, params) for params in (BASE, *changed)}
    assert len(digests) == len(CHANGES) + 1
    # How a number is written does not.
    grids = [[np.int64(c), np.int32(r)] for c, r in BASE.grids]
    same = dataclasses.replace(BASE, grids=grids, alpha=np.float32(0.1), pad_rgb=[0, 0, 0])
    assert picture_digest(rgb, same) == picture_digest(rgb, BASE)


def png(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def test_how_a_file_spells_its_pixels_does_not_count(tmp_path: Path) -> None:
    image = Image.fromarray(pixels())
    exif = Image.Exif()
    exif[0x010E] = "a description"
    turned = Image.Exif()
    turned[0x0112] = 6  # the file is turned, and says so
    spelled = [
        png(image),
        png(image, compress_level=0),
        png(image, exif=exif),
        png(image.transpose(Image.Transpose.ROTATE_90), exif=turned),
        png(image.convert("RGBA")),
    ]
    assert len(set(spelled)) == len(spelled)
    for i, raw in enumerate(spelled):
        (tmp_path / f"{i}.png").write_bytes(raw)
    digests = {picture_digest(load_image(tmp_path / f"{i}.png"), BASE) for i in range(len(spelled))}
    assert len(digests) == 1
    # Transparency is what shows through.
    alpha = image.convert("RGBA")
    alpha.putpixel((3, 4), (*image.getpixel((3, 4)), 100))
    assert picture_digest(load_image(png(alpha)), BASE) not in digests
    assert picture_digest(load_image(png(image, exif=turned)), BASE) not in digests


def test_an_encoders_keys(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tiny_models.write_mmproj(tmp_path / "other.gguf", seed=2)
    copy = Path(shutil.copy(files.mmproj, tmp_path / "copy.gguf"))
    assert other.stat().st_size == files.mmproj.stat().st_size
    with (
        VisionEncoder(files.mmproj, n_threads=1) as one,
        VisionEncoder(files.mmproj, n_threads=2, batch=1, pipeline=True) as same,
        VisionEncoder(files.mmproj, n_threads=1, activations="float") as in_floats,
        VisionEncoder(other, n_threads=1) as changed,
        VisionEncoder(copy, n_threads=1) as copied,
    ):
        assert one.identity() == same.identity() == copied.identity() != changed.identity()
        first = one.prepare(files.large)
        assert one.encode(files.large.read_bytes()).key == first.key == same.prepare(files.large).key
        assert changed.prepare(files.large).digest == first.digest
        np.testing.assert_array_equal(one.encode(files.large).embeddings, same.encode(files.large).embeddings)
        assert changed.prepare(files.large).key != first.key
        assert in_floats.prepare(files.large).key != first.key
        with monkeypatch.context() as patch:  # other kernels round in another way
            patch.setenv("BLUELM_CPU_LEVEL", "generic")
            with VisionEncoder(files.mmproj, n_threads=1) as generic:
                assert generic.prepare(files.large).key != first.key
        for tiler in ({"thumbnail": "none"}, {"max_cols": 1}, {"fit": "stretch"}):
            assert one.prepare(files.large, tiler=tiler).key != first.key
        assert one.prepare(files.small).key != first.key


# ------------------------------------------------------------------------------------------------ model files


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this moment count as old enough to be remembered."""
    monkeypatch.setattr(identity, "_FRESH_NS", 0)


def sha256_counting(stamp: FileStamp, remembered: RememberedDigests) -> tuple[str, int]:
    """The digest, and how many blocks of the file were read for it."""
    blocks = []
    return file_sha256(stamp, remembered=remembered, go_on=lambda: blocks.append(1)), len(blocks)


def test_a_digest_is_computed_once(tmp_path: Path, aged: None) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(os.urandom(1000))
    digest, n_blocks = sha256_counting(FileStamp.of(file), RememberedDigests(tmp_path / "files"))
    assert n_blocks > 0
    assert sha256_counting(FileStamp.of(file), RememberedDigests(tmp_path / "files")) == (digest, 0)
    (kept,) = (tmp_path / "files").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["longer", "written anew", "written in place", "replaced"])
def test_a_changed_file_is_noticed(tmp_path: Path, aged: None, how: str) -> None:
    file, remembered = tmp_path / "model.gguf", RememberedDigests(tmp_path / "files")
    file.write_bytes(b"a" * 1000)
    stamp = FileStamp.of(file)
    digest, _ = sha256_counting(stamp, remembered)
    if how == "longer":
        file.write_bytes(b"a" * 1001)
    elif how == "written anew":
        file.write_bytes(b"b" * 1000)
    elif how == "written in place":  # and the time set back
        with file.open("r+b") as f:
            f.write(b"b")
        os.utime(file, ns=(stamp.mtime_ns, stamp.mtime_ns))
    else:
        other = tmp_path / "other"
        other.write_bytes(b"b" * 1000)
        os.utime(other, ns=(stamp.mtime_ns, stamp.mtime_ns))
        other.replace(file)
    with pytest.raises(MismatchError, match="changed while it was in use"):
        file_sha256(stamp, remembered=remembered)
    changed, n_blocks = sha256_counting(FileStamp.of(file), remembered)
    assert changed != digest and n_blocks > 0
    file.unlink()
    with pytest.raises(ModelFileError, match="no such file"):
        file_sha256(stamp)


def test_a_file_of_this_moment_is_not_remembered(tmp_path: Path) -> None:
    """It may change again within the clock's grain, with the same size and time."""
    file, remembered = tmp_path / "model.gguf", RememberedDigests(tmp_path / "files")
    file.write_bytes(b"a")
    file_sha256(FileStamp.of(file), remembered=remembered)
    assert not remembered.directory.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"sha256": 3}', "[" * 9999, "\xff"])
def test_damaged_memories_are_not_believed(tmp_path: Path, aged: None, text: str) -> None:
    file, remembered = tmp_path / "model.gguf", RememberedDigests(tmp_path / "files")
    file.write_bytes(b"a" * 10)
    digest, _ = sha256_counting(FileStamp.of(file), remembered)
    (kept,) = remembered.directory.iterdir()
    sound = json.loads(kept.read_text())
    for damaged in (text, json.dumps(sound | {"sha256": "x" * 64}), json.dumps(sound | {"size": 11})):
        kept.write_bytes(damaged.encode("latin-1"))
        found, n_blocks = sha256_counting(FileStamp.of(file), remembered)
        assert found == digest and n_blocks > 0


def test_only_so_many_files_are_remembered(tmp_path: Path, aged: None) -> None:
    remembered = RememberedDigests(tmp_path / "files")
    for i in range(70):
        file = tmp_path / f"{i}.gguf"
        file.write_bytes(b"%d" % i)
        file_sha256(FileStamp.of(file), remembered=remembered)
    assert len(list(remembered.directory.iterdir())) == 64
    remembered.clear()
    assert list(remembered.directory.iterdir()) == []


def test_identity_of_a_language_model(files, tmp_path: Path) -> None:
    def identity_of(path: Path) -> str:
        return llm_identity(check_llm_file(path))

    same = identity_of(files.llm)
    assert identity_of(Path(shutil.copy(files.llm, tmp_path / "copy.gguf"))) == same
    assert identity_of(tiny_models.write_llm(tmp_path / "seed.gguf", seed=5)) != same
    assert identity_of(tiny_models.write_llm(tmp_path / "template.gguf", template=None)) != same
    head = check_llm_file(files.llm)
    for tensor in head.tensors[:: len(head.tensors) // 6]:
        for offset in (tensor.offset, tensor.offset + tensor.n_bytes - 1):
            raw = bytearray(files.llm.read_bytes())
            raw[offset] ^= 1
            changed = tmp_path / "changed.gguf"
            changed.write_bytes(raw)
            assert identity_of(changed) != same, (tensor.name, offset)


# ---------------------------------------------------------------------------------------------- with a model


def test_a_picture_seen_before_is_not_encoded(files, tmp_path: Path) -> None:
    """And the answer is the same with the cache, without it, and after it was damaged."""

    def ask(cache: Any, **options: Any) -> Any:
        with Model(files.llm, mmproj=files.mmproj, n_ctx=2048, n_threads=1, cache=cache) as model:
            return model.generate("what is this?", images=[files.large], max_tokens=16, **options)

    plain = ask(None)
    assert (plain.timings.images_encoded, plain.timings.images_cached) == (1, 0)
    first, second = ask(tmp_path), ask(tmp_path)
    assert (first.timings.images_encoded, first.timings.images_cached) == (1, 0)
    assert (second.timings.images_encoded, second.timings.images_cached) == (0, 1)
    assert plain.tokens == first.tokens == second.tokens
    assert second.plans == first.plans and second.timings.image_tokens == 588
    # Another setting is another picture.
    assert ask(tmp_path, tiler={"thumbnail": "none"}).timings.images_encoded == 1
    cache = EmbeddingCache(tmp_path)
    assert len(cache.entries()) == 2
    for entry in cache.entries():
        entry.path.write_bytes(entry.path.read_bytes()[:-1])
    third = ask(tmp_path)
    assert third.timings.images_encoded == 1 and third.tokens == plain.tokens


def test_another_vision_file_is_another_key(files, tmp_path: Path) -> None:
    mmproj = Path(shutil.copy(files.mmproj, tmp_path / "mmproj.gguf"))

    def encode() -> Any:
        with VisionEncoder(mmproj, n_threads=1, cache=EmbeddingCache(tmp_path / "cache")) as vision:
            return vision.encode(files.small)

    assert not encode().is_cached
    assert encode().is_cached
    tiny_models.write_mmproj(mmproj, seed=9)  # the same path and size
    changed = encode()
    assert not changed.is_cached
    shutil.copy(files.mmproj, mmproj)
    back = encode()
    assert back.is_cached and not np.array_equal(back.embeddings, changed.embeddings)


def test_a_vision_file_replaced_under_a_running_model(files, tmp_path: Path) -> None:
    """What is loaded is no longer what the path names: no entry may be kept under the new file's name."""
    mmproj = Path(shutil.copy(files.mmproj, tmp_path / "mmproj.gguf"))
    with VisionEncoder(mmproj, n_threads=1, cache=EmbeddingCache(tmp_path / "cache")) as vision:
        tiny_models.write_mmproj(tmp_path / "new.gguf", seed=9).replace(mmproj)
        with pytest.warns(UserWarning, match="changed while it was in use"):
            assert not vision.encode(files.small).is_cached
        assert not vision.encode(files.small).is_cached
    assert EmbeddingCache(tmp_path / "cache").entries() == []


def test_interrupting_while_the_vision_file_is_read(files, tmp_path: Path, aged: None) -> None:
    """Ctrl-C before the first tile: nothing is remembered of a digest that was not finished."""
    with Model(files.llm, mmproj=files.mmproj, n_ctx=512, n_threads=1, cache=tmp_path) as model:
        for ask in (model.encode, lambda image, **o: model.generate("what?", images=[image], **o)):
            with pytest.raises(KeyboardInterrupt):
                ask(files.small, on_progress=lambda *_: os.kill(os.getpid(), signal.SIGINT))
            assert list(tmp_path.iterdir()) == []
        assert not model.encode(files.small).is_cached
        assert model.encode(files.small).is_cached


def test_cancelling_during_a_hit(files, tmp_path: Path) -> None:
    from bluelm_gguf import Cancelled

    with VisionEncoder(files.mmproj, n_threads=1, cache=EmbeddingCache(tmp_path)) as vision:
        with pytest.raises(Cancelled):
            vision.encode(files.small, on_progress=lambda *_: False)
        vision.encode(files.small)
        seen: list[tuple[str, int, int]] = []
        assert vision.encode(files.small, on_progress=lambda *step: seen.append(step)).is_cached
        assert seen[-1] == ("encode", 1, 1)
        with pytest.raises(Cancelled):
            vision.encode(files.small, on_progress=lambda *_: False)
