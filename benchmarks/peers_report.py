"""Tables of docs/performance.md from benchmarks/results/peers-*.json, which benchmarks/peers writes."""

from __future__ import annotations

import statistics
from typing import Any

Result = dict[str, Any]

# SigLIP-so400m/14-384 and the two-layer MLP of benchmarks/peers/network.py; the Llama of BlueLM-V-3B's width.
TOKENS, WIDTH, FFN, PIXELS, OUT = 729, 1152, 4304, 3 * 14 * 14, 2560
LLM_WIDTH, LLM_FFN, LLM_VOCABULARY = 2560, 6912, 49152


def encode_ops(layers: int) -> float:
    """Multiplications and additions in the matmuls of one tile, attention's included."""
    block = 2 * TOKENS * (4 * WIDTH * WIDTH + 2 * WIDTH * FFN) + 4 * TOKENS * TOKENS * WIDTH
    return layers * block + 2.0 * TOKENS * (PIXELS * WIDTH + WIDTH * OUT + OUT * OUT)


def prefill_ops(layers: int, n: int) -> float:
    """The same of a prefill of n tokens from an empty cache, with the logits of the last one."""
    weights = 4 * LLM_WIDTH * LLM_WIDTH + 3 * LLM_WIDTH * LLM_FFN
    return layers * (2.0 * n * weights + 2 * LLM_WIDTH * n * n) + 2 * LLM_WIDTH * LLM_VOCABULARY


def decode_bytes(setting: dict[str, Any], n: int) -> float:
    """What one of n decoded tokens reads on average: the file's weights, keys and values in 16 bits."""
    positions = setting["depth"] + n / 2
    return float(setting["bytes_per_token"]) + setting["layers"] * 2 * LLM_WIDTH * 2 * positions


def names_of(result: Result, work: str) -> list[str]:
    """Who did this work in every run."""
    first = result["runs"][0]["times_ms"]
    return [name for name in first if all(work in run["times_ms"].get(name, {}) for run in result["runs"])]


def medians(result: Result, name: str, work: str) -> list[float]:
    """A median in ms for each run."""
    return [statistics.median(run["times_ms"][name][work]) for run in result["runs"]]


def each(values: list[float], form: str) -> str:
    """The runs' values in one cell."""
    return " / ".join(form.format(value) for value in values)


def of_peak(result: Result, name: str, work: str, ops: float, peaks: tuple[str, ...]) -> str:
    """The runs' mean share of each peak that the machine has."""
    cells = []
    for peak in peaks:
        runs = [run for run in result["runs"] if run["limits"][peak]]
        times = [statistics.median(run["times_ms"][name][work]) for run in runs]
        shares = [ops / ms / 1e4 / run["limits"][peak] for ms, run in zip(times, runs, strict=True)]
        cells.append(f"{statistics.mean(shares):.1f}%" if shares else "")
    return " | ".join(cells)


def machine(result: Result) -> str:
    """What stands below a table."""
    where, runs = result["machine"], result["runs"]
    limits = [run["limits"] for run in runs if "limits" in run]
    text = f"{where['cpu']}, {where['n_cores']} cores, {where['n_threads']} threads, "
    text += f"level {where['cpu_level']}; "
    if limits:

        def figure(name: str) -> str:
            return each([limit[name] for limit in limits], "{:.0f}")

        peaks = {"int8": "int8_gops", "bf16": "bf16_gflops", "f32": "f32_gflops"}
        known = [f"{kind} {figure(name)}" for kind, name in peaks.items() if limits[0][name]]
        text += f"reading {figure('bandwidth_gbs')} GB/s, peaks {', '.join(known)} x 1e9 operations/s; "
    packages = ", ".join(f"{name} {version}" for name, version in runs[-1]["versions"].items())
    dates = sorted({run["time"][:10] for run in runs})
    many = f"{len(runs)} runs: values as first / second" if len(runs) > 1 else "one run"
    return f"{text}{packages}; {many}; {', '.join(dates)}."


