"""`bluelm-gguf run` and `bluelm-gguf chat`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from enum import Enum
from typing import Annotated, Any

import typer

from .common import (
    OVERVIEW,
    ModelFlags,
    OverviewOption,
    PredictOption,
    SamplingFlags,
    SystemOption,
    TimingsOption,
    command,
    max_tokens,
)
from .names import is_models_name

# ------------------------------------------------------------------------------------------------------ run


@command
def run(
    flags: ModelFlags,
    sampling: SamplingFlags,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A model's name, as with -m.")] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="FILE", help="A picture; may be given several times. -: from stdin."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="The question. [from stdin]")
    ] = None,
    system: SystemOption = None,
    overview_only: OverviewOption = False,
    n_predict: PredictOption = 256,
    timings: TimingsOption = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print where the last picture's encoding time went, on stderr.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one object: text, timings, token counts, tile plans, memory."),
    ] = False,
) -> None:
    """Answers one question about one or more pictures."""
    from .terminal import ProgressLine, print_answer, profile_lines, timings_line

    if name is not None:
        if flags.model is not None:
            raise typer.BadParameter(f"{name!r} stands beside -m", param_hint="NAME")
        flags = replace(flags, model=name)
    flags.check(has_images=bool(image))
    options = sampling.options() | {"system": system, "max_tokens": max_tokens(n_predict)}
    options |= {"tiler": OVERVIEW} if overview_only else {}
    images = [_picture(name) for name in image or []]
    if prompt is None:
        if sys.stdin.isatty() or "-" in (image or []):
            raise typer.BadParameter("a question is missing", param_hint="-p")
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise typer.BadParameter("the question is empty", param_hint="-p")
    progress = ProgressLine()
    with flags.open() as model:
        stream = model.stream(prompt, images=images, on_progress=progress, **options)
        reply = print_answer(stream, progress, is_shown=not as_json)
        memory = model.memory
        stages = model.vision.last_profile if image and model.vision else {}
        vision = (
            {"projector": model.vision.projector_type, "encoder": model.vision.way} if model.vision else None
        )
    if as_json:
        print(
            json.dumps(reply.as_dict() | {"memory": memory.as_dict(), "vision": vision}, ensure_ascii=False)
        )
    if timings:
        print(timings_line(reply.timings), file=sys.stderr)
        print(memory, file=sys.stderr)
        if vision is not None:
            print(f"vision: projector {vision['projector']}, encoder {vision['encoder']}", file=sys.stderr)
    if profile:
        print(profile_lines(stages), file=sys.stderr)


def _picture(name: str) -> Any:
    """A path, or stdin for "-"."""
    if name != "-":
        return name
    if sys.stdin.isatty():
        raise typer.BadParameter("- reads a picture from stdin, which is a terminal", param_hint="--image")
    return sys.stdin.buffer


# ----------------------------------------------------------------------------------------------------- chat


class ContextFull(str, Enum):
    """As `Chat` takes it."""

    drop = "drop"
    stop = "stop"


@command
def chat(
    flags: ModelFlags,
    sampling: SamplingFlags,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME] [IMAGE]...", help="A model's name, as with -m; pictures."),
    ] = None,
    system: SystemOption = None,
    overview_only: OverviewOption = False,
    n_predict: PredictOption = 512,
    timings: TimingsOption = False,
    context_full: Annotated[
        ContextFull,
        typer.Option(
            "--context-full",
            help="When the conversation no longer fits: leave out the oldest turns, or stop.",
        ),
    ] = ContextFull.drop,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Remember what is typed until the end only.")
    ] = False,
) -> None:
    """A conversation. /help lists what can be typed besides questions."""
    from .chat_terminal import ChatTerminal

    if images and flags.model is None and is_models_name(images[0]):
        flags, images = replace(flags, model=images[0]), images[1:]
    flags.check(has_images=bool(images))
    options = sampling.options() | {"max_tokens": max_tokens(n_predict)}
    with flags.open() as model:
        terminal = ChatTerminal(
            model, options, system=system, context_full=context_full.value, show_timings=timings,
            keep_history=not no_history, tiler=OVERVIEW if overview_only else None,
        )  # fmt: skip
        terminal.run(images or [])
