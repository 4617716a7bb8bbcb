"""bluelm-bench and `bluelm-gguf bench`: the real program on small random models."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from program import arguments

from bluelm_gguf import Model
from bluelm_gguf.cli import bench_results as bench
from bluelm_gguf.native.machine import default_threads

# Quick on a busy machine too: one thread, one tile, few tokens.
SMALL = ("-t", "1", "--image", "300x300", "-p", "8", "-n", "2", "-r", "2")

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_bench(tmp_path: Path) -> Bench:
    """Runs bluelm-bench; its temporary files go to a directory that must be empty afterwards."""
    return runner(tmp_path, [str(bench.program())])


@pytest.fixture
def run_command(tmp_path: Path) -> Bench:
    """The same with `bluelm-gguf bench`, which takes Python's time to start."""
    return runner(tmp_path, arguments("bench"))


def runner(tmp_path: Path, program: list[str]) -> Bench:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)

    def run(*args: Any) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [*program, *map(str, args)], capture_output=True, text=True, timeout=300,
            env=bench.environment() | {"TMPDIR": str(scratch)},
        )  # fmt: skip
        assert not list(scratch.iterdir()), "temporary files were left behind"
        return result

    return run


def rows_of(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_formats_have_the_same_fields(run_bench: Bench, run_command: Bench) -> None:
    rows = rows_of(run_command(*SMALL, "-o", "json"))
    assert [row["test"] for row in rows] == ["load", "img 300x300", "pp8", "tg2"]
    lines = run_bench(*SMALL, "-o", "jsonl").stdout.splitlines()
    assert [list(json.loads(line)) for line in lines] == [list(row) for row in rows]
    table = list(csv.DictReader(io.StringIO(run_bench(*SMALL, "-o", "csv").stdout)))
    assert [list(line) for line in table] == [list(row) for row in rows]
    for line, row in zip(table, rows, strict=True):
        for name, value in row.items():
            if isinstance(value, str) and name != "test_time":
                assert line[name] == value
            elif value is None:
                assert line[name] == ""
        assert len(json.loads(line["samples_ms"])) == row["repetitions"]


def test_figures_belong_together(run_bench: Bench) -> None:
    _, image, prompt, generation = rows_of(run_bench(*SMALL, "-r", "3", "-o", "json"))
    for row, units in ((image, 1), (prompt, 8), (generation, 2)):
        samples = row["samples_ms"]
        assert len(samples) == row["repetitions"] == 3
        assert row["avg_ms"] == pytest.approx(statistics.mean(samples), rel=1e-4)
        assert row["stddev_ms"] == pytest.approx(statistics.stdev(samples), rel=1e-3, abs=1e-4)
        speeds = [1e3 * units / ms for ms in samples]
        assert row["avg_ts"] == pytest.approx(statistics.mean(speeds), rel=1e-4)
        assert row["drift_percent"] == pytest.approx(100 * (samples[-1] / samples[0] - 1), abs=0.05)
        assert row["peak_rss"] > 10e6
    assert (image["n_tiles"], image["image_tokens"], image["unit"]) == (1, 196, "tiles")
    parts = [image[f"{name}_ms"] or 0 for name in ("resize", "patch_embd", "vit", "projector")]
    assert 0 < sum(parts) <= 1.05 * image["avg_ms"] + 1
    assert image["mmproj_type"] and not image["model_type"]
    assert prompt["model_type"] and not prompt["mmproj_type"]


def test_markdown_is_the_default(run_bench: Bench) -> None:
    result = run_bench(*SMALL, "--e2e", "300x300", "--e2e-prompt", "4", "--e2e-gen", "3")
    assert result.returncode == 0, result.stderr
    table = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    tests = [line.split("|")[5].strip() for line in table[2:]]
    assert tests[0] == "load" and "img 300x300" in tests and "- resize, cut" in tests
    assert tests[-5:] == ["e2e 300x300+4+3", "- encode", "- prefill", "- first token after", "- generation"]
    assert re.search(r"\n\nbuild: .+\nCPU: .+\npeak RSS: .+; temperature: .+\ndrift: ", result.stdout)


def test_sweeps(run_bench: Bench) -> None:
    few = ("-t", "1", "-r", "1", "--no-warmup", "-o", "json")
    rows = rows_of(run_bench("--sweep", "batch", "--image", "384x768", *few))
    assert [row["tile_batch"] for row in rows if row["test"] == "img 384x768"] == [1, 2, 4, 6, 9]
    rows = rows_of(run_bench("--sweep", "chunk", "-p", "64", *few))
    assert [row["chunk"] for row in rows if row["test"] == "pp64"] == [32, 128, 512, 2048]
    rows = rows_of(run_bench("--sweep", "threads", "-p", "4", *few[2:]))
    n_threads = [row["n_threads"] for row in rows if row["test"] == "pp4"]
    assert n_threads[0] == 1 and n_threads == sorted(set(n_threads)) and n_threads[-1] <= default_threads()
    assert len({row["n_batch"] for row in rows}) == 1


def test_every_combination_once(run_bench: Bench) -> None:
    few = ("-t", "1", "-r", "1", "--no-warmup", "-o", "json")
    rows = rows_of(
        run_bench("-p", "4,8", "-d", "0,16", "--chunk", "2-4*2", "-n", "1", "-ctk", "f16,q8_0", *few)
    )
    prompts = [(row["test"], row["chunk"], row["type_k"]) for row in rows if row["n_prompt"]]
    names = ["pp4", "pp8", "pp4 @ d16", "pp8 @ d16"]
    assert prompts == [(name, c, k) for name in names for c in (2, 4) for k in ("f16", "q8_0")]
    generated = [(row["test"], row["type_k"]) for row in rows if row["n_gen"]]
    assert generated == [(n, k) for n in ("tg1", "tg1 @ d16") for k in ("f16", "q8_0")]  # chunk: no matter


def test_vision_settings(run_bench: Bench) -> None:
    few = ("-t", "1", "-r", "1", "--image", "64x64", "--no-warmup", "-o", "json")
    result = run_bench(*few, "--vision-weights", "resident", "--activations", "int8,float")
    assert [row["activations"] for row in rows_of(result)] == ["int8", "int8", "float"]
    result = run_bench(*few, "--vision-weights", "streamed")
    if result.returncode == 1:  # only with kernels of our own
        assert "streamed" in one_error(result).lower()
    else:
        image = rows_of(result)[1]
        assert image["vision_weights"] == "streamed" and image["pack_ms"] > 0
        inside = ("norm", "qkv", "attention", "attn_out", "ffn_up", "ffn_down", "pack")
        assert sum(image[f"{name}_ms"] for name in inside) == pytest.approx(image["vit_ms"], rel=1e-3)


def test_llm_kernels(run_bench: Bench) -> None:
    """Turned off, llama.cpp's own compute; the environment variable does the same for all models."""
    few = ("-t", "1", "-r", "1", "-p", "4", "--no-warmup", "-o", "json")
    rows = rows_of(run_bench(*few, "--llm-kernels", "0"))
    assert [row["llm_kernels"] for row in rows] == ["llama.cpp"] * 2
    ours = rows_of(run_bench(*few))[1]["llm_kernels"]
    both = [row["llm_kernels"] for row in rows_of(run_bench(*few, "--llm-kernels", "0,1"))]
    assert both == ["llama.cpp", "llama.cpp", ours]


def test_table5(run_bench: Bench) -> None:
    result = run_bench("--table5", "-t", "1", "-r", "1", "-n", "2", "--no-warmup")
    assert result.returncode == 0, result.stderr
    head, _, line = result.stdout.split("\n\n")[1].splitlines()
    assert head == "| image processing (load + encode) | LLM prefilling | throughput | memory |"
    assert re.fullmatch(
        r"\| [\d.]+ s \([\d.]+ \+ [\d.]+\) \| [\d.]+ s \(2048 tokens\) \| [\d.]+ token/s \| [\d.]+ [MG]iB \|",
        line,
    )


def test_given_files(run_bench: Bench, files: Any) -> None:
    few = ("-t", "1", "-r", "1", "--no-warmup", "-o", "json")
    rows = rows_of(run_bench(*files.pair, *few, "--e2e", "640x300", "--e2e-gen", "2"))
    assert [row["test"] for row in rows] == ["load", "e2e 640x300+32+2"]
    assert rows[1]["model_file"] == files.llm.name and rows[1]["n_tiles"] == 3
    assert rows[1]["first_token_ms"] < rows[1]["avg_ms"]
    rows = rows_of(run_bench("-m", files.llm, "-p", "4", *few))
    assert rows[0]["load_mmproj_ms"] is None and rows[0]["load_llm_ms"] > 0
    rows = rows_of(run_bench("--mmproj", files.mmproj, "--image", "100x100", *few))
    assert [row["test"] for row in rows] == ["load", "img 100x100"]
    assert rows[0]["load_llm_ms"] is None


def test_synthetic_files_are_kept_and_sound(run_bench: Bench, tmp_path: Path, files: Any) -> None:
    d = tmp_path / "models"
    few = ("-t", "1", "-r", "1", "-p", "2", "-o", "json")
    run_bench("--synthetic", "demo", "--synthetic-dir", d, *few)
    llm, mmproj = d / "synthetic-demo-Q8_0.gguf", d / "mmproj-synthetic-demo-Q8_0.gguf"
    assert sorted(d.iterdir()) == sorted([llm, mmproj])
    before = [path.stat().st_mtime_ns for path in (llm, mmproj)]
    mmproj.write_bytes(mmproj.read_bytes()[:-32])  # as a copy that was broken off
    rows_of(run_bench("--synthetic", "demo", "--synthetic-dir", d, *few))
    assert llm.stat().st_mtime_ns == before[0] and mmproj.stat().st_mtime_ns != before[1]
    with Model(llm, mmproj=mmproj, n_ctx=512, n_threads=1) as model:
        reply = model.generate("What?", images=[files.small], max_tokens=3)
        assert reply.timings.image_tokens == 196


def test_mask_and_too_many_threads(run_bench: Bench) -> None:
    mask = hex(1 << min(os.sched_getaffinity(0)))
    result = run_bench("-C", mask, "-p", "2", "-r", "1", "-o", "json")
    assert [(row["cpu_mask"], row["n_threads"]) for row in rows_of(result)] == [(mask, 1)] * 2
    assert result.stderr == ""
    result = run_bench("-C", mask, "-t", "2", "-p", "2", "-r", "1", "-o", "json")
    assert rows_of(result)[1]["n_threads"] == 2
    assert result.stderr == (
        "bluelm-bench: warning: 2 threads on 1 CPU share them: expect less speed and more deviation\n"
    )


def test_roofline(run_bench: Bench) -> None:
    result = run_bench(
        "--roofline", "--bandwidth", "50", "-t", "1", "-p", "8", "-n", "2", "-r", "1", "-o", "json"
    )
    load, prompt, generation = rows_of(result)
    assert load["limit"] is None and load["bandwidth_gbs"] == 50
    assert (prompt["limit"], generation["limit"]) == ("int8 peak", "bandwidth")
    assert prompt["limit_percent"] > 0 and prompt["int8_gops"] > 0 and prompt["f32_gflops"] > 0
    assert prompt["bf16_gflops"] >= 0
    result = run_bench("--roofline", "--bandwidth", "50", "-t", "1", "-p", "0", "-n", "0")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if "--synthetic 3b" in line)
    # 2.664e9 weights behind the embedding, 4.5 bits each, and the norms in 32
    weights = (32 * (4 * 2560**2 + 3 * 2560 * 6912) + 49152 * 2560) * 4.5 / 8 + 65 * 2560 * 4
    limits = [float(x) for x in re.findall(r"([\d.]+) t/s", line)]
    for n, limit in zip((0, 1024, 2048, 4096), limits, strict=True):
        assert limit == pytest.approx(50e9 / (weights + n * 2 * 32 * 2560 * 2), abs=0.06)


