"""What a model is called: file names after GGUF's convention and the keys of `general.*`.

The name is the user's, else the model card's, else the directory's (for a hub's cache directory the
repository's). Its parts (`Name-Size-Finetune-Version-TYPE.gguf`, docs/gguf.md of ggml, "GGUF Naming
Convention") are told apart by gguf-py's own heuristics; a size that the name does not say is counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

HUB = "https://huggingface.co"
MAX_CARD_BYTES = 1_000_000
LONGEST_VALUE = 1000  # characters of one text that is copied


@dataclass(frozen=True)
class Identity:
    """What both files of a conversion say about the model.

    Attributes:
        stem: of the file names, before `-TYPE.gguf`.
        name: `general.name`.
        texts: `general.*` keys with one text each, by their GGUF name.
        languages: of the model card.
        tags: of the model card.
        base_models: hub names ("org/model") or addresses that the model was made from.
    """

    stem: str
    name: str
    texts: dict[str, str]
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        """Adds `general.name` and what else is known."""
        writer.add_name(self.name)
        for key, text in self.texts.items():
            writer.add_string(key, text)
        if self.languages:
            writer.add_languages(self.languages)
        if self.tags:
            writer.add_tags(self.tags)
        if self.base_models:
            writer.add_base_model_count(len(self.base_models))
        for i, base in enumerate(self.base_models):
            address = base if "://" in base else f"{HUB}/{base}" if base.count("/") == 1 else ""
            writer.add_base_model_name(i, base.rstrip("/").rsplit("/", 1)[-1])
            if address:
                writer.add_base_model_repo_url(i, address)


def identify(directory: Path, n_parameters: int, name: str | None = None) -> tuple[Identity, list[str]]:
    """Names a checkpoint.

    Args:
        directory: the checkpoint; its README.md is read if there is one.
        n_parameters: of the LLM, for the size label; 0 for unknown.
        name: the user's choice. File names then begin with exactly this.

    Returns:
        The identity, and notes for the user.
    """
    card, notes = _read_card(directory / "README.md")
    hub_name = _hub_name(directory)
    given = name or _text(card, "model_name", "name") or hub_name.rpartition("/")[2]
    full = given or directory.resolve().name or "model"
    parts = gguf.Metadata.get_model_id_components(full.replace("/", "-"), n_parameters)
    _, _, basename, finetune, version, label = parts
    basename = _text(card, "basename") or basename or full
    version = _text(card, "version", "model_version") or version
    if label is None and n_parameters:
        label = gguf.size_label(n_parameters, 0, 0, 0)
    if name:
        stem = file_stem(name)
    else:
        stem = file_stem(gguf.naming_convention(full, basename, finetune, version, label, None))
        stem = re.sub("-+", "-", stem)
    found: dict[str, str | None] = {
        "general.basename": basename,
        "general.size_label": label,
        "general.version": version,
        "general.finetune": finetune,
        "general.organization": hub_name.rpartition("/")[0],
        "general.license": ", ".join(_texts(card, "license")),
        "general.license.name": _text(card, "license_name"),
        "general.license.link": _text(card, "license_link"),
        "general.source.url": _text(card, "url", "model_url", "homepage"),
        "general.source.repo_url": _text(card, "repo_url", "repo") or (hub_name and f"{HUB}/{hub_name}"),
    }
    texts = {key: text for key, text in found.items() if text}
    languages = _texts(card, "language") or _texts(card, "languages")
    bases = _texts(card, "base_model")
    return Identity(stem, full, texts, languages, _texts(card, "tags"), bases), notes


def file_stem(name: str) -> str:
    """A model name as part of a file name."""
    stem = re.sub(r"[^\w.+-]+", "-", name).strip("-.")
    return stem or "model"


def _hub_name(directory: Path) -> str:
    """ "org/model" for `models--org--model/snapshots/<commit>` of a hub's cache, else ""."""
    path = directory.resolve()
    if path.parent.name != "snapshots" or not path.parent.parent.name.startswith("models--"):
        return ""
    return "/".join(path.parent.parent.name.removeprefix("models--").split("--", 1))


def _read_card(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The front matter of a model card; a card that cannot be read costs its facts, not the conversion."""
    import yaml  # type: ignore[import-untyped]  # gguf needs it too

    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CARD_BYTES)
    except FileNotFoundError:
        return {}, []
    except (OSError, UnicodeDecodeError):
        return {}, [f"{path} cannot be read; licence and source are not copied"]
    # BOM and Windows line ends are met in the wild.
    match = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", text, re.DOTALL | re.MULTILINE)
    if match is None:
        return {}, []
    try:
        values = yaml.safe_load(match[1].replace("\t", "  "))
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}, [f"{path} begins with broken YAML; licence and source are not copied"]
    return (values if isinstance(values, dict) else {}), []


def _texts(card: dict[str, Any], key: str) -> tuple[str, ...]:
    """A text or a list of texts."""
    value = card.get(key)
    values = value if isinstance(value, list) else [value]
    # YAML 1.1 reads the language code "no" as false.
    values = ["no" if v is False and key.startswith("language") else v for v in values]
    return tuple(v.strip() for v in values if isinstance(v, str) and 0 < len(v.strip()) <= LONGEST_VALUE)


def _text(card: dict[str, Any], *keys: str) -> str:
    """The first of some keys that holds one text, or a number such as a version."""
    for key in keys:
        value = card.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and 0 < len(value.strip()) <= LONGEST_VALUE:
            return value.strip()
    return ""
