"""Vision towers with random weights in llama.cpp's own formats, and libmtmd on them, with a device or not.

    write_tower(path, TOWERS["gemma3"], "q8_0")     full size
    write_tower(path, tiny("siglip"), "f16")

The formats are those of llama.cpp's converters (tools/mtmd/clip.cpp at 0c1e570 reads them). An LLM without
weights (write_vocabulary) is all that encoding needs beside them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
TYPES = {
    "f32": (Q.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Q.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Q.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Q.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Q.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


@dataclass(frozen=True)
class Tower:
    """A tower's shape. projector: clip.projector_type."""

    projector: str
    image_size: int
    patch: int
    n_embd: int
    n_ff: int
    n_layer: int
    n_head: int
    n_out: int  # the LLM's width
    merge: int = 1  # patches a side that become one token
    act: str = "gelu"  # gelu, silu, quick

    @property
    def n_patches(self) -> int:
        return (self.image_size // self.patch) ** 2


TOWERS = {
    # moondream2 and the like: all patches are tokens. The graph leaves out the last block.
    "siglip": Tower("mlp", 384, 14, 1152, 4304, 27, 16, 2560),
    "gemma3": Tower("gemma3", 896, 14, 1152, 4304, 27, 16, 2560, 4),
    # SmolVLM-500M
    "smolvlm": Tower("idefics3", 512, 16, 768, 3072, 12, 12, 960, 4),
    # InternVL3-1B's InternViT-300M
    "internvl": Tower("internvl", 448, 14, 1024, 4096, 24, 16, 896, 2),
    # Qwen2.5-VL-3B's tower on 560x560
    "qwen2.5vl": Tower("qwen2.5vl_merger", 560, 14, 1280, 3420, 32, 16, 2048, 2, "silu"),
}


def tiny(name: str) -> Tower:
    """The same kind of tower with small odd numbers: n_ff no multiple of 32, head_dim 24."""
    tower = TOWERS[name]
    side = {"gemma3": 8, "smolvlm": 8, "internvl": 6, "qwen2.5vl": 20}.get(name, 7)
    return replace(
        tower, image_size=side * tower.patch, n_embd=96, n_ff=144, n_layer=4, n_head=4, n_out=64,
    )  # fmt: skip


class _File:
    """A GGUF of random tensors; equal shapes share their data, since making it is what takes time."""

    def __init__(self, path: Path, architecture: str, file_type: str, seed: int) -> None:
        self.writer = gguf.GGUFWriter(path, architecture)
        self.wide, ftype = TYPES[file_type]
        self.writer.add_file_type(ftype)
        self._random = np.random.default_rng(seed)
        self._made: dict[Any, np.ndarray] = {}

    def put(
        self, name: str, shape: tuple[int, ...], kind: Q | None = None, *, norm: float | None = None
    ) -> None:
        """norm: values around it, as norms' weights have."""
        kind = Q.F32 if kind is None else kind
        if kind in (Q.Q8_0, Q.Q4_0) and shape[-1] % 32:
            kind = Q.F16
        key = (shape, kind, norm)
        if key not in self._made:
            data = self._random.standard_normal(shape, np.float32)
            data = data * (shape[-1] ** -0.5 if norm is None else 0.2) + np.float32(norm or 0)
            self._made[key] = gguf.quants.quantize(data.astype(np.float32), kind)
        self.writer.add_tensor(name, self._made[key], raw_dtype=kind)

    def norm(self, name: str, n: int, outliers: np.ndarray | None, bias: bool = True) -> None:
        if outliers is None:
            self.put(f"{name}.weight", (n,), norm=1.0)
        else:
            weight = 1 + 0.2 * self._random.standard_normal(n).astype(np.float32)
            self.writer.add_tensor(f"{name}.weight", (weight * outliers).astype(np.float32))
        if bias:
            self.put(f"{name}.bias", (n,))

    def linear(
        self, name: str, n_out: int, n_in: int, kind: Q | None = None, bias: bool = True,
        columns: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """columns: what the weights' are divided by."""
        kind = self.wide if kind is None else kind
        if columns is None:
            self.put(f"{name}.weight", (n_out, n_in), kind)
        else:
            data = self._random.standard_normal((n_out, n_in), np.float32) * n_in**-0.5 / columns
            quantised = gguf.quants.quantize(data.astype(np.float32), kind)
            self.writer.add_tensor(f"{name}.weight", quantised, raw_dtype=kind)
        if bias:
            self.put(f"{name}.bias", (n_out,))

    def close(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def write_tower(path: Path, tower: Tower, file_type: str, *, outliers: float = 1.0, seed: int = 0) -> Path:
    """outliers: five channels of each block's norms are that many times larger than the others,
    and the weights that read them so many times smaller."""
    f = _File(path, "clip", file_type, seed)
    w, d, t = f.writer, tower.n_embd, tower
    w.add_string("clip.projector_type", t.projector)
    w.add_bool("clip.has_vision_encoder", True)
    w.add_bool("clip.use_gelu", t.act == "gelu")
    w.add_bool("clip.use_silu", t.act == "silu")
    n_layer = t.n_layer + (t.projector == "mlp")
    for key, value in {
        "image_size": t.image_size, "patch_size": t.patch, "embedding_length": d,
        "feed_forward_length": t.n_ff, "block_count": n_layer, "attention.head_count": t.n_head,
        "projection_dim": t.n_out,
    }.items():  # fmt: skip
        w.add_uint32(f"clip.vision.{key}", value)
    w.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    w.add_array("clip.vision.image_mean", [0.5] * 3)
    w.add_array("clip.vision.image_std", [0.5] * 3)
    if t.projector in ("gemma3", "idefics3", "internvl"):
        w.add_uint32("clip.vision.projector.scale_factor", t.merge)
    if t.projector == "qwen2.5vl_merger":
        w.add_uint32("clip.vision.n_wa_pattern", 8 if t.n_layer > 8 else 2)
    narrow = f.wide if f.wide < Q.Q4_0 else Q.F16
    large = np.ones(d, np.float32)
    large[np.random.default_rng(1).choice(d, 5, replace=False)] = outliers
    scales, behind = (large, large) if outliers != 1 else (None, None)
    is_qwen = t.projector == "qwen2.5vl_merger"

    f.put("v.patch_embd.weight", (d, 3, t.patch, t.patch), narrow)
    if is_qwen:
        f.put("v.patch_embd.weight.1", (d, 3, t.patch, t.patch), narrow)
    else:
        f.put("v.patch_embd.bias", (d,))
        f.put("v.position_embd.weight", (t.n_patches + (t.projector == "internvl"), d))
    if t.projector == "internvl":
        f.put("v.class_embd", (d,))
    for i in range(n_layer):
        block = f"v.blk.{i}"
        f.norm(f"{block}.ln1", d, scales, not is_qwen)
        f.norm(f"{block}.ln2", d, scales, not is_qwen)
        for part in ("q", "k", "v", "out"):
            f.linear(f"{block}.attn_{part}", d, d, columns=None if part == "out" else behind)
        for part, n_out, n_in in (("up", t.n_ff, d), ("gate", t.n_ff, d), ("down", d, t.n_ff)):
            if part != "gate" or is_qwen:
                f.linear(f"{block}.ffn_{part}", n_out, n_in, columns=None if part == "down" else behind)
        if t.projector == "internvl":
            f.put(f"{block}.ls1.weight", (d,), norm=0.5)
            f.put(f"{block}.ls2.weight", (d,), norm=0.5)
    if t.projector != "internvl" and t.projector != "mlp":
        f.norm("v.post_ln", d, None, not is_qwen)

    wide = t.merge**2 * d
    if t.projector == "mlp":
        f.linear("mm.0", t.n_out, d)
        f.linear("mm.2", t.n_out, t.n_out)
    elif t.projector == "gemma3":
        f.put("mm.soft_emb_norm.weight", (d,), norm=1.0)
        f.put("mm.input_projection.weight", (d, t.n_out), Q.F16)
    elif t.projector == "idefics3":
        f.linear("mm.model.fc", t.n_out, wide, bias=False)
    elif t.projector == "internvl":
        f.norm("mm.model.mlp.0", wide, None)
        f.linear("mm.model.mlp.1", t.n_out, wide)
        f.linear("mm.model.mlp.3", t.n_out, t.n_out)
    else:
        f.linear("mm.0", wide, wide)
        f.linear("mm.2", t.n_out, wide)
    f.close()
    return path


def write_vocabulary(path: Path, n_embd: int) -> Path:
    """An LLM without weights, with the marker tokens that libmtmd looks up."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(1024)
    w.add_embedding_length(n_embd)
    w.add_block_count(1)
    w.add_feed_forward_length(256)
    w.add_head_count(1)
    w.add_head_count_kv(1)
    w.add_layer_norm_rms_eps(1e-5)
    markers = ["<start_of_image>", "<end_of_image>", "<fake_token_around_image>", "<global-img>"]
    markers += ["<img>", "</img>", "<|vision_start|>", "<|vision_end|>", "\n\n", "\n"]
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *markers])
    w.add_token_scores([0.0] * (259 + len(markers)))
    w.add_token_types([2, 3, 3] + [6] * 256 + [3] * len(markers))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


class Mtmd:
    """libmtmd on one mmproj. n_embd: the LLM's width. device: a ggml_backend_dev_t; None: none."""

    def __init__(
        self,
        mmproj: Path,
        vocabulary: Path,
        n_embd: int,
        *,
        device: int | None = None,
        n_threads: int = 1,
        warmup: bool = False,
    ) -> None:
        import llama_cpp
        from llama_cpp import mtmd_cpp as mtmd

        self._llama, self._mtmd = llama_cpp, mtmd
        model_params = llama_cpp.llama_model_default_params()
        model_params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(vocabulary).encode(), model_params)
        self.n_embd = n_embd
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads = device is not None, n_threads
        params.print_timings, params.warmup = False, warmup
        if device is not None:
            params.device = device
        self._context = mtmd.mtmd_init_from_file(str(mmproj).encode(), self._model, params)
        if not self._context:
            raise RuntimeError(f"libmtmd does not load {mmproj}")

    def chunk(self, picture: np.ndarray) -> Any:
        """The picture's (first view's) chunk, to encode; kept until close()."""
        mtmd = self._mtmd
        height, width, _ = picture.shape
        pixels = (ctypes.c_uint8 * picture.size).from_buffer_copy(picture.tobytes())
        bitmap = mtmd.mtmd_bitmap_init(width, height, pixels)
        marker = mtmd.mtmd_default_marker()
        text = mtmd.mtmd_input_text(marker, len(marker), False, False)
        self._chunks = mtmd.mtmd_input_chunks_init()
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        if mtmd.mtmd_tokenize(self._context, self._chunks, ctypes.byref(text), bitmaps, 1) != 0:
            raise RuntimeError("libmtmd cannot tokenize the picture")
        mtmd.mtmd_bitmap_free(bitmap)
        for i in range(mtmd.mtmd_input_chunks_size(self._chunks)):
            chunk = mtmd.mtmd_input_chunks_get(self._chunks, i)
            if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                return chunk
        raise RuntimeError("libmtmd makes no picture of it")

    def encoder(self, picture: np.ndarray) -> Callable[[], int]:
        """Encodes the picture's first view; returns mtmd_encode_chunk's status."""
        chunk = self.chunk(picture)
        return lambda: int(self._mtmd.mtmd_encode_chunk(self._context, chunk))

    def encode(self, picture: np.ndarray) -> np.ndarray:
        """The first view's features, [tokens, n_embd]."""
        chunk = self.chunk(picture)
        if self._mtmd.mtmd_encode_chunk(self._context, chunk) != 0:
            raise RuntimeError("libmtmd cannot encode the picture")
        n = self._mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        features = self._mtmd.mtmd_get_output_embd(self._context)
        return np.ctypeslib.as_array(features, (n, self.n_embd)).copy()

    def close(self) -> None:
        """Frees everything."""
        if self._context:
            self._mtmd.mtmd_free(self._context)
            self._llama.llama_model_free(self._model)
        self._context = None


def plugin_device(library: Path) -> int:
    """The device of libggml-bluelm, as a ggml_backend_dev_t, without registering it."""
    import llama_cpp

    plugin = ctypes.CDLL(str(library))
    plugin.ggml_backend_init.restype = ctypes.c_void_p
    registry = plugin.ggml_backend_init()
    if not registry:
        raise RuntimeError(f"{library} refuses this ggml")
    base = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    base.ggml_backend_reg_dev_get.restype = ctypes.c_void_p
    base.ggml_backend_reg_dev_get.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return int(base.ggml_backend_reg_dev_get(registry, 0))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row with the same row."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a64 * b64).sum(1) / np.linalg.norm(a64, axis=1) / np.linalg.norm(b64, axis=1))
