"""Positions, rates and the portfolio manager: what fills and prices make of them, from first to last digit."""

import json
from decimal import Decimal

import msgspec
import pytest

from tbx.core.kernel.clock import SECOND_NS
from tbx.core.kernel.outbox import encode_document, encode_record
from tbx.core.model.records import Balance, EquitySample, Fill, Position
from tbx.core.portfolio.manager import DayOpen, PortfolioManager
from tbx.core.portfolio.performance import DAY_NS
from tbx.core.portfolio.rates import Rates
from tbx.core.portfolio.recompute import recompute

from .portfolio_desk import INSTRUMENTS, PRICES, START, Desk, funded

pytestmark = pytest.mark.portfolio

D = Decimal


# --- one fill after another


def test_a_buy_takes_its_cost_and_fee_and_opens_a_position_at_the_price_paid():
    desk = funded()
    desk.fill("buy", "158.45", "125.5", "19.88")
    position = desk.position()
    assert (position.quantity, position.cost, position.realised) == (D("125.5"), D("19885.475"), D("-19.88"))
    assert position.position_id == "POS_001"
    assert position.fees == {"USDT": D("19.88")}
    assert desk.ledger.total("paper.xeggex", "USDT") == D("100000") - D("19885.475") - D("19.88")
    assert desk.ledger.total("paper.xeggex", "XMR") == D("125.5")


def test_more_bought_is_averaged_and_a_part_sold_realises_against_the_average():
    desk = funded()
    desk.fill("buy", "100", "1")
    desk.fill("buy", "130", "2")
    desk.fill("sell", "150", "1.5", "0.3")
    position = desk.position()
    assert position.realised == D("150") * D("1.5") - D(360) / 2 - D("0.3")
    assert (position.quantity, position.cost) == (D("1.5"), D(180))


def test_a_round_trip_in_thirds_loses_nothing_to_rounding():
    desk = funded()
    desk.fill("buy", "100", "0.3333")
    desk.fill("buy", "100.01", "0.6666")
    spent = desk.position().cost
    for quantity in ("0.3333", "0.3333", "0.3333"):
        desk.fill("sell", "100", quantity)
    position = desk.position()
    assert (position.quantity, position.cost) == (0, 0)
    assert position.realised == D(100) * D("0.9999") - spent
    assert desk.ledger.total("paper.xeggex", "USDT") == 100_000 + position.realised
    assert position.closed_count == 1


@pytest.mark.parametrize(
    ("name", "fee", "currency", "quantity", "cost", "realised"),
    [
        ("in quote", "0.5", "USDT", "2", "200", "-0.5"),
        ("in base, at the fill's price", "0.002", "XMR", "1.998", "199.8", "-0.2"),
        ("in a third asset, at its price", "0.001", "BNB", "2", "200", "-0.3"),
        ("in an asset that nothing prices", "1", "POINTS", "2", "200", "0"),
        ("paid back in quote", "-0.5", "USDT", "2", "200", "0.5"),
    ],
)
def test_the_fee_of_a_buy_reduces_what_is_realised(name, fee, currency, quantity, cost, realised):
    desk = funded()
    desk.fill("buy", "100", "2", fee, currency)
    position = desk.position()
    assert (position.quantity, position.cost, position.realised) == (D(quantity), D(cost), D(realised))
    assert position.fees == {currency: D(fee)}
    if currency not in ("USDT", "XMR"):
        assert desk.ledger.total("paper.xeggex", currency) == -D(fee)


@pytest.mark.parametrize(
    ("name", "fee", "currency", "quantity", "realised"),
    [
        ("in quote", "0.5", "USDT", "1", "9.5"),
        ("in base, at cost", "0.1", "XMR", "0.9", "0"),
        ("in a third asset", "0.01", "BNB", "1", "7"),
        ("paid back in base, at the fill's price", "-0.1", "XMR", "1", "21"),
    ],
)
def test_the_fee_of_a_sale_reduces_what_is_realised(name, fee, currency, quantity, realised):
    desk = funded()
    desk.fill("buy", "100", "2")
    desk.fill("sell", "110", "1", fee, currency)
    assert (desk.position().quantity, desk.position().realised) == (D(quantity), D(realised))


