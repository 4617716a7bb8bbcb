"""What this library does to ggml's list of extra buffer types: when, and when not.

Each case is a process of its own, since the list is changed once and for good.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import write_llm

from bluelm_gguf.native import library as _native

# The list as ggml's compute threads walk through it, a std::vector of pointers.
LISTED = """
import ctypes, sys
from pathlib import Path
import llama_cpp
mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
cpu, base = (ctypes.CDLL(next(p for p in mapped if name in p)) for name in ("libggml-cpu.", "libggml-base."))
get = cpu._Z39ggml_backend_cpu_get_extra_buffer_typesv
get.argtypes, get.restype = [], ctypes.POINTER(ctypes.c_void_p)
base.ggml_backend_buft_name.argtypes, base.ggml_backend_buft_name.restype = [ctypes.c_void_p], ctypes.c_char_p
def listed():
    begin, end = get()[0], get()[1]
    pointers = (ctypes.c_void_p * ((end - begin) // 8)).from_address(begin)
    return begin, [base.ggml_backend_buft_name(p).decode() for p in pointers]
before = listed()
import bluelm_gguf
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of shared libraries")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llm(tmp_path_factory.mktemp("llm") / "f32.gguf", n_embd=64, seed=3)


def run(script: str, *arguments: object, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LISTED + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_planning_tiles_leaves_the_list_alone() -> None:
    run(
        "from bluelm_gguf.tiling import plan\n"
        "assert plan(1000, 500).n_tiles > 1\n"
        "assert listed() == before, (before, listed())\n"
    )


def test_accelerate_comes_first_in_the_list() -> None:
    run(
        "bluelm_gguf.accelerate()\n"
        "assert listed()[1] == ['BLUELM', *before[1]], listed()\n"
        "after = listed()\n"
        "bluelm_gguf.accelerate()\n"
        "assert listed() == after, (after, listed())\n"
    )


def test_nothing_is_inserted_while_a_model_runs(llm: Path) -> None:
    """A thread of llama_cpp decodes; its answer is the one it gave alone."""
    said = run(
        "import threading\n"
        "llm = llama_cpp.Llama(sys.argv[1], n_ctx=512, seed=1, verbose=False)\n"
        "def answer():\n"
        "    llm.reset()\n"
        "    return llm.create_completion('what is', max_tokens=200, temperature=0)['choices'][0]['text']\n"
        "alone, found, started = answer(), [], threading.Event()\n"
        "def work():\n"
        "    for _ in range(3):\n"
        "        started.set()\n"
        "        found.append(answer())\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "started.wait()\n"
        "print(repr(bluelm_gguf.accelerate()))\n"
        "running = thread.is_alive()\n"
        "assert listed() == before, (before, listed())\n"
        "thread.join()\n"
        "assert running and found == [alone] * 3, (running, alone, found)\n"
        "try:\n"
        "    bluelm_gguf.accelerate(required=True)\n"
        "except bluelm_gguf.NativeError as error:\n"
        "    print(error)\n",
        llm,
    )
    assert said.splitlines()[0] == "''"
    assert "loaded by llama.cpp before" in said


def test_name_is_of_the_kernels_that_run() -> None:
    """The level is read once: a later BLUELM_CPU_LEVEL moves neither the kernels nor their name."""
    _native.load()
    script = (
        "import os\n"
        "from bluelm_gguf.native import library\n"
        "first = bluelm_gguf.accelerate()\n"
        "del os.environ['BLUELM_CPU_LEVEL']\n"
        "print(first, bluelm_gguf.accelerate(), library.llm_kernels_name(), library.cpu_level())\n"
    )
    lowest = "avx2" if os.uname().machine == "x86_64" else "dotprod"
    first, again, name, level = run(script, BLUELM_CPU_LEVEL=lowest).split()
    if level == lowest:
        pytest.skip(f"this CPU has nothing above {lowest}")
    assert (first, again, name) == (lowest, lowest, lowest)
