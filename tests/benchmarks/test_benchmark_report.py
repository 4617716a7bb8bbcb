"""README.md, docs/benchmarks.md and docs/performance.md say what benchmarks/results/KIND/*.json say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "peers"))
import build_stock
import headline
import machines
import peers_report
import report
import roofline
import runner

from bluelm_gguf.cli import bench_results as bench


@pytest.mark.parametrize("name", report.SECTIONS)
def test_tables_are_those_of_the_files(name: str) -> None:
    path = report.ROOT / name
    text = path.read_text(encoding="utf-8")
    assert report.document(name, text) == text, "python benchmarks/run.py --report"
    for line in text.splitlines():
        if line.startswith("!["):
            assert (path.parent / line.split("(")[1].rstrip(")")).is_file(), line


def test_tables_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.by_machine(report.limits) == report.summary() == "Not measured yet."
    folder = tmp_path / "xeon-amx"
    folder.mkdir()
    assert report.by_machine(report.limits) == report.by_machine(report.stock) == "Not measured yet."
    options = ["-t", "1", "-p", "8", "-n", "2", "-r", "2", "--table5", "--roofline", "--bandwidth", "50"]
    command = [bench.program(), *options, "--json", folder / "3b.json"]
    subprocess.run(command, env=bench.environment(), check=True, stdout=subprocess.DEVNULL)
    rows = bench.read(folder / "3b.json")
    table = report.speeds("xeon-amx", "3b").splitlines()
    assert table[0] == "| test | ms | per second | of limit |"
    assert len({line.count("|") for line in table[:5]}) == 1
    assert table[4].startswith("| tg2 | ") and table[4].endswith("% bandwidth |")
    assert rows[0]["cpu"] in table[-1] and "table5" not in "".join(table)
    assert report.by_machine(report.limits).startswith("Intel Xeon with AMX:\n\nReading 50.0 GB/s, int8 ")
    assert "| bluelm, synthetic 3b, vision weights resident, KV f16; " in report.table5()
    sides = {"encode_ms": [10.0, 12.0, 90.0], "pp8": [5.0]}
    memory = {"ours q8_0": 50.0, "ours bf16": 70.0, "llama.cpp q8_0": 100.0, "llama.cpp f16": 90.0}
    result = {"cpu": "X", "n_cores": 2, "n_threads": 1, "llama_cpp_commit": "abc", "stock": sides,
              "stock_type": "f16", "memory_mib": memory,
              "ours": {"encode_ms": [6.0], "pp8": [10.0]}}  # fmt: skip
    (folder / "stock-3b.json").write_text(json.dumps(result))
    text = report.stock("xeon-amx")
    assert "| encode one 384x384 tile (F16 / Q8_0) | 12 ms | 6 ms | 0.50x |" in text
    assert "| prefill 8 | 5 token/s | 10 token/s | 2.00x the speed |" in text
    text = report.memory("xeon-amx")
    assert "| Q8_0 | 100 MiB | 50 MiB | 0.50x |" in text and "| F16 | 90 MiB |  |  |" in text


@pytest.mark.parametrize(
    ("cpu", "level", "family", "kind"),
    [
        ("Intel(R) Xeon(R) Processor", "amx", 6, "xeon-amx"),
        ("AMD EPYC", "avx512-bf16", 25, "zen4"),
        ("AMD Ryzen 9 9950X", "avx512-bf16", 26, "zen5"),
        ("AMD EPYC 7543", "avx2", 25, "epyc-avx2"),
        ("12th Gen Intel(R) Core(TM) i7-12700", "avx-vnni", 6, "core-avx-vnni"),
        ("", "generic", None, "cpu-generic"),
    ],
)
def test_kinds_of_machines(cpu: str, level: str, family: int | None, kind: str) -> None:
    assert machines.kind(cpu, level, family) == kind


def test_the_kind_of_this_machine_is_not_the_level_that_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = machines.here()
    monkeypatch.setenv("BLUELM_CPU_LEVEL", "generic")
    assert machines.here() == kind and not kind.endswith("generic")


def results_of(cpu_level: str, ms: dict[str, float]) -> dict[str, object]:
    """What one machine measured: encoding, language model, fidelity, memory."""
    machine = {"cpu": "X", "n_cores": 2, "n_threads": 2, "cpu_level": cpu_level}
    encode = peers_run({name: {"1": [t, t, 9 * t]} for name, t in ms.items()}, layers=0, stock="s")
    llm = {"ours Q4_0": {"prefill 2048": [1024.0]}, "llama-bench Q4_0": {"prefill 2048": [4096.0]}}
    cosines = [{"outliers": k, "name": "ours q8_0", "mean": 0.99 - k / 1e3, "worst": 0.9} for k in (1, 100)]
    return {
        "peers-encode": {"machine": machine, "runs": [encode]},
        "peers-llm": {"machine": machine, "runs": [peers_run(llm, layers=0)]},
        "peers-fidelity": {"machine": machine, "runs": [{"cosines": cosines}]},
        "stock-3b": {"memory_mib": {"ours q8_0": 1024.0, "llama.cpp q8_0": 3072.0, "llama.cpp f16": 2048.0}},
    }


def test_the_table_of_the_readme() -> None:
    """Every side's best type, machines side by side, and no row that nobody measured."""
    ms = {"ours q8_0": 200.0, "ours q8_0 at avx512-vnni": 500.0, "ours bf16": 400.0, "llama.cpp f16": 1000.0,
          "llama.cpp bf16": 900.0, "llama.cpp q8_0": 2000.0, "OpenVINO int8": 300.0,
          "OpenVINO int8-bf16": 250.0}  # fmt: skip
    xeon = results_of("amx", ms)
    lines = headline.table({"xeon-amx": xeon}).splitlines()
    assert lines[0] == "| | Intel Xeon with AMX: llama.cpp | OpenVINO | bluelm-gguf |"
    assert "| encode a 384x384 tile, 8 bits | 2.00 s (q8_0) | 0.25 s (int8-bf16) | 0.20 s (q8_0) |" in lines
    assert "| the same, AVX-512 on both sides | 2.00 s (q8_0) |  | 0.50 s (q8_0 at avx512-vnni) |" in lines
    assert "| encode a tile, 16 bits | 0.90 s (bf16) |  | 0.40 s (bf16) |" in lines
    assert "| features of 8 bits, cosine to float32 |  |  | 0.98900 |" in lines
    assert "| prefill of 2048 tokens, 8 layers | 500 token/s |  | 2000 token/s |" in lines
    assert "| peak memory, mmproj in Q8_0 | 3.00 GiB (Q8_0) |  | 1.00 GiB (Q8_0) |" in lines
    assert "| peak memory, the leanest mmproj | 2.00 GiB (F16) |  | 1.00 GiB (Q8_0) |" in lines
    assert not any("generation" in line for line in lines)
    zen = results_of("avx512-bf16", {"ours q8_0": 1000.0})
    both = headline.table({"xeon-amx": xeon, "zen4": zen}).splitlines()
    assert (
        "| the same, AVX-512 on both sides | 2.00 s (q8_0) |  | 0.50 s (q8_0 at avx512-vnni) |  |  |  |"
        in both
    )
    assert both[0].endswith("| AMD Zen 4: llama.cpp | OpenVINO | bluelm-gguf |")
    assert both[-1].count("2026-01-02") == 2


