"""bluelm-bench beside llama-bench and llama-mtmd-cli of the same llama.cpp, in turn, on the same machine.

    python benchmarks/compare_stock.py LLAMA_BIN_DIR [--models DIR] [-t 2] [--rounds 3] [--json OUT.json]

LLAMA_BIN_DIR holds llama-bench and llama-mtmd-cli, built from llama-cpp-python's own sources (how:
docs/benchmarks.md). The models are those of `bluelm-bench --synthetic 3b`; llama-mtmd-cli gets the same
vision tower in its own format, in BF16. Every round runs each program once, so that
whatever else the machine does falls on all of them; medians over the rounds are compared. The KV cache is
F16 in all of them.
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
from encode_full_size import write_stock
from PIL import Image

from bluelm_gguf.cli import bench_results as bench

Figures = dict[str, list[float]]

LABELS = {
    "encode_ms": ("encode one 384x384 tile", "ms"),
    "peak_rss": ("peak RSS, one tile and an answer", "MiB"),
}


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
    answer = [bench.program(), *common, "--e2e", "384x384", "--e2e-prompt", 16, "--e2e-gen", 8, "--no-warmup"]
    subprocess.run(list(map(str, answer)), env=environment, check=True, stdout=subprocess.DEVNULL)
    row = bench.read(out)[-1]
    into.setdefault("peak_rss", []).append(row["peak_rss"] / 2**20)
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


def llama_mtmd(directory: Path, llm: Path, mmproj: Path, picture: Path, threads: int, into: Figures) -> None:
    """One answer of llama-mtmd-cli: its own time for the picture, and its peak memory."""
    command = [
        directory / "llama-mtmd-cli", "-m", llm, "--mmproj", mmproj, "--image", picture, "-p", "w300 w301",
        "-n", 8, "-t", threads, "-c", 2048, "--temp", 0, "--no-warmup", "--chat-template", "vicuna",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        log.seek(0)
        text = log.read()
    found = re.findall(r"encod(?:ing done|ed) in (\d+) ms", text)
    if status != 0 or not found:
        raise SystemExit(f"llama-mtmd-cli failed: {text.strip().splitlines()[-1:]}")
    into.setdefault("encode_ms", []).append(sum(map(float, found)))
    into.setdefault("peak_rss", []).append(usage.ru_maxrss / 1024)


def table(result: dict[str, Any]) -> str:
    """The comparison as markdown."""
    lines = ["| what | llama.cpp | bluelm | bluelm / llama.cpp |", "|-|-:|-:|-:|"]
    for name in result["ours"]:
        kind, n = name[:2], name[2:]
        label, unit = LABELS.get(name, (f"{'prefill' if kind == 'pp' else 'generate'} {n}", "token/s"))
        stock, mine = (statistics.median(result[side][name]) for side in ("stock", "ours"))
        ratio = f"{mine / stock:.2f}x" + (" the speed" if name not in LABELS else "")
        lines.append(f"| {label} | {stock:.4g} {unit} | {mine:.4g} {unit} | {ratio} |")
    return "\n".join(lines)


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
    args = parser.parse_args()
    for name in ("llama-bench", "llama-mtmd-cli"):
        if not (args.llama_bin_dir / name).is_file():
            parser.error(f"{args.llama_bin_dir}: there is no {name} in it")
    with tempfile.TemporaryDirectory() as temporary:
        models = args.models or Path(temporary)
        models.mkdir(parents=True, exist_ok=True)
        stock_mmproj, picture = models / "stock-mmproj-bf16.gguf", models / "picture.png"
        if not stock_mmproj.exists():
            write_stock(models / "part.gguf", "bf16", 27).rename(stock_mmproj)
        pixels = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture)
        tests = ["-p", args.prompt, "-n", str(args.gen)]
        mine: Figures = {}
        stock: Figures = {}
        for round_index in range(args.rounds):
            print(f"round {round_index + 1} of {args.rounds}", file=sys.stderr)
            row = ours(models, tests, args.threads, mine)
            llm = models / row["model_file"]
            commit = llama_bench(args.llama_bin_dir, llm, tests, args.threads, stock)
            llama_mtmd(args.llama_bin_dir, llm, stock_mmproj, picture, args.threads, stock)
    machine = {
        name: row[name] for name in ("cpu", "cpu_level", "n_cores", "build", "n_threads", "llm_kernels")
    }
    result = {**machine, "llama_cpp_commit": commit, "ours": mine, "stock": stock}
    print(table(result))
    if args.json:
        part = args.json.with_suffix(".part")
        part.write_text(json.dumps(result, indent=2) + "\n")
        part.replace(args.json)


if __name__ == "__main__":
    main()
