"""Style that runs: layers, banned calls, lengths, and what every folder has. Each finding names its file and line."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

PACKAGES = ("core", "venues", "strategies_bridge", "http")
# Who may import whom, beside itself.
MAY_IMPORT = {
    "core": set[str](),
    "venues": {"core"},
    "strategies_bridge": {"core"},
    "http": {"core", "venues", "strategies_bridge"},
}
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 600

# In the core these are handed in: the clock, chance, ids, the event loop.
CORE_BANNED_MODULES = {"asyncio", "random", "secrets", "selectors", "socket", "threading", "uuid"}
CORE_BANNED_CALLS = {
    "time.time",
    "time.time_ns",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "np.random",
    "numpy.random",
    "os.urandom",
}

MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|home|root|Users)/|(?<![\w.~-])/tmp/\w")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b")


def kept_files() -> list[Path]:
    """What is in the repository, or would be: everything that git does not ignore."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    if done.returncode == 0:
        names = [ROOT / name for name in done.stdout.decode().split("\0") if name]
        return [path for path in names if path.is_file() and not path.is_symlink()]
    return [path for folder in (*PACKAGES, "tests", "bench") for path in (ROOT / folder).rglob("*") if path.is_file()]


KEPT = kept_files()
SOURCES = [path for path in KEPT if path.suffix == ".py"]
OF_PACKAGES = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]
TREES = {path: ast.parse(path.read_bytes(), path) for path in SOURCES}


def at(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def none_of(findings: Iterator[str]) -> None:
    found = list(findings)
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, name as seen from the project's root (`core.model.errors`, `numba`), and whether it is relative."""
    own = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            base = list(own[: len(own) - node.level])
            if base or node.module:
                yield node.lineno, ".".join([*base, node.module or node.names[0].name]), True
            else:
                yield from ((node.lineno, alias.name, True) for alias in node.names)


def test_each_layer_imports_only_what_lies_to_its_left() -> None:
    def findings() -> Iterator[str]:
        for path in OF_PACKAGES:
            own = path.relative_to(ROOT).parts[0]
            for line, name, relative in imports(path):
                other = name.split(".")[0]
                if relative and other != own and other not in MAY_IMPORT[own]:
                    yield at(path, line, f"{own} may not import {other}")

    none_of(findings())


def test_inside_the_package_imports_are_relative_and_nobody_imports_a_second_copy() -> None:
    def findings() -> Iterator[str]:
        for path in SOURCES:
            inside = path in OF_PACKAGES
            for line, name, relative in imports(path):
                top = name.split(".")[0]
                if inside and not relative and top == "tbx":
                    yield at(path, line, f"import {name} relatively")
                if not relative and top in set(PACKAGES) - {"http"}:
                    yield at(path, line, f"import {name} makes a second copy of every class; use tbx.{name}")

    none_of(findings())


def test_the_core_reads_no_clock_draws_no_chance_and_opens_no_connection() -> None:
    def findings() -> Iterator[str]:
        for path in OF_PACKAGES:
            if path.relative_to(ROOT).parts[0] != "core":
                continue
            for line, name, relative in imports(path):
                if not relative and name.split(".")[0] in CORE_BANNED_MODULES:
                    yield at(path, line, f"the core imports no {name}; it is handed in")
            for node in ast.walk(TREES[path]):
                if isinstance(node, ast.Attribute):
                    name = ".".join(ast.unparse(node).split(".")[-2:])
                    if name in CORE_BANNED_CALLS:
                        yield at(path, node.lineno, f"the core uses no {name}; it is handed in")
                elif isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime", "os"):
                    for alias in node.names:
                        if f"{node.module}.{alias.name}" in CORE_BANNED_CALLS:
                            yield at(path, node.lineno, f"the core uses no {node.module}.{alias.name}; it is handed in")

    none_of(findings())


def test_a_function_fits_a_screen() -> None:
    def findings() -> Iterator[str]:
        for path, tree in TREES.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > FUNCTION_LINES_MAX:
                        yield at(path, node.lineno, f"{node.name} has {length} lines, at most {FUNCTION_LINES_MAX}")

    none_of(findings())


def test_a_file_stays_readable() -> None:
    def findings() -> Iterator[str]:
        for path in SOURCES:
            length = path.read_bytes().count(b"\n")
            if length > FILE_LINES_MAX:
                yield at(path, length, f"{length} lines, at most {FILE_LINES_MAX}")

    none_of(findings())


def test_every_module_says_what_it_is() -> None:
    none_of(at(path, 1, "no module docstring") for path, tree in TREES.items() if not ast.get_docstring(tree))


def test_no_exception_is_swallowed() -> None:
    def findings() -> Iterator[str]:
        for path in OF_PACKAGES:
            for node in ast.walk(TREES[path]):
                if isinstance(node, ast.ExceptHandler):
                    bare = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                    if bare and all(isinstance(step, ast.Pass | ast.Continue) for step in node.body):
                        yield at(path, node.lineno, "an exception of any kind is swallowed")

    none_of(findings())


def texts() -> Iterator[tuple[Path, int, str]]:
    for path in KEPT:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # not a text
        for number, line in enumerate(text.splitlines(), start=1):
            yield path, number, line


def test_nothing_is_left_unfinished() -> None:
    none_of(at(path, number, line.strip()) for path, number, line in texts() if UNFINISHED.search(line))


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    none_of(at(path, number, line.strip()) for path, number, line in texts() if MACHINE_PATH.search(line))


def test_every_folder_of_the_package_has_a_readme() -> None:
    folders = {path.parent for path in OF_PACKAGES} | {ROOT}
    none_of(
        f"{folder.relative_to(ROOT)}: no README.md"
        for folder in sorted(folders)
        if not (folder / "README.md").is_file()
    )


def test_every_link_and_every_file_named_in_a_readme_is_there() -> None:
    named = re.compile(rf"`((?:{'|'.join((*PACKAGES, 'tests', 'bench'))})/[\w/]+\.\w+)`")

    def findings() -> Iterator[str]:
        for path, number, line in texts():
            if path.suffix == ".md":
                links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line) if "://" not in link]
                yield from (
                    at(path, number, f"{link} is not there") for link in links if not (path.parent / link).exists()
                )
                files = named.findall(line)
                yield from (at(path, number, f"{file} is not there") for file in files if not (ROOT / file).exists())

    none_of(findings())


def test_no_module_is_named_after_one_of_the_standard_library_at_the_top_of_a_package() -> None:
    # `http` itself is the known exception: it has no __init__.py, so the standard library's wins.
    names = {path.stem for path in OF_PACKAGES if len(path.relative_to(ROOT).parts) == 2}
    assert not (names - {"__init__", "__main__"}) & set(sys.stdlib_module_names)
    assert not (ROOT / "http/__init__.py").exists()
