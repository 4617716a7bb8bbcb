"""The four stores, each laid out as its program does it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from bluelm_gguf.errors import HubError, ModelFileError
from bluelm_gguf.hub import ollama, stores
from bluelm_gguf.hub.places import Places
from bluelm_gguf.hub.resolve import find

Files = dict[str, bytes]
LLM, MMPROJ = "tiny-Q4_K_M.gguf", "mmproj-tiny-Q8_0.gguf"
REPO = "tiny/pair-GGUF"


@pytest.fixture
def empty(tmp_path: Path) -> Places:
    """Stores that are not there; no hub."""
    return Places(
        tmp_path / "hf", tmp_path / "llama", tmp_path / "lmstudio", tmp_path / "ollama", "http://127.0.0.1:9"
    )


def lay_hf(cache: Path, files: Files, repo: str = REPO) -> None:
    """As huggingface_hub does: blobs, and links to them in a snapshot."""
    top = cache / ("models--" + repo.replace("/", "--"))
    commit = "a" * 40
    for name, data in files.items():
        blob = top / "blobs" / hashlib.sha256(data).hexdigest()
        link = top / "snapshots" / commit / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (top / "refs").mkdir()
    (top / "refs" / "main").write_text(commit)


def lay_llama(cache: Path, files: Files, repo: str = REPO) -> None:
    """As llama.cpp's -hf did before it shared Hugging Face's cache."""
    cache.mkdir(parents=True)
    for name, data in files.items():
        (cache / f"{repo}_{name}".replace("/", "_")).write_bytes(data)
        (cache / f"{repo}_{name}.etag".replace("/", "_")).write_text('"x"')
    manifest = {"ggufFile": {"rfilename": LLM}, "mmprojFile": {"rfilename": MMPROJ}}
    (cache / f"manifest={repo.replace('/', '=')}=latest.json").write_text(json.dumps(manifest))


def lay_lm_studio(models: Path, files: Files, repo: str = REPO) -> None:
    """As LM Studio does: publisher, model, files."""
    directory = models.joinpath(*repo.split("/"))
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)


def lay_ollama(store: Path, files: Files, name: str = "registry.ollama.ai/library/tiny/1m") -> Path:
    """As Ollama does: blobs by digest, and a manifest that names them."""
    kinds = {LLM: "model", MMPROJ: "projector"}
    layers = []
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        (store / "blobs" / f"sha256-{digest}").write_bytes(data)
        media = f"application/vnd.ollama.image.{kinds.get(file, 'license')}"
        layers.append({"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)})
    manifest = store / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}))
    return manifest


LAYOUTS = {
    "Hugging Face cache": (lambda p, f: lay_hf(p.hf_cache, f), REPO),
    "llama.cpp cache": (lambda p, f: lay_llama(p.llama_cache, f), REPO),
    "LM Studio": (lambda p, f: lay_lm_studio(p.lm_studio, f), REPO),
    "Ollama": (lambda p, f: lay_ollama(p.ollama, f), "tiny:1m"),
}


@pytest.mark.parametrize("source", LAYOUTS)
def test_a_pair_is_found_by_its_name(source: str, empty: Places, tiny_files: Files) -> None:
    lay, name = LAYOUTS[source]
    lay(empty, {key: tiny_files[key] for key in (LLM, MMPROJ)})
    before = {path: path.stat().st_mtime_ns for path in empty.hf_cache.parent.rglob("*")}
    found = find(name, empty)
    assert found is not None and found.source == source
    assert found.llm.read_bytes() == tiny_files[LLM]
    assert found.mmproj is not None and found.mmproj.read_bytes() == tiny_files[MMPROJ]
    assert {path: path.stat().st_mtime_ns for path in empty.hf_cache.parent.rglob("*")} == before
    listed = list(stores.every(empty))
    assert [(one.source, one.files) for one in listed] == [(source, found.files)]
    again = find(listed[0].name, empty)
    assert again is not None and again.files == found.files


def test_llama_cpp_in_hugging_faces_layout(empty: Places, tiny_files: Files) -> None:
    lay_hf(empty.llama_cache, {LLM: tiny_files[LLM], MMPROJ: tiny_files[MMPROJ]})
    found = find(REPO, empty)
    assert found is not None and found.source == "llama.cpp cache" and found.mmproj is not None


def test_a_pair_comes_before_a_model_without_its_vision_file(empty: Places, tiny_files: Files) -> None:
    lay_hf(empty.hf_cache, {LLM: tiny_files[LLM]})
    lay_lm_studio(empty.lm_studio, {LLM: tiny_files[LLM], MMPROJ: tiny_files[MMPROJ]})
    found = find(REPO, empty)
    assert found is not None and found.source == "LM Studio"


def test_a_catalogue_name_is_found_in_any_store(empty: Places, tiny_files: Files) -> None:
    pair = {
        "gemma-3-4b-it-Q4_K_M.gguf": tiny_files[LLM],
        "mmproj-model-f16.gguf": tiny_files[MMPROJ],
    }
    assert find("gemma3:4b", empty) is None
    lay_lm_studio(empty.lm_studio, pair, "ggml-org/gemma-3-4b-it-GGUF")
    found = find("gemma3:4b", empty)
    assert found is not None and (found.name, found.source) == ("gemma3:4b", "LM Studio")


def test_a_catalogue_name_that_is_ollamas_pair(empty: Places, tiny_files: Files) -> None:
    name = "registry.ollama.ai/library/gemma3/4b"
    lay_ollama(empty.ollama, {LLM: tiny_files[LLM]}, name)  # Ollama's engine: no projector of its own
    assert find("gemma3:4b", empty) is None
    lay_ollama(empty.ollama, {LLM: tiny_files[LLM], MMPROJ: tiny_files[MMPROJ]}, name)
    found = find("gemma3:4b", empty)
    assert found is not None and found.source == "Ollama"


def test_ollamas_names(empty: Places, tiny_files: Files) -> None:
    files = {LLM: tiny_files[LLM]}
    lay_ollama(empty.ollama, files, "registry.ollama.ai/library/plain/latest")
    lay_ollama(empty.ollama, files, "registry.ollama.ai/user/own/v1")
    lay_ollama(empty.ollama, files, "hf.co/owner/repo/Q4_0")
    assert [found.name for found in ollama.every(empty.ollama)] == [
        "owner/repo:Q4_0",
        "plain:latest",
        "user/own:v1",
    ]
    for name in ("plain", "plain:latest", "user/own:v1", "owner/repo:Q4_0"):
        found = find(name, empty)
        assert found is not None and found.mmproj is None


def test_a_short_name_that_nobody_knows(empty: Places) -> None:
    with pytest.raises(HubError, match="nosuch:1b: no such file or directory, and no model of that name"):
        find("nosuch:1b", empty)


# -------------------------------------------------------------------------------------------- hostile stores


@pytest.mark.parametrize(
    "digest",
    ["sha256:../../../../etc/passwd", "../../x", "sha256-" + "g" * 64, "", None, 7, "md5:" + "a" * 32],
)
def test_a_manifest_that_points_outside_its_store(digest: object, empty: Places) -> None:
    manifest = lay_ollama(empty.ollama, {})
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digest}]
    manifest.write_text(json.dumps({"layers": layers}))
    with pytest.raises(ModelFileError, match="points outside its store"):
        find("tiny:1m", empty)
    assert list(ollama.every(empty.ollama)) == []


def test_a_blob_that_is_a_link_out_of_the_store(empty: Places, tmp_path: Path, tiny_files: Files) -> None:
    lay_ollama(empty.ollama, {LLM: tiny_files[LLM]})
    blob = next((empty.ollama / "blobs").iterdir())
    outside = tmp_path / "outside.gguf"
    blob.rename(outside)
    with pytest.raises(ModelFileError, match=r"missing, but .* names it"):
        find("tiny:1m", empty)
    blob.symlink_to(outside)
    with pytest.raises(ModelFileError, match="lies outside Ollama's store"):
        find("tiny:1m", empty)


def test_a_manifest_that_is_a_link_out_of_the_store(empty: Places, tmp_path: Path, tiny_files: Files) -> None:
    manifest = lay_ollama(empty.ollama, {LLM: tiny_files[LLM]})
    manifest.rename(tmp_path / "manifest")
    manifest.symlink_to(tmp_path / "manifest")
    with pytest.raises(ModelFileError, match="the manifest lies outside Ollama's store"):
        find("tiny:1m", empty)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"layers": 3}', '{"layers": [{}]}', "<!DOCTYPE html>", "\udcff"]
)
def test_a_manifest_that_is_none(text: str, empty: Places) -> None:
    manifest = lay_ollama(empty.ollama, {})
    manifest.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelFileError, match="not a manifest of Ollama"):
        find("tiny:1m", empty)


def test_a_snapshot_that_links_out_of_the_cache(empty: Places, tmp_path: Path, tiny_files: Files) -> None:
    lay_hf(empty.hf_cache, {LLM: tiny_files[LLM]})
    link = next(empty.hf_cache.rglob(LLM))
    link.unlink()
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(tiny_files[LLM])
    link.symlink_to(outside)
    assert find(REPO, empty) is None
    link.unlink()
    link.symlink_to(link)  # in a circle
    assert find(REPO, empty) is None


def test_a_reference_that_is_no_commit(empty: Places, tiny_files: Files) -> None:
    lay_hf(empty.hf_cache, {LLM: tiny_files[LLM]})
    reference = next(empty.hf_cache.rglob("main"))
    for text in ("../../..", "", "a" * 39, "\0" * 40):
        reference.write_text(text)
        assert find(REPO, empty) is None


def test_llama_cpps_manifest_that_names_what_is_not_there(empty: Places, tiny_files: Files) -> None:
    lay_llama(empty.llama_cache, {LLM: tiny_files[LLM]})
    found = find(REPO, empty)
    assert found is not None and found.mmproj is None
    next(empty.llama_cache.glob("manifest=*")).write_text("<html>")
    found = find(REPO, empty)
    assert found is not None and found.llm.name.endswith(LLM)


def test_where_the_programs_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLAMA_CACHE", "OLLAMA_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    places = Places.of_environment()
    assert places.llama_cache == tmp_path / ".cache" / "llama.cpp"
    assert places.lm_studio == tmp_path / ".lmstudio" / "models"
    assert places.ollama == tmp_path / ".ollama" / "models"
    (tmp_path / ".cache" / "lm-studio").mkdir(parents=True)
    assert Places.of_environment().lm_studio == tmp_path / ".cache" / "lm-studio" / "models"
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path}/elsewhere\n")
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "l"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "o"))
    places = Places.of_environment()
    assert (places.llama_cache, places.ollama) == (tmp_path / "l", tmp_path / "o")
    assert places.lm_studio == tmp_path / "elsewhere" / "models"
