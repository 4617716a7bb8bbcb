"""The vision weights in memory: loaded when they are needed, and dropped when nobody needs them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from ..errors import InvalidArgumentError, ModelFileError
from ..file_stamp import FileStamp
from ..native import library as _native
from ..native.interrupt import DeferredInterrupt


class NativeWeights:
    """libbluelm's handle of one mmproj file, shared by all who use it at the moment.

    Thread-safe: it is loaded once however many threads ask, and freed when the last of them is done.
    Subclasses say how.

    Args:
        path: The mmproj.
        free: Whether it leaves memory whenever nobody uses it.
    """

    def __init__(self, path: str | os.PathLike[str], *, free: bool) -> None:
        self.path = path
        self._free = free
        self._lib = _native.load()
        self._lock = threading.Lock()
        self._handle: Any = None
        self._n_users = 0
        self._is_closed = False
        self._is_unwanted = False  # unload() was called while somebody used the weights
        self._stamp = FileStamp.of(path)

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._handle is not None

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    @contextlib.contextmanager
    def use(self) -> Iterator[Any]:
        """The handle, valid inside the `with`; loads the weights if they are not there.

        Raises:
            InvalidArgumentError: closed.
            ModelFileError: the file was changed after it was first loaded.
            ModelFormatError, UnsupportedModelError, OutOfMemoryError: see `VisionEncoder`.
        """
        with self._lock:
            if self._is_closed:
                raise InvalidArgumentError("the vision encoder is closed")
            if self._handle is None:
                self._load()
            self._n_users += 1
            handle = self._handle
        try:
            yield handle
        finally:
            with self._lock:
                self._n_users -= 1
                if self._free or self._is_closed or self._is_unwanted:
                    self._drop()

    def unload(self) -> None:
        """Frees the weights as soon as nobody uses them; they come back on demand."""
        with self._lock:
            self._is_unwanted = True
            self._drop()

    def close(self) -> None:
        """Frees the weights as soon as nobody uses them, for good."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def _drop(self) -> None:
        if self._handle is not None and self._n_users == 0:
            self._free_handle(self._handle)
            self._handle = None
        if self._handle is None:
            self._is_unwanted = False

    def _load(self) -> None:
        if FileStamp.of(self.path) != self._stamp:
            raise ModelFileError(
                f"{self.path}: the file has changed since it was loaded: load the model again"
            )
        self._init()

    def _init(self) -> None:
        """Sets `_handle`, or raises."""
        raise NotImplementedError

    def _free_handle(self, handle: Any) -> None:
        raise NotImplementedError


class VisionWeights(NativeWeights):
    """The weights of our own encoder.

    Args:
        path: The mmproj.
        params: How it is loaded.
        free: Whether it leaves memory whenever nobody uses it.
    """

    def __init__(self, path: str | os.PathLike[str], params: Any, *, free: bool) -> None:
        super().__init__(path, free=free)
        self._params = params

    def _init(self) -> None:
        handle = _native.c_void_p()
        with DeferredInterrupt():
            status = self._lib.bluelm_vision_init(
                os.fsencode(self.path), _native.byref(self._params), _native.byref(handle)
            )
            if status == 0:
                self._handle = handle
        _native.check(status)

    def _free_handle(self, handle: Any) -> None:
        self._lib.bluelm_vision_free(handle)
