"""Faster matmuls for any language model that llama.cpp runs in this process.

    import bluelm_gguf
    from llama_cpp import Llama

    bluelm_gguf.accelerate()          # before the first model is loaded
    llm = Llama("model-Q4_0.gguf")

Models of types Q4_0, Q4_K, Q6_K and Q8_0 (also mixed, as Q4_K_M) then keep their matrices in an order of our
own and compute with our kernels, inside llama.cpp's own graphs and threads. docs/performance.md has what it
gains.
"""

from __future__ import annotations

from .. import errors
from . import library as _native


def accelerate(*, required: bool = False) -> str:
    """Turns our matmul kernels on for models that are loaded from now on.

    `Model` does it by itself; this is for programs that use llama_cpp directly. Call it before llama_cpp
    loads its first model: llama.cpp decides then, once, where weights may go. The first call changes lists
    that llama.cpp's threads read: no other thread may load a model with llama_cpp or compute with one
    meanwhile. After that it may be called at any time, and by any thread. Nothing of llama_cpp's files is
    changed; a model loaded with `use_extra_bufts` off keeps llama.cpp's kernels.

    It also takes ggml's own AMX kernels from every user of llama_cpp in this process: some compilers build
    them so that they crash (GCC bug 114098).

    The environment variable BLUELM_LLM_KERNELS=0 keeps the kernels off, BLUELM_CPU_LEVEL chooses those of an
    older CPU (docs/performance.md).

    Args:
        required: Raise where they cannot be turned on, instead of returning "".

    Returns:
        The name of the kernels, for example "avx512-vnni"; "" where llama.cpp keeps its own: the environment
        says so, a model was loaded before, or this CPU has nothing that is faster.

    Raises:
        InvalidArgumentError: BLUELM_CPU_LEVEL names no level of this CPU.
        NativeError: the kernels stay off, with the reason (only if required).
    """
    try:
        _native.check(_native.load().bluelm_llm_kernels_register())
    except errors.UnsupportedModelError as error:
        if required:
            raise errors.NativeError(str(error)) from error
        return ""
    name = _native.llm_kernels_name()
    if required and not name:
        raise errors.NativeError(
            f"llama.cpp keeps its own matmul kernels: BLUELM_LLM_KERNELS is 0, or CPU level "
            f"{_native.cpu_level()} has none that are faster"
        )
    return name
