"""The README's table: llama.cpp, OpenVINO and ours side by side, on each machine that was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

import machines
import peers_report

Results = dict[str, Any]  # name of a file -> its content, None where that was not measured
SIDES = ("llama.cpp", "OpenVINO", "bluelm-gguf")
PREFIXES = {
    "llama.cpp": ("llama.cpp ", "llama-bench "),
    "OpenVINO": ("OpenVINO ",),
    "bluelm-gguf": ("ours ",),
}
# What counts as computing with 8 and with 16 bits.
TYPES = {8: ("q8_0", "int8", "int8-bf16"), 16: ("f16", "bf16")}


def table(measured: dict[str, Results]) -> str:
    """A row for each kind of work, three columns for each machine; empty where nobody measured."""
    if not measured:
        return "Not measured yet."
    heads = [f"{machines.title(kind)}: {side}" if i == 0 else side
             for kind in measured for i, side in enumerate(SIDES)]  # fmt: skip
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    rows: list[tuple[str, Callable[[Results, str], str]]] = [
        ("encode a 384x384 tile, 8 bits", lambda r, side: encode(r, side, 8)),
        ("the same, AVX-512 on both sides", without_amx),
        ("encode a tile, 16 bits", lambda r, side: encode(r, side, 16)),
        ("features of 8 bits, cosine to float32", cosine),
        ("prefill of 2048 tokens, 8 layers", lambda r, side: llm(r, side, "prefill 2048")),
        ("generation behind 512 tokens, 8 layers", lambda r, side: llm(r, side, "decode 32")),
        ("peak memory, mmproj in Q8_0", lambda r, side: memory(r, side, ("q8_0",))),
        ("peak memory, the leanest mmproj", lambda r, side: memory(r, side, ("q8_0", "bf16", "f16"))),
    ]
    for label, cell in rows:
        cells = [cell(results, side) for results in measured.values() for side in SIDES]
        if any(cells):
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", " ".join(sources(measured))])


def sources(measured: dict[str, Results]) -> Iterable[str]:
    """CPU, threads and date of each machine."""
    for kind, results in measured.items():
        where, runs = results["peers-encode"]["machine"], results["peers-encode"]["runs"]
        yield (
            f"{machines.title(kind)}: {where['cpu']}, {where['n_threads']} threads, our level "
            f"{where['cpu_level']}, {runs[-1]['time'][:10]}."
        )


def _times(result: Results | None, side: str, work: str) -> dict[str, float]:
    """Mean over the runs of the medians in ms, by what follows the side's name: "q8_0"."""
    if result is None:
        return {}
    found = {}
    for name in peers_report.names_of(result, work):
        for prefix in PREFIXES[side]:
            if name.startswith(prefix):
                found[name.removeprefix(prefix)] = statistics.mean(peers_report.medians(result, name, work))
    return found


def encode(results: Results, side: str, bits: int) -> str:
    """The fastest of a side's types of this width."""
    times = {k: ms for k, ms in _times(results["peers-encode"], side, "1").items() if k in TYPES[bits]}
    return _seconds(*min(times.items(), key=lambda item: item[1])) if times else ""


def without_amx(results: Results, side: str) -> str:
    """Our encoder held to AVX-512 where the CPU has AMX: what llama.cpp's programs were compiled for."""
    if results["peers-encode"]["machine"]["cpu_level"] != "amx":
        return ""
    level = "q8_0 at avx512-vnni"
    times = _times(results["peers-encode"], "bluelm-gguf", "1")
    if level in times:
        if side == "llama.cpp":
            return encode(results, side, 8)
        return _seconds(level, times[level]) if side == "bluelm-gguf" else ""
    return ""


def cosine(results: Results, side: str) -> str:
    """Mean cosine of the features of the type that `encode` shows, without outlier channels."""
    fidelity = results["peers-fidelity"]
    times = {k: ms for k, ms in _times(results["peers-encode"], side, "1").items() if k in TYPES[8]}
    if fidelity is None or not times:
        return ""
    names = [prefix + min(times, key=lambda kind: times[kind]) for prefix in PREFIXES[side]]
    for row in fidelity["runs"][-1]["cosines"]:
        if row["outliers"] == 1 and row["name"] in names:
            return f"{row['mean']:.5f}"
    return ""


def llm(results: Results, side: str, work: str) -> str:
    """Tokens per second."""
    times = _times(results["peers-llm"], side, work)
    return f"{1e3 * int(work.split()[1]) / min(times.values()):.0f} token/s" if times else ""


def memory(results: Results, side: str, kinds: tuple[str, ...]) -> str:
    """Peak memory with the type of mmproj that takes least."""
    prefix = PREFIXES[side][0]
    found = (results["stock-3b"] or {}).get("memory_mib", {})
    sizes = {found[prefix + kind]: kind for kind in kinds if prefix + kind in found}
    return f"{min(sizes) / 1024:.2f} GiB ({sizes[min(sizes)].upper()})" if sizes else ""


def levels(result: Results) -> str:
    """Milliseconds of one tile by CPU level (levels.json)."""
    lines = ["| one tile | ms of CPU time |", "|---|--:|"]
    lines += [f"| {name} | {ms} |" for name, ms in result["cpu_ms"].items()]
    note = f"{result['blocks']} of 27 blocks, {result['threads']} thread; {result['cpu']}."
    return "\n".join([*lines, "", note])


def _seconds(kind: str, ms: float) -> str:
    return f"{ms / 1e3:.2f} s ({kind})"
