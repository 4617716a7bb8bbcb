"""Small random checkpoints in the layouts of public families, with the names and config keys of the hub.

Every maker returns the reference that was saved. Nothing is downloaded: tokenizers are trained on the spot.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sentencepiece
import torch
from checkpoints import CORPUS, randomize, save_tensors, write_tokenizer
from family_reference import LLMS, FamilyReference, VilaProjector, mlp2x_gelu
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from torch import nn

SO400M = "google/siglip-so400m-patch14-384"


@cache
def sentencepiece_model(vocab_size: int = 450, symbols: tuple[str, ...] = ()) -> bytes:
    """tokenizer.model of a small SentencePiece BPE with byte fallback, as Llama 2's.

    Args:
        vocab_size: tokens in all.
        symbols: user-defined ones, found wherever they are spelled.
    """
    with TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        corpus.write_text("\n".join(CORPUS * 20), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=f"{folder}/t", model_type="bpe", vocab_size=vocab_size,
            byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
            user_defined_symbols=list(symbols), minloglevel=2,
        )  # fmt: skip
        return Path(folder, "t.model").read_bytes()


def write_spm(directory: Path, **settings: Any) -> int:
    """tokenizer.model and tokenizer_config.json of a slow Llama tokenizer; returns the number of tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(sentencepiece_model())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
    }
    _write_json(directory / "tokenizer_config.json", config | settings)
    return 450


@cache
def _codegen_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    # As phi-2's: runs of spaces and tabs are tokens of their own.
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    tokenizer.add_tokens([AddedToken(run, normalized=True) for run in runs])
    return tokenizer.to_str()


def write_codegen(directory: Path, *, slow: bool = False) -> int:
    """Phi-2's tokenizer: CodeGen's byte-level BPE with runs of spaces as added tokens.

    Args:
        directory: created if need be.
        slow: vocab.json, merges.txt and added_tokens.json instead of tokenizer.json.

    Returns:
        The number of tokens.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = _codegen_json()
    full = json.loads(text)
    added = {entry["content"]: entry["id"] for entry in full["added_tokens"]}
    if slow:
        vocab = {t: i for t, i in full["model"]["vocab"].items() if t not in added}
        _write_json(directory / "vocab.json", vocab)
        merges = "\n".join(" ".join(m) if isinstance(m, list) else m for m in full["model"]["merges"])
        (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
        _write_json(directory / "added_tokens.json", added)
    else:
        (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {
        "tokenizer_class": "CodeGenTokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 2048,
    }
    _write_json(directory / "tokenizer_config.json", config)
    return max(added.values()) + 1


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def vision_values(**overrides: Any) -> dict[str, Any]:
    """A SigLIP of width 64 and three blocks, two of which are run."""
    values = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 384,
        "patch_size": 14,
        "num_channels": 3,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh",
    }
    return values | overrides


def text_values(model_type: str, vocab_size: int, **overrides: Any) -> dict[str, Any]:
    """A small LLM's config."""
    values: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if model_type == "phi":
        values |= {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "hidden_act": "gelu_new"}
    else:
        values |= {"rms_norm_eps": 1e-5, "hidden_act": "silu"}
    return values | overrides


