"""The matching engine: orders that wait for a price, and what they set off."""

from __future__ import annotations

import pytest

from tbx.venues.simulator.exchange.records import EXPIRY_LIQUIDITY

from .exchange_engine import Pit, S, text, to_units

WOULD_TRIGGER = "Stop price would trigger immediately."


def pit_at(price: str) -> Pit:
    """A market whose last price is this, with the house far around it."""
    pit = Pit()
    pit.print_trade(price)
    for far, side in (("0.9", "BUY"), ("1.1", "SELL")):
        pit.house.set_level(side, int(to_units(price) * float(far)) // 10**6 * 10**6, to_units("50"))
    pit.mark()
    return pit


@pytest.mark.parametrize(
    ("side", "kind", "stop", "not_yet", "trigger"),
    [
        ("SELL", "STOP_LOSS", "59000", "59000.01", "59000"),
        ("SELL", "TAKE_PROFIT", "61000", "60999.99", "61000.50"),
        ("BUY", "STOP_LOSS", "61000", "60999.99", "61000"),
        ("BUY", "TAKE_PROFIT", "59000", "59000.01", "58999"),
    ],
)
def test_a_stop_order_waits_for_its_price_and_then_takes(
    side: str, kind: str, stop: str, not_yet: str, trigger: str
) -> None:
    pit = pit_at("60000")
    mine = pit.place("ann", side, kind, "1", stop_price=stop).order
    assert (mine.status, mine.is_working, mine.working_ms) == ("NEW", False, -1)
    pit.now += 1
    pit.print_trade(not_yet)
    assert pit.get("ann", mine.order_id).executed == 0
    pit.mark()
    pit.now += 1
    pit.print_trade(trigger)
    done = pit.get("ann", mine.order_id)
    assert (done.status, done.is_working, done.working_ms) == ("FILLED", True, pit.now)
    assert pit.kinds("ann") == [f"NEW NEW {mine.order_id}", f"TRADE FILLED {mine.order_id}"]
    assert pit.locked("ann", "BTC") == pit.locked("ann", "USDT") == "0"


@pytest.mark.parametrize(
    ("side", "kind", "stop"),
    [
        ("SELL", "STOP_LOSS", "60000"),
        ("SELL", "STOP_LOSS", "60001"),
        ("SELL", "TAKE_PROFIT", "60000"),
        ("BUY", "STOP_LOSS", "60000"),
        ("BUY", "TAKE_PROFIT", "60001"),
    ],
)
def test_a_stop_that_the_last_price_has_met_is_refused(side: str, kind: str, stop: str) -> None:
    pit_at("60000").refused(-2010, WOULD_TRIGGER, "ann", side, kind, "1", stop_price=stop)


def test_a_stop_limit_rests_at_its_limit_once_triggered() -> None:
    pit = pit_at("60000")
    mine = pit.place("ann", "SELL", "STOP_LOSS_LIMIT", "1", "58000", stop_price="59000").order
    assert pit.locked("ann", "BTC") == "1" and not any(price == "58000" for price, _ in pit.depth()[1])
    pit.print_trade("59000")
    assert ("58000", "1") in pit.depth()[1]
    assert pit.get("ann", mine.order_id).is_working
    pit.ex.cancel("ann", S, mine.order_id)
    assert pit.locked("ann", "BTC") == "0"


def test_a_cancelled_stop_never_triggers() -> None:
    pit = pit_at("60000")
    mine = pit.place("ann", "SELL", "STOP_LOSS", "1", stop_price="59000").order
    pit.ex.cancel("ann", S, mine.order_id)
    pit.print_trade("58000")
    assert pit.get("ann", mine.order_id).executed == 0


def test_a_triggered_order_may_trigger_the_next() -> None:
    pit = Pit()
    pit.print_trade("60000")
    for price in ("59000", "58000", "57000"):
        pit.house.set_level("BUY", to_units(price), to_units("1"))
    first = pit.place("ann", "SELL", "STOP_LOSS", "2", stop_price="59500").order
    second = pit.place("bob", "SELL", "STOP_LOSS", "1", stop_price="58500").order
    pit.print_trade("59500")
    assert text(pit.get("ann", first.order_id).executed) == "2"
    assert pit.get("bob", second.order_id).status == "FILLED"
    assert text(pit.ex.tape(S).last_price) == "57000"


def test_orders_with_the_same_trigger_go_in_the_order_of_their_placing() -> None:
    pit = Pit()
    pit.print_trade("60000")
    pit.house.set_level("BUY", to_units("50000"), to_units("1.5"))
    first = pit.place("ann", "SELL", "STOP_LOSS", "1", stop_price="59000").order
    second = pit.place("bob", "SELL", "STOP_LOSS", "1", stop_price="59500").order
    pit.house.set_level("BUY", to_units("58000"), to_units("0.1"))
    pit.house.trade("SELL", to_units("58000"), to_units("0.1"))
    assert pit.get("ann", first.order_id).status == "FILLED"
    late = pit.get("bob", second.order_id)
    assert (late.status, text(late.executed), late.expiry_reason) == ("EXPIRED", "0.5", EXPIRY_LIQUIDITY)


def test_a_stop_buy_locks_its_stop_price_and_pays_the_books() -> None:
    pit = pit_at("60000")
    pit.ex.add_account("eve", {"USDT": to_units("62000")})
    mine = pit.place("eve", "BUY", "STOP_LOSS", "1", stop_price="61000").order
    assert (pit.locked("eve", "USDT"), pit.free("eve", "USDT")) == ("61000", "1000")
    pit.house.set_level("SELL", to_units("61500"), to_units("0.5"))
    pit.print_trade("61000")
    done = pit.get("eve", mine.order_id)
    # 0.5 at 61500 leave 31250, which pays for 0.47348 at 66000: the funds end before the quantity.
    assert (done.status, text(done.executed)) == ("EXPIRED", "0.97348")
    assert pit.locked("eve", "USDT") == "0" and float(pit.free("eve", "USDT")) < 1


@pytest.mark.parametrize(
    ("side", "kind", "delta", "stop", "prices", "trigger"),
    [
        # The documented scenarios of Binance's trailing stop FAQ.
        ("BUY", "STOP_LOSS_LIMIT", 500, "44000", ["37000", "44000", "46000", "42000"], "44100"),
        ("SELL", "STOP_LOSS_LIMIT", 1000, "39000", ["41500", "39000", "37000", "41000"], "36900"),
        ("BUY", "TAKE_PROFIT_LIMIT", 850, "38000", ["42000", "38000", "37000", "39000", "38000"], "40145"),
        ("SELL", "TAKE_PROFIT_LIMIT", 750, "42000", ["41500", "39000", "42000", "45000", "44000", "46500"], "43012.5"),
        ("SELL", "STOP_LOSS_LIMIT", 700, None, ["42000", "39500", "45500"], "42315"),
    ],
)
def test_a_trailing_order_follows_the_best_price(
    side: str, kind: str, delta: int, stop: str | None, prices: list[str], trigger: str
) -> None:
    pit = Pit()
    pit.print_trade("40000")
    more = {} if stop is None else {"stop_price": stop}
    limit = "30000" if side == "BUY" else "50000"
    mine = pit.place("ann", side, kind, "1", limit, trailing_delta=delta, **more).order
    assert (mine.trailing_time == -1) is (stop is not None)
    for price in prices:
        pit.print_trade(price)
        assert not pit.get("ann", mine.order_id).is_working, price
    pit.print_trade(trigger)
    assert pit.get("ann", mine.order_id).is_working


def test_a_trailing_order_locks_for_the_last_price_where_it_has_no_other() -> None:
    pit = pit_at("60000")
    pit.place("ann", "BUY", "STOP_LOSS", "1", trailing_delta=100)
    assert pit.locked("ann", "USDT") == "60000"
    pit.print_trade("60600")
    assert pit.locked("ann", "USDT") == "0" and float(pit.free("ann", "BTC")) > 1000
