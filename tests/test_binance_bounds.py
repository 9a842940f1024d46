"""How long our Binance venue waits at most, how much it asks at a time, and what it never writes into a log."""

from __future__ import annotations

import json

import pytest

from tbx.core.kernel.clock import MS_NS
from tbx.core.model.messages import VenueAccepted, VenueRejected, VenueRequestFailed, VenueStateChanged
from tbx.venues.binance import account
from tbx.venues.binance.codec import KEY_LENGTH_MIN, NONSENSE_SHOWN, one_line

from .binance_virtual import VirtualDesk

# --- what was turned away for our clock


def test_what_was_turned_away_for_our_clock_is_not_sent_when_measuring_takes_too_long() -> None:
    desk = VirtualDesk()
    desk.place("tbx-0")
    desk.pass_ms(100)
    desk.faults("skew:ms=20000")
    desk.network.more_ns["down"] = 900 * MS_NS  # three samples take 2.7 s
    desk.place("tbx-1")
    desk.cancel("tbx-0")
    desk.pass_ms(950)
    assert desk.of("tbx-1") == []
    desk.pass_ms(2_000)
    (rejected,) = desk.of("tbx-1")
    assert isinstance(rejected, VenueRejected) and rejected.code == "TEMPORARY_UNAVAILABLE"
    assert "could not be measured within 2 s" in rejected.reason
    assert desk.of("tbx-0", VenueRequestFailed)[0].code == "TEMPORARY_UNAVAILABLE"
    desk.pass_ms(20_000)
    assert len(desk.asked("order.place")) == 2 and len(desk.asked("order.cancel")) == 1
    assert desk.at_exchange("tbx-1") == []


def test_a_clock_that_is_measured_in_time_lets_the_order_go_once() -> None:
    desk = VirtualDesk()
    desk.faults("skew:ms=20000")
    desk.network.more_ns["down"] = 300 * MS_NS
    desk.place("tbx-1")
    desk.pass_ms(10_000)
    assert desk.of("tbx-1", VenueAccepted) and not desk.of("tbx-1", VenueRejected)
    assert len(desk.asked("order.place")) == 2


# --- how long a venue may ask us to be silent

