"""libbluelm through ctypes: the only file that knows it.

Structs and functions mirror cpp/include/bluelm.h; `load()` compares the ABI number before anything else is
called. llama_cpp is imported first: its wheel holds copies of libllama, not links, and only when its own copy
is mapped already does our library resolve to the same one, so that the process holds one ggml.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from ctypes import (
    POINTER,
    byref,
    c_bool,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_void_p,
)
from pathlib import Path
from typing import Any

from .. import errors
from .openmp import short_spins

ABI_VERSION = 4
MAX_GRIDS = 256

TILER_METHODS = {"relaxed": 0, "llava_next": 1, "internvl": 2, "single": 3}
THUMBNAILS = {"none": 0, "first": 1, "last": 2}
FITS = {"pad_center": 0, "pad_top_left": 1, "stretch": 2}
FILTERS = {"bicubic": 0, "bilinear": 1}
ROUNDINGS = {"floor": 0, "ceil": 1}
WEIGHTS = {"resident": 0, "streamed": 1}
ACTIVATIONS = {"auto": 0, "int8": 1, "float": 2}
STAGES = {0: "encode", 1: "prefill", 2: "decode"}

_STATUS: dict[int, type[errors.BluelmError]] = {
    1: errors.InvalidArgumentError,
    2: errors.ModelFileError,
    3: errors.ModelFormatError,
    4: errors.UnsupportedModelError,
    5: errors.MismatchError,
    6: errors.OutOfMemoryError,
    7: errors.Cancelled,
    8: errors.ContextFullError,
    9: errors.DecodeError,
    10: errors.NativeError,
}


class _Struct(ctypes.Structure):
    """A struct whose first field is its own size."""

    def __init__(self) -> None:
        super().__init__()
        self.struct_size = ctypes.sizeof(self)


class TilerParams(_Struct):
    """bluelm_tiler_params."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("method", c_int32),
        ("tile", c_int32),
        ("alpha", c_float),
        ("thumbnail", c_int32),
        ("thumbnail_for_single", c_int32),
        ("fit", c_int32),
        ("filter", c_int32),
        ("pad_rgb", c_uint8 * 3),
        ("fit_rounding", c_uint8),
        ("n_grids", c_int32),
        ("grids", (c_int32 * 2) * MAX_GRIDS),
    ]


class TilePlan(_Struct):
    """bluelm_tile_plan."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("width", c_int32),
        ("height", c_int32),
        ("cols", c_int32),
        ("rows", c_int32),
        ("tile", c_int32),
        ("fit_width", c_int32),
        ("fit_height", c_int32),
        ("pad_left", c_int32),
        ("pad_top", c_int32),
        ("thumbnail_index", c_int32),
        ("n_tiles", c_int32),
        ("effective", c_int64),
        ("wasted", c_int64),
    ]


class VisionParams(_Struct):
    """bluelm_vision_params."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("n_threads", c_int32),
        ("batch", c_int32),
        ("pipeline", c_int32),
        ("weights", c_int32),
        ("activations", c_int32),
    ]


class VisionInfo(_Struct):
    """bluelm_vision_info."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("image_size", c_int32),
        ("patch_size", c_int32),
        ("n_embd", c_int32),
        ("n_layer", c_int32),
        ("n_head", c_int32),
        ("n_ff", c_int32),
        ("n_ff_unpadded", c_int32),
        ("downsample", c_int32),
        ("tokens_per_tile", c_int32),
        ("n_embd_out", c_int32),
        ("has_post_ln", c_int32),
        ("has_input_norm", c_int32),
        ("column_major", c_int32),
        ("n_params", c_int64),
        ("weight_bytes", c_int64),
        ("name", c_char * 128),
        ("ftype", c_char * 16),
    ]


class VisionTimings(_Struct):
    """bluelm_vision_timings."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("resize_ms", c_double),
        ("patch_embd_ms", c_double),
        ("vit_ms", c_double),
        ("total_ms", c_double),
        ("n_tiles", c_int32),
        ("n_batches", c_int32),
    ]


