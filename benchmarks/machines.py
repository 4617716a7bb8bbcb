"""Kinds of machines. Results are kept in a folder for each kind: benchmarks/results/KIND/*.json."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from bluelm_gguf.cli import bench_results as bench

RESULTS = Path(__file__).resolve().parent / "results"
TITLES = {"xeon-amx": "Intel Xeon with AMX", "zen4": "AMD Zen 4"}  # others go by the folder's name
ZEN = {25: "zen4", 26: "zen5"}  # CPU family -> microarchitecture, among those with AVX-512
BRANDS = ("xeon", "core", "epyc", "ryzen", "neoverse", "cortex", "snapdragon", "apple")


def kind(cpu: str, level: str, family: int | None = None) -> str:
    """The name of a machine's folder.

    Args:
        cpu: as the system calls it, "Intel(R) Xeon(R) Processor".
        level: instructions that our kernels use on it, "amx".
        family: "cpu family" of /proc/cpuinfo, where there is one.
    """
    if "AMD" in cpu and level.startswith("avx512") and family in ZEN:
        return ZEN[family]
    words = re.findall(r"[a-z0-9]+", re.sub(r"\([^)]*\)", "", cpu.lower()))
    brand = next((word for word in words if word in BRANDS), words[0] if words else "cpu")
    return f"{brand}-{level}"


def here() -> str:
    """This machine's kind, whatever level the environment forces."""
    environment = {k: v for k, v in bench.environment().items() if k != "BLUELM_CPU_LEVEL"}
    with tempfile.TemporaryDirectory() as directory:
        command = [bench.program(), "--synthetic", "demo", "-p", "1", "-n", "0", "-r", "1", "-o", "json"]
        command += ["--synthetic-dir", directory]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bluelm-bench: {done.stderr.strip()}")
    row = json.loads(done.stdout)[0]
    return kind(row["cpu"], row["cpu_level"], _family())


def folder() -> Path:
    """Where this machine's results go; made if need be."""
    path = RESULTS / here()
    path.mkdir(parents=True, exist_ok=True)
    return path


def title(name: str) -> str:
    """What tables call a kind."""
    return TITLES.get(name, name)


def _family() -> int | None:
    if not os.path.exists("/proc/cpuinfo"):
        return None
    found = re.search(r"^cpu family\s*: (\d+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return int(found[1]) if found else None