# ------------------------------------------------------------------------------------------------ endings


def endless(scratch: Path, *extra: str) -> list[str]:
    return arguments("bench", "-t", "1", "-p", "64", "-r", "1000", *extra)


def test_ctrl_c_prints_what_was_measured(tmp_path: Path) -> None:
    process = subprocess.Popen(
        endless(tmp_path, "-o", "json"), stdout=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()  # the first test is done: loading
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(60) == 130
    rows = json.loads(first + rest)
    assert rows[0]["test"] == "load" and all(row["repetitions"] < 1000 for row in rows)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_on_a_terminal(tmp_path: Path) -> None:
    """The terminal sends the signal to the whole process group; also while a figure is to be drawn."""
    out = tmp_path / "never.png"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        endless(tmp_path, "--sweep", "chunk", "--plot", str(out)), stdin=slave, stdout=slave, stderr=slave,
        env=os.environ | {"TMPDIR": str(tmp_path)}, preexec_fn=_own_terminal,
    )  # fmt: skip
    os.close(slave)
    text = b""
    while b"| load " not in text:
        text += os.read(master, 4096)
    os.write(master, b"\x03")
    try:
        while block := os.read(master, 4096):
            text += block
    except OSError:  # Linux: the terminal's other end is closed
        pass
    os.close(master)
    assert process.wait(60) == 130, text.decode()
    assert b"build: " in text and b"Traceback" not in text
    assert not list(tmp_path.iterdir())


