"""Runs one file of pytest-benchmark tests in a process of its own and reads its figures back.

Always true here: p50, p99 and max are over rounds; a round of many calls counts as their mean.
"""

from __future__ import annotations

import ast
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from children import ROOT, environment, scratch
from table import NS_IN, Figure, Target, percentile
from targets import BY_NAME, LEFT_OUT, Wanted

FILE_TIMEOUT_S = 600
STOP_TIMEOUT_S = 40
NOTHING_COLLECTED = 5


def first_line(path: Path) -> str:
    """Of the module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_bytes())) or path.stem
    return text.splitlines()[0]


def measure(path: Path, *, quick: bool) -> list[Figure]:
    """Raises RuntimeError where a test fails or nothing was measured."""
    with scratch() as folder:
        report = folder / "report.json"
        command = [sys.executable, "-m", "pytest", str(path), "-q", "-p", "no:cacheprovider", "-rs"]
        command += ["-o", "python_files=bench_*.py", f"--benchmark-json={report}", "--benchmark-disable-gc"]
        command += ["-k", " and ".join(f"not {test}" for test in LEFT_OUT)]
        command += ["--benchmark-max-time=0.3", "--benchmark-min-rounds=3"] if quick else []
        said = _run(command, folder)
        benchmarks = json.loads(report.read_text())["benchmarks"] if report.is_file() else []
    figures = of_report(benchmarks)
    reason = _reason(said)
    if reason or not figures:
        figures.append(Figure(f"the rest of {path.name}", "", skipped=reason or "it measured nothing"))
    return figures


def _run(command: list[str], folder: Path) -> str:
    """Pytest in a session of its own, ended with this one; what it printed."""
    process = subprocess.Popen(
        command,
        env=environment({"TMPDIR": str(folder)}),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=FILE_TIMEOUT_S)
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=STOP_TIMEOUT_S)  # its fixtures stop the servers that they started
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    text = output.decode(errors="replace")
    if process.returncode not in (0, NOTHING_COLLECTED):
        failures = [line for line in text.splitlines() if line.startswith(("E  ", "FAILED", "ERROR"))]
        raise RuntimeError(" | ".join(failures[-4:]) or text.strip()[-400:])
    return text


def _reason(said: str) -> str:
    """Why pytest skipped tests; empty where it skipped none."""
    reasons = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("SKIPPED")]
    return "; ".join(dict.fromkeys(reasons))


def of_report(benchmarks: list[dict[str, Any]]) -> list[Figure]:
    """A figure for each benchmark that is not a floor."""
    by_name = {entry["name"]: entry for entry in benchmarks}
    return [_figure(entry, by_name) for entry in benchmarks if not is_floor(entry["name"])]


def is_floor(name: str) -> bool:
    test = name.partition("[")[0]
    return test.endswith("_floor") or test.startswith("test_floor_")


def floor_of(name: str, wanted: Wanted | None, names: Any) -> str | None:
    """The benchmark that is the floor of another."""
    test, bracket, parameters = name.partition("[")
    candidates = [f"{test}_floor{bracket}{parameters}", f"{test}_floor"]
    if wanted is not None and wanted.floor:
        candidates.insert(0, wanted.floor)
    return next((candidate for candidate in candidates if candidate in names), None)


def _figure(entry: dict[str, Any], by_name: dict[str, dict[str, Any]]) -> Figure:
    name = entry["name"]
    wanted = BY_NAME.get(name)
    more = entry.get("extra_info", {})
    units = more.get("units_a_round", 1)  # calls of the unit of work that one timed call made
    seconds = sorted(value / units for value in entry["stats"]["data"])
    unit = wanted.unit if wanted is not None else _fitting(percentile(seconds, 0.5))
    scale = 1e9 / NS_IN[unit]
    floor = floor_of(name, wanted, by_name)
    return Figure(
        wanted.shown if wanted is not None else name.removeprefix("test_").replace("_", " "),
        unit,
        p50=percentile(seconds, 0.5) * scale,
        p99=percentile(seconds, 0.99) * scale,
        max=seconds[-1] * scale,
        floor=_median(by_name[floor]) * scale if floor is not None else None,
        target=wanted.target if wanted is not None else _own_target(more, unit),
        extra={"test": name, "rounds": len(seconds)},
    )


def _median(entry: dict[str, Any]) -> float:
    """Seconds of one unit of work."""
    return float(entry["stats"]["median"]) / int(entry.get("extra_info", {}).get("units_a_round", 1))


def _own_target(more: dict[str, Any], unit: str) -> Target | None:
    bound_us = more.get("bound_us")
    return None if bound_us is None else Target("p50", "<=", bound_us * 1e3 / NS_IN[unit])


def _fitting(seconds: float) -> str:
    """The unit in which a duration reads well."""
    return next((unit for unit in ("ns", "us", "ms") if seconds * 1e9 / NS_IN[unit] < 1_000), "s")
