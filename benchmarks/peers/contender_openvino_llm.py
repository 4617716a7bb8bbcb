"""OpenVINO on the same Llama: python contender_openvino_llm.py CONFIG.json THREADS DEPTH DIRECTORY.

Weights int4 (symmetric, groups of 32) by NNCF, activations quantised as OpenVINO does by itself, keys and
values in the state of the model. The model is kept in DIRECTORY and used again.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np
import openvino as ov
from contender import serve_llm

config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["text_config"]
threads, depth = int(sys.argv[2]), int(sys.argv[3])
n_layer, n_head = config["num_hidden_layers"], config["num_key_value_heads"]
head_dim = config["hidden_size"] // config["num_attention_heads"]
logging.disable(logging.INFO)


def convert() -> ov.Model:
    """Inputs ids [1, n], position [1, n], beam [1]; output logits [1, 1, n_vocab]; the cache is state."""
    import nncf
    import torch
    from openvino import opset13 as op
    from openvino._offline_transformations import apply_make_stateful_transformation
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    class Step(torch.nn.Module):
        """Tokens behind a cache: logits of the last one, and the cache with them."""

        def __init__(self) -> None:
            super().__init__()
            torch.set_default_dtype(torch.float32)
            self.model = LlamaForCausalLM(LlamaConfig(**config)).eval()

        def forward(self, ids, position, beam, *past):
            # OpenVINO's CPU plugin knows a cache by the gather of beams in front of it.
            past = [part.index_select(0, beam) for part in past]
            cache = DynamicCache(config=self.model.config)
            for layer, keys, values in zip(cache.layers, past[::2], past[1::2], strict=True):
                layer.keys, layer.values, layer.dtype, layer.device = keys, values, keys.dtype, keys.device
                layer.is_initialized = True
            # Given as it is: what transformers makes of None has steps that OpenVINO does not convert.
            seen = torch.arange(past[0].shape[2] + ids.shape[1])[None] <= position[0][:, None]
            mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
            out = self.model(
                input_ids=ids, position_ids=position, attention_mask=mask, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            layers = out.past_key_values.layers
            return (out.logits, *(part for layer in layers for part in (layer.keys, layer.values)))

    past = [torch.zeros(1, n_head, 5, head_dim)] * (2 * n_layer)
    example = (
        torch.zeros(1, 3, dtype=torch.int64),
        torch.arange(5, 8)[None],
        torch.zeros(1, dtype=torch.int32),
    )
    with torch.no_grad():
        model = ov.convert_model(Step(), example_input=(*example, *past))
    caches = [f"past.{i}" for i in range(2 * n_layer)]
    shapes = [[-1, -1], [-1, -1], [-1], *[[-1, n_head, -1, head_dim]] * len(caches)]
    for port, name, shape in zip(model.inputs, ["ids", "position", "beam", *caches], shapes, strict=True):
        port.get_node().set_partial_shape(ov.PartialShape(shape))
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, ["logits", *(f"present.{name}" for name in caches)], strict=True):
        port.get_tensor().set_names({name})
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, {name: f"present.{name}" for name in caches})
    one = op.gather(op.shape_of(model.input("ids")), op.constant([0]), op.constant(0))
    shape = op.concat([one, op.constant([n_head]), op.constant([0]), op.constant([head_dim])], 0)
    empty = op.broadcast(op.constant(np.float32(0)), shape)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty])
    model.validate_nodes_and_infer_types()
    return nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=32, ratio=1.0, all_layers=True
    )


kept = Path(sys.argv[4]) / f"openvino-llm-int4-{n_layer}.xml"
if not kept.exists():
    part = kept.with_name("part.xml")
    ov.save_model(convert(), part, compress_to_fp16=False)
    part.with_suffix(".bin").replace(kept.with_suffix(".bin"))
    part.replace(kept)
    # Started anew, the process is rid of gigabytes that this took.
    os.execv(sys.executable, [sys.executable, *sys.argv])
core = ov.Core()
settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
request = core.compile_model(core.read_model(kept), "CPU", settings).create_infer_request()


def step(first: int, n: int) -> None:
    """n tokens from position `first`."""
    places = np.arange(first, first + n, dtype=np.int64)[None]
    request.infer({"ids": places % 1000, "position": places, "beam": np.zeros(1, np.int32)})


def prefill(n: int) -> None:
    """n tokens at once, from an empty cache."""
    request.reset_state()
    step(0, n)


def decode(n: int) -> float:
    """n tokens, one after the other, behind `depth` ones that are not timed."""
    prefill(depth)
    start = time.perf_counter()
    for i in range(n):
        step(depth + i, 1)
    return 1e3 * (time.perf_counter() - start)


serve_llm(prefill, decode)
