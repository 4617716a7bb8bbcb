"""Where models lie on this machine: from the environment, as the other programs read it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Directories of the stores, there or not.

    Attributes:
        hf_cache: Hugging Face's cache; downloads go here.
        llama_cache: llama.cpp's own.
        lm_studio: LM Studio's folder of models.
        ollama: Ollama's store.
        endpoint: the hub's address; None: huggingface_hub's (HF_ENDPOINT).
    """

    hf_cache: Path
    llama_cache: Path
    lm_studio: Path
    ollama: Path
    endpoint: str | None = None

    @staticmethod
    def of_environment() -> Places:
        """As the programs themselves look for them.

        - Hugging Face: HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME, ~/.cache (huggingface_hub's constants).
        - llama.cpp: LLAMA_CACHE, else llama.cpp in XDG_CACHE_HOME or ~/.cache, in ~/Library/Caches on macOS
          (fs_get_cache_directory in its common/common.cpp).
        - LM Studio: models in the directory that ~/.lmstudio-home-pointer names, else ~/.lmstudio, else, of
          old versions, ~/.cache/lm-studio (its documentation, "Import Models").
        - Ollama: OLLAMA_MODELS, else ~/.ollama/models; the system's service on Linux has its own in
          /usr/share/ollama (its envconfig/config.go and its FAQ).
        """
        from huggingface_hub import constants

        home = _home()
        return Places(Path(constants.HF_HUB_CACHE), _llama_cache(home), _lm_studio(home), _ollama(home))


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home directory
        return Path(os.devnull)


def _llama_cache(home: Path) -> Path:
    chosen = os.environ.get("LLAMA_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "llama.cpp"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "llama.cpp"


def _lm_studio(home: Path) -> Path:
    try:
        pointed = (home / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        pointed = ""
    old = home / ".cache" / "lm-studio"
    if os.path.isabs(pointed):
        return Path(pointed) / "models"
    return (old if old.is_dir() and not (home / ".lmstudio").is_dir() else home / ".lmstudio") / "models"


def _ollama(home: Path) -> Path:
    chosen = os.environ.get("OLLAMA_MODELS")
    if chosen:
        return Path(chosen)
    own, service = home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")
    return service if not own.is_dir() and service.is_dir() and os.access(service, os.R_OK) else own
