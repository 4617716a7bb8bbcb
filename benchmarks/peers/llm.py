"""Prefill and decode of the language model: ours, llama.cpp's and OpenVINO's, in turn.

    make bench-peers
    python benchmarks/peers/llm.py --stock build/stock/bin --models build/peers

A Llama of BlueLM-V-3B's width (hidden 2560, FFN 6912) with --layers of its 32 layers, so that OpenVINO's
float copy fits into memory while it is quantised; Q4_0 for us and llama.cpp, int4 in groups of 32 for
OpenVINO. Every contender is a process of its own and works in its turn. llama.cpp is llama-bench of --stock
(or --llama-bench), else the one in llama-cpp-python with our kernels off. The times go to
benchmarks/results/KIND/peers-llm.json, with read bandwidth and peaks measured in the same rounds. llama-bench
on the whole model: make bench.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from runner import HERE, Contender, best_limits, converter, limits, save, take_turns, versions

sys.path.insert(0, str(HERE.parent))
import machines
import peers_report
from llm_speed import streamed_bytes


def make_model(directory: Path, layers: int) -> tuple[Path, Path]:
    """A random checkpoint's config.json, and its LLM as Q4_0, unless they are there."""
    config, llm = directory / f"llm-{layers}.json", directory / f"llm-{layers}-q4_0-{converter()}.gguf"
    if config.exists() and llm.exists():
        return config, llm
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        checkpoint, out = Path(temporary) / "checkpoint", Path(temporary) / "gguf"
        script = HERE.parents[1] / "scripts" / "make_random_checkpoint.py"
        sizes = ["--layers", str(layers), "--vision-layers", "1"]
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([sys.executable, str(script), str(checkpoint), *sizes], **quiet)
        convert = ["convert", str(checkpoint), "-o", str(out), "--llm-only", "--llm-type", "q4_0"]
        subprocess.run([sys.executable, "-m", "bluelm_gguf.cli.main", *convert], **quiet)
        (file,) = out.glob("*.gguf")
        (checkpoint / "config.json").rename(config)
        file.rename(llm)
    return config, llm


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stock", type=Path, metavar="DIR", help="where llama-bench is")
    parser.add_argument("--llama-bench", type=Path, metavar="PROGRAM", help="the program itself")
    parser.add_argument("--models", type=Path, help="keep the random models here and use them again")
    parser.add_argument("--append", action="store_true", help="a further run beside those in the file")
    parser.add_argument("--prepare", action="store_true", help="make the models, measure nothing")
    parser.add_argument("--smoke", action="store_true", help="two layers, one round: does it work?")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefill", nargs="+", type=int, default=[512, 2048])
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--depth", type=int, default=512, help="tokens in the cache before those decoded")
    parser.add_argument("--no-openvino", action="store_true")
    parser.add_argument("--json", type=Path, help="write this file instead")
    args = parser.parse_args()
    if args.smoke:
        args.layers, args.rounds = 2, 1
        if args.json is None:
            parser.error("--smoke needs --json: its figures are none for the documents")
    program = args.llama_bench or (args.stock / "llama-bench" if args.stock else None)
    if program is not None and not program.is_file():
        parser.error(f"there is no {program}")
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.models or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        config, llm = make_model(directory, args.layers)
        common = (llm, args.threads, args.depth)
        if args.prepare and args.no_openvino:
            return
        contenders = [Contender("ours Q4_0", "contender_llm.py", *common, 1)]
        if program is None:
            contenders.append(Contender("llama.cpp Q4_0", "contender_llm.py", *common, 0))
        else:
            contenders.append(Contender("llama-bench Q4_0", "contender_llama_bench.py", program, *common))
        if not args.no_openvino:
            rest = (config, args.threads, args.depth, directory)
            contenders.append(Contender("OpenVINO int4", "contender_openvino_llm.py", *rest))
        if args.prepare:
            for contender in contenders:
                contender.close()
            return
        rows = [limits(args.threads)]
        for work in [*(f"prefill {n}" for n in args.prefill), f"decode {args.decode}"]:
            take_turns(contenders, work, args.rounds)
            rows.append(limits(args.threads))
        for contender in contenders:
            contender.close()
        bytes_per_token = streamed_bytes(str(llm))
    run = {
        "setting": {"layers": args.layers, "depth": args.depth, "bytes_per_token": bytes_per_token},
        "versions": versions("torch", "transformers", "openvino", "nncf"),
        "kernels": rows[0]["llm_kernels"],
        "limits": best_limits(rows),
        "times_ms": {c.name: c.times for c in contenders},
    }
    print(
        peers_report.peers_llm(
            save(args.json or machines.folder() / "peers-llm.json", rows[0], run, append=args.append)
        )
    )


if __name__ == "__main__":
    main()
