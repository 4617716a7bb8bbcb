"""Vision files and pictures that cannot be used: an error that says why, never an abort."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_pairs
from PIL import Image

from bluelm_gguf import ContextFullError, MismatchError, Model, ModelFormatError, UnsupportedModelError
from bluelm_gguf.errors import BluelmError, InvalidArgumentError
from bluelm_gguf.gguf.info import describe

Pairs = Callable[[str], tuple[Path, Path]]


def changed(source: Path, target: Path, changes: dict[str, Any], drop: tuple[str, ...] = ()) -> Path:
    """A copy of a GGUF file with some keys replaced by (type, value), and some keys or tensors left out."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "clip")
    for field in reader.fields.values():
        name = field.name
        if name.startswith("GGUF.") or name == "general.architecture" or name in changes or name in drop:
            continue
        kind = field.types[0]
        value = field.contents()
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, kind)
    for name, (kind, value) in changes.items():
        writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        if tensor.name not in drop:
            shape = tuple(int(n) for n in reversed(tensor.shape))
            writer.add_tensor(tensor.name, np.array(tensor.data).reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


STRING, UINT32 = gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32


def test_an_unknown_projector_is_named(pair: Pairs, tmp_path: Path) -> None:
    llm, mmproj = pair("gemma3")
    other = changed(mmproj, tmp_path / "m.gguf", {"clip.projector_type": (STRING, "holo9")})
    with pytest.raises(UnsupportedModelError, match=r"'holo9' is not known to llama.cpp .*0\.3\.36"):
        Model(llm, mmproj=other)
    assert "holo9" in describe(other).encoder  # type: ignore[union-attr]


def test_sound_only_is_refused_by_name(pair: Pairs, tmp_path: Path) -> None:
    llm, mmproj = pair("gemma3")
    other = changed(mmproj, tmp_path / "m.gguf", {"clip.projector_type": (STRING, "ultravox")})
    with pytest.raises(UnsupportedModelError, match="'ultravox' takes sound only"):
        Model(llm, mmproj=other)


def test_a_file_without_a_projector_type(pair: Pairs, tmp_path: Path) -> None:
    llm, mmproj = pair("gemma3")
    other = changed(mmproj, tmp_path / "m.gguf", {}, drop=("clip.projector_type",))
    with pytest.raises(ModelFormatError, match="does not name its projector"):
        Model(llm, mmproj=other)


def test_the_own_encoder_is_not_forced_on_what_it_does_not_run(pair: Pairs) -> None:
    llm, mmproj = pair("gemma3")
    with pytest.raises(UnsupportedModelError, match="own encoder does not run projectors of type 'gemma3'"):
        Model(llm, mmproj=mmproj, vision="own")


@pytest.mark.parametrize("dialect", ["gemma3", "mlp", "qwen2.5vl"])
def test_a_vision_file_of_another_width(dialect: str, pair: Pairs) -> None:
    llm, _ = pair("resampler")  # 128 wide
    _, mmproj = pair(dialect)
    with pytest.raises(MismatchError):
        Model(llm, mmproj=mmproj)


def test_a_vocabulary_without_the_markers(pair: Pairs, tmp_path: Path) -> None:
    import tiny_models

    _, mmproj = pair("internvl")
    llm = tiny_models.write_llm(tmp_path / "llm.gguf")
    with pytest.raises(MismatchError, match=r"'<img>', which the vocabulary of .* lacks"):
        Model(llm, mmproj=mmproj)


def test_missing_tensors_and_wrong_types_of_keys(pair: Pairs, tmp_path: Path) -> None:
    llm, mmproj = pair("idefics3")
    for i, (changes, drop) in enumerate(
        [
            ({}, ("mm.model.fc.weight",)),
            ({}, ("v.blk.1.attn_q.weight",)),
            ({"clip.vision.block_count": (STRING, "two")}, ()),
            ({"clip.vision.patch_size": (UINT32, 0)}, ()),
            ({"clip.vision.image_size": (UINT32, 3)}, ()),
            ({"clip.vision.attention.head_count": (UINT32, 0)}, ()),
            ({"clip.vision.projector.scale_factor": (UINT32, 0)}, ()),
        ]
    ):
        other = changed(mmproj, tmp_path / f"{i}.gguf", changes, drop)
        with pytest.raises(BluelmError, match=f"{i}.gguf"):
            Model(llm, mmproj=other)


def test_a_context_too_small_names_the_tokens_and_a_way_out(pair: Pairs, picture: Path) -> None:
    llm, mmproj = pair("idefics3")
    with Model(llm, mmproj=mmproj, n_ctx=64, n_threads=1) as model:
        with pytest.raises(ContextFullError, match=r"pictures are 40 of them, 4 with one view of each"):
            model.generate("what is this?", images=[picture])
        overview = model.generate("what is this?", images=[picture], tiler={"max_tiles": 1}, max_tokens=4)
        assert overview.timings.image_tokens == 4


def test_settings_of_our_tiler_are_refused(open_model: Callable[..., Model], picture: Path) -> None:
    model = open_model("gemma3")
    with pytest.raises(InvalidArgumentError, match="cuts pictures by itself"):
        model.encode(picture, tiler={"alpha": 0.5})


@pytest.mark.parametrize("dialect", list(tiny_pairs.DIALECTS))
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (5000, 2)])
def test_odd_shapes_give_an_answer_or_an_error(
    dialect: str, size: tuple[int, int], pair: Pairs, tmp_path: Path
) -> None:
    llm, mmproj = pair(dialect)
    Image.new("RGB", size, (200, 30, 60)).save(tmp_path / "odd.png")
    command = [sys.executable, "-m", "bluelm_gguf", "run", "-m", str(llm), "--mmproj", str(mmproj)]
    command += ["--image", str(tmp_path / "odd.png"), "-p", "what?", "-n", "2", "-t", "1", "-c", "4096"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert (done.returncode == 1) == done.stderr.startswith("bluelm-gguf: error: "), done.stderr


MUTATE = """
import json, sys
from pathlib import Path
from bluelm_gguf import Model
from bluelm_gguf.errors import BluelmError
llm, picture, *files = sys.argv[1:]
for file in files:
    try:
        with Model(llm, mmproj=file, n_threads=1, n_ctx=2048) as model:
            model.generate("what?", images=[picture], max_tokens=1)
        print(json.dumps([file, "answered"]), flush=True)
    except BluelmError as error:
        print(json.dumps([file, str(error)]), flush=True)
"""
N_MUTATIONS = 30


def mutations(source: Path, directory: Path, seed: int) -> list[Path]:
    """Copies with some bytes of the head changed: numbers, lengths, names, types."""
    data = source.read_bytes()
    n_head = min(tensor.data_offset for tensor in gguf.GGUFReader(source).tensors)
    rng = random.Random(seed)
    files = []
    for i in range(N_MUTATIONS):
        mutated = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(8, n_head - 8)
            kind = rng.randrange(4)
            if kind == 0:
                mutated[at] = rng.randrange(256)
            elif kind == 1:
                mutated[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                mutated[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 7)))
            else:
                mutated[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**40, 2**64 - 1)))
        files.append(directory / f"{seed}-{i}.gguf")
        files[-1].write_bytes(mutated)
    return files


@pytest.mark.parametrize("dialect", list(tiny_pairs.DIALECTS))
def test_damaged_heads_never_end_the_process(
    dialect: str, pair: Pairs, picture: Path, tmp_path: Path
) -> None:
    llm, mmproj = pair(dialect)
    left = mutations(mmproj, tmp_path, seed=len(dialect))
    done = subprocess.run(
        [sys.executable, "-c", MUTATE, str(llm), str(picture), *map(str, left)],
        capture_output=True, text=True, timeout=200, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines()]
    stopped_at = left[len(said)].name if len(said) < len(left) else ""
    assert done.returncode == 0 and len(said) == len(left), f"{stopped_at}: {done.stderr[-2000:]}"
    refused = [what for _, what in said if what != "answered"]
    assert refused and all("\n" not in what for what in refused)
