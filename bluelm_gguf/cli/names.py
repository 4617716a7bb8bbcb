"""Names of models on the command line: finding them, asking, and showing how a download goes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..progress import ProgressFn
from .terminal import ProgressLine, printable, say

if TYPE_CHECKING:
    from ..hub.download import Note
    from ..hub.found import Found

Result = TypeVar("Result")
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Download more than a gigabyte without asking.")]


def is_name(text: str) -> bool:
    """Whether -m means a name and no file."""
    from ..hub.names import is_path

    return not is_path(text)


def is_models_name(word: str) -> bool:
    """Whether a word that could also be a picture is a model: of the catalogue, of Ollama, or owner/repo."""
    from ..errors import BluelmError
    from ..hub.catalogue import lookup
    from ..hub.names import could_be_model, is_path

    if is_path(word):
        return False
    if lookup(word) is not None or could_be_model(word):
        return True
    from ..hub.places import Places
    from ..hub.resolve import find

    try:
        return ":" in word and find(word, Places.of_environment()) is not None
    except BluelmError:
        return False


def resolve_name(text: str, *, yes: bool) -> Found:
    """The files of a name, downloaded if need be; says where they come from, and what a path wins over.

    Raises:
        BluelmError: see `hub.resolve.resolve`.
    """
    from ..hub.places import Places
    from ..hub.resolve import resolve

    def run(progress: ProgressFn, note: Note) -> Found:
        return resolve(text, Places.of_environment(), ask=asker(yes), on_progress=progress, on_note=note)

    found = with_progress(run)
    vision = f" with {found.mmproj.name}" if found.mmproj else ", text only"
    say(f"{text}: {found.llm.name}{vision} ({found.source})")
    return found


def say_if_path_wins(path: Path) -> None:
    """A file that has a model's name."""
    from ..hub.catalogue import lookup

    if lookup(str(path)) is not None:
        say(f"{path}: the file of this name is taken, not the catalogue's model")


def fetch_checkpoint(text: str, *, yes: bool) -> Path:
    """The directory of a checkpoint on the hub, downloaded if need be.

    Raises:
        BluelmError: see `hub.checkpoint.fetch`.
    """
    from ..hub.checkpoint import fetch
    from ..hub.places import Places

    places = Places.of_environment()
    return with_progress(
        lambda progress, note: fetch(text, places, ask=asker(yes), on_progress=progress, on_note=note)
    )


def with_progress(run: Callable[[ProgressFn, Note], Result]) -> Result:
    """Runs a download with a line of progress; Ctrl-C says that it can go on."""
    progress = ProgressLine()
    has_begun = False

    def report(stage: str, done: int, total: int) -> bool:
        nonlocal has_begun
        has_begun = has_begun or (stage == "download" and 0 < done < total)
        return progress(stage, done, total)

    def note(text: str) -> None:
        progress.clear()
        say(text)

    try:
        return run(report, note)
    except KeyboardInterrupt:
        progress.clear()
        if has_begun:
            say("stopped; the same command goes on from here")
        raise
    finally:
        progress.clear()


def asker(yes: bool) -> Callable[[str], bool] | None:
    """How consent is had: --yes, a question on a terminal, or not at all."""
    if yes:
        return lambda _: True
    if sys.stdin.isatty() and sys.stderr.isatty():
        return _ask
    return None


def _ask(question: str) -> bool:
    print(f"bluelm-gguf: {printable(question)}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False