class VisionProfile(_Struct):
    """bluelm_vision_profile."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("resize_ms", c_double),
        ("patch_embd_ms", c_double),
        ("norm_ms", c_double),
        ("qkv_ms", c_double),
        ("attention_ms", c_double),
        ("attn_out_ms", c_double),
        ("ffn_up_ms", c_double),
        ("ffn_down_ms", c_double),
        ("projector_ms", c_double),
        ("pack_ms", c_double),
        ("total_ms", c_double),
        ("multiply_adds", c_int64),
        ("n_tiles", c_int32),
        ("n_batches", c_int32),
        ("n_threads", c_int32),
    ]


class PrefillParams(_Struct):
    """bluelm_prefill_params."""

    _fields_ = [("struct_size", c_size_t), ("chunk", c_int32), ("seq_id", c_int32)]


class MtmdParams(_Struct):
    """bluelm_mtmd_params."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("n_threads", c_int32),
        ("image_min_tokens", c_int32),
        ("image_max_tokens", c_int32),
        ("verbose", c_int32),
        ("device", c_char_p),
    ]


class MtmdInfo(_Struct):
    """bluelm_mtmd_info."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("n_embd", c_int32),
        ("n_pos", c_int32),
        ("non_causal", c_int32),
        ("takes_audio", c_int32),
    ]


class MtmdPiece(_Struct):
    """bluelm_mtmd_piece."""

    _fields_ = [("struct_size", c_size_t), ("is_view", c_int32), ("n_tokens", c_int32), ("n_pos", c_int32)]


PROGRESS = ctypes.CFUNCTYPE(c_bool, c_int32, c_int64, c_int64, c_void_p)

_U8 = POINTER(c_uint8)
_F32 = POINTER(c_float)
_I32 = POINTER(c_int32)
_I64 = POINTER(c_int64)

# name -> argument types; everything here returns a bluelm_status
_FUNCTIONS: dict[str, list[Any]] = {
    "bluelm_llama_prepare": [],
    "bluelm_llm_check": [c_char_p],
    "bluelm_machine_cores": [_I32, c_int32, _I32],
    "bluelm_machine_memory": [_I64],
    "bluelm_drop_mapped_pages": [c_char_p, _I64],
    "bluelm_llm_kernels_register": [],
    "bluelm_llm_kernels_enable": [c_bool],
    "bluelm_tiler_params_default": [POINTER(TilerParams)],
    "bluelm_tiler_params_set_grids": [POINTER(TilerParams), c_int32, c_int32, c_int32],
    "bluelm_tiler_plan": [POINTER(TilerParams), c_int32, c_int32, POINTER(TilePlan)],
    "bluelm_resize_rgb8": [_U8, c_int32, c_int32, _U8, c_int32, c_int32, c_int32],
    "bluelm_tiler_cut": [POINTER(TilerParams), POINTER(TilePlan), _U8, c_int32, c_int32, _U8, c_size_t],
    "bluelm_mmproj_open": [c_char_p, POINTER(c_void_p)],
    "bluelm_mmproj_get_info": [c_void_p, POINTER(VisionInfo)],
    "bluelm_mmproj_get_tiler": [c_void_p, POINTER(TilerParams)],
    "bluelm_mmproj_plan": [
        c_void_p, POINTER(TilerParams), c_int32, c_int32, POINTER(TilePlan), POINTER(c_int64),
    ],
    "bluelm_vision_params_default": [POINTER(VisionParams)],
    "bluelm_vision_init": [c_char_p, POINTER(VisionParams), POINTER(c_void_p)],
    "bluelm_vision_get_info": [c_void_p, POINTER(VisionInfo)],
    "bluelm_vision_get_tiler": [c_void_p, POINTER(TilerParams)],
    "bluelm_vision_get_prompt": [c_void_p, POINTER(c_char_p), POINTER(c_char_p)],
    "bluelm_vision_encode": [
        c_void_p, POINTER(TilerParams), _U8, c_int32, c_int32, PROGRESS, c_void_p, _F32, c_size_t, _I64,
        POINTER(VisionTimings),
    ],
    "bluelm_vision_encode_tiles": [
        c_void_p, _U8, c_int32, PROGRESS, c_void_p, _F32, c_size_t, POINTER(VisionTimings),
    ],
    "bluelm_vision_get_profile": [c_void_p, POINTER(VisionProfile)],
    "bluelm_vision_dump_stage": [c_void_p, _U8, c_int32, c_char_p, _F32, c_size_t, POINTER(c_size_t)],
    "bluelm_prefill_params_default": [POINTER(PrefillParams)],
    "bluelm_prefill_tokens": [
        c_void_p, POINTER(PrefillParams), _I32, c_int64, c_int32, c_bool, PROGRESS, c_void_p, _I64,
    ],
    "bluelm_prefill_embd": [
        c_void_p, POINTER(PrefillParams), _F32, c_int64, c_int32, c_int32, c_bool, PROGRESS, c_void_p, _I64,
    ],
    "bluelm_decode": [c_void_p, c_int32, c_int32, c_int32, PROGRESS, c_void_p],
    "bluelm_prefill_view": [
        c_void_p, POINTER(PrefillParams), _F32, c_int64, c_int32, c_int32, _I32, c_bool, c_bool, PROGRESS,
        c_void_p, _I64,
    ],
    "bluelm_mtmd_params_default": [POINTER(MtmdParams)],
    "bluelm_mtmd_init": [c_char_p, c_void_p, POINTER(MtmdParams), PROGRESS, c_void_p, POINTER(c_void_p)],
    "bluelm_mtmd_get_info": [c_void_p, POINTER(MtmdInfo)],
    "bluelm_mtmd_picture_init": [c_void_p, _U8, c_int32, c_int32, POINTER(c_void_p)],
    "bluelm_mtmd_picture_size": [c_void_p, _I32],
    "bluelm_mtmd_picture_get_piece": [c_void_p, c_int32, POINTER(MtmdPiece)],
    "bluelm_mtmd_picture_get_tokens": [c_void_p, c_int32, _I32, c_size_t],
    "bluelm_mtmd_picture_get_positions": [c_void_p, c_int32, c_int32, _I32, c_size_t],
    "bluelm_mtmd_encode": [
        c_void_p, c_void_p, c_int32, c_int64, c_int64, PROGRESS, c_void_p, _F32, c_size_t,
    ],
}  # fmt: skip


def library_path() -> Path:
    """Where libbluelm lies: `lib/` inside the package, also for an editable install.

    Raises:
        NativeError: it is not there.
    """
    name = "libbluelm.dylib" if sys.platform == "darwin" else "libbluelm.so"
    found = _compiled(name)
    if found:
        return found
    package = sys.modules[__name__.partition(".")[0]]
    raise errors.NativeError(
        f"{name} is not in {' or '.join(f'{d}/lib' for d in package.__path__)}: install the package with "
        "pip (pip install . in the source directory), which compiles it"
    )


def plugin_path() -> Path | None:
    """Where the encoder kernels lie as a plugin for stock programs (docs/plugin.md); None: not compiled."""
    return _compiled("libggml-bluelm.so")


def _compiled(name: str) -> Path | None:
    # An editable install has two package directories: the sources, and site-packages with what was compiled.
    for directory in sys.modules[__name__.partition(".")[0]].__path__:
        candidate = Path(directory) / "lib" / name
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def load() -> ctypes.CDLL:
    """Loads libbluelm once, after llama_cpp. Changes nothing in either: that is `accelerate`'s.

    Raises:
        NativeError: missing library, another ABI, or another llama-cpp-python than it was built with.
    """
    with short_spins():
        import llama_cpp  # before our own library, see the module docstring

    path = library_path()
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as e:
        raise errors.NativeError(f"{path} cannot be loaded: {e}; reinstall the package with pip") from e
    lib.bluelm_abi_version.argtypes = []
    lib.bluelm_abi_version.restype = c_int32
    found = lib.bluelm_abi_version()
    if found != ABI_VERSION:
        raise errors.NativeError(
            f"{path} has ABI {found}, bluelm_gguf needs ABI {ABI_VERSION}: reinstall the package with pip"
        )
    for name in (
        "bluelm_build_info",
        "bluelm_cpu_level",
        "bluelm_last_error",
        "bluelm_llm_kernels_name",
        "bluelm_mtmd_best_device",
    ):
        getattr(lib, name).argtypes = []
        getattr(lib, name).restype = c_char_p
    lib.bluelm_status_name.argtypes = [c_int32]
    lib.bluelm_status_name.restype = c_char_p
    lib.bluelm_vision_free.argtypes = [c_void_p]
    lib.bluelm_vision_free.restype = None
    lib.bluelm_mmproj_free.argtypes = [c_void_p]
    lib.bluelm_mmproj_free.restype = None
    for name in ("bluelm_mtmd_free", "bluelm_mtmd_picture_free"):
        getattr(lib, name).argtypes = [c_void_p]
        getattr(lib, name).restype = None
    for name, argtypes in _FUNCTIONS.items():
        function = getattr(lib, name)
        function.argtypes = argtypes
        function.restype = c_int32
    build_info: str = lib.bluelm_build_info().decode()
    if f"llama-cpp-python {llama_cpp.__version__};" not in build_info:
        raise errors.NativeError(
            f"{path} was built as {build_info}, but llama-cpp-python {llama_cpp.__version__} is installed: "
            "reinstall bluelm-gguf with pip"
        )
    return lib


def llm_kernels_name() -> str:
    """The matmul kernels that language models loaded from now on get; "" for llama.cpp's own."""
    name: bytes = load().bluelm_llm_kernels_name()
    return name.decode()


