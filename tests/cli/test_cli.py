"""The program, run as people run it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
from PIL import Image
from program import arguments

import bluelm_gguf
from bluelm_gguf import Model

SCRIPT = "a猫b🙂cü!"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_llm(tmp_path_factory.mktemp("scripted") / "llm.gguf", script=SCRIPT)


def test_version_and_help(program) -> None:
    assert program("--version").stdout == f"bluelm-gguf {bluelm_gguf.__version__}\n"
    for args in (["-h"], ["--help"]):
        done = program(*args)
        assert done.returncode == 0
        for command in ("run", "chat", "convert", "info", "tiles", "plugin", "cache", "doctor"):
            assert f"\n  {command} " in done.stdout
    for command in ("run", "chat", "convert", "info", "tiles", "plugin", "doctor"):
        assert program(command, "-h").returncode == 0


@pytest.mark.parametrize(
    "args",
    [
        (), ("fly",), ("run", "--fast"), ("run", "-p", ""), ("run", "-p", "a", "-n", "0"),
        ("run", "-p", "a", "-n", "-2"),
        ("run", "-p", "a", "--tile-batch", "18"), ("run", "-p", "a", "--chunk", "600"),
        ("run", "-p", "a", "--temp", "-1"),
        ("run", "-p", "a", "--mmproj", "x.gguf"), ("run", "-p", "a", "-m", "x.gguf", "--image", "x.png"),
        ("run", "-p", "a", "--grammar", "a", "--json-schema", "b"), ("cache",),
        ("chat", "--context-full", "panic"), ("run", "--image", "-"), ("chat", "-m", "x.gguf", "picture.png"),
        ("info",), ("tiles",), ("convert",), ("run", "-p", "a", "--free-vision", "sometimes"),
        ("tiles", "10x10", "-o", "plan.jpg"), ("convert", ".", "-o", "x", "--llm-type", "q9"),
        ("convert", ".", "-o", "x", "--llm-only", "--vision-only"),
    ],
)  # fmt: skip
def test_usage(program, args: tuple[str, ...], tmp_path: Path) -> None:
    done = program(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage:" in done.stderr + done.stdout and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_run_writes_the_answer_and_nothing_else_to_stdout(program, scripted: Path) -> None:
    done = program("run", "-m", scripted, "-p", "what?")
    assert (done.returncode, done.stdout, done.stderr) == (0, SCRIPT + "\n", "")


def test_run_prints_the_stages_of_encoding(program, files) -> None:
    ask = ("run", *files.pair, "--no-cache", "-p", "what is this?", "-n", 2, "--profile")
    head, *stages = program(*ask, "--image", files.large).stderr.splitlines()
    assert head.startswith("encoder: ") and head.endswith(" GOP/s")
    assert {"resize", "patch_embd"} < {line.split()[0] for line in stages}
    assert sum(float(line.split()[1]) for line in stages) <= float(head.split()[1]) + 1
    assert "no picture was encoded" in program(*ask).stderr


def test_run_answers_as_the_library_does(program, files) -> None:
    done = program(
        "run", *files.pair, "--image", files.large, "-p", "what is this?", "-n", 16, "-t", 1, "--timings"
    )
    with Model(files.llm, mmproj=files.mmproj, n_threads=1) as model:
        reply = model.generate("what is this?", images=[files.large], max_tokens=16)
    assert done.stdout == reply.text + "\n"
    times, memory, vision = done.stderr.splitlines()
    assert vision == "vision: projector bluelm, encoder own"
    parts = [part.split()[0] for part in times.split(" | ")]
    assert [part for part in parts if part != "waited"] == ["image", "prefill", "decode", "first"]
    assert memory.startswith("memory: ") and "KV cache" in memory and "process" in memory


def test_run_json(program, files) -> None:
    done = program(
        "run", *files.pair, "--image", files.large, "--image", files.small, "-p", "what?", "-n", 4, "--json"
    )
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert set(found) == {"text", "finish_reason", "timings", "images", "memory", "vision"}
    assert found["memory"]["kv_cache"] > 0
    assert found["finish_reason"] == "length"
    assert [i["n_tiles"] for i in found["images"]] == [3, 1]
    assert (
        found["images"][0] | {"method": "relaxed", "width": 640, "height": 300, "cols": 2}
        == found["images"][0]
    )
    assert found["timings"]["image_tokens"] == 4 * 196 and found["timings"]["generated_tokens"] == 4


def test_run_reads_pictures_and_questions_from_stdin(program, files, scripted: Path) -> None:
    args = ("run", *files.pair, "-p", "what?", "-n", 8, "-t", 1, "--image")
    done = program(*args, "-", stdin=files.small.read_bytes())
    assert done.returncode == 0 and done.stdout == program(*args, files.small).stdout
    done = program(*args, "-", stdin=b"no picture")
    assert done.returncode == 1 and "stdin" in done.stderr
    assert program("run", "-m", scripted, stdin=b"what?\n").stdout == SCRIPT + "\n"
    assert program("run", "-m", scripted, stdin=b" \n").returncode == 2


def test_run_flags_reach_the_model(program, files) -> None:
    def answer(*args: object) -> str:
        done = program("run", "-m", files.llm, "-p", "what is this?", "-n", 12, "-t", 1, *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    greedy = answer()
    hot = ("--temp", 3, "--top-k", 0, "--top-p", 1, "--min-p", 0)
    assert answer(*hot, "--seed", 1) == answer(*hot, "--seed", 1) != answer(*hot, "--seed", 2)
    assert answer(*hot, "--top-k", 1) == greedy
    assert answer(*hot, "--typical", 0.01, "--seed", 1) != answer(*hot, "--seed", 1)
    assert answer("--presence-penalty", 100) != greedy
    assert answer("--frequency-penalty", 100, "--repeat-last-n", -1) != greedy
    assert answer("--presence-penalty", 100, "--repeat-last-n", 0) == greedy
    assert answer("--system", "be the user") != greedy
    assert answer("-sys", "be the user") == answer("--system", "be the user")
    assert answer(*hot, "-s", 1) == answer(*hot, "--seed", 1)
    middle = greedy[4]
    assert answer("-r", middle, "--reverse-prompt", "~~") == greedy[: greedy.index(middle)] + "\n"
    assert answer("-ctk", "bf16", "-ctv", "f32", "--free-vision", "never") == greedy
    assert answer("--chunk", 3, "--batch-size", 16) == greedy


def test_an_answer_that_follows_a_file(program, files, tmp_path: Path) -> None:
    grammar, schema = tmp_path / "g.gbnf", tmp_path / "s.json"
    ask = ("run", "-m", files.llm, "-p", "what?", "-n", 200)
    grammar.write_text('root ::= "red" | "blue"')
    assert program(*ask, "--grammar", grammar).stdout in ("red\n", "blue\n")
    schema.write_text('{"type": "object", "properties": {"is": {"type": "boolean"}}, "required": ["is"]}')
    assert json.loads(program(*ask, "--json-schema", schema).stdout)["is"] in (True, False)
    done = program("chat", "-m", files.llm, "--grammar", grammar, stdin=b"what?\nand?\n")
    assert set(done.stdout.splitlines()) <= {"red", "blue"} and done.stdout.count("\n") == 2


@pytest.mark.parametrize(
    ("flag", "content", "reason"),
    [
        ("--grammar", b'root ::= "red" | blue', "line 1: the rule 'blue' is not defined"),
        ("--grammar", b"", "it is empty"),
        ("--grammar", b"root ::= \"\xff\"", "not UTF-8 text"),
        ("--json-schema", b"{", "it is not JSON"),
        ("--json-schema", b"[]", "an object is needed, not list"),
        ("--json-schema", None, "No such file or directory"),
    ],
)  # fmt: skip
def test_a_bad_grammar_or_schema_is_one_line(
    program, files, tmp_path: Path, flag: str, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "rules"
    if content is not None:
        path.write_bytes(content)
    done = program("run", "-m", files.llm, "-p", "what?", flag, path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"bluelm-gguf: error: {path}: {reason}")


def test_pictures_come_from_the_cache(program, files, tmp_path: Path) -> None:
    env = os.environ | {"BLUELM_CACHE_DIR": str(tmp_path / "cache")}
    ask = ("run", *files.pair, "--image", files.large, "-p", "what?", "-n", 8, "--json")

    def found(*args: object) -> tuple[str, int, int]:
        reply = json.loads(program(*ask, *args, env=env).stdout)
        return reply["text"], reply["timings"]["images_encoded"], reply["timings"]["images_cached"]

    text, *first = found("--no-cache")
    assert first == [1, 0] and not (tmp_path / "cache").exists()
    assert found() == (text, 1, 0)
    assert found() == (text, 0, 1)
    assert " ms from the cache |" in program(*ask[:-1], "--timings", env=env).stderr
    assert found("--no-cache") == (text, 1, 0)
    assert program("cache", "clear", env=env).stdout.startswith("1 picture removed")
    assert found() == (text, 1, 0)


def test_a_cache_that_cannot_be_written_is_one_warning(program, files, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a directory should be")
    env = os.environ | {"BLUELM_CACHE_DIR": str(tmp_path / "cache")}
    done = program("run", *files.pair, "--image", files.small, "-p", "what?", "-n", 2, env=env)
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("bluelm-gguf: warning: the cache of encoded pictures is off: ")
    lines = f"/image {files.small}\nwhat?\n".encode()
    done = program("chat", *files.pair, "-n", 2, stdin=lines, env=env)
    assert done.returncode == 0 and "bluelm-gguf: warning: the cache" in done.stderr
    assert "UserWarning" not in done.stderr


@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_broken_pipe_is_quiet(files, command: str) -> None:
    question = ("-p", "what") if command == "run" else ()
    words = arguments(command, "-m", files.llm, "-n", 500, "-c", 1024, *question)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{shlex.join(words)} | head -c 1 | wc -c"],
        input=b"what?\n" * 20,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"1", b"")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_names_and_questions_that_are_no_utf_8(files, scripted: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/m\xff.gguf"
    Path(os.fsdecode(odd)).write_bytes(scripted.read_bytes())
    done = subprocess.run(
        arguments("run", "-m", odd), input=b"wh\xff\xfet?", capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{SCRIPT}\n".encode(), b"")
    done = subprocess.run(
        arguments("chat", "-m", odd + b"x"), input=b"a", capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1 and done.stderr.endswith(b".ggufx: no such file or directory\n")


def test_verbose_shows_llama_cpps_log(program, scripted: Path) -> None:
    done = program("run", "-m", scripted, "-p", "what?", "--verbose")
    assert done.stdout == SCRIPT + "\n" and "llama_model_loader" in done.stderr


def test_a_warning_is_one_line(program, files) -> None:
    done = program("run", "-m", files.llm, "-p", "what?", "-n", 1, "-c", 2100)
    assert done.returncode == 0
    assert done.stderr.startswith("bluelm-gguf: warning: ") and done.stderr.count("\n") == 1


def test_kv_types_reach_the_model(program, files) -> None:
    ask = ("run", "-m", files.llm, "-p", "what?", "-n", 2, "--json")
    sizes = [json.loads(program(*ask, "-ctk", k, "-ctv", v).stdout)["memory"]["kv_cache"]
             for k, v in (("f32", "f32"), ("f32", "f16"), ("f16", "f16"))]  # fmt: skip
    assert sizes[0] == 2 * sizes[2] and sizes[1] == 1.5 * sizes[2]
    done = program(*ask, "-ctk", "q9")
    assert done.returncode == 1 and done.stderr.startswith("bluelm-gguf: error: type_k is 'q9'")


def test_vision_weights_come_and_go(program, files) -> None:
    ask = ("run", *files.pair, "--image", files.small, "-p", "what?", "-n", 4, "--no-cache", "--json")
    never, always = (json.loads(program(*ask, "--free-vision", way).stdout) for way in ("never", "always"))
    assert never["text"] == always["text"]
    assert always["memory"]["vision_weights"] == 0 < never["memory"]["vision_weights"]


def test_info(program, files) -> None:
    done = program("info", files.llm, files.mmproj)
    assert done.returncode == 0
    for text in (
        "Tiny random Llama",
        "2048 tokens",
        "qwen2",
        "196 tokens per tile",
        "16 grids up to 4:4",
        "F32",
    ):
        assert text in done.stdout
    found = json.loads(program("info", "--json", files.llm, files.mmproj).stdout)
    assert [one["kind"] for one in found] == ["llm", "mmproj"]
    assert found[1]["tokens_per_tile"] == 196


def test_tiles(program, files, tmp_path: Path) -> None:
    done = program("tiles", "768x1536")
    assert "2:4" in done.stdout and "9 tiles" in done.stdout and "1764 tokens" in done.stdout
    done = program("tiles", files.large, "-o", tmp_path / "plan.png")
    assert done.returncode == 0 and "2:1" in done.stdout
    done = program(
        "tiles", "394x390", "--compare", "--max-cols", 3, "--max-rows", 3, "-o", tmp_path / "compare.png"
    )
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        ["relaxed", "1:1"], ["llava_next", "2:2"], ["internvl", "1:1"],
    ]  # fmt: skip
    for name in ("plan.png", "compare.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG" and min(image.size) > 100
    assert len(list(tmp_path.iterdir())) == 2


def test_tiles_as_a_file_asks_for(program, files) -> None:
    done = program("tiles", files.large, "--mmproj", files.mmproj)
    assert "2:1" in done.stdout and "588 tokens" in done.stdout
    assert "196 tokens" in program("tiles", files.large, "--mmproj", files.mmproj, "--max-cols", 1).stdout
    assert program("tiles", files.large, "--mmproj", files.llm).returncode == 1


def test_tiles_settings_are_those_that_the_encoder_uses(files) -> None:
    from bluelm_gguf.pictures.planner import PicturePlanner
    from bluelm_gguf.pictures.vision import VisionEncoder

    planner = PicturePlanner(files.mmproj)
    with VisionEncoder(files.mmproj) as encoder:
        assert (planner.tiler, planner.info) == (encoder.tiler, encoder.info)


def test_doctor(program) -> None:
    done = program("doctor")
    found = {line[6:23].strip(): line[:5] for line in done.stdout.splitlines()}
    for what in ("Python", "llama-cpp-python", "libbluelm", "one ggml", "threads"):
        assert found[what] == "ok   ", done.stdout
    assert done.returncode == (1 if "FAULT" in found.values() else 0)


def test_chat_takes_lines_from_a_pipe(program, files, scripted: Path) -> None:
    lines = "what?\n\n/nothing\n/help\n/timings\nand?\n/clear\nagain?\n/quit\nnever\n"
    done = program("chat", "-m", scripted, stdin=lines.encode())
    assert done.returncode == 0
    assert done.stdout == (SCRIPT + "\n") * 3
    assert "there is no /nothing" in done.stderr and "/image PATH" in done.stderr
    assert done.stderr.count("token/s") == 4  # two answers with times, prefill and decode
    done = program("chat", *files.pair, "-n", 3, files.small, stdin=f"/image {files.large}\nwhat?\n".encode())
    assert (
        done.returncode == 0 and "3 tiles, 588 tokens" in done.stderr and "1 tile, 196 tokens" in done.stderr
    )


def test_chat_without_a_terminal_needs_no_prompt_toolkit(files, scripted: Path) -> None:
    code = """
