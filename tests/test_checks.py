"""Pre-trade checks: what each lets through and what it refuses, with limit and actual; attached stops; order rates."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import pytest

from tbx.core.kernel.clock import MS_NS, SECOND_NS
from tbx.core.model.messages import Refusal, Submitted
from tbx.core.model.records import Check, Order, SignalData, State
from tbx.core.risk.guard import TradingState
from tbx.core.risk.open_risk import OpenRisk
from tbx.core.risk.order_rate import OrderRate

from .desk import Desk, refused
from .test_filters import list_with

DEFAULTS = {
    "MAX_POSITION_SIZE": "0.25",
    "MAX_RISK_PER_TRADE": "0.02",
    "MAX_DAILY_RISK": "0.06",
    "MAX_DAILY_LOSS": "0.05",
    "MAX_CORRELATED_EXPOSURE": "0.4",
    "ORDER_RATE_LIMIT": "100",
    "PRICE_COLLAR_PERCENT": "10",
    "STOP_LOSS_ENABLED": "true",
}
IN_ORDER = [
    *("tradingState", "instrumentRules", "balance", "positionSize", "riskPerTrade", "riskPerDay", "dailyLoss"),
    *("correlatedExposure", "orderRate", "priceCollar"),
]


def check_of(order: Order | None, name: str) -> Check:
    assert order is not None and order.risk is not None
    return next(check for check in order.risk.checks if check.name == name)


def strategy(name: str) -> SignalData:
    return SignalData(strategy=name)


# --- the report


def test_every_check_is_reported_in_order_with_its_limit_and_the_actual_value(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **DEFAULTS)
    order = desk.order("buy", "1000", type="limit", price="0.0245", stop_loss="0.0240")
    assert order.risk is not None and order.risk.passed
    assert [check.name for check in order.risk.checks] == IN_ORDER
    told = {check.name: (check.limit, check.actual) for check in order.risk.checks}
    assert told["positionSize"] == (12_500, Decimal("24.5"))
    # 1000 x (0.0245 - 0.0240) and 0.1 % of both prices
    assert told["riskPerTrade"] == (1_000, Decimal("0.5485"))
    assert told["riskPerDay"] == (3_000, Decimal("0.5485"))
    assert told["dailyLoss"] == (-2_500, 0)
    assert told["correlatedExposure"] == (20_000, Decimal("24.5"))
    assert told["orderRate"] == (100, 1)
    assert told["priceCollar"] == (Decimal("0.02695"), Decimal("0.0245"))
    desk.check()


@pytest.mark.parametrize(
    ("settings", "order", "code", "name"),
    [
        ({"MAX_POSITION_SIZE": "0.01"}, {"quantity": "30000"}, "RISK_POSITION_SIZE", "positionSize"),
        ({}, {"quantity": "70000", "stop_loss": "0.0100"}, "RISK_PER_TRADE", "riskPerTrade"),
        ({"MAX_DAILY_RISK": "0.0001"}, {"quantity": "5000"}, "RISK_PER_DAY", "riskPerDay"),
        ({"MAX_CORRELATED_EXPOSURE": "0.01"}, {"quantity": "30000"}, "RISK_CORRELATED_EXPOSURE", "correlatedExposure"),
        ({}, {"type": "limit", "price": "0.0300"}, "PRICE_COLLAR", "priceCollar"),
    ],
    ids=["position size", "risk at the stop", "risk of the day", "what moves together", "price collar"],
)
def test_what_is_beyond_a_limit_is_refused_with_both_figures(
    tmp_path: Path, settings: dict[str, str], order: dict[str, str], code: str, name: str
) -> None:
    desk = Desk(tmp_path, **{**DEFAULTS, **settings})
    answer = desk.submit("buy", **order)
    assert refused(answer) == code
    found = check_of(answer.order, name)
    assert not found.passed and found.limit is not None and found.actual is not None and found.actual > found.limit
    assert found.detail and found.detail == answer.detail
    assert answer.order.state is State.REJECTED and desk.total("USDT") == 25_000
    desk.check()


@pytest.mark.parametrize(
    "settings",
    [
        {"MAX_POSITION_SIZE": "0.01"},
        {"MAX_RISK_PER_TRADE": "0.0001"},
        {"MAX_DAILY_RISK": "0.0001"},
        {"MAX_CORRELATED_EXPOSURE": "0.01"},
    ],
    ids=["position size", "risk at the stop", "risk of the day", "what moves together"],
)
def test_the_size_that_a_refusal_recommends_is_taken(tmp_path: Path, settings: dict[str, str]) -> None:
    desk = Desk(tmp_path, **{**DEFAULTS, **settings})
    answer = desk.submit("buy", "60000")
    assert isinstance(answer, Refusal) and answer.order is not None and answer.order.risk is not None
    recommended = answer.order.risk.recommended_size
    assert 0 < recommended < 60_000
    assert isinstance(desk.submit("buy", str(recommended)), Submitted)


def test_a_position_that_is_spread_over_exchanges_is_one_position(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_POSITION_SIZE="0.03")  # 1,500
    desk.order("buy", "40000", exchange="xeggex")
    answer = desk.submit("buy", "40000", exchange="binance")
    assert refused(answer) == "RISK_POSITION_SIZE"
    assert 0 < answer.order.risk.recommended_size < 25_000
    assert isinstance(desk.submit("buy", str(answer.order.risk.recommended_size), exchange="binance"), Submitted)


def test_a_sale_without_an_exchange_goes_where_the_coins_are(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for exchange in ("xeggex", "binance"):
        desk.order("buy", "5000", exchange=exchange)
        assert desk.order("sell", "4000", exchange=None).exchange == exchange
        desk.order("sell", "900", exchange=exchange)
    assert refused(desk.submit("sell", "5000", exchange=None)) == "INSUFFICIENT_BALANCE"
    desk.check()


def test_a_buy_without_an_exchange_goes_where_the_money_is(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for poor, rich in (("xeggex", "binance"), ("binance", "xeggex")):
        left = desk.total("USDT", poor)
        desk.node.portfolio.deposit(f"paper.{poor}", "USDT", 1 - left)
        assert desk.order("buy", "1000", exchange=None).exchange == rich
        desk.node.portfolio.deposit(f"paper.{poor}", "USDT", left - 1)
    desk.check()


def test_orders_that_reduce_pass_every_limit_on_growth(tmp_path: Path) -> None:
    desk = Desk(tmp_path, STOP_LOSS_ENABLED="false")
    desk.order("buy", "20000")
    tight = dict.fromkeys(("MAX_POSITION_SIZE", "MAX_RISK_PER_TRADE", "MAX_DAILY_RISK", "MAX_DAILY_LOSS"), "0.0001")
    desk.settings = Desk(tmp_path / "other", **{**DEFAULTS, **tight, "MAX_CORRELATED_EXPOSURE": "0.0001"}).settings
    desk.restart()
    desk.wait()
    assert isinstance(desk.submit("buy", "1000"), Refusal)
    sold = desk.order("sell", "20000")
    assert sold.state is State.FILLED
    assert [check.detail for check in sold.risk.checks if check.name in IN_ORDER[3:8]] == ["the order reduces"] * 5
    desk.check()


def test_a_price_beyond_the_collar_is_refused_on_the_side_where_it_hurts_only(tmp_path: Path) -> None:
    desk = Desk(tmp_path, PRICE_COLLAR_PERCENT="10")
    desk.order("buy", "5000")
    assert refused(desk.submit("buy", type="limit", price="0.0270")) == "PRICE_COLLAR"
    assert refused(desk.submit("sell", type="limit", price="0.0220")) == "PRICE_COLLAR"
    assert desk.order("buy", type="limit", price="0.0100").state is State.LIVE
    assert desk.order("sell", type="limit", price="0.0900").state is State.LIVE


# --- stops on entries


def test_an_entry_without_a_stop_gets_one_and_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **DEFAULTS)
    order = desk.order("buy", "5000")
    stop = desk.get(order.stop_loss_id)
    assert stop.stop_ticks is not None
    assert stop.stop_ticks * stop.tick == Decimal("0.023284")  # 5 % under 0.02451, on the grid
    assert order.protected == 5000 and desk.node.triggers.armed(stop.order_id)
    assert "a stop at 0.023284 was attached" in order.warnings[0]
    desk.price("0.02320", "0.02330")
    desk.wait(200)
    assert desk.get(stop.order_id).state is State.FILLED and desk.total("RVN") == 0
    desk.check()


def test_a_stop_that_was_given_is_left_as_it_is_and_off_means_none(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **DEFAULTS)
    stop = desk.get(desk.order("buy", "5000", stop_loss="0.0240").stop_loss_id)
    assert stop.stop_ticks is not None and stop.stop_ticks * stop.tick == Decimal("0.0240")
    off = Desk(tmp_path / "off", STOP_LOSS_ENABLED="false")
    assert off.order("buy", "5000").stop_loss_id is None


def test_a_buy_that_waits_for_its_price_has_its_stop_from_the_start(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **DEFAULTS)
    entry = desk.order("buy", "5000", type="stop_loss", stop_price="0.0250")
    assert entry.state is State.HELD and not desk.node.triggers.armed(entry.stop_loss_id or "")
    desk.price("0.02499", "0.02501")
    desk.wait(200)
    entry = desk.get(entry.order_id)
    assert entry.state is State.FILLED and entry.protected == 5000
    assert desk.node.triggers.armed(entry.stop_loss_id or "")
    desk.restart()
    assert desk.node.triggers.armed(entry.stop_loss_id or "")
    desk.check()


def test_an_entry_too_small_to_be_sold_at_its_attached_stop_is_refused_with_a_size_that_is_not(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, **DEFAULTS)
    instrument = desk.node.instruments["xeggex", "RVN_USDT"]
    least = instrument.quantity(int(instrument.min_notional / (Decimal("0.02451") * instrument.lot)) + 1)
    answer = desk.submit("buy", str(least))
    assert refused(answer) == "BELOW_MIN_NOTIONAL" and answer.errors[0]["field"] == "quantity"
    assert not desk.node.orders.orders


def test_an_entry_that_its_attached_stop_could_not_sell_at_the_market_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **DEFAULTS)
    list_with(desk, market_min_lots=500_000)
    answer = desk.submit("buy", "4999", type="limit", price="0.0240")
    assert refused(answer) == "MARKET_QUANTITY" and "nearest valid quantity: 5000" in answer.detail
    assert isinstance(desk.submit("buy", "5000", type="limit", price="0.0240"), Submitted)


def test_a_stop_that_an_entry_needs_is_not_cancelled_alone_nor_with_many_others(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **DEFAULTS)
    held = desk.order("buy", "5000", take_profit="0.0300")
    resting = desk.order("buy", "5000", type="limit", price="0.0240")
    for entry, instead in ((held, "close the position"), (resting, "cancel the entry")):
        answer = desk.cancel(desk.get(entry.stop_loss_id))
        assert refused(answer) == "STOP_REQUIRED" and answer.status == 409 and instead in answer.detail
    desk.cancel_many()
    assert desk.get(resting.order_id).ended and desk.get(resting.stop_loss_id).ended
    assert desk.get(held.take_profit_id).ended
    assert not desk.get(held.stop_loss_id).ended and desk.get(held.order_id).protected == 5000
    off = Desk(tmp_path / "off")
    entry = off.order("buy", "5000", stop_loss="0.0240")
    assert off.cancel(off.get(entry.stop_loss_id)).state is State.CANCELLED
    desk.check()


# --- the day


def test_stops_of_open_entries_add_up_to_the_risk_of_the_day_and_selling_frees_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **{**DEFAULTS, "MAX_DAILY_RISK": "0.01", "MAX_POSITION_SIZE": "1"})  # 500
    first = desk.order("buy", "50000", stop_loss="0.0200")  # risks about 230
    assert first.state is State.FILLED
    desk.book()
    second = desk.order("buy", "50000", type="limit", price="0.0245", stop_loss="0.0200", wait_ms=1)
    answer = desk.submit("buy", "50000", stop_loss="0.0200")
    assert refused(answer) == "RISK_PER_DAY" and "at the stops of open entries" in answer.detail
    desk.cancel(second)
    desk.book()
    position = next(iter(desk.node.portfolio.open_positions(True)))
    desk.close(position.position_id)
    desk.wait()
    assert desk.node.open_risk.of("paper.xeggex") == 0
    desk.check()


def test_what_the_day_has_lost_counts_and_a_restart_remembers_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **{**DEFAULTS, "MAX_DAILY_RISK": "0.005", "MAX_POSITION_SIZE": "1", "MAX_DAILY_LOSS": "1"})
    desk.order("buy", "40000", stop_loss="0.0240")
    desk.price("0.0200", "0.0201", "90000")
    desk.wait(200)  # the stop sells far below itself
    lost = desk.node.portfolio.lost_today(True)
    assert lost > 150
    desk.restart()
    desk.wait()
    assert desk.node.portfolio.lost_today(True) == lost
    desk.price("0.02449", "0.02451", "90000")
    answer = desk.submit("buy", "60000", stop_loss="0.0230")
    assert refused(answer) == "RISK_PER_DAY" and "today's loss of" in answer.detail


def test_a_loss_of_this_moment_refuses_before_the_trading_state_has_followed(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_DAILY_LOSS="0.001")
    desk.wait(1_500)
    desk.order("buy", "40000", wait_ms=20)
    desk.price("0.0200", "0.0201", "90000")
    desk.wait(150)
    answer = desk.submit("buy", "1000")
    assert refused(answer) == "RISK_DAILY_LOSS"
    found = check_of(answer.order, "dailyLoss")
    assert found.limit is not None and found.actual is not None and found.actual < found.limit < 0
    assert desk.node.guard.state is TradingState.ACTIVE
    desk.wait(1_000)
    assert desk.node.guard.state is TradingState.REDUCING
    assert refused(desk.submit("buy", "1000")) == "TRADING_LIMITED"
    assert desk.order("sell", "1000").state is State.FILLED


def test_where_nothing_prices_the_quote_currency_nothing_grows_and_the_days_loss_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MAX_DAILY_LOSS="0.001")
    desk.wait(1_500)
    desk.order("buy", "40000", wait_ms=20)
    desk.price("0.0200", "0.0201", "90000")
    desk.wait(150)
    checks = desk.node.checks
    checks.figures = checks.figures._replace(to_base=lambda _currency, _exchange: None)
    answer = desk.submit("buy", "1000")
    assert refused(answer) == "RISK_POSITION_SIZE" and "nothing prices USDT in base currency" in answer.detail
    assert not check_of(answer.order, "dailyLoss").passed
    assert isinstance(desk.submit("sell", "1000"), Submitted)


def test_a_new_day_begins_without_the_losses_of_the_last(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order("buy", "40000")
    desk.order("sell", "40000")
    assert desk.node.portfolio.lost_today(True) > 0
    desk.clock.advance(86_400 * SECOND_NS)
    assert desk.node.portfolio.lost_today(True) == 0


@pytest.mark.parametrize("seed", range(6))
def test_the_risk_at_stops_is_that_of_every_entry_anew_whatever_happens(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    desk = Desk(tmp_path, STOP_LOSS_ENABLED="true")
    for _ in range(60):
        _something(desk, rng)
        risk = desk.node.open_risk
        entries = [order for order in desk.node.orders.orders.values() if order.stop_loss_id is not None]
        expected = sum((risk.of_entry(entry) for entry in entries), Decimal(0))
        assert risk.of("paper.xeggex") == expected
        if not desk.node.orders.open:
            assert expected == 0
    before = desk.node.open_risk.of("paper.xeggex")
    desk.restart()
    assert desk.node.open_risk.of("paper.xeggex") == before
    desk.check()


def test_the_risk_at_stops_is_told_at_the_rates_of_now_after_a_start_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order("buy", "5000", stop_loss="0.0200")
    rates: list[Decimal | None] = [None]  # nothing is priced yet when the orders are taken over
    risk = OpenRisk(desk.node.orders, desk.node.instruments, lambda _currency, _exchange: rates[0])
    risk.restore()
    in_quote = risk.of("paper.xeggex")
    assert in_quote == desk.node.open_risk.of("paper.xeggex") > 0 == risk.of("xeggex")
    rates[0] = Decimal(60_000)
    assert risk.of("paper.xeggex") == 60_000 * in_quote


def _something(desk: Desk, rng: random.Random) -> None:
    open_orders = list(desk.node.orders.open.values())
    action = rng.choice(("buy", "buy", "rest", "sell", "cancel", "amend", "move"))
    if action == "buy":
        desk.submit(
            "buy", str(rng.randrange(2_000, 9_000)), stop_loss=rng.choice(("0.0200", "0.0240", None)), wait_ms=20
        )
    elif action == "rest":
        desk.submit("buy", "3000", type="limit", price=rng.choice(("0.0244", "0.0245")), wait_ms=20)
    elif action == "sell":
        held = desk.node.ledger.available("paper.xeggex", "RVN")
        if held > 1000:
            desk.submit("sell", str(int(held) // 2), wait_ms=20)
    elif action == "cancel" and open_orders:
        desk.cancel(rng.choice(open_orders))
    elif action == "amend" and open_orders:
        order = rng.choice(open_orders)
        if order.stop_ticks is not None:
            desk.amend(order, stop_price=rng.choice(("0.0210", "0.0230")))
    else:
        middle = Decimal(rng.choice(("0.0235", "0.0245", "0.0250")))
        desk.price(str(middle - Decimal("0.00001")), str(middle + Decimal("0.00001")))
    desk.wait(rng.choice((10, 200, 1_200)))


# --- the order rate


def test_the_order_beyond_the_rate_is_refused_and_not_on_record_and_others_go_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ORDER_RATE_LIMIT="5")
    fast = {"type": "limit", "price": "0.0200", "signal_data": strategy("fast")}
    for _ in range(5):
        assert isinstance(desk.submit("buy", **fast), Submitted)
    answer = desk.submit("buy", **fast)
    assert refused(answer) == "ORDER_RATE" and answer.status == 429 and answer.retry_after_s == 1
    assert "strategy 'fast': 5 orders a second" in answer.detail and "again in 200 ms" in answer.detail
    assert len(desk.node.orders.orders) == 5
    assert isinstance(desk.submit("buy", **(fast | {"signal_data": strategy("calm")})), Submitted)
    assert isinstance(desk.submit("buy", type="limit", price="0.0200"), Submitted)
    desk.wait(200)
    assert isinstance(desk.submit("buy", **fast), Submitted)
    assert refused(desk.submit("buy", **fast)) == "ORDER_RATE"
    desk.check()


def test_ten_thousand_orders_in_a_second_leave_no_more_than_the_limit_twice(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ORDER_RATE_LIMIT="100")
    taken = 0
    for number in range(10_000):
        answer = desk.submit("buy", type="limit", price="0.0200", signal_data=strategy("mad"))
        taken += isinstance(answer, Submitted)
        if number % 10 == 9:
            desk.clock.advance(MS_NS)
    assert taken == len(desk.node.orders.orders) <= 200
    desk.check()


def test_a_new_name_for_each_order_is_no_way_around_the_rate() -> None:
    rate, now = OrderRate(10), 10**18
    taken = sum(rate.take(f"s{number}", now) == 0 for number in range(100_000))
    assert taken == 500
    assert rate.take("calm", now + SECOND_NS) == 0


def test_a_rate_that_is_kept_to_is_never_refused_and_a_clock_set_back_locks_nobody_out() -> None:
    rate, now = OrderRate(10), 10**18
    assert [rate.take("s", now + i * SECOND_NS // 10) for i in range(500)] == [0] * 500
    assert rate.used("s", now + 100 * SECOND_NS) == 0
    now -= 3_600 * SECOND_NS
    waits = [rate.take("s", now + i * SECOND_NS // 10) for i in range(30)]
    assert waits[0] > 0 and 0 in waits
    assert OrderRate(0).take("s", now) == 0


# --- the trading state


@pytest.mark.parametrize("state", [TradingState.REDUCING, TradingState.HALTED])
def test_a_buy_that_waited_for_its_price_is_refused_where_trading_is_limited_by_then(
    tmp_path: Path, state: TradingState
) -> None:
    desk = Desk(tmp_path)
    entry = desk.order("buy", "5000", type="stop_loss", stop_price="0.0250")
    desk.node.guard.limit("test", state, "for this test")
    desk.price("0.02499", "0.02501")
    desk.wait(200)
    entry = desk.get(entry.order_id)
    assert entry.state is State.REJECTED and entry.code == "TRADING_LIMITED"
    assert desk.total("RVN") == 0
    desk.check()


def test_a_stop_may_be_put_under_a_position_while_trading_is_halted(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.order("buy", "5000")
    desk.node.guard.limit("test", TradingState.HALTED, "for this test")
    assert refused(desk.submit("sell", "5000")) == "TRADING_LIMITED"
    assert desk.order("sell", "5000", type="stop_loss", stop_price="0.0240").state is State.HELD


def test_a_stop_sells_in_every_trading_state(tmp_path: Path) -> None:
    for number, state in enumerate((TradingState.REDUCING, TradingState.HALTED)):
        desk = Desk(tmp_path / str(number))
        order = desk.order("buy", "5000", stop_loss="0.0240")
        desk.node.guard.limit("test", state, "for this test")
        desk.price("0.02390", "0.02395")
        desk.wait(200)
        assert desk.get(order.stop_loss_id).state is State.FILLED
        desk.check()
