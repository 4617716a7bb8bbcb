"""Tables and figures of README.md and docs/*.md, made from benchmarks/results/KIND/*.json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compare_stock
import headline
import machines
import peers_report
import roofline

from bluelm_gguf.cli import bench_results as bench

ROOT = Path(__file__).resolve().parents[1]
RESULTS = machines.RESULTS
DOCS = ROOT / "docs"
UNITS = {"t": "tokens", "tiles": "tiles"}


NOT_MEASURED = "Not measured yet."


def kinds() -> list[str]:
    """Machines that were measured."""
    return sorted(path.name for path in RESULTS.iterdir() if path.is_dir())


def load(kind: str, name: str) -> Any:
    """A file of results, or None if that was not measured."""
    path = RESULTS / kind / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def rows(kind: str, name: str) -> list[dict[str, Any]]:
    """A set's rows, or none if it was not measured."""
    path = RESULTS / kind / f"{name}.json"
    return bench.read(path) if path.exists() else []


def by_machine(make: Callable[[str], str]) -> str:
    """What `make` says of each machine, under its name; machines of which it says nothing are left out."""
    made = [(kind, make(kind)) for kind in kinds()]
    return "\n\n".join(f"{machines.title(kind)}:\n\n{text}" for kind, text in made if text) or NOT_MEASURED


def machine(row: dict[str, Any]) -> str:
    """The line under a table."""
    inside = f", in llama.cpp: {row['llm_kernels']}" if row["llm_kernels"] else ""
    return (
        f"{row['cpu']}, {row['n_cores']} cores, {row['n_threads']} threads; kernels: {row['cpu_level']}"
        f"{inside}; {row['test_time'][:10]}"
    )


def with_deviation(mean: float, deviation: float, n: int) -> str:
    """Four digits of the mean, and as many decimals of the deviation; none for one repetition."""
    decimals = max(0, 3 - math.floor(math.log10(abs(mean)))) if mean else 0
    return f"{mean:.{decimals}f}" + (f" ± {deviation:.{decimals}f}" if n > 1 else "")


def speeds(kind: str, name: str) -> str:
    """Test, time, speed and share of the limit."""
    found = rows(kind, name)
    if not found:
        return ""
    has_limit = any(row["limit"] for row in found)
    lines = [
        "| test | ms | per second |" + (" of limit |" if has_limit else ""),
        "|-|-:|-:|" + "-:|" * has_limit,
    ]
    for row in found:
        if row["test"] == "table5":
            continue
        n = row["repetitions"]
        speed = (
            f"{with_deviation(row['avg_ts'], row['stddev_ts'], n)} {UNITS[row['unit']]}"
            if row["unit"]
            else ""
        )
        time = with_deviation(row["avg_ms"], row["stddev_ms"], n)
        limit = f" {row['limit_percent']:.0f}% {row['limit']} |" if row["limit"] else " |" * has_limit
        lines.append(f"| {row['test']} | {time} | {speed} |{limit}")
    # The last row has both models, so it knows all kernels.
    return "\n".join([*lines, "", machine(found[-1]) + "."])


def limits(kind: str) -> str:
    """What --roofline measured."""
    found = rows(kind, "3b")
    if not found or not found[0]["bandwidth_gbs"]:
        return ""
    row = found[0]
    bf16 = f"bf16 {row['bf16_gflops']:.0f} GFLOP/s, " if row["bf16_gflops"] else ""
    return (
        f"Reading {row['bandwidth_gbs']:.1f} GB/s, int8 {row['int8_gops']:.0f} GOP/s, {bf16}f32 "
        f"{row['f32_gflops']:.0f} GFLOP/s on {row['n_threads']} threads."
    )


def table5() -> str:
    """The paper's Table 5 for each machine."""
    lines = [
        "| | image processing (load + encode) | LLM prefilling (2048 tokens) | throughput | memory |",
        "|-|-:|-:|-:|-:|",
    ]
    for row in [row for kind in kinds() for name in ("3b", "3b-memory") for row in rows(kind, name)]:
        if row["test"] != "table5":
            continue
        how = f"vision weights {row['vision_weights']}, KV {row['type_k']}"
        where = f"{row['cpu']}, {row['n_threads']} threads"
        load, encode, prefill = (row[f"{k}_ms"] / 1e3 for k in ("load_mmproj", "encode", "prefill"))
        lines.append(
            f"| bluelm, synthetic 3b, {how}; {where} | {load + encode:.2f} s "
            f"({load:.2f} + {encode:.2f}) | {prefill:.2f} s | {row['decode_ts']:.1f} token/s "
            f"| {row['peak_rss'] / 2**30:.2f} GiB |"
        )
    lines += [
        "| paper: BlueLM-V-3B, vivo X100's NPU | 2.53 s (0.47 + 2.06) | 2.7 s | 24.4 token/s | 2.2 GB |",
        "| paper: MiniCPM-V 2.5 8B, the same chip's CPU, llama.cpp | 4.0 s | 13.9 s | 4.9 token/s | |",
    ]
    return "\n".join(lines)