LIMITS = {"bandwidth_gbs": 10.0, "int8_gops": 2000.0, "bf16_gflops": 1000.0, "f32_gflops": 0.0}


def peers_run(times: dict[str, dict[str, list[float]]], **setting: object) -> dict[str, object]:
    return {"time": "2026-01-02T03:04Z", "setting": setting, "versions": {"torch": "1"}, "limits": LIMITS,
            "kernels": "amx", "times_ms": times}  # fmt: skip


def test_tables_beside_other_programs() -> None:
    """Medians, extremes, ratios and shares, for two runs in one file."""
    machine = {"cpu": "X", "n_cores": 2, "n_threads": 2, "cpu_level": "amx"}
    ms = {"ours q8_0": 100.0, "llama.cpp f16": 900.0, "llama.cpp q8_0": 1000.0, "OpenVINO int8": 200.0}
    runs = [
        peers_run({name: {"2": [2 * t * k, 2 * t * k, 6 * t]} for name, t in ms.items()}, layers=0, stock="s")
        for k in (1, 2)
    ]
    text = peers_report.peers_encode({"machine": machine, "runs": runs})
    # 100 and 200 ms for a tile, of 2000e9 operations in a second; in per cent.
    share = 0.75 * peers_report.encode_ops(0) / 1e6 / 2000
    cells = f"| 100 / 200 | 100 - 300 | 0.11 / 0.11 | 0.50 / 0.50 | {share:.1f}% | {2 * share:.1f}% |"
    assert f"| ours q8_0 {cells}" in text and "| llama.cpp q8_0 | 1000 / 2000 |" in text
    assert "2 runs" in text and "2026-01-02" in text

    llm = {"ours Q4_0": {"prefill 10": [10.0], "decode 4": [10.0]},
           "llama-bench Q4_0": {"prefill 10": [40.0], "decode 4": [20.0]}}  # fmt: skip
    run = peers_run(llm, layers=0, depth=8, bytes_per_token=10e6)
    text = peers_report.peers_llm({"machine": machine, "runs": [run]})
    assert "| ours Q4_0 | 1000.0 | 1000.0 - 1000.0 | 4.00 | " in text
    # 4 tokens of 10 MB in 10 ms are 4 GB/s.
    assert "| ours Q4_0 | 400.0 | 400.0 - 400.0 | 2.00 | 40.0% |" in text and "kernels: amx" in text

    cosines = [{"outliers": 100.0, "name": "ours q8_0", "mean": 0.999612, "worst": 0.98}]
    one = {"time": "2026-01-02T03:04Z", "setting": {"layers": 27}, "versions": {}, "cosines": cosines}
    text = peers_report.peers_fidelity({"machine": machine, "runs": [one]})
    assert "| x100 | ours q8_0 | 0.99961 | 0.98000 |" in text