def _own_terminal() -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


# --------------------------------------------------------------------------------------------- bad input

USAGE = [
    (["-C", "0xzz"], "-C 0xzz: not a hexadecimal mask"),
    (["-C", "0x1" + "0" * 400], "there is no CPU 1600, or this process may not use it"),
    (["-t", "0"], "-t 0: not a number from 1 to 512"),
    (["-p", "8-2x"], "-p 2x: not a number from 0 to 1048576"),
    (["-p", "1-8*1"], "-p 1-8*1: multiplying like this never ends"),
    (["-p"], "-p: a value is missing"),
    (["--nonsense"], "--nonsense: no such option"),
    (["--synthetic", "7b"], "--synthetic 7b: not one of demo, 0.5b, 3b"),
    (["--synthetic", "demo", "-m", "x.gguf"], "--synthetic excludes -m and --mmproj"),
    (["--synthetic-dir", "x"], "give --synthetic too"),
    (["--image", "300"], "--image 300: a size as WIDTHxHEIGHT is needed"),
    (["--image", "0x300"], "--image 0: not a number from 1 to 20000"),
    (["-m", "x.gguf", "--e2e", "8x8"], "--e2e needs both files"),
    (["-m", "x.gguf", "--image", "8x8"], "--image needs a vision file"),
    (["--mmproj", "x.gguf", "-p", "8"], "-p and -n needs a language model"),
    (["-ctk", "q3"], "-ctk q3: not one of f32, f16, bf16"),
    (["--sweep", "all"], "--sweep all: not one of batch, chunk, threads"),
    (["-o", "xml"], "-o xml: not one of md, json, jsonl, csv"),
    (["--chunk", "256", "-b", "128"], "--chunk 256 does not fit into -b 128"),
    (["--tile-batch", "18"], "--tile-batch 18: not a number from 1 to 17"),
    (["--bandwidth", "50"], "--bandwidth belongs to --roofline"),
    (["--roofline", "--bandwidth", "-1"], "--bandwidth -1: not a bandwidth in GB/s"),
]