def test_a_third_asset_fee_keeps_its_worth_at_the_fill_whatever_its_price_becomes():
    desk = funded()
    fill = desk.fill("buy", "100", "2", "0.001", "BNB")
    assert fill.fee_value == D("0.3")
    assert [data["feeValue"] for kind, data in desk.events() if kind == "FeeValued"] == [0.3]
    desk.price("binance", "BNB_USDT", "999")
    desk.clock.advance(SECOND_NS)
    stored = msgspec.json.decode(encode_record(desk.fills), type=list[Fill])
    whole = recompute(
        stored, [("paper.xeggex", "USDT", D(100_000))], INSTRUMENTS, lambda *m: desk.prices.get(m), "USDT", True
    )
    assert whole.positions["paper.xeggex", "XMR_USDT"].realised == desk.position().realised == D("-0.3")
    assert whole.totals["paper.xeggex", "BNB"] == desk.ledger.total("paper.xeggex", "BNB") == D("-0.001")
    assert whole.equity == desk.manager.equity(True)


def test_a_third_asset_fee_without_a_price_is_told_and_counts_nothing():
    desk = funded()
    fill = desk.fill("buy", "100", "2", "1", "POINTS")
    assert fill.fee_value is None
    told = [data for kind, data in desk.events() if kind == "FeeUnpriced"]
    assert told == [
        {
            "fillId": "FILL_0",
            "orderId": "ORD",
            "exchange": "xeggex",
            "pair": "XMR_USDT",
            "fee": 1,
            "feeCurrency": "POINTS",
            "feeValue": None,
            "quote": "USDT",
        }
    ]
    assert [(u.currency, u.amount) for u in desk.view().summary.unpriced] == [("POINTS", -1)]


def test_a_fee_asset_that_the_wallet_does_not_hold_goes_below_zero_and_is_counted():
    desk = funded()
    before = desk.manager.equity(True)
    desk.fill("buy", "160", "1", "0.01", "BNB")
    assert desk.ledger.available("paper.xeggex", "BNB") == D("-0.01")
    assert desk.manager.equity(True) == before - 3
    desk.manager.deposit("paper.xeggex", "BNB", D(1))
    assert desk.ledger.available("paper.xeggex", "BNB") == D("0.99")


def test_fees_in_the_assets_of_the_pair_have_no_other_worth():
    desk = funded()
    assert desk.fill("buy", "100", "2", "0.5", "USDT").fee_value is None
    assert desk.fill("buy", "100", "2", "0.1", "XMR").fee_value is None
    assert not [kind for kind, _ in desk.events() if kind.startswith("Fee")]


def test_coins_that_were_deposited_realise_nothing_when_sold():
    desk = funded()
    desk.manager.deposit("paper.xeggex", "XMR", D(5))
    desk.fill("sell", "160", "1", "0.16")
    assert desk.position().quantity == 0
    assert desk.position().realised == 0
    assert desk.view().performance.win_rate is None
    desk.fill("buy", "100", "1")
    desk.fill("sell", "110", "4", "4")  # a quarter of it from the position, with a quarter of the fee
    position = desk.position()
    assert (position.quantity, position.cost, position.realised) == (0, 0, D("9"))
    assert desk.ledger.total("paper.xeggex", "XMR") == 1


def test_what_is_left_under_a_lot_is_dust_and_goes_with_the_next_position():
    desk = funded()
    desk.fill("buy", "100", "1", "0.00005", "XMR")
    desk.fill("sell", "100", "0.9999")
    position = desk.position()
    assert position.quantity == D("0.00005")
    assert position.cost == D("0.005")
    assert (position.closed_count, desk.view().positions) == (1, [])
    desk.fill("buy", "100", "1")
    assert (position.position_id, position.quantity) == ("POS_002", D("1.00005"))
    desk.fill("sell", "101", "1")
    assert position.closed_count == 2
    assert position.quantity * 100 - position.cost + position.realised == D("-0.005") + 1


