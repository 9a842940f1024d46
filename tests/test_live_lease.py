"""What the venue sends by itself is no exception: it asks whether this process is the writer still."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbx.core.model.messages import CancelExternal
from tbx.core.state.lease import SURE_NS

from .live_desk import BTC, LiveDesk

pytestmark = [pytest.mark.orders, pytest.mark.exchanges]


@pytest.mark.parametrize("lost", [False, True], ids=["the writer", "not the writer any more"])
def test_an_order_that_was_turned_away_for_the_clock_goes_out_again_only_from_the_writer(
    tmp_path: Path, lost: bool
) -> None:
    desk = LiveDesk(tmp_path)
    desk.local.switch("skew:ms=30000")
    order = desk.sent("buy", price=59_000)
    desk.until(lambda: desk.venue.errands._waiting, "it waits for the clock")
    if lost:
        desk.node.kernel.lease.lose()
    desk.local.faults.clear()
    desk.wait(5_000)
    assert len(desk.theirs(order)) == (0 if lost else 1)


def test_a_network_that_is_slower_than_the_lease_is_no_reason_to_hold_orders(tmp_path: Path) -> None:
    """The lease is about Redis: an idle node keeps it, however long ago the last order was."""
    desk = LiveDesk(tmp_path)
    desk.wait(10 * SURE_NS // 1_000_000)
    assert desk.node.kernel.sure()
    order = desk.order("buy", price=59_000)
    assert desk.state(order) == "LIVE"
    assert desk.node.kernel.conditions.counts["lease_unsure"] == 0


@pytest.mark.parametrize("lost", [False, True], ids=["the writer", "not the writer any more"])
def test_somebody_elses_order_is_cancelled_only_by_the_writer(tmp_path: Path, lost: bool) -> None:
    desk = LiveDesk(tmp_path)
    theirs = desk.foreign_order(BTC, "BUY", 59_500, "0.2", tif="GTC")
    desk.node.kernel.run(desk.node.reconciliation.look, "binance")
    desk.until(lambda: desk.node.reconciliation.external, "it is listed")
    desk.wait(3_000)
    if lost:
        desk.node.kernel.lease.lose()
    asked = {"exchange": "binance", "pair": BTC, "venue_order_id": str(theirs.order_id)}
    desk.command(lambda reply: CancelExternal(**asked, reply=reply))
    desk.wait(5_000)
    assert desk.exchange.order(desk.me, "BTCUSDT", order_id=theirs.order_id).open is lost