def peers_encode(result: Result) -> str:
    """A table for each number of tiles."""
    setting = result["runs"][0]["setting"]
    ops, parts = encode_ops(setting["layers"]), []
    works = {work for times in result["runs"][0]["times_ms"].values() for work in times}
    for work in sorted(works, key=int):
        n, names = int(work), names_of(result, work)
        by_name = {name: [ms / n for ms in medians(result, name, work)] for name in names}
        of_stock = [times for name, times in by_name.items() if name.startswith("llama.cpp")]
        stock = [min(times) for times in zip(*of_stock, strict=True)] if of_stock else []
        int8 = by_name.get("OpenVINO int8", [])
        lines = [
            f"| {n} tile{'s' * (n > 1)} | ms per tile | least - most | / best llama.cpp | / OpenVINO int8 "
            "| of int8 peak | of bf16 peak |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for name, times in by_name.items():
            everything = [ms / n for run in result["runs"] for ms in run["times_ms"][name][work]]
            ratios = [
                each([a / b for a, b in zip(times, other, strict=True)], "{:.2f}") if other else ""
                for other in (stock, int8)
            ]
            shares = of_peak(result, name, work, n * ops, ("int8_gops", "bf16_gflops"))
            lines.append(
                f"| {name} | {each(times, '{:.0f}')} | {min(everything):.0f} - {max(everything):.0f} | "
                f"{' | '.join(ratios)} | {shares} |"
            )
        parts.append("\n".join(lines))
    stock_is = f"llama.cpp is {setting['stock']}; {setting['layers']} blocks; {ops / 1e12:.3f} TOP per tile."
    return "\n\n".join([*parts, f"{stock_is} {machine(result)}"])


def peers_fidelity(result: Result) -> str:
    """Cosines to float32."""
    (run,) = result["runs"]
    lines = ["| outlier channels | | cosine, mean | worst token |", "|---|---|--:|--:|"]
    for row in run["cosines"]:
        what = "none" if row["outliers"] == 1 else f"x{row['outliers']:g}"
        lines.append(f"| {what} | {row['name']} | {row['mean']:.5f} | {row['worst']:.5f} |")
    return "\n".join([*lines, "", f"{run['setting']['layers']} blocks. {machine(result)}"])


def peers_llm(result: Result) -> str:
    """A table for each kind of work."""
    setting = result["runs"][0]["setting"]
    parts = []
    for work in next(iter(result["runs"][0]["times_ms"].values())):
        kind, n = work.split()[0], int(work.split()[1])
        is_prefill, names = kind == "prefill", names_of(result, work)
        (stock,) = (medians(result, name, work) for name in names if name.startswith("llama"))
        what = f"prefill of {n}" if is_prefill else f"decode of {n} behind {setting['depth']}"
        limit = "of int8 peak | of bf16 peak" if is_prefill else "of read bandwidth"
        lines = [
            f"| {what} | token/s | least - most | / llama.cpp | {limit} |",
            "|---|--:|--:|--:|--:|" + "--:|" * is_prefill,
        ]
        for name in names:
            times = medians(result, name, work)
            everything = [1e3 * n / ms for run in result["runs"] for ms in run["times_ms"][name][work]]
            if is_prefill:
                ops = prefill_ops(setting["layers"], n)
                share = of_peak(result, name, work, ops, ("int8_gops", "bf16_gflops"))
            else:
                share = of_peak(result, name, work, n * decode_bytes(setting, n), ("bandwidth_gbs",))
            lines.append(
                f"| {name} | {each([1e3 * n / ms for ms in times], '{:.1f}')} | "
                f"{min(everything):.1f} - {max(everything):.1f} | "
                f"{each([b / a for a, b in zip(times, stock, strict=True)], '{:.2f}')} | {share} |"
            )
        parts.append("\n".join(lines))
    kernels = ", ".join(sorted({str(run["kernels"]) for run in result["runs"]}))
    note = f"{setting['layers']} of 32 layers; our kernels: {kernels}."
    return "\n\n".join([*parts, f"{note} {machine(result)}"])