def _reference(
    vision: dict[str, Any], text: dict[str, Any], projector: nn.Module, seed: int, dtype: torch.dtype
) -> FamilyReference:
    model = FamilyReference(vision, text, projector)
    randomize(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    return model


def _state(module: nn.Module, dtype: torch.dtype, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + k: v.detach().to(dtype, copy=True).contiguous() for k, v in module.state_dict().items()}


def make_vila(
    directory: Path,
    *,
    fixed: bool = False,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
) -> FamilyReference:
    """VILA1.5: three folders; `mlp_downsample`, or with `fixed` `mlp_downsample_2x2_fix`."""
    folders = {name: directory / name for name in ("llm", "mm_projector", "vision_tower")}
    n_vocab = write_spm(folders["llm"])
    tower = vision_values(**(vision or {}))
    llm = text_values("llama", n_vocab, **(text or {}))
    projector = VilaProjector(tower["hidden_size"], llm["hidden_size"], fixed)
    model = _reference(tower, llm, projector, seed, dtype)
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    save_tensors(folders["llm"], _state(model.llm, dtype), shards)
    save_tensors(folders["mm_projector"], _state(model.projector, dtype))
    save_tensors(folders["vision_tower"], {k: v.to(dtype) for k, v in model.tower_tensors().items()})
    kind = "mlp_downsample_2x2_fix" if fixed else "mlp_downsample"
    configs = {
        "llm": llm | {"architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0, "rope_scaling": None,
                      "model_max_length": 4096, "tokenizer_padding_side": "right"},
        "mm_projector": {"architectures": ["MultimodalProjector"], "mm_projector_type": kind,
                         "model_type": "v2l_projector", "torch_dtype": "bfloat16"},
        "vision_tower": tower | {"architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model"},
    }  # fmt: skip
    for name, config in configs.items():
        _write_json(folders[name] / "config.json", config)
    processor = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_processor_type": "SiglipImageProcessor",
        "resample": 3,
        "size": {"height": 384, "width": 384},
    }
    _write_json(folders["vision_tower"] / "preprocessor_config.json", processor)
    top = {
        "architectures": ["LlavaLlamaModel"],
        "model_type": "llava_llama",
        "hidden_size": llm["hidden_size"],
        "image_aspect_ratio": "resize",
        "interpolate_mode": "linear",
        "llm_cfg": configs["llm"],
        "mm_hidden_size": tower["hidden_size"],
        "mm_projector_cfg": configs["mm_projector"],
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch",
        "mm_vision_select_layer": -2,
        "num_video_frames": 8,
        "s2": False,
        "s2_scales": "336,672,1008",
        "vision_resolution": -1,
        "vision_tower_cfg": configs["vision_tower"],
    }
    _write_json(directory / "config.json", top)
    return model


def make_original_llava(
    directory: Path,
    model_type: str,
    *,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    stored_blocks: int | None = None,
) -> FamilyReference:
    """nanoLLaVA ("llava-qwen2") or Bunny ("bunny-phi", "bunny-qwen2", "bunny-llama").

    Args:
        directory: created if need be.
        model_type: of config.json.
        vision: overrides; None lets config.json only name the tower, as Bunny does.
        text: overrides of the LLM's config.
        config: further keys.
        seed: of the weights.
        dtype: of the saved weights.
        stored_blocks: of the tower; None for all of them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    llm_type = {"llava-qwen2": "qwen2", "bunny-qwen2": "qwen2", "bunny-phi": "phi", "bunny-llama": "llama"}[
        model_type
    ]
    n_vocab = write_codegen(directory) if llm_type == "phi" else write_tokenizer(directory, llm_type)
    tower = vision_values(**(vision or {}))
    llm = text_values(llm_type, n_vocab, **(text or {}))
    model = _reference(tower, llm, mlp2x_gelu(tower["hidden_size"], llm["hidden_size"]), seed, dtype)
    tensors = _state(model.llm, dtype) | _state(model.projector, dtype, "model.mm_projector.")
    kept = range(tower["num_hidden_layers"] if stored_blocks is None else stored_blocks)
    for name, tensor in model.tower_tensors().items():
        parts = name.split(".")
        if "layers" not in parts or int(parts[parts.index("layers") + 1]) in kept:
            tensors[f"model.vision_tower.vision_tower.{name}"] = tensor.to(dtype)
    save_tensors(directory, tensors)
    top = llm | {
        "model_type": model_type,
        "architectures": [{"qwen2": "LlavaQwen2ForCausalLM", "phi": "BunnyPhiForCausalLM",
                           "llama": "BunnyLlamaForCausalLM"}[llm_type]],
        "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": "pad",
        "mm_hidden_size": tower["hidden_size"],
        "mm_projector_lr": None,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": SO400M,
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
        "rope_scaling": None,
        "rope_theta": 10000.0,
    }  # fmt: skip
    if vision is not None:
        top["vision_config"] = tower | {"model_type": "siglip_vision_model"}
    _write_json(directory / "config.json", top | (config or {}))
    return model


def make_tinyllava(
    directory: Path,
    *,
    text_type: str = "phi",
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> FamilyReference:
    """TinyLLaVA Factory's layout; its tokenizer is a slow one."""
    directory.mkdir(parents=True, exist_ok=True)
    n_vocab = write_codegen(directory, slow=True) if text_type == "phi" else write_spm(directory)
    tower = vision_values(**(vision or {}))
    llm = text_values(text_type, n_vocab, **(text or {}))
    model = _reference(tower, llm, mlp2x_gelu(tower["hidden_size"], llm["hidden_size"]), seed, dtype)
    tensors = _state(model.llm, dtype, "language_model.")
    tensors |= _state(model.projector, dtype, "connector._connector.")
    tensors |= {f"vision_tower._vision_tower.{k}": v.to(dtype) for k, v in model.tower_tensors().items()}
    save_tensors(directory, tensors)
    top = {
        "architectures": ["TinyLlavaForConditionalGeneration"],
        "model_type": "tinyllava",
        "connector_type": "mlp2x_gelu",
        "hidden_size": llm["hidden_size"],
        "ignore_index": -100,
        "image_aspect_ratio": "square",
        "image_token_index": -200,
        "llm_model_name_or_path": "microsoft/phi-2",
        "text_config": llm,
        "tokenizer_padding_side": "right",
        "vision_config": tower | {"model_type": "siglip_vision_model", "model_name_or_path": SO400M},
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "cls_patch",
        "vision_hidden_size": tower["hidden_size"],
        "vision_model_name_or_path": SO400M,
        "vocab_size": n_vocab,
    }
    _write_json(directory / "config.json", top | (config or {}))
    return model


