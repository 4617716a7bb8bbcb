"""The language model: a thin layer over llama.cpp's C API as llama_cpp exposes it.

llama.cpp loads, tokenises and samples; prompts go through libbluelm's chunked prefill. llama_cpp's own
`Llama` class is not used: it redirects the process's stdout and stderr while loading, swallows the reason
when a file cannot be loaded, and keeps a row of logits per batch position.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    BluelmError,
    Cancelled,
    DecodeError,
    InvalidArgumentError,
    ModelFormatError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from ..file_stamp import FileStamp
from ..gguf.head import GgufHead
from ..gguf.kinds import check_llm_file
from ..gguf.kv_cache import choose_types, is_quantised, kv_bytes
from ..native import library as _native
from ..native.acceleration import accelerate
from ..native.interrupt import DeferredInterrupt
from ..native.machine import available_memory
from ..native.mapped_pages import drop_mapped_pages, dropping, mapping
from ..progress import ProgressFn
from .sampling import Sampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_state: dict[str, Any] = {"callback": None, "verbose": False}
_log: deque[str] = deque(maxlen=32)


class LanguageModel:
    """One loaded model with one context (one KV cache).

    Not thread-safe: `Model` holds a lock around it.

    Args:
        path: The GGUF file.
        n_ctx: Tokens the KV cache holds; None: what the model was trained with, at most 4096.
        n_batch: Most tokens in one llama_decode: what the buffers are made for.
        n_threads: Threads for prefill and decoding.
        type_k, type_v: What the KV cache stores keys and values as (`kv_cache.BLOCKS`); None: the default.
        flash_attn: Attention without a matrix of scores; None: where llama.cpp has it.
        verbose: Let llama.cpp's own log through to stderr.
        head: The file's head, if it was read and checked before.
        on_progress: Called with ("load", percent, 100); returning False cancels.

    Raises:
        ModelFileError, ModelFormatError, UnsupportedModelError: see `check_llm_file`; also what llama.cpp
            itself says against the file.
        InvalidArgumentError: types of the KV cache that this model cannot have.
        OutOfMemoryError: no memory for the weights or the KV cache.
        Cancelled: on_progress returned False.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int | None = None,
        n_batch: int = 512,
        n_threads: int = 1,
        type_k: str | None = None,
        type_v: str | None = None,
        flash_attn: bool | None = None,
        verbose: bool = False,
        head: GgufHead | None = None,
        on_progress: ProgressFn | None = None,
    ) -> None:
        head = head or check_llm_file(path)
        self.path = head.path
        self.head = head
        self.stamp = FileStamp.of(head.path)
        """Tells whether another file has taken its place since."""
        self.type_k, self.type_v = choose_types(head, type_k, type_v)
        if flash_attn is False and is_quantised(self.type_v):
            raise InvalidArgumentError(f"type_v {self.type_v} needs flash attention")
        self._model: Any = None
        self._ctx: Any = None
        self._lib = _native.load()
        accelerate()
        import llama_cpp as lc

        self._lc = lc
        _install_log(verbose)
        # Deferred: llama.cpp logs through a Python function, and a KeyboardInterrupt there would be lost.
        with DeferredInterrupt() as interrupt:
            try:
                self._load(n_ctx, n_batch, n_threads, flash_attn, on_progress, interrupt)
            except BaseException:
                self.close()
                raise
            if interrupt.pending:
                self.close()
        self._piece = _native.char_buffer(256)
        self._cancel = _native.CancelBridge()

    # ------------------------------------------------------------------------------------------------ set-up

    def _load(
        self,
        n_ctx: int | None,
        n_batch: int,
        n_threads: int,
        flash_attn: bool | None,
        on_progress: ProgressFn | None,
        interrupt: DeferredInterrupt,
    ) -> None:
        lc = self._lc
        self._load_model(on_progress, interrupt)
        self.vocab = lc.llama_model_get_vocab(self._model)
        self.n_embd = int(lc.llama_model_n_embd_inp(self._model))
        self.n_vocab = int(lc.llama_vocab_n_tokens(self.vocab))
        self.is_mrope = lc.llama_model_rope_type(self._model) in _MROPE
        self.n_ctx_train = int(lc.llama_model_n_ctx_train(self._model))
        if lc.llama_model_has_encoder(self._model):
            raise UnsupportedModelError(f"{self.path}: an encoder-decoder model; decoder-only ones are run")
        if self.n_vocab <= 0:
            raise UnsupportedModelError(f"{self.path}: the file holds no tokenizer")
        if n_ctx is None:
            n_ctx = min(4096, self.n_ctx_train)
        self._check_memory(n_ctx)
        self._make_context(n_ctx, n_batch, n_threads, flash_attn)

    def _load_model(self, on_progress: ProgressFn | None, interrupt: DeferredInterrupt) -> None:
        lc = self._lc
        lc.llama_backend_init()
        raised: list[BaseException] = []
        is_stopped = False

        drop_pages = dropping(self.path)

        def report(done: float, _data: object) -> bool:
            nonlocal is_stopped
            try:
                drop_pages(done)
                if on_progress is not None and on_progress("load", int(done * 100), 100) is False:
                    is_stopped = True
            except BaseException as error:  # cannot cross llama.cpp's frames
                raised.append(error)
            is_stopped = is_stopped or bool(raised) or interrupt.pending
            return not is_stopped

        params = lc.llama_model_default_params()
        params.n_gpu_layers = 0
        callback = lc.llama_progress_callback(report)  # kept alive by this name
        params.progress_callback = callback
        _log.clear()
        with mapping:
            self._model = lc.llama_model_load_from_file(os.fsencode(self.path), params)
            drop_mapped_pages(self.path)
        if raised:
            raise raised[0]
        if self._model is None:
            raise Cancelled(f"{self.path}: loading was cancelled") if is_stopped else self._load_error()

    def _load_error(self) -> BluelmError:
        reason = _reason()
        if _is_memory(reason):
            return OutOfMemoryError(f"{self.path}: not enough memory to load the model ({reason})")
        return ModelFormatError(f"{self.path}: llama.cpp cannot load it ({reason or 'no reason given'})")

    def _check_memory(self, n_ctx: int) -> None:
        """Refuses a KV cache that cannot fit: asking for it would get the process killed, not an error."""
        needed, available = kv_bytes(self.head, n_ctx, self.type_k, self.type_v), available_memory()
        if needed is not None and available is not None and needed > available:
            raise OutOfMemoryError(
                f"{self.path}: a context of {n_ctx} tokens needs {needed / 2**30:.1f} GiB, and "
                f"{available / 2**30:.1f} GiB are free; ask for fewer tokens"
            )

    def _make_context(self, n_ctx: int, n_batch: int, n_threads: int, flash_attn: bool | None) -> None:
        lc = self._lc
        params = lc.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = min(n_batch, n_ctx)
        params.n_ubatch = params.n_batch
        params.n_outputs_max = 1  # logits of the last token only
        params.n_seq_max = 1
        params.type_k, params.type_v = (_ggml_type(kind) for kind in (self.type_k, self.type_v))
        if flash_attn is not None:
            on, off = lc.LLAMA_FLASH_ATTN_TYPE_ENABLED, lc.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.flash_attn_type = on if flash_attn else off
        params.n_threads = n_threads
        params.n_threads_batch = n_threads
        params.no_perf = True
        _log.clear()
        self._ctx = lc.llama_init_from_model(self._model, params)
        if self._ctx is None:
            reason = _reason()
            if _is_memory(reason):
                raise OutOfMemoryError(
                    f"{self.path}: no memory for a context of {n_ctx} tokens ({reason}); ask for fewer"
                )
            raise ModelFormatError(
                f"{self.path}: llama.cpp cannot make a context of {n_ctx} tokens ({reason})"
            )
        self._memory = lc.llama_get_memory(self._ctx)
        if self._memory is None:
            raise UnsupportedModelError(f"{self.path}: not a generative language model (it has no KV cache)")
        # llama.cpp rounds up; what was asked for is what we keep to.
        self.n_ctx = min(n_ctx, int(lc.llama_n_ctx(self._ctx)))
        self.n_batch = int(lc.llama_n_batch(self._ctx))
        self.weight_bytes = int(lc.llama_model_size(self._model))
        self.kv_bytes = kv_bytes(self.head, int(lc.llama_n_ctx(self._ctx)), self.type_k, self.type_v)

    def close(self) -> None:
        """Frees context and model."""
        with DeferredInterrupt():
            if self._ctx is not None:
                self._lc.llama_free(self._ctx)
                self._ctx = None
            if self._model is not None:
                with mapping:
                    self._lc.llama_model_free(self._model)
                self._model = None

    @property
    def native_model(self) -> Any:
        """llama.cpp's handle of the weights, for libmtmd."""
        return self._model

    # ------------------------------------------------------------------------------------------------ tokens

    @property
    def add_bos(self) -> bool:
        """Whether a prompt starts with the BOS token."""
        return bool(self._lc.llama_vocab_get_add_bos(self.vocab))

    @property
    def bos(self) -> int:
        """The BOS token, or -1."""
        return int(self._lc.llama_vocab_bos(self.vocab))

    def token_text(self, token: int) -> str:
        """How the vocabulary spells a token; "" for -1."""
        if token < 0:
            return ""
        text: bytes = self._lc.llama_vocab_get_text(self.vocab, token)
        return text.decode(errors="replace")

    @property
    def bos_text(self) -> str:
        """The BOS token as chat templates write it."""
        return self.token_text(self.bos)

    @property
    def eos_text(self) -> str:
        """The EOS token as chat templates write it."""
        return self.token_text(int(self._lc.llama_vocab_eos(self.vocab)))

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text, without BOS or EOS.

        Args:
            text: Anything; lone surrogates are replaced.
            special: Whether `<|im_end|>` and its like become control tokens. False for what a user typed.
        """
        if not text:
            return []
        raw = text.encode("utf-8", errors="replace")
        capacity = len(raw) + 16
        while True:
            buffer = (self._lc.llama_token * capacity)()
            n = self._lc.llama_tokenize(self.vocab, raw, len(raw), buffer, capacity, False, special)
            if n >= 0:
                return list(buffer[:n])
            if n == -(2**31) or -n <= capacity:
                raise InvalidArgumentError(f"a text of {len(raw)} bytes cannot be tokenised")
            capacity = -n

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for: b"" for control tokens; may be part of a character."""
        n = self._lc.llama_token_to_piece(self.vocab, token, self._piece, len(self._piece), 0, False)
        if n < 0:
            self._piece = _native.char_buffer(-n)
            n = self._lc.llama_token_to_piece(self.vocab, token, self._piece, len(self._piece), 0, False)
        return bytes(self._piece[:n])

    def is_end(self, token: int) -> bool:
        """Whether a token ends the answer."""
        return bool(self._lc.llama_vocab_is_eog(self.vocab, token))

    # ----------------------------------------------------------------------------------------------- compute

    @property
    def can_go_back(self) -> bool:
        """Whether the KV cache can drop its end: not where a part of the model has a recurrent state."""
        model = self._model
        return not (self._lc.llama_model_is_recurrent(model) or self._lc.llama_model_is_hybrid(model))

    def keep(self, pos: int) -> int:
        """Keeps what the KV cache holds below a position; returns it.

        A model with a recurrent state cannot go back by a part: the cache is empty then, and 0 is returned.
        """
        if pos > 0 and self._lc.llama_memory_seq_rm(self._memory, 0, pos, -1):
            return pos
        self._lc.llama_memory_clear(self._memory, False)
        return 0

    def state_bytes(self) -> int:
        """Size of what `read_state` writes."""
        return int(self._lc.llama_state_seq_get_size(self._ctx, 0))

    def read_state(self, buffer: NDArray[np.uint8]) -> int:
        """Copies the KV cache into a buffer of `state_bytes`; returns the bytes written.

        Raises:
            DecodeError: llama.cpp failed.
        """
        pointer = _native.pointer(buffer, _native.c_uint8)
        n = int(self._lc.llama_state_seq_get_data(self._ctx, pointer, len(buffer), 0))
        if n == 0:
            raise DecodeError(f"llama.cpp could not copy the KV cache ({_reason() or 'no reason given'})")
        return n

    def restore_state(self, state: NDArray[np.uint8], pos: int) -> bool:
        """Fills the empty KV cache with what `read_state` wrote when `pos` was the next position.

        llama.cpp compares layers, types and sizes with the model's.

        Returns:
            Whether it did; if not, the cache is empty.
        """
        pointer = _native.pointer(state, _native.c_uint8)
        n = int(self._lc.llama_state_seq_set_data(self._ctx, pointer, len(state), 0))
        last = self._lc.llama_memory_seq_pos_max(self._memory, 0)
        # With M-RoPE a picture's positions end below what follows it.
        if n == len(state) and (last == pos - 1 or (self.is_mrope and 0 <= last < pos)):
            return True
        self.keep(0)
        return False

    def prefill_tokens(
        self,
        tokens: Sequence[int],
        pos: int,
        *,
        chunk: int,
        logits: bool,
        on_progress: ProgressFn | None = None,
    ) -> None:
        """Brings tokens into the KV cache at positions pos, pos + 1, ...

        Raises:
            PartlyDone: cancelled or failed; says how many tokens are in the cache. Its cause is the real
                error.
        """
        import numpy as np

        ids = np.asarray(tokens, dtype=np.int32)
        pointer = _native.pointer(ids, _native.c_int32)
        self._prefill(self._lib.bluelm_prefill_tokens, (pointer, len(ids)), pos, chunk, logits, on_progress)

    def prefill_view(
        self,
        embeddings: Any,
        pos: int,
        *,
        chunk: int,
        logits: bool,
        positions: NDArray[np.int32] | None = None,
        non_causal: bool = False,
        on_progress: ProgressFn | None = None,
    ) -> None:
        """The same for the embeddings of a picture's view.

        Args:
            embeddings: float32 [n, n_embd].
            positions: int32 [4, n] for M-RoPE; None: pos, pos + 1, ...
            non_causal: Whether its tokens attend to each other in both directions; it is then computed in one
                step, which n_batch must allow.
        """
        import numpy as np

        rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        pointer = _native.pointer(rows, _native.c_float)
        where = None
        if positions is not None:
            positions = np.ascontiguousarray(positions, dtype=np.int32)
            where = _native.pointer(positions, _native.c_int32)
        what = (pointer, rows.shape[0], rows.shape[1])
        self._prefill(
            self._lib.bluelm_prefill_view, what, pos, chunk, logits, on_progress, (where, non_causal)
        )

    def _prefill(
        self,
        function: Any,
        what: tuple[Any, ...],
        pos: int,
        chunk: int,
        logits: bool,
        on_progress: ProgressFn | None,
        how: tuple[Any, ...] = (),
    ) -> None:
        params = _native.PrefillParams()
        params.chunk = min(chunk, self.n_batch)
        params.seq_id = 0
        done = _native.c_int64(0)
        bridge = _native.ProgressBridge(on_progress)
        _log.clear()
        status = function(
            self._ctx,
            _native.byref(params),
            *what,
            pos,
            *how,
            logits,
            bridge.callback,
            None,
            _native.byref(done),
        )
        try:
            bridge.finish(status)
        except DecodeError as error:
            reason = _reason()
            raise PartlyDone(done.value) from DecodeError(f"{error} ({reason})" if reason else str(error))
        except BaseException as error:
            raise PartlyDone(done.value) from error

    def decode(self, token: int, pos: int, *, is_cancelled: Callable[[], bool] | None = None) -> None:
        """Decodes one token of an answer at position pos, the next one; `sample` then knows its scores.

        Args:
            is_cancelled: Asked every 50 ms or so while the token is computed, not before or after it.

        Raises:
            Cancelled: is_cancelled returned True. The token is not in the cache then, nor after an error.
            ContextFullError, DecodeError, and what is_cancelled raises.
        """
        if _log:
            _log.clear()
        self._cancel.ask(is_cancelled)
        status = self._lib.bluelm_decode(self._ctx, token, pos, 0, self._cancel.callback, None)
        if status:
            try:
                self._cancel.finish(status)
            except DecodeError as error:
                reason = _reason()
                raise DecodeError(f"{error} ({reason})" if reason else str(error)) from None

    def logits(self) -> Any:
        """Scores of the tokens that may come next, float32 [n_vocab]; valid until the next step."""
        import numpy as np

        return np.ctypeslib.as_array(self._lc.llama_get_logits_ith(self._ctx, -1), (self.n_vocab,))

    def sample(self, sampler: Sampler) -> int:
        """The token after the last one decoded."""
        return sampler.sample(self._ctx)


