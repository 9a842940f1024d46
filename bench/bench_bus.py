"""A publish to one handler and to ten, beside a dict of tuples called in a loop: the least that dispatch costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


@pytest.mark.parametrize("handlers", [1, 10])
def test_peer_nautilus_bus_publish(benchmark: Any, handlers: int) -> None:
    """The same work by NautilusTrader's bus, whose topics are texts; it is no dependency, so only where it is found."""
    component = pytest.importorskip("nautilus_trader.common.component", reason="nautilus_trader is not installed")
    identifiers = pytest.importorskip("nautilus_trader.model.identifiers", reason="nautilus_trader is not installed")
    bus = component.MessageBus(trader_id=identifiers.TraderId("BENCH-001"), clock=component.TestClock())
    for number in range(handlers):
        # It takes each handler once a topic.
        bus.subscribe("ticked", lambda message, number=number: None)
    measured(benchmark, partial(bus.publish, "ticked"))
