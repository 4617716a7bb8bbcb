"""Prefill and decode of the language model: ours, llama.cpp's and OpenVINO's, in turn.

    python benchmarks/peers/llm.py --layers 8 --rounds 3

A Llama of BlueLM-V-3B's width (hidden 2560, FFN 6912) with --layers of its 32 layers, so that OpenVINO's
float copy fits into memory while it is quantised; Q4_0 for us and llama.cpp, int4 in groups of 32 for
OpenVINO. Every contender is a process of its own and works in its turn; medians over the rounds, in tokens
per second of this shortened model. llama-bench on the whole model: benchmarks/llm_speed.py.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from runner import HERE, Contender, take_turns


def make_model(directory: Path, layers: int) -> tuple[Path, Path]:
    """A random checkpoint's config.json, and its LLM as Q4_0."""
    checkpoint, out = directory / "checkpoint", directory / "gguf"
    script = HERE.parents[1] / "scripts" / "make_random_checkpoint.py"
    sizes = ["--layers", str(layers), "--vision-layers", "1"]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, str(script), str(checkpoint), *sizes], **quiet)
    convert = ["convert", str(checkpoint), "-o", str(out), "--llm-only", "--llm-type", "q4_0"]
    subprocess.run([sys.executable, "-m", "bluelm_gguf.cli", *convert], **quiet)
    (llm,) = out.glob("*.gguf")
    return checkpoint / "config.json", llm


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefill", nargs="+", type=int, default=[512, 2048])
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--no-openvino", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        config, llm = make_model(Path(directory), args.layers)
        contenders = [
            Contender("llama.cpp Q4_0", "contender_llm.py", llm, args.threads, 0),
            Contender("ours Q4_0", "contender_llm.py", llm, args.threads, 1),
        ]
        if not args.no_openvino:
            contenders.append(Contender("OpenVINO int4", "contender_openvino_llm.py", config, args.threads))
        works = {f"prefill {n}": n for n in args.prefill} | {f"decode {args.decode}": args.decode}
        take_turns(contenders, list(works), args.rounds)
    print(f"\n{args.threads} threads, {args.layers} layers, median of {args.rounds}, tokens per second\n")
    print("| | " + " | ".join(f"{work} | / llama.cpp" for work in works) + " |")
    print("|---" * (1 + 2 * len(works)) + "|")

    def speed(contender: Contender, work: str) -> float:
        return 1e3 * works[work] / statistics.median(contender.times[work])

    for c in contenders:
        cells = [
            f"{speed(c, work):.1f} | {speed(c, work) / speed(contenders[0], work):.2f}" for work in works
        ]
        print(f"| {c.name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
