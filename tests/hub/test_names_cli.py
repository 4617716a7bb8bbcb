"""Names on the command line, against a hub on loopback: the program as people run it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from loopback_hub import REPO, Hub, Repo
from program import arguments
from test_stores import lay_hf, lay_lm_studio, lay_ollama

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import make_random_checkpoint

LLM, MMPROJ = "tiny-Q4_K_M.gguf", "mmproj-tiny-Q8_0.gguf"
CATALOGUE_REPO = "ggml-org/SmolVLM-256M-Instruct-GGUF"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs the program with this test's stores, in its directory."""

    def run(
        *args: Any, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        return subprocess.run(
            arguments(*args), capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
            env=os.environ | environment | (env or {}), **options,
        )  # fmt: skip

    return run


@pytest.fixture
def in_catalogue(hub: Hub, tiny_files: dict[str, bytes]) -> str:
    """A name of the catalogue; its repository holds our tiny pair, under other names."""
    hub.repos[CATALOGUE_REPO] = Repo(
        {"small-Q8_0.gguf": tiny_files[LLM], "mmproj-x.gguf": tiny_files[MMPROJ]}
    )
    return "smolvlm:256m"


def failed(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert line.startswith("bluelm-gguf: error: ")
    return line


def test_pull_then_run_then_remove(cli: Run, hub: Hub, files: Any) -> None:
    done = cli("pull", REPO)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [path.name for path in paths] == [LLM, MMPROJ] and all(path.is_file() for path in paths)
    n = len(hub.requests)
    done = cli("pull", REPO)
    assert f"{REPO}: here already (Hugging Face cache)" in done.stderr
    done = cli("run", REPO, "--image", files.small, "-p", "what", "-n", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["timings"]["image_tokens"] > 0
    assert f"{REPO}: {LLM} with {MMPROJ} (Hugging Face cache)" in done.stderr
    assert len(hub.requests) == n
    done = cli("rm", REPO)
    assert done.returncode == 0 and done.stdout.splitlines() == [MMPROJ, LLM]
    assert not paths[0].exists() and not list(Path(paths[0].parents[2]).glob("blobs/*"))
    assert "not on this disk" in failed(cli("rm", REPO))


def test_a_catalogue_name_falls_back_to_the_listing(cli: Run, in_catalogue: str, files: Any) -> None:
    done = cli("chat", in_catalogue, files.small, input="what\n")
    assert done.returncode == 0, done.stderr
    assert "has no SmolVLM-256M-Instruct-Q8_0.gguf; small-Q8_0.gguf is taken" in done.stderr
    assert f"{files.small}: 160 x 120" in done.stderr and done.stdout.strip()
    listed = json.loads(cli("models", "--json").stdout)
    assert [e["name"] for e in listed["catalogue"] if e["here"]] == [in_catalogue]
    assert listed["disk"][0]["source"] == "Hugging Face cache"


def test_info_and_bench_take_names(cli: Run, hub: Hub) -> None:
    done = cli("info", REPO, "--json")
    assert done.returncode == 0, done.stderr
    assert [one["kind"] for one in json.loads(done.stdout)] == ["llm", "mmproj"]
    done = cli("bench", "-m", REPO, "-p", "16", "-n", "2", "-r", "1", "-t", "1", "--save")
    assert done.returncode == 0, done.stderr
    assert "kept in " in done.stderr
    fits = cli("models", "--fits")
    assert "first answer" in fits.stdout and " s + picture" in fits.stdout


def test_convert_takes_a_checkpoint_from_the_hub(cli: Run, hub: Hub, tmp_path: Path) -> None:
    text = {
        "vocab_size": 8192, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
    }  # fmt: skip
    vision = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
        "image_size": 384, "patch_size": 14,
    }  # fmt: skip
    checkpoint = tmp_path / "checkpoint"
    make_random_checkpoint.write_checkpoint(checkpoint, text, vision, quiet=True)
    hub.repos["some/Model-1M"] = Repo(
        {path.name: path.read_bytes() for path in sorted(checkpoint.iterdir())} | {"onnx/model.json": b"{}"}
    )
    done = cli("convert", "some/Model-1M", "-o", "out", "--llm-type", "f16", "--mmproj-type", "f16")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "Model-1M-F16.gguf", "mmproj-Model-1M-F16.gguf"
    }  # fmt: skip
    assert hub.count("hub", "GET", "onnx") == 0
    assert "no checkpoint: config.json and weights" in failed(cli("convert", REPO, "-o", "out"))


def test_fits_says_how_to_measure(cli: Run) -> None:
    done = cli("models", "--fits")
    assert "bluelm-gguf bench --save --synthetic 3b" in done.stdout and "not measured" in done.stdout


def test_models_says_where_each_comes_from(
    cli: Run, environment: dict[str, str], tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    pair = {name: tiny_files[name] for name in (LLM, MMPROJ)}
    lay_hf(Path(environment["HF_HOME"]) / "hub", pair, "a/hf")
    lay_hf(Path(environment["LLAMA_CACHE"]), pair, "b/llama")
    lay_lm_studio(tmp_path / ".lmstudio" / "models", pair, "c/lm")
    lay_ollama(Path(environment["OLLAMA_MODELS"]), pair)
    rows = [line.split("  ") for line in cli("models").stdout.splitlines()]
    seen = {row[0].strip(): row[-1].strip() for row in rows if row[-1].strip()}
    assert seen["a/hf:Q4_K_M"] == "Hugging Face cache"
    assert seen["b/llama:Q4_K_M"] == "llama.cpp cache"
    assert seen["c/lm:Q4_K_M"] == "LM Studio"
    assert seen["tiny:1m"] == "Ollama"
    done = cli("run", "tiny:1m", "-p", "what", "-n", "2")
    assert done.returncode == 0 and "(Ollama)" in done.stderr
    assert "remove it there: `ollama rm tiny:1m`" in failed(cli("rm", "tiny:1m"))


def test_python_takes_names(environment: dict[str, str], hub: Hub) -> None:
    code = f"""
from bluelm_gguf import Model, HubError
for open_model in (Model, Model.from_pretrained):
    model = open_model({REPO!r}, n_ctx=256, n_threads=1)
    print(model.llm.path.name, model.vision is not None, model.is_demo)
    model.close()
try:
    Model.from_pretrained("nobody/nothing", download=False)
except HubError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{LLM} True False", f"{LLM} True False",
        "nobody/nothing: not on this disk; `bluelm-gguf pull nobody/nothing` downloads it",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------ broken off, two at once


def start(environment: dict[str, str], *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments(*args), env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle_it_goes_on(
    number: signal.Signals, cli: Run, hub: Hub, environment: dict[str, str]
) -> None:
    hub.stall_at = 4 << 16
    process = start(environment, "pull", REPO)
    assert hub.stalled.wait(30)
    blobs = Path(environment["HF_HOME"]) / "hub" / "models--tiny--pair-GGUF" / "blobs"
    deadline = time.monotonic() + 10
    while sum(path.stat().st_size for path in blobs.glob("*.incomplete")) < 3 << 16:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    hub.stall_at = None
    hub.go_on.set()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "stopped; the same command goes on from here" in stderr
    assert json.loads(cli("models", "--json").stdout)["disk"] == []
    part = next(blobs.glob("*.incomplete")).stat().st_size
    done = cli("pull", REPO)
    assert done.returncode == 0 and "going on at" in done.stderr, done.stderr
    assert f"bytes={part}-" in hub.bytes_sent()
    for name, path in zip((LLM, MMPROJ), done.stdout.splitlines(), strict=True):
        assert Path(path).read_bytes() == hub.repos[REPO].files[name]
    assert not list(blobs.glob("*.incomplete"))


def test_two_programs_pull_one_name(hub: Hub, environment: dict[str, str]) -> None:
    hub.stall_at = 2 << 16
    first = start(environment, "pull", REPO)
    assert hub.stalled.wait(30)
    second = start(environment, "pull", REPO)
    assert second.stderr is not None
    assert "another process is downloading it; waiting" in second.stderr.readline()
    hub.stall_at = None
    hub.go_on.set()
    outputs = [process.communicate(timeout=30)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0 and outputs[0] == outputs[1]
    assert hub.count("storage", "GET", LLM) == 1


def test_rm_takes_what_a_broken_off_download_left(cli: Run, hub: Hub, environment: dict[str, str]) -> None:
    blobs = Path(environment["HF_HOME"]) / "hub" / "models--tiny--pair-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / ("a" * 64 + ".incomplete")).write_bytes(b"x" * 1000)
    done = cli("rm", REPO)
    assert done.returncode == 0 and "removed, 1000 bytes" in done.stderr
    assert not blobs.parent.exists()


def test_rm_keeps_the_vision_file_of_another_quant(cli: Run, hub: Hub) -> None:
    assert cli("pull", REPO).returncode == cli("pull", f"{REPO}:Q8_0").returncode == 0
    done = cli("rm", f"{REPO}:Q8_0")
    assert done.stdout.splitlines() == ["tiny-Q8_0.gguf"]
    assert cli("run", REPO, "-p", "what", "-n", "1").returncode == 0


# ---------------------------------------------------------------------------------------------------- consent


def test_no_terminal_no_consent(cli: Run, hub: Hub) -> None:
    hub.repos[REPO].sizes[LLM] = 3 * 10**9
    assert "2.8 GiB to download; nobody was asked: give --yes" in failed(cli("run", REPO, "-p", "a"))
    assert hub.count("storage", "GET") == 0


def test_a_terminal_is_asked(
    terminal: Callable[..., Any], hub: Hub, environment: dict[str, str], tiny_files: dict[str, bytes]
) -> None:
    hub.repos[REPO].sizes[LLM] = 3 * 10**9
    one = terminal("pull", REPO, env=environment)
    one.wait_for("2.8 GiB to download. Go on? [y/N]")
    one.enter("n")
    assert one.exit_code() == 1 and "nothing was downloaded" in one.text
    assert hub.count("storage", "GET") == 0
    two = terminal("pull", REPO, env=environment)
    two.wait_for("Go on? [y/N]")
    two.enter("y")
    # The listing's size was a lie; what counts is what the file's own head says.
    assert two.exit_code() == 0 and LLM in two.text


# --------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        (["pull"], "gemma3 4b", "there is a space in it"),
        (["run", "-p", "a", "-m"], "模型:4b", "letters a to z"),
        (["info"], "owner/..", "there is .. in it"),
        (["chat", "-m"], "nosuch:1b", "no model of that name"),
    ],
)
def test_names_that_are_none(cli: Run, command: list[str], name: str, words: str) -> None:
    assert words in failed(cli(*command, name))


def test_a_path_wins_and_it_is_said(cli: Run, tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "gemma3:4b").write_bytes(b"not a model")
    done = cli("run", "-m", "gemma3:4b", "-p", "a")
    assert "gemma3:4b: the file of this name is taken, not the catalogue's model" in done.stderr
    assert "gemma3:4b: not a GGUF file" in failed(done)
    done = cli("pull", "gemma3:4b")
    assert done.returncode == 2 and "is a file: nothing to download" in done.stderr
    assert hub.requests == []


def test_a_word_that_is_no_model_is_a_picture(cli: Run) -> None:
    assert "pics/cat.jpg: no such file" in failed(cli("chat", "pics/cat.jpg"))
    assert "cat: no such file" in failed(cli("chat", "cat"))


def test_offline(cli: Run, hub: Hub) -> None:
    offline = {"HF_HUB_OFFLINE": "1"}
    text = failed(cli("run", REPO, "-p", "a", env=offline))
    assert "not on this disk, and HF_HUB_OFFLINE forbids to download it" in text
    assert hub.requests == []
    assert cli("pull", REPO).returncode == 0
    n = len(hub.requests)
    assert cli("run", REPO, "-p", "what", "-n", "1", env=offline).returncode == 0
    assert len(hub.requests) == n


def test_a_file_that_cannot_be_written_to_its_end(cli: Run, hub: Hub) -> None:
    """A limit of the system in place of a full disk: both end a write with an error."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    assert "file too large" in failed(cli("pull", REPO, preexec_fn=limit))
    assert json.loads(cli("models", "--json").stdout)["disk"] == []
    assert cli("pull", REPO).returncode == 0


def test_a_page_in_a_models_place(cli: Run, tmp_path: Path, tiny_files: dict[str, bytes]) -> None:
    page = {LLM: b"<!DOCTYPE html><html></html>", MMPROJ: tiny_files[MMPROJ]}
    lay_lm_studio(tmp_path / ".lmstudio" / "models", page)
    assert f"{LLM}: not a GGUF file" in failed(cli("run", REPO, "-p", "a"))


def test_the_mmproj_of_another_model_in_the_same_repository(
    cli: Run, hub: Hub, tmp_path: Path, files: Any
) -> None:
    other = tiny_models.write_mmproj(tmp_path / "m.gguf", n_embd_out=96).read_bytes()
    repo = hub.repos[REPO].files
    hub.repos[REPO].files = {LLM: repo[LLM], MMPROJ: other}
    done = cli("pull", REPO)
    assert done.returncode == 0 and f"warning: {MMPROJ} is not {LLM}'s" in done.stderr
    text = failed(cli("run", REPO, "-p", "a", "--image", files.small))
    assert "makes embeddings of width 96" in text and "do not belong together" in text


def test_gated_missing_and_unreachable_in_one_line(cli: Run, hub: Hub) -> None:
    hub.repos[REPO].gated = True
    assert "gated: accept its terms" in failed(cli("pull", REPO))
    assert "no such repository" in failed(cli("run", "nobody/nothing", "-p", "a"))
    text = failed(cli("pull", "nobody/nothing", env={"HF_ENDPOINT": "http://127.0.0.1:9"}))
    assert "the connection to http://127.0.0.1:9 failed" in text
