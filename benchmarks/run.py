"""Measures what docs/benchmarks.md shows, and writes it there.

    python benchmarks/run.py                     # make bench: demo shape and synthetic 3b, a few minutes
    python benchmarks/run.py --stock LLAMA_BIN   # and llama-bench and llama-mtmd-cli in turn with it
    python benchmarks/run.py --only demo         # one of the sets
    python benchmarks/run.py --report            # only the document and figures, from files that are there

Figures are worth something on a quiet machine only. Results: benchmarks/results/*.json, a file for each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

from bluelm_gguf.cli import bench_results as bench

RESULTS = Path(__file__).resolve().parent / "results"

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


def measure(name: str, models: Path, extra: list[str]) -> None:
    """Runs one set, its table on stdout; the file appears when it is complete."""
    print(f"## {name}\n", flush=True)
    start = time.monotonic()
    out = RESULTS / f"{name}.json"
    command = [*SETS[name], *extra, "--synthetic-dir", str(models), "--json", str(out), "--progress"]
    code = subprocess.run([bench.program(), *command], env=bench.environment()).returncode
    if code != 0:
        raise SystemExit(code)
    print(f"\n{name}: {time.monotonic() - start:.0f} s\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stock", type=Path, metavar="DIR", help="where llama-bench and llama-mtmd-cli are")
    parser.add_argument("--only", nargs="+", choices=SETS, help="only these sets")
    parser.add_argument("--models", type=Path, help="keep the random models here and use them again")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("-t", "--threads", help="as of bluelm-bench")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    threads = ["-t", args.threads] if args.threads else []
    if not args.report:
        with tempfile.TemporaryDirectory(prefix="bluelm-bench-") as temporary:
            models = args.models or Path(temporary)
            for name in args.only or SETS:
                measure(name, models, threads)
            if args.stock is not None:
                script = Path(__file__).with_name("compare_stock.py")
                stock = [args.stock, "--models", models, "--json", RESULTS / "stock-3b.json", *threads]
                stock += ["--rounds", str(ROUNDS)]
                subprocess.run([sys.executable, script, *map(str, stock)], check=True)
    report.write()


if __name__ == "__main__":
    main()