_MROPE = (8, 40)  # LLAMA_ROPE_TYPE_MROPE, LLAMA_ROPE_TYPE_IMROPE (llama.h)


def _ggml_type(name: str) -> int:
    import llama_cpp as lc

    # llama_cpp leaves out GGML_TYPE_BF16 (ggml.h).
    return 30 if name == "bf16" else int(getattr(lc, f"GGML_TYPE_{name.upper()}"))


class PartlyDone(Exception):
    """A prefill ended early with `n_done` tokens in the KV cache. Never leaves this package."""

    def __init__(self, n_done: int) -> None:
        super().__init__(n_done)
        self.n_done = n_done


# ------------------------------------------------------------------------------------------------------ log


def _install_log(verbose: bool) -> None:
    """Takes llama.cpp's log: warnings and errors are remembered for messages, all of it is shown if
    verbose."""
    import llama_cpp as lc

    _state["verbose"] = verbose or _state["verbose"]
    if _state["callback"] is None:

        def receive(level: int, text: bytes, _data: object) -> None:
            line = text.decode("utf-8", errors="replace")
            if level in (3, 4) and line.strip():
                _log.append(line.strip())
            if _state["verbose"]:
                sys.stderr.write(line)

        _state["callback"] = lc.llama_log_callback(receive)
        lc.llama_log_set(_state["callback"], None)


def _reason() -> str:
    """The most telling of the remembered lines, without function names."""
    lines = [line for line in _log if line]
    for mark in ("error loading model: ", "failed to allocate", "failed to "):
        for line in lines:
            if mark in line:
                return line.split(mark, 1)[1] if mark.endswith(": ") else line.split(": ", 1)[-1]
    return lines[-1].split(": ", 1)[-1] if lines else ""


def _is_memory(reason: str) -> bool:
    return any(mark in reason.lower() for mark in ("allocate", "out of memory", "bad_alloc", "memory"))
