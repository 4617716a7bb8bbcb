"""The roofline of docs/performance.md: what each part reaches, beside what the machine can do.

Across: operations for each byte that has to come from memory at least once, weights above all, for the tokens
that are computed together. Up: operations per second. A part can be no higher than the slanted roof (read
bandwidth) and the flat one of its arithmetic.
"""

from __future__ import annotations

import math
import os
import statistics
from pathlib import Path
from typing import Any

from peers_report import FFN, LLM_FFN, LLM_VOCABULARY, LLM_WIDTH, OUT, PIXELS, TOKENS, WIDTH, encode_ops

Row = dict[str, Any]
Point = tuple[str, float, float]  # label, operations per byte, 1e9 operations per second

BLOCKS, PADDED_FFN, LLM_LAYERS, TOKENS_BEHIND = 27, 4352, 32, 196
Q4_0 = 18 / 32  # bytes of a weight
LLM_WEIGHTS = LLM_LAYERS * (4 * LLM_WIDTH * LLM_WIDTH + 3 * LLM_WIDTH * LLM_FFN)
LLM_OUTPUT = LLM_WIDTH * LLM_VOCABULARY
KV_BYTES = LLM_LAYERS * 2 * LLM_WIDTH * 2  # of a position, f16


def stages(row: Row, tiles_together: int) -> list[Point]:
    """The encoder's stages from a row of `img`, and the whole: weights of one byte, once per batch."""
    n = row["n_tiles"]
    tokens = TOKENS * n
    batches = -(-n // tiles_together)
    linear = {
        "qkv": (BLOCKS, TOKENS, WIDTH, 3 * WIDTH), "attn_out": (BLOCKS, TOKENS, WIDTH, WIDTH),
        "ffn_up": (BLOCKS, TOKENS, WIDTH, PADDED_FFN), "ffn_down": (BLOCKS, TOKENS, PADDED_FFN, WIDTH),
    }  # fmt: skip
    # Values come and go in 16 bits at least.
    work = {
        name: (2.0 * count * n * t * k * m, count * (batches * k * m + 2 * n * t * (k + m)))
        for name, (count, t, k, m) in linear.items()
    }
    work["attention"] = (4.0 * BLOCKS * n * TOKENS * TOKENS * WIDTH, BLOCKS * 2 * tokens * 4 * WIDTH)
    merged = 4 * WIDTH
    work["projector"] = (
        2.0 * n * TOKENS_BEHIND * (merged * OUT + OUT * OUT),
        batches * (merged * OUT + OUT * OUT) + 4.0 * n * TOKENS_BEHIND * (merged + 2 * OUT),
    )
    work["patch_embd"] = (
        2.0 * tokens * PIXELS * WIDTH,
        2.0 * PIXELS * WIDTH + 2.0 * tokens * (PIXELS + WIDTH),
    )
    labels = {"attn_out": "attention out", "ffn_up": "FFN up", "ffn_down": "FFN down", "qkv": "QKV",
              "patch_embd": "patch embedding"}  # fmt: skip
    made = []
    for name, (ops, n_bytes) in work.items():
        if row.get(f"{name}_ms"):
            made.append((labels.get(name, name), ops / n_bytes, ops / row[f"{name}_ms"] / 1e6))
    known = [work[name] for name in work if row.get(f"{name}_ms")]
    if known:
        ops, n_bytes = (sum(part[i] for part in known) for i in (0, 1))
        made.append((f"encoder, {n} tiles", ops / n_bytes, ops / row["avg_ms"] / 1e6))
    return made


def prefill(n: int, together: int, tokens_per_second: float) -> tuple[float, float]:
    """Operations per byte and 1e9 operations per second of a prefill of n tokens, some at a time."""
    ops = 2.0 * n * LLM_WEIGHTS + 2.0 * LLM_LAYERS * LLM_WIDTH * n * n + 2 * LLM_OUTPUT
    steps = -(-n // together)
    cache = KV_BYTES * sum(min(n, together * (i + 1)) for i in range(steps))
    return ops / (steps * LLM_WEIGHTS * Q4_0 + cache), ops / (n / tokens_per_second) / 1e9


def decode(depth: float, tokens_per_second: float) -> tuple[float, float]:
    """The same of one token behind `depth` others."""
    ops = 2.0 * (LLM_WEIGHTS + LLM_OUTPUT) + 4 * LLM_LAYERS * LLM_WIDTH * depth
    return ops / ((LLM_WEIGHTS + LLM_OUTPUT) * Q4_0 + KV_BYTES * depth), ops * tokens_per_second / 1e9


def ours(measured: list[Row], deeper: list[Row]) -> list[Point]:
    """Points of bluelm-bench's rows."""
    points: list[Point] = []
    pictures = [row for row in measured if row["test"].startswith("img")]
    if pictures:
        largest = max(pictures, key=lambda row: row["n_tiles"])
        points += stages(largest, largest["tile_batch"])
    for row in measured:
        if row["test"].startswith("pp"):
            point = prefill(row["n_prompt"], min(row["chunk"], row["n_prompt"]), row["avg_ts"])
            points.append((f"prefill {row['n_prompt']}", *point))
    for row in deeper or measured:
        if row["test"].startswith("tg"):
            depth = row["n_depth"]
            points.append((f"decode at {depth}", *decode(depth + row["n_gen"] / 2, row["avg_ts"])))
    return points


def stock(result: dict[str, Any]) -> list[Point]:
    """Points of llama.cpp's programs (compare_stock.py); its weights of the encoder are bf16."""
    points: list[Point] = []
    for name, values in result["stock"].items():
        value = statistics.median(values)
        if name == "encode_ms":
            weights = BLOCKS * (4 * WIDTH * WIDTH + 2 * WIDTH * FFN) + WIDTH * OUT + OUT * OUT
            ops, values_read = encode_ops(BLOCKS), BLOCKS * 2 * TOKENS * (14 * WIDTH + 2 * FFN)
            points.append(("encoder, 1 tile", ops / (2 * weights + values_read), ops / value / 1e6))
        elif name.startswith("pp"):
            points.append((f"prefill {name[2:]}", *prefill(int(name[2:]), min(512, int(name[2:])), value)))
        elif name.startswith("tg"):
            points.append(("decode at 0", *decode(int(name[2:]) / 2, value)))
    return points


def draw(measured: list[Row], deeper: list[Row], beside: dict[str, Any] | None, out: Path) -> None:
    """Writes the figure; `measured` has been made with --roofline."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    first = measured[0]
    figure, axis = plt.subplots(figsize=(10, 6.2))
    bandwidth = first["bandwidth_gbs"]
    roofs = [("int8", first["int8_gops"]), ("bf16", first["bf16_gflops"]), ("f32", first["f32_gflops"])]
    roofs = [(name, peak) for name, peak in roofs if peak]
    low, high = 1.0, 2e4
    highest = max(peak for _, peak in roofs)
    axis.plot([low, highest / bandwidth], [low * bandwidth, highest], color="0.25", lw=2)
    for name, peak in roofs:
        axis.plot([peak / bandwidth, high], [peak, peak], color="0.25", lw=2)
        axis.annotate(f"{name} {peak:,.0f}", (high, peak), (-4, 3), textcoords="offset points", ha="right",
                      va="bottom", fontsize=9, color="0.25")  # fmt: skip
    at = highest / bandwidth / 12
    axis.annotate(f"reading {bandwidth:.0f} GB/s", (at, at * bandwidth), (-10, 6), textcoords="offset points",
                  ha="right", fontsize=9, color="0.25")  # fmt: skip
    series = [("this library", ours(measured, deeper), "#0b6fb8", "o")]
    if beside is not None:
        series.append(("llama.cpp's own programs", stock(beside), "#c2410c", "s"))
    for name, points, colour, marker in series:
        axis.scatter(
            [x for _, x, _ in points],
            [y for _, _, y in points],
            s=42,
            color=colour,
            marker=marker,
            label=name,
            zorder=3,
        )
    labels = [(*point, colour) for _, points, colour, _ in series for point in points]
    bend = highest / bandwidth
    _label(axis, [label for label in labels if label[1] < bend / 10], 14)
    _label(axis, [label for label in labels if label[1] >= bend / 10], 4.5e3)
    axis.set(xscale="log", yscale="log", xlim=(low, high))
    bottom = min(y for _, points, _, _ in series for _, _, y in points) / 3
    axis.set_ylim(min(bottom, low * bandwidth), 2 * highest)
    axis.set_xlabel("operations per byte from memory")
    axis.set_ylabel("1e9 operations per second")
    axis.grid(which="major", color="0.9")
    axis.legend(loc="lower right", fontsize=9)
    axis.set_title(
        f"{first['cpu']}, {first['n_cores']} cores, {first['n_threads']} threads ({first['cpu_level']})",
        fontsize=10,
    )
    figure.tight_layout()
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format="png", dpi=110, facecolor="white")
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
        plt.close(figure)


def _label(axis: Any, points: list[tuple[str, float, float, str]], column: float) -> None:
    """Names in a column, in the order of their points' heights, each with a line to its point."""
    height = 0.095  # of a label, in decades
    points = sorted(points, key=lambda point: point[2])
    wanted = [math.log10(y) for _, _, y, _ in points]
    places: list[float] = []
    for at in wanted:  # from below, each above the one before
        places.append(max(at, places[-1] + height) if places else at)
    # What was pushed up comes down by half: the column stays around its points.
    shift = max((place - at for place, at in zip(places, wanted, strict=True)), default=0) / 2
    for (name, x, y, colour), place in zip(points, places, strict=True):
        line = {"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.7}
        where = (column, 10 ** (place - shift))
        axis.annotate(name, (x, y), where, color=colour, fontsize=8.5, va="center", arrowprops=line)
