"""`bluelm-gguf run` in a real terminal: progress, streaming, Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny_models
from program import arguments
from pseudo_terminal import CTRL_C

from bluelm_gguf.cli.terminal import ProgressLine, printable

SCRIPT = "a猫b🙂cü!"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_llm(tmp_path_factory.mktemp("scripted") / "llm.gguf", script=SCRIPT)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough to be caught while it talks."""
    path = tmp_path_factory.mktemp("talkative") / "llm.gguf"
    return tiny_models.write_llm(path, n_embd=512, n_ctx_train=100_000)


ENDLESS = ("-n", -1, "-c", 30_000, "-t", 1)


def test_run_shows_progress_and_takes_it_away(terminal, files) -> None:
    t = terminal("run", *files.pair, "--image", files.large, "-p", "what?", "-n", 3, "-t", 1, "--timings")
    assert t.exit_code() == 0
    assert re.search(r"looking at the picture \[#*\.*\] \d/3 tiles", t.seen)
    assert re.search(r"reading \[#*\.*\] \d+/\d+ tokens", t.seen)
    assert "[" not in t.text
    assert "image " in t.text and "first token after" in t.text


def test_run_streams_whole_characters(terminal, scripted: Path) -> None:
    t = terminal("run", "-m", scripted, "-p", "what?")
    assert t.exit_code() == 0
    assert t.text.strip() == SCRIPT
    assert "\ufffd" not in t.seen


def test_a_model_cannot_order_the_terminal_about(terminal, program, tmp_path: Path) -> None:
    script = "a\x1b]0;b\x07c\x9bd"  # sets a window's title, and begins a sequence in 8 bits
    llm = tiny_models.write_llm(tmp_path / "llm.gguf", script=script)
    for command in ("run", "chat"):
        t = terminal(command, "-m", llm, *(("-p", "what?") if command == "run" else ()))
        if command == "chat":
            t.prompt()
            assert t.command("what?") == ["a]0;bcd"]
        else:
            assert t.exit_code() == 0 and t.text.strip() == "a]0;bcd"
        assert "\x1b]0;" not in t.seen and "\x9b" not in t.seen
    # A file or another program gets what the model wrote.
    assert program("run", "-m", llm, "-p", "what?").stdout == script + "\n"


def test_no_progress_where_stderr_is_no_terminal(files) -> None:
    done = subprocess.run(
        arguments("run", *files.pair, "--image", files.large, "-p", "what?", "-n", 3),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == b"" and b"\x1b" not in done.stdout


def test_ctrl_c_ends_run_with_130(terminal, talkative: Path) -> None:
    t = terminal("run", "-m", talkative, "-p", "what?", *ENDLESS)
    t.wait_for("tokens")  # the prompt is being read
    t.wait_until(lambda: bool(t.text) and "tokens" not in t.text, "the answer's beginning")
    t.send(CTRL_C)
    assert t.exit_code(20) == 130
    assert "Traceback" not in t.seen and "Error" not in t.seen
    assert t.seen.endswith("\n")


def test_ctrl_c_while_looking_at_pictures(terminal, files) -> None:
    images = [part for _ in range(9) for part in ("--image", files.large)]
    t = terminal("run", *files.pair, *images, "-p", "what?", "-c", 10_000, "--tile-batch", 1)
    t.wait_for("looking at the picture")
    t.send(CTRL_C)
    assert t.exit_code(20) == 130
    assert "Traceback" not in t.seen and "ignored" not in t.seen
    assert "[" not in t.text.replace("^C", "")


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.3, 0.35, 0.4, 0.5])
def test_ctrl_c_at_any_time(terminal, talkative: Path, delay: float) -> None:
    """Also while Python or the model is being loaded; the delays only spread the moments."""
    t = terminal("run", "-m", talkative, "-p", "what?", *ENDLESS)
    time.sleep(delay)
    t.send(CTRL_C)
    code = t.exit_code(20)
    if "Traceback" not in t.seen:
        # An interrupt inside the exec() of a dataclass that is being made stays noted in CPython, which then
        # ends itself with SIGINT although the exception was caught. A shell shows 130 for both.
        assert code in (130, -signal.SIGINT)
    else:  # before the program's first line it is Python, still importing, that is interrupted
        assert "in main" not in t.seen


def test_output_cannot_order_the_terminal_about() -> None:
    assert printable("a\x1b[2Jb\x07\x9b31m\r\n\tü🙂") == "a[2Jb31m\n\tü🙂"


def test_progress_line_elsewhere_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    assert line("encode", 1, 3) is True
    line.clear()
    assert capsys.readouterr().err == ""
