"""Measures what README.md, docs/benchmarks.md and docs/performance.md show, and writes it there.

    python benchmarks/run.py                     # make bench: demo shape and synthetic 3b, a few minutes
    python benchmarks/run.py --stock LLAMA_BIN   # and llama-bench and llama-mtmd-cli in turn with it
    python benchmarks/run.py --only demo         # one of the sets
    python benchmarks/run.py --report            # only the documents and figures, from files that are there
    python benchmarks/run.py --quick --stock LLAMA_BIN --models build/peers --prepare    # make the models
    python benchmarks/run.py --quick --stock LLAMA_BIN --models build/peers    # the README's figures

--quick is one run of peers/encode.py (ours, llama.cpp, OpenVINO int8), of peers/llm.py without OpenVINO, and
of compare_stock.py's memory. Figures are worth something on a quiet machine only. Results:
benchmarks/results/KIND/*.json, KIND being the kind of machine (machines.py).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machines
import report

from bluelm_gguf.cli import bench_results as bench

HERE = Path(__file__).resolve().parent

# name -> options of bluelm-bench. Few repetitions at full size: the whole has to stay within minutes.
SETS = {
    "demo": ["--synthetic", "demo", "--image", "768x1536", "-p", "512", "-n", "128", "--e2e", "768x1536"],
    "3b": ["--synthetic", "3b", "--roofline", "--image", "384x384,768x1536", "-p", "512,2048", "-n", "32",
           "--table5", "-r", "3"],
    "3b-memory": ["--synthetic", "3b", "--table5", "--vision-weights", "streamed", "-ctk", "q8_0",
                  "-ctv", "q8_0", "-r", "1"],
    "3b-depth": ["--synthetic", "3b", "--roofline", "-p", "0", "-n", "32", "-d", "0,512,2048", "-r", "2"],
    "3b-batch": ["--synthetic", "3b", "--sweep", "batch", "-r", "2"],
    "3b-chunk": ["--synthetic", "3b", "--sweep", "chunk", "-r", "2", "--no-warmup"],
}  # fmt: skip
ROUNDS = 2  # of the comparison with llama.cpp's programs: each takes them two minutes


def measure(name: str, models: Path, extra: list[str], results: Path) -> None:
    """Runs one set, its table on stdout; the file appears when it is complete."""
    print(f"## {name}\n", flush=True)
    start = time.monotonic()
    out = results / f"{name}.json"
    command = [*SETS[name], *extra, "--synthetic-dir", str(models), "--json", str(out), "--progress"]
    code = subprocess.run([bench.program(), *command], env=bench.environment()).returncode
    if code != 0:
        raise SystemExit(code)
    print(f"\n{name}: {time.monotonic() - start:.0f} s\n", flush=True)


def script(name: str, *arguments: object) -> None:
    """Runs another program of this folder."""
    print(f"## {name} {' '.join(map(str, arguments))}\n", flush=True)
    start = time.monotonic()
    code = subprocess.run([sys.executable, str(HERE / name), *map(str, arguments)]).returncode
    if code != 0:
        raise SystemExit(code)
    print(f"\n{name}: {time.monotonic() - start:.0f} s\n", flush=True)


def quick(args: argparse.Namespace, models: Path, results: Path, threads: list[str]) -> None:
    """The README's figures."""
    more = ["--prepare"] if args.prepare else []
    common = ["--models", models, *([] if not threads else ["--threads", threads[1]]), *more]
    for name, json_name, options in (
        ("peers/encode.py", "peers-encode.json", ["--torch", "--openvino", "int8", "--rounds", 2]),
        ("peers/llm.py", "peers-llm.json", ["--no-openvino"]),
    ):
        script(name, "--stock", args.stock, *options, *common, "--json", results / json_name)
    script("compare_stock.py", args.stock, "--memory-only", *common, "--json", results / "stock-3b.json")


def everything(args: argparse.Namespace, models: Path, results: Path, threads: list[str]) -> None:
    """What make bench measures."""
    for name in args.only or SETS:
        measure(name, models, threads, results)
    if args.stock is not None:
        stock = [args.stock, "--models", models, "--json", results / "stock-3b.json", *threads]
        script("compare_stock.py", *stock, "--rounds", ROUNDS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stock", type=Path, metavar="DIR", help="where llama-bench and llama-mtmd-cli are")
    parser.add_argument("--only", nargs="+", choices=SETS, help="only these sets")
    parser.add_argument("--quick", action="store_true", help="the README's figures alone; needs --stock")
    parser.add_argument("--prepare", action="store_true", help="with --quick: make the models and end")
    parser.add_argument("--models", type=Path, help="keep the random models here and use them again")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("-t", "--threads", help="as of bluelm-bench")
    args = parser.parse_args()
    if args.quick and args.stock is None:
        parser.error("--quick compares with llama.cpp: --stock DIR")
    if args.prepare and not (args.quick and args.models):
        parser.error("--prepare goes with --quick and --models")
    threads = ["-t", args.threads] if args.threads else []
    if not args.report:
        results = machines.folder()
        with tempfile.TemporaryDirectory(prefix="bluelm-bench-") as temporary:
            work = quick if args.quick else everything
            work(args, args.models or Path(temporary), results, threads)
    if not args.prepare:
        report.write()


if __name__ == "__main__":
    main()