import runpy, sys
sys.argv[0] = "bluelm-gguf"
try:
    runpy.run_module("bluelm_gguf.cli.main", run_name="__main__")
finally:
    print([name for name in ("prompt_toolkit", "asyncio") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "chat", "-m", str(scripted), "-t", "1"],
        input=b"what?\n", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.decode() == f"{SCRIPT}\n[]\n"


def test_chat_survives_what_goes_wrong(program, files) -> None:
    lines = f"/image {files.llm}\n/image\n/image '/no/such file.png'\n{'x' * 3000}\nwhat?\n"
    done = program("chat", *files.pair, "-n", 3, stdin=lines.encode())
    assert done.returncode == 0
    assert done.stderr.count("bluelm-gguf: error: ") == 3
    assert "/image needs a path" in done.stderr and "/no/such file.png" in done.stderr
    assert len(done.stdout.splitlines()) >= 1
    done = program("chat", *files.pair, "/no/such.png")
    assert done.returncode == 1


def test_convert(program, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from checkpoints import make_bluelm_v_checkpoint

    make_bluelm_v_checkpoint(tmp_path / "checkpoint", text={"hidden_size": 64})
    done = program(
        *("convert", tmp_path / "checkpoint", "-o", tmp_path / "out", "--name", "mine"),
        *("--llm-type", "q8_0", "--mmproj-type", "f16"),
    )
    assert done.returncode == 0, done.stderr
    llm, mmproj = tmp_path / "out" / "mine-Q8_0.gguf", tmp_path / "out" / "mmproj-mine-F16.gguf"
    assert sorted((tmp_path / "out").iterdir()) == [llm, mmproj]
    assert "Q8_0" in done.stdout and llm.name in done.stdout
    Image.new("RGB", (400, 300), "red").save(tmp_path / "red.png")
    done = program(
        "run", "-m", llm, "--mmproj", mmproj, "--image", tmp_path / "red.png", "-p", "What?", "-n", 4
    )
    assert done.returncode == 0, done.stderr


def test_python_m(files) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bluelm_gguf", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("bluelm-gguf ")
