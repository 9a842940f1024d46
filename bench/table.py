"""What a benchmark run found: figures beside their floors and targets, as one table and as lines of the history.

Always true here: every number of a figure is in the figure's one unit; a figure that has a target is either met or
MISSED, and one that could not be measured says why instead of holding numbers.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Measure = Literal["p50", "p99", "max", "ratio"]
NS_IN = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
COLUMNS = ("figure", "unit", "p50", "p99", "max", "floor", "ratio", "target", "")


@dataclass(frozen=True)
class Target:
    """What must be reached: `Target("p99", "<=", 10)`, in the figure's unit."""

    measure: Measure
    sense: Literal["<=", ">="]
    limit: float

    def met_by(self, value: float) -> bool:
        return value <= self.limit if self.sense == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{self.measure} {self.sense} {number(self.limit)}"


@dataclass
class Figure:
    """One row. `floor` is the p50 of the least that could do this work; `ratio` is p50 over floor."""

    name: str
    unit: str  # ns, us, ms, s, 1/s, MB
    p50: float | None = None  # the median; of a rate, over its rounds
    p99: float | None = None
    max: float | None = None
    floor: float | None = None
    ratio: float | None = None
    target: Target | None = None
    note: str = ""
    skipped: str = ""  # why there are no numbers
    failed: bool = False  # skipped because something is broken, not because something is absent
    extra: dict[str, Any] = field(default_factory=dict)  # for the history only

    def __post_init__(self) -> None:
        if self.ratio is None and self.p50 is not None and self.floor:
            self.ratio = self.p50 / self.floor

    @property
    def met(self) -> bool | None:
        """None where there is no target, or nothing was measured."""
        value = getattr(self, self.target.measure) if self.target is not None else None
        return None if value is None or self.target is None else self.target.met_by(value)

    @property
    def verdict(self) -> str:
        if self.skipped:
            return "FAILED" if self.failed else "skipped"
        return {None: "", True: "met", False: "MISSED"}[self.met]


def number(value: float | None) -> str:
    """Three digits that matter: 0.351, 4.75, 112, 31,400."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.{1 if size >= 10 else 2 if size >= 1 else 3}f}"


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least of the sorted values that at least `share` of them do not exceed."""
    return ordered[max(0, -(-int(len(ordered) * share * 10_000) // 10_000) - 1)]


def of_seconds(name: str, seconds: Iterable[float], unit: str, **more: Any) -> Figure:
    """A figure from single durations in seconds."""
    ordered = [value * 1e9 / NS_IN[unit] for value in sorted(seconds)]
    return Figure(
        name,
        unit,
        p50=percentile(ordered, 0.5),
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
        **more,
    )


def render(figures: Sequence[Figure]) -> str:
    """The table, and below it what did not fit in."""
    rows = [COLUMNS, *(_row(figure) for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(row[2:7], widths[2:7], strict=True)]
        cells += [row[7].ljust(widths[7]), row[8]]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    notes = [f"  {f.name}: {f.skipped or f.note}" for f in figures if f.skipped or f.note]
    return "\n".join([*lines, "", *notes] if notes else lines)


def _row(figure: Figure) -> tuple[str, ...]:
    target = str(figure.target) if figure.target is not None else ""
    values = (figure.p50, figure.p99, figure.max, figure.floor, figure.ratio)
    return (figure.name, figure.unit, *map(number, values), target, figure.verdict)


def summary(figures: Sequence[Figure]) -> str:
    """How many targets were met, and which were not."""
    judged = [figure for figure in figures if figure.met is not None]
    missed = [figure.name for figure in judged if not figure.met]
    failed = [figure.name for figure in figures if figure.failed]
    text = f"{len(judged) - len(missed)} of {len(judged)} targets met"
    if missed:
        text += f"; MISSED: {'; '.join(missed)}"
    if failed:
        text += f"; could not run: {'; '.join(failed)}"
    return text


# --- history -----------------------------------------------------------------------------------------------------


def history_line(figure: Figure, circumstances: Mapping[str, Any]) -> str:
    """One JSON object: the circumstances of the run, then the figure."""
    row: dict[str, Any] = {**circumstances, "figure": figure.name, "unit": figure.unit}
    for name in ("p50", "p99", "max", "floor", "ratio"):
        value = getattr(figure, name)
        row[name] = None if value is None else float(f"{value:.5g}")
    row["target"] = None if figure.target is None else str(figure.target)
    row["met"] = figure.met
    row |= {key: value for key, value in (("note", figure.note), ("extra", figure.extra)) if value}
    return json.dumps(row)


def append_history(path: Path, figures: Iterable[Figure], circumstances: Mapping[str, Any]) -> int:
    """Add what was measured; returns how many lines."""
    lines = [history_line(figure, circumstances) + "\n" for figure in figures if not figure.skipped]
    with path.open("a") as history:
        history.writelines(lines)
    return len(lines)


def circumstances(root: Path, *, quick: bool) -> dict[str, Any]:
    """When, which code and what kind of machine; no names of hosts, users or folders."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(root),
        "quick": quick,
        "machine": {
            "cores": os.cpu_count(),
            "cpu": _cpu(),
            "python": platform.python_version(),
            "kernel": f"{platform.system()} {platform.release()}",
        },
    }


def commit(root: Path) -> str:
    """The commit that is checked out, with a + where files differ from it; "none" where there is none."""
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if not head:
        return "none"
    return head + ("+" if _git(root, "status", "--porcelain", "--", ".", ":!bench/history.jsonl") else "")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=20, check=False)
    except OSError:
        return ""  # no git on this machine
    return done.stdout.decode().strip() if done.returncode == 0 else ""


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