def mtmd_device() -> str:
    """The ggml device that libmtmd's encoders get: "BLUELM", or "" for ggml's CPU backend."""
    name: bytes = load().bluelm_mtmd_best_device()
    return name.decode()


def build_info() -> str:
    """Version, llama-cpp-python version and CPU features of the loaded library."""
    info: bytes = load().bluelm_build_info()
    return info.decode()


def cpu_level() -> str:
    """Which instructions the kernels use ("avx512-vnni"): the best that the CPU has, or BLUELM_CPU_LEVEL.

    Raises:
        InvalidArgumentError: BLUELM_CPU_LEVEL names a level that this CPU does not have.
    """
    lib = load()
    name: bytes | None = lib.bluelm_cpu_level()
    if name is None:
        raise errors.InvalidArgumentError(lib.bluelm_last_error().decode(errors="replace"))
    return name.decode()


def llama_cpp_version() -> str:
    """Version of llama-cpp-python, and with it of llama.cpp."""
    with short_spins():
        import llama_cpp

    return str(llama_cpp.__version__)


def check(status: int) -> None:
    """Raises the exception that belongs to a status other than BLUELM_OK, with the library's own message."""
    if status != 0:
        message = load().bluelm_last_error().decode(errors="replace")
        raise _STATUS.get(status, errors.NativeError)(message)


