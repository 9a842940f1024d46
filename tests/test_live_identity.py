"""A node's state belongs to one account: with the key of another one nothing is sent, asked or believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tbx.core.model.records import State

from .live_desk import LiveDesk, ed25519, hmac, refused


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


def meta(desk: LiveDesk) -> str:
    """What is committed."""
    desk.wait(10)
    return str(json.loads(desk.store.tables["meta"]["accountId"]))


def test_the_account_is_kept_when_it_is_first_signed_on_to(desk: LiveDesk) -> None:
    assert meta(desk) == str(desk.local.accounts[0].uid)
    assert ("meta", "accountId", meta(desk)) in list(desk.node.everything())


def test_another_key_of_the_same_account_goes_on_with_it(desk: LiveDesk) -> None:
    order = desk.order("buy", "0.1", price=59_000)
    desk.kill()
    desk.signer = hmac(desk.local.accounts[0])
    desk._start()
    desk.until(lambda: not desk.node.engine.unavailable("binance"), "orders can be sent")
    assert desk.state(order) == "LIVE"
    desk.heal()
    desk.check()


def test_an_order_of_one_account_is_never_sent_with_the_key_of_another(desk: LiveDesk) -> None:
    first, second = desk.local.accounts[:2]
    desk.local.switch("mute_before:n=1,on=order.place")  # it never arrives, and its outcome is not known
    order = desk.sent("buy", "0.3", price=59_000)
    desk.wait(100)
    totals = {currency: desk.total(currency) for currency in ("BTC", "ETH", "USDT")}
    desk.kill()
    desk.me, desk.other = desk.other, desk.me
    desk.signer = ed25519(second)
    desk._start()
    desk.foreign_order("BTC_USDT", "BUY", 60_120, "0.5")
    for _ in range(200):  # also while it signs on, when the other account's reports are heard already
        desk.deposit("USDT", 1)
        desk.wait(1)
    desk.wait(120_000)
    why = desk.node.engine.unavailable("binance")
    assert f"belongs to account {first.uid}" in why and f"the API key to account {second.uid}" in why
    assert any(why in trouble or f"belongs to account {first.uid}" in trouble for trouble in desk.troubles)
    shown = next(venue for venue in desk.node.shown_venues() if venue.name == "binance").status()
    assert shown.status == "disconnected" and f"belongs to account {first.uid}" in shown.reason
    assert refused(desk.submit("buy", "0.1", price=59_000)) == "VENUE_UNAVAILABLE"
    assert desk.theirs(order) == [] and desk.get(order).state in (State.SENT, State.UNKNOWN)
    assert {currency: desk.total(currency) for currency in totals} == totals and desk.faults == []
    assert meta(desk) == str(first.uid)
    desk.kill()
    desk.me, desk.other = desk.other, desk.me
    desk.signer = ed25519(first)
    desk._start()
    desk.until(lambda: desk.state(order) in ("LIVE", "REJECTED"), "the right key settles it", 120)
