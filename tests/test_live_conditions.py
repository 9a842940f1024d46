"""Conditions of a live node in virtual time: an exchange that goes, a store that hangs, a book that stands still."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx.core.kernel.clock import SECOND_NS
from tbx.core.model.errors import StoreUnavailable
from tbx.venues.session import ConnectFailed

from .live_desk import LiveDesk
from .live_processes import Live, an_exchange, live, wait_for

pytestmark = pytest.mark.connectivity


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


def whys(desk: LiveDesk) -> dict[str, str]:
    """Name and subject of what holds -> why."""
    held = desk.node.kernel.conditions.held
    return {f"{condition.name} {condition.subject}".strip(): condition.why for condition in held}


def test_an_exchange_that_cannot_be_reached_is_away_until_its_orders_can_be_sent_again(desk: LiveDesk) -> None:
    desk.wait(2_000)
    assert "venue_away binance" not in whys(desk)
    desk.network.refusal = ConnectFailed("refused")
    desk.cut()
    desk.until(lambda: "venue_away binance" in whys(desk), "it is said", 5)
    assert "binance is not connected" in whys(desk)["venue_away binance"]
    desk.heal()
    desk.wait(2_000)
    assert "venue_away binance" not in whys(desk)
    assert desk.node.kernel.conditions.counts["venue_away"] >= 1
    desk.check()


def test_a_store_that_does_not_answer_is_away_within_two_seconds_and_holds_everything_back(desk: LiveDesk) -> None:
    """A Redis that is stopped refuses nothing, so nothing but the time tells."""
    kernel, held = desk.node.kernel, []
    usual = desk.store._call_soon
    desk.store._call_soon = lambda *call: held.append(call)
    desk.command(desk.submission("buy", "0.1", price=59_990))
    begun_ns = desk.world.now_ns()
    desk.until(lambda: not kernel.store_up, "it is said", 3)
    assert desk.world.now_ns() - begun_ns < 2 * SECOND_NS
    assert "has not answered a commit" in whys(desk)["store_away"]
    assert whys(desk)["trading_limited"].startswith("REDUCING")
    assert not desk.local.done, "nothing has left"
    desk.store._call_soon = usual
    for done, *arguments in held:
        done(*arguments)
    desk.until(lambda: kernel.store_up, "it is back", 3)
    assert "store_away" not in whys(desk) and "trading_limited" not in whys(desk)
    desk.until(lambda: desk.local.done, "the order has reached the exchange", 3)
    desk.heal()
    desk.check()


def test_a_reason_that_changes_while_the_store_is_away_is_told_anew(
    desk: LiveDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = desk.node.kernel
    for error in (StoreUnavailable("it is loading"), StoreUnavailable("it is out of memory")):
        monkeypatch.setattr(desk.store, "_refusal", {desk.store.epoch: error}.get)
        desk.command(desk.submission("buy", "0.1", price=59_990))
        desk.wait(500)
        assert whys(desk)["store_away"] == str(error) and str(error) in desk.node.guard.why
    assert kernel.conditions.counts["store_away"] == 1, "it is one absence"
    monkeypatch.undo()
    desk.until(lambda: kernel.store_up, "it is back", 3)
    desk.heal()
    desk.check()


def test_books_that_stand_still_are_told_for_their_exchange(desk: LiveDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.wait(2_000)
    assert not whys(desk)
    monkeypatch.setattr(desk, "mirror", lambda: None)
    desk.until(lambda: "market_stale binance" in whys(desk), "it is said", 20)
    assert list(whys(desk)) == ["market_stale binance"], "orders could still be sent"
    monkeypatch.undo()
    desk.wait(3_000)
    assert not whys(desk)


def test_a_live_service_shows_its_exchange_going_and_what_its_connection_has_counted(tmp_path: Path) -> None:
    """Real processes: `tbx serve` live against `tbx exchange`, which is ended."""
    with an_exchange() as exchange, live(exchange, tmp_path) as desk:
        desk.placed(price="59000")
        lines = metrics(desk)
        assert lines['tbx_venue_up{exchange="binance"}'] == 1 == lines["tbx_ready{}"]
        assert lines['tbx_venue_figure{exchange="binance",figure="round_trip_p50_us"}'] > 0
        assert lines['tbx_venue_rate_limit_remaining{exchange="binance"}'] > 0
        exchange.stop()
        wait_for(lambda: "venue_away" in names(desk), "the exchange is away")
        ready = desk.http.get("/readyz")
        assert ready.status_code == 503 and ready.json()["checks"]["venue"] is False
        lines = metrics(desk)
        assert lines['tbx_condition{name="venue_away",subject="binance"}'] == 1
        assert lines['tbx_venue_up{exchange="binance"}'] == 0 == lines["tbx_ready{}"]


def names(desk: Live) -> set[str]:
    return {condition["name"] for condition in desk.http.get("/api/health").json()["conditions"]}


def metrics(desk: Live) -> dict[str, float]:
    answer = desk.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    pairs = (line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#"))
    return {name if "{" in name else f"{name}{{}}": float(value) for name, _, value in pairs}
