"""A name only ever stands for a complete file: failures, Ctrl-C, signals, full disks. And no torch."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import gguf_io
import pytest
from bluelm_gguf.convert import ConversionError, OutputError, convert
from bluelm_gguf.convert.output.writer import Staging
from checkpoints import make_bluelm_v_checkpoint

LOADER = Path(__file__).with_name("conftest.py")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bluelm_v_checkpoint(tmp_path_factory.mktemp("files") / "tiny")


def run_script(body: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own: `convert` is imported as here, `args` are the arguments."""
    script = (
        f"import runpy, sys; runpy.run_path({str(LOADER)!r}); args = sys.argv[1:]\n"
        f"from bluelm_gguf.convert import convert, OutputError\n{body}"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("stage", ["llm", "llm-quantize", "mmproj"])
def test_whatever_interrupts_leaves_nothing(
    stage: str, error: type[BaseException], checkpoint: Path, tmp_path: Path
) -> None:
    def interrupt(at: str, done: int, total: int) -> None:
        assert 1 <= done <= total
        if at == stage and done >= 3:
            raise error("stop")

    with pytest.raises(error):
        convert(checkpoint, tmp_path, llm_type="q4_k_m", on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_earlier_files_survive_a_failure_and_are_replaced_by_a_success(
    checkpoint: Path, tmp_path: Path
) -> None:
    first = convert(checkpoint, tmp_path, llm_type="f16")
    assert first.llm_path is not None and first.mmproj_path is not None
    good = first.llm_path.read_bytes()

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "mmproj" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, tmp_path, llm_type="f16", on_progress=interrupt)
    assert first.llm_path.read_bytes() == good
    first.llm_path.write_bytes(b"old")
    convert(checkpoint, tmp_path, llm_type="f16")
    assert first.llm_path.read_bytes() == good
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([first.llm_path.name, first.mmproj_path.name])


def test_both_files_appear_together(checkpoint: Path, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def watch(stage: str, done: int, total: int) -> None:
        seen.append([p.name for p in tmp_path.glob("*.gguf")])

    result = convert(checkpoint, tmp_path, name="two words/and: a colon", on_progress=watch)
    assert all(names == [] for names in seen)
    assert result.llm_path is not None and result.llm_path.name == "two-words-and-a-colon-Q4_0.gguf"
    assert (
        result.mmproj_path is not None and result.mmproj_path.name == "mmproj-two-words-and-a-colon-Q8_0.gguf"
    )
    assert len(list(tmp_path.glob("*.gguf"))) == 2
    assert gguf_io.metadata(result.llm_path)["general.name"] == "two words/and: a colon"


def test_what_a_killed_process_left_is_removed_by_the_next(checkpoint: Path, tmp_path: Path) -> None:
    body = (
        "import os, signal\n"
        "convert(args[0], args[1], on_progress=lambda *a: os.kill(os.getpid(), signal.SIGKILL))"
    )
    assert run_script(body, checkpoint, tmp_path).returncode == -signal.SIGKILL
    left = [p.name for p in tmp_path.iterdir()]
    assert left and all(name.startswith(".") and name.endswith(".part") for name in left)
    convert(checkpoint, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mmproj-tiny-136K-Q8_0.gguf", "tiny-136K-Q4_0.gguf"]


@pytest.mark.parametrize("llm_type", ["f16", "q4_k_m"])
def test_full_disk(llm_type: str, checkpoint: Path, tmp_path: Path) -> None:
    """A limit on file sizes gives the same kind of error as a full disk, while writing."""
    limit = 100_000
    body = (
        f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n    convert(args[0], args[1], llm_type=args[2])\nexcept OutputError as error:\n    "
        "print(error)"
    )
    done = run_script(body, checkpoint, tmp_path, llm_type)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    message = rf"{re.escape(str(tmp_path))} cannot be written: \d+ requested and \d+ written; make room or .*"
    assert re.fullmatch(message, line), line
    assert list(tmp_path.iterdir()) == []


def test_room_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    with Staging(tmp_path) as staging:
        staging.need(1)
        with pytest.raises(OutputError, match="MB free and 1000000000000 MB are needed; make room"):
            staging.need(10**18)


def test_output_that_is_no_directory(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=r"file.* cannot be created"):
            convert(checkpoint, out)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_without_permission(checkpoint: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            convert(checkpoint, tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_needs_no_torch(checkpoint: Path, tmp_path: Path) -> None:
    body = (
        "result = convert(args[0], args[1])\n"
        "print(result.table())\n"
        "heavy = {'torch', 'transformers', 'safetensors', 'llama_cpp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert not [m for m in sys.modules if m.startswith('bluelm_gguf.native.library')]"
    )
    done = run_script(body, checkpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tiny-136K-Q4_0.gguf" in done.stdout and "mmproj-tiny-136K-Q8_0.gguf" in done.stdout


def test_errors_are_value_errors() -> None:
    assert issubclass(OutputError, ConversionError) and issubclass(ConversionError, ValueError)
