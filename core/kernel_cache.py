"""Compiled kernels: the decorators that make them, and the registry that warms them up.

Always true here: a kernel is compiled at most once per machine (numba keeps it on disk, beside the source or in
`NUMBA_CACHE_DIR`), nothing is compiled on the hot path once `warm_up` has returned, and a place where nothing can be
written only costs the disk cache, never the start.

Numba's disk cache asks whether the one file that defines a kernel has changed. Our kernels call helpers of sibling
files and are compiled with the options below, so here a kernel is fresh only while its own file, every `kernels*.py`
beside it and this file are the ones it was compiled from.

Kernels run without numba's reference counting (`_nrt=False`): they only read and write arrays handed in, never
allocate, slice or return one. Counting references costs an atomic operation per array and call, five times the work of
parsing a number. They keep the interpreter's lock: they last microseconds, and giving it up for that would hand it to a
thread that waits (the archive's), for longer than the kernel runs.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import event

F = TypeVar("F", bound=Callable[..., Any])

_njit: Any = numba.njit  # its stubs do not know `_nrt`

_warm_ups: dict[str, Callable[[], None]] = {}


def compiled(function: F) -> F:
    """`numba.njit` with a disk cache; the plain function stays reachable as `.py_func`."""
    try:
        kernel = _njit(cache=True, _nrt=False)(function)
    except RuntimeError:
        # Neither the source's folder nor the user's cache folder can be written: numba refuses to cache at all.
        return _njit(_nrt=False)(function)  # type: ignore[no-any-return]
    if hasattr(kernel, "py_func"):  # with NUMBA_DISABLE_JIT it is the plain function
        kernel._cache._cache_file._source_stamp = _source_stamp(Path(inspect.getfile(function)))
    return kernel  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """A small helper that only kernels call: its machine code is always part of theirs."""
    return _njit(forceinline=True, _nrt=False)(function)  # type: ignore[no-any-return]


def _source_stamp(source: Path) -> str:
    """A digest of all the files whose code may be part of a kernel of this one."""
    digest = hashlib.sha256()
    for path in [Path(__file__), source, *sorted(source.parent.glob("kernels*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def warms_up(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function that calls each kernel of a module once, with tiny arguments of the types used later.

    A name holds one function: registering it again replaces the first (a module loaded again is not warmed twice).
    """

    def register(call: Callable[[], None]) -> Callable[[], None]:
        _warm_ups[name] = call
        return call

    return register


def warm_up(report: Callable[[str], None]) -> int:
    """Run every registered warm-up; `report` gets one line per kernel that has to be compiled, none when cached.

    Returns how many kernels were compiled (0: all of them came from the disk cache, or were loaded already). A module
    registers when it is imported: import what will be used first.
    """
    with _compilations(report) as count:
        for call in tuple(_warm_ups.values()):
            call()
    return count.kernels


class _Compilations(event.Listener):
    """Counts what numba compiles; helpers compiled inside a kernel count as part of it."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.kernels = 0
        self.nested = 0

    def on_start(self, event: Any) -> None:
        if self.nested == 0:
            kernel = event.data["dispatcher"].py_func
            self.kernels += 1
            self.report(f"compiling {kernel.__module__.rpartition('.')[2]}.{kernel.__name__} (kept for later starts)")
        self.nested += 1

    def on_end(self, event: Any) -> None:  # noqa: ARG002  (numba passes it by name)
        self.nested -= 1


@contextmanager
def _compilations(report: Callable[[str], None]) -> Iterator[_Compilations]:
    listener = _Compilations(report)
    with event.install_listener("numba:compile", listener):
        yield listener
