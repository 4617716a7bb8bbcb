"""`bluelm-gguf pull`, `models` and `rm`: models by their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Failure, command
from .names import YesOption, asker, with_progress
from .terminal import say

if TYPE_CHECKING:
    from ..hub.catalogue import Entry
    from ..hub.found import Found
    from ..hub.speed import FirstAnswer

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A short name (see `models`), or owner/repo[:quant].")
]


@command
def pull(
    name: NameArgument,
    update: Annotated[
        bool, typer.Option("--update", help="Ask the hub whether there is something newer.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Downloads a model and its vision file; what is on this disk already is not downloaded again."""
    from ..hub.names import is_path
    from ..hub.places import Places
    from ..hub.resolve import find, pull, resolve

    if is_path(name):
        raise typer.BadParameter(f"{name} is a file: nothing to download", param_hint="NAME")
    places = Places.of_environment()
    before = find(name, places)
    bring = pull if update else resolve
    found = with_progress(
        lambda progress, note: bring(name, places, ask=asker(yes), on_progress=progress, on_note=note)
    )
    if before is not None and before.files == found.files:
        say(f"{name}: {'nothing newer' if update else 'here already'} ({found.source})")
    for path in found.files:
        print(path)


@command
def rm(name: NameArgument) -> None:
    """Removes a model that `pull` downloaded, and what broken off downloads of it left."""
    from ..gguf.info import size
    from ..hub import hf_cache
    from ..hub.catalogue import lookup
    from ..hub.found import HF_CACHE, OLLAMA
    from ..hub.names import is_path, parse
    from ..hub.places import Places
    from ..hub.resolve import find

    if is_path(name):
        raise typer.BadParameter(f"{name} is a file; remove it as files are removed", param_hint="NAME")
    places = Places.of_environment()
    found = find(name, places)
    if found is not None and found.source != HF_CACHE:
        how = f": `ollama rm {found.name}`" if found.source == OLLAMA else ""
        raise Failure(f"{name}: it is in another program's store ({found.source}), remove it there{how}")
    if found is not None:
        removed = hf_cache.remove(places.hf_cache, found)
    else:
        entry, repo = lookup(name), parse(name).repo
        removed = hf_cache.remove_unfinished(places.hf_cache, entry.repo if entry else repo or name)
        if not removed.files:
            raise Failure(f"{name}: not on this disk")
    for file in removed.files:
        print(file)
    say(f"{name}: removed, {size(removed.n_bytes)}")


@command
def models(
    fits: Annotated[
        bool, typer.Option("--fits", help="Only what runs in the memory that is free now, the largest first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One object: memory, catalogue, disk.")] = False,
) -> None:
    """Lists the catalogue and the models on this disk."""
    from ..hub import catalogue, stores
    from ..hub.places import Places
    from ..hub.speed import first_answer, read_results, results_path
    from ..native.machine import available_memory
    from ..pictures.cache import default_directory

    available = available_memory()
    here = list(stores.every(Places.of_environment()))
    entries = list(catalogue.fitting(available)) if fits else list(catalogue.entries())
    rows = read_results(results_path(default_directory()))
    times = {entry.name: first_answer(entry, rows) for entry in entries}
    if as_json:
        print(json.dumps(_as_dict(available, entries, here, times), indent=2, ensure_ascii=False))
        return
    _print_catalogue(entries, here, times if fits else None)
    if fits:
        _explain_fits(available, entries, bool(rows))
        return
    _print_disk(here)


def _print_catalogue(
    entries: Sequence[Entry], here: Sequence[Found], times: dict[str, FirstAnswer | None] | None
) -> None:
    from ..gguf.info import count, size

    rows: list[tuple[str, ...]] = [
        ("name", "parameters", "download", "to run", "sees by", "here", "licence", "good at")
    ]
    if times is not None:
        rows = [("name", "parameters", "download", "to run", "first answer", "here", "good at")]
    for entry in entries:
        way = "own encoder" if entry.sees_natively else "libmtmd"
        time = times.get(entry.name) if times is not None else None
        licence = [entry.licence] if times is None else []
        rows.append(
            (
                entry.name,
                count(entry.parameters),
                size(entry.download_bytes),
                size(entry.need().total),
                way if times is None else str(time or "not measured"),
                "yes" if _is_here(entry, here) else "",
                *licence,
                entry.good_at,
            )
        )
    _print_table(rows, right={1, 2, 3})


def _is_here(entry: Entry, here: Sequence[Found]) -> bool:
    return any(found.repo == entry.repo and found.mmproj is not None for found in here)


def _explain_fits(available: int | None, entries: Sequence[Entry], is_measured: bool) -> None:
    from ..gguf.info import size
    from ..hub.speed import QUESTION_TOKENS

    free = "unknown" if available is None else size(available)
    print(
        f"\n{len(entries)} run in the memory that is free now ({free}), with 4096 tokens of context at most."
    )
    if is_measured:
        print(
            f"First answer: one view of a picture and {QUESTION_TOKENS} tokens of question, in proportion to "
            "what `bench` measured here;\n+ picture: the view's encoding by libmtmd comes on top."
        )
    else:
        print("First answer: measure this machine once with `bluelm-gguf bench --save --synthetic 3b`.")


def _print_disk(here: Sequence[Found]) -> None:
    from ..gguf.info import size

    if not here:
        print("\nno models on this disk")
        return
    print()
    rows = [("on this disk", "size", "takes", "in")]
    for found in here:
        takes = "pictures" if found.mmproj else "text"
        rows.append((found.name, size(found.n_bytes), takes, found.source))
    _print_table(rows, right={1})


def _print_table(rows: Sequence[Sequence[str]], right: set[int]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _as_dict(
    available: int | None,
    entries: Sequence[Entry],
    here: Sequence[Found],
    times: dict[str, FirstAnswer | None],
) -> dict[str, Any]:
    catalogue = []
    for entry in entries:
        time = times[entry.name]
        catalogue.append(
            {
                "name": entry.name,
                "repo": entry.repo,
                "quant": entry.quant,
                "verified": entry.verified,
                "parameters": entry.parameters,
                "download_bytes": entry.download_bytes,
                "memory": entry.need().as_dict(),
                "licence": entry.licence,
                "projector": entry.projector,
                "good_at": entry.good_at,
                "here": _is_here(entry, here),
                "first_answer": None
                if time is None
                else {"prefill_s": time.prefill_s, "encode_s": time.encode_s},
            }
        )
    disk = [
        {
            "name": found.name,
            "source": found.source,
            "bytes": found.n_bytes,
            "llm": str(found.llm),
            "mmproj": str(found.mmproj) if found.mmproj else None,
        }
        for found in here
    ]
    return {"available_bytes": available, "catalogue": catalogue, "disk": disk}
