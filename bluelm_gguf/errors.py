"""The exceptions that bluelm_gguf raises.

    BluelmError
    ├── InvalidArgumentError (also ValueError)      a value is out of range; nothing was done
    │   └── ImageError                              the picture cannot be used: not one, empty, too large
    ├── ModelFileError (also OSError)               a model file is missing or cannot be read
    │   ├── ModelFormatError                        not GGUF, truncated, or without the tensors it needs
    │   │   └── UnsupportedModelError               a sound file of a kind that this version does not run
    │   ├── MismatchError                           two files that do not belong together
    │   └── HubError                                a name that leads to no model, or a download that failed
    ├── ConversationError (also OSError)            a saved conversation: missing, damaged, another version
    ├── ContextFullError (also ValueError)          more tokens than the context holds
    ├── OutOfMemoryError (also MemoryError)
    ├── Cancelled                                   a progress callback returned False
    ├── DecodeError (also RuntimeError)             llama.cpp failed to compute
    └── NativeError (also RuntimeError)             the library is missing, too old, or has an internal fault

The messages are one line each: what is wrong, with which file, and what to do.
"""

from __future__ import annotations


class BluelmError(Exception):
    """Base of everything that this package raises on purpose."""


class InvalidArgumentError(BluelmError, ValueError):
    """A value is out of range; nothing was done."""


class ImageError(InvalidArgumentError):
    """A picture cannot be used: missing, not a picture, truncated, empty, or too large."""


class ModelFileError(BluelmError, OSError):
    """A model file is missing or cannot be read."""


class ModelFormatError(ModelFileError):
    """A model file is not GGUF, is truncated, or lacks keys or tensors."""


class UnsupportedModelError(ModelFormatError):
    """A sound file of a kind that this version does not run."""


class MismatchError(ModelFileError):
    """Two files, or a file and a context, do not belong together."""


class HubError(ModelFileError):
    """A model's name leads nowhere, or what it leads to cannot be downloaded."""


class ConversationError(BluelmError, OSError):
    """A saved conversation cannot be written, is missing, damaged, or of another version."""


class ContextFullError(BluelmError, ValueError):
    """More tokens than the context holds."""


class OutOfMemoryError(BluelmError, MemoryError):
    """Not enough memory; the message says for what."""


class Cancelled(BluelmError):
    """A progress callback returned False."""


class DecodeError(BluelmError, RuntimeError):
    """llama.cpp failed to compute."""


class NativeError(BluelmError, RuntimeError):
    """libbluelm is missing, has another ABI, or reports an internal fault."""


def check_range(name: str, value: int | None, low: int, high: int) -> None:
    """Raises InvalidArgumentError for a value outside low..high; None is none."""
    if value is not None and not low <= value <= high:
        raise InvalidArgumentError(f"{name} is {value}; it must be from {low} to {high}")
