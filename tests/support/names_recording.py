"""A session with names against a hub on loopback: for docs/names-recording.md and its test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import loopback_hub
import tiny_models
from loopback_hub import Hub, Repo
from PIL import Image, ImageDraw
from program import arguments
from pseudo_terminal import Terminal

NAME, REPO = "smolvlm:256m", "ggml-org/SmolVLM-256M-Instruct-GGUF"
LLM, MMPROJ = "SmolVLM-256M-Instruct-Q8_0.gguf", "mmproj-SmolVLM-256M-Instruct-Q8_0.gguf"
WIDTH = 512


def environment(directory: Path, hub: Hub) -> dict[str, str]:
    """Stores of the session's own, and no way to any other hub."""
    taken = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    return taken | {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(directory / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
        "LLAMA_CACHE": str(directory / "llama.cpp"), "OLLAMA_MODELS": str(directory / "ollama"),
        "HOME": str(directory), "XDG_STATE_HOME": str(directory / "state"), "NO_PROXY": "127.0.0.1",
        "BLUELM_CACHE_DIR": str(directory / "cache"),
    }  # fmt: skip


def fill(hub: Hub, directory: Path) -> None:
    """Our tiny pair under a name of the catalogue; it answers the same to everything."""
    llm = tiny_models.write_llm(directory / "llm.gguf", n_embd=WIDTH, script="Blue sky.")
    mmproj = tiny_models.write_mmproj(directory / "mmproj.gguf", n_embd_out=WIDTH)
    hub.repos[REPO] = Repo({MMPROJ: mmproj.read_bytes(), LLM: llm.read_bytes()})


@dataclass(frozen=True)
class Scene:
    """A command, and what the terminal showed: while it worked (or nothing), and at its end."""

    command: str
    during: str
    after: str


def session(directory: Path) -> Iterator[Scene]:
    """Pull, list, chat."""
    picture = directory / "sky.png"
    image = Image.new("RGB", (160, 120), "deepskyblue")
    ImageDraw.Draw(image).ellipse((100, 15, 135, 50), fill="gold")
    image.save(picture)
    with loopback_hub.serve(delay=0.03) as hub:
        fill(hub, directory)
        env = environment(directory, hub)

        def clean(text: str) -> str:
            text = text.replace(hub.address, "https://huggingface.co").replace(str(directory), "~")
            return re.sub(r"\b[0-9a-f]{40}\b", "COMMIT", text)

        one = Terminal("pull", NAME, env=env)
        one.wait_for("MB/s")
        during = one.text
        assert one.exit_code() == 0, one.text
        paths = re.findall(r"^.*?(/\S+/snapshots/\S+)$", one.seen, re.MULTILINE)  # the screen wraps them
        yield Scene(f"bluelm-gguf pull {NAME}", clean(during), clean("\n".join(paths)))
        one.close()
        two = Terminal("models", "--fits", env=env)
        assert two.exit_code() == 0, two.text
        yield Scene("bluelm-gguf models --fits", "", clean(two.text))
        two.close()
        three = Terminal("chat", NAME, picture, env=env)
        three.prompt()
        three.wait_for_line("sky.png ready")
        three.command("What is in the picture?")
        three.enter("/quit")
        assert three.exit_code() == 0, three.text
        yield Scene(f"bluelm-gguf chat {NAME} sky.png", "", clean(three.text).replace("~/sky.png", "sky.png"))
        three.close()


@dataclass(frozen=True)
class Failure:
    """What was tried, and what the program said."""

    tried: str
    message: str


def failures(directory: Path) -> Iterator[Failure]:
    """Runs every failure anew."""
    for i, (tried, arrange, command) in enumerate(_FAILURES):
        place = directory / str(i)
        place.mkdir()
        with loopback_hub.serve() as hub:
            fill(hub, place)
            env = environment(place, hub)
            arrange(hub, place, env)
            limit = _short_files if tried.startswith("a file that") else None
            done = subprocess.run(
                arguments(*command), env=os.environ | env, cwd=place, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit,
            )  # fmt: skip
            assert done.returncode == 1, (tried, done.stderr)
            message = done.stderr.splitlines()[-1].removeprefix("bluelm-gguf: error: ")
            message = message.replace(hub.address, "https://huggingface.co").replace(str(place), "~")
            message = re.sub(r"\b[0-9a-f]{40}\b", "COMMIT", message)
            yield Failure(tried, message)


def _short_files() -> None:
    """A limit of the system, which ends a write as a full disk does."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def _nothing(hub: Hub, place: Path, env: dict[str, str]) -> None:
    pass


def _gated(hub: Hub, place: Path, env: dict[str, str]) -> None:
    hub.repos[REPO].gated = True


def _status(code: int) -> Callable[[Hub, Path, dict[str, str]], None]:
    def arrange(hub: Hub, place: Path, env: dict[str, str]) -> None:
        hub.status["hub", "GET", "/api/models/"] = [code] * 3

    return arrange


def _page(side: str, method: str, part: str) -> Callable[[Hub, Path, dict[str, str]], None]:
    def arrange(hub: Hub, place: Path, env: dict[str, str]) -> None:
        hub.page = [(side, method, part)]

    return arrange


def _unreachable(hub: Hub, place: Path, env: dict[str, str]) -> None:
    env["HF_ENDPOINT"] = "http://127.0.0.1:9"


def _offline(hub: Hub, place: Path, env: dict[str, str]) -> None:
    env["HF_HUB_OFFLINE"] = "1"


def _huge(hub: Hub, place: Path, env: dict[str, str]) -> None:
    hub.repos[REPO].sizes[LLM] = 10**15


def _large(hub: Hub, place: Path, env: dict[str, str]) -> None:
    hub.repos[REPO].sizes[LLM] = 2 * 10**9


def _damaged(hub: Hub, place: Path, env: dict[str, str]) -> None:
    hub.damaged = [LLM]


def _other_mmproj(hub: Hub, place: Path, env: dict[str, str]) -> None:
    other = tiny_models.write_mmproj(place / "other.gguf", n_embd_out=96)
    hub.repos[REPO].files[MMPROJ] = other.read_bytes()


def _named_file(hub: Hub, place: Path, env: dict[str, str]) -> None:
    (place / NAME).write_bytes(b"a file")


def _outside(hub: Hub, place: Path, env: dict[str, str]) -> None:
    manifest = place / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "bad" / "1b"
    manifest.parent.mkdir(parents=True)
    layer = '{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../etc/passwd"}'
    manifest.write_text(f'{{"layers": [{layer}]}}')


def _page_in_repository(hub: Hub, place: Path, env: dict[str, str]) -> None:
    hub.repos[REPO].files[LLM] = loopback_hub.PAGE


PULL = ("pull", NAME)
_FAILURES: tuple[tuple[str, Callable[[Hub, Path, dict[str, str]], None], tuple[str, ...]], ...] = (
    ("no such repository", _nothing, ("pull", "nobody/nothing")),
    ("a quant that is not there", _nothing, ("pull", f"{REPO}:Q2_K")),
    ("a gated repository", _gated, PULL),
    ("403", _status(403), PULL),
    ("429", _status(429), PULL),
    ("503", _status(503), PULL),
    ("no network", _unreachable, PULL),
    ("HF_HUB_OFFLINE", _offline, ("chat", NAME)),
    ("a proxy's page instead of the listing", _page("hub", "GET", "/api/"), PULL),
    ("a proxy's page instead of the file", _page("storage", "GET", LLM), PULL),
    ("a web page under a model's name", _page_in_repository, PULL),
    ("a file damaged on its way", _damaged, PULL),
    ("a disk without room", _huge, ("pull", NAME, "--yes")),
    ("a file that cannot be written to its end", _nothing, PULL),
    ("more than a gigabyte, no terminal", _large, PULL),
    ("the mmproj of another model", _other_mmproj, ("run", NAME, "-p", "What?")),
    ("a name with ..", _nothing, ("pull", "owner/..")),
    ("a name with a space", _nothing, ("pull", "gemma3 4b")),
    ("a name in other letters", _nothing, ("pull", "模型:4b")),
    ("a name that nobody knows", _nothing, ("chat", "-m", "nosuch:1b")),
    ("a name that is also a file", _named_file, ("run", "-m", NAME, "-p", "What?")),
    ("a manifest of Ollama that points outside its store", _outside, ("run", "-m", "bad:1b", "-p", "What?")),
)  # fmt: skip
