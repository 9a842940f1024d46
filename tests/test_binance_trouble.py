"""Our Binance venue in trouble: lost frames and replies, clocks, bans, keys, garbage. It always ends in the truth."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tbx.core.kernel.clock import SECOND_NS
from tbx.core.model.messages import (
    BalanceMoved,
    ForeignFilled,
    VenueAccepted,
    VenueAmended,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
    VenueStateChanged,
    VenueUnknown,
)
from tbx.venues.binance.signing import Ed25519Signer, HmacSigner
from tbx.venues.session import Link

from .binance_desk import Desk, a_desk, hmac_keys
from .exchange_fixtures import an_api_client
from .redis_fixtures import in_loop, until

# --- the connection breaks in the middle of an order

# `late_reports`: with the reply its report stays away too, as where the connection breaks.
LOST = {
    "dropped before it was taken": ("drop_before:n=1", False),
    "dropped after it was taken": ("drop_after:n=1; late_reports:ms=500", True),
    "no reply, not taken": ("mute_before:n=1", False),
    "502, 503 or 504, not taken": ("http5xx_before:n=1", False),
    "502, 503 or 504, taken": ("http5xx_after:n=1; late_reports:ms=500", True),
    "-1006, not taken": ("unknown1006_before:n=1", False),
    "-1006, taken": ("unknown1006_after:n=1; late_reports:ms=500", True),
    "-1007, not taken": ("unknown1007_before:n=1", False),
    "-1007, taken": ("unknown1007_after:n=1; late_reports:ms=500", True),
}


@pytest.mark.parametrize("case", LOST)
def test_an_order_whose_outcome_is_not_known_ends_in_the_truth(case: str) -> None:
    @in_loop
    async def scenario() -> None:
        spec, taken = LOST[case]
        async with a_desk(speed=20) as desk:
            desk.faults(spec)
            desk.place("tbx-1", lots=1_000, price=60_015)
            lost = await desk.hear("tbx-1", VenueUnknown)
            assert lost.request == "place"
            assert await desk.truth("tbx-1") is taken
            assert len(desk.at_exchange("tbx-1")) == int(taken)
            assert desk.filled("tbx-1") == (1_000 if taken else 0)
            assert desk.of("tbx-1", VenueRejected) == []
            assert len(desk.of("tbx-1", VenueUnknown)) == 1
            assert desk.venue.counters()["unknown"] == 1
            await until(lambda: desk.venue.unavailable == "", "orders can be sent again")
            desk.place("tbx-2")
            await desk.hear("tbx-2", VenueAccepted)

    scenario()


@in_loop
async def test_a_reply_that_stays_away_is_no_loss_where_a_report_has_told() -> None:
    async with a_desk(speed=20) as desk:
        desk.faults("mute_after:n=1")
        desk.place("tbx-1", lots=1_000, price=60_015)
        await desk.hear("tbx-1", VenueFilled)
        await until(lambda: desk.venue.counters()["overdue"] == 1, "the reply is overdue")
        assert desk.of("tbx-1", VenueUnknown) == []


@in_loop
async def test_a_report_before_its_reply_tells_all_of_it() -> None:
    async with a_desk() as desk:
        desk.faults("reorder_reports")
        desk.place("tbx-1", lots=150_000, price=60_025, tif="IOC")
        await until(lambda: desk.filled("tbx-1") == 150_000, "both fills")
        desk.place("tbx-2")
        await desk.hear("tbx-2", VenueAccepted)
        desk.amend("tbx-2", lots=900)
        await desk.hear("tbx-2", VenueAmended)
        desk.cancel("tbx-2")
        await desk.hear("tbx-2", VenueEnded)
        await until(lambda: len(desk.venue.connection.inflight) == 0, "all replies")
        assert len(desk.of("tbx-2", VenueAmended)) == 1


@pytest.mark.parametrize("kind", ["cancel", "amend"])
@pytest.mark.parametrize("taken", [False, True], ids=["not taken", "taken"])
def test_a_lost_cancel_or_amend_is_unknown_and_the_order_is_as_the_venue_says(kind: str, taken: bool) -> None:
    @in_loop
    async def scenario() -> None:
        async with a_desk(speed=20) as desk:
            desk.place("tbx-1", lots=1_000)
            await desk.hear("tbx-1", VenueAccepted)
            desk.faults("late_reports:ms=500; drop_after:n=1" if taken else "drop_before:n=1")
            if kind == "cancel":
                desk.cancel("tbx-1")
            else:
                desk.amend("tbx-1", lots=600)
            lost = await desk.hear("tbx-1", VenueUnknown)
            assert lost.request == kind
            assert await desk.truth("tbx-1") is True
            assert bool(desk.of("tbx-1", VenueEnded)) is (taken and kind == "cancel")
            (order,) = desk.at_exchange("tbx-1")
            assert order.status == ("CANCELED" if taken and kind == "cancel" else "NEW")

    scenario()


@in_loop
async def test_an_order_on_its_way_is_not_said_to_be_untaken_because_the_venue_does_not_have_it_yet() -> None:
    async with a_desk(speed=40) as desk:
        opened_ms = desk.venue.connection.opened_ms
        await until(lambda: desk.exchange.now_ms() > opened_ms + 23_000, "a connection that is older than any frame")
        desk.faults("mute_before")
        desk.place("tbx-1")
        placed_ms = desk.exchange.now_ms()
        assert await desk.truth("tbx-0") is False  # which was never sent on this connection
        assert desk.exchange.now_ms() < placed_ms + 15_000
        assert await desk.query("tbx-1") is None
        assert await desk.truth("tbx-1") is False


class BreakingWire:
    """A wire that breaks as something is sent on it."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def send(self, raw: bytes) -> None:
        self.link.closed("cut while it was sent")

    def ping(self) -> None: ...

    def close(self) -> None: ...


