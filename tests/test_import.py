"""What an import costs, and that one process holds one ggml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch", "transformers", "numpy", "PIL", "llama_cpp", "gguf", "jinja2", "typer", "prompt_toolkit",
    "huggingface_hub",
)  # fmt: skip


def _process(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=kept | env
    )
    assert done.returncode == 0, done.stderr
    return done


def _run(code: str) -> str:
    return _process(code).stdout


def test_import_loads_nothing_heavy() -> None:
    loaded = _run(f"import bluelm_gguf, sys; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_nothing_of_ours_loads_torch(files) -> None:
    code = f"""
import sys
from bluelm_gguf import Model
with Model({str(files.llm)!r}, mmproj={str(files.mmproj)!r}, n_ctx=512) as model:
    model.generate("what", images=[{str(files.small)!r}], max_tokens=2)
import bluelm_gguf.cli.main, bluelm_gguf.cli.doctor, bluelm_gguf.gguf.info, bluelm_gguf.tiling
print([m for m in ("torch", "transformers", "huggingface_hub", "bluelm_gguf.convert") if m in sys.modules])
"""
    assert _run(code).strip() == "[]"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("first", ["import bluelm_gguf.native.library as n; n.load()", "import llama_cpp"])
def test_one_process_holds_one_ggml(first: str) -> None:
    code = f"""
{first}
import llama_cpp
from bluelm_gguf.native import library as _native
_native.load()
lines = open("/proc/self/maps").read().splitlines()
for library in ("libllama", "libggml-base", "libggml-cpu"):
    print(library, len({{l.split(maxsplit=5)[5] for l in lines if f"/{{library}}." in l}}))
"""
    assert _run(code).split() == ["libllama", "1", "libggml-base", "1", "libggml-cpu", "1"]


@pytest.mark.parametrize(
    ("env", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
    ids=["default", "spin count of the user", "policy of the user"],
)
def test_openmp_spins_briefly_unless_the_user_says_otherwise(env, expected) -> None:
    code = """
import os
before = dict(os.environ)
from bluelm_gguf.native import library as _native
_native.load()
assert os.environ == before
print("libgomp" in open("/proc/self/maps").read() if os.path.exists("/proc/self/maps") else False)
"""
    done = _process(code, OMP_DISPLAY_ENV="verbose", **env)
    if done.stdout.strip() != "True":
        pytest.skip("this llama.cpp has another OpenMP, or none")
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr


def test_every_public_name_is_there() -> None:
    import bluelm_gguf

    for name in bluelm_gguf.__all__:
        assert getattr(bluelm_gguf, name) is not None
    assert set(bluelm_gguf.__all__) <= set(dir(bluelm_gguf))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        bluelm_gguf.Nothing  # noqa: B018


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    import bluelm_gguf

    assert bluelm_gguf.__version__ == version("bluelm-gguf")


def test_doctor_compares_with_the_pinned_llama_cpp_python(monkeypatch: pytest.MonkeyPatch) -> None:
    from bluelm_gguf.cli import doctor

    def finding() -> doctor.Finding:
        return next(f for f in doctor.examine() if f.what == "llama-cpp-python")

    assert finding().good
    monkeypatch.setattr(doctor, "version", lambda _: "0.0.1")
    assert not finding().good and finding().text.startswith("0.0.1, but ")
