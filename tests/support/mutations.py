"""Seeded damage to the head of a GGUF file: values, types, lengths, names, shapes, cuts."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
NUMBERS = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 33, 63, 64, 65, 127, 128, 255, 256, 511, 512, 513, 1023, 4096]
EXTREMES = [2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan")]


@dataclass
class Head:
    """A head in pieces that can be damaged and written again.

    Attributes:
        keys: [name, type, value]; the value of an array is [type of its elements, list].
        tensors: [name, dimensions as stored, type, offset].
        data: everything behind the head's padding.
    """

    version: int
    keys: list[list[Any]]
    tensors: list[list[Any]]
    data: bytes
    alignment: int = 32


def parse(raw: bytes) -> Head:
    """The head of a sound file."""
    pos = 8

    def take(code: str) -> Any:
        nonlocal pos
        (value,) = struct.unpack_from("<" + code, raw, pos)
        pos += struct.calcsize(code)
        return value

    def string() -> bytes:
        nonlocal pos
        n = take("Q")
        pos += n
        return raw[pos - n : pos]

    def value(kind: int) -> Any:
        if kind == STRING:
            return string()
        if kind == ARRAY:
            inner, n = take("I"), take("Q")
            return [inner, [value(inner) for _ in range(n)]]
        return take(SCALARS[kind])

    n_tensors, n_keys = take("Q"), take("Q")
    keys = []
    for _ in range(n_keys):
        name, kind = string(), take("I")
        keys.append([name, kind, value(kind)])
    tensors = []
    for _ in range(n_tensors):
        name = string()
        dims = [take("Q") for _ in range(take("I"))]
        tensors.append([name, dims, take("I"), take("Q")])
    return Head(struct.unpack_from("<I", raw, 4)[0], keys, tensors, raw[(pos + 31) // 32 * 32 :])


def write(head: Head) -> bytes:
    """The file again, whatever is in it by now."""

    def pack(code: str, number: Any) -> bytes:
        if code in "fd":
            return struct.pack("<" + code, number)
        size = struct.calcsize(code)
        return (int(number) & (256**size - 1)).to_bytes(size, "little")

    def string(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text

    def value(kind: int, content: Any) -> bytes:
        if kind == STRING:
            return string(content)
        if kind == ARRAY:
            inner, items = content
            return struct.pack("<IQ", inner, len(items)) + b"".join(value(inner, item) for item in items)
        return pack(SCALARS.get(kind, "Q"), content)

    parts = [b"GGUF", struct.pack("<IQQ", head.version, len(head.tensors), len(head.keys))]
    for name, kind, content in head.keys:
        parts += [string(name), struct.pack("<I", kind), value(kind, content)]
    for name, dims, kind, offset in head.tensors:
        parts += [string(name), struct.pack("<I", len(dims))]
        parts += [pack("Q", n) for n in dims]
        parts += [struct.pack("<I", kind), pack("Q", offset)]
    raw = b"".join(parts)
    return raw + bytes(-len(raw) % head.alignment) + head.data


def as_architecture(raw: bytes, name: str) -> bytes:
    """A tiny Llama as another architecture of the same tensors ("qwen2"), or "phi3", with one FFN matrix."""
    head = parse(raw)
    for key in head.keys:
        if key[0] == b"general.architecture":
            key[2] = name.encode()
        key[0] = key[0].replace(b"llama.", name.encode() + b".")
    if name == "phi3":
        gates = {row[0]: row for row in head.tensors if b"ffn_gate" in row[0]}
        for row in head.tensors:
            if b"ffn_up" in row[0]:
                row[1] = [row[1][0], 2 * row[1][1]]
        head.tensors = [row for row in head.tensors if row[0] not in gates]
        lay_out(head)
    return write(head)


def with_sentencepiece(raw: bytes) -> bytes:
    """The same file with a SentencePiece vocabulary of as many tokens, bytes among them."""
    head = parse(raw)
    keys = {key[0]: key for key in head.keys}
    tokens = keys[b"tokenizer.ggml.tokens"][2][1]
    n = len(tokens)
    tokens[: 3 + 256] = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
    del tokens[n:]
    keys[b"tokenizer.ggml.model"][2] = b"llama"
    keys[b"tokenizer.ggml.token_type"][2][1][:] = [2, 3, 3, *[6] * 256, *[1] * (n - 259)]
    head.keys = [key for key in head.keys if key[0] not in (b"tokenizer.ggml.merges", b"tokenizer.ggml.pre")]
    head.keys.append([b"tokenizer.ggml.scores", ARRAY, [6, [-float(i) for i in range(n)]]])
    return write(head)


def number(rng: random.Random, near: Any) -> int:
    """An awkward number, often close to the right one."""
    if isinstance(near, int) and rng.random() < 0.4:
        return rng.choice([near + 1, near - 1, near * 2, near // 2, near * 3, -near])
    return rng.choice(NUMBERS if rng.random() < 0.8 else EXTREMES)


def convert(kind: int, content: Any) -> Any:
    """Some value of another type."""
    if kind == STRING:
        return content if isinstance(content, bytes) else b"7"
    if kind == ARRAY:
        return content if isinstance(content, list) else [4, [1, 2, 3]]
    plain = content if isinstance(content, (int, float)) else 1
    if kind in (6, 12):
        return float(plain)
    return int(plain) if plain == plain and abs(plain) < 2**63 else 0


def damage_key(rng: random.Random, head: Head) -> None:
    """One metadata value; those of the architecture and the tokenizer more often than names and licences."""
    telling = [k for k in head.keys if not k[0].startswith((b"general.", b"bluelm."))]
    key = rng.choice(telling if telling and rng.random() < 0.8 else head.keys)
    name, kind, content = key
    how = rng.random()
    if how < 0.1:
        head.keys.remove(key)
    elif how < 0.2:
        key[1] = rng.choice([*SCALARS, STRING, ARRAY, 13])
        key[2] = convert(key[1], content)
    elif how < 0.25:
        key[0] = rng.choice([b"", name + b"x", rng.choice(head.keys)[0], name.replace(b"llama", b"qwen2")])
    elif kind == STRING:
        words = b"none gpt2 llama bert t5 rwkv no_vocab test plamo2 phi3 qwen2 gemma4 mamba bloom".split()
        words += b"yarn longrope gpt-2 whitespace hybriddna default qwen35 gemma deepseek2 \xff\xfe".split()
        words += [b"", content[:-1]]
        key[2] = rng.choice(words)
    elif kind == ARRAY:
        damage_array(rng, content)
    elif kind in (6, 12):
        key[2] = rng.choice(FLOATS)
    else:
        key[2] = number(rng, content)


def damage_array(rng: random.Random, content: list[Any]) -> None:
    inner, items = content
    how = rng.random()
    if not items or how < 0.15:
        content[1] = items[: rng.choice([0, 1, max(0, len(items) - 1), len(items) // 2])]
    elif how < 0.25:
        content[0] = rng.choice([*SCALARS, STRING])
        content[1] = [convert(content[0], item) for item in items]
    elif how < 0.35:
        items.append(items[rng.randrange(len(items))])
    else:
        for _ in range(rng.choice([1, 1, 5, 300])):
            i, j = rng.randrange(len(items)), rng.randrange(len(items))
            if inner == STRING:
                items[i] = rng.choice(
                    [items[j], b"", b"[EMPTY_3]", b"\xff", b"a" * 600, b"<0x0A>", items[i][::-1]]
                )
            elif inner in (6, 12):
                items[i] = rng.choice(FLOATS)
            else:
                items[i] = rng.choice([items[j], number(rng, items[i])])


def damage_tensor(rng: random.Random, head: Head) -> None:
    """One row of the table of tensors; the data stays long enough, and often the offsets right."""
    row = rng.choice(head.tensors)
    how = rng.random()
    if how < 0.15:
        head.tensors.remove(row)
    elif how < 0.3:
        row[0] = rng.choice(
            [b"", row[0] + b"x", rng.choice(head.tensors)[0], row[0].replace(b"blk.0", b"blk.1")]
        )
    elif how < 0.55:
        row[2] = rng.choice([*range(42), 2**31, 2**32 - 1])
    elif how < 0.7:
        row[1] = row[1][::-1]
    elif how < 0.95:
        i = rng.randrange(max(1, len(row[1])))
        if row[1]:
            row[1][i] = number(rng, row[1][i])
        if rng.random() < 0.2:
            row[1] = row[1][:-1] if rng.random() < 0.5 else [*row[1], rng.choice([0, 1, 2])]
    else:
        row[3] = rng.choice([0, 1, 32, row[3] + 1, 2**63])


def mutate(raw: bytes, seed: int) -> bytes:
    """One to three kinds of damage, always the same ones for a seed."""
    rng = random.Random(seed)
    if rng.random() < 0.06:
        return raw[: rng.randrange(len(raw))]
    head = parse(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if head.keys and (rng.random() < 0.65 or not head.tensors):
            damage_key(rng, head)
        elif head.tensors:
            damage_tensor(rng, head)
    if rng.random() < 0.5:
        lay_out(head)
    damaged = write(head)
    if rng.random() < 0.06:
        at = rng.randrange(min(len(damaged), len(damaged) - len(head.data)))
        damaged = damaged[:at] + bytes([rng.randrange(256)]) + damaged[at + 1 :]
    return damaged


def lay_out(head: Head) -> None:
    """Offsets as the reader wants them, and data behind them all: past gguf's own checks."""
    import gguf

    end = 0
    for row in head.tensors:
        row[3] = end
        try:
            block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(row[2])]
        except (ValueError, KeyError):
            return
        n = 1
        for size in row[1]:
            n *= size
        if n > 2**22:
            return
        end += (n // block * n_bytes + head.alignment - 1) // head.alignment * head.alignment
    head.data += bytes(max(0, end - len(head.data)))


# Run in a process of its own: python mutations.py FILE FIRST LAST DIRECTORY. Each mutation of FILE is loaded,
# and answers where it can; what became of it is printed as one line before the next one is begun.
def main(path: str, first: str, last: str, directory: str) -> None:
    """Loads mutations first..last-1 of a file, one after the other."""
    from bluelm_gguf.errors import BluelmError
    from bluelm_gguf.llm.language_model import LanguageModel

    raw, target = Path(path).read_bytes(), Path(directory) / f"{first}.gguf"
    for seed in range(int(first), int(last)):
        print(seed, end=" ", flush=True)
        target.write_bytes(mutate(raw, seed))
        try:
            model = LanguageModel(target, n_ctx=64, n_batch=32, n_threads=1)
            try:
                tokens = model.tokenize("what is \u00e4\u4e2d this?\n", special=True)[:16] or [0]
                model.prefill_tokens(tokens, 0, chunk=16, logits=True)
                model.prefill_tokens([3 % model.n_vocab], len(tokens), chunk=1, logits=True)
                said = b"".join(model.piece(t) for t in tokens)
                print("answer", len(said), model.bos_text[:0] + model.eos_text[:0], flush=True)
            finally:
                model.close()
        except BluelmError as error:
            print(type(error).__name__, " ".join(str(error).split())[:300], flush=True)
        except Exception as error:
            cause = error.__cause__ or error
            print(
                "wrong" if not isinstance(cause, BluelmError) else "cause",
                type(cause).__name__,
                cause,
                flush=True,
            )
    target.unlink(missing_ok=True)


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