def test_a_position_that_opens_again_has_a_new_id_and_keeps_its_closed_totals():
    desk = funded()
    for bought, sold in (("100", "110"), ("100", "90"), ("100", "101")):
        desk.fill("buy", bought, "1")
        desk.fill("sell", sold, "1")
    position = desk.position()
    assert position.position_id == "POS_003"
    assert (position.closed_count, position.won_count) == (3, 2)
    assert (position.realised, position.trip_realised) == (1, 1)
    assert desk.view().performance.win_rate == D("66.6667")


def test_events_tell_the_life_of_a_position_in_the_shape_of_the_api():
    desk = funded()
    desk.fill("buy", "150", "2")
    desk.fill("sell", "155", "1")
    desk.fill("sell", "155", "1")
    events = [event for event in desk.events() if event[0].startswith("Position")]
    assert [kind for kind, _ in events] == ["PositionOpened", "PositionChanged", "PositionClosed"]
    assert [(data["id"], data["quantity"], data["realisedPnL"]) for _, data in events] == [
        ("POS_001", 2, 0),
        ("POS_001", 1, 5),
        ("POS_001", 0, 10),
    ]
    assert desk.store.tables["positions"].keys() == {"paper.xeggex:XMR_USDT"}


def test_a_fill_frees_what_its_order_had_reserved():
    desk = funded("1000")
    desk.ledger.reserve("paper.xeggex", "USDT", D(500))
    desk.fill("buy", "100", "2", "0.2", reserved_change="-201")
    balance = desk.ledger.find("paper.xeggex", "USDT")
    assert (balance.total, balance.locked) == (D("799.8"), D(299))
    desk.ledger.reserve("paper.xeggex", "XMR", D(2))
    desk.fill("sell", "100", "2", reserved_change="-2")
    assert desk.ledger.find("paper.xeggex", "XMR").locked == 0


def test_an_open_position_is_found_by_its_id_until_it_closes():
    desk = funded()
    desk.fill("buy", "150", "2")
    assert desk.manager.find("POS_001") is desk.position()
    assert desk.manager.open_positions(True) == [desk.position()]
    desk.fill("sell", "150", "2")
    assert desk.manager.find("POS_001") is None
    assert desk.manager.open_positions(True) == []


# --- worth


@pytest.mark.parametrize(
    ("name", "exchange", "currency", "rate"),
    [
        ("the base currency itself", "xeggex", "USDT", "1"),
        ("a direct price at its own exchange", "xeggex", "XMR", "160"),
        ("a direct price at another", "binance", "XMR", "160"),
        ("two steps over two exchanges", "xeggex", "RVN", "0.02"),
        ("a price upside down", "binance", "TRY", str(D(1) / 30)),
    ],
)
def test_a_currency_is_priced_by_the_nearest_path(name, exchange, currency, rate):
    assert Rates(INSTRUMENTS, lambda *market: PRICES.get(market), "USDT").rate(exchange, currency).value == D(rate)


def test_a_lesser_path_serves_until_the_better_one_has_a_price():
    prices = dict(PRICES)
    del prices["xeggex", "XMR_USDT"]
    desk = funded(prices=prices)
    desk.manager.deposit("paper.xeggex", "XMR", D(1))
    assert desk.manager.equity(True) == 100_000 + D("0.004") * 40_000
    desk.price("xeggex", "XMR_USDT", "170")
    desk.clock.advance(SECOND_NS)
    assert desk.manager.equity(True) == 100_170


def test_what_cannot_be_priced_is_listed_and_counts_nothing():
    desk = funded()
    desk.manager.deposit("paper.xeggex", "DOGE", D(7))
    summary = json.loads(encode_document(desk.view()))["summary"]
    assert summary["unpriced"] == [{"currency": "DOGE", "amount": 7, "exchange": "xeggex"}]
    assert summary["totalValue"] == 100_000


def test_a_book_that_is_empty_for_a_moment_moves_nothing():
    desk = funded()
    desk.fill("buy", "160", "10")
    desk.price("xeggex", "XMR_USDT", None)
    desk.clock.advance(SECOND_NS)
    assert desk.view().summary.total_value == 100_000


