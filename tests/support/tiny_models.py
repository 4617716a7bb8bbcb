"""Random GGUF pairs of a few hundred kB, written in a moment and without torch: for tests of the program
around the model, where any answer will do as long as it is always the same."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from bluelm_gguf.convert.vision.mmproj_keys import MmprojKeys

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("what", "is", "this", "the", "user", "assistant")


def byte_characters() -> list[str]:
    """How byte-level BPE spells the 256 bytes, in byte order (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(spare)) for b in range(256)]


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges: the bytes, a few words, the special tokens."""
    tokens, merges = byte_characters(), []
    for word in WORDS:
        for i in range(1, len(word)):
            if word[: i + 1] not in tokens:
                tokens.append(word[: i + 1])
                merges.append(f"{word[:i]} {word[i]}")
    return [*tokens, *SPECIALS], merges


def write_llm(
    path: Path,
    *,
    n_embd: int = 64,
    n_ctx_train: int = 2048,
    template: str | None = CHATML,
    seed: int = 0,
    metadata: dict[str, str] | None = None,
    script: str | None = None,
) -> Path:
    """A Llama of two layers with a byte-level vocabulary.

    Args:
        script: What the model always answers, byte by byte, before it ends. No byte may come twice, and no
            newline. Without it the answers are random, and go on.
    """
    rng = np.random.default_rng(seed)
    tokens, merges = vocabulary()
    n_vocab, n_ff, n_head, n_kv = len(tokens), 128, 4, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny random Llama")
    writer.add_type("model")
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(2)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_kv)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(n_vocab)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
    writer.add_token_types([control if token in SPECIALS else normal for token in tokens])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)

    def add(name: str, *shape: int) -> None:
        scale = 0.0 if script is not None else shape[-1] ** -0.5
        writer.add_tensor(name, (rng.standard_normal(shape) * scale).astype(np.float32))

    def ones(name: str, n: int) -> None:
        writer.add_tensor(name, np.ones(n, dtype=np.float32))

    embeddings = rng.standard_normal((n_vocab, n_embd)).astype(np.float32)
    writer.add_tensor("token_embd.weight", embeddings)
    for i in range(2):
        block = f"blk.{i}."
        ones(block + "attn_norm.weight", n_embd)
        add(block + "attn_q.weight", n_embd, n_embd)
        add(block + "attn_k.weight", n_embd * n_kv // n_head, n_embd)
        add(block + "attn_v.weight", n_embd * n_kv // n_head, n_embd)
        add(block + "attn_output.weight", n_embd, n_embd)
        ones(block + "ffn_norm.weight", n_embd)
        add(block + "ffn_gate.weight", n_ff, n_embd)
        add(block + "ffn_up.weight", n_ff, n_embd)
        add(block + "ffn_down.weight", n_embd, n_ff)
    ones("output_norm.weight", n_embd)
    if script is None:
        # Control tokens are made unlikely, so that answers have a length to test with.
        head = rng.standard_normal((n_vocab, n_embd)) * n_embd**-0.5 * 3
        head[[tokens.index(t) for t in SPECIALS]] = 0.0
    else:
        # The blocks add nothing: what follows a token is the row of the head that equals its embedding.
        ids = [
            tokens.index("\u010a"),
            *script.encode(),
            tokens.index("<|im_end|>"),
        ]  # from the prompt's newline on
        byte_ids = {byte: tokens.index(c) for byte, c in enumerate(byte_characters())}
        ids[1:-1] = [byte_ids[byte] for byte in script.encode()]
        assert len(set(ids)) == len(ids), "a byte comes twice"
        head = np.zeros((n_vocab, n_embd))
        head[ids[1:]] = embeddings[ids[:-1]]
    writer.add_tensor("output.weight", head.astype(np.float32))
    _save(writer)
    return path


def write_mmproj(
    path: Path,
    *,
    n_embd_out: int = 64,
    downsample: int = 2,
    seed: int = 1,
    width: int = 64,
    n_layer: int = 2,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A SigLIP with real pictures' sizes (docs/mmproj.md)."""
    rng = np.random.default_rng(seed)
    n_ff = 4 * width
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name("Tiny random SigLIP")
    writer.add_file_type(0)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    MmprojKeys(
        image_size=384,
        patch_size=14,
        n_embd=width,
        n_ff=n_ff,
        n_ff_unpadded=n_ff,
        n_layer=n_layer,
        n_head=4,
        n_embd_out=n_embd_out,
        downsample=downsample,
    ).add_to(writer)

    def add(name: str, *shape: int) -> None:
        scale = float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.1
        writer.add_tensor(name, (rng.standard_normal(shape) * scale).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name + ".weight", np.ones(width, dtype=np.float32))
        add(name + ".bias", width)

    add("v.patch_embd.weight", width, 3, 14, 14)
    add("v.patch_embd.bias", width)
    add("v.position_embd.weight", 729, width)
    for i in range(n_layer):
        block = f"v.blk.{i}."
        norm(block + "ln1")
        norm(block + "ln2")
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add(f"{block}{part}.weight", width, width)
            add(f"{block}{part}.bias", width)
        add(block + "ffn_up.weight", n_ff, width)
        add(block + "ffn_up.bias", n_ff)
        add(block + "ffn_down.weight", width, n_ff)
        add(block + "ffn_down.bias", width)
    merged = downsample * downsample * width
    add("mm.0.weight", 128, merged)
    add("mm.0.bias", 128)
    add("mm.2.weight", n_embd_out, 128)
    add("mm.2.bias", n_embd_out)
    if (metadata or {}).get("bluelm.assembly.method") == "anyres":
        writer.add_uint32("bluelm.assembly.max_tiles", 9)
        add("mm.image_newline", n_embd_out)
    _save(writer)
    return path


def _save(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
