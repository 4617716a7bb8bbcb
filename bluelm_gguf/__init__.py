"""Chat with pictures on your own machine: BlueLM-V-3B's runtime on llama.cpp and GGUF.

    from bluelm_gguf import Model

    with Model("llm-q4_0.gguf", mmproj="mmproj-q8_0.gguf") as model:
        print(model.generate("What is this?", images=["cat.jpg"]).text)

Names are loaded when they are first used: `import bluelm_gguf` itself is a matter of milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    BluelmError,
    Cancelled,
    ContextFullError,
    ConversationError,
    DecodeError,
    HubError,
    ImageError,
    InvalidArgumentError,
    MismatchError,
    ModelFileError,
    ModelFormatError,
    NativeError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from .version import __version__

if TYPE_CHECKING:
    from .chat.answer import ReplyStream
    from .chat.chat import Chat
    from .chat.image_handle import ImageHandle
    from .chat.results import Reply, Timings
    from .model import Model
    from .native.acceleration import accelerate
    from .pictures.cache import EmbeddingCache
    from .pictures.encoded import EncodedImage
    from .pictures.vision import VisionEncoder

_LAZY = {
    "Chat": "chat.chat",
    "EmbeddingCache": "pictures.cache",
    "EncodedImage": "pictures.encoded",
    "ImageHandle": "chat.image_handle",
    "Model": "model",
    "Reply": "chat.results",
    "ReplyStream": "chat.answer",
    "Timings": "chat.results",
    "VisionEncoder": "pictures.vision",
    "accelerate": "native.acceleration",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "BluelmError",
    "Cancelled",
    "Chat",
    "ContextFullError",
    "ConversationError",
    "DecodeError",
    "EmbeddingCache",
    "EncodedImage",
    "HubError",
    "ImageError",
    "ImageHandle",
    "InvalidArgumentError",
    "MismatchError",
    "Model",
    "ModelFileError",
    "ModelFormatError",
    "NativeError",
    "OutOfMemoryError",
    "Reply",
    "ReplyStream",
    "Timings",
    "UnsupportedModelError",
    "VisionEncoder",
    "__version__",
    "accelerate",
]