def test_runs_that_are_added(tmp_path: Path) -> None:
    """A second run stands beside the first one, unless it measured something else."""
    row = {"cpu": "X", "n_cores": 2, "n_threads": 2, "cpu_level": "amx", "build": "b"}
    path = tmp_path / "results" / "peers.json"
    for append, n in ((True, 1), (True, 2), (False, 1)):
        result = runner.save(path, row, {"setting": {"layers": 1}}, append=append)
        assert len(result["runs"]) == n and json.loads(path.read_text()) == result
    with pytest.raises(SystemExit, match="another machine or setting"):
        runner.save(path, row, {"setting": {"layers": 2}}, append=True)
    with pytest.raises(SystemExit, match="another machine or setting"):
        runner.save(path, row | {"cpu": "Y"}, {"setting": {"layers": 1}}, append=True)


def test_versions_of_what_is_installed() -> None:
    found = runner.versions("torch", "no-such-package")
    assert list(found) == ["llama-cpp-python", "torch"] and found["llama-cpp-python"]


def test_a_contender_that_fails(tmp_path: Path) -> None:
    """The end of what it said on stderr is in the error."""
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such weights')")
    with pytest.raises(SystemExit, match=r"(?s)peer ended with 1:.*no such weights"):
        runner.Contender("peer", str(script))
    script.write_text("print('ready', flush=True)\ninput()\nraise SystemExit('out of memory')")
    contender = runner.Contender("peer", str(script))
    with pytest.raises(SystemExit, match=r"(?s)peer ended with 1:.*out of memory"):
        contender.time("1", keep=True)


def test_roofline(tmp_path: Path) -> None:
    """Points lie where operations, bytes and times put them, and the figure is drawn."""
    row = {"cpu": "X", "n_cores": 2, "n_threads": 2, "cpu_level": "amx", **LIMITS, "chunk": 128, "n_depth": 0}
    picture = row | {"test": "img 768x1536", "n_tiles": 9, "tile_batch": 4, "avg_ms": 1000.0, "qkv_ms": 100.0}
    prompt = row | {"test": "pp512", "n_prompt": 512, "avg_ts": 100.0}
    token = row | {"test": "tg2", "n_gen": 2, "avg_ts": 5.0}
    points = {name: (x, y) for name, x, y in roofline.ours([picture, prompt, token], [])}
    ops = 2 * 27 * 9 * 729 * 1152 * 3456
    assert points["QKV"] == pytest.approx((ops / (27 * (3 * 1152 * 3456 + 2 * 9 * 729 * 4608)), ops / 1e8))
    # A token reads 1.5 GB and computes two operations per weight of 4.5 bits.
    assert points["decode at 0"] == pytest.approx((2 / (4.5 / 8), 5 * 2 * 1.5 / 0.5625), rel=0.01)
    assert points["prefill 512"][0] == pytest.approx(128 * 2 / 0.5625, rel=0.1)
    beside = {"stock": {"encode_ms": [2000.0], "pp512": [50.0], "tg32": [4.0]}}
    out = tmp_path / "roofline.png"
    roofline.draw([picture, prompt, token], [], beside, out)
    assert out.read_bytes()[1:4] == b"PNG" and [*tmp_path.iterdir()] == [out]


def test_compilers_that_break_amx() -> None:
    """GCC bug 114098 was mended in 12.4, 13.3 and 14."""

    def macros(major: int, minor: int, *others: str) -> str:
        lines = [f"#define __GNUC__ {major}", f"#define __GNUC_MINOR__ {minor}", "#define __unix", *others]
        return "\n".join(lines)

    broken = [version for version in ((11, 5), (12, 2), (12, 4), (13, 2), (13, 3), (14, 1))
              if build_stock.breaks_amx(macros(*version))]  # fmt: skip
    assert broken == [(11, 5), (12, 2), (13, 2)]
    assert not build_stock.breaks_amx(macros(4, 2, "#define __clang__ 1"))


def test_a_section_that_is_missing() -> None:
    with pytest.raises(AssertionError, match="has no section"):
        report.document("docs/performance.md", "nothing")


def test_results_name_no_place() -> None:
    """A path in a committed file would tell about the machine that measured."""
    for path in report.RESULTS.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(place in text for place in ("/root", "/home", "/tmp", "/Users")), path
