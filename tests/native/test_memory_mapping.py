"""A model's file does not stay in memory beside its packed weights."""

from __future__ import annotations

import mmap
import random
import subprocess
import sys
from pathlib import Path

import pytest
from bluelm_gguf.convert import convert

from bluelm_gguf.native.mapped_pages import drop_mapped_pages, mapping

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import make_random_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEASURE = """
import sys
from pathlib import Path
from bluelm_gguf.llm.language_model import LanguageModel
llm = LanguageModel(sys.argv[1], n_ctx=256, n_threads=1)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(*(int(status[key].split()[0]) for key in ("RssFile", "VmHWM")))
llm.prefill_tokens([1, 2, 3], 0, chunk=3, logits=True)
print(*llm.logits()[:50].tolist())
"""


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 120 MB in Q4_0, nearly all of it weights that some kernel packs."""
    d = tmp_path_factory.mktemp("mapping")
    text = {
        "vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 8192, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 512,
    }  # fmt: skip
    vision = {
        "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "image_size": 384, "patch_size": 14,
    }  # fmt: skip
    make_random_checkpoint.write_checkpoint(d / "checkpoint", text, vision, quiet=True)
    path = convert(d / "checkpoint", d, llm_type="q4_0", llm_only=True).llm_path
    assert path is not None
    return path


def test_the_file_is_not_resident_after_loading(llm: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(llm)], capture_output=True, text=True, timeout=120, check=True
    )
    first, logits = done.stdout.splitlines()
    file_kb, peak_kb = (int(n) for n in first.split())
    n_kb = llm.stat().st_size // 1024
    # The libraries and the rows of the embeddings that were read; 64 MB between two drops while loading.
    assert file_kb < 70 << 10 and n_kb > 110 << 10
    assert peak_kb < n_kb + (70 << 10) + (64 << 10) + (60 << 10)
    assert len(set(logits.split())) > 40


def test_dropped_pages_come_back_as_they_were(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    content = random.Random(seed).randbytes(3 << 20)
    path, other = tmp_path / "a file", tmp_path / "other"
    path.write_bytes(content)
    other.write_bytes(b"x" * 4096)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:] == content
        with mapping:
            assert drop_mapped_pages(path) == len(content)
            assert drop_mapped_pages(other) == 0
        assert mapped[:] == content, seed
    assert drop_mapped_pages(path) == 0


def test_pages_that_were_written_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:4] = b"mine"
        assert drop_mapped_pages(path) == 0
        assert mapped[:4] == b"mine"
