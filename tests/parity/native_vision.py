"""The vision half of the C API as numpy calls, for tests; ctypes only through bluelm_gguf.native.library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bluelm_gguf.native import library as native


class NativeVision:
    """bluelm_vision; raises the package's errors."""

    def __init__(self, path: Path, **params: int) -> None:
        self.handle = native.c_void_p()
        lib = native.load()
        options = native.VisionParams()
        native.check(lib.bluelm_vision_params_default(native.byref(options)))
        for name, value in params.items():
            setattr(options, name, value)
        native.check(
            lib.bluelm_vision_init(str(path).encode(), native.byref(options), native.byref(self.handle))
        )
        self._lib = lib
        self.info = native.VisionInfo()
        native.check(lib.bluelm_vision_get_info(self.handle, native.byref(self.info)))
        self.timings = native.VisionTimings()

    def __enter__(self) -> NativeVision:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the handle."""
        self._lib.bluelm_vision_free(self.handle)
        self.handle = native.c_void_p()

    def profile(self) -> native.VisionProfile:
        """Of the last encode."""
        out = native.VisionProfile()
        native.check(self._lib.bluelm_vision_get_profile(self.handle, native.byref(out)))
        return out

    def encode_tiles(self, tiles: np.ndarray, on_progress: Any = None) -> np.ndarray:
        """[n, S, S, 3] uint8 -> [n, T, n_embd]."""
        tiles = np.ascontiguousarray(tiles)
        out = np.empty((len(tiles), self.info.tokens_per_tile, self.info.n_embd_out), np.float32)
        bridge = native.ProgressBridge(on_progress)
        bridge.finish(
            self._lib.bluelm_vision_encode_tiles(
                self.handle, native.pointer(tiles, native.c_uint8), len(tiles), bridge.callback, None,
                native.pointer(out, native.c_float), out.size, native.byref(self.timings),
            )
        )  # fmt: skip
        return out

    def encode(self, rgb: np.ndarray, on_progress: Any = None) -> np.ndarray:
        """A picture [h, w, 3] uint8 -> [n_tokens, n_embd]."""
        rgb = np.ascontiguousarray(rgb)
        height, width, _ = rgb.shape
        n_tokens = native.c_int64()

        def call(out: Any, out_floats: int) -> None:
            bridge = native.ProgressBridge(on_progress)
            bridge.finish(
                self._lib.bluelm_vision_encode(
                    self.handle, None, native.pointer(rgb, native.c_uint8), width, height, bridge.callback,
                    None, out, out_floats, native.byref(n_tokens), native.byref(self.timings),
                )
            )  # fmt: skip

        call(None, 0)
        out = np.empty((n_tokens.value, self.info.n_embd_out), np.float32)
        call(native.pointer(out, native.c_float), out.size)
        return out

    def dump(self, tiles: np.ndarray, stage: str, shape: tuple[int, ...]) -> np.ndarray:
        """One stage's activations, in the shape given."""
        tiles = np.ascontiguousarray(tiles)
        out = np.empty(shape, np.float32)
        n_floats = native.c_size_t()
        native.check(
            self._lib.bluelm_vision_dump_stage(
                self.handle, native.pointer(tiles, native.c_uint8), len(tiles), stage.encode(),
                native.pointer(out, native.c_float), out.size, native.byref(n_floats),
            )
        )  # fmt: skip
        assert n_floats.value == out.size, (stage, n_floats.value, shape)
        return out