def make_text(
    directory: Path,
    family: str,
    *,
    text: dict[str, Any] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
) -> Any:
    """A text-only checkpoint: "phi", "minicpm", "bluelm" or "smollm2".

    Returns:
        A model of `transformers` whose logits are those of the checkpoint. For MiniCPM it is Granite, which
        has the same three scales under other names; for BlueLM a Llama whose embedding is followed by a
        LayerNorm.
    """
    directory.mkdir(parents=True, exist_ok=True)
    extra: dict[str, Any] = {}
    if family == "phi":
        values = text_values("phi", write_codegen(directory), **(text or {}))
        config = values | {"architectures": ["PhiForCausalLM"], "qk_layernorm": False}
    elif family == "minicpm":
        values = text_values("granite", write_spm(directory), tie_word_embeddings=True, **(text or {}))
        config = values | {"model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"],
                           "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16}  # fmt: skip
        del config["tie_word_embeddings"]  # MiniCPM's config.json is silent about it
        extra = {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 1.4 / values["num_hidden_layers"] ** 0.5,
            "logits_scaling": values["hidden_size"] / 16,
            "attention_multiplier": (values["hidden_size"] / values["num_attention_heads"]) ** -0.5,
        }
    elif family == "bluelm":
        values = text_values("llama", write_spm(directory), **(text or {}))
        config = values | {"model_type": "BlueLM", "architectures": ["BlueLMForCausalLM"],
                           "use_stable_embedding": True, "rope_theta": 10000.0}  # fmt: skip
        del config["num_key_value_heads"]
    else:
        n_vocab = write_smollm(directory)
        values = text_values(
            "llama", n_vocab, hidden_size=96, num_attention_heads=3, num_key_value_heads=1,
            tie_word_embeddings=True, rope_theta=100000.0, **(text or {}),
        )  # fmt: skip
        config = values | {"architectures": ["LlamaForCausalLM"]}
    config_class, model_class = LLMS[values["model_type"]]
    model = model_class(config_class(**{k: v for k, v in values.items() if k != "model_type"}, **extra))
    if family == "bluelm":
        norm = nn.LayerNorm(values["hidden_size"], eps=values["rms_norm_eps"])
        model.model.embed_layer_norm = norm
        model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: norm(output))
    randomize(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    model.eval()
    tensors = _state(model, dtype)
    if values["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)
    save_tensors(directory, tensors, shards)
    _write_json(directory / "config.json", config)
    return model


def write_smollm(directory: Path) -> int:
    """SmolLM2's tokenizer: digits apart, then GPT-2's split; ChatML."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        special_tokens=special,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
              "clean_up_tokenization_spaces": False}  # fmt: skip
    _write_json(directory / "tokenizer_config.json", config)
    return int(tokenizer.get_vocab_size())


def to_pickles(directory: Path, shards: int = 1) -> None:
    """Replaces a directory's safetensors by pytorch_model.bin, or by shards with an index."""
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    for path in directory.glob("*.index.json"):
        path.unlink()
    if shards == 1:
        torch.save(tensors, directory / "pytorch_model.bin")
        return
    weight_map = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin"
        part = {name: tensors[name] for name in list(tensors)[i::shards]}
        torch.save(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    _write_json(directory / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
