"""`bluelm-gguf bench`: bluelm-bench with all its options, and what to do with its results."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from .common import Failure, command
from .terminal import say

# Every word after `bench` is the program's.
PASS_THROUGH = {"ignore_unknown_options": True, "help_option_names": []}

HELP = """usage: bluelm-gguf bench [options]
       bluelm-gguf bench [options] --plot OUT.png         measure, then draw what a sweep found
       bluelm-gguf bench --plot OUT.png RESULTS.json...   only draw
       bluelm-gguf bench compare A.json B.json            ratios of times
       bluelm-gguf bench --save [options]                 keep the results for `bluelm-gguf models --fits`

-m takes a model's name, too: its vision file comes along. --yes downloads it without asking.

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
    given = _with_files(given)
    given, is_kept = [word for word in given if word != "--save"], "--save" in given
    if is_kept:
        _measure_and_keep(given)
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


def _with_files(given: list[str]) -> list[str]:
    """The arguments with the files of a model's name in its place, and without --yes."""
    from .names import is_name, resolve_name

    yes = bool({"--yes", "-y"} & set(given))
    given = [word for word in given if word not in ("--yes", "-y")]
    for i, word in enumerate(given[1:], 1):
        if given[i - 1] in ("-m", "--model") and is_name(word):
            found = resolve_name(word, yes=yes)
            files = [str(found.llm)]
            if found.mmproj is not None and "--mmproj" not in given:
                files += ["--mmproj", str(found.mmproj)]
            return given[:i] + files + given[i + 1 :]
    return given


def _measure_and_keep(given: list[str]) -> None:
    """Measures, and puts the results where `models --fits` looks for them."""
    from ..files import write_atomically
    from ..hub.speed import results_path
    from ..pictures.cache import default_directory
    from . import bench_results as results

    if "--json" in given or any(word.startswith("--plot") for word in given):
        raise typer.BadParameter("keeps the results itself: leave out --json and --plot", param_hint="--save")
    kept = results_path(default_directory())
    with tempfile.TemporaryDirectory(prefix="bluelm-bench-") as directory:
        saved = Path(directory) / "results.json"
        code = results.run([*given, "--json", str(saved)])
        if code != 0:
            raise typer.Exit(code)
        results.read(saved)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(kept, durable=False) as file:
            file.write(saved.read_bytes())
    say(f"kept in {kept}")


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
