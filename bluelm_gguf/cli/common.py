"""What the commands share: how they report errors, and groups of options with llama.cpp's names."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..errors import BluelmError
from .names import YesOption, is_name, resolve_name, say_if_path_wins
from .terminal import ProgressLine, say

if TYPE_CHECKING:
    from ..model import Model


class Failure(Exception):
    """Ends a command with exit code 1 and this text."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a function a command for typer.

    A parameter whose type is a dataclass stands for a group of options: its fields are the options, and the
    function gets an instance. What the function raises becomes one line on stderr and an exit code.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, tuple[Any, list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    grouped: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if dataclasses.is_dataclass(hint):
            field_hints = get_type_hints(hint, include_extras=True)
            fields = [f for f in dataclasses.fields(hint) if f.init]
            groups[parameter.name] = hint, [f.name for f in fields]
            for f in fields:
                kind = inspect.Parameter.KEYWORD_ONLY
                grouped.append(
                    inspect.Parameter(f.name, kind, default=f.default, annotation=field_hints[f.name])
                )
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))

    parameters += grouped  # --help shows what is the command's own first

    @functools.wraps(function)
    def run(**kwargs: Any) -> None:
        for name, (group, members) in groups.items():
            kwargs[name] = group(**{member: kwargs.pop(member) for member in members})
        _reported(function, kwargs)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return run


def _reported(function: Callable[..., None], kwargs: dict[str, Any]) -> None:
    try:
        function(**kwargs)
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # Whoever read our output has seen enough. What is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (BluelmError, Failure) as error:
        say(f"error: {error}")
        raise typer.Exit(1) from None
    except MemoryError:
        say("error: not enough memory")
        raise typer.Exit(1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}")
        raise typer.Exit(1) from None


CtxOption = Annotated[
    int | None,
    typer.Option(
        "-c",
        "--ctx-size",
        metavar="N",
        min=1,
        max=2**31 - 1,
        help="Tokens of context. [the model's, at most 4096]",
    ),
]
PredictOption = Annotated[
    int, typer.Option("-n", "--predict", metavar="N", help="Most tokens of an answer; -1: as many as fit.")
]
OverviewOption = Annotated[
    bool,
    typer.Option("--overview-only", help="One view of each whole picture: fewer tokens, less detail."),
]
OVERVIEW = {"max_tiles": 1}
"""As `Model.stream` and `Chat.add_image` take it."""
TimingsOption = Annotated[bool, typer.Option("--timings", help="Print the times on stderr.")]


def max_tokens(n_predict: int) -> int | None:
    """What -n means to the library."""
    if n_predict == 0 or n_predict < -1:
        raise typer.BadParameter("must be at least 1, or -1 for as many as fit", param_hint="-n")
    return None if n_predict < 0 else n_predict


class FreeVision(str, Enum):
    """As `Model` takes it."""

    auto = "auto"
    always = "always"
    never = "never"


class VisionWay(str, Enum):
    """As `Model` takes it."""

    auto = "auto"
    own = "own"
    mtmd = "mtmd"


@dataclass(frozen=True)
class ModelFlags:
    """Which model, and how it is loaded."""

    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="FILE|NAME",
            help="Language model, GGUF; or a name, which brings its vision file along (`models` lists some). "
            "[the demo model]",
        ),
    ] = None
    mmproj: Annotated[
        Path | None, typer.Option("--mmproj", metavar="FILE", help="Vision file that belongs to it, GGUF.")
    ] = None
    ctx_size: CtxOption = None
    threads: Annotated[
        int | None,
        typer.Option("-t", "--threads", metavar="N", min=1, max=512, help="Threads. [physical cores]"),
    ] = None
    batch_size: Annotated[
        int, typer.Option("-b", "--batch-size", metavar="N", min=1, help="Most tokens in one step.")
    ] = 512
    chunk: Annotated[
        int, typer.Option("--chunk", metavar="N", min=1, help="Tokens per step of the prefill.")
    ] = 128
    tile_batch: Annotated[
        int,
        typer.Option(
            "--tile-batch", metavar="N", min=1, max=17, help="Tiles per run of the vision encoder, 1 to 17."
        ),
    ] = 4
    cache_type_k: Annotated[
        str | None,
        typer.Option(
            "-ctk", "--cache-type-k", metavar="TYPE", help="What the KV cache keeps keys as: f16, q8_0, ..."
        ),
    ] = None
    cache_type_v: Annotated[
        str | None,
        typer.Option("-ctv", "--cache-type-v", metavar="TYPE", help="The same for values."),
    ] = None
    free_vision: Annotated[
        FreeVision,
        typer.Option("--free-vision", help="Whether the vision weights leave memory after each picture."),
    ] = FreeVision.auto
    vision: Annotated[
        VisionWay,
        typer.Option("--vision", help="Which encoder: own, or mtmd (llama.cpp's). [own where it can]"),
    ] = VisionWay.auto
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor keep encoded pictures on disk.")
    ] = False
    verbose: Annotated[bool, typer.Option("--verbose", help="Show llama.cpp's own log.")] = False
    yes: YesOption = False

    def check(self, *, has_images: bool) -> None:
        """Refuses what cannot work before anything is loaded."""
        if self.model is None and self.mmproj is not None:
            raise typer.BadParameter(
                "a vision file needs its language model: give -m too", param_hint="--mmproj"
            )
        is_file = self.model is not None and not is_name(self.model)
        if is_file and self.mmproj is None and has_images:
            raise typer.BadParameter(
                "pictures need the model's vision file: give --mmproj too", param_hint="--image"
            )
        if self.chunk > self.batch_size:
            raise typer.BadParameter(
                f"{self.chunk} is more than --batch-size {self.batch_size}", param_hint="--chunk"
            )

    def files(self) -> tuple[Path | None, Path | None]:
        """Language model and vision file; a name's are downloaded if need be.

        Raises:
            BluelmError: see `hub.resolve.resolve`.
        """
        if self.model is None:
            return None, self.mmproj
        if not is_name(self.model):
            say_if_path_wins(Path(self.model))
            return Path(self.model), self.mmproj
        found = resolve_name(self.model, yes=self.yes)
        return found.llm, self.mmproj or found.mmproj

    def open(self) -> Model:
        """Loads it, with progress."""
        from ..model import Model

        llm, mmproj = self.files()
        progress = ProgressLine()

        def show(message: Warning | str, *_args: Any, **_options: Any) -> None:
            progress.clear()
            say(f"warning: {message}")

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = show
                loaded = Model(
                    llm,
                    mmproj=mmproj,
                    n_ctx=self.ctx_size,
                    n_batch=self.batch_size,
                    n_threads=self.threads,
                    chunk=self.chunk,
                    batch=self.tile_batch,
                    type_k=self.cache_type_k,
                    type_v=self.cache_type_v,
                    free_vision=self.free_vision.value,
                    vision=self.vision.value,
                    cache=not self.no_cache,
                    verbose=self.verbose,
                    on_progress=progress,
                )
        finally:
            progress.clear()
        if loaded.is_demo:
            say("no model given (-m): the embedded demo model answers; it knows drawn shapes and words only")
        return loaded


