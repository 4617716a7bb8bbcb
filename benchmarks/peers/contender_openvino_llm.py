"""OpenVINO on the same Llama: python contender_openvino_llm.py CHECKPOINT_CONFIG.json THREADS.

Weights int4 (symmetric, groups of 32) by NNCF, activations quantised as OpenVINO does by itself; prefill
only: without a KV cache its graph cannot decode token by token.
"""

import json
import logging
import sys
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import torch
from contender import serve_llm
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["text_config"])
threads = int(sys.argv[2])
logging.disable(logging.INFO)


class Prefill(torch.nn.Module):
    """Token ids [1, n] to the logits of the last one."""

    def __init__(self) -> None:
        super().__init__()
        torch.set_default_dtype(torch.float32)
        self.model = LlamaForCausalLM(config).eval()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[1, n] to [1, 1, n_vocab]."""
        n = ids.shape[1]
        # Given as it is: what transformers makes of None has steps that OpenVINO does not convert.
        mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
        return self.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits


with torch.no_grad():
    converted = ov.convert_model(Prefill(), example_input=torch.zeros(1, 512, dtype=torch.int64))
converted = nncf.compress_weights(
    converted, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=32, ratio=1.0, all_layers=True
)
settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
compiled = ov.Core().compile_model(converted, "CPU", settings)


def prefill(n: int) -> None:
    """n tokens at once."""
    compiled(np.arange(n, dtype=np.int64)[None] % 1000)


serve_llm(prefill, None)
