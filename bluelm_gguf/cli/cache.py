"""`bluelm-gguf cache`: what the cache of encoded pictures holds."""

from __future__ import annotations

import time

import typer

from .common import command

cache = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The pictures that were encoded before, kept on disk.",
)


@cache.command()
@command
def ls() -> None:
    """Lists them, the last used first."""
    from ..gguf.info import size
    from ..pictures.cache import EmbeddingCache

    kept = EmbeddingCache()
    entries = kept.entries()
    if entries:
        print(f"{'last used':<16}  {'tokens':>6}  {'width':>5}  {'size':>9}  key")
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        print(f"{used}  {entry.n_tokens:>6}  {entry.n_embd:>5}  {size(entry.n_bytes):>9}  {entry.key[:16]}")
    total = sum(entry.n_bytes for entry in entries)
    print(f"{_pictures(len(entries))}, {size(total)} of at most {size(kept.max_bytes)}, in {kept.directory}")


@cache.command()
@command
def clear() -> None:
    """Removes all of them; nothing else in the directory is touched."""
    from ..gguf.info import size
    from ..pictures.cache import EmbeddingCache

    kept = EmbeddingCache()
    total = sum(entry.n_bytes for entry in kept.entries())
    print(f"{_pictures(kept.clear())} removed, {size(total)}")


@cache.command()
@command
def path() -> None:
    """Prints the directory, whether it exists or not."""
    from ..pictures.cache import default_directory

    print(default_directory())


def _pictures(n: int) -> str:
    return "1 picture" if n == 1 else f"{n} pictures"
