"""`bluelm-gguf convert`, `info` and `tiles`: commands about files, without a model that answers."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import re
import signal
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ..hub.names import could_be_model
from .common import CtxOption, Failure, command
from .names import YesOption, fetch_checkpoint, is_name, resolve_name
from .terminal import ProgressLine, say

# -------------------------------------------------------------------------------------------------- convert


@command
def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT_DIR|OWNER/REPO", help="As `transformers` saves it; or its name on the hub."
        ),
    ],
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
    yes: YesOption = False,
) -> None:
    """Makes GGUF files from a Hugging Face checkpoint directory."""
    try:
        converter = importlib.import_module("bluelm_gguf.convert")
    except ImportError as error:
        raise Failure(f"the converter is not part of this installation ({error})") from None
    signal.signal(signal.SIGTERM, _terminate)
    directory = Path(checkpoint)
    if could_be_model(checkpoint):
        directory = fetch_checkpoint(checkpoint, yes=yes)
        name = name or checkpoint.rpartition("/")[2]  # else the directory's, which is a commit
    progress = ProgressLine()
    try:
        result = converter.convert(
            directory, out, llm_type=llm_type, mmproj_type=mmproj_type, name=name, llm_only=llm_only,
            vision_only=vision_only, llm=llm, imatrix=imatrix, dry_run=dry_run, on_progress=progress,
        )  # fmt: skip
    except converter.OptionError as error:
        raise typer.BadParameter(error.reason(_flag), param_hint=_flag(error.option)) from None
    except converter.ConversionError as error:
        progress.clear()
        raise Failure(str(error)) from None
    finally:
        progress.clear()
    print(result.table())
    for note in result.notes:
        say(f"note: {note}")


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def _terminate(number: int, _frame: object) -> NoReturn:
    """Unwinds, so that temporary files go."""
    raise SystemExit(128 + number)


# ----------------------------------------------------------------------------------------------------- info


@command
def info(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE|NAME...", help="GGUF files; a name stands for its two.")
    ],
    ctx_size: CtxOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects, one per file.")] = False,
    yes: YesOption = False,
) -> None:
    """Says what is in GGUF files, what they need, and whether two belong together."""
    from ..gguf.head import read_head
    from ..gguf.info import describe_head
    from ..gguf.memory import estimate, memory_text
    from ..gguf.pair import judge

    heads = [read_head(path) for text in files for path in _paths(text, yes)]
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


def _paths(text: str, yes: bool) -> list[Path]:
    """A file, or the files of a name: of a split model the first."""
    if not is_name(text):
        return [Path(text)]
    found = resolve_name(text, yes=yes)
    return [found.llm] if found.mmproj is None else [found.llm, found.mmproj]


# ---------------------------------------------------------------------------------------------------- tiles


@command
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
    from .. import tiling
    from ..gguf.kinds import check_mmproj_file
    from ..pictures.planner import PicturePlanner

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
        planner = PicturePlanner(check_mmproj_file(mmproj).path)
        per_tile = planner.info.tokens_per_tile
        plans = (planner.plan(width, height, tiler={"max_cols": max_cols, "max_rows": max_rows}),)
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
    from ..pictures.images import MAX_PIXELS, load_image

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


def _save_png(drawing: Any, out: Path) -> None:
    """Writes under a temporary name first, so that a failure leaves nothing half-written."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        drawing.save(part, format="PNG")
        os.replace(part, out)
    except OSError as error:
        raise Failure(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):  # where a directory is missing, too; what was said counts
            part.unlink()
