"""llama-mtmd-cli: python contender_mtmd.py PROGRAM MMPROJ.gguf LLM.gguf THREADS.

Each call runs the program once, with as many pictures as there are tiles, each as large as one. The time is
what the program prints for encoding them, without loading and without what the language model then does.
(In its chat a picture may be taken for the one before it and is not encoded.)
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from contender import serve, tiles
from PIL import Image

program, mmproj, llm, threads = sys.argv[1:]
directory = tempfile.TemporaryDirectory()
picture = Path(directory.name) / "tile.png"
Image.fromarray(tiles(1)[0]).save(picture)
common = ["-m", llm, "--mmproj", mmproj, "-t", threads, "-c", "8192", "-n", "1", "-p", "x", "--temp", "0"]
common += ["--no-warmup", "--chat-template", "vicuna"]


def encode(pixels: np.ndarray) -> float:
    """Milliseconds for as many tiles as are given; the pixels are those of the first one."""
    command = [program, *common, *["--image", str(picture)] * len(pixels)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    log = done.stdout + done.stderr
    took = re.findall(r"encod(?:ing done|ed) in (\d+) ms", log)
    if done.returncode or not took:
        raise SystemExit(f"llama-mtmd-cli ended with {done.returncode}: {log.strip()[-1000:]}")
    return float(sum(map(int, took)))


serve(encode, tells_ms=True)
directory.cleanup()
