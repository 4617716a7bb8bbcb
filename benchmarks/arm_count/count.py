"""Counts instructions on emulated Arm CPUs: libbluelm beside llama.cpp alone, and writes docs/arm-count.md.

    make arm-count
    python benchmarks/arm_count/count.py BUILD_DIRECTORY [--levels i8mm] [--print]

Per encoder layer: one 384x384 picture through SigLIP-so400m/14-384 at full width, with one layer and with
two; the difference is one layer over 729 tokens. Per prefilled token: the same with a layer of a 2.7B Llama
(hidden 2560, FFN 6912) over 64 tokens, divided by 64. One thread. Weights are random, which changes
nothing. A count is exact and repeats; it is no time: it says nothing about cache misses, bandwidth, or how
many instructions a core finishes per cycle. llvm-mca's cycles (a model of the core, everything in the
first-level cache) are added where an llvm-mca is found that has models of late cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mca

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from encode_full_size import RandomFile, write_ours, write_stock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "arm-count.md"
BEGIN, END = "<!-- counted: begin -->", "<!-- counted: end -->"
LEVELS = {"neon": "cortex-a53", "dotprod": "cortex-a76", "i8mm": "max"}  # and QEMU's CPU
N_TOKENS = 64
HIDDEN, FFN, HEADS, LAYERS = 2560, 6912, 20, 32
TILE_GMAC = 729 * (4 * 1152 * 1152 + 2 * 1152 * 4304 + 2 * 729 * 1152) / 1e9  # of one encoder layer
TOKEN_GMAC = (4 * HIDDEN * HIDDEN + 3 * HIDDEN * FFN) / 1e9  # of one LLM layer, without attention


def write_llm(path: Path, file_type: str, n_layer: int) -> Path:
    """A Llama with full-size layers and a vocabulary of bytes, so that the head costs nothing."""
    f = RandomFile(path, "llama", file_type)
    w = f.writer
    w.add_context_length(512)
    w.add_embedding_length(HIDDEN)
    w.add_block_count(n_layer)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *"abcdefghijklm"])
    w.add_token_scores([0.0] * 272)
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * 13)
    f.put("token_embd.weight", (272, HIDDEN), f.wide)
    f.put("output_norm.weight", (HIDDEN,))
    f.put("output.weight", (272, HIDDEN), f.wide)
    for i in range(n_layer):
        for name in ("attn_norm", "ffn_norm"):
            f.put(f"blk.{i}.{name}.weight", (HIDDEN,))
        shapes = {f"attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
        shapes |= {"ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN), "ffn_down": (HIDDEN, FFN)}
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
                str(self.build / program.format(level=level)), *map(str, arguments),
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


def contenders(d: Path) -> dict[tuple[str, str], Callable[[Counter, str, int], int]]:
    """(work, who) -> count(counter, level, n_layer)."""
    tiny = write_llm(d / "tiny.gguf", "q4_0", 1)
    files: dict[tuple[str, int], Path] = {}
    for n in (1, 2):
        for file_type in ("q8_0", "bf16", "f16"):
            files[f"stock-{file_type}", n] = write_stock(d / f"stock-{file_type}-{n}.gguf", file_type, n)
        files["ours-q8_0", n] = write_ours(d / f"ours-q8_0-{n}.gguf", "q8_0", n, 2)
        files["llm", n] = write_llm(d / f"llm-{n}.gguf", "q4_0", n)

    def stock_encode(file_type: str) -> Callable[[Counter, str, int], int]:
        return lambda count, level, n: count(
            level, "count/{level}/stock", "encode", tiny, files[f"stock-{file_type}", n]
        )

    bench = "bin/{level}/bluelm-bench"
    once = ("-t", 1, "-r", 1, "--no-warmup", "--no-memory-check", "-o", "json")
    return {
        ("encoder layer", "llama.cpp, F16"): stock_encode("f16"),
        ("encoder layer", "llama.cpp, Q8_0"): stock_encode("q8_0"),
        ("encoder layer", "bluelm, Q8_0"): lambda count, level, n: count(
            level, bench, "-m", tiny, "--mmproj", files["ours-q8_0", n], "--image", "384x384", *once
        ),
        ("token and LLM layer", "llama.cpp, Q4_0"): lambda count, level, n: count(
            level, "count/{level}/stock", "prefill", files["llm", n], N_TOKENS
        ),
        ("token and LLM layer", "bluelm, Q4_0"): lambda count, level, n: count(
            level, bench, "-m", files["llm", n], "-p", N_TOKENS, "--chunk", N_TOKENS, *once
        ),
    }


def measure(build: Path, levels: list[str]) -> dict[tuple[str, str, str], float]:
    """(work, who, level) -> instructions of one layer, or of one layer and token."""
    out = {}
    with tempfile.TemporaryDirectory() as directory:
        d = Path(directory)
        counter = Counter(build, compile_plugin(d))
        for (work, who), run in contenders(d).items():
            for level in levels:
                one, two = run(counter, level, 1), run(counter, level, 2)
                out[work, who, level] = (two - one) / (N_TOKENS if work.startswith("token") else 1)
                print(f"{work}, {who}, {level}: {out[work, who, level]:,.0f}", file=sys.stderr, flush=True)
    return out


def table(counts: dict[tuple[str, str, str], float], levels: list[str]) -> str:
    """Markdown: millions of instructions, and multiply-adds per instruction."""
    lines = []
    for work, gmac in (("encoder layer", TILE_GMAC), ("token and LLM layer", TOKEN_GMAC)):
        what = (
            "one encoder layer, one tile" if work.startswith("enc") else "one LLM layer, per prefilled token"
        )
        lines += [
            f"Millions of instructions for {what} (in brackets: multiply-adds per instruction):",
            "",
            "| | " + " | ".join(levels) + " |",
            "|---|" + "---:|" * len(levels),
        ]
        for found, who in dict.fromkeys((w, n) for w, n, _ in counts):
            if found == work:
                cells = [
                    f"{counts[work, who, level] / 1e6:,.1f} ({gmac * 1e9 / counts[work, who, level]:.1f})"
                    for level in levels
                ]
                lines.append(f"| {who} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Counts and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("build", type=Path, help="of the preset linux-aarch64-static with BLUELM_COUNT=ON")
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=LEVELS)
    parser.add_argument("--print", action="store_true", help=f"and leave {PAGE.name} as it is")
    options = parser.parse_args()
    text = table(measure(options.build, options.levels), options.levels) + "\n" + mca.table(options.build)
    if options.print or options.levels != list(LEVELS):
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
