"""Writes a random checkpoint of BlueLM-V-3B's size in the layout of docs/bluelm-v-layout.md, to measure with.

    python scripts/make_random_checkpoint.py /tmp/bluelm-v-random        (6.3 GB, about two minutes)
    python scripts/make_random_checkpoint.py /tmp/small --layers 2 --vision-layers 2

A Llama of 2.7B parameters (hidden 2560, 32 layers, 20 heads, FFN 6912, vocabulary 49152) and
SigLIP-so400m/14-384, bfloat16, in shards of safetensors, with a byte-level tokenizer and a model card.
Weights are normal noise with a deviation of 1/sqrt(columns). One block of a tensor is in memory at a
time. Needs numpy only.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

Shapes = list[tuple[str, tuple[int, ...]]]
BLOCK = 4 << 20  # values made at once
SHARD_BYTES = 2_000_000_000
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
# How Llama 3 splits text, from its published tokenizer.json.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CARD = """---
license: mit
language:
- en
- zh
tags:
- random-weights
---
Random weights of BlueLM-V-3B's shapes; the model says nothing.
"""


def text_shapes(config: dict[str, int]) -> Shapes:
    """Tensors of a Llama without biases."""
    d, ff, n_vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = d * config["num_key_value_heads"] // config["num_attention_heads"]
    out: Shapes = [("model.embed_tokens.weight", (n_vocab, d))]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        out += [
            (layer + "input_layernorm.weight", (d,)),
            (layer + "self_attn.q_proj.weight", (d, d)),
            (layer + "self_attn.k_proj.weight", (kv, d)),
            (layer + "self_attn.v_proj.weight", (kv, d)),
            (layer + "self_attn.o_proj.weight", (d, d)),
            (layer + "post_attention_layernorm.weight", (d,)),
            (layer + "mlp.gate_proj.weight", (ff, d)),
            (layer + "mlp.up_proj.weight", (ff, d)),
            (layer + "mlp.down_proj.weight", (d, ff)),
        ]
    out += [("model.norm.weight", (d,)), ("lm_head.weight", (n_vocab, d))]
    return [(f"language_model.{name}", shape) for name, shape in out]


def vision_shapes(config: dict[str, int], n_embd: int) -> Shapes:
    """Tensors of the SigLIP tower and of the projector."""
    d, ff, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    n_patches = (config["image_size"] // patch) ** 2

    def linear(name: str, rows: int, *columns: int) -> Shapes:
        return [(f"{name}.weight", (rows, *columns)), (f"{name}.bias", (rows,))]

    out = linear("embeddings.patch_embedding", d, 3, patch, patch)
    out.append(("embeddings.position_embedding.weight", (n_patches, d)))
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layers.{i}."
        for part in "qkv":
            out += linear(f"{layer}self_attn.{part}_proj", d, d)
        out += linear(f"{layer}self_attn.out_proj", d, d)
        out += linear(f"{layer}mlp.fc1", ff, d) + linear(f"{layer}mlp.fc2", d, ff)
        out += linear(f"{layer}layer_norm1", d) + linear(f"{layer}layer_norm2", d)
    out += linear("post_layernorm", d)
    tower = [(f"vision_tower.vision_model.{name}", shape) for name, shape in out]
    projector = linear("linear_1", n_embd, 4 * d) + linear("linear_2", n_embd, n_embd)
    return tower + [(f"multi_modal_projector.{name}", shape) for name, shape in projector]


def values(
    name: str, shape: tuple[int, ...], random: np.random.Generator
) -> Iterator[npt.NDArray[np.uint16]]:
    """The bfloat16 bits of a tensor, block by block."""
    scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.02
    shift = 1.0 if "norm" in name and name.endswith("weight") else 0.0
    left = math.prod(shape)
    while left:
        block = random.standard_normal(min(BLOCK, left), np.float32)
        block *= scale
        block += shift
        left -= block.size
        yield (block.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def write_shard(path: Path, tensors: Shapes, random: np.random.Generator) -> None:
    """One safetensors file: u64 header length, JSON header, data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors:
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            for block in values(name, shape, random):
                block.astype("<u2", copy=False).tofile(file)


