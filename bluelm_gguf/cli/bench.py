"""`bluelm-gguf bench`: bluelm-bench with all its options, and what to do with its results."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from .common import Failure, command

# Every word after `bench` is the program's.
PASS_THROUGH = {"ignore_unknown_options": True, "help_option_names": []}

HELP = """usage: bluelm-gguf bench [options]
       bluelm-gguf bench [options] --plot OUT.png         measure, then draw what a sweep found
       bluelm-gguf bench --plot OUT.png RESULTS.json...   only draw
       bluelm-gguf bench compare A.json B.json            ratios of times

The options are those of the program bluelm-bench, which does the measuring:
"""


@command
def bench(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[OPTIONS]")] = None,
) -> None:
    """Measures this machine: pictures, prefill, generation; --help lists the options."""
    from . import bench_results as results

    given = list(arguments or [])
    if given[:1] == ["compare"]:
        if len(given) != 3:
            raise typer.BadParameter("two files of results are needed: A.json B.json", param_hint="compare")
        print(results.compare(results.read(Path(given[1])), results.read(Path(given[2]))))
        return
    out, given = _take_plot(given)
    if out is None:
        if "-h" in given or "--help" in given:
            print(HELP)
            sys.stdout.flush()
        program = str(results.program())
        os.execve(program, [program, *given], results.environment())
    results.check_plotting(out)
    if given and all(not word.startswith("-") for word in given):
        results.plot([row for name in given for row in results.read(Path(name))], out)
        return
    with tempfile.TemporaryDirectory(prefix="bluelm-bench-") as directory:
        saved = Path(directory) / "results.json"
        sweeps = [[]] if "--sweep" in given else [["--sweep", "batch"], ["--sweep", "chunk"]]
        rows = []
        for sweep in sweeps:
            code = results.run([*given, *sweep, "--json", str(saved)])
            if code != 0:
                raise typer.Exit(code)
            rows += results.read(saved)
        results.plot(rows, out)


def _take_plot(given: list[str]) -> tuple[Path | None, list[str]]:
    """--plot FILE and the arguments without it."""
    for i, word in enumerate(given):
        if word.startswith("--plot="):
            return Path(word[len("--plot=") :]), given[:i] + given[i + 1 :]
        if word == "--plot":
            if i + 1 == len(given):
                raise typer.BadParameter("a file name is missing", param_hint="--plot")
            if "--json" in given:
                raise Failure("--plot keeps the results for itself: measure with --json first, then draw")
            return Path(given[i + 1]), given[:i] + given[i + 2 :]
    return None, given
