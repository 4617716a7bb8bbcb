"""`bluelm-gguf convert` as people run it: dry run, importance matrix, progress; and however it ends, no file
that is not whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from program import arguments

from bluelm_gguf.cli import terminal
from bluelm_gguf.cli.terminal import ProgressLine

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import make_random_checkpoint

TEXT = {
    "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 2048,
}  # fmt: skip
VISION = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "image_size": 384, "patch_size": 14,
}  # fmt: skip
NAMES = ["Random-36M-Q4_0.gguf", "mmproj-Random-36M-Q8_0.gguf"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 million parameters: small, but not converted in the blink of an eye."""
    directory = tmp_path_factory.mktemp("checkpoint") / "Random"
    make_random_checkpoint.write_checkpoint(directory, TEXT, VISION, quiet=True)
    return directory


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir()) if directory.exists() else []


def test_dry_run_then_conversion(program, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = program("convert", checkpoint, "-o", out, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert not out.exists()
    assert planned.stdout.splitlines()[-1] == "dry run: nothing was written"
    done = program("convert", checkpoint, "-o", out)
    assert done.returncode == 0, done.stderr
    assert names(out) == NAMES
    rows = done.stdout.splitlines()[:-1]
    assert planned.stdout.splitlines()[: len(rows)] == rows
    assert all(line.startswith("bluelm-gguf: note: ") for line in done.stderr.splitlines())
    both = program("info", *(out / name for name in NAMES)).stdout
    assert "a pair      yes" in both and "licence     mit" in both and "Q6_K" in both


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--imatrix", "x.gguf", "--llm-type", "q8_0"), "--imatrix: has no use with --llm-type q8_0, only"),
        (("--imatrix", "x.gguf", "--vision-only"), "--imatrix: has no use with --vision-only: no LLM"),
        (("--imatrix", "x.gguf", "--llm", "y.gguf"), "--imatrix: has no use with --llm: no LLM"),
        (("--llm-only", "--vision-only"), "--llm-only: excludes --vision-only"),
        (("--llm-only", "--llm", "y.gguf"), "--llm-only: excludes --llm,"),
        (("--llm-type", "q5_0"), "--llm-type: is 'q5_0'; choose from f32"),
        (("--mmproj-type", "q4_k_m"), "--mmproj-type: is 'q4_k_m'; choose from f32"),
    ],
)
def test_options_that_do_not_go_together(program, args: tuple[str, ...], message: str, tmp_path) -> None:
    done = program("convert", tmp_path, "-o", tmp_path / "out", *args)
    assert done.returncode == 2 and message in " ".join(done.stderr.split()), done.stderr
    assert not (tmp_path / "out").exists()


def test_an_importance_matrix_that_is_none(program, checkpoint: Path, tmp_path: Path) -> None:
    done = program("convert", checkpoint, "-o", tmp_path / "out", "--imatrix", checkpoint / "config.json")
    assert done.returncode == 1 and names(tmp_path / "out") == []
    assert "no importance matrix" in done.stderr and len(done.stderr.splitlines()) == 1


def start_and_signal(checkpoint: Path, out: Path, number: int, stage: str) -> int:
    """Sends a signal once a file of a stage is begun; Ctrl-C to all processes, as a terminal does."""
    with subprocess.Popen(
        arguments("convert", checkpoint, "-o", out, "--name", "x"), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while not list(out.glob(f".{stage}*.part")):
            assert process.poll() is None and time.monotonic() < deadline, "ended before it was stopped"
            time.sleep(0.002)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        return process.wait(30)


@pytest.mark.parametrize("stage", ["x-Q4_0.gguf.bf16", "x-Q4_0.gguf.[0-9]"])
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["int", "term", "kill"],
)
def test_a_signal_leaves_no_file_under_the_final_name(
    stage: str, number: int, status: int, checkpoint: Path, tmp_path: Path
) -> None:
    """While weights are read, and while llama.cpp quantises in a process of its own."""
    assert start_and_signal(checkpoint, tmp_path, number, stage) == status
    left = names(tmp_path)
    if number == signal.SIGKILL:  # nobody was there to clean up; the next conversion does
        assert left and all(name.startswith(".x-") and name.endswith(".part") for name in left)
    else:
        assert left == []


@pytest.mark.parametrize("limit", [1_000_000, 30_000_000])
def test_a_full_disk(limit: int, checkpoint: Path, tmp_path: Path) -> None:
    """A limit on the size of files fails a write as a full disk does: in the first file, in the quantiser."""
    code = (
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "sys.argv = ['bluelm-gguf', *sys.argv[1:]]\n"
        "runpy.run_module('bluelm_gguf.cli.main', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "convert", str(checkpoint), "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1 and "error: " in done.stderr
    assert names(tmp_path) == []


class FakeTerminal:
    """Takes what is drawn."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_progress_in_bytes_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, screen = [100.0], FakeTerminal()
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(terminal.shutil, "get_terminal_size", lambda: os.terminal_size((120, 24)))
    line = ProgressLine(screen)  # type: ignore[arg-type]

    def drawn(stage: str, seconds: float, done: int) -> str:
        now[0] += seconds
        screen.text = ""
        line(stage, done * 10**6, 1000 * 10**6)
        return screen.text

    assert drawn("llm", 0, 0).endswith("language model [........................] 0/1000 MB")
    assert drawn("llm", 0.5, 100).endswith("100/1000 MB")  # too early to tell
    assert drawn("llm", 1.5, 200).endswith("[####....................] 200/1000 MB, 8 s left")
    assert drawn("llm", 198, 400).endswith("400/1000 MB, 5:00 min left")
    assert drawn("llm", 1, 1000).endswith("1000/1000 MB")
    assert drawn("mmproj", 1, 10).endswith("vision file [........................] 10/1000 MB")
    assert drawn("encode", 1, 10).endswith("tiles")