def shards(tensors: Shapes) -> list[Shapes]:
    """Tensors in shards of about SHARD_BYTES."""
    out: list[Shapes] = [[]]
    size = 0
    for name, shape in tensors:
        n_bytes = 2 * math.prod(shape)
        if out[-1] and size + n_bytes > SHARD_BYTES:
            out.append([])
            size = 0
        out[-1].append((name, shape))
        size += n_bytes
    return out


def byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def write_tokenizer(directory: Path, n_vocab: int) -> None:
    """A byte-level BPE whose merges are pairs of bytes, enough of them to fill the vocabulary."""
    characters = byte_characters()
    n_merges = n_vocab - len(characters) - len(SPECIALS)
    if not 0 <= n_merges <= len(characters) ** 2:
        raise SystemExit(f"a vocabulary of {n_vocab} is not between {n_vocab - n_merges} and 65000")
    letters = sorted(characters, key=lambda c: (not (c.isascii() and c.isalpha()), c))
    pairs = [(a, b) for a in letters for b in letters][:n_merges]
    vocabulary = {text: i for i, text in enumerate([*characters, *(a + b for a, b in pairs)])}
    first = len(vocabulary)
    added = [
        {"id": first + i, "content": text, "special": True, "normalized": False, "single_word": False,
         "lstrip": False, "rstrip": False}
        for i, text in enumerate(SPECIALS)
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": False, "vocab": vocabulary, "merges": [list(pair) for pair in pairs]},
    }  # fmt: skip
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>",
              "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": False}  # fmt: skip
    for name, value in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        (directory / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHATML, encoding="utf-8")


def write_checkpoint(
    directory: Path, text: dict[str, int], vision: dict[str, int], *, seed: int = 0, quiet: bool = False
) -> None:
    """Writes a whole checkpoint directory.

    Args:
        directory: created if need be.
        text: keys of a LlamaConfig.
        vision: keys of a SiglipVisionConfig.
        seed: of the weights.
        quiet: print nothing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory, text["vocab_size"])
    eos = text["vocab_size"] - len(SPECIALS) + SPECIALS.index("<|im_end|>")
    config = {
        "model_type": "bluelm_v",
        "architectures": ["BlueLMVForConditionalGeneration"],
        "text_config": {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": eos, **text},
        "vision_config": {"model_type": "siglip_vision_model", "num_channels": 3, "layer_norm_eps": 1e-6,
                          "hidden_act": "gelu_pytorch_tanh", **vision},
        "vision_feature_layer": -1,
        "projector": {"downsample": 2},
        "image_token": "<image>",
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (directory / "README.md").write_text(CARD, encoding="utf-8")
    tensors = text_shapes(text) + vision_shapes(vision, text["hidden_size"])
    parts, random = shards(tensors), np.random.default_rng(seed)
    weight_map: dict[str, str] = {}
    for i, part in enumerate(parts, 1):
        file = f"model-{i:05d}-of-{len(parts):05d}.safetensors"
        write_shard(directory / file, part, random)
        weight_map |= {name: file for name, _ in part}
        if not quiet:
            print(f"{file}: {sum(2 * math.prod(shape) for _, shape in part) / 1e9:.2f} GB", flush=True)
    total = sum(2 * math.prod(shape) for _, shape in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def main() -> None:
    """Parses and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    for flag, value in (("--hidden", 2560), ("--layers", 32), ("--heads", 20), ("--ffn", 6912),
                        ("--vocab", 49152), ("--vision-layers", 27), ("--seed", 0)):  # fmt: skip
        parser.add_argument(flag, type=int, default=value, help=f"[{value}]")
    options = parser.parse_args()
    text = {
        "vocab_size": options.vocab, "hidden_size": options.hidden, "intermediate_size": options.ffn,
        "num_hidden_layers": options.layers, "num_attention_heads": options.heads,
        "num_key_value_heads": options.heads, "max_position_embeddings": 4096,
    }  # fmt: skip
    vision = {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": options.vision_layers,
        "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
    }  # fmt: skip
    write_checkpoint(options.directory, text, vision, seed=options.seed)


if __name__ == "__main__":
    main()