STOPS = {
    "a 429 until the end of all days": (429, 1 << 90, 60_000),
    "a 429 until a time that is over": (429, -1_000, 60_000),
    "a 418 for longer than any ban": (418, 4 * 86_400_000, 120_000),
    "a 418 until a time that is over": (418, -1_000, 120_000),
    "a 429 for five minutes": (429, 300_000, 300_000),
    "a 418 for three hours": (418, 3 * 3_600_000, 3 * 3_600_000),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_venue_is_obeyed_as_long_as_it_may_ask_and_nonsense_is_told(case: str) -> None:
    status, after_ms, waited_ms = STOPS[case]
    desk = VirtualDesk()
    link = desk.venue.connection.link
    assert link is not None
    until_ms = desk.exchange.now_ms() + after_ms
    error = {"code": -1003, "msg": "x", "data": {"serverTime": 1, "retryAfter": until_ms}}
    link.take(json.dumps({"id": 10**9, "status": status, "error": error}).encode())
    desk.pass_ms(waited_ms - 500)
    desk.place("tbx-1")
    desk.pass_ms(100)
    assert desk.of("tbx-1", VenueRejected)[0].code == "RATE_LIMIT_EXCEEDED"
    desk.pass_ms(1_000)
    desk.place("tbx-2")
    desk.pass_ms(100)
    assert desk.of("tbx-2", VenueAccepted)
    said = [trouble for trouble in desk.troubles if "are waited instead" in trouble]
    assert len(said) == (after_ms != waited_ms)


# --- what a log never shows

KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
SIGNATURE = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
LEAKS = {
    "a reply with a field of another type": b'{"id":1,"status":"odd","result":{"apiKey":"%b","serverTime":"x"}}',
    "an event": b'{"event":{"e":"new","apiKey":"%b","signature":"' + SIGNATURE.encode() + b'"}}',
    "no JSON at all": b"apiKey=%b&signature=" + SIGNATURE.encode(),
    "an event that is named so": b'{"event":{"e":"%b"}}',
    "an error that ends the session": b'{"id":null,"status":401,"error":{"code":-2015,"msg":"the key %b is revoked"}}',
    "a ban": b'{"id":null,"status":418,"error":{"code":-1003,"msg":"%b is banned"}}',
    "where the explanation ends": b'{"event":{"e":"new","x":"' + b"-" * (NONSENSE_SHOWN - 60) + b'","apiKey":"%b"}}',
    "a symbol": b'{"subscriptionId":0,"event":{"e":"executionReport","s":"%b","c":"tbx-1"}}',
    "an amount": b'{"subscriptionId":0,"event":{"e":"balanceUpdate","E":1,"a":"BTC","d":"%b","T":1}}',
}


@pytest.mark.parametrize("case", LEAKS)
def test_keys_and_signatures_are_masked_in_all_that_is_told(case: str) -> None:
    desk = VirtualDesk()
    link = desk.venue.connection.link
    assert link is not None
    link.take(LEAKS[case].replace(b"%b", KEY.encode()))
    told = "\n".join([*desk.troubles, desk.venue.unavailable, desk.venue.status().reason, repr(desk.said)])
    assert KEY[:4] in told, told  # something was told, and is not all masked
    for secret in (KEY, SIGNATURE):
        assert not any(secret[at : at + 12] in told for at in range(4, len(secret) - 12)), told


def test_a_key_is_masked_wherever_the_explanation_is_cut() -> None:
    for before in range(NONSENSE_SHOWN + 10):
        line = one_line("-" * before + KEY)
        assert KEY[:5] not in line and len(line) <= NONSENSE_SHOWN + 3
    assert one_line("a" * (KEY_LENGTH_MIN - 1)) == "a" * (KEY_LENGTH_MIN - 1)


# --- fees of many pairs


def test_fees_are_asked_for_a_page_a_minute_until_all_are_known() -> None:
    desk = VirtualDesk({"limited": True, "extra_symbols": 120})
    pairs = len(desk.listing.instruments)
    assert pairs > 2 * account.FEES_MAX
    desk.pass_ms(5_000)
    assert len(desk.venue.account.fees) == account.FEES_MAX
    for _ in range(pairs // account.FEES_MAX):
        desk.pass_ms(60_000)
    assert len(desk.venue.account.fees) == pairs
    assert len(desk.asked("account.commission")) == pairs
    desk.pass_ms(3_600_000)
    assert len(desk.asked("account.commission")) == pairs
    assert desk.troubles == []


def test_fees_that_were_not_told_are_asked_for_again() -> None:
    desk = VirtualDesk({"extra_symbols": 60, "faults": "mute_before:n=3,on=account.commission"})
    desk.pass_ms(70_000)
    pairs = len(desk.listing.instruments)
    assert len(desk.venue.account.fees) == pairs - 3
    assert sum("fees of" in trouble for trouble in desk.troubles) == 3
    desk.pass_ms(600_000)
    assert len(desk.venue.account.fees) == pairs


def test_after_a_reconnect_the_rest_of_the_fees_is_asked_for_once() -> None:
    desk = VirtualDesk({"extra_symbols": 60})
    desk.pass_ms(1_000)
    desk.network.cut()
    desk.pass_ms(300_000)
    pairs = len(desk.listing.instruments)
    assert len(desk.venue.account.fees) == len(desk.asked("account.commission")) == pairs


# --- the account


def test_an_account_that_is_refused_is_never_used() -> None:
    heard: list[str] = []

    def account_id(uid: str) -> str:
        heard.append(uid)
        return "it belongs to somebody else"

    desk = VirtualDesk(account_id=account_id)
    desk.exchange.deposit(desk.exchange.accounts[0].name, "BTC", "1")
    desk.pass_ms(60_000)
    assert set(heard) == {str(desk.exchange.accounts[0].uid)}
    assert "it belongs to somebody else" in desk.venue.unavailable
    assert desk.venue.status().status == "disconnected"
    assert desk.said == []
    assert not any(isinstance(m, VenueStateChanged) for m in desk.said)
    desk.place("tbx-1")
    assert "it belongs to somebody else" in desk.of("tbx-1", VenueRejected)[0].reason
