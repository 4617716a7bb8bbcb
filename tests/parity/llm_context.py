"""A llama_context of one's own, and prefill through libbluelm, for tests."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from bluelm_gguf.native import library as native

logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)


class LlmContext:
    """Model and context in float32, one thread; keeps what bluelm_prefill_* says about itself."""

    def __init__(self, path: Path, *, n_ctx: int = 512, n_batch: int = 512) -> None:
        model_params = llama_cpp.llama_model_default_params()
        # ggml's AMX kernels crash where a GCC before 12.4 built them (GCC bug 114098).
        model_params.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        assert self.model
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_batch, n_batch
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = 0  # F32
        params.flash_attn_type = 0  # off: it casts F32 keys and values to F16
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        assert self.ctx
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.n_embd = llama_cpp.llama_model_n_embd(self.model)
        self.n_done = -1

    def __enter__(self) -> LlmContext:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def prefill(
        self,
        what: Any,
        pos0: int = 0,
        *,
        chunk: int = 128,
        seq_id: int = 0,
        want_logits: bool = True,
        on_progress: Any = None,
    ) -> None:
        """Token ids, or embeddings [n, n_embd]; `n_done` is set in any case."""
        lib, array = native.load(), np.ascontiguousarray(what)
        params = native.PrefillParams()
        native.check(lib.bluelm_prefill_params_default(native.byref(params)))
        params.chunk, params.seq_id = chunk, seq_id
        bridge, done, ctx = native.ProgressBridge(on_progress), native.c_int64(-1), native.c_void_p(self.ctx)
        tail = (pos0, want_logits, bridge.callback, None, native.byref(done))
        if array.ndim == 2:
            array = array.astype(np.float32)
            status = lib.bluelm_prefill_embd(
                ctx,
                native.byref(params),
                native.pointer(array, native.c_float),
                len(array),
                array.shape[1],
                *tail,
            )
        else:
            array = array.astype(np.int32)
            status = lib.bluelm_prefill_tokens(
                ctx, native.byref(params), native.pointer(array, native.c_int32), len(array), *tail
            )
        self.n_done = done.value
        bridge.finish(status)

    def logits(self) -> np.ndarray:
        """[n_vocab] of the last token, if they were kept."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.ctx, -1), (self.n_vocab,)).copy()

    def n_past(self) -> int:
        """Positions in the KV cache of sequence 0."""
        return int(llama_cpp.llama_memory_seq_pos_max(llama_cpp.llama_get_memory(self.ctx), 0)) + 1

    def greedy(self, n: int) -> list[int]:
        """Decodes n tokens, each the most likely one."""
        out: list[int] = []
        for _ in range(n):
            out.append(int(self.logits().argmax()))
            self.prefill(out[-1:], self.n_past())
        return out
