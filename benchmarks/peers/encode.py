"""Encoding a tile at full size: ours, llama.cpp's, PyTorch's and OpenVINO's, in turn; and how close each is.

    make bench-peers
    python benchmarks/peers/encode.py --rounds 5 --tiles 1 9 --threads 2
    python benchmarks/peers/encode.py --fidelity --outliers 1 100

SigLIP-so400m/14-384 and a two-layer MLP with random weights, the same ones for everybody who takes them
(llama.cpp's file has random ones of the same shapes: only its time is used). Every contender is a process
of its own; each round gives every one of them the same work in turn, and medians over the rounds are
printed, in ms per tile. Needs torch, transformers, openvino and nncf (pip install ".[peers]").

--fidelity prints the cosine of the features to PyTorch's in float32 instead, mean and worst over the tokens
of one tile. --outliers multiplies a few channels of every LayerNorm, as large models grow them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from runner import HERE, Contender, take_turns

sys.path.insert(0, str(HERE.parent))
OURS = ("q8_0", "bf16")
STOCK = ("f16", "bf16", "q8_0")
OPENVINO = ("bf16", "int8")


def convert(directory: Path, layers: int, outliers: float, types: list[str]) -> dict[str, Path]:
    """Our files of the common network, made by our converter."""
    from network import network, save_checkpoint

    checkpoint = directory / f"checkpoint-{outliers:g}"
    save_checkpoint(network(layers, outliers), checkpoint)
    made = {}
    for kind in types:
        out = directory / f"{kind}-{outliers:g}"
        command = ["convert", checkpoint, "-o", out, "--vision-only", "--mmproj-type", kind]
        subprocess.run([sys.executable, "-m", "bluelm_gguf.cli", *map(str, command)], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        (made[kind],) = out.glob("*.gguf")
    return made


def speed(args: argparse.Namespace, directory: Path) -> None:
    """Prints the table of times."""
    from encode_full_size import write_stock, write_vocabulary

    files = convert(directory, args.layers, 1.0, args.ours)
    contenders = [
        Contender(f"ours {kind}", "contender_ours.py", path, args.threads) for kind, path in files.items()
    ]
    vocabulary = write_vocabulary(directory / "vocabulary.gguf")
    for kind in args.stock:
        path = write_stock(directory / f"stock-{kind}.gguf", kind, args.layers)
        contenders.append(
            Contender(f"llama.cpp {kind}", "contender_stock.py", path, vocabulary, args.threads)
        )
    common = (args.threads, args.layers, 1.0)
    contenders += [Contender(f"PyTorch {kind}", "contender_torch.py", kind, *common) for kind in args.torch]
    contenders += [
        Contender(f"OpenVINO {kind}", "contender_openvino.py", kind, *common) for kind in args.openvino
    ]
    take_turns(contenders, [str(n) for n in args.tiles], args.rounds)

    def per_tile(contender: Contender, n: int) -> list[float]:
        return [time / n for time in contender.times[str(n)]]

    def median(contender: Contender, n: int) -> float:
        return statistics.median(per_tile(contender, n))

    best = {
        n: min((median(c, n) for c in contenders if c.name.startswith("llama.cpp")), default=float("nan"))
        for n in args.tiles
    }
    print(f"\n{args.threads} threads, {args.layers} layers, median of {args.rounds}, ms per tile\n")
    print("| | " + " | ".join(f"{n} tiles | min - max | / best llama.cpp" for n in args.tiles) + " |")
    print("|---" * (1 + 3 * len(args.tiles)) + "|")
    for c in contenders:
        cells = []
        for n in args.tiles:
            low, high = min(per_tile(c, n)), max(per_tile(c, n))
            cells.append(f"{median(c, n):.0f} | {low:.0f} - {high:.0f} | {median(c, n) / best[n]:.2f}")
        print(f"| {c.name} | " + " | ".join(cells) + " |")
    if args.json:
        found = {c.name: c.times for c in contenders}
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def fidelity(args: argparse.Namespace, directory: Path) -> None:
    """Prints the table of cosines."""
    print("| outliers | | cosine, mean | worst token |\n|---|---|---|---|")
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
        rows += [(f"OpenVINO {kind}", "contender_openvino.py", (kind, *common)) for kind in args.openvino]
        for name, script, arguments in rows:
            found = features(name, script, *arguments)
            lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
            cosine = (found * reference).sum(axis=1) / lengths
            print(f"| x{outliers:g} | {name} | {cosine.mean():.6f} | {cosine.min():.6f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", nargs="+", type=int, default=[1, 9])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=27, help="fewer for a quick look")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ours", nargs="*", default=list(OURS), help="types of our mmproj")
    parser.add_argument("--stock", nargs="*", default=list(STOCK), help="types of llama.cpp's mmproj")
    parser.add_argument("--torch", nargs="*", default=["bf16"])
    parser.add_argument("--openvino", nargs="*", default=list(OPENVINO))
    parser.add_argument("--json", type=Path, help="write all times here")
    parser.add_argument("--fidelity", action="store_true", help="cosines instead of times")
    parser.add_argument("--outliers", nargs="+", type=float, default=[1, 100])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        (fidelity if args.fidelity else speed)(args, Path(directory))


if __name__ == "__main__":
    main()
