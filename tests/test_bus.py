"""The bus: order of handling, nested publishes, handlers that raise."""

from __future__ import annotations

from typing import Any

import pytest

from tbx.core.kernel.bus import Bus


class Ping:
    pass


class Pong:
    pass


def refuse_faults(handler: Any, message: Any, error: Exception) -> None:
    raise AssertionError(f"{handler} raised {error!r}")


def test_a_message_reaches_its_handlers_in_the_order_of_subscription() -> None:
    seen: list[str] = []
    bus = Bus(refuse_faults)
    bus.subscribe(Ping, lambda _: seen.append("first"))
    bus.subscribe(Ping, lambda _: seen.append("second"))
    bus.publish(Ping())
    assert seen == ["first", "second"]


def test_a_message_without_handlers_is_not_a_fault() -> None:
    Bus(refuse_faults).publish(Ping())


def test_a_nested_publish_waits_until_every_handler_has_seen_the_first_message() -> None:
    seen: list[str] = []
    bus = Bus(refuse_faults)

    def first(_: Ping) -> None:
        seen.append("ping 1")
        bus.publish(Pong())
        bus.publish(Pong())

    bus.subscribe(Ping, first)
    bus.subscribe(Ping, lambda _: seen.append("ping 2"))
    bus.subscribe(Pong, lambda _: seen.append("pong"))
    bus.publish(Ping())
    assert seen == ["ping 1", "ping 2", "pong", "pong"]


def test_subclasses_are_types_of_their_own() -> None:
    class Louder(Ping):
        pass

    seen: list[object] = []
    bus = Bus(refuse_faults)
    bus.subscribe(Ping, seen.append)
    bus.publish(Louder())
    assert seen == []


@pytest.mark.parametrize("nested", [False, True], ids=["published from outside", "published by a handler"])
def test_a_handler_that_raises_is_reported_and_the_others_still_get_the_message(nested: bool) -> None:
    faults: list[tuple[str, str]] = []
    seen: list[str] = []
    bus = Bus(lambda handler, message, error: faults.append((handler.__name__, str(error))))

    def broken(_: Ping) -> None:
        raise ValueError("boom")

    def also_broken(_: Ping) -> None:
        raise KeyError("missing")

    bus.subscribe(Ping, lambda _: seen.append("before"))
    bus.subscribe(Ping, broken)
    bus.subscribe(Ping, lambda _: seen.append("between"))
    bus.subscribe(Ping, also_broken)
    bus.subscribe(Ping, lambda _: seen.append("after"))
    bus.subscribe(Pong, lambda _: bus.publish(Ping()))
    bus.publish(Pong() if nested else Ping())
    assert seen == ["before", "between", "after"]
    assert faults == [("broken", "boom"), ("also_broken", "'missing'")]
    bus.publish(Ping())
    assert len(faults) == 4, "the bus goes on after a fault"


def test_two_actors_that_feed_each_other_for_ever_are_stopped_and_reported() -> None:
    faults: list[Exception] = []
    bus = Bus(lambda handler, message, error: faults.append(error))
    bus.CASCADE_MAX = 50  # type: ignore[misc]
    bus.subscribe(Ping, lambda _: bus.publish(Pong()))
    bus.subscribe(Pong, lambda _: bus.publish(Ping()))
    bus.publish(Ping())
    assert "more than 50 messages" in str(faults[0])
    seen: list[object] = []
    bus.subscribe(Bus, seen.append)
    bus.publish(bus)
    assert seen == [bus], "nothing of the loop is left over"
