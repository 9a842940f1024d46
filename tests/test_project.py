"""The project: `http` beside the standard library's, wheel and editable install, the Makefile's targets and markers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT, markers_of
from .test_tidy import KEPT, OF_PACKAGES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Every module of the service beside the standard library's `http`, each from the place where it is installed.
LOOK = """
import http.client, importlib, pathlib, sys
assert pathlib.Path(http.client.__file__).parts[-2:] == ("http", "client.py"), http.client.__file__
assert not hasattr(http.client, "main")
import urllib.request, tbx.core, tbx.venues, tbx.strategies_bridge, tbx.http.__main__
for name in sys.argv[2:]:
    importlib.import_module(name)
base = pathlib.Path(tbx.core.__file__).resolve().parent.parent
assert base == pathlib.Path(sys.argv[1]).resolve(), base
assert (base / "redis.conf").is_file(), "redis.conf is not beside the packages"
"""
APP = ["tbx.http.app"] if (ROOT / "http/app.py").exists() else []


def call(command: list[str], cwd: Path, **environ: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=cwd, env=clean | environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, without the links of `.src`: a build never depends on them."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in KEPT:
        name = path.relative_to(ROOT)
        if name.parts[0] not in ("tests", ".src"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, folder / name)
    return folder


def environment(folder: Path, *more: str) -> Path:
    """A new environment that sees the packages of this one, and the python in it."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    site = Path(call([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    (site / "outer.pth").write_text("\n".join([sysconfig.get_path("purelib"), *more]))
    return python


def pip(command: str, *arguments: str, cwd: Path, python: Path = Path(sys.executable)) -> None:
    """This environment's pip, for another python; neither network nor dependencies."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    call([sys.executable, "-m", "pip", "--python", str(python), command, *options, *arguments], cwd)


def test_the_packages_that_are_named_are_the_folders_that_hold_modules() -> None:
    folders = {path.parent.relative_to(ROOT).parts for path in OF_PACKAGES}
    setuptools = PROJECT["tool"]["setuptools"]
    assert sorted(setuptools["packages"]) == sorted(["tbx", *(".".join(("tbx", *parts)) for parts in folders)])
    assert setuptools["package-dir"] == {"tbx": "."} | {f"tbx.{parts[0]}": parts[0] for parts in folders}


def test_from_the_checkouts_root_http_is_the_standard_librarys_and_tbx_is_ours() -> None:
    call([sys.executable, "-c", LOOK, str(ROOT), *APP], ROOT, PYTHONPATH=str(ROOT / ".src"))
    assert call([sys.executable, "-c", "import http; print(http.HTTPStatus.OK.value)"], ROOT) == "200\n"


def test_a_wheel_holds_the_packages_and_redis_conf_and_runs(checkout: Path, tmp_path: Path) -> None:
    pip("wheel", ".", "--wheel-dir", str(tmp_path / "wheel"), cwd=checkout)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        expected = {f"tbx/{path.relative_to(ROOT).as_posix()}" for path in OF_PACKAGES}
        assert names == expected | {"tbx/redis.conf"}
        archive.extractall(tmp_path / "site")
    python = environment(tmp_path / "venv", str(tmp_path / "site"))
    call([str(python), "-c", LOOK, str(tmp_path / "site/tbx"), *APP], tmp_path)
    assert "PORT=3004" in call([str(python), "-m", "tbx.http", "config"], tmp_path, PORT="3004")


def test_an_editable_install_runs_from_anywhere(checkout: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    pip("install", "--editable", ".", cwd=checkout, python=python)
    for folder in (checkout, tmp_path):
        call([str(python), "-c", LOOK, str(checkout), *APP], folder)
    assert "PORT=3004" in call([str(tmp_path / "venv/bin/tbx"), "config"], tmp_path, PORT="3004")


def test_every_dependency_has_a_lower_bound_and_an_upper_one() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]:
        assert re.match(r"[a-z0-9\[\]-]+>=[0-9.]+,<[0-9]+(;|$)", line), line


def test_the_makefile_has_the_targets_of_the_manual_and_help_lists_them() -> None:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    listed = re.findall(r"^  make ([a-z-]+) ", call(["make", "--no-print-directory"], ROOT), re.MULTILINE)
    markers = [line.split(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    expected = {"run", "test", "bench", "check", "fmt", *(f"test-{marker.replace('_', '-')}" for marker in markers)}
    assert expected <= set(listed)


def test_every_test_file_is_part_of_a_selection() -> None:
    files = [path for path in KEPT if path.parent.name == "tests" and path.name.startswith("test_")]
    unmarked = [path.name for path in files if not markers_of(path.stem) and "pytestmark" not in path.read_text()]
    assert unmarked == [], "add a word of the name to MARKERS in tests/conftest.py"


def test_the_ci_script_runs_the_checks_and_the_tests() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert "make check test" in script.read_text()
