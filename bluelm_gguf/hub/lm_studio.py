"""LM Studio's folder (its documentation, "Import Models"): PUBLISHER/MODEL/FILE.gguf, named as on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .found import LM_STUDIO, Found, pair_among, pairs_among, sorted_directories


def find(models: Path, repo: str, quant: str) -> Found | None:
    """A model by publisher/model."""
    return pair_among(repo, _files(models, repo), LM_STUDIO, quant)


def every(models: Path) -> Iterator[Found]:
    """All models in the folder."""
    for publisher in sorted_directories(models):
        for model in sorted_directories(publisher):
            repo = f"{publisher.name}/{model.name}"
            yield from pairs_among(repo, _files(models, repo), LM_STUDIO)


def _files(models: Path, repo: str) -> dict[str, Path]:
    """The .gguf files of a model, also of its subdirectories. The folder may be links to other disks."""
    top = models.joinpath(*repo.split("/"))
    paths = sorted(path for path in top.rglob("*.gguf") if path.is_file())
    return {path.relative_to(top).as_posix(): path for path in paths}
