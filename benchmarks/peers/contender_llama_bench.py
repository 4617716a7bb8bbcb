"""llama-bench: python contender_llama_bench.py PROGRAM LLM.gguf THREADS DEPTH.

Each call runs the program once: one repetition after its own warm-up, with its default batches (2048
tokens in steps of 512).
"""

import json
import subprocess
import sys

from contender import serve_llm

program, llm, threads, depth = sys.argv[1:5]


def run(*test: str) -> float:
    """Milliseconds of one test."""
    command = [program, "-m", llm, "-t", threads, "-r", "1", "-o", "json", *test]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"llama-bench ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    (row,) = json.loads(done.stdout)
    return float(row["avg_ns"]) / 1e6


serve_llm(
    lambda n: run("-p", str(n), "-n", "0"),
    lambda n: run("-p", "0", "-n", str(n), "-d", depth),
)
