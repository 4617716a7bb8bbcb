"""OpenVINO: python contender_openvino.py {f32,bf16,int8} THREADS LAYERS OUTLIERS.

int8 is NNCF's post-training quantisation for transformers, calibrated with 8 pictures.
"""

import logging
import sys

import nncf
import openvino as ov
import torch
from contender import serve, tiles
from network import network, pixels_of

kind, threads, layers, outliers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
logging.disable(logging.INFO)
with torch.no_grad():
    model = ov.convert_model(network(layers, outliers), example_input=torch.zeros(1, 3, 384, 384))
if kind == "int8":
    pictures = [pixels_of(tiles(1, seed)).numpy() for seed in range(1, 9)]
    model = nncf.quantize(
        model, nncf.Dataset(pictures), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(pictures)
    )
config = {
    "INFERENCE_NUM_THREADS": threads,
    "INFERENCE_PRECISION_HINT": {"f32": "f32", "bf16": "bf16", "int8": "f32"}[kind],
    "PERFORMANCE_HINT": "LATENCY",
}
compiled = ov.Core().compile_model(model, "CPU", config)
serve(lambda pixels: compiled(pixels_of(pixels).numpy())[0])
