"""`bluelm-gguf chat` in a real terminal: typing while pictures are worked on, Ctrl-C, the commands."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import tiny_models
from PIL import Image
from pseudo_terminal import CTRL_C, CTRL_D, Terminal

from bluelm_gguf import Model
from bluelm_gguf.cli.terminal import printable

Open = Callable[..., Terminal]
SCRIPT = "a猫b🙂cü!"
QUESTION = "what is this?"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_llm(tmp_path_factory.mktemp("scripted") / "llm.gguf", script=SCRIPT)


@dataclass(frozen=True)
class Slow:
    """A pair and a picture of 17 tiles whose every step takes long enough to be caught at it."""

    llm: Path
    mmproj: Path
    picture: Path

    def arguments(self, *more: object) -> list[object]:
        return ["-m", self.llm, "--mmproj", self.mmproj, "-c", 6000, "-n", 4, "--tile-batch", 1, *more]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Slow:
    d = tmp_path_factory.mktemp("slow")
    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 256, (1536, 1536, 3), dtype=np.uint8)).save(d / "slow.png")
    return Slow(
        tiny_models.write_llm(d / "llm.gguf", n_embd=512, n_ctx_train=100_000),
        tiny_models.write_mmproj(d / "mmproj.gguf", n_embd_out=512, width=256, n_layer=6),
        d / "slow.png",
    )


@pytest.fixture(scope="module")
def slow_answer(slow: Slow) -> str:
    """What a fresh session answers to QUESTION about the picture."""
    with Model(slow.llm, mmproj=slow.mmproj, n_ctx=6000, n_threads=1, batch=1) as model:
        return printable(model.generate(QUESTION, images=[slow.picture], max_tokens=4).text).rstrip()


@dataclass
class Pipe:
    """A picture file that the program waits for until `deliver`."""

    path: Path
    source: Path

    def deliver(self) -> None:
        self.path.write_bytes(self.source.read_bytes())


@pytest.fixture
def late(files, tmp_path: Path) -> Iterator[Pipe]:
    """A picture of 3 tiles that comes when a test likes: the work takes as long."""
    path = tmp_path / "late.png"
    os.mkfifo(path)
    yield Pipe(path, files.large)
    # Whoever still waits for it in open() would keep the program from ending.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def prefilled(lines: list[str]) -> tuple[int, int]:
    """Tokens computed, and those of pictures among them, from a --timings line."""
    found = re.search(r"prefill (\d+)(?: of \d+)? tokens(?: \((\d+) image\))?", "\n".join(lines))
    assert found, lines
    return int(found[1]), int(found[2] or 0)


# ---------------------------------------------------------------------------------- work while the user types


def test_a_picture_is_worked_on_while_the_user_types(terminal: Open, files, late: Pipe) -> None:
    t = terminal("chat", *files.pair, "-n", 3, "--timings")
    t.prompt()
    assert t.command(f"/image {late.path}") == []  # back at once: the picture has not even come
    t.wait_until(lambda: t.status == "late.png: reading", "the status")
    t.send("what is")
    t.wait_until(lambda: t.typed == "what is", "what was typed")
    late.deliver()
    t.wait_until(lambda: t.status == "late.png ready, 588 tokens", "the end of the work")
    assert t.typed == "what is"
    t.send("\x1b[D\x7fwa\x05\x7f\x7f")  # the line can be edited all the same
    t.wait_until(lambda: t.typed == "what w", "the edited line")
    answer = t.command("as this?")
    assert prefilled(answer)[1] == 0  # all of the picture was in the KV cache when Enter came
    assert t.status == ""
    again = t.command("and this?")
    n, n_image = prefilled(again)
    assert n_image == 0 and n < 40


def test_status_counts_tiles_and_tokens(terminal: Open, slow: Slow) -> None:
    t = terminal("chat", *slow.arguments(), slow.picture)
    seen: set[str] = set()

    def is_ready() -> bool:
        seen.add(re.sub(r"\d+/", "N/", t.status))
        return "ready" in t.status

    t.wait_until(is_ready, "the end of the work")
    assert t.status == "slow.png ready, 3332 tokens"
    assert {"slow.png: encoding N/17 tiles", "slow.png: prefilling N/3332 tokens"} <= {
        re.sub(r"N/33\d\d", "N/3332", line) for line in seen
    }


def test_enter_before_the_picture_is_ready_waits_for_it(terminal: Open, slow: Slow, slow_answer: str) -> None:
    t = terminal("chat", *slow.arguments(), slow.picture)
    t.wait_until(lambda: "encoding" in t.status, "the encoding")
    answer = t.command(QUESTION)
    assert "looking at the picture [" in t.seen and "reading [" in t.seen
    assert "\n".join(answer) == slow_answer
    assert "[" not in "".join(answer)  # the progress is gone


@pytest.mark.parametrize("way", ["plain", "quoted", "escaped", "url", "two", "pasted"])
def test_dropped_pictures(terminal: Open, files, tmp_path: Path, way: str) -> None:
    odd = tmp_path / "it's a picture.png"
    odd.write_bytes(files.small.read_bytes())
    t = terminal("chat", *files.pair, "-n", 3)
    t.prompt()
    if way == "pasted":
        t.send("abc\x15")
        t.paste(shlex.quote(str(odd)))  # without Enter
    else:
        line = {
            "plain": str(odd),
            "quoted": shlex.quote(str(odd)),
            "escaped": str(odd).replace(" ", "\\ ").replace("'", "\\'"),
            "url": "file://" + quote(str(odd)),
            "two": f"{shlex.quote(str(odd))} {files.large}",
        }[way]
        assert t.command(line) == []
    expected = "it's a picture.png ready, 196 tokens"
    if way == "two":
        expected += " | large.png ready, 588 tokens"
    t.wait_until(lambda: t.status == expected, expected)
    assert t.typed == ""


def test_a_dropped_picture_for_a_model_without_eyes(terminal: Open, files, scripted: Path) -> None:
    t = terminal("chat", "-m", scripted)
    t.prompt()
    t.paste(str(files.small))
    t.wait_for_line("bluelm-gguf: error: ")
    t.wait_until(lambda: t.typed == "", "the line again")
    assert t.command(QUESTION) == [SCRIPT]


def test_pasted_text_stays_text(terminal: Open, files, scripted: Path) -> None:
    t = terminal("chat", "-m", scripted)
    t.prompt()
    t.paste("first line\nsecond /no/such.png")
    t.wait_until(lambda: "second /no/such.png" in t.text, "the text")
    assert t.command("")[-1] == SCRIPT


def test_what_is_wrong_with_a_picture_appears_above_the_line(terminal: Open, files, late: Pipe) -> None:
    t = terminal("chat", *files.pair, "-n", 3)
    t.prompt()
    t.command(f"/image {late.path}")
    t.send("wh")
    t.wait_until(lambda: t.typed == "wh", "what was typed")
    late.source = files.llm
    late.deliver()
    t.wait_for_line("bluelm-gguf: error: ")
    t.wait_until(lambda: t.typed == "wh" and not t.status, "the line again")
    above = t.text.replace("\n", "").removesuffix("> wh")  # a long line takes two of the screen
    assert f"bluelm-gguf: error: {late.path}: not a picture" in above
    assert len(t.command("at?")) >= 1  # the question goes without it


def test_a_question_that_waited_for_a_broken_picture_comes_back(terminal: Open, files, late: Pipe) -> None:
    t = terminal("chat", *files.pair, "-n", 3)
    t.prompt()
    t.command(f"/image {late.path}")
    t.wait_until(lambda: t.status == "late.png: reading", "the status")
    t.enter(QUESTION)
    t.wait_until(lambda: not t.at_prompt, "the waiting")
    late.source = files.llm
    late.deliver()
    t.wait_until(lambda: t.typed == QUESTION, "the question again")
    assert t.text.count("error") == 1
    assert len(t.command("")) >= 1


# -------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize(
    ("stage", "early"),
    [
        ("encoding", False),
        ("prefilling", True),
        pytest.param("encoding", True, marks=pytest.mark.slow),
        pytest.param("prefilling", False, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_while_a_picture_is_worked_on(
    terminal: Open, slow: Slow, slow_answer: str, stage: str, early: bool
) -> None:
    t = terminal("chat", *slow.arguments(), slow.picture)
    t.wait_until(lambda: stage in t.status, stage)
    if early:
        t.enter(QUESTION)
        t.wait_for("looking at the picture [" if stage == "encoding" else "reading [")
        t.send(CTRL_C)
        t.wait_for_line("(stopped)")
    else:
        t.send(CTRL_C)
        t.wait_for_line("(stopped; the next question goes on")
    t.wait_until(lambda: t.at_prompt and t.status == "slow.png: waiting", "the prompt")
    assert "\n".join(t.command(QUESTION)) == slow_answer
    t.send(CTRL_D)
    assert t.exit_code() == 0
    assert "Traceback" not in t.seen


def test_ctrl_c_in_an_answer(terminal: Open, slow: Slow) -> None:
    t = terminal("chat", "-m", slow.llm, "-n", -1, "-c", 30_000)
    t.prompt()
    for _ in range(2):
        before = t.text.count("(stopped)")
        t.enter(QUESTION)
        t.wait_until(lambda: not t.at_prompt and len(t.text.split(QUESTION)[-1]) > 20, "an answer")
        t.send(CTRL_C)
        t.wait_until(lambda n=before: t.text.count("(stopped)") > n and t.at_prompt, "the prompt", 10)
    t.send(CTRL_C)
    t.wait_for_line("(Ctrl-C again, or Ctrl-D, leaves)")
    t.wait_until(lambda: t.at_prompt, "the prompt")
    assert any("/image PATH" in line for line in t.command("/help"))  # whoever goes on typing stays
    t.send("half a line")
    t.wait_until(lambda: t.typed == "half a line", "the line")
    t.send(CTRL_C)  # clears the line and no more
    t.wait_until(lambda: t.typed == "", "an empty line")
    assert t.text.count("leaves)") == 1
    t.send(CTRL_C)
    t.wait_until(lambda: t.text.count("leaves)") == 2 and t.at_prompt, "the prompt")
    t.send(CTRL_C)
    assert t.exit_code() == 130
    assert "Traceback" not in t.seen


def test_typing_ahead(terminal: Open, slow: Slow) -> None:
    """What is typed during an answer does not get into it, and is on the next line."""
    t = terminal("chat", "-m", slow.llm, "-n", 300, "-c", 2000)
    t.prompt()
    t.enter(QUESTION)
    t.wait_until(lambda: not t.at_prompt and len(t.text.split(QUESTION)[-1]) > 20, "an answer")
    t.send("/he")
    t.wait_until(lambda: t.typed == "/he", "the line")
    assert t.text.split(QUESTION)[-1].count("/he") == 1
    assert any("/image PATH" in line for line in t.command("lp"))


# ------------------------------------------------------------------------------------------------ commands


def test_images_and_remove(terminal: Open, files) -> None:
    t = terminal("chat", *files.pair, "-n", 3, files.small, files.large)
    t.wait_until(lambda: "large.png ready" in t.status, "the pictures")
    assert t.command("/images") == [
        f"1  {files.small}: 160 x 120, 1 tile, 196 tokens",
        f"2  {files.large}: 640 x 300, 3 tiles, 588 tokens",
    ]
    assert "from 1 to 2" in t.command("/remove 3")[0]
    assert t.command("/remove 1") == [f"(taken back: {files.small})"]
    t.wait_until(lambda: t.status == "large.png ready, 588 tokens", "the status")
    t.command(QUESTION)
    assert t.command("/images") == ["(1 in the conversation, 0 for the next question)"]
    assert t.command("/remove 1") == ["bluelm-gguf: no picture waits for the next question"]


def test_retry_and_undo(terminal: Open, files) -> None:
    t = terminal("chat", *files.pair, "-n", 3, "--timings", files.large)
    t.wait_until(lambda: "ready" in t.status, "the picture")
    first = t.command(QUESTION)
    again = t.command("/retry")
    assert again[:-2] == first[:-2]
    assert prefilled(again)[1] == 0 and prefilled(again)[0] <= prefilled(first)[0]
    second = t.command("what the user is")
    t.enter("/undo")
    t.wait_until(lambda: t.typed == "what the user is", "the question on the line")
    assert t.command("")[:-2] == second[:-2]
    t.enter("/undo")
    t.wait_until(lambda: t.typed == "what the user is", "the question on the line")
    t.send("\x15")
    t.enter("/undo")
    t.wait_until(lambda: t.typed == QUESTION, "the first question on the line")
    t.wait_until(lambda: t.status == "large.png ready, 588 tokens", "the picture")  # waits again
    assert t.command("")[:-2] == first[:-2]
    t.command("/clear")
    assert t.command("/undo") == ["bluelm-gguf: there is no question to take back"]
    assert "error: there is no question" in t.command("/retry")[0]


def test_save_and_load(terminal: Open, files, tmp_path: Path) -> None:
    saved = tmp_path / "my chat"
    t = terminal("chat", *files.pair, "-n", 3, files.large)
    t.wait_until(lambda: "ready" in t.status, "the picture")
    t.command(QUESTION)
    assert re.fullmatch(rf"\({re.escape(str(saved))}: [\d.]+ MB\)", t.command(f"/save {saved}")[0])
    expected = t.command("and what the user is?")
    t.send(CTRL_D)
    assert t.exit_code() == 0
    t = terminal("chat", *files.pair, "-n", 3)
    t.prompt()
    assert t.command(f"/load {saved}") == ["(a conversation of 1 question, 1 picture)"]
    assert t.command("and what the user is?") == expected
    assert t.command("/load /no/such")[0].startswith("bluelm-gguf: error: /no/such: ")
    assert t.command("/save")[0] == "bluelm-gguf: /save needs a path"
    assert len(t.command("more?")) >= 1  # the conversation is still there


@pytest.mark.parametrize("policy", ["drop", "stop"])
def test_full_context(terminal: Open, files, policy: str) -> None:
    t = terminal("chat", *files.pair, "-n", 20, "-c", 320, "--context-full", policy, files.small)
    t.wait_until(lambda: "ready" in t.status, "the picture")
    for _ in range(12):
        lines = t.command(QUESTION)
        if "context" in "\n".join(lines):
            break
    (line,) = (line for line in lines if "context" in line)
    if policy == "drop":
        assert re.fullmatch(r"\(the context is full: the \d+ oldest turns are left out\)", line)
        assert lines[0] != line  # there is an answer, too
        assert not any("error" in line for line in t.command(QUESTION))
    else:
        assert line.startswith("bluelm-gguf: error: ")
        t.wait_until(lambda: t.typed == QUESTION, "the question again")
        t.send("\x15")
        t.command("/clear")
        assert not any("error" in line for line in t.command(QUESTION))


def test_system_prompt(terminal: Open, files) -> None:
    t = terminal("chat", "-m", files.llm, "-n", 8, "--system", "be the user")
    t.prompt()
    with_flag = t.command(QUESTION)
    assert t.command("/system") == ["(a new conversation)"]
    without = t.command(QUESTION)
    assert t.command("/system be the user") == ["(a new conversation)"]
    assert t.command(QUESTION) == with_flag != without


def test_conversation(terminal: Open, scripted: Path) -> None:
    t = terminal("chat", "-m", scripted)
    t.prompt()
    for _ in range(2):
        assert t.command(QUESTION) == [SCRIPT]
    assert "\ufffd" not in t.seen
    assert t.command("") == []
    assert t.command("/timings") == ["(times are shown)"]
    assert "token/s" in t.command(QUESTION)[1] and "KV cache" in t.text
    assert "there is no /fly" in t.command("/fly")[0]
    t.enter("/quit")
    assert t.exit_code() == 0


# -------------------------------------------------------------------------------------------------- editing


def test_completion(terminal: Open, files) -> None:
    t = terminal("chat", "-m", files.llm)
    t.prompt()
    t.send("/rem\t")
    t.wait_until(lambda: (t.typed or "").startswith("/remove"), "the command")
    t.send("\x15/im\t")
    t.wait_until(lambda: (t.typed or "").startswith("/image"), "the command")
    t.send(f"\x15/image {files.large.parent}/lar\t")
    t.wait_until(lambda: t.typed == f"/image {files.large}", "the path")


def test_history(terminal: Open, scripted: Path, tmp_path: Path) -> None:
    t = terminal("chat", "-m", scripted)
    t.prompt()
    t.command("first 猫")
    t.command("second")
    t.send("\x1b[A\x1b[A")
    t.wait_until(lambda: t.typed == "first 猫", "the first line")
    t.send("\x15")
    t.send(CTRL_D)
    assert t.exit_code() == 0
    file = tmp_path / "state" / "bluelm-gguf" / "history"
    assert file.stat().st_mode & 0o777 == 0o600
    t = terminal("chat", "-m", scripted, "--no-history")
    t.prompt()
    t.command("third")
    t.send("\x1b[A\x1b[A\x1b[A")
    t.wait_until(lambda: t.typed == "third", "its own line only")
    t = terminal("chat", "-m", scripted)
    t.prompt()
    t.send("\x1b[A")
    t.wait_until(lambda: t.typed == "second", "the last line of the first session")


def test_history_that_cannot_be_written(terminal: Open, scripted: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    t = terminal("chat", "-m", scripted)
    t.prompt()
    assert t.command(QUESTION) == [SCRIPT]
    t.send("\x1b[A")
    t.wait_until(lambda: t.typed == QUESTION, "the line")


# ----------------------------------------------------------------------------------- terminals of other kinds


def test_dumb_terminal(terminal: Open, files, late: Pipe) -> None:
    t = terminal("chat", *files.pair, "-n", 3, "--timings", env={"TERM": "dumb"})
    t.wait_for("> ")
    t.send(f"/image {late.path}\n")
    at = t.wait_for("> ", after=t.wait_for(str(late.path)))
    threading.Thread(target=late.deliver).start()
    t.send("what?\n")
    at = t.wait_for("token/s", after=at)
    at = t.wait_for("> ", after=at)
    t.send(CTRL_D)
    assert t.exit_code() == 0
    assert "\x1b" not in t.seen


def test_no_color(terminal: Open, scripted: Path) -> None:
    t = terminal("chat", "-m", scripted, env={"NO_COLOR": "1"})
    t.prompt()
    t.send("/he")
    t.wait_until(lambda: t.typed == "/he", "the line")
    t.send(CTRL_C)
    t.wait_until(lambda: t.typed == "", "an empty line")
    assert t.command(QUESTION) == [SCRIPT]
    for codes in re.findall(r"\x1b\[([\d;]*)m", t.seen):
        assert not any(30 <= int(code) <= 49 or int(code) >= 90 for code in codes.split(";") if code), codes


def test_terminal_that_does_not_say_where_its_cursor_is(terminal: Open, files) -> None:
    t = terminal("chat", *files.pair, "-n", 3, files.small, reports_cursor=False)
    t.wait_until(
        lambda: t.lines and any(line.endswith("small.png ready, 196 tokens") for line in t.lines),
        "the status",
    )
    assert "WARNING" not in t.seen
    assert t.at_prompt


@pytest.mark.parametrize("stream", [">", "2>"])
def test_redirected(terminal: Open, files, scripted: Path, tmp_path: Path, stream: str) -> None:
    """Answers in a file: the prompt is on the terminal all the same; and the other way round."""
    out = tmp_path / "out.txt"
    t = terminal("chat", "-m", scripted, redirected=f"{stream} {out}")
    t.prompt()
    n = t.text.count(">")
    t.enter(QUESTION)
    t.wait_until(lambda: t.text.count(">") > n and t.typed == "", "the next prompt")
    t.send(CTRL_D)
    assert t.exit_code() == 0
    if stream == ">":
        assert out.read_text() == SCRIPT + "\n" and SCRIPT not in t.seen
    else:
        assert SCRIPT in t.seen and "Ask something" in out.read_text() and "\x1b" not in out.read_text()


# ------------------------------------------------------------------------------------------------- leaving


@pytest.mark.parametrize(
    ("way", "moment"),
    [
        *(("hang up", moment) for moment in ("prompt", "encoding", "waiting", "answer")),
        ("SIGTERM", "prompt"),
        ("SIGTERM", "encoding"),
    ],
)
def test_no_process_is_left_behind(terminal: Open, slow: Slow, way: str, moment: str) -> None:
    if moment in ("encoding", "waiting"):
        t = terminal("chat", *slow.arguments(), slow.picture)
        t.wait_until(lambda: "encoding" in t.status, "the encoding")
    else:
        t = terminal("chat", "-m", slow.llm, "-n", -1, "-c", 30_000)
        t.prompt()
    if moment in ("waiting", "answer"):
        t.enter(QUESTION)
        t.wait_until(lambda: not t.at_prompt, "the work")
    if way == "hang up":
        t.hang_up()
        assert t.exit_code(20) == 129
    else:
        os.kill(t.pid, signal.SIGTERM)
        assert t.exit_code(20) == 143
        assert "Traceback" not in t.seen


def test_the_terminals_modes_come_back(terminal: Open, slow: Slow) -> None:
    """After SIGTERM in an answer, while what is typed is not shown."""
    import termios

    t = terminal("chat", "-m", slow.llm, "-n", -1, "-c", 30_000)
    t.prompt()
    t.enter(QUESTION)
    t.wait_until(lambda: not t.at_prompt and len(t.text.split(QUESTION)[-1]) > 20, "an answer")
    os.kill(t.pid, signal.SIGTERM)
    assert t.exit_code(20) == 143
    flags: Any = termios.tcgetattr(t.fd)[3]
    assert flags & termios.ECHO and flags & termios.ICANON