@in_loop
async def test_a_link_that_breaks_as_an_order_is_sent_leaves_it_unknown() -> None:
    async with a_desk(speed=20) as desk:
        link = desk.venue.connection.link
        assert link is not None
        link._wire = BreakingWire(link)
        desk.place("tbx-1")
        assert desk.of("tbx-1", VenueUnknown)[0].reason == "cut while it was sent"
        desk.exchange.close_connections()
        assert await desk.truth("tbx-1") is False
        assert len(desk.of("tbx-1")) == 1


@in_loop
async def test_many_orders_through_a_bad_connection_are_each_there_once_or_not_at_all() -> None:
    async with a_desk(speed=20, exchange_options={"limited": False}) as desk:
        desk.faults(
            "drop_before:p=0.05; drop_after:p=0.05; mute_before:p=0.05; mute_after:p=0.05; unknown1007_after:p=0.1;"
            "late_reports:p=0.5,ms=300"
        )
        rng = random.Random(7)
        names = [f"tbx-{number}" for number in range(120)]
        for name in names:
            await until(lambda: desk.venue.unavailable == "", "a connection")
            desk.place(name, lots=rng.randrange(100, 1_000), price=rng.choice((50_000, 60_035)), tif="GTC")
            await asyncio.sleep(0)
        await until(lambda: len(desk.venue.connection.inflight) == 0, "all replies, or their time")
        desk.exchange.faults.clear()
        for name in names:
            refused = bool(desk.of(name, VenueRejected))  # proven: it was not sent
            taken = False if refused else await desk.truth(name)
            orders = desk.at_exchange(name)
            assert len(orders) == int(taken), name
            assert desk.filled(name) == sum(order.executed // 1_000 for order in orders), name


# --- not connected


@in_loop
async def test_without_a_connection_nothing_is_sent_and_that_is_said() -> None:
    async with a_desk(speed=20) as desk:
        desk.exchange.switch("ban418:s=30")  # new connections are refused
        desk.exchange.close_connections()
        down = await desk.hear_state(up=False)
        assert down.venue == "binance" and down.reason
        assert "not connected" in desk.venue.unavailable
        desk.place("tbx-1")
        assert desk.of("tbx-1", VenueRejected)[0].code == "TEMPORARY_UNAVAILABLE"
        assert desk.of("tbx-1", VenueRejected)[0].reason.startswith("not sent: ")
        desk.cancel("tbx-2")
        assert desk.of("tbx-2") == []
        desk.amend("tbx-2", lots=10)
        assert desk.of("tbx-2", VenueRequestFailed)[0].code == "NOT_CONNECTED"
        assert await desk.query("tbx-1") is None
        assert desk.venue.status().status == "disconnected"
        await until(lambda: "418" in desk.venue.status().reason, "the reason of a refused try")
        await desk.hear_state(up=True, count=2)
        assert desk.venue.counters()["reconnects"] == 1


# --- time, limits, bans


@pytest.mark.parametrize("skew_ms", [-90_000, -1_500, 1_500, 90_000])
def test_a_clock_that_is_off_is_measured_and_orders_go_through(skew_ms: int) -> None:
    @in_loop
    async def scenario() -> None:
        async with a_desk(exchange_options={"faults": f"skew:ms={skew_ms}"}) as desk:
            desk.place("tbx-1")
            await desk.hear("tbx-1", VenueAccepted)
            assert abs(desk.venue.counters()["clockOffsetUs"] - skew_ms * 1_000) < 100_000

    scenario()


@pytest.mark.parametrize("skew_ms", [-20_000, 20_000])
def test_an_order_that_is_turned_away_for_the_clock_goes_out_again_once_it_is_measured(skew_ms: int) -> None:
    @in_loop
    async def scenario() -> None:
        async with a_desk() as desk:
            desk.place("tbx-0")
            await desk.hear("tbx-0", VenueAccepted)
            desk.faults(f"skew:ms={skew_ms}")
            desk.place("tbx-1")
            desk.cancel("tbx-0")
            await desk.hear("tbx-1", VenueAccepted)
            await desk.hear("tbx-0", VenueEnded)
            assert len(desk.at_exchange("tbx-1")) == 1
            assert desk.of("tbx-1", VenueRejected, VenueUnknown) == []
            assert desk.venue.unavailable == ""

    scenario()


@in_loop
async def test_a_ban_is_obeyed_until_its_time_and_told() -> None:
    async with a_desk(speed=20) as desk:
        desk.faults("ban418:s=20")
        desk.place("tbx-1")
        rejected = await desk.hear("tbx-1", VenueRejected)
        assert rejected.code == "RATE_LIMIT_EXCEEDED"
        assert "bars this address" in desk.venue.unavailable
        fired = desk.exchange.faults.get("ban418").fired  # type: ignore[union-attr]
        desk.place("tbx-2")
        assert desk.of("tbx-2", VenueRejected)[0].code == "RATE_LIMIT_EXCEEDED"
        desk.cancel("tbx-2")
        assert desk.of("tbx-2", VenueRequestFailed)[0].code == "RATE_LIMIT_EXCEEDED"
        assert desk.venue.status().rate_limit_remaining == 0
        await until(lambda: desk.venue.unavailable == "", "the end of the ban")
        assert desk.exchange.faults.get("ban418").fired == fired  # type: ignore[union-attr]
        desk.place("tbx-3")
        await desk.hear("tbx-3", VenueAccepted)


@in_loop
async def test_a_429_is_obeyed_until_its_time() -> None:
    async with a_desk(speed=20) as desk:
        desk.faults("limit429:s=10")
        desk.place("tbx-1")
        assert (await desk.hear("tbx-1", VenueRejected)).code == "RATE_LIMIT_EXCEEDED"
        fired = desk.exchange.faults.get("limit429").fired  # type: ignore[union-attr]
        desk.place("tbx-2")
        assert desk.of("tbx-2", VenueRejected)[0].code == "RATE_LIMIT_EXCEEDED"
        assert await desk.query("tbx-2") is None  # waits until it may be asked
        assert desk.exchange.faults.get("limit429").fired == fired  # type: ignore[union-attr]
        desk.place("tbx-3")
        await desk.hear("tbx-3", VenueAccepted)


# --- keys


def wrong_secret(account: Any) -> HmacSigner:
    return HmacSigner(account.hmac_api_key, "x" * 64)


def wrong_private_key(account: Any) -> Ed25519Signer:
    return Ed25519Signer(account.ed25519_api_key, Ed25519PrivateKey.generate())


def wrong_key(account: Any) -> HmacSigner:
    return HmacSigner("y" * 64, account.hmac_secret_key)


KEYS = {
    "secret": (wrong_secret, "does not belong to this API key"),
    "private key": (wrong_private_key, "does not belong to this API key"),
    "key": (wrong_key, "no such API key, or not from this IP address"),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_wrong_key_is_said_and_orders_are_refused_with_it(case: str) -> None:
    @in_loop
    async def scenario() -> None:
        signer, words = KEYS[case]
        async with a_desk(speed=20, signer=signer, connected=False) as desk:
            await until(lambda: words in desk.venue.unavailable, words)
            assert words in desk.venue.status().reason
            assert desk.venue.status().status == "disconnected"
            desk.place("tbx-1")
            assert words in desk.of("tbx-1", VenueRejected)[0].reason
            assert not any(isinstance(m, VenueStateChanged) for m in desk.said)
            await until(lambda: desk.venue.connection.session.connects >= 3, "further tries")
            assert words in desk.venue.unavailable

    scenario()


def allow(desk: Desk, **rights: Any) -> None:
    """Change what the first account's keys may do."""
    account = desk.exchange.accounts[0]
    for name in (account.hmac_api_key, account.ed25519_api_key):
        key = desk.exchange.keys.find(name)
        for right, value in rights.items():
            setattr(key, right, value)


@in_loop
async def test_a_key_without_the_permission_to_trade_refuses_orders_until_it_has_it() -> None:
    async with a_desk(speed=20) as desk:
        allow(desk, trade=False)
        desk.place("tbx-1")
        rejected = await desk.hear("tbx-1", VenueRejected)
        assert rejected.code == "KEY_REFUSED"
        assert "permission" in desk.venue.unavailable
        assert desk.venue.status().status == "connected"
        allow(desk, trade=True)
        await until(lambda: desk.venue.unavailable == "", "another try is allowed")
        desk.place("tbx-2")
        await desk.hear("tbx-2", VenueAccepted)


@in_loop
async def test_a_key_that_is_not_for_this_address_is_said() -> None:
    async with a_desk(speed=20) as desk:
        allow(desk, ips=frozenset({"192.0.2.1"}))
        desk.exchange.close_connections()
        await until(lambda: "not from this IP address" in desk.venue.unavailable, "the reason")
        allow(desk, ips=None)
        await desk.hear_state(up=True, count=2)
        assert desk.venue.unavailable == ""


# --- links that take over


@in_loop
async def test_a_shutdown_that_is_announced_leaves_no_gap() -> None:
    async with a_desk(speed=20) as desk:
        desk.place("tbx-1")
        await desk.hear("tbx-1", VenueAccepted)
        first = desk.venue.connection.link
        desk.exchange.shut_down(2_000)
        await until(lambda: desk.venue.connection.link is not first, "another link")
        desk.exchange.deal("BTCUSDT", "SELL", 50_000, 4)
        await desk.hear("tbx-1", VenueFilled)
        await until(lambda: desk.venue.connection.links_open == 1, "the old link is gone")
        assert [m.up for m in desk.said if isinstance(m, VenueStateChanged)] == [True]


@in_loop
async def test_links_take_over_under_load_and_nothing_is_lost_or_told_twice() -> None:
    options = {"limited": False}
    async with a_desk(speed=20, exchange_options=options, max_age_ns=6 * SECOND_NS, drain_ns=2 * SECOND_NS) as desk:
        number = 0
        async with an_api_client(desk.exchange, subscribe=False) as other:  # what it does not read would keep it open
            while desk.venue.connection.session.connects < 5:
                number += 1
                desk.place(f"tbx-{number}", lots=1_000, price=60_015 if number % 4 else 50_000)
                if number % 4 == 0 and number > 8:
                    desk.cancel(f"tbx-{number - 8}")
                if number % 50 == 0:
                    desk.exchange.quote("BTCUSDT", "SELL", 60_010, 1)
                    desk.exchange.deposit(desk.exchange.accounts[0].name, "USDT", number)
                    await other.order(newClientOrderId=f"web_{number}", price="60010.00", quantity="0.001")
                await asyncio.sleep(0.002)
            await until(lambda: len(desk.venue.connection.inflight) == 0, "all replies")
        orders = desk.exchange.exchange.all_orders(desk.exchange.accounts[0].name, "BTCUSDT", limit=10**6)
        ours = {o.client_order_id: o.executed // 1_000 for o in orders if o.client_order_id.startswith("tbx-")}
        assert len(ours) == number == sum(o.client_order_id.startswith("tbx-") for o in orders)

        def filled() -> dict[str, int]:
            trades = {m.trade_id: m for m in desk.said if isinstance(m, VenueFilled)}
            lots = dict.fromkeys(ours, 0)
            for trade in trades.values():
                lots[trade.client_id] += trade.qty_lots
            return lots

        await until(lambda: filled() == ours, "all fills")
        assert {m.client_id for m in desk.said if isinstance(m, VenueAccepted)} == ours.keys()
        assert not any(isinstance(m, VenueUnknown | VenueRejected | VenueRequestFailed) for m in desk.said)
        assert [m.up for m in desk.said if isinstance(m, VenueStateChanged)] == [True]
        moves = [m.change for m in desk.said if isinstance(m, BalanceMoved)]
        assert moves == list(range(50, number + 1, 50))
        theirs = [(m.client_id, m.trade_id) for m in desk.said if isinstance(m, ForeignFilled)]
        assert len(theirs) == len(set(theirs)) == number // 50
        assert desk.venue.counters()["unknown"] == desk.venue.counters()["reconnects"] == 0


@in_loop
async def test_an_event_stream_that_the_venue_ends_is_subscribed_to_again() -> None:
    async with a_desk() as desk:
        link = desk.venue.connection.link
        assert link is not None
        link.take(b'{"subscriptionId":0,"event":{"e":"eventStreamTerminated","E":1728973001334}}')
        await desk.hear_state(up=False)
        await desk.hear_state(up=True, count=2)
        assert desk.venue.connection.link is link  # what was asked on it is still answered on it
        desk.place("tbx-1", price=60_015)
        await desk.hear("tbx-1", VenueFilled)


@in_loop
async def test_a_session_that_the_venue_revokes_signs_on_again() -> None:
    async with a_desk() as desk:
        link = desk.venue.connection.link
        assert link is not None
        error = b'{"code":-2015,"msg":"Invalid API-key, IP, or permissions for action."}'
        link.take(b'{"id":null,"status":401,"error":%b}' % error)
        down = await desk.hear_state(up=False)
        assert "-2015" in down.reason
        await desk.hear_state(up=True, count=2)


# --- frames that cannot be understood


@in_loop
async def test_garbage_is_counted_and_told_and_orders_go_on() -> None:
    async with a_desk(speed=20) as desk:
        desk.faults("nonsense:p=0.5")
        for number in range(20):
            await until(lambda: desk.venue.unavailable == "", "a connection")
            desk.place(f"tbx-{number}", lots=1_000, price=50_000)
            await until(lambda n=number: bool(desk.of(f"tbx-{n}")), "an answer")  # type: ignore[misc]
        desk.exchange.faults.clear()
        for number in range(20):
            taken = await desk.truth(f"tbx-{number}")
            assert len(desk.at_exchange(f"tbx-{number}")) == int(taken)
        assert desk.venue.counters()["nonsense"] > 0
        assert any("cannot be understood" in trouble for trouble in desk.troubles)


@in_loop
async def test_an_order_whose_report_cannot_be_understood_is_asked_about() -> None:
    async with a_desk() as desk:
        desk.place("tbx-1", lots=1_000, price=60_015)
        await desk.hear("tbx-1", VenueFilled)
        desk.said.clear()
        link = desk.venue.connection.link
        assert link is not None
        link.take(b'{"subscriptionId":0,"event":{"e":"executionReport","s":"BTCUSDT","c":"tbx-1","C":"","l":5}}')
        await desk.hear("tbx-1", VenueFilled)  # as the venue tells it when it is asked
        assert desk.filled("tbx-1") == 1_000
        assert desk.venue.counters()["nonsense"] == 1
        assert "cannot be understood" in desk.troubles[0]


@in_loop
async def test_a_report_that_may_be_about_any_order_makes_the_connection_anew() -> None:
    async with a_desk() as desk:
        link = desk.venue.connection.link
        assert link is not None
        link.take(b'{"subscriptionId":0,"event":{"e":"executionReport","s":"BTCU')
        await desk.hear_state(up=False)
        await desk.hear_state(up=True, count=2)  # and the core asks about every order


@in_loop
async def test_somebody_elses_report_that_cannot_be_understood_changes_nothing() -> None:
    async with a_desk() as desk:
        link = desk.venue.connection.link
        assert link is not None
        link.take(b'{"subscriptionId":0,"event":{"e":"executionReport","s":"BTCUSDT","c":"web_1","C":"","l":5}}')
        assert desk.venue.counters()["nonsense"] == 1
        assert desk.venue.connection.link is link


@in_loop
async def test_a_reply_that_cannot_be_understood_is_unknown_until_a_report_tells() -> None:
    async with a_desk() as desk:
        desk.faults("mute_before")
        desk.place("tbx-1")
        link, number = desk.venue.connection.link, desk.venue.connection._numbers
        assert link is not None
        link.take(b'{"id":%d,"status":200,"result":{"symbol":"BTCUSDT","orderId":"seven"}}' % number)
        assert desk.of("tbx-1", VenueUnknown)
        desk.place("tbx-2")
        link.take(b'{"id":%d,"status":200,"result":{"symbol":"BTCU' % (number + 1))
        assert desk.of("tbx-2", VenueUnknown)
        assert desk.venue.counters()["nonsense"] == 2


@in_loop
async def test_hmac_keys_get_through_the_same_trouble() -> None:
    async with a_desk(speed=20, signer=hmac_keys) as desk:
        desk.faults("drop_after:n=1; late_reports:ms=500")
        desk.place("tbx-1", lots=1_000, price=60_015)
        await desk.hear("tbx-1", VenueUnknown)
        assert await desk.truth("tbx-1") is True
        assert desk.filled("tbx-1") == 1_000