def test_paper_and_live_never_meet():
    desk = funded()
    desk.manager.deposit("xeggex", "USDT", D(7))
    desk.fill("buy", "160", "0.01", wallet="xeggex")
    assert (desk.manager.equity(True), desk.manager.equity(False)) == (100_000, 7)
    assert desk.view(paper=True).positions == []
    live = desk.view(paper=False)
    assert (len(live.positions), live.summary.total_value) == (1, 7)
    assert [b.exchange for b in live.balances] == ["xeggex", "xeggex"]


def test_equity_follows_a_fill_at_once_and_prices_within_the_stated_delay():
    desk = funded()
    desk.fill("buy", "150", "10")
    assert desk.manager.equity(True) == 100_100
    desk.price("xeggex", "XMR_USDT", "170")
    desk.clock.advance(PortfolioManager.REVALUE_NS)
    assert desk.manager.equity(True) == 100_200
    assert desk.manager.position_value("paper.xeggex", "XMR_USDT") == 1700


def test_the_position_of_another_quote_is_worth_its_quote_in_base_currency():
    desk = funded()
    desk.manager.deposit("paper.xeggex", "BTC", D(1))
    desk.fill("buy", "0.0039", "100", market=("xeggex", "XMR_BTC"))
    view = desk.view()
    assert view.positions[0].unrealized_pnl == D("0.01"), "in its quote"
    assert view.summary.unrealized_pnl == 400, "in base currency"
    assert view.summary.total_positions == D("0.4") * 40_000
    assert view.summary.total_cash + view.summary.total_positions == view.summary.total_value


def test_an_unpriced_position_counts_its_cost_for_risk_and_shows_null():
    desk = funded(prices={})
    desk.fill("buy", "150", "10")
    assert desk.manager.position_value("paper.xeggex", "XMR_USDT") == 1500
    assert desk.manager.position_value("paper.xeggex", "XMR_BTC") == 0
    shown = json.loads(encode_document(desk.view()))["positions"][0]
    assert (shown["currentPrice"], shown["marketValue"], shown["unrealizedPnLPercent"]) == (None, None, None)
    assert not desk.manager.complete(True)
    desk.price("xeggex", "XMR_USDT", "160")
    desk.clock.advance(SECOND_NS)
    assert desk.view().positions[0].unrealized_pnl == 100
    assert desk.manager.complete(True)


def test_the_view_has_the_shape_and_the_rounding_of_the_manual():
    desk = funded("52450.75")
    desk.fill("buy", "158.45", "125.5")
    desk.price("xeggex", "XMR_USDT", "162.3")
    desk.ledger.reserve("paper.xeggex", "USDT", D(500))
    desk.clock.advance(SECOND_NS)
    view = json.loads(encode_document(desk.view()), parse_float=D)
    assert list(view) == ["timestamp", "summary", "positions", "balances", "performance"]
    assert list(view["positions"][0].items()) == [
        ("id", "POS_001"),
        ("pair", "XMR_USDT"),
        ("side", "long"),
        ("quantity", D("125.5")),
        ("averagePrice", D("158.45")),
        ("currentPrice", D("162.3")),
        ("marketValue", D("20368.65")),
        ("unrealizedPnL", D("483.175")),
        ("unrealizedPnLPercent", D("2.4298")),
        ("realisedPnL", 0),
        ("dayPnL", D("483.175")),
        ("dayPnLPercent", D("2.4298")),
        ("openDate", 1704067200000),
        ("exchange", "xeggex"),
        ("riskMetrics", {"positionSize": D("0.3848"), "leverage": 1, "marginUsed": 0, "liquidationPrice": None}),
    ]
    assert view["balances"][0] == {
        "currency": "USDT",
        "total": D("32565.275"),
        "available": D("32065.275"),
        "locked": 500,
        "exchange": "xeggex",
    }
    assert list(view["performance"]) == [
        "totalReturn", "dayReturn", "weekReturn", "monthReturn", "maxDrawdown", "sharpeRatio", "winRate",
    ]  # fmt: skip
    assert view["summary"]["dayPnL"] == D("483.175")
    assert view["performance"]["dayReturn"] == view["summary"]["dayPnLPercent"] == D("0.9212")


