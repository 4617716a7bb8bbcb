"""libbluelm: python contender_ours.py MMPROJ.gguf THREADS."""

import sys

import numpy as np
from contender import serve

from bluelm_gguf.pictures.vision import VisionEncoder
from bluelm_gguf.tiling import TilerParams

path, threads = sys.argv[1], int(sys.argv[2])
encoder = VisionEncoder(path, n_threads=threads)


def encode(tiles: np.ndarray) -> np.ndarray:
    """One call for all tiles: the picture is a row of them, and the tiler cuts it again."""
    n = len(tiles)
    row = np.concatenate(list(tiles), axis=1)
    plan = TilerParams(grids=((n, 1),), thumbnail="none", tile=384)
    found = encoder.encode(row, tiler=plan).embeddings
    return found.reshape(n, -1, found.shape[-1])


serve(encode)
