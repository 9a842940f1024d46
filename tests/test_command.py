"""The command `tbx`: what it prints, how it fails, and that it answers without loading the service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tbx.core.model.errors import StoreError
from tbx.core.setting_values import key_digest
from tbx.core.settings import SETTINGS, load_settings
from tbx.http.__main__ import exit_code, main

VARIABLES = tuple(SETTINGS)


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in an empty folder, without settings of the machine it runs on."""
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def run(root: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root / ".src")}
    command = [sys.executable, "-m", "tbx.http", *arguments]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_config_prints_every_setting_with_value_source_and_doc(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "4000")
    Path(".env").write_text("NODE_ID=alpha\n")
    assert main(["config"]) == 0
    shown = capsys.readouterr().out
    assert "PORT=4000  (environment)\n" in shown
    assert "NODE_ID=alpha  (.env)\n" in shown
    for setting in SETTINGS.values():
        assert re.search(rf"^{setting.name}=.*\n    {re.escape(setting.doc)}$", shown, re.MULTILINE)


def test_config_as_json_is_a_row_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(SETTINGS)
    assert rows[1] == {"name": "PORT", "value": "3004", "source": "default", "doc": SETTINGS["PORT"].doc}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_config_masks_secrets(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINANCE_API_KEY", "bk-hunter2")
    monkeypatch.setenv("BINANCE_API_SECRET", "bs-hunter2")
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@db/0")
    assert main(["config", *options]) == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    assert "redis://********@db/0" in shown


def test_wrong_settings_are_a_line_each_on_standard_error_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("MAX_DAILY_LOSS", "7")
    for command in ("config", "serve"):
        assert main([command]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert [line.split("=")[0] for line in err.splitlines()] == ["tbx: PORT", "tbx: MAX_DAILY_LOSS"]


def test_a_warning_about_settings_is_told_and_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text("PROT=4000\n")
    assert main(["config"]) == 0
    assert capsys.readouterr().err == "tbx: warning: .env: PROT is no setting of this service; did you mean PORT?\n"


@pytest.mark.parametrize("scopes", ["read", "read+trade", "admin+read+trade"])
def test_a_new_key_fits_the_line_that_is_printed_for_it(scopes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "desk-1", "--scopes", scopes]) == 0
    shown = capsys.readouterr().out
    key = re.search(r"^    (tbx_[\w-]{43})$", shown, re.MULTILINE)
    line = re.search(r"^    (API_KEYS=.*)$", shown, re.MULTILINE)
    assert key is not None
    assert line is not None
    Path(".env").write_text(line[1])
    (read,) = load_settings({}).api_keys
    assert (read.name, read.digest, read.scopes) == ("desk-1", key_digest(key[1]), set(scopes.split("+")))


def test_two_keys_differ(capsys: pytest.CaptureFixture[str]) -> None:
    main(["key", "a"])
    first = capsys.readouterr().out
    main(["key", "a"])
    assert capsys.readouterr().out != first


def test_a_name_that_no_key_may_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "a:b"]) == 2
    assert "expected 1 to 32 lower-case letters" in capsys.readouterr().err


NO_COMMANDS = ["", "nonsense", "replay", "replay f --speed 9x", "key", "key a --scopes root"]


@pytest.mark.parametrize("line", NO_COMMANDS)
def test_a_command_line_that_means_nothing_is_exit_code_2(line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2


def failing(error: BaseException) -> Callable[[], int]:
    def run_and_fail() -> int:
        raise error

    return run_and_fail


def test_an_error_of_the_service_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(failing(StoreError("redis-server cannot be started:\n  no space"))) == 2
    assert capsys.readouterr().err == "tbx: redis-server cannot be started: no space\n"


def test_an_interrupt_is_exit_code_130() -> None:
    assert exit_code(failing(KeyboardInterrupt())) == 130


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(failing(ZeroDivisionError()))


def test_replay_of_a_missing_file_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tbx.venues.simulator.replay")
    assert main(["replay", "nothing.gz"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tbx: ")
    assert "nothing.gz" in err
    assert err.count("\n") == 1


def test_version_tells_its_own_and_pythons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert re.fullmatch(r"tbx \S+ \(Python 3\.\d+\.\S+\)\n", capsys.readouterr().out)


def test_the_module_runs_as_a_program_and_config_loads_no_server_and_no_compiler(root: Path, tmp_path: Path) -> None:
    done = run(root, "config", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    code = "import sys; from tbx.http.__main__ import main; main(['config']); sys.exit(' '.join(sys.modules))"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root / ".src")}
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
    ).stderr.split()
    assert "tbx.core.settings" in loaded
    assert not {"numba", "numpy", "uvicorn", "starlette", "redis", "asyncio", "uvloop"} & set(loaded)


def test_a_reader_that_leaves_early_is_no_error(root: Path, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root / ".src")}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tbx.http", "config"],
        cwd=tmp_path,
        env=environ,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
