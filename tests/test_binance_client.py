"""Our Binance venue trades on the local exchange: orders, amendments, lists, questions, the account."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from tbx.core.model.messages import (
    BalanceMoved,
    BalancesReported,
    CancelAtVenue,
    ForeignFilled,
    PlaceAtVenue,
    VenueAccepted,
    VenueAmended,
    VenueEnded,
    VenueFilled,
    VenueRejected,
    VenueRequestFailed,
    VenueUnknown,
)
from tbx.venues.binance.codec_requests import Leg, PlaceList, ReplaceOrder
from tbx.venues.simulator.binance.limits import Rates

from .binance_desk import BTC, TICKS, a_desk, ed25519, hmac_keys, price_of
from .exchange_fixtures import an_api_client
from .redis_fixtures import in_loop, until


@pytest.mark.parametrize("signer", [ed25519, hmac_keys], ids=["ed25519", "hmac"])
def test_a_limit_order_rests_fills_in_part_and_is_cancelled(signer: Any) -> None:
    @in_loop
    async def scenario() -> None:
        async with a_desk(signer=signer) as desk:
            desk.place("tbx-1", lots=1_000, price=50_000)
            accepted = await desk.hear("tbx-1", VenueAccepted)
            assert [str(o.order_id) for o in desk.at_exchange("tbx-1")] == [accepted.venue_order_id]
            desk.exchange.deal("BTCUSDT", "SELL", 50_000, "3.004")  # three are the house's own, above
            filled = await desk.hear("tbx-1", VenueFilled)
            assert (filled.qty_lots, price_of(filled), filled.maker) == (400, 50_000, True)
            assert (filled.fee, filled.fee_currency) == (Decimal("0.000004"), "BTC")
            desk.cancel("tbx-1", accepted.venue_order_id)
            ended = await desk.hear("tbx-1", VenueEnded)
            assert ended.kind == "cancelled"
            assert desk.filled("tbx-1") == 400
            assert desk.troubles == []

    scenario()


@in_loop
async def test_a_market_order_with_a_guard_trades_through_the_book_and_its_rest_expires() -> None:
    async with a_desk() as desk:
        desk.place("tbx-1", lots=250_000, price=60_025, type="market")
        ended = await desk.hear("tbx-1", VenueEnded)
        assert ended.kind == "expired"
        assert desk.filled("tbx-1") == 200_000
        desk.place("tbx-2", side="sell", lots=1_000, price=None)
        filled = await desk.hear("tbx-2", VenueFilled)
        assert price_of(filled) == 59_990
        assert filled.fee_currency == "USDT"


@in_loop
async def test_messages_come_as_accepted_fills_end_and_a_repeat_tells_the_same_trades() -> None:
    async with a_desk() as desk:
        desk.place("tbx-1", lots=250_000, price=60_020, tif="IOC")
        await desk.hear("tbx-1", VenueEnded)
        first = desk.of("tbx-1", VenueFilled)
        desk.said.clear()
        assert await desk.query("tbx-1") is True
        kinds = [type(m) for m in desk.of("tbx-1")]
        assert kinds == [VenueAccepted, VenueAmended, VenueFilled, VenueFilled, VenueEnded]
        again = {m.trade_id: (m.price_ticks, m.qty_lots, m.fee, m.fee_currency) for m in desk.of("tbx-1", VenueFilled)}
        assert again == {m.trade_id: (m.price_ticks, m.qty_lots, m.fee, m.fee_currency) for m in first}


REFUSED = {
    "post only would take": ({"price": 61_000, "post_only": True}, "POST_ONLY_WOULD_TAKE"),
    "too dear": ({"price": 59_000, "lots": 10_000_000}, "INSUFFICIENT_BALANCE"),
    "too far from the market": ({"price": 1, "lots": 1_000_000}, "FILTER_PERCENT_PRICE_BY_SIDE"),
    "too small": ({"price": 50_000, "lots": 1}, "FILTER_NOTIONAL"),
    "a client id that Binance does not take": ({"client_id": "tbx-" + "x" * 40}, "INVALID_ORDER"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_order_says_why(case: str) -> None:
    @in_loop
    async def scenario() -> None:
        order, code = REFUSED[case]
        order = dict(order)
        client_id = order.pop("client_id", "tbx-1")
        async with a_desk() as desk:
            desk.exchange.deal("BTCUSDT", "BUY", 60_010, "0.001")  # gives the average price that a filter needs
            desk.place(client_id, **order)
            rejected = await desk.hear(client_id, VenueRejected)
            assert rejected.code == code, rejected.reason
            assert desk.at_exchange(client_id) == []

    scenario()


@in_loop
async def test_a_pair_that_is_not_listed_is_refused_here() -> None:
    async with a_desk() as desk:
        desk.venue.place(
            PlaceAtVenue(
                client_id="tbx-1", pair="NO_PE", side="buy", type="limit", qty_lots=1, price_ticks=1, tif="GTC"
            )
        )
        assert desk.of("tbx-1", VenueRejected)[0].code == "INVALID_PAIR"
        answers: list[bool | None] = []
        desk.venue.query(desk.question("tbx-1", pair="NO_PE"), answers.append)
        assert answers == [None]


@in_loop
async def test_a_cancel_of_an_order_that_is_not_open_fails() -> None:
    async with a_desk() as desk:
        desk.cancel("tbx-1")
        failed = await desk.hear("tbx-1", VenueRequestFailed)
        assert (failed.request, failed.code) == ("cancel", "UNKNOWN_ORDER")


@in_loop
async def test_an_amend_goes_down_in_place_and_is_told_once() -> None:
    async with a_desk() as desk:
        desk.place("tbx-1", lots=1_000)
        await desk.hear("tbx-1", VenueAccepted)
        desk.amend("tbx-1", lots=600)
        told = await desk.hear("tbx-1", VenueAmended)
        assert (told.qty_lots, told.price_ticks) == (600, 50_000 * TICKS)
        desk.amend("tbx-1", lots=900)
        failed = await desk.hear("tbx-1", VenueRequestFailed)
        assert (failed.request, failed.code) == ("amend", "AMEND_REFUSED")
        assert len(desk.of("tbx-1", VenueAmended)) == 1  # its report was there before the second reply
        desk.cancel("tbx-1")
        await desk.hear("tbx-1", VenueEnded)  # under the same id as before


@in_loop
async def test_a_price_is_not_amended_in_place() -> None:
    async with a_desk() as desk:
        desk.amend("tbx-1", ticks=49_000 * TICKS)
        assert desk.of("tbx-1", VenueRequestFailed)[0].code == "NOT_SUPPORTED"


@in_loop
async def test_an_order_that_somebody_else_amended_is_still_known_by_our_id() -> None:
    async with a_desk() as desk:
        desk.place("tbx-1", lots=1_000)
        accepted = await desk.hear("tbx-1", VenueAccepted)
        async with an_api_client(desk.exchange) as other:
            reply = await other.ask(
                "order.amend.keepPriority",
                symbol="BTCUSDT",
                orderId=int(accepted.venue_order_id),
                newQty="0.006",
                timestamp=desk.exchange.now_ms(),
            )
            assert reply["status"] == 200
        assert (await desk.hear("tbx-1", VenueAmended)).qty_lots == 600
        desk.said.clear()
        assert await desk.query("tbx-1") is True
        desk.exchange.deal("BTCUSDT", "SELL", 50_000, 4)
        await desk.hear("tbx-1", VenueFilled)
        assert desk.filled("tbx-1") == 600


# --- replace and lists


def replacement(new: str, *, allow_failure: bool = False, price: int = 49_000, post_only: bool = False) -> ReplaceOrder:
    order = PlaceAtVenue(
        client_id=new,
        pair=BTC,
        side="buy",
        type="limit",
        qty_lots=500,
        price_ticks=price * TICKS,
        tif="GTC",
        post_only=post_only,
    )
    return ReplaceOrder(cancel=CancelAtVenue(client_id="tbx-1", pair=BTC), order=order, allow_failure=allow_failure)


@in_loop
async def test_a_replaced_order_ends_and_the_new_one_is_accepted() -> None:
    async with a_desk() as desk:
        desk.place("tbx-1")
        await desk.hear("tbx-1", VenueAccepted)
        desk.venue.replace(replacement("tbx-2"))
        await desk.hear("tbx-1", VenueEnded)
        await desk.hear("tbx-2", VenueAccepted)


@in_loop
async def test_a_replace_whose_halves_fail_tells_of_each() -> None:
    async with a_desk() as desk:
        desk.exchange.deal("BTCUSDT", "BUY", 60_010, "0.001")  # gives the average price that a filter needs
        desk.venue.replace(replacement("tbx-2"))  # nothing to cancel, so nothing is placed
        assert (await desk.hear("tbx-1", VenueRequestFailed)).code == "UNKNOWN_ORDER"
        assert (await desk.hear("tbx-2", VenueRejected)).code == "REPLACE_FAILED"
        desk.venue.replace(replacement("tbx-3", allow_failure=True))  # placed all the same
        await desk.hear("tbx-1", VenueRequestFailed, 2)
        await desk.hear("tbx-3", VenueAccepted)
        desk.place("tbx-1")
        await desk.hear("tbx-1", VenueAccepted)
        desk.venue.replace(replacement("tbx-4", price=1))  # filters are looked at first: nothing was done
        assert (await desk.hear("tbx-4", VenueRejected)).code.startswith("FILTER_")
        assert len(desk.of("tbx-1", VenueRequestFailed)) == 3
        desk.venue.replace(replacement("tbx-5", price=61_000, post_only=True))  # cancelled, and the new one refused
        await desk.hear("tbx-1", VenueEnded)
        assert (await desk.hear("tbx-5", VenueRejected)).code == "POST_ONLY_WOULD_TAKE"


OCO = PlaceList(
    kind="oco",
    client_id="tbx-L",
    pair=BTC,
    above=Leg(client_id="tbx-a", side="sell", type="LIMIT_MAKER", qty_lots=1_000, price_ticks=62_000 * TICKS),
    below=Leg(client_id="tbx-b", side="sell", type="STOP_LOSS", qty_lots=1_000, stop_ticks=58_000 * TICKS),
)
OTOCO = PlaceList(
    kind="otoco",
    client_id="tbx-M",
    pair=BTC,
    working=Leg(client_id="tbx-w", side="buy", type="LIMIT", qty_lots=1_000, price_ticks=59_000 * TICKS),
    above=Leg(client_id="tbx-p", side="sell", type="LIMIT_MAKER", qty_lots=900, price_ticks=62_000 * TICKS),
    below=Leg(client_id="tbx-q", side="sell", type="STOP_LOSS", qty_lots=900, stop_ticks=58_000 * TICKS),
)


@in_loop
async def test_an_oco_is_accepted_whole_and_one_leg_ends_the_other() -> None:
    async with a_desk() as desk:
        desk.venue.place_list(OCO)
        await desk.hear("tbx-a", VenueAccepted)
        await desk.hear("tbx-b", VenueAccepted)
        desk.exchange.deal("BTCUSDT", "BUY", 62_000, 4)
        await desk.hear("tbx-a", VenueFilled)
        assert (await desk.hear("tbx-b", VenueEnded)).kind == "expired"
        assert desk.filled("tbx-b") == 0


@in_loop
async def test_an_otoco_is_cancelled_as_a_list() -> None:
    async with a_desk() as desk:
        desk.venue.place_list(OTOCO)
        for leg in ("tbx-w", "tbx-p", "tbx-q"):
            await desk.hear(leg, VenueAccepted)
        desk.venue.cancel_list("tbx-M", BTC, ("tbx-w", "tbx-p", "tbx-q"))
        for leg in ("tbx-w", "tbx-p", "tbx-q"):
            await desk.hear(leg, VenueEnded)


@in_loop
async def test_a_list_that_is_refused_is_refused_for_each_leg() -> None:
    async with a_desk() as desk:
        desk.exchange.deposit(desk.exchange.accounts[0].name, "BTC", -100)
        desk.venue.place_list(OCO)
        for leg in ("tbx-a", "tbx-b"):
            assert (await desk.hear(leg, VenueRejected)).code == "INSUFFICIENT_BALANCE"
        desk.venue.cancel_list("tbx-L", BTC, ("tbx-a", "tbx-b"))
        for leg in ("tbx-a", "tbx-b"):
            assert (await desk.hear(leg, VenueRequestFailed)).code == "UNKNOWN_ORDER"


# --- questions


@in_loop
async def test_an_order_that_never_was_is_not_said_to_be_untaken_before_its_frame_is_too_old() -> None:
    async with a_desk(speed=20) as desk:
        began_ns = desk.exchange.now_ns()
        assert await desk.query("tbx-1") is None
        assert await desk.truth("tbx-1") is False
        # What arrives late, what is worked on late, a margin; and not much longer.
        assert 20e9 < desk.exchange.now_ns() - began_ns < 30e9


@in_loop
async def test_an_order_of_more_than_a_thousand_trades_is_told_whole() -> None:
    async with a_desk(exchange_options={"limited": False}) as desk:
        desk.place("tbx-1", lots=12_000, price=59_995)
        await desk.hear("tbx-1", VenueAccepted)
        for _ in range(1_100):
            desk.exchange.deal("BTCUSDT", "SELL", 59_995, "0.0001")
        await desk.hear("tbx-1", VenueFilled, 1_100)
        desk.said.clear()
        assert await desk.query("tbx-1") is True
        assert desk.filled("tbx-1") == 11_000


@in_loop
async def test_questions_keep_to_the_weight_that_is_left() -> None:
    async with a_desk(speed=30, exchange_options={"rates": Rates(weight=250)}) as desk:
        answers: list[bool | None] = []
        for number in range(70):
            if number == 35:  # at another moment
                await until(lambda: not desk.venue.questions._gathered, "the first are being asked about")
            desk.venue.query(desk.question(f"tbx-{number}"), answers.append)
        await until(lambda: len(answers) == 70, "all answers")
        assert desk.exchange.counts["requests"] >= 70
        assert not any("1003" in trouble for trouble in desk.troubles)
        assert desk.venue.counters()["overdue"] == 0


# --- limits


@in_loop
async def test_orders_over_the_limit_are_refused_here_and_nothing_is_sent() -> None:
    async with a_desk() as desk:
        await until(lambda: desk.venue.account.fees.get("BTCUSDT") is not None, "the first talks are over")
        for number in range(150):
            desk.place(f"tbx-{number}")
        refused = [m for m in desk.said if isinstance(m, VenueRejected)]
        assert {m.code for m in refused} == {"RATE_LIMIT_EXCEEDED"}
        assert 50 <= len(refused) <= 52 or len(refused) < 50  # a window may have ended meanwhile
        await until(lambda: len(desk.venue.connection.inflight) == 0, "all replies")
        at_exchange = desk.exchange.exchange.open_orders(desk.exchange.accounts[0].name)
        assert len(at_exchange) == 150 - len(refused)
        assert desk.venue.status().rate_limit_remaining > 0


# --- the account


@in_loop
async def test_what_others_trade_on_the_account_is_told_as_theirs() -> None:
    async with a_desk() as desk:
        async with an_api_client(desk.exchange) as other:
            await other.order(newClientOrderId="web_1", price="60010.00", side="BUY")
        await desk.hear("web_1", ForeignFilled)
        told = desk.of("web_1")[0]
        assert (told.side, told.qty_lots, told.price_ticks, told.pair) == ("buy", 1_000, 60_010 * TICKS, BTC)


@in_loop
async def test_deposits_are_told_and_balances_reported() -> None:
    async with a_desk() as desk:
        name = desk.exchange.accounts[0].name
        desk.exchange.deposit(name, "USDT", "12.5")
        desk.exchange.deposit(name, "BTC", "-100")

        def moved() -> list[tuple[str, Decimal]]:
            return [(m.currency, m.change) for m in desk.said if isinstance(m, BalanceMoved)]

        await until(lambda: len(moved()) == 2, "both moves")
        assert moved() == [("USDT", Decimal("12.5")), ("BTC", Decimal(-100))]
        desk.venue.report_balances()
        await until(lambda: isinstance(desk.said[-1], BalancesReported), "the balances")
        told = desk.said[-1].balances
        held = {a: b for a, b in desk.exchange.exchange.balances(name).items() if sum(b)}
        assert {a: (int(f * 10**8), int(held_ * 10**8)) for a, (f, held_) in told.items() if f or held_} == held
        assert told["BTC"] == (Decimal(0), Decimal(0))  # it was there before
        assert desk.venue.account.position == told


@in_loop
async def test_the_position_follows_orders() -> None:
    async with a_desk() as desk:
        desk.place("tbx-1", lots=1_000, price=50_000)
        await until(lambda: desk.venue.account.position["USDT"][1] == 500, "the lock")


@in_loop
async def test_fees_are_those_of_the_account() -> None:
    async with a_desk() as desk:
        await until(lambda: desk.venue.account.fees.get("BTCUSDT") is not None, "the fees")
        fees = desk.venue.account.fees.get("BTCUSDT")
        assert fees is not None
        assert (fees.maker, fees.taker) == (Decimal("0.001"), Decimal("0.001"))


@in_loop
async def test_status_and_counters_tell_how_it_goes() -> None:
    async with a_desk() as desk:
        status = desk.venue.status()
        assert (status.status, status.reason, desk.venue.unavailable) == ("connected", "", "")
        assert status.last_ping_ms is not None
        assert 0 < status.rate_limit_remaining < 6_000
        counters = desk.venue.counters()
        assert counters["roundTripP50Us"] > 0
        assert (counters["unknown"], counters["nonsense"], counters["reconnects"]) == (0, 0, 0)


@in_loop
async def test_what_is_on_its_way_when_the_venue_stops_is_unknown() -> None:
    async with a_desk() as desk:
        desk.faults("mute_before")
        desk.place("tbx-1")
        await asyncio.sleep(0)
        desk.venue.stop()
        assert desk.of("tbx-1", VenueUnknown)[0].request == "place"
        assert "stopped" in desk.venue.unavailable
