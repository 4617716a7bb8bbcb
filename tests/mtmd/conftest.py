"""Tiny pairs of every dialect, written once, and pictures to ask about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_pairs
from PIL import Image

from bluelm_gguf import Model

Pair = tuple[Path, Path]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """`pair(dialect)`: paths of its language model and vision file."""
    directory = tmp_path_factory.mktemp("pairs")
    written: dict[str, Pair] = {}

    def get(dialect: str) -> Pair:
        if dialect not in written:
            written[dialect] = tiny_pairs.write_pair(directory, dialect)
        return written[dialect]

    return get


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 x 150 pixels, nothing symmetric in them."""
    y, x = np.mgrid[0:150, 0:200]
    rgb = np.stack([x * 255 // 200, y * 255 // 150, (x // 20 + y // 20) % 2 * 255], -1).astype(np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(rgb).save(path)
    return path


@pytest.fixture(scope="session")
def mirrored(picture: Path) -> Path:
    """The same mirrored, in other colours."""
    rgb = np.asarray(Image.open(picture))[:, ::-1, ::-1]
    path = picture.with_name("mirrored.png")
    Image.fromarray(np.ascontiguousarray(rgb)).save(path)
    return path


@pytest.fixture
def open_model(pair: Callable[[str], Pair]) -> Iterator[Callable[..., Model]]:
    """`open_model(dialect, **options)`: closed at the end of the test."""
    opened: list[Model] = []

    def get(dialect: str, **options: object) -> Model:
        llm, mmproj = pair(dialect)
        values: dict[str, object] = {"n_ctx": 2048, "n_threads": 1} | options
        opened.append(Model(llm, mmproj=mmproj, **values))  # type: ignore[arg-type]
        return opened[-1]

    yield get
    for model in opened:
        model.close()
