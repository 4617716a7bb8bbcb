"""The benchmark's results: running bluelm-bench, comparing two files, drawing the paper's figures.

Measuring happens in the program alone (cpp/tools/bluelm-bench.cpp); here are only its JSON files.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import BluelmError, NativeError
from ..native.openmp import spin_settings

Row = dict[str, Any]

# Settings of a run: what tells two rows of the same test apart.
SETTINGS = (
    "n_threads", "cpu_mask", "chunk", "n_batch", "n_ubatch", "tile_batch", "pipeline", "type_k", "type_v",
    "flash_attn", "vision_weights", "activations", "llm_kernels",
    "model_type", "mmproj_type", "cpu", "cpu_level", "build",
)  # fmt: skip


class BenchError(BluelmError):
    """A file of results that cannot be used, or a figure that cannot be drawn."""


def program() -> Path:
    """Where bluelm-bench lies: `bin/` inside the package, also for an editable install.

    Raises:
        NativeError: it is not there.
    """
    import bluelm_gguf

    for directory in bluelm_gguf.__path__:
        candidate = Path(directory) / "bin" / "bluelm-bench"
        if candidate.is_file():
            return candidate
    raise NativeError("bluelm-bench is not installed: install the package with pip, which compiles it")


def environment() -> dict[str, str]:
    """The environment in which the program finds llama-cpp-python's libraries, wherever that is installed.

    Its threads wait at barriers as those of `Model` do.
    """
    directory = os.environ.get("LLAMA_CPP_LIB_PATH")
    if not directory:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            raise NativeError("llama-cpp-python is not installed: reinstall bluelm-gguf with pip")
        directory = str(Path(spec.origin).parent / "lib")
    name = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
    others = os.environ.get(name)
    return os.environ | spin_settings() | {name: directory + (os.pathsep + others if others else "")}


def run(arguments: Sequence[str]) -> int:
    """Runs bluelm-bench with this process's output, and passes signals on once; returns its exit code."""
    # In a session of its own: Ctrl-C on a terminal reaches this process alone, and the program once.
    child = subprocess.Popen([program(), *arguments], env=environment(), start_new_session=True)
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[number] = signal.signal(number, lambda received, _frame: child.send_signal(received))
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read(path: Path) -> list[Row]:
    """The rows of a file that bluelm-bench wrote with `-o json`, `-o jsonl` or `--json`.

    Raises:
        BenchError: it is something else.
        OSError: it cannot be read.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if text.lstrip().startswith("{"):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise BenchError(f"{path}: not JSON ({error}); bluelm-gguf bench --json FILE writes it") from None
    if not isinstance(rows, list) or not rows or not all(map(_is_row, rows)):
        raise BenchError(f"{path}: no results of bluelm-bench in it")
    return rows


def _is_row(row: Any) -> bool:
    """Whether it has what comparing and drawing take for granted."""
    if not isinstance(row, dict):
        return False
    numbers = (row.get(name) for name in ("avg_ms", "stddev_ms", "n_cores", *(s for s, _, _ in _SWEEPS)))
    texts = (row.get(name) for name in ("test", "cpu"))
    return all(isinstance(n, (int, float)) for n in numbers) and all(isinstance(s, str) for s in texts)


def compare(a: list[Row], b: list[Row]) -> str:
    """Two files' rows beside each other, as markdown, with time(A) / time(B): above 1, B is faster.

    Rows belong together when the test and every setting that varies inside a file are equal; what is constant
    in both may differ, and is named.
    """
    varying = [
        name for name in SETTINGS if any(len({str(row.get(name)) for row in rows}) > 1 for rows in (a, b))
    ]
    # The models differ between tests of encoder and language model: the test's name says that already.
    varying = [name for name in varying if not name.endswith("_type")]

    def key(row: Row) -> tuple[str, ...]:
        return (row["test"], *(str(row.get(name)) for name in varying))

    of_b = {key(row): row for row in b}
    lines = []
    for name in SETTINGS:
        if name in varying:
            continue
        values = [" + ".join(sorted({str(row.get(name)) for row in rows} - {""})) for rows in (a, b)]
        if values[0] != values[1]:
            lines.append(f"{name}: A {values[0]}, B {values[1]}")
    if lines:
        lines.append("")
    names = " | ".join(["test", *varying, "A ms", "B ms", "A / B"])
    lines += [f"| {names} |", "|" + "-|" * (len(varying) + 1) + "-:|" * 3]
    seen = set()
    for row in a:
        other = of_b.get(key(row))
        seen.add(key(row))
        lines += _pair(row, other, [str(row.get(name)) for name in varying])
    for row in b:
        if key(row) not in seen:
            lines += _pair(None, row, [str(row.get(name)) for name in varying])
    return "\n".join(lines)


def _pair(a: Row | None, b: Row | None, settings: list[str]) -> list[str]:
    """The table's line of a test, and lines of its parts."""
    some = a or b
    assert some is not None
    lines = []
    parts = [("avg_ms", some["test"])]
    parts += [(name, f"- {name[:-3]}") for name in some if name.endswith("_ms") and name not in _NOT_PARTS]
    for name, label in parts:
        times = [row.get(name) if row else None for row in (a, b)]
        if times == [None, None]:
            continue
        ratio = f"{times[0] / times[1]:.2f}" if times[0] and times[1] else ""
        shown = [f"{t:.2f}" if t is not None else "" for t in times]
        cells = settings if name == "avg_ms" else [""] * len(settings)
        lines.append(f"| {' | '.join([label, *cells, *shown, ratio])} |")
    return lines


