"""A publish to one handler and to ten, beside a dict of tuples that is called in a loop: the least that dispatch costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tbx.core.kernel.bus import Bus

ROUNDS, CALLS = 200, 5_000


class Ticked:
    """A message."""

    __slots__ = ()


def handle(message: object) -> None:
    """The shortest handler there is."""


def fault(handler: object, message: object, error: Exception) -> None:
    raise AssertionError("no handler fails here") from error


def measured(benchmark: Any, publish: Callable[[object], None]) -> None:
    benchmark.pedantic(publish, args=(Ticked(),), rounds=ROUNDS, iterations=CALLS, warmup_rounds=5)


@pytest.mark.parametrize("handlers", [1, 10])
def test_bus_publish(benchmark: Any, handlers: int) -> None:
    bus = Bus(fault)
    for _ in range(handlers):
        bus.subscribe(Ticked, handle)
    measured(benchmark, bus.publish)


@pytest.mark.parametrize("handlers", [1, 10])
def test_bus_publish_floor(benchmark: Any, handlers: int) -> None:
    table = {Ticked: (handle,) * handlers}

    def publish(message: object) -> None:
        for handler in table.get(message.__class__, ()):
            handler(message)

    measured(benchmark, publish)
