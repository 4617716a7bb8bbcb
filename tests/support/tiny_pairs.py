"""Tiny random pairs of other people's dialects, in the layout that llama.cpp's converter writes: for tests of
pictures through libmtmd. Written with gguf alone, in a moment each.

    python tests/support/tiny_pairs.py DIRECTORY [DIALECT ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_models import CHATML, byte_characters

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<bos>")
WORDS = ("what", "is", "this", "the", "user", "assistant")
MARKERS = (
    "<start_of_image>", "<end_of_image>", "<fake_token_around_image>", "<global-img>", "<image>", "</image>",
    "<slice>", "</slice>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<img>", "</img>",
    "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)),
    *(f"<|img_row_{r}_col_{c}|>" for r in range(1, 11) for c in range(1, 11) if r * c <= 10),
)  # fmt: skip


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges: the bytes, two newlines, a few words, the special tokens."""
    newline = byte_characters()[10]
    tokens, merges = [*byte_characters(), newline * 2], [f"{newline} {newline}"]
    for word in WORDS:
        for i in range(1, len(word)):
            if word[: i + 1] not in tokens:
                tokens.append(word[: i + 1])
                merges.append(f"{word[:i]} {word[i]}")
    return [*tokens, *SPECIALS, *MARKERS], merges


class _Tensors:
    """Random tensors into a writer."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int) -> None:
        self.writer = writer
        self.rng = np.random.default_rng(seed)

    def add(self, name: str, *shape: int, scale: float | None = None, dtype: Any = np.float32) -> None:
        """Normal values; by default scaled by the square root of the columns, as layers start."""
        scale = 1.0 / np.sqrt(shape[-1]) if scale is None else scale
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        self.writer.add_tensor(name, values.astype(dtype))

    def norm(self, name: str, n: int, *, bias: bool = False) -> None:
        """Weights around 1, biases around 0."""
        values = 1 + 0.1 * self.rng.standard_normal(n, dtype=np.float32)
        self.writer.add_tensor(f"{name}.weight", values.astype(np.float32))
        if bias:
            self.add(f"{name}.bias", n, scale=0.1)

    def linear(self, name: str, n_out: int, n_in: int, *, bias: bool = True, dtype: Any = np.float16) -> None:
        """A matrix, and biases."""
        self.add(f"{name}.weight", n_out, n_in, dtype=dtype)
        if bias:
            self.add(f"{name}.bias", n_out, scale=0.1)


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# -------------------------------------------------------------------------------------------- language models


@dataclass(frozen=True)
class Llm:
    """A language model of a few layers."""

    architecture: str = "llama"
    n_embd: int = 64
    n_layer: int = 2
    n_head: int = 4
    n_kv: int = 2
    n_ff: int = 128
    template: str = CHATML
    bos: bool = False
    deepstack: int = 0
    n_ctx_train: int = 4096


def write_llm(path: Path, llm: Llm, seed: int) -> Path:
    """Writes the language model."""
    arch, n, head = llm.architecture, llm.n_embd, llm.n_embd // llm.n_head
    tokens, merges = vocabulary()
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(f"Tiny random {arch}")
    writer.add_type("model")
    writer.add_context_length(llm.n_ctx_train)
    writer.add_embedding_length(n)
    writer.add_block_count(llm.n_layer)
    writer.add_feed_forward_length(llm.n_ff)
    writer.add_head_count(llm.n_head)
    is_conv = [arch == "lfm2" and i % 2 == 0 for i in range(llm.n_layer)]
    writer.add_head_count_kv([0 if conv else llm.n_kv for conv in is_conv] if any(is_conv) else llm.n_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if arch in ("gemma3", "qwen3vl"):
        writer.add_key_length(head)
        writer.add_value_length(head)
    if arch == "llama":
        writer.add_rope_dimension_count(head)
    if arch == "gemma3":
        writer.add_sliding_window(32)
    if arch in ("qwen2vl", "qwen3vl"):
        writer.add_rope_dimension_sections([head // 8, head // 8 * 3 // 2, head // 2 - head // 8 * 5 // 2, 0])
    if arch == "qwen3vl":
        writer.add_num_deepstack_layers(llm.deepstack)
    if arch == "lfm2":
        writer.add_shortconv_l_cache(3)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
    writer.add_token_types([control if token in (*SPECIALS, *MARKERS) else normal for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<bos>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(llm.bos)
    writer.add_chat_template(llm.template)

    t = _Tensors(writer, seed)
    t.add("token_embd.weight", len(tokens), n, scale=1.0, dtype=np.float16)
    t.norm("token_embd_norm" if arch == "lfm2" else "output_norm", n)
    # Only letters and words are answered: nothing of them is lost on the way to a terminal.
    answers = np.array([token.isascii() and token.isalnum() for token in tokens])
    head_rows = t.rng.standard_normal((len(tokens), n), dtype=np.float32) * 0.3 * answers[:, None]
    writer.add_tensor("output.weight", head_rows.astype(np.float16))
    for i in range(llm.n_layer):
        block = f"blk.{i}"
        t.norm(f"{block}.attn_norm", n)
        if is_conv[i]:
            t.add(f"{block}.shortconv.conv.weight", n, 3, scale=0.5)
            t.linear(f"{block}.shortconv.in_proj", 3 * n, n, bias=False)
            t.linear(f"{block}.shortconv.out_proj", n, n, bias=False)
        else:
            bias = arch == "qwen2vl"
            t.linear(f"{block}.attn_q", llm.n_head * head, n, bias=bias)
            t.linear(f"{block}.attn_k", llm.n_kv * head, n, bias=bias)
            t.linear(f"{block}.attn_v", llm.n_kv * head, n, bias=bias)
            t.linear(f"{block}.attn_output", n, llm.n_head * head, bias=False)
            if arch in ("gemma3", "qwen3vl", "lfm2"):
                t.norm(f"{block}.attn_q_norm", head)
                t.norm(f"{block}.attn_k_norm", head)
        if arch == "gemma3":
            t.norm(f"{block}.post_attention_norm", n)
            t.norm(f"{block}.post_ffw_norm", n)
        t.norm(f"{block}.ffn_norm", n)
        t.linear(f"{block}.ffn_gate", llm.n_ff, n, bias=False)
        t.linear(f"{block}.ffn_up", llm.n_ff, n, bias=False)
        t.linear(f"{block}.ffn_down", n, llm.n_ff, bias=False)
    _close(writer)
    return path


# ----------------------------------------------------------------------------------------------- vision files


def _head(
    path: Path, projector: str, *, image: int, patch: int, n: int, n_layer: int, n_head: int, n_ff: int,
    n_out: int, eps: float = 1e-6, gelu: bool = True,
) -> gguf.GGUFWriter:  # fmt: skip
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name(f"Tiny random {projector}")
    writer.add_type("mmproj")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_string("clip.projector_type", projector)
    writer.add_bool("clip.has_vision_encoder", True)
    for key, value in (
        ("image_size", image), ("patch_size", patch), ("embedding_length", n), ("block_count", n_layer),
        ("feed_forward_length", n_ff), ("attention.head_count", n_head), ("projection_dim", n_out),
    ):  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", eps)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    if gelu:
        writer.add_bool("clip.use_gelu", True)
    return writer


def _vit(
    t: _Tensors, *, n: int, patch: int, n_pos: int, n_layer: int, n_ff: int, post_ln: bool = True,
    class_token: bool = False, layer_scale: bool = False, swapped: bool = False,
) -> None:  # fmt: skip
    """A SigLIP or InternViT tower."""
    t.add("v.patch_embd.weight", n, 3, patch, patch, scale=0.05)
    t.add("v.patch_embd.bias", n, scale=0.1)
    if class_token:
        t.add("v.class_embd", n, scale=0.5)
    t.add("v.position_embd.weight", n_pos, n, scale=0.5)
    if post_ln:
        t.norm("v.post_ln", n, bias=True)
    up, down = ("ffn_down", "ffn_up") if swapped else ("ffn_up", "ffn_down")
    for i in range(n_layer):
        block = f"v.blk.{i}"
        for name in ("ln1", "ln2"):
            t.norm(f"{block}.{name}", n, bias=True)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            t.linear(f"{block}.{name}", n, n)
        t.linear(f"{block}.{up}", n_ff, n)
        t.linear(f"{block}.{down}", n, n_ff)
        if layer_scale:
            t.norm(f"{block}.ls1", n)
            t.norm(f"{block}.ls2", n)


def write_gemma3(path: Path, n_out: int, seed: int, *, image: int = 112, n: int = 64) -> None:
    """The vision file of Gemma 3: (image / 28)^2 tokens."""
    size = {"n": n, "patch": 14, "n_layer": 2, "n_ff": 2 * n}
    writer = _head(path, "gemma3", image=image, n_head=4, n_out=n_out, **size)
    writer.add_uint32("clip.vision.projector.scale_factor", 2)
    t = _Tensors(writer, seed)
    _vit(t, n_pos=(image // 14) ** 2, **size)
    t.norm("mm.soft_emb_norm", n)
    t.add("mm.input_projection.weight", n, n_out, scale=0.125, dtype=np.float16)  # transposed
    _close(writer)


def _idefics3(path: Path, n_out: int, seed: int) -> None:
    size = {"n": 64, "patch": 16, "n_layer": 2, "n_ff": 128}
    writer = _head(path, "idefics3", image=64, n_head=4, n_out=n_out, **size)
    writer.add_uint32("clip.vision.projector.scale_factor", 2)
    writer.add_uint32("clip.vision.preproc_image_size", 192)
    t = _Tensors(writer, seed)
    _vit(t, n_pos=16, **size)
    t.linear("mm.model.fc", n_out, 4 * 64, bias=False)
    _close(writer)


def _mlp(path: Path, n_out: int, seed: int) -> None:
    size = {"n": 64, "patch": 14, "n_layer": 3, "n_ff": 128}
    writer = _head(path, "mlp", image=112, n_head=4, n_out=0, gelu=False, **size)
    t = _Tensors(writer, seed)
    _vit(t, n_pos=64, swapped=True, post_ln=False, **size)
    t.linear("mm.0", 96, 64)
    t.linear("mm.2", n_out, 96)
    _close(writer)


def _internvl(path: Path, n_out: int, seed: int) -> None:
    size = {"n": 64, "patch": 14, "n_layer": 4, "n_ff": 128}
    writer = _head(path, "internvl", image=112, n_head=4, n_out=n_out, **size)
    writer.add_uint32("clip.vision.projector.scale_factor", 2)
    writer.add_uint32("clip.vision.preproc_min_tiles", 1)
    writer.add_uint32("clip.vision.preproc_max_tiles", 4)
    t = _Tensors(writer, seed)
    _vit(t, n_pos=65, class_token=True, layer_scale=True, post_ln=False, **size)
    t.norm("mm.model.mlp.0", 256, bias=True)
    t.linear("mm.model.mlp.1", 96, 256)
    t.linear("mm.model.mlp.3", n_out, 96)
    _close(writer)


def _lfm2(path: Path, n_out: int, seed: int) -> None:
    size = {"n": 64, "patch": 16, "n_layer": 2, "n_ff": 128}
    writer = _head(path, "lfm2", image=256, n_head=4, n_out=n_out, **size)
    writer.add_uint32("clip.vision.projector.scale_factor", 2)
    t = _Tensors(writer, seed)
    _vit(t, n_pos=256, **size)
    t.norm("mm.input_norm", 256, bias=True)
    t.linear("mm.1", 96, 256)
    t.linear("mm.2", n_out, 96)
    _close(writer)


def _resampler(path: Path, n_out: int, seed: int) -> None:
    size = {"n": 64, "patch": 14, "n_layer": 2, "n_ff": 96}
    writer = _head(path, "resampler", image=112, n_head=4, n_out=0, **size)
    writer.add_int32("clip.minicpmv_version", 3)
    writer.add_uint32("clip.minicpmv_query_num", 8)
    t = _Tensors(writer, seed)
    _vit(t, n_pos=4900, swapped=True, **size)
    t.add("resampler.pos_embed_k", 4900, n_out, scale=0.1)
    t.add("resampler.query", 8, n_out, scale=1.0)
    t.linear("resampler.proj", n_out, n_out, bias=False)
    t.linear("resampler.kv", n_out, 64, bias=False)
    for name in ("q", "k", "v", "out"):
        t.linear(f"resampler.attn.{name}", n_out, n_out)
    for name in ("ln_q", "ln_kv", "ln_post"):
        t.norm(f"resampler.{name}", n_out, bias=True)
    _close(writer)


def _janus_pro(path: Path, n_out: int, seed: int) -> None:
    size = {"n": 64, "patch": 16, "n_layer": 2, "n_ff": 128}
    writer = _head(path, "janus_pro", image=96, n_head=4, n_out=n_out, **size)
    t = _Tensors(writer, seed)
    _vit(t, n_pos=36, **size)
    t.linear("mm.0", 96, 64)
    t.linear("mm.1", n_out, 96)
    _close(writer)


def _qwen25vl(path: Path, n_out: int, seed: int) -> None:
    n, n_layer, n_ff, patch = 64, 4, 128, 14
    writer = _head(
        path, "qwen2.5vl_merger", image=560, patch=patch, n=n, n_layer=n_layer, n_head=4, n_ff=n_ff,
        n_out=n_out, gelu=False,
    )  # fmt: skip
    writer.add_bool("clip.use_silu", True)
    writer.add_uint32("clip.vision.n_wa_pattern", 2)
    t = _Tensors(writer, seed)
    t.add("v.patch_embd.weight", n, 3, patch, patch, scale=0.05)
    t.add("v.patch_embd.weight.1", n, 3, patch, patch, scale=0.05)
    t.norm("v.post_ln", n)
    for i in range(n_layer):
        block = f"v.blk.{i}"
        t.norm(f"{block}.ln1", n)
        t.norm(f"{block}.ln2", n)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            t.linear(f"{block}.{name}", n, n)
        t.linear(f"{block}.ffn_gate", n_ff, n)
        t.linear(f"{block}.ffn_up", n_ff, n)
        t.linear(f"{block}.ffn_down", n, n_ff)
    t.linear("mm.0", 4 * n, 4 * n)
    t.linear("mm.2", n_out, 4 * n)
    _close(writer)


def _qwen3vl(path: Path, n_out: int, seed: int) -> None:
    n, n_layer, n_ff, patch = 64, 3, 128, 16
    writer = _head(
        path, "qwen3vl_merger", image=256, patch=patch, n=n, n_layer=n_layer, n_head=4, n_ff=n_ff, n_out=n_out
    )
    writer.add_uint32("clip.vision.spatial_merge_size", 2)
    writer.add_array("clip.vision.is_deepstack_layers", [False, True, False])
    t = _Tensors(writer, seed)
    t.add("v.patch_embd.weight", n, 3, patch, patch, scale=0.05)
    t.add("v.patch_embd.weight.1", n, 3, patch, patch, scale=0.05)
    t.add("v.patch_embd.bias", n, scale=0.1)
    t.add("v.position_embd.weight", 256, n, scale=0.5)
    t.norm("v.post_ln", n, bias=True)
    for i in range(n_layer):
        block = f"v.blk.{i}"
        t.norm(f"{block}.ln1", n, bias=True)
        t.norm(f"{block}.ln2", n, bias=True)
        t.linear(f"{block}.attn_qkv", 3 * n, n)
        t.linear(f"{block}.attn_out", n, n)
        t.linear(f"{block}.ffn_up", n_ff, n)
        t.linear(f"{block}.ffn_down", n, n_ff)
    t.norm("v.deepstack.1.norm", 4 * n, bias=True)
    t.linear("v.deepstack.1.fc1", 4 * n, 4 * n)
    t.linear("v.deepstack.1.fc2", n_out, 4 * n)
    t.linear("mm.0", 4 * n, 4 * n)
    t.linear("mm.2", n_out, 4 * n)
    _close(writer)


GEMMA = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Dialect:
    """How a pair is written."""

    llm: Llm
    write: Callable[[Path, int, int], None]
    seed: int = 1


DIALECTS = {
    "gemma3": Dialect(Llm("gemma3", n_layer=6, template=GEMMA, bos=True), write_gemma3),
    "idefics3": Dialect(Llm(), _idefics3),
    "mlp": Dialect(Llm(), _mlp),
    "internvl": Dialect(Llm(), _internvl),
    "lfm2": Dialect(Llm("lfm2", n_layer=4, n_ff=160), _lfm2),
    "resampler": Dialect(Llm(n_embd=128), _resampler),
    "janus_pro": Dialect(Llm(), _janus_pro),
    "qwen2.5vl": Dialect(Llm("qwen2vl", n_head=2, n_kv=1, template=QWEN), _qwen25vl),
    "qwen3vl": Dialect(Llm("qwen3vl", n_head=2, n_kv=1, template=QWEN, deepstack=1), _qwen3vl),
}


def write_pair(directory: Path, name: str, *, seed: int | None = None) -> tuple[Path, Path]:
    """Writes language model and vision file of a dialect.

    Returns:
        Both paths.
    """
    dialect = DIALECTS[name]
    seed = dialect.seed if seed is None else seed
    directory.mkdir(parents=True, exist_ok=True)
    llm, mmproj = directory / f"{name}-llm.gguf", directory / f"{name}-mmproj.gguf"
    write_llm(llm, dialect.llm, seed)
    dialect.write(mmproj, dialect.llm.n_embd, seed + 1000)
    return llm, mmproj


if __name__ == "__main__":
    for chosen in sys.argv[2:] or DIALECTS:
        print(*write_pair(Path(sys.argv[1]), chosen))