@dataclass(frozen=True)
class SamplingFlags:
    """How an answer is chosen, and where it ends."""

    temp: Annotated[float, typer.Option("--temp", min=0, help="0 always takes the likeliest token.")] = 0.0
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Sample among the K likeliest; 0: all.")] = 40
    top_p: Annotated[
        float,
        typer.Option("--top-p", min=0, max=1, help="Sample among the likeliest that make up P; 1: all."),
    ] = 0.95
    min_p: Annotated[
        float, typer.Option("--min-p", min=0, max=1, help="Leave out what is below P times the likeliest.")
    ] = 0.05
    typical: Annotated[
        float, typer.Option("--typical", min=0, max=1, help="Locally typical sampling with this P; 1: none.")
    ] = 1.0
    repeat_penalty: Annotated[
        float, typer.Option("--repeat-penalty", help="Divides the score of tokens that came before; 1: none.")
    ] = 1.0
    repeat_last_n: Annotated[
        int,
        typer.Option(
            "--repeat-last-n",
            metavar="N",
            min=-1,
            help="How many of the last tokens the penalties look at; -1: the whole context.",
        ),
    ] = 64
    presence_penalty: Annotated[
        float,
        typer.Option("--presence-penalty", help="Taken off the score of tokens that came before; 0: none."),
    ] = 0.0
    frequency_penalty: Annotated[
        float, typer.Option("--frequency-penalty", help="The same, times how often they came; 0: none.")
    ] = 0.0
    seed: Annotated[
        int | None, typer.Option("-s", "--seed", min=0, max=2**32 - 1, help="Of the sampling. [random]")
    ] = None
    reverse_prompt: Annotated[
        list[str] | None,
        typer.Option(
            "-r",
            "--reverse-prompt",
            metavar="TEXT",
            help="End the answer where this comes; may be given several times.",
        ),
    ] = None

    grammar: Annotated[
        Path | None,
        typer.Option("--grammar", metavar="FILE", help="A grammar in GBNF that the answer has to follow."),
    ] = None
    json_schema: Annotated[
        Path | None,
        typer.Option("--json-schema", metavar="FILE", help="A JSON schema that the answer has to follow."),
    ] = None

    def options(self) -> dict[str, Any]:
        """As `Model.stream` and `Chat.stream` take them.

        Raises:
            Failure: a grammar or schema file cannot be read or used.
        """
        from ..llm.grammar import read_grammar, schema_grammar

        if self.grammar is not None and self.json_schema is not None:
            raise typer.BadParameter("excludes --json-schema", param_hint="--grammar")
        return {
            "temp": self.temp,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "typical_p": self.typical,
            "repeat_penalty": self.repeat_penalty,
            "repeat_last_n": self.repeat_last_n,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": self.seed,
            "grammar": _checked_text(self.grammar, "grammar", read_grammar),
            "json_schema": _checked_text(self.json_schema, "json_schema", schema_grammar),
            "stop": tuple(self.reverse_prompt or ()),
        }


def _checked_text(path: Path | None, kind: str, check: Callable[[str], object]) -> str | None:
    """A file's text, looked at before a model is loaded; messages name the file."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        check(text)
    except (UnicodeDecodeError, ValueError) as error:
        what = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise Failure(f"{path}: {what.removeprefix(f'{kind}: ')}") from None
    return text


SystemOption = Annotated[str | None, typer.Option("-sys", "--system", metavar="TEXT", help="System prompt.")]
