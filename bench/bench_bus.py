"""A publish to one handler and to ten, beside a dict of tuples called in a loop: the least that dispatch costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tbx.core.kernel.bus import Bus

ROUNDS, CALLS = 300, 2_000


class Ticked:
    """A message."""

    __slots__ = ()


def handle(message: object) -> None:
    """The shortest handler there is."""


def fault(handler: object, message: object, error: Exception) -> None:
    raise AssertionError("no handler fails here") from error


def measured(benchmark: Any, publish: Callable[[object], None]) -> None:
    """Many calls a round, in a loop of our own: the one of pytest-benchmark costs a fifth of what is measured."""
    message = Ticked()
    calls = range(CALLS)

    def publish_many() -> None:
        for _ in calls:
            publish(message)

    benchmark.extra_info["units_a_round"] = CALLS
    benchmark.pedantic(publish_many, rounds=ROUNDS, iterations=1, warmup_rounds=5)


@pytest.mark.parametrize("handlers", [1, 10])
def test_bus_publish(benchmark: Any, handlers: int) -> None:
    bus = Bus(fault)
    for _ in range(handlers):
        bus.subscribe(Ticked, handle)
    measured(benchmark, bus.publish)


@pytest.mark.parametrize("handlers", [1, 10])
def test_bus_publish_floor(benchmark: Any, handlers: int) -> None:
    table: dict[type, tuple[Callable[[object], None], ...]] = {Ticked: (handle,) * handlers}

    def publish(message: object) -> None:
        for handler in table.get(message.__class__, ()):
            handler(message)

    measured(benchmark, publish)
