"""Starts a model from a converted pair instead of from nothing: widened vocabulary, more decoder blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from training.model import SIDE, Demo

VIT_PARTS = {
    "ln1": "ln1",
    "ln2": "ln2",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_out": "out",
    "ffn_up": "fc1",
    "ffn_down": "fc2",
}
LLM_PARTS = {
    "attn_norm": "n1", "ffn_norm": "n2", "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o",
    "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down",
}  # fmt: skip


def tensors_of(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """All tensors of a GGUF file in float32, and its tokens (none in a vision file)."""
    import gguf

    reader = gguf.GGUFReader(path)
    out = {}
    for t in reader.tensors:
        data = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        out[t.name] = torch.from_numpy(data.reshape(tuple(int(n) for n in reversed(t.shape))).copy())
    field = reader.fields.get("tokenizer.ggml.tokens")
    return out, list(field.contents()) if field is not None else []


def unpermuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp interleaves the two halves of a rotary head; transformers keeps them apart."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def block_places(old: int, new: int) -> list[int]:
    """Where the old blocks go among the new ones: the first and the last keep their ends."""
    return [round(i * (new - 1) / max(1, old - 1)) for i in range(old)]


def state_of_pair(pair: Path, heads: int) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A converted pair (a folder; one file is mmproj-*.gguf) under the names of `Demo`, and its tokens."""
    mmproj = next(pair.glob("mmproj-*.gguf"))
    see, _ = tensors_of(mmproj)
    say, tokens = tensors_of(next(p for p in pair.glob("*.gguf") if p != mmproj))
    out = {
        "vit.patch.weight": see["v.patch_embd.weight"].reshape(see["v.patch_embd.bias"].shape[0], -1),
        "vit.patch.bias": see["v.patch_embd.bias"],
        "vit.pos": see["v.position_embd.weight"].reshape(SIDE, SIDE, -1),
        "llm.embed.weight": say["token_embd.weight"],
        "llm.norm.weight": say["output_norm.weight"],
        "llm.head.weight": say["output.weight"],
    }
    for mine, theirs in (("proj.linear_1", "mm.0"), ("proj.linear_2", "mm.2")):
        out |= {f"{mine}.{kind}": see[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    for name, tensor in see.items():
        if name.startswith("v.blk."):
            _, _, i, part, kind = name.split(".")
            out[f"vit.blocks.{i}.{VIT_PARTS[part]}.{kind}"] = tensor
    for name, tensor in say.items():
        if name.startswith("blk."):
            _, i, part, kind = name.split(".")
            mine = LLM_PARTS[part]
            out[f"llm.blocks.{i}.{mine}.{kind}"] = unpermuted(tensor, heads) if mine in ("q", "k") else tensor
    return out, tokens


def state_of_run(checkpoint: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The latest weights of a run's checkpoint (averaged ones lag), and its tokenizer's tokens."""
    from tokenizers import Tokenizer

    saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    vocabulary = Tokenizer.from_file(str(checkpoint.parent / "tokenizer.json")).get_vocab()
    return saved["model"], sorted(vocabulary, key=vocabulary.__getitem__)


@torch.no_grad()
def start_from(model: Demo, source: Path, tokenizer) -> str:
    """Copies weights into an initialised model: a converted pair's (a folder) or a run's (RUN/last.pt).

    New decoder blocks begin as the identity. A new token gets the mean of the old tokens that spell it. Heads
    of other sizes stay as they were initialised.
    """
    heads = model.config.llm_heads
    state, tokens = state_of_pair(source, heads) if source.is_dir() else state_of_run(source)
    old = len({k.split(".")[2] for k in state if k.startswith("llm.blocks.")})
    places = block_places(old, model.config.llm_layers)
    mine, copied = model.state_dict(), 0
    for name, tensor in state.items():
        if name.startswith("llm.blocks."):
            parts = name.split(".")
            parts[2] = str(places[int(parts[2])])
            name = ".".join(parts)
        if (
            name not in ("llm.embed.weight", "llm.head.weight")
            and name in mine
            and mine[name].shape == tensor.shape
        ):
            mine[name].copy_(tensor)
            copied += 1
    for i, block in enumerate(model.llm.blocks):
        if i not in places:
            block.o.weight.zero_()
            block.down.weight.zero_()
    known, kept = {t: i for i, t in enumerate(tokens)}, 0
    for name, noise in (("llm.embed.weight", 0.02), ("llm.head.weight", 0.005)):
        kept, mean = 0, state[name].mean(0)
        for token, new in tokenizer.get_vocab().items():
            if token in known:
                mine[name][new] = state[name][known[token]]
                kept += 1
                continue
            ids = _spelling(token, known)
            mine[name][new] = (state[name][ids].mean(0) if ids else mean) + noise * torch.randn_like(mean)
    tokens_known = f"{kept} of {len(tokenizer.get_vocab())} tokens known"
    return f"{copied} tensors from {source}; {old} decoder blocks at {places}; {tokens_known}"


def _spelling(token: str, known: dict[str, int]) -> list[int]:
    """The longest old tokens from the left."""
    ids, at = [], 0
    while at < len(token):
        for end in range(len(token), at, -1):
            if token[at:end] in known:
                ids.append(known[token[at:end]])
                at = end
                break
        else:
            at += 1
    return ids
