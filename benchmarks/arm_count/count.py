"""Counts instructions on emulated Arm CPUs: libbluelm beside llama.cpp alone, and writes docs/arm-count.md.

    make arm-count
    python benchmarks/arm_count/count.py BUILD_DIRECTORY [--ours] [--work prefill,decode] [--levels i8mm]

Per encoder layer: one 384x384 picture through SigLIP-so400m/14-384 at full width, with one layer and with
two; the difference is one layer over 729 tokens. Per prefilled token: the same with a layer of a 2.7B Llama
(hidden 2560, FFN 6912) over a chunk of 64 tokens, divided by 64; per decoded token: 64 tokens, one by one,
at the 17th to 80th place. Both sides arrange weights when they load them; runs that do the work more often,
less runs that do it once, leave that out. One thread. Weights are random, which changes nothing. A count is
no time: it says nothing about cache misses, bandwidth, or how many instructions a core
finishes per cycle. llvm-mca's cycles (a model of the core, everything in the first-level cache) are added
where an llvm-mca is found that has models of late cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import mca

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import encode_full_size
from encode_full_size import RandomFile, write_ours, write_stock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "arm-count.md"
FIGURES = PAGE.with_suffix(".json")
BEGIN, END = "<!-- counted: begin -->", "<!-- counted: end -->"
LEVELS = {"neon": "cortex-a53", "dotprod": "cortex-a76", "i8mm": "max"}  # and QEMU's CPU
MASK = "mask"  # an argument: the CPU of the thread that starts the program
N_TOKENS = 64
N_AGAIN = 4  # prefills more in one run than in the other: what does not repeat exactly weighs less
FIRST_DECODED, N_DECODED = 16, 64
NARROW = 64
HIDDEN, FFN, HEADS = 2560, 6912, 20
TILE_MACS = 729 * (4 * 1152 * 1152 + 2 * 1152 * 4304 + 2 * 729 * 1152)  # of one encoder layer
TOKEN_MACS = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * FFN  # of one LLM layer, without attention
WORK = {
    "encoder": ("one encoder layer, one tile", TILE_MACS),
    "prefill": ("one LLM layer, per prefilled token", TOKEN_MACS),
    "decode": ("one LLM layer, per decoded token", TOKEN_MACS),
}


def write_llm(path: Path, file_type: str, n_layer: int, hidden: int = HIDDEN, ffn: int = FFN) -> Path:
    """A Llama with full-size layers and a vocabulary of bytes, so that the head costs nothing."""
    f = RandomFile(path, "llama", file_type)
    w = f.writer
    w.add_context_length(512)
    w.add_embedding_length(hidden)
    w.add_block_count(n_layer)
    w.add_feed_forward_length(ffn)
    w.add_head_count(HEADS if hidden == HIDDEN else 2)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *"abcdefghijklm"])
    w.add_token_scores([0.0] * 272)
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * 13)
    f.put("token_embd.weight", (272, hidden), f.wide)
    f.put("output_norm.weight", (hidden,))
    f.put("output.weight", (272, hidden), f.wide)
    for i in range(n_layer):
        for name in ("attn_norm", "ffn_norm"):
            f.put(f"blk.{i}.{name}.weight", (hidden,))
        shapes = {f"attn_{part}": (hidden, hidden) for part in ("q", "k", "v", "output")}
        shapes |= {"ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn)}
        for name, shape in shapes.items():
            f.put(f"blk.{i}.{name}.weight", shape, f.wide)
    f.close()
    return path


@dataclass
class Counter:
    """Runs programs of one build under QEMU with the plugin."""

    build: Path
    plugin: Path

    def __call__(self, level: str, program: str, *arguments: object) -> int:
        """Instructions of one run."""
        with tempfile.NamedTemporaryFile() as out:
            command = [
                "qemu-aarch64", "-plugin", f"{self.plugin},out={out.name}", "-cpu", LEVELS[level],
                str(self.build / program.format(level=level)),
                *(hex(1 << min(os.sched_getaffinity(0))) if a is MASK else str(a) for a in arguments),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            counted = Path(out.name).read_text()
        if done.returncode or not counted.startswith("instructions: "):
            raise SystemExit(f"arm_count: {' '.join(command)} failed\n{done.stdout}{done.stderr}")
        return int(counted.split()[1])


def compile_plugin(directory: Path) -> Path:
    """The counting plugin for this machine."""
    plugin = directory / "count.so"
    source = HERE / "plugin.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(plugin), str(source)], check=True)
    return plugin


@dataclass(frozen=True)
class Contender:
    """What is counted, with two numbers of layers that differ by one."""

    work: str
    who: str
    program: str  # below the build directory
    arguments: tuple[
        tuple[object, ...], tuple[object, ...]
    ]  # of the run with one layer less, and with one more
    per: int = 1
    once_less: tuple[tuple[object, ...], tuple[object, ...]] | None = (
        None  # subtracted: the same but for the work
    )


def contenders(d: Path) -> list[Contender]:
    """Writes the models into a directory. What is not a layer is kept small: narrow projector, few tokens."""
    encode_full_size.N_EMBD_OUT = NARROW
    tiny = write_llm(d / "tiny.gguf", "q4_0", 1, NARROW, NARROW)
    llm = [write_llm(d / f"llm-{n}.gguf", "q4_0", n) for n in (1, 2)]
    ours = [write_ours(d / f"ours-{n}.gguf", "q8_0", n, 2) for n in (1, 2)]
    stock = {
        kind: [write_stock(d / f"stock-{kind}-{n}.gguf", kind, n) for n in (0, 1)] for kind in ("f16", "q8_0")
    }
    alone, bench = "count/{level}/stock", "bin/{level}/bluelm-bench"
    plain = ("-C", MASK, "-t", 1, "--no-warmup", "--no-memory-check", "-o", "json", "-r")

    def pictures(n: int) -> tuple[tuple[object, ...], tuple[object, ...]]:
        one, two = (("-m", tiny, "--mmproj", o, "--image", "384x384", *plain, n) for o in ours)
        return one, two

    def prefill(n: int) -> tuple[tuple[object, ...], tuple[object, ...]]:
        one, two = (("-m", m, "-p", N_TOKENS, "--chunk", N_TOKENS, *plain, n) for m in llm)
        return one, two

    def decode(n: int) -> tuple[tuple[object, ...], tuple[object, ...]]:
        one, two = (("-m", m, "-p", 0, "-n", n, *plain, 1) for m in llm)
        return one, two

    def stock_prefill(n: int) -> tuple[tuple[object, ...], tuple[object, ...]]:
        one, two = (("prefill", m, N_TOKENS, n) for m in llm)
        return one, two

    def stock_decode(n: int) -> tuple[tuple[object, ...], tuple[object, ...]]:
        one, two = (("decode", m, n) for m in llm)
        return one, two

    more, n = 1 + N_AGAIN, N_AGAIN * N_TOKENS
    few, many = FIRST_DECODED, FIRST_DECODED + N_DECODED
    return [
        *(
            Contender("encoder", f"llama.cpp, {k.upper()}", alone, (("encode", tiny, a), ("encode", tiny, b)))
            for k, (a, b) in stock.items()
        ),
        Contender("encoder", "bluelm, Q8_0", bench, pictures(2), once_less=pictures(1)),
        Contender("prefill", "llama.cpp, Q4_0", alone, stock_prefill(more), n, stock_prefill(1)),
        Contender("prefill", "bluelm, Q4_0", bench, prefill(more), n, prefill(1)),
        Contender("decode", "llama.cpp, Q4_0", alone, stock_decode(many), N_DECODED, stock_decode(few)),
        Contender("decode", "bluelm, Q4_0", bench, decode(many), N_DECODED, decode(few)),
    ]  # fmt: skip


Counts = dict[str, dict[str, dict[str, float]]]  # work, who, level: instructions of a layer (and token)


def measure(build: Path, known: Counts, is_wanted: Callable[[Contender, str], bool]) -> None:
    """Counts what is wanted, as many runs at a time as there are cores; each figure is kept at once."""
    cpus = sorted(os.sched_getaffinity(0))

    def pin() -> None:
        # A program that sees one CPU loads on one thread: the plugin's counter is good for no more.
        os.sched_setaffinity(0, {cpus.pop()})

    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(len(cpus), initializer=pin) as pool:
        d = Path(directory)
        counter = Counter(build, compile_plugin(d))
        runs = [
            (
                c,
                level,
                [pool.submit(counter, level, c.program, *a) for a in (*c.arguments, *(c.once_less or ()))],
            )
            for c in contenders(d)
            for level in LEVELS
            if is_wanted(c, level)
        ]
        for c, level, futures in runs:
            less, more, *without = (f.result() for f in futures)
            count = (more - less - (without[1] - without[0] if without else 0)) / c.per
            known.setdefault(c.work, {}).setdefault(c.who, {})[level] = count
            FIGURES.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{c.work}, {c.who}, {level}: {count:,.0f}", file=sys.stderr, flush=True)


def table(counts: Counts) -> str:
    """Markdown: millions of instructions, and multiply-adds per instruction."""
    lines = []
    for work, (what, macs) in WORK.items():
        lines += [
            f"Millions of instructions for {what} (in brackets: multiply-adds per instruction):",
            "",
            "| | " + " | ".join(LEVELS) + " |",
            "|---|" + "---:|" * len(LEVELS),
        ]
        for who, found in sorted(counts.get(work, {}).items(), reverse=True):  # llama.cpp above bluelm
            cells = [
                f"{found[level] / 1e6:,.1f} ({macs / found[level]:.1f})" if level in found else "–"
                for level in LEVELS
            ]
            lines.append(f"| {who} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Counts and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("build", type=Path, help="of the preset linux-aarch64-static with BLUELM_COUNT=ON")
    parser.add_argument("--ours", action="store_true", help="count bluelm only; llama.cpp's figures stay")
    for name, all_of_them in (("work", list(WORK)), ("levels", list(LEVELS))):
        parser.add_argument(
            f"--{name}", type=lambda text: text.split(","), default=all_of_them, metavar="NAME[,NAME]",
            help=f"of {', '.join(all_of_them)}: count these only, the others' figures stay",
        )  # fmt: skip
    options = parser.parse_args()
    for name in (*options.work, *options.levels):
        if name not in (*WORK, *LEVELS):
            parser.error(f"{name}: there are {', '.join(WORK)} and {', '.join(LEVELS)}")
    counts: Counts = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}
    measure(
        options.build,
        counts,
        lambda c, level: (
            c.work in options.work
            and level in options.levels
            and (c.who.startswith("bluelm") or not options.ours)
        ),
    )
    text = table(counts) + "\n" + mca.table(options.build)
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
