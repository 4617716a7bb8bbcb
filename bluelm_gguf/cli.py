"""The `bluelm-gguf` command: parses, calls, prints.

Answers go to stdout, everything else to stderr. Exit codes: 0, 1 (failed), 2 (usage), 130 (Ctrl-C).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from . import __version__
from .errors import BluelmError

if TYPE_CHECKING:
    from .answer import ReplyStream
    from .model import Model
    from .results import Reply

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Chat with pictures on your own machine. Without -m the embedded demo model answers.",
)

LlmOption = Annotated[
    Path | None, typer.Option("-m", "--model", metavar="FILE", help="Language model, GGUF. [the demo model]")
]
MmprojOption = Annotated[
    Path | None, typer.Option("--mmproj", metavar="FILE", help="Vision file that belongs to it, GGUF.")
]
PredictOption = Annotated[
    int, typer.Option("-n", "--predict", metavar="N", help="Most tokens of an answer; -1: as many as fit.")
]
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
ThreadsOption = Annotated[
    int | None, typer.Option("-t", "--threads", metavar="N", min=1, max=512, help="Threads. [physical cores]")
]
TempOption = Annotated[float, typer.Option("--temp", min=0, help="0 always takes the likeliest token.")]
TopKOption = Annotated[int, typer.Option("--top-k", min=0, help="Sample among the K likeliest; 0: all.")]
TopPOption = Annotated[
    float, typer.Option("--top-p", min=0, max=1, help="Sample among the likeliest that make up P; 1: all.")
]
MinPOption = Annotated[
    float, typer.Option("--min-p", min=0, max=1, help="Leave out what is below P times the likeliest.")
]
RepeatOption = Annotated[
    float, typer.Option("--repeat-penalty", help="Penalty on the last 64 tokens; 1: none.")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**32 - 1, help="Of the sampling. [random]")
]
SystemOption = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt.")]
BatchOption = Annotated[
    int, typer.Option("-b", "--batch-size", metavar="N", min=1, help="Most tokens in one step.")
]
ChunkOption = Annotated[
    int, typer.Option("--chunk", metavar="N", min=1, help="Tokens per step of the prefill.")
]
TileBatchOption = Annotated[
    int,
    typer.Option(
        "--tile-batch", metavar="N", min=1, max=17, help="Tiles per run of the vision encoder, 1 to 17."
    ),
]
TimingsOption = Annotated[bool, typer.Option("--timings", help="Print the times on stderr.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show llama.cpp's own log.")]

F = TypeVar("F", bound=Callable[..., None])


class Failure(Exception):
    """Ends a command with exit code 1 and this text."""


def _reported(function: F) -> F:
    """Turns what a command may raise into one line on stderr and an exit code."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Whoever read our output has seen enough. What is still buffered must not complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (BluelmError, Failure) as error:
            _say(f"error: {error}")
            raise typer.Exit(1) from None
        except MemoryError:
            _say("error: not enough memory")
            raise typer.Exit(1) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _say(f"error: {where}{error.strerror or error}")
            raise typer.Exit(1) from None

    return run  # type: ignore[return-value]


def _say(text: str) -> None:
    """One message on stderr."""
    print(f"bluelm-gguf: {text}", file=sys.stderr, flush=True)


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


# ------------------------------------------------------------------------------------------------------ run