@pytest.mark.parametrize(("args", "text"), USAGE, ids=[" ".join(a)[:30] for a, _ in USAGE])
def test_usage(run_bench: Bench, args: list[str], text: str) -> None:
    result = run_bench(*args)
    assert result.returncode == 2, result.stderr
    assert text in result.stderr and result.stdout == ""


def test_usage_of_the_command(run_command: Bench) -> None:
    for args, text in (["--plot"], "--plot"), (["compare", "a.json"], "two files of results are needed"):
        result = run_command(*args)
        assert result.returncode == 2 and text in result.stderr and result.stdout == ""
    result = run_command("-t", "0")
    assert (result.returncode, result.stderr) == (
        2,
        "bluelm-bench: error: -t 0: not a number from 1 to 512\n",
    )


def one_error(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith(("bluelm-bench: error: ", "bluelm-gguf: error: ")), (
        result.stderr
    )
    return lines[0].split("error: ", 1)[1]


def test_bad_files(run_bench: Bench, files: Any, tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.gguf", tmp_path / "broken.gguf"
    broken.write_bytes(files.llm.read_bytes()[:-4096])
    few = ("-t", "1", "-r", "1")
    assert one_error(run_bench("-m", missing, "-p", "1", *few)) == f"{missing}: No such file or directory"
    assert one_error(run_bench("--mmproj", missing, *few)) == f"{missing}: No such file or directory"
    assert one_error(run_bench("-m", broken, *few)).startswith(f"{broken}: the GGUF file is truncated (")
    assert one_error(run_bench("-m", files.mmproj, *few)).startswith(f"{files.mmproj}: architecture clip")
    assert one_error(run_bench("--mmproj", files.llm, *few)).startswith(f"{files.llm}: a language model")
    # Cache types that llama.cpp refuses, in its own words.
    text = one_error(run_bench("-m", files.llm, "-p", "1", "-ctv", "q8_0", "-fa", "off", *few))
    assert text.startswith(f"{files.llm}: llama.cpp cannot make a context of 1 tokens (")


def test_files_that_do_not_belong_together(run_bench: Bench, files: Any, tmp_path: Path) -> None:
    d = tmp_path / "models"
    assert run_bench("--synthetic", "demo", "--synthetic-dir", d, "-p", "1", "-r", "1").returncode == 0
    pair = ("-m", d / "synthetic-demo-Q8_0.gguf", "--mmproj", files.mmproj)
    assert "do not belong together" in one_error(run_bench(*pair, "--e2e", "64x64", "-t", "1", "-o", "csv"))


def _limit(kind: str, n_bytes: int) -> Callable[[], None]:
    import resource

    def apply() -> None:
        resource.setrlimit(getattr(resource, kind), (n_bytes, n_bytes))

    return apply


def test_too_little_memory(tmp_path: Path) -> None:
    """Said before anything is written or allocated."""
    result = subprocess.run(
        [bench.program(), "--synthetic", "3b"], capture_output=True, text=True, timeout=60,
        env=bench.environment() | {"TMPDIR": str(tmp_path)}, preexec_fn=_limit("RLIMIT_AS", 1 << 30),
    )  # fmt: skip
    text = one_error(result)
    assert re.match(
        r"--synthetic 3b: 1\.90 GiB of memory for the weights and 160\.0 MiB for the KV cache", text
    )
    assert not list(tmp_path.iterdir())


def test_full_disk(tmp_path: Path) -> None:
    result = subprocess.run(
        [bench.program(), "--synthetic", "demo"], capture_output=True, text=True, timeout=60,
        env=bench.environment() | {"TMPDIR": str(tmp_path)}, preexec_fn=_limit("RLIMIT_FSIZE", 1 << 20),
    )  # fmt: skip
    assert "choose another directory with --synthetic-dir or TMPDIR" in one_error(result)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            arguments("bench", *SMALL), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert one_error(result) == "cannot write the results: No space left on device"


def test_directories_that_cannot_be_used(run_bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert (
        one_error(run_bench("--synthetic", "demo", "--synthetic-dir", file / "x"))
        == f"{file}/x: Not a directory"
    )
    result = subprocess.run(
        [bench.program()], capture_output=True, text=True, timeout=60,
        env=bench.environment() | {"TMPDIR": "/proc"},
    )  # fmt: skip
    assert re.match(
        r"/proc: cannot make a directory there \(.*\); choose another with --synthetic-dir", one_error(result)
    )
    assert one_error(run_bench("--json", tmp_path / "no" / "x.json")).endswith(
        "x.json: No such file or directory"
    )


def test_system_that_tells_nothing() -> None:
    """Neither /proc nor /sys to read: figures all the same, and n/a for what is unknown."""
    hide = "mount -t tmpfs none /sys && mount -t tmpfs none /proc && exec"
    shell = f'{hide} "$0" -p 4 -t 1 -r 2 --image 64x64'
    environment = bench.environment()  # without /proc the loader knows no $ORIGIN
    environment["LD_LIBRARY_PATH"] += f":{bench.program().parents[1] / 'lib'}"
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell, str(bench.program())], capture_output=True, text=True,
        timeout=60, env=environment,
    )  # fmt: skip
    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip(f"no namespaces of our own here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert "CPU: unknown CPU; " in result.stdout
    assert "frequency in the last test: n/a; temperature: n/a" in result.stdout


# ------------------------------------------------------------------------------------- compare and figures


def write_rows(path: Path, *changes: dict[str, Any]) -> Path:
    base = {"test": "pp8", "avg_ms": 10.0, "stddev_ms": 0.5, "n_threads": 1, "chunk": 128, "tile_batch": 4,
            "cpu": "Some CPU", "n_cores": 8, "model_type": "llama", "mmproj_type": ""}  # fmt: skip
    path.write_text(json.dumps([base | change for change in changes]))
    return path


def test_compare(tmp_path: Path, run_command: Bench) -> None:
    a = write_rows(tmp_path / "a.json", {}, {"chunk": 32, "avg_ms": 30.0}, {"test": "tg2", "avg_ms": 4.0})
    b = write_rows(tmp_path / "b.json", {"chunk": 32, "avg_ms": 60.0, "cpu": "Other"},
                   {"avg_ms": 4.0, "cpu": "Other"}, {"test": "tg9", "cpu": "Other"})  # fmt: skip
    result = run_command("compare", a, b)
    assert result.stderr == "" and result.stdout.splitlines() == [
        "cpu: A Some CPU, B Other",
        "",
        "| test | chunk | A ms | B ms | A / B |",
        "|-|-|-:|-:|-:|",
        "| pp8 | 128 | 10.00 | 4.00 | 2.50 |",
        "| pp8 | 32 | 30.00 | 60.00 | 0.50 |",
        "| tg2 | 128 | 4.00 |  |  |",
        "| tg9 | 128 |  | 10.00 |  |",
    ]


def test_compare_reads_what_the_program_writes(tmp_path: Path, run_bench: Bench, run_command: Bench) -> None:
    saved, lines = tmp_path / "a.json", tmp_path / "b.jsonl"
    result = run_bench(*SMALL, "--json", saved, "-o", "jsonl")
    lines.write_text(result.stdout)
    assert bench.read(saved) == bench.read(lines)
    table = run_command("compare", saved, lines).stdout
    assert "| pp8 | " in table and "| - load_llm | " in table and "| 1.00 |" in table


@pytest.mark.parametrize("text", ["", "[]", "{", "[1]", '[{"test": "pp8"}]', "not json"])
def test_compare_refuses(tmp_path: Path, run_command: Bench, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    assert one_error(run_command("compare", file, file)).startswith(f"{file}: no")


def test_plot(tmp_path: Path, run_command: Bench) -> None:
    pytest.importorskip("matplotlib")
    file = write_rows(
        tmp_path / "sweep.json", *[{"chunk": c, "avg_ms": 1e4 / c} for c in (32, 128, 512)],
        *[{"test": "img 768x1536", "mmproj_type": "v", "tile_batch": b} for b in (1, 2, 4)],
    )  # fmt: skip
    out = tmp_path / "figure.png"
    result = run_command("--plot", out, file)
    assert result.returncode == 0, result.stderr
    with Image.open(out) as figure:
        assert figure.format == "PNG" and figure.width > figure.height  # two panels
    measured = tmp_path / "measured.png"
    few = ("-p", "64", "-r", "1", "-t", "1", "--no-warmup")
    result = run_command("--sweep", "chunk", *few, "--plot", measured)
    assert result.returncode == 0 and "| pp64 " in result.stdout, result.stderr
    with Image.open(measured) as figure:
        assert figure.format == "PNG"


@pytest.mark.parametrize("lacking", ["test", "avg_ms", "stddev_ms", "cpu", "n_cores", "chunk", "tile_batch"])
def test_results_that_lack_something(lacking: str, tmp_path: Path, run_command: Bench) -> None:
    """One line, whoever reads the file; no KeyError while drawing."""
    file = write_rows(tmp_path / "thin.json", {"chunk": 32}, {"chunk": 64})
    rows = json.loads(file.read_text())
    del rows[1][lacking]
    file.write_text(json.dumps(rows))
    for command in (("--plot", tmp_path / "x.png", file), ("compare", file, file)):
        assert one_error(run_command(*command)) == f"{file}: no results of bluelm-bench in it"
    assert not (tmp_path / "x.png").exists()


def test_plot_refuses(tmp_path: Path, run_command: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    file = write_rows(tmp_path / "one.json", {})
    assert "ends in .png or .svg" in one_error(run_command("--plot", tmp_path / "x.jpg", file))
    assert "there is no directory" in one_error(run_command("--plot", tmp_path / "no" / "x.png", file))
    assert one_error(run_command("--plot", tmp_path / "x.png", file)).startswith("no sweep among the results")
    assert not (tmp_path / "x.png").exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bench.BenchError, match=r"pip install 'bluelm-gguf\[plot\]'"):
        bench.plot(bench.read(file), tmp_path / "x.png")


def test_help_and_version(run_bench: Bench, run_command: Bench) -> None:
    result = run_command("--help")
    assert result.returncode == 0 and result.stdout.endswith(run_bench("-h").stdout)
    assert "bench compare" in result.stdout and "--synthetic demo|0.5b|3b" in result.stdout
    assert run_bench("--version").stdout.startswith("bluelm-bench ")
