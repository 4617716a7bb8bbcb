"""OpenVINO: python contender_openvino.py {f32,bf16,int8,int4} THREADS LAYERS OUTLIERS DIRECTORY.

int8 is NNCF's post-training quantisation for transformers, calibrated with 8 pictures. int4 is NNCF's weight
compression (symmetric, in groups of 128, of 16 where 128 does not divide), computed in bf16. The models are
kept in DIRECTORY and used again.
"""

import logging
import sys
from pathlib import Path

import openvino as ov
from contender import serve, tiles

kind, threads, layers, outliers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
logging.disable(logging.INFO)


def convert() -> ov.Model:
    """The common network, quantised if it is to be."""
    import nncf
    import torch
    from network import network, pixels_of

    with torch.no_grad():
        model = ov.convert_model(network(layers, outliers), example_input=torch.zeros(1, 3, 384, 384))
    if kind == "int8":
        pictures = [pixels_of(tiles(1, seed)) for seed in range(1, 9)]
        model = nncf.quantize(
            model, nncf.Dataset(pictures), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(pictures)
        )
    elif kind == "int4":
        smaller_groups = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        )
        model = nncf.compress_weights(
            model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=128, ratio=1.0, all_layers=True,
            advanced_parameters=smaller_groups,
        )  # fmt: skip
    return model


# f32 and bf16 are the same file: the precision is chosen when it is compiled.
kept = Path(sys.argv[5]) / f"openvino-{'f32' if kind == 'bf16' else kind}-{layers}-{outliers:g}.xml"
if not kept.exists():
    part = kept.with_name("part.xml")
    ov.save_model(convert(), part, compress_to_fp16=False)
    part.with_suffix(".bin").replace(kept.with_suffix(".bin"))
    part.replace(kept)
core = ov.Core()
config = {
    "INFERENCE_NUM_THREADS": threads,
    "INFERENCE_PRECISION_HINT": {"f32": "f32", "int8": "f32"}.get(kind, "bf16"),
    "PERFORMANCE_HINT": "LATENCY",
}
compiled = core.compile_model(core.read_model(kept), "CPU", config)


def encode(pictures):
    return compiled(pixels_of(pictures))[0]


def pixels_of(pictures):
    """As in network.py, without torch."""
    return pictures.transpose(0, 3, 1, 2).astype("float32") / 127.5 - 1


serve(encode)
