"""CPU time of the tiler's resize against Pillow's, in turn, medians.

    python benchmarks/resize.py [--rounds 15]

Both run on one thread and give the same bytes, so CPU time compares them also where the machine is busy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from bluelm_gguf.tiling import resize

SIZES = [((4000, 3000), (1536, 1152)), ((4000, 3000), (384, 384)), ((1200, 900), (1152, 864))]


def cpu_ms(run: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    started = time.process_time()
    run()
    return 1000 * (time.process_time() - started)


def main() -> None:
    """Prints a line for each pair of sizes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for source, target in SIZES:
        pixels = np.random.default_rng(0).integers(0, 256, (source[1], source[0], 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        ours, pillow = [], []
        for _ in range(rounds):
            ours.append(cpu_ms(lambda p=pixels, t=target: resize(p, *t)))
            pillow.append(cpu_ms(lambda i=image, t=target: i.resize(t, Image.Resampling.BICUBIC)))
        a, b = statistics.median(ours), statistics.median(pillow)
        sizes = f"{source[0]}x{source[1]} to {target[0]}x{target[1]}"
        print(f"{sizes}: ours {a:.1f} ms, Pillow {b:.1f} ms ({b / a:.2f}x)")


if __name__ == "__main__":
    main()
