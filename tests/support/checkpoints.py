"""Small random checkpoints in real layouts, for every test directory: config, safetensors, tokenizer.

Weights are drawn so that each tensor matters (biases and norms are not zero and one), widths are tiny,
images keep their real size (384 pixels, patch 14), and a tokenizer is trained on the spot: nothing is
downloaded.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from reference_model import TEXT_CLASSES, ReferenceBlueLMV
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

# The split patterns of Llama 3 and of Qwen2 (from their published tokenizer.json files): interface facts.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace("{1,3}", "")

CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog. What is in this picture? A small cat sits on the table.",
    "What does the sign say? It says that the shop is open from 9 to 17, and that the menu costs less "
    "than 25 euros.",
    "def forward(self, tokens):\n    return [token + 1 for token in tokens if token != 0]\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += values[i] * 3.14159;\n}\n",
    "这张图片里有什么?桌子上有一只小猫。招牌上写着什么?商店从九点开到十七点。手机上的多模态模型。",
    "La photo montre une rue étroite; l'été, on y vend des fraises. Über den Dächern fliegt ein Vogel.",
    "I can't believe it's not butter, they'll say we've done 12345 tests, 2024-11-20 10:30. 🙂🚀👍",
]


@cache
def _byte_level_json(kind: str, vocab_size: int) -> str:
    """tokenizer.json of a small byte-level BPE, split as Llama 3 ("llama") or Qwen2 ("qwen2") do."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama"))
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT if kind == "llama" else QWEN2_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in special_tokens(kind)]
    )
    if kind == "llama":
        bos = "<|begin_of_text|>"
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{bos} $A",
                    pair=f"{bos} $A {bos} $B",
                    special_tokens=[(bos, tokenizer.token_to_id(bos))],
                ),
            ]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer.to_str()


def special_tokens(kind: str) -> list[str]:
    """Special tokens of the trained tokenizers, in id order."""
    if kind == "llama":
        return [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<image>",
        ]
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]


def write_tokenizer(directory: str | Path, kind: str = "llama", vocab_size: int = 480) -> int:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja, as `transformers` saves them.

    Args:
        directory: an existing directory.
        kind: "llama" (Llama 3's split, BOS) or "qwen2" (Qwen2's split, ChatML, no BOS).
        vocab_size: tokens before the special ones, at least 256.

    Returns:
        The number of tokens, special ones included.
    """
    directory = Path(directory)
    text = _byte_level_json(kind, vocab_size)
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    if kind == "llama":
        names: dict[str, Any] = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
        template = LLAMA3_TEMPLATE
    else:
        names = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        template = CHATML_TEMPLATE
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        **names,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return Tokenizer.from_str(text).get_vocab_size()


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Fills every parameter: matrices with 1/sqrt(fan_in) noise, norms around one, biases around zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(noise * 0.5)
            elif "position_embedding" in name:
                parameter.copy_(noise * 0.3)
            elif parameter.dim() >= 2:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1.0 + noise * 0.1)
            else:
                parameter.copy_(noise * 0.1)


def text_config(kind: str = "llama", *, vocab_size: int = 486, **overrides: Any) -> dict[str, Any]:
    """config.json of a tiny LLM (hidden 64, 2 layers, 4 heads, 2 of them for keys and values)."""
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config = TEXT_CLASSES[kind][0](**(values | overrides))
    out: dict[str, Any] = json.loads(config.to_json_string())
    return {"model_type": kind} | out


def _token_ids(directory: Path, kind: str) -> dict[str, int | None]:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    if kind == "llama":
        return {
            "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
            "eos_token_id": tokenizer.token_to_id("<|eot_id|>"),
        }
    return {"bos_token_id": None, "eos_token_id": tokenizer.token_to_id("<|im_end|>")}


def save_tensors(directory: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> None:
    """Writes model.safetensors, or `shards` files with model.safetensors.index.json."""
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    names = list(tensors)
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]
        save_file({name: tensors[name] for name in part}, directory / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in part}
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def make_bluelm_v_checkpoint(
    directory: str | Path,
    *,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    downsample: int = 2,
    input_norm: bool = False,
    seed: int = 0,
    text_model_type: str = "llama",
    projector: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    tokenizer_vocab: int = 480,
) -> Path:
    """Writes a small random checkpoint in the layout of docs/bluelm-v-layout.md.

    Args:
        directory: created if need be.
        vision: overrides of the SigLIP config (default: width 64, 2 blocks, 4 heads, FFN 96, 384 pixels).
        text: overrides of the LLM's config (default: see `text_config`).
        downsample: 1 or 2.
        input_norm: whether the projector begins with a LayerNorm.
        seed: of the weights.
        text_model_type: "llama" or "qwen2"; decides the tokenizer too.
        projector: further keys for config["projector"].
        config: further keys for the top level (vision_feature_layer, tiler, ...).
        dtype: of the saved weights.
        shards: number of safetensors files.
        tokenizer_vocab: tokens before the special ones.

    Returns:
        The directory. `ReferenceBlueLMV.from_checkpoint` reads it.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    n_vocab = write_tokenizer(directory, text_model_type, tokenizer_vocab)
    ids = _token_ids(directory, text_model_type)
    full: dict[str, Any] = {
        "model_type": "bluelm_v",
        "architectures": ["BlueLMVForConditionalGeneration"],
        "text_config": text_config(text_model_type, **({"vocab_size": n_vocab} | ids | (text or {}))),
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 384,
            "patch_size": 14,
            "num_channels": 3,
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu_pytorch_tanh",
        }
        | (vision or {}),
        "vision_feature_layer": -1,
        "vision_post_layernorm": False,
        "projector": {"downsample": downsample, "input_norm": input_norm} | (projector or {}),
        "image_token": "<image>",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_prefix": "",
        "image_suffix": "\n",
    } | (config or {})
    model = ReferenceBlueLMV(full)
    randomize(model, seed)
    (directory / "config.json").write_text(json.dumps(full, indent=2), encoding="utf-8")
    save_tensors(directory, {k: v.to(dtype) for k, v in model.checkpoint_tensors().items()}, shards)
    return directory


def make_llm_checkpoint(
    directory: str | Path,
    *,
    kind: str = "llama",
    text: dict[str, Any] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    tokenizer_vocab: int = 480,
) -> Path:
    """Writes a small random text-only checkpoint, as `transformers` saves one (Llama or Qwen2).

    Args:
        directory: created if need be.
        kind: "llama" or "qwen2".
        text: overrides of the config (see `text_config`).
        seed: of the weights.
        dtype: of the saved weights.
        shards: number of safetensors files.
        tokenizer_vocab: tokens before the special ones.

    Returns:
        The directory; `AutoModelForCausalLM.from_pretrained` reads it.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    n_vocab = write_tokenizer(directory, kind, tokenizer_vocab)
    config_class, model_class = TEXT_CLASSES[kind]
    config = text_config(kind, **({"vocab_size": n_vocab} | _token_ids(directory, kind) | (text or {})))
    config["architectures"] = [model_class.__name__]
    model = model_class(config_class(**config))
    randomize(model, seed)
    tensors = {k: v.detach().clone().contiguous().to(dtype) for k, v in model.state_dict().items()}
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_tensors(directory, tensors, shards)
    return directory