@app.command()
@_reported
def run(
    model: LlmOption = None,
    mmproj: MmprojOption = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="FILE", help="A picture; may be given several times. -: from stdin."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="The question. [from stdin]")
    ] = None,
    system: SystemOption = None,
    n_predict: PredictOption = 256,
    ctx_size: CtxOption = None,
    threads: ThreadsOption = None,
    temp: TempOption = 0.0,
    top_k: TopKOption = 40,
    top_p: TopPOption = 0.95,
    min_p: MinPOption = 0.05,
    repeat_penalty: RepeatOption = 1.0,
    seed: SeedOption = None,
    batch_size: BatchOption = 512,
    chunk: ChunkOption = 128,
    tile_batch: TileBatchOption = 4,
    timings: TimingsOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one object with text, timings and tile plans.")
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Answers one question about one or more pictures."""
    from .terminal import ProgressLine, printable, timings_line

    _check_files(model, mmproj, bool(image))
    _check_sizes(batch_size, chunk)
    images = [_picture(name) for name in image or []]
    if prompt is None:
        if sys.stdin.isatty() or "-" in (image or []):
            raise typer.BadParameter("a question is missing", param_hint="-p")
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise typer.BadParameter("the question is empty", param_hint="-p")
    clean = printable if sys.stdout.isatty() else str
    progress = ProgressLine()
    options: dict[str, Any] = {
        "system": system,
        "max_tokens": _max_tokens(n_predict),
        "temp": temp,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
    }
    with _open_model(
        model, mmproj, n_ctx=ctx_size, n_batch=batch_size, n_threads=threads, chunk=chunk, batch=tile_batch,
        verbose=verbose,
    ) as loaded:  # fmt: skip
        stream = loaded.stream(prompt, images=images, on_progress=progress, **options)
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


def _max_tokens(n_predict: int) -> int | None:
    if n_predict == 0 or n_predict < -1:
        raise typer.BadParameter("must be at least 1, or -1 for as many as fit", param_hint="-n")
    return None if n_predict < 0 else n_predict


def _check_files(model: Path | None, mmproj: Path | None, has_images: bool) -> None:
    if model is None and mmproj is not None:
        raise typer.BadParameter("a vision file needs its language model: give -m too", param_hint="--mmproj")
    if model is not None and mmproj is None and has_images:
        raise typer.BadParameter(
            "pictures need the model's vision file: give --mmproj too", param_hint="--image"
        )


def _check_sizes(batch_size: int, chunk: int) -> None:
    if chunk > batch_size:
        raise typer.BadParameter(f"{chunk} is more than --batch-size {batch_size}", param_hint="--chunk")


def _open_model(model: Path | None, mmproj: Path | None, **options: Any) -> Model:
    from .model import Model
    from .terminal import ProgressLine

    progress = ProgressLine()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            loaded = Model(model, mmproj=mmproj, on_progress=progress, **options)
    finally:
        progress.clear()
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            _say(f"warning: {warning.message}")
    if loaded.is_demo:
        _say("no model given (-m): the embedded demo model answers; it knows drawn shapes and words only")
    return loaded


def _picture(name: str) -> Any:
    """A path, or stdin for "-"."""
    if name != "-":
        return name
    if sys.stdin.isatty():
        raise typer.BadParameter("- reads a picture from stdin, which is a terminal", param_hint="--image")
    return sys.stdin.buffer


# ----------------------------------------------------------------------------------------------------- chat


@app.command()
@_reported
def chat(
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Pictures.")] = None,
    model: LlmOption = None,
    mmproj: MmprojOption = None,
    system: SystemOption = None,
    n_predict: PredictOption = 512,
    ctx_size: CtxOption = None,
    threads: ThreadsOption = None,
    temp: TempOption = 0.0,
    top_k: TopKOption = 40,
    top_p: TopPOption = 0.95,
    min_p: MinPOption = 0.05,
    repeat_penalty: RepeatOption = 1.0,
    seed: SeedOption = None,
    batch_size: BatchOption = 512,
    chunk: ChunkOption = 128,
    tile_batch: TileBatchOption = 4,
    timings: TimingsOption = False,
    verbose: VerboseOption = False,
) -> None:
    """A conversation. /help lists what can be typed besides questions."""
    from .chat_terminal import ChatTerminal

    _check_files(model, mmproj, bool(images))
    _check_sizes(batch_size, chunk)
    options: dict[str, Any] = {
        "max_tokens": _max_tokens(n_predict),
        "temp": temp,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
    }
    with _open_model(
        model, mmproj, n_ctx=ctx_size, n_batch=batch_size, n_threads=threads, chunk=chunk, batch=tile_batch,
        verbose=verbose,
    ) as loaded:  # fmt: skip
        terminal = ChatTerminal(loaded.chat(system=system), options, show_timings=timings, say=_say)
        terminal.run(images or [])


# -------------------------------------------------------------------------------------------------- convert


@app.command()
@_reported
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT_DIR", help="As `transformers` saves it.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT_DIR", help="Where the GGUF files go.")],
    llm_type: Annotated[
        str, typer.Option("--llm-type", help="q4_0, q4_k_m, q5_k_m, q6_k, q8_0, bf16, f16 or f32.")
    ] = "q4_0",
    mmproj_type: Annotated[str, typer.Option("--mmproj-type", help="q8_0, q4_0, bf16, f16 or f32.")] = "q8_0",
    name: Annotated[
        str | None, typer.Option("--name", help="Of the model. [its card's or directory's]")
    ] = None,
    llm_only: Annotated[bool, typer.Option("--llm-only", help="Write no vision file.")] = False,
    vision_only: Annotated[bool, typer.Option("--vision-only", help="Write no language model.")] = False,
    llm: Annotated[
        Path | None,
        typer.Option("--llm", metavar="LLM.gguf", help="The language model is there: write its vision file."),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix", metavar="FILE", help="Importance matrix for 4- to 6-bit types, from llama.cpp."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")
    ] = False,
) -> None:
    """Makes GGUF files from a Hugging Face checkpoint directory."""
    try:
        converter = importlib.import_module("bluelm_gguf.convert")
    except ImportError as error:
        raise Failure(f"the converter is not part of this installation ({error})") from None
    from .terminal import ProgressLine

    for option, value, allowed in (
        ("--llm-type", llm_type, converter.LLM_TYPES),
        ("--mmproj-type", mmproj_type, converter.MMPROJ_TYPES),
    ):
        if value not in allowed:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(allowed)}", param_hint=option)
    if llm_only and vision_only:
        raise typer.BadParameter("excludes --vision-only", param_hint="--llm-only")
    if llm_only and llm is not None:
        raise typer.BadParameter("excludes --llm", param_hint="--llm-only")
    vision_only = vision_only or llm is not None
    if imatrix is not None and (vision_only or llm_type in ("f32", "f16", "bf16", "q8_0")):
        what = "--llm" if llm is not None else "--vision-only" if vision_only else f"--llm-type {llm_type}"
        raise typer.BadParameter(f"has no use with {what}", param_hint="--imatrix")
    signal.signal(signal.SIGTERM, _terminate)
    progress = ProgressLine()
    try:
        result = converter.convert(
            checkpoint, out, llm_type=llm_type, mmproj_type=mmproj_type, name=name, llm_only=llm_only,
            vision_only=vision_only, llm=llm, imatrix=imatrix, dry_run=dry_run, on_progress=progress,
        )  # fmt: skip
    except converter.ConversionError as error:
        progress.clear()
        raise Failure(str(error)) from None
    finally:
        progress.clear()
    print(result.table())
    for note in result.notes:
        _say(f"note: {note}")


def _terminate(number: int, _frame: object) -> NoReturn:
    """Unwinds, so that temporary files go."""
    raise SystemExit(128 + number)


# ----------------------------------------------------------------------------------------------------- info


@app.command()
@_reported
def info(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="GGUF files.")],
    ctx_size: CtxOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects, one per file.")] = False,
) -> None:
    """Says what is in GGUF files, what they need, and whether two belong together."""
    from .gguf_file import read_head
    from .gguf_info import describe_head
    from .memory import estimate, memory_text
    from .pair import judge

    heads = [read_head(path) for path in files]
    needs = [estimate(None, head) if head.is_mmproj else estimate(head, n_ctx=ctx_size) for head in heads]
    # Two files are a pair; of more, nobody knows who belongs to whom.
    pair = sorted(heads, key=lambda head: head.is_mmproj) if len(heads) == 2 else []
    verdict = judge(*pair) if [head.is_mmproj for head in pair] == [False, True] else None
    if as_json:
        found = [
            describe_head(head).as_dict() | {"memory": need.as_dict()}
            for head, need in zip(heads, needs, strict=True)
        ]
        if verdict is not None:
            for one in found:
                one["pair"] = dataclasses.asdict(verdict)
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for i, head in enumerate(heads):
        if i:
            print()
        print(head.path)
        rows = describe_head(head).rows()
        if verdict is None:
            rows.append(("memory", memory_text(needs[i])))
        for label, text in rows:
            print(f"  {label:<11} {text}")
    if verdict is not None:
        answer = {True: "yes", False: "no", None: "perhaps"}[verdict.belongs]
        print(f"\nboth\n  {'a pair':<11} {answer}: {verdict.reason}")
        if verdict.runs:
            print(f"  {'memory':<11} {memory_text(estimate(pair[0], pair[1], n_ctx=ctx_size))}")
    elif pair:
        kind = "vision files" if pair[0].is_mmproj else "language models"
        print(f"\nboth\n  {'a pair':<11} no: two {kind}")


# ---------------------------------------------------------------------------------------------------- tiles


@app.command()
@_reported
def tiles(
    target: Annotated[
        str, typer.Argument(metavar="IMAGE|WxH", help="A picture, or only its size: 768x1536.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.png", help="Draw the plan over the picture.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="The three schemes side by side.")] = False,
    max_cols: Annotated[
        int | None, typer.Option("--max-cols", min=1, max=16, help="Most columns of the grid. [4]")
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=1, max=16, help="Most rows of the grid. [4]")
    ] = None,
    mmproj: Annotated[
        Path | None,
        typer.Option("--mmproj", metavar="FILE", help="Take the tiler's settings from this file."),
    ] = None,
) -> None:
    """Shows which tiles a picture is cut into."""
    from . import tiling
    from .vision import VisionEncoder, tiler_params

    if out is not None and out.suffix.lower() != ".png":
        raise typer.BadParameter("a name that ends in .png is needed", param_hint="-o")
    if mmproj is not None and compare:
        raise typer.BadParameter(
            "excludes --mmproj: the three are compared at equal settings", param_hint="--compare"
        )
    rgb = _pixels(target, drawn=out is not None)
    width, height = rgb if isinstance(rgb, tuple) else (rgb.shape[1], rgb.shape[0])
    per_tile = tiling.TOKENS_PER_TILE
    plans: tuple[tiling.TilePlan, ...]
    cols, rows = max_cols or 4, max_rows or 4
    if compare:
        plans = tiling.compare(width, height, max_cols=cols, max_rows=rows)
    elif mmproj is not None:
        params, per_tile, is_stitched = _file_tiler(mmproj)
        limits = {"max_cols": max_cols, "max_rows": max_rows}
        if is_stitched:  # the number of tokens depends on more than the tiles
            with VisionEncoder(mmproj, use_repack=False) as encoder:
                plans = (encoder.plan(width, height, tiler=limits),)
        else:
            plans = (tiling.plan_with(tiler_params(params, limits), width, height),)
    else:
        plans = (tiling.plan(width, height, max_cols=cols, max_rows=rows),)
    print(f"{target}: {width} x {height} pixels")
    for plan in plans:
        unit = "tile " if plan.n_tiles == 1 else "tiles"
        print(
            f"  {plan.method:<11} {plan.grid:>5} grid {plan.n_tiles:>3} {unit} {plan.n_tokens(per_tile):>5} "
            f"tokens, fitted to {plan.fit_width} x {plan.fit_height}, {plan.padding:.0%} padding"
        )
    if out is not None:
        if compare:
            drawing = tiling.draw_comparison(rgb, max_cols=cols, max_rows=rows)
        else:
            drawing = tiling.draw_plan(rgb, plans[0], tokens_per_tile=per_tile)
        _save_png(drawing, out)


def _pixels(target: str, *, drawn: bool) -> Any:
    """The picture [H, W, 3]; or for a mere size (width, height), grey pixels if they are to be drawn on."""
    from .images import MAX_PIXELS, load_image

    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", target)
    if match is None or Path(target).exists():
        return load_image(target)
    width, height = int(match[1]), int(match[2])
    if not drawn or not (width and height):
        return width, height
    if width * height > MAX_PIXELS:
        raise Failure(f"{target}: too large to be drawn; leave out -o")
    import numpy as np

    return np.full((height, width, 3), 0xD8, dtype=np.uint8)


def _file_tiler(path: Path) -> tuple[Any, int, bool]:
    """Tiler settings, tokens per tile and whether tiles are stitched, of an mmproj without its weights."""
    from .gguf_info import MmprojInfo, describe
    from .tiling import TilerParams
    from .vision import check_mmproj_file

    check_mmproj_file(path)
    found = describe(path)
    assert isinstance(found, MmprojInfo)
    names = {"resize": "filter"}
    values = {names.get(k, k): v for k, v in found.tiler.items() if v is not None}
    values["grids"] = tuple(tuple(grid) for grid in found.tiler["grids"])
    if "alpha" in values:
        values["alpha"] = round(values["alpha"], 6)  # stored as a float
    if "pad_rgb" in values:
        values["pad_rgb"] = tuple(values["pad_rgb"])
    if not values["grids"] or not found.image_size or not found.tokens_per_tile:
        raise Failure(f"{path}: the file says nothing about tiles")
    params = TilerParams(**values, tile=found.image_size)
    return params, found.tokens_per_tile, found.assembly == "anyres"


def _save_png(drawing: Any, out: Path) -> None:
    """Writes under a temporary name first, so that a failure leaves nothing half-written."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        drawing.save(part, format="PNG")
        os.replace(part, out)
    except OSError as error:
        raise Failure(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------- doctor


@app.command()
@_reported
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