def stock(kind: str) -> str:
    """Beside llama-bench and llama-mtmd-cli."""
    result = load(kind, "stock-3b")
    if result is None or not result["ours"]:
        return ""
    where = f"{result['cpu']}, {result['n_cores']} cores, {result['n_threads']} threads"
    rounds = len(result["ours"]["encode_ms"])
    return (
        f"{compare_stock.table(result)}\n\n{where}; llama.cpp {result['llama_cpp_commit']}; {rounds} rounds."
    )


def memory(kind: str) -> str:
    """Peak memory beside llama-mtmd-cli."""
    result = load(kind, "stock-3b")
    if result is None or "memory_mib" not in result:
        return ""
    return f"{compare_stock.memory_table(result)}\n\n{result['cpu']}, {result['n_threads']} threads."


def figure(kind: str, name: str, caption: str) -> str:
    """A sweep's figure, which `write` draws, and its machine."""
    found = rows(kind, f"3b-{name}")
    return f"![{caption}](benchmarks-{name}-{kind}.png)\n\n{machine(found[-1])}." if found else ""


def peers(kind: str, name: str) -> str:
    """A table of what benchmarks/peers measured."""
    make = {"encode": peers_report.peers_encode, "fidelity": peers_report.peers_fidelity,
            "llm": peers_report.peers_llm}[name]  # fmt: skip
    result = load(kind, f"peers-{name}")
    return make(result) if result is not None else ""


def roof(kind: str) -> str:
    """The roofline's figure, which `write` draws."""
    found = rows(kind, "3b")
    if not found or not found[0]["bandwidth_gbs"]:
        return ""
    picture = f"![Speed of each part beside the limits of the machine](roofline-{kind}.png)"
    return f"{picture}\n\n{machine(found[-1])}."


def levels(kind: str) -> str:
    """Encoding at other CPU levels."""
    result = load(kind, "levels")
    return headline.levels(result) if result is not None else ""


def summary() -> str:
    """The README's table."""
    names = ("peers-encode", "peers-fidelity", "peers-llm", "stock-3b")
    measured = {kind: {name: load(kind, name) for name in names} for kind in kinds()}
    return headline.table({kind: found for kind, found in measured.items() if found["peers-encode"]})


# document -> section -> what makes it
SECTIONS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"speed": summary},
    "docs/benchmarks.md": {
        "demo": lambda: by_machine(lambda kind: speeds(kind, "demo")),
        "3b": lambda: by_machine(lambda kind: speeds(kind, "3b")),
        "depth": lambda: by_machine(lambda kind: speeds(kind, "3b-depth")),
        "limits": lambda: by_machine(limits),
        "table5": table5,
        "stock": lambda: by_machine(stock),
        "memory": lambda: by_machine(memory),
        "batch": lambda: by_machine(lambda kind: figure(kind, "batch", "Time of a picture by tiles per run")),
        "chunk": lambda: by_machine(lambda kind: figure(kind, "chunk", "Time of the prefill by chunk")),
    },
    "docs/performance.md": {
        "roofline": lambda: by_machine(roof),
        "peers-encode": lambda: by_machine(lambda kind: peers(kind, "encode")),
        "peers-fidelity": lambda: by_machine(lambda kind: peers(kind, "fidelity")),
        "peers-llm": lambda: by_machine(lambda kind: peers(kind, "llm")),
        "levels": lambda: by_machine(levels),
    },
}


def document(name: str, text: str) -> str:
    """The document with what stands between its markers made anew."""
    for section, make in SECTIONS[name].items():
        begin, end = f"<!-- {section}: benchmarks/report.py -->", f"<!-- end {section} -->"
        found = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        assert len(found.findall(text)) == 1, f"{name} has no section {section}"
        text = found.sub(f"{begin}\n{make()}\n{end}".replace("\\", r"\\"), text)
    return text


def write() -> None:
    """Rewrites documents and figures."""
    for name in SECTIONS:
        path = ROOT / name
        path.write_text(document(name, path.read_text(encoding="utf-8")), encoding="utf-8")
    for kind in kinds():
        for name in ("batch", "chunk"):
            found = rows(kind, f"3b-{name}")
            if found:
                bench.plot(found, DOCS / f"benchmarks-{name}-{kind}.png")
        measured = rows(kind, "3b")
        if measured and measured[0]["bandwidth_gbs"]:
            beside = load(kind, "stock-3b")
            out = DOCS / f"roofline-{kind}.png"
            roofline.draw(measured, rows(kind, "3b-depth"), beside, out)
