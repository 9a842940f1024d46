"""The disk cache of kernels, in processes of their own: cold, warm, stale, and with nowhere to write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tbx.core

KERNELS = """
from tbx.core.kernel_cache import compiled, inlined, warms_up
from kernels_part import part

@compiled
def whole(x):
    return part(x) + 1

@warms_up("whole")
def call():
    print(whole(20))
"""
PART = """
from tbx.core.kernel_cache import inlined

@inlined
def part(x):
    return x * {factor}
"""
RUN = "import sys; sys.path.insert(0, sys.argv[1]); import kernels_whole; from tbx.core import kernel_cache as c;"
RUN += "print(c.warm_up(print))"


def run(folder: Path, **environment: str) -> list[str]:
    source = Path(tbx.core.__path__[0]).parent.parent
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA", "PYTHON"))}
    variables |= {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    command = [sys.executable, "-c", RUN, str(folder)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "kernels_whole.py").write_text(KERNELS)
    (folder / "kernels_part.py").write_text(PART.format(factor=2))
    return folder


def test_a_kernel_is_compiled_once_and_again_only_when_a_sibling_changed(kernels: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    announced = "compiling kernels_whole.whole (kept for later starts)"
    assert run(kernels, NUMBA_CACHE_DIR=str(cache)) == [announced, "41", "1"]
    assert any(cache.rglob("*.nbi"))
    assert run(kernels, NUMBA_CACHE_DIR=str(cache)) == ["41", "0"]
    (kernels / "kernels_part.py").write_text(PART.format(factor=3))
    assert run(kernels, NUMBA_CACHE_DIR=str(cache)) == [announced, "61", "1"]


def test_without_the_compiler_kernels_are_plain_functions(kernels: Path) -> None:
    assert run(kernels, NUMBA_DISABLE_JIT="1") == ["41", "0"]


def test_nowhere_to_write_costs_the_cache_and_nothing_else(kernels: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    # Every place that numba would try lies under a file, so that not even root can make it.
    (kernels / "__pycache__").write_text("not a folder")
    places = {name: str(blocked / "x") for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "APPDATA")}
    lines = run(kernels, **places)
    assert lines[-2:] == ["41", "1"]
