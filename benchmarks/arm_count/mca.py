"""What llvm-mca says about the inner loops of the 8-bit kernels, on models of phone cores.

    python benchmarks/arm_count/mca.py BUILD_DIRECTORY

The objects of the build are disassembled; of every matmul kernel the loop with most multiplying instructions
is simulated (100 iterations, everything in the first-level cache, no branch missed). LLVM has no models of
its own for Cortex-X4 and Cortex-A720: version 19 takes Neoverse N2's for both (two SIMD pipes, which suits an
A720), so Neoverse V2 (four, the server version of Cortex-X3) stands beside it for the large cores. LLVM 14
takes Cortex-A57's for everything later; where no llvm-mca knows both names, the table says so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CPUS = ("neoverse-n2", "neoverse-v2")
ITERATIONS = 100
STOCK = {  # of ggml's archives
    "libggml-cpu-dotprod.a": ("ggml_gemm_q8_0_4x4_q8_0", "ggml_gemm_q4_0_4x4_q8_0"),
    "libggml-cpu-i8mm.a": ("ggml_gemm_q8_0_4x8_q8_0", "ggml_gemm_q4_0_4x8_q8_0"),
}
# Multiply-adds of one instruction; `smlal` and its like widen 8 values.
MULTIPLY = {
    "smmla": 32,
    "usmmla": 32,
    "ummla": 32,
    "bfmmla": 16,
    "sdot": 16,
    "udot": 16,
    "usdot": 16,
    "smull": 8,
    "smlal": 8,
    "smlal2": 8,
}
FLOAT = {"fmla": 4}  # counted where there is nothing of the above: elsewhere it applies scales


@dataclass(frozen=True)
class Loop:
    """An innermost loop as assembler text."""

    function: str
    lines: tuple[str, ...]

    @property
    def multiply_adds(self) -> int:
        """Of one iteration."""
        names = [line.split()[0] for line in self.lines]
        return sum(MULTIPLY.get(n, 0) for n in names) or sum(FLOAT.get(n, 0) for n in names)

    @property
    def name(self) -> str:
        """Of the function, without namespaces and parameters."""
        return self.function.replace("(anonymous namespace)::", "").split("(")[0].split("::")[-1]


def loops(object_file: Path) -> Iterator[Loop]:
    """Innermost loops of all functions of an object or archive."""
    command = ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", "-C", str(object_file)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for part in re.split(r"\n\n", listing):
        lines = part.strip().split("\n")
        head = re.match(r"[0-9a-f]+ <(.*)>:$", lines[0])
        if head is None:
            continue
        code = [
            (int(m[1], 16), m[2]) for line in lines[1:] if (m := re.match(r"\s*([0-9a-f]+):\s+(.*)", line))
        ]
        at = {address: i for i, (address, _) in enumerate(code)}
        ends: list[tuple[int, int]] = []
        for i, (_, text) in enumerate(code):
            branch = re.match(r"(?:b\.\w+|b|cbn?z|tbn?z)\s.*?\b([0-9a-f]+) <", text)
            if branch and at.get(int(branch[1], 16), i + 1) <= i:
                ends.append((at[int(branch[1], 16)], i))
        for first, last in ends:
            if not any(first <= begin and end < last for begin, end in ends):
                body = [re.sub(r"\s+(//.*|<.*)$", "", text) for _, text in code[first:last]]
                yield Loop(head[1], tuple(line for line in body if not re.match(r"bl?(\.\w+)?\s", line)))


def best(object_file: Path, wanted: tuple[str, ...] | None = None) -> dict[str, Loop]:
    """By function, its loop with most multiply-adds; only functions that have one."""
    found: dict[str, Loop] = {}
    for loop in loops(object_file):
        name = loop.name
        if wanted is not None and name not in wanted:
            continue
        if loop.multiply_adds > (found[name].multiply_adds if name in found else 0):
            found[name] = loop
    return found


def find_mca() -> str | None:
    """An llvm-mca that knows the CPUs."""
    for name in ("llvm-mca", *(f"llvm-mca-{version}" for version in range(30, 17, -1))):
        path = shutil.which(name)
        if path and cycles(path, CPUS[-1], Loop("", ("nop",))) is not None:
            return path
    return None


def cycles(mca: str, cpu: str, loop: Loop) -> float | None:
    """Cycles per iteration; None where llvm-mca does not know the CPU or an instruction."""
    command = [mca, "-march=aarch64", f"-mcpu={cpu}", f"-iterations={ITERATIONS}"]
    done = subprocess.run(
        command, input="\n".join(loop.lines) + "\n", capture_output=True, text=True, check=False
    )
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if done.returncode or total is None or "not a recognized processor" in done.stderr:
        return None
    return int(total[1]) / ITERATIONS


def table(build: Path) -> str:
    """Markdown: multiply-adds per cycle of each kernel's inner loop."""
    mca = find_mca()
    if mca is None:
        return f"No llvm-mca was found that has models of {' and '.join(CPUS)} (LLVM 19 has).\n"
    kernels: list[tuple[str, Loop]] = []
    for archive, wanted in STOCK.items():
        kernels += [(f"llama.cpp, {name}", loop) for name, loop in best(build / archive, wanted).items()]
    objects = build / "CMakeFiles/bluelm_objects.dir/cpp/src/kernels"
    for path in (
        *sorted(objects.glob("encoder/matmul_8x12_*.o")),
        *sorted(objects.glob("llm/gemm_8x12_*.o")),
    ):
        file = path.name.split(".")[0]
        kernels += [
            (f"bluelm, {file}.cpp {name}", loop)
            for name, loop in best(path).items()
            if file.startswith("matmul") or name == "multiply"
        ]
    lines = [
        "Multiply-adds per cycle of the inner loops by llvm-mca (in brackets: cycles and instructions of an "
        "iteration):",
        "",
        "| kernel | " + " | ".join(CPUS) + " |",
        "|---|" + "---:|" * len(CPUS),
    ]
    for who, loop in kernels:
        cells = []
        for cpu in CPUS:
            n = cycles(mca, cpu, loop)
            cells.append(
                "unknown" if n is None else f"{loop.multiply_adds / n:.1f} ({n:.1f}, {len(loop.lines)})"
            )
        lines.append(f"| {who} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
