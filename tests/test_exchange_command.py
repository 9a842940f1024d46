"""`tbx exchange` started with options that cannot be: one line that says so, soon, and nothing destroyed."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tbx.venues.simulator.binance import market_feed
from tbx.venues.simulator.binance.command import main

from .exchange_process import ROOT, ExchangeProcess


def attempt(*words: str) -> str:
    """What it says before it ends with exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "tbx.venues.simulator.binance.command", "--port", "0", *words],
        env={"PYTHONPATH": str(ROOT / ".src"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("content", [None, b"not a capture\n"], ids=["no file", "a file that is no capture"])
def test_a_recording_is_looked_at_before_anything_is_compiled(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(market_feed, "warm_up", compiled.append)
    path = tmp_path / "capture.txt"
    if content is not None:
        path.write_bytes(content)
    assert main(["--port", "0", "--market", f"replay:{path}"]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and ("no such file" if content is None else "local time in ns") in said
    assert not compiled


@pytest.mark.parametrize("host", ["notahost.invalid", "a..b", "ü" * 80, "300.1.2.3"])
def test_a_host_that_is_none_is_named(host: str) -> None:
    said = attempt("--host", host, "--market", "none")
    assert f"cannot listen on {host}:0" in said and "--host" in said and "127.0.0.1 is" in said
    assert "Unknown error" not in said


def test_an_address_of_another_machine_is_named() -> None:
    said = attempt("--host", "192.0.2.1", "--market", "none")  # of no machine: RFC 5737
    assert "no address of this machine" in said


def test_the_same_keys_are_written_again_and_others_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with ExchangeProcess("--keys-dir", str(folder), "--seed", "1"):
        written = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "first-ed25519.pem").chmod(0o644)
    with ExchangeProcess("--keys-dir", str(folder), "--seed", "1"):
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    said = attempt("--keys-dir", str(folder), "--seed", "2", "--market", "none")
    assert "first-ed25519.pem holds another key" in said and f"such as {folder}-2" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    (folder / "first-ed25519.pem").unlink()
    said = attempt("--keys-dir", str(folder), "--seed", "2", "--market", "none")
    assert "second-ed25519.pem holds another key" in said
    assert [path.name for path in folder.iterdir()] == ["second-ed25519.pem"], "nothing is written by halves"


def test_a_method_that_does_not_exist_is_no_place_for_a_fault() -> None:
    said = attempt("--faults", "drop_before:on=ordr.place", "--market", "none")
    assert "no method 'ordr.place'" in said and "did you mean order.place" in said
