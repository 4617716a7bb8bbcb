"""Downloads from a hub on loopback: whole, broken off, damaged, refused."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from loopback_hub import REPO, Hub, Repo

from bluelm_gguf.errors import Cancelled, HubError
from bluelm_gguf.hub import hf_cache
from bluelm_gguf.hub.places import Places
from bluelm_gguf.hub.resolve import find, pull, resolve

LLM, MMPROJ = "tiny-Q4_K_M.gguf", "mmproj-tiny-Q8_0.gguf"


def blobs(places: Places) -> dict[str, int]:
    directory = hf_cache.folder(places.hf_cache, REPO) / "blobs"
    return {path.name: path.stat().st_size for path in directory.iterdir()} if directory.is_dir() else {}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_pull_brings_the_default_quant_and_its_mmproj(hub: Hub, places: Places) -> None:
    seen: list[tuple[str, int, int]] = []
    found = pull(REPO, places, on_progress=lambda *row: seen.append(row) is None)
    files = hub.repos[REPO].files
    assert found.llm.read_bytes() == files[LLM]
    assert found.mmproj is not None and found.mmproj.read_bytes() == files[MMPROJ]
    total = len(files[LLM]) + len(files[MMPROJ])
    assert seen[-1] == ("download", total, total)
    downloaded = [done for stage, done, _ in seen if stage == "download"]
    assert downloaded == sorted(downloaded)
    assert "tiny-Q8_0.gguf" not in {Path(r.path).name for r in hub.requests}


def test_other_tools_find_what_was_pulled(hub: Hub, places: Places) -> None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    found = pull(REPO, places)
    assert try_to_load_from_cache(REPO, LLM, cache_dir=places.hf_cache) == str(found.llm)
    n = len(hub.requests)
    commit = hub.repos[REPO].commit
    path = hf_hub_download(REPO, LLM, revision=commit, cache_dir=places.hf_cache, endpoint=hub.address)
    assert path == str(found.llm) and len(hub.requests) == n


def test_a_pulled_pair_is_found_without_the_hub(hub: Hub, places: Places) -> None:
    pulled = pull(REPO, places)
    n = len(hub.requests)
    found = resolve(REPO, places)
    assert (found.llm, found.mmproj) == (pulled.llm, pulled.mmproj) and len(hub.requests) == n


def test_a_quant_may_be_asked_for(hub: Hub, places: Places) -> None:
    found = pull(f"{REPO}:q8_0", places)
    assert found.llm.name == "tiny-Q8_0.gguf"
    assert find(REPO, places) is not None  # Q8_0 is what there is
    assert find(f"{REPO}:Q4_K_M", places) is None


def test_split_files_come_whole(hub: Hub, places: Places, tiny_files: dict[str, bytes]) -> None:
    parts = [f"big-Q4_K_M-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    # Their content does not matter here; only that each is a GGUF file.
    hub.repos[REPO].files = {name: tiny_files[LLM] + bytes([i]) for i, name in enumerate(parts)}
    found = pull(REPO, places)
    assert [path.name for path in found.parts] == parts and found.mmproj is None
    found.parts[1].unlink()
    assert find(REPO, places) is None


def test_a_split_model_with_a_part_missing_is_not_downloaded(
    hub: Hub, places: Places, tiny_files: dict[str, bytes]
) -> None:
    hub.repos[REPO].files = {"big-Q4_K_M-00001-of-00002.gguf": tiny_files[LLM]}
    with pytest.raises(HubError, match="has 2 parts, and 1 of them are there"):
        pull(REPO, places)
    assert blobs(places) == {}


def test_a_broken_connection_goes_on_within_the_same_call(hub: Hub, places: Places) -> None:
    hub.break_after = [100_000]
    found = pull(f"{REPO}:Q4_K_M", places)
    assert found.llm.read_bytes() == hub.repos[REPO].files[LLM]
    assert f"bytes={100_000 // (1 << 16) * (1 << 16)}-" in hub.bytes_sent()


def test_a_cancelled_download_goes_on_in_the_next_call(hub: Hub, places: Places) -> None:
    hub.chunk = 50_000
    with pytest.raises(Cancelled):
        pull(REPO, places, on_progress=lambda stage, done, total: done < 150_000)
    llm = hub.repos[REPO].files[LLM]
    kept = blobs(places)[sha(llm) + ".incomplete"]
    assert 0 < kept < len(llm)
    assert find(REPO, places) is None
    notes: list[str] = []
    found = pull(REPO, places, on_note=notes.append)
    assert found.llm.read_bytes() == llm
    assert f"bytes={kept}-" in hub.bytes_sent()
    assert any("going on at" in note for note in notes)


def test_a_server_that_cannot_go_on_is_read_from_the_start(hub: Hub, places: Places) -> None:
    llm = hub.repos[REPO].files[LLM]
    part = hf_cache.folder(places.hf_cache, REPO) / "blobs" / (sha(llm) + ".incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(llm[:90_000])
    hub.ignores_ranges = True
    assert pull(REPO, places).llm.read_bytes() == llm


def test_a_damaged_part_is_found_out(hub: Hub, places: Places) -> None:
    llm = hub.repos[REPO].files[LLM]
    part = hf_cache.folder(places.hf_cache, REPO) / "blobs" / (sha(llm) + ".incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 90_000)
    with pytest.raises(HubError, match="its digest is not the hub's"):
        pull(REPO, places)
    assert not part.exists() and find(REPO, places) is None
    assert pull(REPO, places).llm.read_bytes() == llm


def test_bytes_damaged_on_their_way_are_found_out(hub: Hub, places: Places) -> None:
    hub.damaged = [LLM]
    with pytest.raises(HubError, match="its digest is not the hub's"):
        pull(REPO, places)
    assert find(REPO, places) is None


def test_two_pulls_at_once_download_once(hub: Hub, places: Places) -> None:
    hub.stall_at = 100_000
    notes: list[str] = []
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(pull(REPO, places, on_note=notes.append)))
        for _ in range(2)
    ]
    threads[0].start()
    assert hub.stalled.wait(20)
    threads[1].start()
    waiting = threading.Event()
    for _ in range(400):
        if any("waiting" in note for note in notes):
            waiting.set()
            break
        threading.Event().wait(0.05)
    hub.stall_at = None
    hub.go_on.set()
    for thread in threads:
        thread.join(30)
    assert waiting.is_set()
    assert len(results) == 2 and results[0].llm == results[1].llm
    assert hub.count("storage", "GET", LLM) == 1


def test_update_takes_what_is_new(hub: Hub, places: Places, tiny_files: dict[str, bytes]) -> None:
    first = pull(REPO, places)
    hub.repos[REPO].files[LLM] = tiny_files["tiny-Q8_0.gguf"]
    n = hub.count("storage", "GET", MMPROJ)
    second = pull(REPO, places)
    assert second.llm != first.llm
    assert second.llm.read_bytes() == tiny_files["tiny-Q8_0.gguf"]
    assert hub.count("storage", "GET", MMPROJ) == n  # the same file is linked, not fetched
    assert find(REPO, places) == second


# ------------------------------------------------------------------------------------------------- refusals


def refused(places: Places, name: str = REPO) -> str:
    with pytest.raises(HubError) as caught:
        pull(name, places)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    assert find(name, places) is None
    return text


def test_missing_repository(places: Places) -> None:
    assert "nobody/nothing: no such repository on http://127.0.0.1" in refused(places, "nobody/nothing")


def test_gated_repository(hub: Hub, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[REPO].gated = True
    text = refused(places)
    assert "gated: accept its terms" in text and "HF_TOKEN" in text
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert pull(REPO, places).mmproj is not None
    storage = [r.authorization for r in hub.requests if r.server == "storage"]
    assert storage and not any(storage)  # the token stays with the hub


def test_renamed_repository(hub: Hub, places: Places) -> None:
    hub.repos["old/name"] = Repo({}, moved_to=REPO)
    notes: list[str] = []
    found = pull("old/name", places, on_note=notes.append)
    assert f"old/name is called {REPO} today" in notes
    assert resolve("old/name", places).llm == found.llm


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (401, "log in"),
        (403, "forbids it"),
        (404, "not found"),
        (429, "too many requests"),
        (500, "a fault of its own"),
        (503, "a fault of its own"),
    ],
)
def test_refused_listing(hub: Hub, places: Places, code: int, words: str) -> None:
    hub.status["hub", "GET", "/api/models/"] = [code] * 3
    assert words in refused(places)


@pytest.mark.parametrize(("code", "words"), [(404, "not found"), (429, "too many"), (503, "a fault")])
def test_refused_file(hub: Hub, places: Places, code: int, words: str) -> None:
    hub.status["hub", "HEAD", "/resolve/"] = [code] * 20
    assert words in refused(places)


def test_a_fault_of_the_storage_keeps_what_is_there(hub: Hub, places: Places) -> None:
    hub.break_after = [100_000]
    hub.status["storage", "GET", LLM] = []
    with pytest.raises(Cancelled):
        pull(REPO, places, on_progress=lambda stage, done, total: done < 60_000)
    kept = [n for name, n in blobs(places).items() if name.endswith(".incomplete")]
    hub.status["storage", "GET", LLM] = [503]
    assert "a fault of its own (503)" in refused(places)
    assert [n for name, n in blobs(places).items() if name.endswith(".incomplete")] == kept


def test_no_network(places: Places) -> None:
    gone = Places(places.hf_cache, places.llama_cache, places.lm_studio, places.ollama, "http://127.0.0.1:9")
    text = refused(gone)
    assert "the connection to http://127.0.0.1:9 failed" in text and "HF_HUB_OFFLINE" in text


def test_a_page_instead_of_the_listing(hub: Hub, places: Places) -> None:
    hub.page = [("hub", "GET", "/api/")]
    assert "not a hub's but perhaps a proxy's" in refused(places)


def test_a_page_instead_of_the_files_head(hub: Hub, places: Places) -> None:
    hub.page = [("hub", "HEAD", "/resolve/")]
    assert "not a hub's but perhaps a proxy's" in refused(places)


def test_a_page_instead_of_the_file(hub: Hub, places: Places) -> None:
    hub.page = [("storage", "GET", LLM)]
    assert "a web page came instead of the file" in refused(places)
    assert set(blobs(places).values()) <= {0}


def test_a_page_does_not_cost_what_is_there(hub: Hub, places: Places) -> None:
    llm = hub.repos[REPO].files[LLM]
    part = hf_cache.folder(places.hf_cache, REPO) / "blobs" / (sha(llm) + ".incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(llm[:90_000])
    hub.page = [("storage", "GET", LLM)]
    assert "a web page came" in refused(places)
    assert part.read_bytes() == llm[:90_000]


def test_a_page_in_the_repository(hub: Hub, places: Places) -> None:
    hub.repos[REPO].files[LLM] = b"<!DOCTYPE html><html>" + b" " * 20_000
    assert "a web page came instead of the file" in refused(places)


def test_something_else_under_a_models_name(hub: Hub, places: Places) -> None:
    hub.repos[REPO].files[LLM] = b"version https://git-lfs.github.com/spec/v1\n"
    assert "is not a GGUF file" in refused(places)


def test_no_gguf_files(hub: Hub, places: Places) -> None:
    hub.repos[REPO].files = {"README.md": b"# Nothing\n"}
    assert "no GGUF files in this repository" in refused(places)
    hub.repos[REPO].files = {"config.json": b"{}", "model.safetensors": b"x"}
    assert f"bluelm-gguf convert {REPO} -o DIR" in refused(places)


def test_a_quant_that_is_not_there(places: Places) -> None:
    assert "there is no Q2_K; there are Q4_K_M, Q8_0" in refused(places, f"{REPO}:Q2_K")


def test_paths_out_of_the_repository_are_left_out(hub: Hub, places: Places) -> None:
    files = hub.repos[REPO].files
    hub.repos[REPO].files = {"../../evil-Q4_K_M.gguf": files[LLM]}
    assert "no GGUF files" in refused(places)
    assert not list(places.hf_cache.rglob("evil*"))


def test_a_disk_without_room(hub: Hub, places: Places) -> None:
    hub.repos[REPO].sizes[LLM] = 10**15
    with pytest.raises(HubError, match=r"are to be downloaded, .* are free on the disk: make room"):
        pull(REPO, places, ask=lambda question: True)
    assert hub.count("storage", "GET") == 0


def test_a_cache_that_cannot_be_written(places: Places) -> None:
    places.hf_cache.parent.mkdir(parents=True)
    places.hf_cache.write_bytes(b"")
    assert "directory" in refused(places)


def test_large_downloads_need_consent(hub: Hub, places: Places) -> None:
    hub.repos[REPO].sizes[LLM] = 2 * 10**9
    assert "GiB to download; nobody was asked: give --yes" in refused(places)
    questions: list[str] = []
    with pytest.raises(HubError, match="nothing was downloaded"):
        pull(REPO, places, ask=lambda question: questions.append(question) is not None)
    assert len(questions) == 1 and questions[0].startswith(f"{REPO}: 1.9 GiB to download")
    assert hub.count("storage", "GET") == 0


def test_what_does_not_fit_in_memory_is_said_before_the_first_byte(hub: Hub, places: Places) -> None:
    hub.repos[REPO].sizes[LLM] = 10**14
    questions: list[str] = []
    with pytest.raises(HubError, match="nothing was downloaded"):
        pull(REPO, places, ask=lambda question: questions.append(question) is not None)
    assert "it needs 93132.3 GiB to run" in questions[0]
    assert f"take {REPO}:Q8_0 or " in questions[0]
    assert hub.count("storage", "GET") == 0


def test_may_not_download(hub: Hub, places: Places) -> None:
    with pytest.raises(HubError, match=f"not on this disk; `bluelm-gguf pull {REPO}`"):
        resolve(REPO, places, may_download=False)
    assert hub.requests == []
