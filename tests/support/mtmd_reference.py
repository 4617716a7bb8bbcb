"""What llama.cpp's own loop answers about a picture: llama-mtmd-cli's steps through llama_cpp's bindings.

One turn, greedy: the chat template with the media marker before the question, libmtmd's helpers for encoding
and prefill, then token by token. Runs in a process of its own, since llama.cpp's state is the process's:

    python tests/support/mtmd_reference.py LLM MMPROJ PICTURE QUESTION N

prints {"prompt": number of tokens, "tokens": [...]}.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def reference(llm: Path, mmproj: Path, picture: Path, question: str, n: int) -> dict[str, Any]:
    """The answer's tokens, and how many the prompt had."""
    command = [sys.executable, __file__, str(llm), str(mmproj), str(picture), question, str(n)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _main(llm: str, mmproj: str, picture: str, question: str, n: str) -> None:
    import llama_cpp as lc
    import numpy as np
    from llama_cpp import mtmd_cpp as mtmd
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter
    from PIL import Image

    quiet = lc.llama_log_callback(lambda *_: None)
    lc.llama_log_set(quiet, None)
    mtmd.mtmd_log_set(quiet, None) if hasattr(mtmd, "mtmd_log_set") else None
    lc.llama_backend_init()
    model = lc.llama_model_load_from_file(llm.encode(), lc.llama_model_default_params())
    vocab = lc.llama_model_get_vocab(model)
    params = lc.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 2048, 512, 512
    params.n_threads = params.n_threads_batch = 1
    context = lc.llama_init_from_model(model, params)

    vision_params = mtmd.mtmd_context_params_default()
    vision_params.use_gpu, vision_params.n_threads, vision_params.warmup = False, 1, False
    vision = mtmd.mtmd_init_from_file(mmproj.encode(), model, vision_params)
    assert vision, "libmtmd refuses the pair"

    def meta(key: str) -> str:
        buffer = ctypes.create_string_buffer(1 << 16)
        lc.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
        return buffer.value.decode()

    bos_text = lc.llama_vocab_get_text(vocab, lc.llama_vocab_bos(vocab)).decode()
    formatter = Jinja2ChatFormatter(
        template=meta("tokenizer.chat_template"), eos_token="<|im_end|>", bos_token=bos_text
    )
    marker = mtmd.mtmd_default_marker().decode()
    text = formatter(messages=[{"role": "user", "content": marker + question}]).prompt
    if lc.llama_vocab_get_add_bos(vocab):
        text = text.removeprefix(bos_text)
    raw = text.encode()

    rgb = np.ascontiguousarray(np.asarray(Image.open(picture).convert("RGB")))
    pixels = rgb.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    bitmap = mtmd.mtmd_bitmap_init(rgb.shape[1], rgb.shape[0], pixels)
    chunks = mtmd.mtmd_input_chunks_init()
    prompt = mtmd.mtmd_input_text(raw, len(raw), True, True)
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(vision, chunks, ctypes.byref(prompt), bitmaps, 1) == 0
    n_prompt = mtmd.mtmd_helper_get_n_tokens(chunks)
    past = ctypes.c_int32(0)
    assert mtmd.mtmd_helper_eval_chunks(vision, context, chunks, 0, 0, 512, True, ctypes.byref(past)) == 0

    n_vocab, tokens, pos = lc.llama_vocab_n_tokens(vocab), [], past.value
    while len(tokens) < int(n):
        logits = np.ctypeslib.as_array(lc.llama_get_logits_ith(context, -1), (n_vocab,))
        token = int(logits.argmax())
        if lc.llama_vocab_is_eog(vocab, token):
            break
        tokens.append(token)
        batch = lc.llama_batch_init(1, 0, 1)
        batch.n_tokens, batch.token[0], batch.pos[0], batch.n_seq_id[0] = 1, token, pos, 1
        batch.seq_id[0][0], batch.logits[0] = 0, 1
        assert lc.llama_decode(context, batch) == 0
        pos += 1
    print(json.dumps({"prompt": n_prompt, "tokens": tokens}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
