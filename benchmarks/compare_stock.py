"""bluelm-bench beside llama-bench and llama-mtmd-cli of the same llama.cpp, in turn, on the same machine.

    python benchmarks/compare_stock.py LLAMA_BIN_DIR [--models DIR] [-t 2] [--rounds 3] [--json OUT.json]

LLAMA_BIN_DIR holds llama-bench and llama-mtmd-cli, built from llama-cpp-python's own sources (how:
docs/benchmarks.md). The models are those of `bluelm-bench --synthetic 3b`; llama-mtmd-cli gets the same
vision tower in its own format, in F16, BF16 and Q8_0. Every round runs each program once, so that
whatever else the machine does falls on all of them; medians over the rounds are compared. The KV cache is
F16 in all of them.

Memory is the peak of the resident set of `llama-mtmd-cli` and of `bluelm-gguf run`, each with its defaults,
for the same picture, question, number of tokens, `-c 2048` and type of mmproj. --memory-only measures nothing
else and leaves the other figures of the file as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from encode_full_size import write_ours, write_stock
from PIL import Image

from bluelm_gguf.cli import bench_results as bench

Figures = dict[str, list[float]]
Memory = dict[str, float]

CONTEXT, ANSWER = 2048, 8  # tokens, in the comparison of memory
OUR_TYPES, STOCK_TYPES = ("q8_0", "bf16"), ("q8_0", "bf16", "f16")
QUESTION = ("-p", "w300 w301", "-n", ANSWER, "-c", CONTEXT, "--temp", 0)


def ours(models: Path, tests: list[str], threads: int, into: Figures) -> dict[str, Any]:
    """One run of bluelm-bench; returns a row, which names machine and build."""
    out = models / "ours.json"
    common = ["--synthetic", "3b", "--synthetic-dir", models, "-t", threads, "-r", 1, "--json", out]
    environment = bench.environment()
    speeds = [bench.program(), *common, "--image", "384x384", *tests]
    subprocess.run(list(map(str, speeds)), env=environment, check=True, stdout=subprocess.DEVNULL)
    rows = {row["test"]: row for row in bench.read(out)}
    into.setdefault("encode_ms", []).append(rows["img 384x384"]["avg_ms"])
    for name, row in rows.items():
        if name.startswith(("pp", "tg")):
            into.setdefault(name, []).append(row["avg_ts"])
    return row


def llama_bench(directory: Path, llm: Path, tests: list[str], threads: int, into: Figures) -> str:
    """One run of llama-bench; returns its build."""
    command = [directory / "llama-bench", "-m", llm, *tests, "-t", threads, "-r", 1, "-o", "json"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"llama-bench failed: {result.stderr.strip().splitlines()[-1:]}")
    rows = json.loads(result.stdout)
    for row in rows:
        name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        into.setdefault(name, []).append(row["avg_ts"])
    return str(rows[0]["build_commit"])


def peak(command: list[Any]) -> tuple[float, str]:
    """Runs a program; its peak resident set in MiB, and what it printed."""
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(
            list(map(str, command)), env=bench.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read()
    if child.returncode:
        raise SystemExit(f"{command[0]} ended with {child.returncode}: {text.strip()[-1000:]}")
    return usage.ru_maxrss / 1024, text


def llama_mtmd(directory: Path, llm: Path, mmproj: Path, picture: Path, threads: int) -> tuple[float, float]:
    """One answer of llama-mtmd-cli: its own time for the picture in ms, and its peak memory in MiB."""
    command = [directory / "llama-mtmd-cli", "-m", llm, "--mmproj", mmproj, "--image", picture, *QUESTION]
    mib, text = peak([*command, "-t", threads, "--no-warmup", "--chat-template", "vicuna"])
    found = re.findall(r"encod(?:ing done|ed) in (\d+) ms", text)
    if not found:
        raise SystemExit(f"llama-mtmd-cli told no time for the picture: {text.strip()[-1000:]}")
    return float(sum(map(int, found))), mib


def our_memory(llm: Path, mmproj: Path, picture: Path, threads: int) -> float:
    """One answer of `bluelm-gguf run`: its peak memory in MiB."""
    command = [sys.executable, "-m", "bluelm_gguf.cli.main", "run", "-m", llm, "--mmproj", mmproj]
    return peak([*command, "--image", picture, *QUESTION, "-t", threads, "--no-cache"])[0]


def write_models(models: Path) -> dict[str, Path]:
    """The picture and mmproj files of both sides, made unless they are there."""
    models.mkdir(parents=True, exist_ok=True)
    files = {"picture": models / "picture.png"}
    pixels = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(files["picture"])
    for kind in STOCK_TYPES:
        files[f"llama.cpp {kind}"] = models / f"stock-{kind}-27.gguf"  # as peers/encode.py calls it
    for kind in OUR_TYPES:
        files[f"ours {kind}"] = models / f"ours-random-{kind}.gguf"
    for name, path in files.items():
        if not path.exists():
            side, kind = name.split()
            part = models / "part.gguf"
            made = write_stock(part, kind, 27) if side == "llama.cpp" else write_ours(part, kind, 27, 2)
            made.rename(path)
    return files


def write_llm(models: Path, threads: int) -> tuple[Path, dict[str, Any]]:
    """The LLM of `--synthetic 3b`, made unless it is there, and a row that names machine and build."""
    out = models / "ours.json"
    command = [bench.program(), "--synthetic", "3b", "--synthetic-dir", models, "-t", threads, "-r", 1]
    command += ["-p", 1, "-n", 0, "--no-warmup", "--json", out]
    subprocess.run(list(map(str, command)), env=bench.environment(), check=True, stdout=subprocess.DEVNULL)
    row = bench.read(out)[0]
    return models / row["model_file"], row


def table(result: dict[str, Any]) -> str:
    """Speed as markdown."""
    lines = ["| what | llama.cpp | bluelm | bluelm / llama.cpp |", "|-|-:|-:|-:|"]
    for name in result["ours"]:
        kind, n = name[:2], name[2:]
        label, unit = f"{'prefill' if kind == 'pp' else 'generate'} {n}", "token/s"
        if name == "encode_ms":
            label, unit = f"encode one 384x384 tile ({result['stock_type'].upper()} / Q8_0)", "ms"
        stock, mine = (statistics.median(result[side][name]) for side in ("stock", "ours"))
        ratio = f"{mine / stock:.2f}x" + (" the speed" if unit != "ms" else "")
        lines.append(f"| {label} | {stock:.4g} {unit} | {mine:.4g} {unit} | {ratio} |")
    return "\n".join(lines)


def memory_table(result: dict[str, Any]) -> str:
    """Peak memory as markdown, by type of the mmproj."""
    memory = result["memory_mib"]
    lines = ["| mmproj | llama.cpp | bluelm | bluelm / llama.cpp |", "|-|-:|-:|-:|"]
    for kind in STOCK_TYPES:
        stock, mine = memory.get(f"llama.cpp {kind}"), memory.get(f"ours {kind}")
        cells = [f"{value:.0f} MiB" if value else "" for value in (stock, mine)]
        ratio = f"{mine / stock:.2f}x" if mine and stock else ""
        lines.append(f"| {kind.upper()} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def measure_memory(args: argparse.Namespace, llm: Path, files: dict[str, Path], encode: Figures) -> Memory:
    """Peak memory in MiB of both sides with each type of mmproj; llama.cpp's times go into `encode`."""
    found: Memory = {}
    for name, path in files.items():
        if name.startswith("llama.cpp"):
            ms, found[name] = llama_mtmd(args.llama_bin_dir, llm, path, files["picture"], args.threads)
            encode.setdefault(name.split()[1], []).append(ms)
        elif name.startswith("ours"):
            found[name] = our_memory(llm, path, files["picture"], args.threads)
        if name in found:
            print(f"{name}: {found[name]:.0f} MiB", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("llama_bin_dir", type=Path)
    parser.add_argument("--models", type=Path, help="keep the random models here and use them again")
    parser.add_argument("-p", "--prompt", default="512,2048", help="tokens of prefill, separated by commas")
    parser.add_argument("-n", "--gen", type=int, default=32, help="tokens to generate")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--memory-only", action="store_true", help="measure nothing but memory")
    parser.add_argument("--prepare", action="store_true", help="make the models, measure nothing")
    args = parser.parse_args()
    for name in ("llama-bench", "llama-mtmd-cli"):
        if not (args.llama_bin_dir / name).is_file():
            parser.error(f"{args.llama_bin_dir}: there is no {name} in it")
    with tempfile.TemporaryDirectory() as temporary:
        models = args.models or Path(temporary)
        files = write_models(models)
        llm, row = write_llm(models, args.threads)
        if not args.prepare:
            measure(args, models, llm, files, row)


def measure(
    args: argparse.Namespace, models: Path, llm: Path, files: dict[str, Path], row: dict[str, Any]
) -> None:
    """Measures, prints, and writes the file."""
    machine = {
        name: row[name] for name in ("cpu", "cpu_level", "n_cores", "build", "n_threads", "llm_kernels")
    }
    result: dict[str, Any] = {**machine, "ours": {}, "stock": {}}
    if args.memory_only and args.json is not None and args.json.exists():
        before = json.loads(args.json.read_text(encoding="utf-8"))
        if before["cpu"] == row["cpu"] and before["n_threads"] == row["n_threads"]:
            result = before
    encode: Figures = {}
    memory: list[Memory] = []
    mine: Figures = {}
    stock: Figures = {}
    tests = ["-p", args.prompt, "-n", str(args.gen)]
    for round_index in range(1 if args.memory_only else args.rounds):
        print(f"round {round_index + 1}", file=sys.stderr)
        if not args.memory_only:
            ours(models, tests, args.threads, mine)
            result["llama_cpp_commit"] = llama_bench(args.llama_bin_dir, llm, tests, args.threads, stock)
        memory.append(measure_memory(args, llm, files, encode))
    if not args.memory_only:
        best = min(encode, key=lambda kind: statistics.median(encode[kind]))
        result |= {"ours": mine, "stock": stock | {"encode_ms": encode[best]}, "stock_type": best}
    result["memory_mib"] = {name: statistics.median(one[name] for one in memory) for name in memory[0]}
    print(f"{table(result)}\n\n{memory_table(result)}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        part = args.json.with_suffix(".part")
        part.write_text(json.dumps(result, indent=2) + "\n")
        part.replace(args.json)


if __name__ == "__main__":
    main()
