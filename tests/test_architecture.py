"""The map of the house (docs/architecture.md): what may import what, and no circle anywhere.

Python is read with `ast`: imports inside functions and under TYPE_CHECKING count as well. C++ is read by its
`#include "..."` lines.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CPP = ROOT / "cpp" / "src"

# room -> rooms that it may import, beside itself; a room is a folder, or a file of the top folder
BASE = {"errors", "files", "file_stamp", "pieces", "progress", "version"}
ROOMS: dict[str, set[str]] = {
    **dict.fromkeys(BASE, BASE),
    "native": BASE,
    "gguf": BASE | {"native"},
    "pictures": BASE | {"native", "gguf"},
    "llm": BASE | {"native", "gguf"},
    "hub": BASE | {"native", "gguf"},
    "chat": BASE | {"native", "gguf", "pictures", "llm"},
    "model": BASE | {"native", "gguf", "pictures", "llm", "chat", "hub"},
    "tiling": BASE | {"pictures"},
    "__init__": BASE | {"native", "pictures", "chat", "model"},
    "demo": {"__init__"},
    "cli": BASE | {"native", "gguf", "pictures", "llm", "chat", "hub", "model", "tiling", "demo", "__init__"},
    "__main__": {"cli"},
}
CPP_ROOMS: dict[str, set[str]] = {
    "base": set(),
    "picture": {"base"},
    "mmproj": {"base", "picture"},
    "kernels": {"base"},
    "encoder": {"base", "mmproj", "picture", "kernels"},
    "llama": {"base", "kernels"},
    "device": {"base", "kernels", "llama"},  # of llama/ only the private declarations and the extra buffers
    "mtmd": {"base", "kernels", "device"},
    "api": {"base", "mmproj", "picture", "kernels", "encoder", "llama", "device", "mtmd"},
}

Graph = Mapping[str, Set[str]]


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: Set[str]) -> set[str]:
    """The modules of `known` that one imports, wherever in the file."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base)
    return found & known


def python_graph(package: str) -> dict[str, set[str]]:
    found = modules(package)
    return {name: imported(name, path, found.keys()) for name, path in found.items()}


def include_graph() -> dict[str, set[str]]:
    """Headers and sources by their path in cpp/src."""
    graph = {}
    for path in sorted(CPP.rglob("*")):
        if path.suffix in (".h", ".cpp"):
            includes = re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE)
            graph[path.relative_to(CPP).as_posix()] = {i for i in includes if (CPP / i).is_file()}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Modules that reach themselves: one shortest way round for each group of them."""
    found: list[list[str]] = []
    seen: set[str] = set()
    for start in sorted(graph):
        if start in seen:
            continue
        ways = [[start]]
        reached: set[str] = set()
        while ways:
            way = ways.pop(0)
            if start in graph[way[-1]]:
                found.append([*way, start])
                seen |= set(way)
                break
            for after in sorted(graph[way[-1]] - reached):
                reached.add(after)
                ways.append([*way, after])
    return found


def against(graph: Graph, allowed: Mapping[str, set[str]]) -> Iterator[str]:
    """Imports that the table does not have."""
    for name, names in graph.items():
        for other in sorted(names):
            mine, its = room(name), room(other)
            if mine != its and its not in allowed[mine]:
                yield f"{name} -> {other}"


def room(name: str) -> str:
    """bluelm_gguf.chat.engine: "chat"; bluelm_gguf: "__init__"; llama/prefill: "llama"."""
    if "/" in name:
        return name.split("/")[0]
    return name.split(".")[1] if "." in name else "__init__"


def test_the_circle_test_sees_circles() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert circles(graph) == [["b", "c", "b"], ["e", "e"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_imports_are_read_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nfrom .. import errors\n"
        "if TYPE_CHECKING:\n    from .b import B\ndef f():\n    import p.c\n    from ..q.d import g\n"
    )
    known = {"p.a", "p.a.b", "p.c", "p.q.d", "p.errors", "p.z"}
    assert imported("p.a.m", path, known) == {"p.a.b", "p.c", "p.q.d", "p.errors"}


def test_no_import_circle_in_the_package() -> None:
    assert circles(python_graph("bluelm_gguf")) == []


def test_no_import_circle_in_the_converter() -> None:
    assert circles(python_graph("convert")) == []


def test_imports_keep_to_the_layers() -> None:
    graph = python_graph("bluelm_gguf")
    assert {room(name) for name in graph} == ROOMS.keys()
    assert list(against(graph, ROOMS)) == []


def test_converter_and_runtime_know_nothing_of_each_other() -> None:
    runtime, converter = modules("bluelm_gguf"), modules("convert")
    both = runtime.keys() | converter.keys() | {f"bluelm_gguf.{name}" for name in converter}
    for name, path in runtime.items():
        found = {n for n in imported(name, path, both) if n.split(".")[0] == "convert" or ".convert" in n}
        # The command line hands over to the converter, which is installed as bluelm_gguf.convert.
        assert not found or name == "bluelm_gguf.cli.files", (name, found)
    for name, path in converter.items():
        assert not {n for n in imported(name, path, both) if n.split(".")[0] == "bluelm_gguf"}, name


def test_no_include_circle() -> None:
    assert circles(include_graph()) == []


def test_includes_keep_to_the_layers() -> None:
    graph = include_graph()
    assert {room(name) for name in graph} == CPP_ROOMS.keys()
    assert list(against(graph, CPP_ROOMS)) == []
