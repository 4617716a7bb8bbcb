"""PyTorch (oneDNN): python contender_torch.py {f32,bf16} THREADS LAYERS OUTLIERS."""

import sys

import torch
from contender import serve
from network import network, pixels_of

kind, threads, layers, outliers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
torch.set_num_threads(threads)
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[kind]
model = network(layers, outliers).to(dtype)


@torch.inference_mode()
def encode(tiles):
    return model(pixels_of(tiles).to(dtype)).float().numpy()


serve(encode)