class ProgressBridge:
    """Turns `on_progress(stage, done, total) -> bool | None` into the C callback.

    Returning False cancels. What the Python function raises (KeyboardInterrupt included) cancels too and is
    raised again by `finish`, since an exception cannot cross the C frames.
    """

    def __init__(self, on_progress: Callable[[str, int, int], bool | None] | None) -> None:
        self._on_progress = on_progress
        self._raised: BaseException | None = None
        self.callback = PROGRESS(self._call)

    def _call(self, stage: int, done: int, total: int, _user_data: object) -> bool:
        try:
            return self._on_progress is None or self._on_progress(STAGES[stage], done, total) is not False
        except BaseException as e:
            self._raised = e
            return False

    def finish(self, status: int) -> None:
        """Raises what the callback raised, else what the status asks for. The bridge is used up then."""
        del self.callback  # a cycle, which would wait for the garbage collector
        if self._raised is not None:
            raise self._raised
        check(status)


class CancelBridge:
    """A C callback for any number of calls that only asks whether to go on; see `ProgressBridge`."""

    def __init__(self) -> None:
        self._is_cancelled: Callable[[], bool] | None = None
        self._raised: BaseException | None = None
        self.callback = PROGRESS(self._call)

    def ask(self, is_cancelled: Callable[[], bool] | None) -> None:
        """Who is asked during the next call; None: nobody."""
        self._is_cancelled = is_cancelled

    def _call(self, _stage: int, _done: int, _total: int, _user_data: object) -> bool:
        try:
            return self._is_cancelled is None or not self._is_cancelled()
        except BaseException as e:
            self._raised = e
            return False

    def finish(self, status: int) -> None:
        """Raises what the callback raised, else what the status asks for."""
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised
        check(status)


def pointer(array: Any, ctype: Any) -> Any:
    """A typed pointer into a C-contiguous numpy array; the caller keeps the array alive."""
    return array.ctypes.data_as(POINTER(ctype))


def char_buffer(n: int) -> Any:
    """n bytes that native code may write; `buffer[:k]` reads them."""
    return ctypes.create_string_buffer(n)


__all__ = [
    "ABI_VERSION",
    "ACTIVATIONS",
    "FILTERS",
    "FITS",
    "MAX_GRIDS",
    "PROGRESS",
    "ROUNDINGS",
    "THUMBNAILS",
    "TILER_METHODS",
    "WEIGHTS",
    "CancelBridge",
    "MtmdInfo",
    "MtmdParams",
    "MtmdPiece",
    "PrefillParams",
    "ProgressBridge",
    "TilePlan",
    "TilerParams",
    "VisionInfo",
    "VisionParams",
    "VisionProfile",
    "VisionTimings",
    "build_info",
    "byref",
    "c_char_p",
    "c_float",
    "c_int32",
    "c_int64",
    "c_size_t",
    "c_uint8",
    "c_void_p",
    "char_buffer",
    "check",
    "cpu_level",
    "library_path", "llama_cpp_version",
    "load",
    "pointer",
]  # fmt: skip
