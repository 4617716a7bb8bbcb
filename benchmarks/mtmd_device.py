"""Times libmtmd's encoders at full size, on the device BLUELM and on libmtmd's own backend in turn.

    python benchmarks/mtmd_device.py                                  all towers, q8_0 and f16
    python benchmarks/mtmd_device.py --tower siglip internvl --type q8_0 --rounds 3

Prints rows of the table in docs/performance.md ("Other towers"): medians in ms of one view, peak memory of a
process that loads and encodes once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bluelm_gguf.native.library import plugin_path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from mtmd_tower import TOWERS, Mtmd, cosines, plugin_device, write_tower, write_vocabulary


def peak_mib(path: Path, tower: str, device: bool, threads: int) -> int:
    """Peak resident memory of a process that encodes one view."""
    arguments = [
        "--peak",
        str(path),
        "--tower",
        tower,
        "--threads",
        str(threads),
        *(["--on-device"] * device),
    ]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", nargs="+", default=list(TOWERS), choices=TOWERS)
    parser.add_argument("--type", nargs="+", default=["q8_0", "f16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("build/mtmd"))
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--on-device", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["BLUELM_THREADS"] = str(args.threads)
    import llama_cpp._logger  # noqa: F401  # keeps ggml's debug lines off the terminal

    library = plugin_path()
    if library is None:
        raise SystemExit("mtmd_device: libggml-bluelm is not compiled")
    device = plugin_device(library)
    args.directory.mkdir(parents=True, exist_ok=True)
    for name in args.tower:
        tower = TOWERS[name]
        side = tower.image_size
        picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        vocabulary = write_vocabulary(args.directory / f"vocabulary-{name}.gguf", tower.n_out)

        def opened(
            path: Path, on_device: bool, n_out: int = tower.n_out, vocabulary: Path = vocabulary
        ) -> Mtmd:
            chosen = device if on_device else None
            return Mtmd(path, vocabulary, n_out, device=chosen, n_threads=args.threads)

        if args.peak:
            opened(args.peak, args.on_device).encode(picture)
            status = Path("/proc/self/status").read_text()
            print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
            return
        for file_type in args.type:
            path = args.directory / f"{name}-{file_type}.gguf"
            if not path.exists():
                made = path.with_suffix(".new")
                write_tower(made, tower, file_type).rename(path)
            stock, ours = opened(path, False), opened(path, True)
            cosine = cosines(stock.encode(picture), ours.encode(picture))
            times: dict[bool, list[float]] = {False: [], True: []}
            runs = {False: stock.encoder(picture), True: ours.encoder(picture)}
            for _ in range(args.rounds):
                for on_device, run in runs.items():
                    start = time.perf_counter()
                    assert run() == 0
                    times[on_device].append(1e3 * (time.perf_counter() - start))
            stock.close()
            ours.close()
            first, second = statistics.median(times[False]), statistics.median(times[True])
            row = f"| {name} | {file_type} | {first:.0f} | {second:.0f} | {second / first:.2f} |"
            row += f" {cosine.mean():.5f} |"
            if not args.no_memory:
                peaks = [peak_mib(path, name, on_device, args.threads) for on_device in (False, True)]
                row += f" {peaks[0]} | {peaks[1]} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