# --- days


def test_day_pnl_of_a_position_is_what_it_earned_since_midnight():
    desk = funded()
    desk.fill("buy", "100", "2")
    desk.price("xeggex", "XMR_USDT", "120")
    desk.clock.advance(DAY_NS)  # midnight comes at 120
    desk.price("xeggex", "XMR_USDT", "125")
    desk.clock.advance(SECOND_NS)
    [position] = desk.view().positions
    assert (position.day_pnl, position.day_pnl_percent) == (10, D("4.1667"))
    assert desk.manager.day_pnl() == 10
    desk.fill("sell", "126", "1", "0.5")
    [position] = desk.view().positions
    assert position.day_pnl == 6 - D("0.5") + 5
    assert desk.manager.day_pnl() == position.day_pnl


def test_a_deposit_is_no_profit_of_the_day():
    desk = funded()
    desk.clock.advance(DAY_NS + SECOND_NS)
    desk.manager.deposit("paper.xeggex", "XMR", D(10))
    desk.price("xeggex", "XMR_USDT", "161")
    desk.clock.advance(SECOND_NS)
    assert desk.manager.day_pnl() == 10
    assert desk.view().performance.total_return == D("0.0098")


def test_samples_are_taken_at_the_start_and_in_every_interval_but_not_before_everything_has_a_price():
    desk = Desk(prices={})
    desk.ledger.restore([Balance(wallet="paper.xeggex", currency="XMR", total=D(1))], [])
    desk.kernel.start()
    desk.clock.advance(10 * SECOND_NS)
    assert "equity" not in desk.store.streams
    desk.price("xeggex", "XMR_USDT", "160")
    desk.clock.advance(SECOND_NS)
    desk.clock.advance(120 * SECOND_NS)
    samples = [msgspec.json.decode(raw, type=EquitySample) for raw in desk.store.streams["equity"]]
    assert [(s.timestamp_ns - START) // SECOND_NS for s in samples] == [11, 71, 131]
    assert {s.equity for s in samples} == {D(160)}


def restarted(desk: Desk) -> Desk:
    desk.clock.settle()
    again = Desk(desk.clock.now_ns(), prices=desk.prices)
    tables = desk.store.tables
    raw_day = tables.get("meta", {}).get("dayOpen")
    again.manager.restore(  # in the order of a hash: any
        [msgspec.json.decode(raw, type=Balance) for raw in reversed(tables.get("balances", {}).values())],
        [msgspec.json.decode(raw, type=Position) for raw in reversed(tables.get("positions", {}).values())],
        [msgspec.json.decode(raw, type=EquitySample) for raw in desk.store.streams.get("equity", [])],
        [],
        msgspec.json.decode(raw_day, type=DayOpen) if raw_day else None,
    )
    again.kernel.start()
    return again


def test_a_restart_brings_back_the_same_portfolio_to_the_last_digit():
    desk = funded()
    desk.fill("buy", "100", "2", "0.001", "XMR")
    desk.fill("buy", "1.5", "3", market=("xeggex", "WIDE_USDT"))
    desk.clock.advance(DAY_NS)
    desk.price("xeggex", "XMR_USDT", "125")
    desk.fill("buy", "0.003", "1", "0.0001", "BNB", market=("xeggex", "XMR_BTC"))
    desk.fill("sell", "1.6", "3", market=("xeggex", "WIDE_USDT"))
    desk.clock.advance(SECOND_NS)
    again = restarted(desk)
    before, after = desk.view(), again.view()
    assert before.positions == after.positions
    assert before.summary == after.summary
    assert before.performance == after.performance
    assert before.balances == after.balances


def test_a_position_from_before_midnight_counts_from_the_first_price_after_a_night_without_the_service():
    desk = funded()
    desk.fill("buy", "100", "2")
    desk.clock.settle()
    desk.kernel.stop()
    desk.clock.advance(DAY_NS)
    again = restarted(desk)
    assert again.view().positions[0].day_pnl == 0
    again.price("xeggex", "XMR_USDT", "170")
    again.clock.advance(SECOND_NS)
    assert again.view().positions[0].day_pnl == 20
