"""From a name to the files of a pair: those on this disk, or those of the hub after a question.

found = resolve("gemma3:4b", Places.of_environment(), ask=lambda question: True)
found.llm, found.mmproj
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import HubError
from ..gguf.head import read_head
from ..gguf.info import size
from ..gguf.memory import MemoryNeed
from ..gguf.pair import judge
from ..native.machine import available_memory
from ..progress import ProgressFn
from . import ollama, stores
from .catalogue import Entry, fitting, lookup, of_repo
from .choice import Choice, best_mmproj, choose, choose_for, quants
from .download import Note, download, missing_bytes
from .found import HF_CACHE, Found
from .names import Name, parse
from .places import Places
from .remote import Listing, RemoteFile, listing

ASK_ABOVE = 10**9
"""Downloads of more bytes need consent."""

Ask = Callable[[str], bool]


@dataclass(frozen=True)
class Plan:
    """What a name means on the hub.

    Attributes:
        name: as it was typed.
        listing: the repository.
        choice: the files.
        entry: of the catalogue, if it is one.
    """

    name: str
    listing: Listing
    choice: Choice
    entry: Entry | None

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """To download, the language model's first."""
        return tuple(self.listing.file(path) for path in self.choice.files)

    def need(self) -> MemoryNeed:
        """Memory to run: weights from the listing; KV cache and working memory are known of the catalogue's
        models only."""
        return _need(self.listing, self.choice, self.entry)


def find(text: str, places: Places) -> Found | None:
    """A model on this disk by its name; None where it is not whole, or not there.

    Raises:
        InvalidArgumentError: no name.
        HubError: a short name that nobody knows.
        ModelFileError: Ollama has it, but its manifest is damaged.
    """
    name = parse(text)
    if name.repo is not None:
        return stores.find_repo(places, name.repo, name.quant, text=text)
    entry = lookup(text)
    if entry is not None:
        found = stores.find_repo(places, entry.repo, entry.quant) or stores.find_repo(places, entry.repo, "")
        if found is not None and found.mmproj is not None:
            return replace(found, name=entry.name)
    its = ollama.find(places.ollama, text)
    if entry is None:
        if its is None:
            raise _unknown(name)
        return its
    return its if its is not None and its.mmproj is not None else None


def _unknown(name: Name) -> HubError:
    return HubError(
        f"{name.text}: no such file or directory, and no model of that name: `bluelm-gguf models` lists "
        "them, owner/repo[:quant] takes one from the hub"
    )


def plan(text: str, places: Places, *, on_note: Note | None = None) -> Plan:
    """Asks the hub what a name means.

    Raises:
        InvalidArgumentError, HubError.
    """
    name, note = parse(text), on_note or (lambda _: None)
    entry = lookup(text) if name.repo is None else of_repo(name.repo, name.quant)
    repo = name.repo or (entry.repo if entry else None)
    if repo is None:
        raise _unknown(name)
    found = listing(places, repo)
    if found.renamed is not None:
        note(f"{repo} is called {found.renamed} today")
    if name.repo is None and entry is not None:
        choice = _choice_of_entry(entry, found, note)
    else:
        choice = choose(found.paths, name.quant)
    if choice is None:
        raise HubError(_nothing_to_choose(found, name.quant))
    if not choice.is_whole:
        raise HubError(
            f"{repo}: {choice.parts[0]} has {choice.n_parts} parts, and {len(choice.parts)} of them are there"
        )
    if choice.mmproj is None:
        note(f"{repo} has no vision file (mmproj): this model takes text only")
    return Plan(text, found, choice, entry)


def _choice_of_entry(entry: Entry, found: Listing, note: Note) -> Choice | None:
    """The catalogue's files where the repository has them; else what its listing has by llama.cpp's rules."""
    paths = found.paths
    if entry.llm in paths:
        assert entry.llm is not None
        choice = choose_for(paths, entry.llm)
    else:
        by_rule = choose(paths, entry.quant) or choose(paths)
        if by_rule is None:
            return None
        if entry.llm is not None:
            note(f"{entry.repo} has no {entry.llm}; {by_rule.parts[0]} is taken")
        choice = by_rule
    mmproj = entry.mmproj if entry.mmproj in paths else best_mmproj(paths, choice.parts[0])
    return replace(choice, mmproj=mmproj)


def _nothing_to_choose(found: Listing, quant: str) -> str:
    tags = quants(found.paths)
    if tags:
        return f"{found.repo}: there is no {quant or 'model'}; there are {', '.join(tags)}"
    if "config.json" in found.paths:
        return (
            f"{found.repo}: no GGUF files, but a checkpoint: `bluelm-gguf convert {found.repo} -o DIR` makes "
            "them from it"
        )
    return f"{found.repo}: no GGUF files in this repository"


