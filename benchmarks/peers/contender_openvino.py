"""OpenVINO: python contender_openvino.py {f32,bf16,int8,int8-bf16,int4} THREADS LAYERS OUTLIERS DIRECTORY.

int8 is NNCF's post-training quantisation for transformers, calibrated with 8 pictures; what it leaves in
floating point (attention, norms) is computed in float32, or with int8-bf16 in bf16. int4 is NNCF's weight
compression (symmetric, in groups of 128, of 16 where 128 does not divide), computed in bf16. The models are
kept in DIRECTORY and used again.
"""

import logging
import os
import sys
from pathlib import Path

import openvino as ov
from contender import serve, tiles

kind, threads, layers, outliers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
logging.disable(logging.INFO)


def path_of(name: str) -> Path:
    """Where a model is kept."""
    return Path(sys.argv[5]) / f"openvino-{name}-{layers}-{outliers:g}.xml"


def save(model: ov.Model, path: Path) -> None:
    """Both files under their own names when they are complete."""
    part = path.with_name("part.xml")
    ov.save_model(model, part, compress_to_fp16=False)
    part.with_suffix(".bin").replace(path.with_suffix(".bin"))
    part.replace(path)


def make_f32() -> None:
    """The common network."""
    import torch
    from network import network

    with torch.no_grad():
        save(
            ov.convert_model(network(layers, outliers), example_input=torch.zeros(1, 3, 384, 384)),
            path_of("f32"),
        )


def make_quantised() -> None:
    """int8 or int4 from float32."""
    import nncf

    model = ov.Core().read_model(path_of("f32"))
    if kind != "int4":
        pictures = [pixels_of(tiles(1, seed)) for seed in range(1, 9)]
        model = nncf.quantize(
            model, nncf.Dataset(pictures), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(pictures)
        )
    else:
        smaller_groups = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        )
        model = nncf.compress_weights(
            model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=128, ratio=1.0, all_layers=True,
            advanced_parameters=smaller_groups,
        )  # fmt: skip
    save(model, kept)


def pixels_of(pictures):
    """As in network.py, without torch."""
    return pictures.transpose(0, 3, 1, 2).astype("float32") / 127.5 - 1


# The same file for each precision: that is chosen when it is compiled.
kept = path_of({"bf16": "f32", "int8-bf16": "int8"}.get(kind, kind))
if not kept.exists():
    if path_of("f32").exists():
        make_quantised()
    else:
        make_f32()
    # Started anew, the process is rid of gigabytes that this took.
    os.execv(sys.executable, [sys.executable, *sys.argv])
core = ov.Core()
config = {
    "INFERENCE_NUM_THREADS": threads,
    "INFERENCE_PRECISION_HINT": {"f32": "f32", "int8": "f32"}.get(kind, "bf16"),
    "PERFORMANCE_HINT": "LATENCY",
}
compiled = core.compile_model(core.read_model(kept), "CPU", config)


serve(lambda pictures: compiled(pixels_of(pictures))[0])
