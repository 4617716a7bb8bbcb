"""A hub on loopback with our own tiny pairs, stores that are empty, and no way to the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import loopback_hub
import pytest
import tiny_models

from bluelm_gguf.hub.places import Places


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a repository: two quants of a tiny language model (by name), and its vision file."""
    d = tmp_path_factory.mktemp("repository")
    llm = tiny_models.write_llm(d / "llm.gguf").read_bytes()
    other = tiny_models.write_llm(d / "other.gguf", seed=1).read_bytes()
    mmproj = tiny_models.write_mmproj(d / "mmproj.gguf").read_bytes()
    return {
        "README.md": b"# Tiny\n",
        "mmproj-tiny-Q8_0.gguf": mmproj,
        "tiny-Q4_K_M.gguf": llm,
        "tiny-Q8_0.gguf": other,
    }


@pytest.fixture
def hub(tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback_hub.Hub]:
    """The hub, with that repository."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with loopback_hub.serve() as served:
        served.repos[loopback_hub.REPO] = loopback_hub.Repo(dict(tiny_files))
        yield served


@pytest.fixture
def places(tmp_path: Path, hub: loopback_hub.Hub) -> Places:
    """Stores of this test's own."""
    return Places(
        tmp_path / "hf" / "hub",
        tmp_path / "llama.cpp",
        tmp_path / "lmstudio" / "models",
        tmp_path / "ollama" / "models",
        hub.address,
    )


@pytest.fixture
def environment(tmp_path: Path, hub: loopback_hub.Hub) -> dict[str, str]:
    """The same for programs."""
    return {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "hf"),
        "LLAMA_CACHE": str(tmp_path / "llama.cpp"),
        "OLLAMA_MODELS": str(tmp_path / "ollama" / "models"),
        "HOME": str(tmp_path),
        "BLUELM_CACHE_DIR": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
