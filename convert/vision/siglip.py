"""SigLIP tower, downsampler and projector: configuration, metadata and tensor table of docs/mmproj.md."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import gguf
import numpy as np

from ..checkpoint.config import Section
from ..checkpoint.directory import Checkpoint, Float32
from ..errors import CheckpointError, UnsupportedModelError
from ..tensors import MATRIX, PATCH, TensorSpec
from .mmproj_keys import MmprojKeys

FFN_MULTIPLE = 256  # the widest quantisation block; keeps every block weight quantisable and fast
MAX_GRIDS = 256  # as in bluelm.h
TOWER = "vision_tower.vision_model"
PROJECTOR = "multi_modal_projector"
IMAGE_NEWLINE = "image_newline"


def pad_rows(values: Float32, rows: int) -> Float32:
    """Zero rows behind the last: [n, ...] -> [rows, ...]. Also pads a bias [n] -> [rows]."""
    out = np.zeros((rows, *values.shape[1:]), np.float32)
    out[: values.shape[0]] = values
    return out


def pad_columns(values: Float32, columns: int) -> Float32:
    """Zero columns behind the last: [m, n] -> [m, columns]."""
    out = np.zeros((values.shape[0], columns), np.float32)
    out[:, : values.shape[1]] = values
    return out


@dataclass(frozen=True)
class Tiler:
    """How pictures are cut; the keys of `bluelm.tiler.*` (docs/mmproj.md)."""

    method: str
    alpha: float
    grids: list[tuple[int, int]]
    thumbnail: str
    thumbnail_for_single: bool
    fit: str
    resize: str
    pad_rgb: list[int]
    fit_rounding: str

    @classmethod
    def read(cls, config: Section) -> Tiler:
        """Reads `tiler` of docs/bluelm-v-layout.md; what is left out takes the defaults there."""
        config.only(
            [
                "method",
                "alpha",
                "max_cols",
                "max_rows",
                "grids",
                "thumbnail",
                "thumbnail_for_single",
                "fit",
                "fit_rounding",
                "resize",
                "pad_rgb",
            ]
        )
        method = config.choice("method", "relaxed", ["relaxed", "llava_next", "internvl", "single"])
        cols, rows = config.integer("max_cols", 4), config.integer("max_rows", 4)
        if cols * rows > MAX_GRIDS:
            raise UnsupportedModelError(
                f"{config.path}: {config.prefix}max_cols x max_rows is {cols} x {rows}; supported: up to "
                f"{MAX_GRIDS} grids"
            )
        if method == "single":
            cols = rows = 1
        grids = [(c, r) for c in range(1, cols + 1) for r in range(1, rows + 1)]
        return cls(
            method=method,
            alpha=config.number("alpha", 0.1, positive=False),
            grids=cls._read_grids(config) or grids,
            thumbnail=config.choice("thumbnail", "first", ["first", "last", "none"]),
            thumbnail_for_single=config.boolean("thumbnail_for_single", False),
            fit=config.choice("fit", "pad_center", ["pad_center", "pad_top_left", "stretch"]),
            resize=config.choice("resize", "bicubic", ["bicubic", "bilinear"]),
            pad_rgb=[int(x) for x in config.numbers("pad_rgb", [0, 0, 0], 3, low=0, high=255)],
            fit_rounding=config.choice("fit_rounding", "floor", ["floor", "ceil"]),
        )

    @staticmethod
    def _read_grids(config: Section) -> list[tuple[int, int]]:
        """`grids`, [[columns, rows], ...]; empty where it is left out."""
        value = config.values.get("grids") or []
        where = f"{config.path}: {config.prefix}grids"
        if not isinstance(value, list) or not all(
            isinstance(g, list) and len(g) == 2 and all(type(n) is int and 1 <= n <= MAX_GRIDS for n in g)
            for g in value
        ):
            raise CheckpointError(f"{where} is no list of [columns, rows]; correct the file")
        if len(value) > MAX_GRIDS:
            raise UnsupportedModelError(f"{where} has {len(value)} grids; supported: up to {MAX_GRIDS}")
        return [(cols, rows) for cols, rows in value]

    def keys(self) -> dict[str, Any]:
        """`bluelm.tiler.*`, as MmprojKeys calls them."""
        values = {f"tiler_{f.name}": getattr(self, f.name) for f in fields(self)}
        return values | {"tiler_grids": [n for grid in self.grids for n in grid]}


class SiglipProjector:
    """The vision side of a checkpoint in the names of docs/bluelm-v-layout.md."""

    def __init__(self, config: Section, checkpoint: Checkpoint, n_embd_out: int) -> None:
        """Reads and checks the configuration.

        Args:
            config: the top level of a `bluelm_v` config.
            checkpoint: for the projector's width, which only the weights tell.
            n_embd_out: the LLM's embedding width.

        Raises:
            CheckpointError: values that contradict each other.
            UnsupportedModelError: options that the runtime does not know.
        """
        vision = config.section("vision_config", required=True)
        vision.choice("model_type", "siglip_vision_model", ["siglip_vision_model"])
        vision.choice("hidden_act", "gelu_pytorch_tanh", ["gelu_pytorch_tanh"])
        self.n_embd = vision.integer("hidden_size", 768)
        self.n_ff = vision.integer("intermediate_size", 3072)
        self.n_layer = vision.integer("num_hidden_layers", 12)
        self.n_head = vision.integer("num_attention_heads", 12)
        self.image_size = vision.integer("image_size", 224)
        self.patch_size = vision.integer("patch_size", 16)
        self.eps = vision.number("layer_norm_eps", 1e-6)
        self.n_ff_padded = -(-self.n_ff // FFN_MULTIPLE) * FFN_MULTIPLE
        self.n_embd_out = n_embd_out
        where = f"{vision.path}: {vision.prefix}"
        if vision.integer("num_channels", 3) != 3:
            raise UnsupportedModelError(
                f"{where}num_channels is {vision.values['num_channels']}; supported: 3"
            )
        if self.n_embd % self.n_head:
            raise CheckpointError(
                f"{where}hidden_size {self.n_embd} is no multiple of num_attention_heads {self.n_head}; "
                "correct the file"
            )
        if self.patch_size > self.image_size:
            raise CheckpointError(
                f"{where}patch_size {self.patch_size} is above image_size {self.image_size}; correct the file"
            )
        self.n_patches = (self.image_size // self.patch_size) ** 2

        layer = config.integer("vision_feature_layer", -1, minimum=-self.n_layer - 1)
        self.n_run = layer if layer >= 0 else self.n_layer + 1 + layer
        if not 1 <= self.n_run <= self.n_layer:
            raise CheckpointError(
                f"{config.path}: vision_feature_layer {layer} is none of the outputs of {self.n_layer} "
                "blocks; "
                f"correct it to 1..{self.n_layer} or -{self.n_layer}..-1"
            )
        self.post_layernorm = config.boolean("vision_post_layernorm", False)
        if self.post_layernorm and self.n_run != self.n_layer:
            raise UnsupportedModelError(
                f"{config.path}: vision_post_layernorm needs the last block's output, "
                f"vision_feature_layer is {layer}"
            )

        projector = config.section("projector")
        projector.only(
            ["downsample", "token_order", "input_norm", "hidden_act", "layer_norm_eps", "hidden_size"]
        )
        self.downsample = projector.integer("downsample", 2)
        if self.downsample not in (1, 2):
            raise UnsupportedModelError(
                f"{config.path}: projector.downsample is {self.downsample}; supported: 1, 2"
            )
        self.token_order = projector.choice("token_order", "row_major", ["row_major", "column_major"])
        self.input_norm = projector.boolean("input_norm", False)
        act = projector.choice("hidden_act", "gelu", ["gelu", "gelu_tanh", "gelu_pytorch_tanh"])
        self.projector_act = "gelu" if act == "gelu" else "gelu_tanh"
        self.projector_eps = projector.number("layer_norm_eps", 1e-5)
        linear_1 = checkpoint.tensors.get(f"{PROJECTOR}.linear_1.weight")
        self.n_projector = projector.integer(
            "hidden_size", linear_1.shape[0] if linear_1 is not None and linear_1.shape else n_embd_out
        )

        self.tiler = Tiler.read(config.section("tiler"))
        assembly = config.section("assembly")
        assembly.only(["method", "max_tiles"])
        self.is_anyres = assembly.choice("method", "concat", ["concat", "anyres"]) == "anyres"
        self.max_tiles = assembly.integer("max_tiles", 0, minimum=0)
        self.image_mean = config.numbers("image_mean", [0.5] * 3, 3, low=0.0, high=1.0)
        self.image_std = config.numbers("image_std", [0.5] * 3, 3, low=1e-6, high=1e6)
        self.image_prefix = config.string("image_prefix", "")
        self.image_suffix = config.string("image_suffix", "\n")
        self.template_image_token = config.string("template_image_token", "")

    def notes(self) -> list[str]:
        """What a user may want to know about the stored tower."""
        out = []
        if self.n_ff_padded != self.n_ff:
            out.append(f"vision FFN padded with zeros from {self.n_ff} to {self.n_ff_padded} (exact)")
        if self.n_run != self.n_layer:
            out.append(
                f"{self.n_run} of {self.n_layer} vision blocks stored: features are taken before the rest"
            )
        return out

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        """Adds the keys of docs/mmproj.md, except general.*."""
        MmprojKeys(
            image_size=self.image_size,
            patch_size=self.patch_size,
            n_embd=self.n_embd,
            n_ff=self.n_ff_padded,
            n_layer=self.n_run,
            n_head=self.n_head,
            layer_norm_eps=self.eps,
            n_embd_out=self.n_embd_out,
            image_mean=self.image_mean,
            image_std=self.image_std,
            n_ff_unpadded=self.n_ff,
            post_layernorm=self.post_layernorm,
            downsample=self.downsample,
            token_order=self.token_order,
            projector_act=self.projector_act,
            projector_eps=self.projector_eps,
            **self.tiler.keys(),
            assembly_method="anyres" if self.is_anyres else "concat",
            assembly_max_tiles=self.max_tiles,
            image_prefix=self.image_prefix,
            image_suffix=self.image_suffix,
            image_token=self.template_image_token,
        ).add_to(writer)

    def specs(self) -> list[TensorSpec]:
        """The tensor table."""
        d, f, padded = self.n_embd, self.n_ff, self.n_ff_padded
        merged = self.downsample**2 * d
        out: list[TensorSpec] = []

        def pair(name: str, source: str, shape: tuple[int, ...], kind: str) -> None:
            out.append(TensorSpec(f"{name}.weight", f"{source}.weight", shape, kind))
            out.append(TensorSpec(f"{name}.bias", f"{source}.bias", shape[:1]))

        def norm(name: str, source: str, width: int) -> None:
            out.append(TensorSpec(f"{name}.weight", f"{source}.weight", (width,)))
            out.append(TensorSpec(f"{name}.bias", f"{source}.bias", (width,)))

        embeddings = f"{TOWER}.embeddings"
        pair("v.patch_embd", f"{embeddings}.patch_embedding", (d, 3, self.patch_size, self.patch_size), PATCH)
        out.append(
            TensorSpec(
                "v.position_embd.weight", f"{embeddings}.position_embedding.weight", (self.n_patches, d)
            )
        )
        for i in range(self.n_run):
            blk, layer = f"v.blk.{i}", f"{TOWER}.encoder.layers.{i}"
            norm(f"{blk}.ln1", f"{layer}.layer_norm1", d)
            for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "out")):
                pair(f"{blk}.attn_{ours}", f"{layer}.self_attn.{theirs}_proj", (d, d), MATRIX)
            norm(f"{blk}.ln2", f"{layer}.layer_norm2", d)
            up, down = f"{layer}.mlp.fc1", f"{layer}.mlp.fc2"
            out += [
                TensorSpec(f"{blk}.ffn_up.weight", f"{up}.weight", (f, d), MATRIX, (padded, d), self._rows),
                TensorSpec(
                    f"{blk}.ffn_up.bias", f"{up}.bias", (f,), out_shape=(padded,), transform=self._rows
                ),
                TensorSpec(
                    f"{blk}.ffn_down.weight", f"{down}.weight", (d, f), MATRIX, (d, padded), self._columns
                ),
                TensorSpec(f"{blk}.ffn_down.bias", f"{down}.bias", (d,)),
            ]
        if self.post_layernorm:
            norm("v.post_ln", f"{TOWER}.post_layernorm", d)
        if self.input_norm:
            norm("mm.input_norm", f"{PROJECTOR}.input_norm", merged)
        pair("mm.0", f"{PROJECTOR}.linear_1", (self.n_projector, merged), MATRIX)
        pair("mm.2", f"{PROJECTOR}.linear_2", (self.n_embd_out, self.n_projector), MATRIX)
        if self.is_anyres:
            out.append(TensorSpec("mm.image_newline", IMAGE_NEWLINE, (self.n_embd_out,)))
        return out

    def _rows(self, values: Float32) -> Float32:
        return pad_rows(values, self.n_ff_padded)

    def _columns(self, values: Float32) -> Float32:
        return pad_columns(values, self.n_ff_padded)

    def dropped(self) -> list[str]:
        """Patterns of tensors that are known and not needed."""
        tower = TOWER.replace(".", r"\.")
        out = [tower + r"\.head\..*", tower + r"\.embeddings\.position_ids"]
        behind = "|".join(str(i) for i in range(self.n_run, self.n_layer))
        if behind:
            out.append(tower + rf"\.encoder\.layers\.({behind})\..*")
        if not self.post_layernorm:
            out.append(tower + r"\.post_layernorm\.(weight|bias)")
        return out
