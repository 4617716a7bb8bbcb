"""Encoding a tile at full size: ours, llama.cpp's, PyTorch's and OpenVINO's, in turn; and how close each is.

    make bench-peers
    python benchmarks/peers/encode.py --stock build/stock/bin --models build/peers
    python benchmarks/peers/encode.py --fidelity --models build/peers

SigLIP-so400m/14-384 and a two-layer MLP with random weights, the same ones for everybody who takes them
(llama.cpp's file has random ones of the same shapes: only its time is used). Every contender is a process
of its own; they are started one after the other, then each round gives every one of them the same work in
turn. llama.cpp is llama-mtmd-cli of --stock, else libmtmd as llama-cpp-python has it; its best type alone
takes part where there are several tiles. The times go to benchmarks/results/peers-encode.json, with the
machine's peaks measured in the same run. Needs torch, transformers, openvino, nncf (pip install ".[peers]").

--fidelity measures the cosine of the features to PyTorch's in float32 instead, mean and worst over the tokens
of one tile (peers-fidelity.json). --outliers multiplies a few channels of every LayerNorm, as large models
grow them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from runner import HERE, Contender, best_limits, converter, limits, save, take_turns, versions

sys.path.insert(0, str(HERE.parent))
import machines
import peers_report

OURS = ("q8_0", "bf16")
STOCK = ("f16", "bf16", "q8_0")
OPENVINO = ("bf16", "int8", "int8-bf16", "int4")


def convert(directory: Path, layers: int, outliers: float, types: list[str]) -> dict[str, Path]:
    """Our files of the common network, made by our converter unless they are there."""
    made = {kind: directory / f"ours-{kind}-{layers}-{outliers:g}-{converter()}.gguf" for kind in types}
    if all(path.exists() for path in made.values()):
        return made
    from network import network, save_checkpoint

    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        checkpoint = Path(temporary) / "checkpoint"
        save_checkpoint(network(layers, outliers), checkpoint)
        for kind, path in made.items():
            out = Path(temporary) / kind
            command = ["convert", checkpoint, "-o", out, "--vision-only", "--mmproj-type", kind]
            subprocess.run([sys.executable, "-m", "bluelm_gguf.cli.main", *map(str, command)], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            (file,) = out.glob("*.gguf")
            file.rename(path)
    return made


def stock_contenders(args: argparse.Namespace, directory: Path) -> list[Contender]:
    """llama.cpp with each type of file."""
    from encode_full_size import write_stock, write_thin_llm, write_vocabulary

    made = []
    for kind in args.stock_types:
        path = directory / f"stock-{kind}-{args.layers}.gguf"
        if not path.exists():
            write_stock(directory / "part.gguf", kind, args.layers).rename(path)
        if args.stock is None:
            rest = (write_vocabulary(directory / "vocabulary.gguf"), args.threads)
            made.append(Contender(f"llama.cpp {kind}", "contender_stock.py", path, *rest))
        else:
            program, llm = args.stock / "llama-mtmd-cli", write_thin_llm(directory / "thin-llm.gguf")
            made.append(Contender(f"llama.cpp {kind}", "contender_mtmd.py", program, path, llm, args.threads))
    return made


def equal_levels(args: argparse.Namespace) -> list[str]:
    """Levels below the machine's at which our encoder takes part, too.

    With AMX that is AVX-512, unless said otherwise: llama.cpp's own programs are built without AMX where the
    compiler breaks it (scripts/build_stock.py).
    """
    if args.levels is not None:
        return list(args.levels)
    return ["avx512-vnni"] if args.ours and limits(args.threads)["cpu_level"] == "amx" else []


def speed(args: argparse.Namespace, directory: Path) -> None:
    """Measures, and adds a run to the file."""
    files = convert(directory, args.layers, 1.0, args.ours)
    ours = [
        Contender(f"ours {kind}", "contender_ours.py", path, args.threads) for kind, path in files.items()
    ]
    for level in equal_levels(args):
        name, kind = f"ours {args.ours[0]} at {level}", args.ours[0]
        ours.append(Contender(name, "contender_ours.py", files[kind], args.threads, level=level))
    stock = stock_contenders(args, directory)
    common = (args.threads, args.layers, 1.0)
    others = [Contender(f"PyTorch {kind}", "contender_torch.py", kind, *common) for kind in args.torch]
    for kind in args.openvino:
        others.append(Contender(f"OpenVINO {kind}", "contender_openvino.py", kind, *common, directory))
    everybody, taking_part = [*ours, *stock, *others], stock
    rows = [limits(args.threads)]
    for n in sorted(args.tiles):
        take_turns([*ours, *taking_part, *others], str(n), args.rounds)
        taking_part = sorted(stock, key=lambda c: statistics.median(c.times[str(min(args.tiles))]))[:1]
        rows.append(limits(args.threads))
    for contender in everybody:
        contender.close()
    run = {
        "setting": {"layers": args.layers, "stock": "libmtmd" if args.stock is None else "llama-mtmd-cli"},
        "versions": versions("torch", "transformers", "openvino", "nncf"),
        "limits": best_limits(rows),
        "times_ms": {c.name: c.times for c in everybody},
    }
    print(
        peers_report.peers_encode(
            save(args.json or machines.folder() / "peers-encode.json", rows[0], run, append=args.append)
        )
    )


def prepare(args: argparse.Namespace, directory: Path) -> None:
    """Makes every model: who makes its own does so before it is ready."""
    convert(directory, args.layers, 1.0, args.ours)
    for contender in stock_contenders(args, directory):
        contender.close()
    for kind in args.openvino:
        rest = (kind, args.threads, args.layers, 1.0, directory)
        Contender(f"OpenVINO {kind}", "contender_openvino.py", *rest).close()


def fidelity(args: argparse.Namespace, directory: Path) -> None:
    """Compares, and writes the file."""
    found = []
    for outliers in args.outliers:
        files = convert(directory, args.layers, outliers, args.ours)
        common = (args.threads, args.layers, outliers)

        def features(name: str, script: str, *arguments: object) -> np.ndarray:
            contender = Contender(name, script, *arguments)
            path = directory / "features.npy"
            contender.tell(f"save {path}", "saved")
            contender.close()
            return np.load(path)[0].astype(np.float64)  # [729, 2560]

        reference = features("PyTorch f32", "contender_torch.py", "f32", *common)
        rows = [(f"ours {kind}", "contender_ours.py", (path, args.threads)) for kind, path in files.items()]
        rows += [(f"PyTorch {kind}", "contender_torch.py", (kind, *common)) for kind in args.torch]
        rows += [
            (f"OpenVINO {kind}", "contender_openvino.py", (kind, *common, directory))
            for kind in args.openvino
        ]
        for name, script, arguments in rows:
            made = features(name, script, *arguments)
            lengths = np.linalg.norm(made, axis=1) * np.linalg.norm(reference, axis=1)
            cosine = (made * reference).sum(axis=1) / lengths
            found.append({"outliers": outliers, "name": name, "mean": cosine.mean(), "worst": cosine.min()})
            print(f"x{outliers:g}, {name}: {cosine.mean():.6f}", file=sys.stderr, flush=True)
    run = {
        "setting": {"layers": args.layers},
        "versions": versions("torch", "transformers", "openvino", "nncf"),
        "cosines": found,
    }
    path = args.json or machines.folder() / "peers-fidelity.json"
    print(peers_report.peers_fidelity(save(path, limits(args.threads), run, append=False)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stock", type=Path, metavar="DIR", help="where llama-mtmd-cli is")
    parser.add_argument("--models", type=Path, help="keep the random models here and use them again")
    parser.add_argument("--append", action="store_true", help="a further run beside those in the file")
    parser.add_argument("--smoke", action="store_true", help="one tile, one round, two layers: does it work?")
    parser.add_argument("--prepare", action="store_true", help="make the models, measure nothing")
    parser.add_argument("--levels", nargs="*", help="CPU levels at which our first type takes part, too")
    parser.add_argument("--tiles", nargs="+", type=int, default=[1, 9])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=27, help="fewer for a quick look")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", nargs="*", default=list(OURS), help="types of our mmproj")
    parser.add_argument("--stock-types", nargs="*", default=list(STOCK), help="types of llama.cpp's mmproj")
    parser.add_argument("--torch", nargs="*", default=["bf16"])
    parser.add_argument("--openvino", nargs="*", default=list(OPENVINO))
    parser.add_argument("--json", type=Path, help="write this file instead")
    parser.add_argument("--fidelity", action="store_true", help="cosines instead of times")
    parser.add_argument("--outliers", nargs="+", type=float, default=[1, 100])
    args = parser.parse_args()
    if args.smoke:
        args.tiles, args.rounds, args.layers = [1], 1, 2
        if args.json is None:
            parser.error("--smoke needs --json: its figures are none for the documents")
    if args.stock is not None and not (args.stock / "llama-mtmd-cli").is_file():
        parser.error(f"{args.stock}: there is no llama-mtmd-cli in it")
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.models or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        if args.prepare:
            prepare(args, directory)
        else:
            (fidelity if args.fidelity else speed)(args, directory)


if __name__ == "__main__":
    main()
