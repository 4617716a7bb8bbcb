"""The keys of an mmproj file (docs/mmproj.md): name and type of each, once for everybody who writes one.

C++ reads them in cpp/src/mmproj; tests/convert/test_mmproj_keys.py compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import gguf


def _key(name: str, kind: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"name": name, "kind": kind})


def every_grid(cols: int = 4, rows: int = 4) -> tuple[int, ...]:
    """All grids up to so many columns and rows, as `tiler_grids` has them."""
    return tuple(n for c in range(1, cols + 1) for r in range(1, rows + 1) for n in (c, r))


@dataclass(frozen=True, kw_only=True)
class MmprojKeys:
    """Values of all keys but general.* and bluelm.pair_id, in the order of the file.

    Defaults are docs/bluelm-v-layout.md's. None leaves a key out; fields without a default have to be given.
    """

    has_vision_encoder: bool = _key("clip.has_vision_encoder", "bool", True)
    projector_type: str = _key("clip.projector_type", "str", "bluelm")
    use_gelu: bool = _key("clip.use_gelu", "bool", True)
    image_size: int = _key("clip.vision.image_size", "u32")
    patch_size: int = _key("clip.vision.patch_size", "u32")
    n_embd: int = _key("clip.vision.embedding_length", "u32")
    n_ff: int = _key("clip.vision.feed_forward_length", "u32")
    n_layer: int = _key("clip.vision.block_count", "u32")
    n_head: int = _key("clip.vision.attention.head_count", "u32")
    layer_norm_eps: float = _key("clip.vision.attention.layer_norm_epsilon", "f32", 1e-6)
    n_embd_out: int = _key("clip.vision.projection_dim", "u32")
    image_mean: Sequence[float] = _key("clip.vision.image_mean", "f32[3]", (0.5, 0.5, 0.5))
    image_std: Sequence[float] = _key("clip.vision.image_std", "f32[3]", (0.5, 0.5, 0.5))
    version: int = _key("bluelm.version", "u32", 1)
    n_ff_unpadded: int = _key("bluelm.vision.feed_forward_length_unpadded", "u32")
    post_layernorm: bool = _key("bluelm.vision.post_layernorm", "bool", False)
    downsample: int = _key("bluelm.projector.downsample", "u32", 2)
    token_order: str = _key("bluelm.projector.token_order", "str", "row_major")
    projector_act: str = _key("bluelm.projector.hidden_act", "str", "gelu")
    projector_eps: float = _key("bluelm.projector.layer_norm_epsilon", "f32", 1e-5)
    tiler_method: str = _key("bluelm.tiler.method", "str", "relaxed")
    tiler_alpha: float = _key("bluelm.tiler.alpha", "f32", 0.1)
    tiler_grids: Sequence[int] = _key("bluelm.tiler.grids", "i32[2n]", every_grid())
    tiler_thumbnail: str = _key("bluelm.tiler.thumbnail", "str", "first")
    tiler_thumbnail_for_single: bool = _key("bluelm.tiler.thumbnail_for_single", "bool", False)
    tiler_fit: str = _key("bluelm.tiler.fit", "str", "pad_center")
    tiler_resize: str = _key("bluelm.tiler.resize", "str", "bicubic")
    tiler_pad_rgb: Sequence[int] = _key("bluelm.tiler.pad_rgb", "i32[3]", (0, 0, 0))
    tiler_fit_rounding: str | None = _key("bluelm.tiler.fit_rounding", "str", None)
    assembly_method: str | None = _key("bluelm.assembly.method", "str", None)
    assembly_max_tiles: int | None = _key("bluelm.assembly.max_tiles", "u32", None)
    image_prefix: str = _key("bluelm.prompt.image_prefix", "str", "")
    image_suffix: str = _key("bluelm.prompt.image_suffix", "str", "\n")
    image_token: str | None = _key("bluelm.prompt.image_token", "str", None)

    def values(self) -> dict[str, Any]:
        """Key -> value, without those left out."""
        found = {f.metadata["name"]: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Adds every key with its type."""
        for name, value in self.values().items():
            add_key(writer, name, value)


def add_key(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    """Adds one key of the table with its type."""
    _WRITERS[kinds()[name]](writer, name, value)


def kinds() -> dict[str, str]:
    """Key -> type, as docs/mmproj.md writes it."""
    return {f.metadata["name"]: f.metadata["kind"] for f in fields(MmprojKeys)}


def _add_string(writer: gguf.GGUFWriter, name: str, value: str) -> None:
    # add_string leaves empty strings out, and "" has a meaning here.
    writer.add_key_value(name, value, gguf.GGUFValueType.STRING)


def _add_array(writer: gguf.GGUFWriter, name: str, value: Sequence[Any]) -> None:
    writer.add_array(name, list(value))


_WRITERS: dict[str, Callable[[gguf.GGUFWriter, str, Any], None]] = {
    "bool": gguf.GGUFWriter.add_bool,
    "u32": gguf.GGUFWriter.add_uint32,
    "f32": gguf.GGUFWriter.add_float32,
    "str": _add_string,
    "f32[3]": _add_array,
    "i32[3]": _add_array,
    "i32[2n]": _add_array,
}
