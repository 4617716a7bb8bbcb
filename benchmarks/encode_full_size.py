"""Times the vision encoder at full size (SigLIP-so400m/14-384, random weights), the stock encoder beside it.

    python benchmarks/encode_full_size.py --type bf16 --mtmd bf16
    python benchmarks/encode_full_size.py --type q8_0 --tiles 1 4 9 --batch 1 2 4 --pipeline 0 1

Speed does not depend on the weights' values. Every configuration is run once per round, in turn, so
that whatever else the machine does falls on all of them alike; medians over the rounds are printed, in
ms per tile. `--mtmd` adds llama.cpp's own encoder (libmtmd, as llama-cpp-python ships it) on a stock-
format file of the given type with the FFN at its native 4304. With it, ours runs without the
downsampler, so that both compute the same network.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from bluelm_gguf.convert.vision.mmproj_keys import MmprojKeys, add_key

D, N_FF, N_HEAD, N_PATCHES, N_EMBD_OUT = 1152, 4304, 16, 729, 2560
PADDED_FF = 4352
TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


class RandomFile:
    """A GGUF of random tensors; equal shapes share their data, since making it is what takes time."""

    def __init__(self, path: Path, architecture: str, file_type: str) -> None:
        self.writer = gguf.GGUFWriter(path, architecture)
        self.wide, ftype = TYPES[file_type]
        self.writer.add_file_type(ftype)
        self._random = np.random.default_rng(0)
        self._made: dict[Any, np.ndarray] = {}

    def put(self, name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType | None = None) -> None:
        kind = gguf.GGMLQuantizationType.F32 if kind is None else kind
        if kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0) and shape[-1] % 32:
            kind = gguf.GGMLQuantizationType.F16
        if (shape, kind) not in self._made:
            data = self._random.standard_normal(shape, np.float32) * shape[-1] ** -0.5
            self._made[shape, kind] = gguf.quants.quantize(data, kind)
        self.writer.add_tensor(name, self._made[shape, kind], raw_dtype=kind)

    def vision(self, n_layer: int, n_ff: int) -> None:
        """Tensors that both formats share."""
        narrow = self.wide if self.wide < gguf.GGMLQuantizationType.Q4_0 else gguf.GGMLQuantizationType.F16
        self.put("v.patch_embd.weight", (D, 3, 14, 14), narrow)
        self.put("v.patch_embd.bias", (D,))
        self.put("v.position_embd.weight", (N_PATCHES, D))
        for i in range(n_layer):
            for norm in "ln1", "ln2":
                self.put(f"v.blk.{i}.{norm}.weight", (D,))
                self.put(f"v.blk.{i}.{norm}.bias", (D,))
            attention = [(f"attn_{part}", D, D) for part in ("q", "k", "v", "out")]
            for name, out, n_in in (*attention, ("ffn_up", n_ff, D), ("ffn_down", D, n_ff)):
                self.put(f"v.blk.{i}.{name}.weight", (out, n_in), self.wide)
                self.put(f"v.blk.{i}.{name}.bias", (out,))

    def close(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def _tower(n_layer: int, n_ff: int) -> dict[str, int]:
    """Sizes of the tower, as MmprojKeys calls them."""
    return {"image_size": 384, "patch_size": 14, "n_embd": D, "n_ff": n_ff, "n_layer": n_layer,
            "n_head": N_HEAD, "n_embd_out": N_EMBD_OUT}  # fmt: skip


def write_ours(path: Path, file_type: str, n_layer: int, downsample: int) -> Path:
    """An mmproj as docs/mmproj.md describes it."""
    f = RandomFile(path, "clip", file_type)
    tower = _tower(n_layer, PADDED_FF)
    MmprojKeys(**tower, n_ff_unpadded=N_FF, downsample=downsample, tiler_grids=(1, 1, 2, 4)).add_to(f.writer)
    f.vision(n_layer, PADDED_FF)
    f.put("mm.0.weight", (N_EMBD_OUT, downsample**2 * D), f.wide)
    f.put("mm.0.bias", (N_EMBD_OUT,))
    f.put("mm.2.weight", (N_EMBD_OUT, N_EMBD_OUT), f.wide)
    f.put("mm.2.bias", (N_EMBD_OUT,))
    f.close()
    return path


def write_stock(path: Path, file_type: str, n_layer: int) -> Path:
    """The same network as a LLaVA mmproj. Its graph leaves out the last block, so it is given one more."""
    f = RandomFile(path, "clip", file_type)
    keys = MmprojKeys(**_tower(n_layer + 1, N_FF), n_ff_unpadded=N_FF, projector_type="mlp")
    for name, value in keys.values().items():
        if name.startswith("clip."):
            add_key(f.writer, name, value)
    f.vision(n_layer + 1, N_FF)
    for i, n_in in ((0, D), (2, N_EMBD_OUT)):
        f.put(f"mm.{i}.weight", (N_EMBD_OUT, n_in), f.wide)
        f.put(f"mm.{i}.bias", (N_EMBD_OUT,))
    f.close()
    return path


def _llm_head(w: gguf.GGUFWriter) -> None:
    """Hyperparameters and vocabulary of an LLM of the right width, with one thin block."""
    w.add_context_length(1024)
    w.add_embedding_length(N_EMBD_OUT)
    w.add_block_count(1)
    w.add_feed_forward_length(256)
    w.add_head_count(20)
    w.add_head_count_kv(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))])
    w.add_token_scores([0.0] * 259)
    w.add_token_types([2, 3, 3] + [6] * 256)


def write_vocabulary(path: Path) -> Path:
    """An LLM without weights: encoding through libmtmd looks at nothing else."""
    w = gguf.GGUFWriter(path, "llama")
    _llm_head(w)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def write_thin_llm(path: Path) -> Path:
    """An LLM that runs, of one thin block: for llama-mtmd-cli, which evaluates what it has encoded."""
    f = RandomFile(path, "llama", "f16")
    _llm_head(f.writer)
    for name, shape in {
        "token_embd": (259, N_EMBD_OUT), "output": (259, N_EMBD_OUT), "output_norm": (N_EMBD_OUT,),
        "blk.0.attn_norm": (N_EMBD_OUT,), "blk.0.ffn_norm": (N_EMBD_OUT,),
        "blk.0.attn_q": (N_EMBD_OUT, N_EMBD_OUT), "blk.0.attn_k": (N_EMBD_OUT // 20, N_EMBD_OUT),
        "blk.0.attn_v": (N_EMBD_OUT // 20, N_EMBD_OUT), "blk.0.attn_output": (N_EMBD_OUT, N_EMBD_OUT),
        "blk.0.ffn_gate": (256, N_EMBD_OUT), "blk.0.ffn_up": (256, N_EMBD_OUT),
        "blk.0.ffn_down": (N_EMBD_OUT, 256),
    }.items():  # fmt: skip
        f.put(f"{name}.weight", shape, f.wide if len(shape) > 1 else None)
    f.close()
    return path


def stock_encoder(
    path: Path, vocabulary: Path, n_threads: int, tile: np.ndarray, flash: int
) -> Callable[[], None]:
    """libmtmd on one 384x384 tile."""
    import llama_cpp
    from llama_cpp import mtmd_cpp as mtmd

    model_params = llama_cpp.llama_model_default_params()
    model_params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(vocabulary).encode(), model_params)
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.n_threads, params.print_timings, params.warmup = False, n_threads, False, False
    params.flash_attn_type = flash
    context = mtmd.mtmd_init_from_file(str(path).encode(), model, params)
    if not context:
        raise SystemExit(f"libmtmd does not load {path}")
    pixels = (ctypes.c_uint8 * tile.size).from_buffer_copy(tile.tobytes())
    bitmap = mtmd.mtmd_bitmap_init(384, 384, pixels)
    marker = mtmd.mtmd_default_marker()
    text = mtmd.mtmd_input_text(marker, len(marker), False, False)
    chunks = mtmd.mtmd_input_chunks_init()
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
    image = mtmd.mtmd_input_chunks_get(chunks, 0)
    assert mtmd.mtmd_input_chunk_get_n_tokens(image) == N_PATCHES

    def encode() -> None:
        assert mtmd.mtmd_encode_chunk(context, image) == 0

    return encode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--type", nargs="+", default=["bf16"], choices=TYPES)
    parser.add_argument("--tiles", nargs="+", type=int, default=[4])
    parser.add_argument("--batch", nargs="+", type=int, default=[4])
    parser.add_argument("--pipeline", nargs="+", type=int, default=[0], choices=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=27, help="fewer for a quick look")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time instead of wall time, for a busy machine; 1 thread"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--mtmd", nargs="*", default=[], choices=TYPES, help="types of the stock encoder's file"
    )
    parser.add_argument("--mtmd-flash", nargs="+", type=int, default=[-1], help="-1 auto, 0 off, 1 on")
    args = parser.parse_args()
    clock = time.perf_counter
    if args.cpu_time:
        args.threads, clock = 1, time.process_time

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
    import llama_cpp._logger  # noqa: F401  # keeps ggml's debug lines off the terminal
    from native_vision import NativeVision

    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (max(args.tiles), 384, 384, 3), dtype=np.uint8)
    runs: dict[str, tuple[int, Callable[[], Any]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for file_type in args.type:
            path = write_ours(
                Path(directory) / f"ours-{file_type}.gguf", file_type, args.layers, 1 if args.mtmd else 2
            )
            for batch in args.batch:
                for pipeline in args.pipeline:
                    vision = NativeVision(path, n_threads=args.threads, batch=batch, pipeline=pipeline)
                    for n in args.tiles:
                        name = f"ours {file_type}, {n} tiles, batch {batch}" + ", pipeline" * pipeline
                        runs[name] = (n, lambda v=vision, n=n: v.encode_tiles(tiles[:n]))
            os.unlink(path)
        if args.mtmd:
            vocabulary = write_vocabulary(Path(directory) / "vocabulary.gguf")
            for file_type in args.mtmd:
                path = write_stock(Path(directory) / f"stock-{file_type}.gguf", file_type, args.layers)
                for flash in args.mtmd_flash:
                    runs[f"stock {file_type}, flash {flash}"] = (
                        1,
                        stock_encoder(path, vocabulary, args.threads, tiles[0], flash),
                    )
                os.unlink(path)

        times: dict[str, list[float]] = {name: [] for name in runs}
        for round_index in range(args.rounds + 1):
            for name, (n, run) in runs.items():
                start = clock()
                run()
                if round_index:  # the first round warms up
                    times[name].append(1e3 * (clock() - start) / n)
    stock = min((statistics.median(t) for name, t in times.items() if name.startswith("stock")), default=None)
    print(f"\n{'configuration':44} {'ms/tile':>8} {'min':>8}" + ("  / best stock" if stock else ""))
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:44} {median:8.0f} {min(values):8.0f}" + (f" {median / stock:8.2f}" if stock else ""))


if __name__ == "__main__":
    main()
