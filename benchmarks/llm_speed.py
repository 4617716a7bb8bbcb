"""Prefill and decode of a language model: our kernels against llama.cpp's own, alternating in one process.

    python benchmarks/llm_speed.py MODEL.gguf [-t 2] [-p 512,2048] [-n 32] [-d 512] [-r 3] [--llama-bench P]

Both sides run the same llama.cpp (the one in llama-cpp-python) through its C API on the same file; only the
matmul kernels differ. A round measures, for each side in turn: prefill of the prompt lengths of -p, and -n
tokens decoded behind a prompt of -d tokens. Printed are medians over -r rounds, the ratio, and for decoding
the share of the read bandwidth measured between the rounds: bytes of weights that a token reads (all matrices
but the embedding) over time and bandwidth. With --llama-bench that program takes its turn in every round.
On a machine that does other work as well, -t 1 --cpu-time counts this process's time only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from bluelm_gguf.gguf.head import read_head
from bluelm_gguf.native import library as _native


def read_bandwidth(n_threads: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """GB/s of n_threads reading 256 MB each from end to end (the best of 4 passes)."""
    blocks = [np.ones(256 << 17, dtype=np.int16) for _ in range(n_threads)]
    best = 0.0
    for _ in range(4):
        threads = [threading.Thread(target=np.bitwise_or.reduce, args=(b,)) for b in blocks]
        start = clock()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        best = max(best, sum(b.nbytes for b in blocks) / (clock() - start) / 1e9)
    return best


class Side:
    """One loaded model and context."""

    def __init__(self, path: str, n_ctx: int, n_ubatch: int, n_threads: int, kernels: bool) -> None:
        import llama_cpp as lc

        self.lc, lib = lc, _native.load()
        _native.check(lib.bluelm_llm_kernels_register())
        _native.check(lib.bluelm_llm_kernels_enable(kernels))
        params = lc.llama_model_default_params()
        params.n_gpu_layers = 0
        start = time.perf_counter()
        self.model = lc.llama_model_load_from_file(path.encode(), params)
        self.load_s = time.perf_counter() - start
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp cannot load it")
        self.n_vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self.model))
        context = lc.llama_context_default_params()
        context.n_ctx = n_ctx
        context.n_batch = n_ctx
        context.n_ubatch = n_ubatch
        context.n_threads = context.n_threads_batch = n_threads
        self.ctx = lc.llama_init_from_model(self.model, context)
        self.rng = np.random.default_rng(1)
        self.clock = time.perf_counter

    def decode(self, n: int) -> float:
        """Seconds for a batch of n random tokens."""
        tokens = self.rng.integers(0, self.n_vocab, n, dtype=np.int32)
        batch = self.lc.llama_batch_get_one(tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), n)
        start = self.clock()
        if self.lc.llama_decode(self.ctx, batch):
            raise SystemExit("llama_decode failed")
        self.lc.llama_synchronize(self.ctx)
        return self.clock() - start

    def clear(self) -> None:
        self.lc.llama_memory_clear(self.lc.llama_get_memory(self.ctx), False)

    def prefill(self, n: int) -> float:
        """Tokens per second of a prompt of n."""
        self.clear()
        return n / self.decode(n)

    def generate(self, n: int, depth: int) -> float:
        """Tokens per second of n tokens one by one, behind a prompt."""
        self.clear()
        if depth:
            self.decode(depth)
        return n / sum(self.decode(1) for _ in range(n))


def streamed_bytes(path: str) -> int:
    """Bytes of weights that one decoded token reads: everything but the embedding it looks up."""
    tensors = read_head(path).tensors
    names = {t.name for t in tensors}
    skip = "token_embd.weight" if "output.weight" in names else None
    return sum(t.n_bytes for t in tensors if t.name != skip)


def llama_bench(program: str, path: str, args: argparse.Namespace) -> dict[str, float]:
    """The same measurements by llama-bench."""
    command = [program, "-m", path, "-t", str(args.threads), "-p", args.prompts, "-n", "0", "-r", "1"]
    command += ["-ub", str(args.ubatch), "-o", "json"]
    rows = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    found = {f"pp{row['n_prompt']}": row["avg_ts"] for row in rows}
    command[command.index("-p") + 1], command[command.index("-n") + 1] = "0", str(args.n)
    rows = json.loads(
        subprocess.run([*command, "-d", str(args.depth)], capture_output=True, check=True).stdout
    )
    return {**found, f"tg{args.n}@{args.depth}": rows[0]["avg_ts"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-p", "--prompts", default="512,2048")
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("-d", "--depth", type=int, default=512)
    parser.add_argument("-ub", "--ubatch", type=int, default=512)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("--llama-bench", help="a llama-bench program to measure in turn as well")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of one thread instead of wall time")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    args = parser.parse_args()

    _native.load()  # before llama_cpp: both sides then wait at barriers as Model does
    import llama_cpp as lc

    quiet = lc.llama_log_callback(lambda level, text, data: None)
    lc.llama_log_set(quiet, None)
    prompts = [int(p) for p in args.prompts.split(",") if int(p)]
    if args.cpu_time and (args.threads != 1 or args.llama_bench):
        parser.error("--cpu-time is for one thread (-t 1) of this process")
    n_ctx = max([*prompts, args.n + args.depth, 32])  # 18 to warm up with
    sides = {
        name: Side(args.model, n_ctx, args.ubatch, args.threads, name == "ours") for name in ("ours", "stock")
    }
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    bandwidths = []
    clock = time.process_time if args.cpu_time else time.perf_counter
    for side in sides.values():
        if args.cpu_time:
            side.clock = time.process_time
        side.generate(2, 16)  # pages in, threads up
    for _ in range(args.rounds):
        bandwidths.append(read_bandwidth(args.threads, clock))
        for n in prompts:
            for name, side in sides.items():
                _native.load().bluelm_llm_kernels_enable(name == "ours")
                found[f"pp{n}"][name].append(side.prefill(n))
        if args.n:
            for name, side in sides.items():
                _native.load().bluelm_llm_kernels_enable(name == "ours")
                found[f"tg{args.n}@{args.depth}"][name].append(side.generate(args.n, args.depth))
        if args.llama_bench:
            for what, tps in llama_bench(args.llama_bench, args.model, args).items():
                found[what]["llama-bench"].append(tps)

    bandwidth = max(bandwidths)
    per_token = streamed_bytes(args.model)
    _native.load().bluelm_llm_kernels_enable(True)
    results: list[dict[str, Any]] = []
    for what, by_side in found.items():
        medians = {name: statistics.median(values) for name, values in by_side.items()}
        row: dict[str, Any] = {"test": what, **{k: round(v, 2) for k, v in medians.items()}}
        peer = medians.get("llama-bench", medians["stock"])
        row["ratio"] = round(medians["ours"] / peer, 2)
        if what.startswith("tg"):
            for name in medians:
                row[f"{name} % of bandwidth"] = round(medians[name] * per_token / bandwidth / 1e7, 1)
        results.append(row)
    summary = {
        "kernels": _native.llm_kernels_name(),
        "threads": args.threads,
        "bandwidth_gb_s": round(bandwidth, 1),
        "gb_per_token": round(per_token / 1e9, 3),
        "load_s": {name: round(side.load_s, 2) for name, side in sides.items()},
        "results": results,
    }
    if args.output == "json":
        print(json.dumps(summary, indent=1))
        return
    print(
        f"kernels {summary['kernels']}, {args.threads} threads, read bandwidth {bandwidth:.1f} GB/s, "
        f"{per_token / 1e9:.3f} GB per token; loaded in {summary['load_s']} s"
    )
    for row in results:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
