"""`bluelm-gguf run` and `bluelm-gguf chat`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_common import (
    ModelFlags,
    PredictOption,
    SamplingFlags,
    SystemOption,
    TimingsOption,
    command,
    max_tokens,
    say,
)

if TYPE_CHECKING:
    from .answer import ReplyStream
    from .results import Reply

# ------------------------------------------------------------------------------------------------------ run


@command
def run(
    flags: ModelFlags,
    sampling: SamplingFlags,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="FILE", help="A picture; may be given several times. -: from stdin."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="The question. [from stdin]")
    ] = None,
    system: SystemOption = None,
    n_predict: PredictOption = 256,
    timings: TimingsOption = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one object with text, timings, token counts and tile plans."),
    ] = False,
) -> None:
    """Answers one question about one or more pictures."""
    from .terminal import ProgressLine, printable, timings_line

    flags.check(has_images=bool(image))
    options = sampling.options() | {"system": system, "max_tokens": max_tokens(n_predict)}
    images = [_picture(name) for name in image or []]
    if prompt is None:
        if sys.stdin.isatty() or "-" in (image or []):
            raise typer.BadParameter("a question is missing", param_hint="-p")
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise typer.BadParameter("the question is empty", param_hint="-p")
    clean = printable if sys.stdout.isatty() else str
    progress = ProgressLine()
    with flags.open() as model:
        stream = model.stream(prompt, images=images, on_progress=progress, **options)
        reply = _print_answer(stream, progress, None if as_json else clean)
    if as_json:
        print(json.dumps(reply.as_dict(), ensure_ascii=False))
    if timings:
        print(timings_line(reply.timings), file=sys.stderr)


def _print_answer(stream: ReplyStream, progress: Any, clean: Callable[[str], str] | None) -> Reply:
    """Streams an answer to stdout (unless clean is None) and returns it.

    Raises:
        KeyboardInterrupt: Ctrl-C; `stream.reply` holds what there is, and the line is ended.
    """
    is_begun = False
    try:
        with stream:
            for piece in stream:
                if not is_begun:
                    progress.clear()
                if clean is not None:
                    is_begun = True
                    sys.stdout.write(clean(piece))
                    sys.stdout.flush()
    finally:
        progress.clear()
        if is_begun or (clean is not None and stream.reply is not None):
            print(flush=True)
    assert stream.reply is not None
    return stream.reply


def _picture(name: str) -> Any:
    """A path, or stdin for "-"."""
    if name != "-":
        return name
    if sys.stdin.isatty():
        raise typer.BadParameter("- reads a picture from stdin, which is a terminal", param_hint="--image")
    return sys.stdin.buffer


# ----------------------------------------------------------------------------------------------------- chat


@command
def chat(
    flags: ModelFlags,
    sampling: SamplingFlags,
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Pictures.")] = None,
    system: SystemOption = None,
    n_predict: PredictOption = 512,
    timings: TimingsOption = False,
) -> None:
    """A conversation. /help lists what can be typed besides questions."""
    from .chat_terminal import ChatTerminal

    flags.check(has_images=bool(images))
    options = sampling.options() | {"max_tokens": max_tokens(n_predict)}
    with flags.open() as model:
        terminal = ChatTerminal(model.chat(system=system), options, show_timings=timings, say=say)
        terminal.run(images or [])
