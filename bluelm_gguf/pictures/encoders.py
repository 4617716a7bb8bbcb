"""What encodes pictures: bluelm-gguf's own encoder, or llama.cpp's libmtmd."""

from __future__ import annotations

from typing import TypeAlias

from .mtmd_vision import MtmdVision
from .vision import VisionEncoder

Vision: TypeAlias = VisionEncoder | MtmdVision
