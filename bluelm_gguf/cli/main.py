"""The `bluelm-gguf` command: parses, calls, prints.

Answers go to stdout, everything else to stderr. Exit codes: 0, 1 (failed), 2 (usage), 130 (Ctrl-C).
The commands are in answer.py (run, chat), models.py (pull, models, rm), files.py (convert, info, tiles),
bench.py and cache.py.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer

from ..version import __version__
from .answer import chat, run
from .bench import PASS_THROUGH, bench
from .cache import cache
from .common import Failure, command
from .files import convert, info, tiles
from .models import models, pull, rm
from .plugin import plugin
from .terminal import say

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Chat with pictures on your own machine. Without -m the embedded demo model answers.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bluelm-gguf {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
    """The package's own warnings in one line, as its errors are; others as Python shows them."""
    if category is UserWarning:
        say(f"warning: {message}")
    else:
        _python_shows_warning(message, category, *args, **kwargs)


_python_shows_warning = warnings.showwarning


for _command in (run, chat, pull, models, rm, convert, info, tiles, plugin):
    app.command()(_command)
app.command(context_settings=PASS_THROUGH)(bench)
app.add_typer(cache, name="cache")


# --------------------------------------------------------------------------------------------------- doctor


@app.command()
@command
def doctor() -> None:
    """Checks the installation."""
    from .doctor import examine

    faults = 0
    for finding in examine():
        faults += not finding.good
        print(f"{'ok   ' if finding.good else 'FAULT'} {finding.what:<17} {finding.text}")
    if faults:
        raise Failure(f"{faults} fault{'s' if faults > 1 else ''} found")


def main() -> NoReturn:
    """Entry point of the `bluelm-gguf` command."""
    try:
        app(prog_name="bluelm-gguf")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
