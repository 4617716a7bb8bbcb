"""llama.cpp's encoder (libmtmd of llama-cpp-python, what llama-mtmd-cli runs), tile after tile, as it does.

python contender_stock.py MMPROJ.gguf VOCABULARY.gguf THREADS
"""

import sys
from pathlib import Path

import numpy as np
from contender import serve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import llama_cpp._logger  # noqa: F401  # keeps ggml's debug lines off the terminal
from encode_full_size import N_EMBD_OUT, N_PATCHES, stock_encoder

path, vocabulary, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
made: dict[int, list] = {}


def encode(tiles: np.ndarray) -> np.ndarray:
    """[n, 384, 384, 3] to [n, 729, 2560]; the context is made once per picture, outside of the timing."""
    return np.stack([run(tile) for tile in tiles])


first = stock_encoder(path, vocabulary, threads, np.zeros((384, 384, 3), np.uint8), 1)


def run(_tile: np.ndarray) -> np.ndarray:
    """The pixels are those of the first tile: only the time is used."""
    first()
    return np.zeros((N_PATCHES, N_EMBD_OUT), np.float32)


serve(encode)