def resolve(
    text: str,
    places: Places,
    *,
    ask: Ask | None = None,
    may_download: bool = True,
    on_progress: ProgressFn | None = None,
    on_note: Note | None = None,
) -> Found:
    """The files of a name: from this disk without asking anybody, else from the hub.

    Args:
        text: The name, no path.
        places: The stores, and the hub.
        ask: Called with a question before more than `ASK_ABOVE` bytes are downloaded, and before what does
            not fit in memory is; None: nobody is there to say yes, so that is refused.
        may_download: False takes what is on the disk, or fails.
        on_progress, on_note: See `download`.

    Raises:
        InvalidArgumentError: no name.
        HubError: it leads nowhere, may not be downloaded, or could not be.
        ModelFileError, MismatchError: what came is no pair.
        Cancelled: on_progress returned False.
    """
    found = find(text, places)
    if found is not None and found.mmproj is not None:
        return found
    if not may_download:
        if found is not None:
            return found
        raise HubError(f"{text}: not on this disk; `bluelm-gguf pull {text}` downloads it")
    if found is not None and found.source != HF_CACHE:
        return found  # text only, and not ours to complete
    if found is not None:
        try:
            return pull(text, places, ask=ask, on_progress=on_progress, on_note=on_note)
        except HubError:  # without a network the language model runs without its vision file
            (on_note or (lambda _: None))(f"{text}: its vision file is not on this disk: text only")
            return found
    return pull(text, places, ask=ask, on_progress=on_progress, on_note=on_note)


def files_of(
    llm: str,
    mmproj: str | Path | None = None,
    *,
    download: bool | None = None,
    update: bool = False,
    on_progress: ProgressFn | None = None,
) -> tuple[Path, str | Path | None]:
    """Language model and vision file of a name, for `Model`.

    Args:
        llm: The name.
        mmproj: The vision file, if it is to be another than the name's.
        download: True downloads whatever it takes, None up to `ASK_ABOVE` bytes, False nothing.
        update: Ask the hub for what is newer.
        on_progress: Called with ("download", bytes done, bytes in all).

    Raises:
        As `resolve`.
    """
    ask = (lambda _: True) if download else None
    places = Places.of_environment()
    if update:
        found = pull(llm, places, ask=ask, on_progress=on_progress)
    else:
        found = resolve(llm, places, ask=ask, may_download=download is not False, on_progress=on_progress)
    return found.llm, mmproj or found.mmproj


def pull(
    text: str,
    places: Places,
    *,
    ask: Ask | None = None,
    on_progress: ProgressFn | None = None,
    on_note: Note | None = None,
) -> Found:
    """Brings a name's files as the hub has them now; what is there and the same is not downloaded again.

    Raises:
        As `resolve`.
    """
    note = on_note or (lambda _: None)
    wanted = plan(text, places, on_note=note)
    check(wanted, places, ask)
    paths = download(places, wanted.listing, wanted.files, on_progress=on_progress, on_note=note)
    n_parts = len(wanted.choice.parts)
    mmproj = paths[n_parts] if len(paths) > n_parts else None
    head = read_head(paths[0])
    if mmproj is not None:
        verdict = judge(head, read_head(mmproj))
        if not verdict.runs:
            note(f"warning: {wanted.choice.mmproj} is not {wanted.choice.parts[0]}'s: {verdict.reason}")
    return Found(text, wanted.listing.repo, HF_CACHE, tuple(paths[:n_parts]), mmproj)


def check(wanted: Plan, places: Places, ask: Ask | None) -> None:
    """Looks at memory and at the size before the first byte.

    Raises:
        HubError: nobody agreed.
    """
    n_bytes = missing_bytes(places, wanted.listing, wanted.files)
    if n_bytes == 0:
        return
    what = f"{wanted.name}: {size(n_bytes)} to download"
    worry = memory_worry(wanted, available_memory())
    if worry is None and n_bytes <= ASK_ABOVE:
        return
    question = f"{what}; {worry}" if worry else what
    if ask is None:
        raise HubError(f"{question}; nobody was asked: give --yes, or download=True from Python, to allow it")
    if not ask(question):
        raise HubError(f"{wanted.name}: nothing was downloaded")


def memory_worry(wanted: Plan, available: int | None) -> str | None:
    """What to say where a model does not fit in memory, with what would; None where it fits."""
    need = wanted.need()
    if available is None or need.fits(available):
        return None
    others = [tag for tag in quants(wanted.listing.paths) if _fits(wanted, tag, available)]
    advice = []
    if others:
        largest = max(others, key=lambda tag: _weights(wanted, tag))
        advice.append(f"{wanted.listing.repo}:{largest}")
    advice += [entry.name for entry in fitting(available) if entry != wanted.entry][:1]
    text = f"it needs {size(need.total - need.program)} to run, {size(available)} are free"
    return f"{text}: take {' or '.join(advice)}" if advice else text


def _fits(wanted: Plan, quant: str, available: int) -> bool:
    choice = choose(wanted.listing.paths, quant)
    return choice is not None and _need(wanted.listing, choice, wanted.entry).fits(available)


def _weights(wanted: Plan, quant: str) -> int:
    choice = choose(wanted.listing.paths, quant)
    return _need(wanted.listing, choice, wanted.entry).weights if choice else 0


def _need(found: Listing, choice: Choice, entry: Entry | None) -> MemoryNeed:
    llm = sum(found.file(path).n_bytes for path in choice.parts)
    vision = found.file(choice.mmproj).n_bytes if choice.mmproj else 0
    if entry is not None:
        return replace(entry.need(), llm_weights=llm, vision_weights=vision)
    return MemoryNeed(n_ctx=0, llm_weights=llm, vision_weights=vision, kv_cache=None, working=0)
