"""The instructions that the kernels use, and BLUELM_CPU_LEVEL."""

from __future__ import annotations

import platform

import pytest

from bluelm_gguf import errors
from bluelm_gguf.native import library as _native

X86 = ["generic", "avx2", "avx-vnni", "avx512-vnni", "avx512-bf16", "amx"]
ARM = ["generic", "neon", "dotprod", "i8mm"]


def test_best_level_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLUELM_CPU_LEVEL", raising=False)
    known = {"x86_64": X86, "AMD64": X86, "aarch64": ARM, "arm64": ARM}.get(platform.machine(), ["generic"])
    assert _native.cpu_level() in known


def test_levels_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELM_CPU_LEVEL", "generic")
    assert _native.cpu_level() == "generic"
    monkeypatch.setenv("BLUELM_CPU_LEVEL", "")
    assert _native.cpu_level()


@pytest.mark.parametrize("name", ["sse9", "AVX2", "neon" if platform.machine() == "x86_64" else "avx2"])
def test_a_level_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELM_CPU_LEVEL", name)
    with pytest.raises(errors.InvalidArgumentError, match=f"BLUELM_CPU_LEVEL is '{name}'.*generic"):
        _native.cpu_level()
