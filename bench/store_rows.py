"""Figures of a benchmark that makes its own rows: a file with `async def measure() -> list[dict]`.

Always true here: a row has a name and either `p50_us` (with p99_us, max_us, floor_us) or figures of other units, which
become rows of their own.
"""

from __future__ import annotations

import ast
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from children import environment, scratch
from table import Figure

TIMEOUT_S = 600
UNITS = {"best_us": "us", "s": "s", "orders_per_s": "1/s", "commits_per_s": "1/s", "file_mb": "MB"}
CHILD = """
import json, runpy, sys, uvloop
print(json.dumps(uvloop.run(runpy.run_path(sys.argv[1])["measure"]())))
"""


def has_rows(path: Path) -> bool:
    """Whether the file makes its own rows, instead of being collected by pytest."""
    return any(
        isinstance(node, ast.AsyncFunctionDef) and node.name == "measure" for node in ast.parse(path.read_bytes()).body
    )


def measure(path: Path, *, quick: bool) -> list[Figure]:
    """Run it in a process of its own; raises RuntimeError with its last words where it fails."""
    if quick:
        return [Figure(path.stem, "", skipped="takes minutes; not part of --quick")]
    with scratch() as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)],
            env=environment({"TMPDIR": str(folder)}),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            output, said = process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            process.send_signal(signal.SIGINT)  # its Redis ends with it
            process.wait()
            raise
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"it ended with code {process.returncode}")
    rows: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
    return [figure for row in rows for figure in of_row(row)]


def of_row(row: dict[str, Any]) -> list[Figure]:
    """The figures of one row."""
    name = row["name"]
    if "p50_us" in row:
        return [
            Figure(
                name,
                "us",
                p50=row["p50_us"],
                p99=row.get("p99_us"),
                max=row.get("max_us"),
                floor=row.get("floor_us"),
                extra={key: value for key, value in row.items() if key != "name" and key[-3:] != "_us"},
            )
        ]
    rest = {key: value for key, value in row.items() if key != "name"}
    key = next((key for key in UNITS if key in rest), None)
    if key is None:
        return [Figure(name, "", extra=rest, note=", ".join(f"{key} {value}" for key, value in rest.items()))]
    return [
        Figure(
            name,
            UNITS[key],
            p50=rest.pop(key),
            floor=rest.pop("floor_s", None),
            note=", ".join(f"{other} {value:,}" for other, value in rest.items()),
            extra=rest,
        )
    ]