_NOT_PARTS = {"avg_ms", "stddev_ms", "samples_ms"}


# -------------------------------------------------------------------------------------------------- figures


def check_plotting(out: Path) -> None:
    """Refuses what would fail after minutes of measuring.

    Raises:
        BenchError: no matplotlib, or a name that does not end in .png or .svg.
    """
    if out.suffix.lower() not in (".png", ".svg"):
        raise BenchError(f"{out}: a figure's name ends in .png or .svg")
    if not out.parent.is_dir():
        raise BenchError(f"{out}: there is no directory {out.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError("drawing needs matplotlib: pip install 'bluelm-gguf[plot]'")


def plot(rows: list[Row], out: Path) -> None:
    """Draws what a sweep measured, a panel for each: patches per batch (Fig. 7), chunk (Fig. 8), threads.

    Raises:
        BenchError: there is no sweep among the rows, or the file cannot be written.
    """
    check_plotting(out)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [panel for panel in map(_panel, _SWEEPS, [rows] * len(_SWEEPS)) if panel is not None]
    if not panels:
        raise BenchError("no sweep among the results: measure with --sweep batch, chunk or threads")
    figure, axes = plt.subplots(1, len(panels), figsize=(1 + 4.2 * len(panels), 3.9), squeeze=False)
    for axis, (label, title, unit, series) in zip(axes[0], panels, strict=True):
        ticks = sorted({x for points in series.values() for x, _, _ in points})
        width = 0.75 / len(series)
        for i, (name, points) in enumerate(series.items()):
            places = [ticks.index(x) + (i - (len(series) - 1) / 2) * width for x, _, _ in points]
            bars = axis.bar(
                places,
                [y for _, y, _ in points],
                width,
                yerr=[e for _, _, e in points],
                capsize=2,
                label=name,
            )
            axis.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
        axis.set_xticks(range(len(ticks)), [str(x) for x in ticks])
        axis.set_xlabel(label)
        axis.set_ylabel(unit)
        axis.set_title(title, fontsize=10)
        axis.margins(y=0.15)
        if len(series) > 1:
            axis.legend(fontsize=7)
    first = rows[0]
    figure.suptitle(f"{first['cpu']}, {first['n_cores']} cores ({first.get('cpu_level')})", fontsize=9)
    figure.tight_layout()
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format=out.suffix[1:].lower(), dpi=120)
        os.replace(part, out)
    except OSError as error:
        raise BenchError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)
        plt.close(figure)


# setting, its label, the tests' first letters
_SWEEPS = (
    ("tile_batch", "tiles per ViT run", ("img",)),
    ("chunk", "tokens per prefill step", ("pp",)),
    ("n_threads", "threads", ("img", "pp", "tg")),
)

Series = dict[str, list[tuple[int, float, float]]]


def _panel(sweep: tuple[str, str, tuple[str, ...]], rows: list[Row]) -> tuple[str, str, str, Series] | None:
    """Label, title, unit, and for each test (and model) its points (setting, seconds, deviation)."""
    setting, label, tests = sweep
    series: Series = {}
    for row in rows:
        if not row["test"].startswith(tests):
            continue
        model = row.get("mmproj_type") if row["test"].startswith("img") else row.get("model_type")
        points = series.setdefault(f"{row['test']}, {model}", [])
        if all(x != row[setting] for x, _, _ in points):
            points.append((row[setting], row["avg_ms"] / 1e3, row["stddev_ms"] / 1e3))
    series = {name: sorted(points) for name, points in series.items() if len(points) > 1}
    if not series:
        return None
    names = list(series)
    title = names[0] if len(names) == 1 else "time of a test"
    return label, title, "seconds", series
