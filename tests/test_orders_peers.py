"""What happened to users of other systems, on the whole live node and the real local exchange, in virtual time.

Each test puts the node where those users were; what is asserted is money and orders, at the exchange and here. The
first line of its docstring names the row. Streams, risk, limits and real processes are in `test_live_peers.py`.

    freqtrade 13332, 11461; hummingbot 493; nautilus 4215    an ambiguous submit was sent again
    nautilus 4152, 3870                                      an end was invented while the order was live
    hummingbot-api 243; OctoBot 3190                         stops and executors were gone after a restart
    nautilus 4736, 5000, 3176, 3046                          what a restart did to positions and orders
    nautilus 3493                                            an inferred fill raced the real one
    nautilus 3869, 4124                                      a missed fill was noticed and nothing was done
    freqtrade 12322, 4710, 7586                              dust and fees made a position impossible to close
    nautilus 2623; alpaca-py 505; freqtrade 4523             brackets of entries that fill in parts, or of crypto
    freqtrade 3902, 12454; Alpaca 5                          paper gained where live lost
    LEAN Alpaca 28; TradeStation 101                         a fill was lost while the stream looked well
    nautilus 2986, 3256                                      risk refused an order that reduced the position
    nautilus 5039                                            exceptions in callbacks were swallowed
    freqtrade 12441                                          several processes, each sure that it owned the limit
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.model.messages import Submitted, VenueFilled
from tbx.core.model.records import Order, Position
from tbx.core.orders.reconciliation import Reconciliation

from .live_check import check_money
from .live_desk import BTC, ETH, LiveDesk, refused
from .native_desk import NativeDesk, is_at_exchange

pytestmark = [pytest.mark.portfolio, pytest.mark.exchanges]

NEVER_MS = 86_400_000  # a report that is as late as that was lost
COIN = Decimal("0.999")  # what is left of one after the fee
EVERY_MS = Reconciliation.EVERY_NS // 1_000_000


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


@pytest.fixture
def poor(tmp_path: Path) -> NativeDesk:
    """An account without spare coins: what it sells it must have bought, and to the last lot."""
    return NativeDesk(tmp_path)


def frames(desk: LiveDesk, method: str) -> list[dict[str, Any]]:
    """The parameters of every such request that left any process."""
    sent = (json.loads(raw) for socket in desk.network.sockets for raw in socket.sent)
    return [frame["params"] for frame in sent if frame["method"] == method]


def position(desk: LiveDesk, pair: str = BTC) -> Position | None:
    """The open position of a pair."""
    return next((p for p in desk.node.portfolio.open_positions(paper=False) if p.pair == pair), None)


def quantity(desk: LiveDesk, pair: str = BTC) -> Decimal:
    found = position(desk, pair)
    return found.quantity if found is not None else Decimal(0)


def filled(desk: LiveDesk, order: Order) -> Decimal:
    return desk.get(order).filled_lots * order.lot


def open_there(desk: LiveDesk) -> set[str]:
    """Ours that are open at the exchange, by the ids that we know them by."""
    return {desk.ours(theirs) for theirs in desk.theirs() if theirs.open}


def finish(desk: LiveDesk) -> None:
    """All trouble is over, and the exchange's books are ours."""
    desk.heal()
    desk.check()


def compare(desk: LiveDesk) -> None:
    """What POST /api/portfolio/refresh does."""
    done: list[bool] = []
    desk.node.kernel.run(desk.node.reconciliation.refresh, lambda: done.append(True))
    desk.until(lambda: done, "the comparison is through")


def away(desk: LiveDesk) -> None:
    """The network is gone, with what is on its way, until `heal`."""
    desk.network.silent = True
    desk.cut()


# --- sent again


def test_an_order_that_the_stream_confirms_after_a_timeout_is_not_sent_again(desk: LiveDesk) -> None:
    """nautilus 4215: the submit was answered with -1007, the stream told of the order, and the retry went out."""
    desk.local.switch("unknown1007_after:on=order.place")
    resting = desk.order("buy", "0.3", price=59_990)
    assert desk.state(resting) == "LIVE", "the stream has told"
    desk.local.switch("unknown1007_after:on=order.place;late_reports:ms=4000")
    late, taking = desk.sent("buy", "0.2", price=59_980), desk.sent("buy", "0.5")
    desk.wait(120_000)
    assert [desk.state(order) for order in (resting, late, taking)] == ["LIVE", "LIVE", "FILLED"]
    assert len(frames(desk, "order.place")) == 3
    finish(desk)
    assert quantity(desk) == COIN / 2


@pytest.mark.parametrize("there", ["5", "0.1"], ids=["filled whole", "ended by the exchange with a part"])
def test_an_addition_to_a_position_is_bought_once_however_its_answer_was_lost(desk: LiveDesk, there: str) -> None:
    """freqtrade 11461: the addition had filled, was taken for cancelled with a part, and was bought once more."""
    desk.order("buy", "0.5")
    desk.quote(BTC, "SELL", 60_060, there)
    desk.local.switch(f"mute_after:n=1,on=order.place;http5xx_before:n=6,on=order.status;late_reports:ms={NEVER_MS}")
    addition = desk.sent("buy", "0.3", price=60_060, tif="IOC")
    desk.wait(60_000)
    finish(desk)
    bought = min(Decimal(there), Decimal("0.3"))
    assert desk.attempts(addition) == [1] and filled(desk, addition) == bought
    assert quantity(desk) == (Decimal("0.5") + bought) * COIN


def test_quotes_whose_answers_timed_out_do_not_stay_behind_the_next_ones(desk: LiveDesk) -> None:
    """hummingbot 493: timeouts counted as failures; the next cycle quoted anew, and six old orders stayed for days."""
    mute = "http5xx_before:on=order.status+openOrders.status"
    desk.local.switch(f"mute_after:n=6,on=order.place;late_reports:ms={NEVER_MS};{mute}")
    prices = [("buy", 59_900 - 10 * n) for n in range(3)] + [("sell", 60_100 + 10 * n) for n in range(3)]
    old = [desk.sent(side, "0.1", price=price) for side, price in prices]
    desk.wait(12_000)
    assert {desk.state(order) for order in old} == {"UNKNOWN"} and len(open_there(desk)) == 6
    for order in old:
        desk.ask_cancel(order)
    new = [desk.sent(side, "0.1", price=price + 5) for side, price in prices]
    finish(desk)
    assert open_there(desk) == {order.order_id for order in new}
    assert {desk.state(order) for order in old} == {"CANCELLED"}


# --- an end that was invented

CHANGES: dict[str, Callable[[LiveDesk, Order], object]] = {
    "a cancel": lambda desk, order: desk.ask_cancel(order),
    "an amendment in place": lambda desk, order: desk.ask_amend(order, quantity="0.25"),
    "an amendment that replaces": lambda desk, order: desk.ask_amend(order, price=59_500),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_outage_longer_than_all_retries_ends_no_order_that_is_live(desk: LiveDesk, change: str) -> None:
    """nautilus 4152: a change was pending when the network went; after the retries the live order was CANCELED."""
    order = desk.order("buy", "0.3", price=59_990)
    CHANGES[change](desk, order)
    away(desk)
    for _ in range(120):
        desk.wait(10_000)
        assert not desk.get(order).ended and desk.locked("USDT") >= Decimal("0.3") * 59_990
    desk.deal(BTC, "SELL", 59_990, "0.3")
    finish(desk)
    assert desk.state(order) == "FILLED" and quantity(desk) == Decimal("0.3") * COIN
    assert [kind for kind, _ in desk.events() if kind == "OrderCancelled"] == []


def test_an_order_that_nobody_can_tell_about_keeps_its_money_so_that_no_second_one_is_stacked_on_it(
    desk: LiveDesk,
) -> None:
    """nautilus 3870: five questions without an answer counted as an end; replacements were stacked on live orders."""
    mute = "http5xx_before:on=order.status+openOrders.status+myTrades"
    desk.local.switch(f"mute_after:n=1,on=order.place;late_reports:ms={NEVER_MS};{mute}")
    order = desk.sent("buy", "15", price=59_000)  # most of the money
    desk.until(lambda: desk.state(order) == "UNKNOWN", "its outcome is not known")
    for _ in range(30):
        desk.wait(20_000)
        assert desk.state(order) == "UNKNOWN"
        assert refused(desk.submit("buy", "15", price=59_000)) == "INSUFFICIENT_BALANCE"
    assert len(desk.theirs()) == 1 and desk.one(order).open
    finish(desk)
    assert desk.state(order) == "LIVE" and desk.attempts(order) == [1]


# --- stops after a crash


@pytest.mark.parametrize("reached", [58_900, 62_200], ids=["stop", "target"])
@pytest.mark.parametrize("trigger", ["bid_ask", "last"])
def test_a_crash_leaves_no_position_without_its_exits(poor: NativeDesk, trigger: str, reached: int) -> None:
    """hummingbot-api 243: after a crash the executors were gone; the position had no stop, no target, no timer."""
    desk = poor
    entry, stop, target = desk.bracket("1.5", type="limit", price=60_060, trigger=trigger)
    assert desk.state(entry) == "PART" and entry.protected == COIN
    desk.kill()
    desk.deal(BTC, "SELL", 60_060, "0.2")  # it goes on filling while nobody is there
    desk.restart(30_000)
    desk.heal()
    held = Decimal("1.2") * COIN
    assert desk.get(entry).protected == desk.total("BTC") == held
    assert {desk.get(leg).left_lots * entry.lot for leg in (stop, target)} == {held.quantize(entry.lot)}
    desk.kill()
    desk.go_to(reached, "3")
    desk.restart(30_000)
    desk.go_to(reached, "3")
    desk.heal()
    desk.settled_check()
    assert sorted((desk.state(stop), desk.state(target))) == ["CANCELLED", "FILLED"]
    assert quantity(desk) == 0 and desk.held("BTC") < entry.lot and open_there(desk) == set()


# --- what a restart did


def test_a_restart_long_after_the_entry_keeps_the_position_and_what_it_cost(tmp_path: Path) -> None:
    """nautilus 4736: the opening fill lay before what the restart looked at; the cached position was flattened."""
    desk = LiveDesk(tmp_path, MAX_ORDERS_KEPT="10", MAX_TRADES_KEPT="10")
    entry = desk.order("buy", "0.5")
    for number in range(15):  # the entry and its fill leave for the archive
        desk.order("sell", "0.01", pair=ETH)
        desk.foreign_order(ETH, "BUY", 3_003, "0.1")
        desk.wait(1_800_000 if number % 5 == 0 else 60_000)
    desk.until(lambda: entry.order_id in desk.archived, "the entry is in the archive")
    before = position(desk)
    assert before is not None
    for _ in range(3):
        desk.restart(60_000)
        desk.heal()
        now = position(desk)
        assert now is not None and (now.quantity, now.cost) == (before.quantity, before.cost)
        assert (now.position_id, now.realised) == (before.position_id, before.realised)
    assert desk.corrections() == [] and quantity(desk) == COIN / 2
    desk.check()


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_fills_that_do_not_add_up_to_the_balance_drop_no_working_order(desk: LiveDesk, start: str) -> None:
    """nautilus 5000: the fills of a pair did not make up the position, and its 14 working orders were dropped."""
    desk.order("buy", "0.5")
    orders = [desk.order("buy", "0.1", price=59_990 - n) for n in range(7)]
    orders += [desk.order("sell", "0.1", price=60_010 + n) for n in range(7)]
    desk.deal(BTC, "SELL", 59_990, "0.03")
    desk.wait()
    there = {theirs.order_id for theirs in desk.theirs() if theirs.open}
    desk.kill()
    desk.foreign_order(ETH, "SELL", 2_997, "0.4")
    desk.deposit("BTC", "-7")
    desk.deal(BTC, "BUY", 60_010, "0.04")
    if start == "cold":
        desk.store.tables.clear()
        desk.store.journal.clear()
        desk.store.streams.clear()
        desk.store.number = desk.store.seq = 0
    desk.restart(30_000)
    desk.heal()
    assert {theirs.order_id for theirs in desk.theirs() if theirs.open} == there and len(there) == 14
    known = {order.venue_order_id: order for order in desk.node.orders.open.values()}
    assert known.keys() == {str(number) for number in there}
    assert desk.total("BTC") == desk.held("BTC") and desk.total("USDT") == desk.held("USDT")
    if start == "warm":
        desk.check()
        assert {order.order_id for order in orders} == {order.order_id for order in known.values()}
    for order in known.values():
        desk.cancel(order)
    assert open_there(desk) == set() and desk.locked("USDT") == desk.locked("BTC") == 0


def test_no_restart_makes_orders_or_trades_of_what_it_finds(desk: LiveDesk) -> None:
    """nautilus 3176: every restart made one more order of the same position, of another type, under a random id."""
    desk.order("buy", "2.5")  # three fills
    desk.order("buy", "0.3", price=59_990)
    desk.order("sell", "0.1", type="stop_loss", stop_price=59_000)
    desk.foreign_order(BTC, "BUY", 60_180, "0.1")
    desk.foreign_order(BTC, "SELL", 60_500, "0.1", tif="GTC")
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.heal()

    def seen() -> tuple[Any, ...]:
        orders = {
            o.order_id: (o.client_order_id, o.type, o.tif, o.state, o.attempt, o.filled_lots)
            for o in desk.node.orders.orders.values()
        }
        fills = {f.fill_id: (f.trade_id, f.order_id) for f in desk.node.orders.fills.values()}
        return orders, fills, quantity(desk), len(desk.exchange.seat(desk.me, "BTCUSDT").orders)

    before = seen()
    assert len(before[0]) == 3 and len(before[1]) == 4
    for _ in range(5):
        desk.restart()
        desk.heal()
        assert seen() == before
    desk.check()


def test_a_start_is_told_of_trades_that_it_knows_and_counts_them_once(desk: LiveDesk) -> None:
    """nautilus 3046: fills from the cache came once more after a restart: a duplicate trade id, and no start."""
    order = desk.order("buy", "0.3", price=59_990)
    for _ in range(2):
        desk.deal(BTC, "SELL", 59_990, "0.1")
        desk.wait()
    for _ in range(3):
        desk.restart(10)
        desk.until(lambda: not desk.node.engine.unavailable("binance"), "orders can be sent")
        known = desk.get(order)
        assert known.venue_order_id is not None
        for fill in list(desk.node.orders.fills_of(order.order_id)):
            told = VenueFilled(
                venue="binance",
                client_id=known.venue_client_id,
                venue_order_id=known.venue_order_id,
                trade_id=fill.trade_id,
                price_ticks=fill.price_ticks,
                qty_lots=fill.qty_lots,
                fee=fill.fee,
                fee_currency=fill.fee_currency,
                maker=fill.maker,
                timestamp_ns=fill.timestamp_ns,
                side="buy",
            )
            desk.node.kernel.input(told)
    desk.deal(BTC, "SELL", 59_990, "0.05")
    finish(desk)
    assert filled(desk, order) == Decimal("0.25") and len(desk.node.orders.fills_of(order.order_id)) == 3
    assert quantity(desk) == Decimal("0.25") * COIN and desk.node.guard.state.value == "ACTIVE"


# --- fills


@pytest.mark.parametrize("late_ms", [3, 40, 700, 9_000])
def test_a_comparison_between_a_trade_and_its_report_books_it_once(desk: LiveDesk, late_ms: int) -> None:
    """nautilus 3493: the comparison inferred a fill from the order's quantity, and then the real one came."""
    buying, selling = desk.order("buy", "0.3", price=59_990), desk.order("sell", "0.3", price=60_010)
    desk.local.switch(f"late_reports:ms={late_ms};reorder_reports:p=0.5")
    for part in ("0.1", "0.05", "0.15"):
        desk.deal(BTC, "SELL", 59_990, part)
        desk.deal(BTC, "BUY", 60_010, part)
        compare(desk)
        desk.wait(late_ms // 4)
    desk.wait(late_ms)
    for order in (buying, selling):
        assert desk.state(order) == "FILLED" and len(desk.node.orders.fills_of(order.order_id)) == 3
    assert desk.corrections() == [], "nothing was booked that was not a trade"
    finish(desk)


def test_a_grid_that_misses_a_fill_learns_of_it_by_the_cancel_that_is_refused(desk: LiveDesk) -> None:
    """nautilus 3869: a filled order stayed open in the grid; cancelling it was refused, and still nothing was asked."""
    desk.wait(3_000)  # the next look at the balances is a minute away
    grid = [desk.order("buy", "0.1", price=59_990 - 10 * n, post_only=True) for n in range(5)]
    grid += [desk.order("sell", "0.1", price=60_010 + 10 * n, post_only=True) for n in range(5)]
    desk.local.switch(f"late_reports:ms={NEVER_MS},n=1")
    desk.deal(BTC, "SELL", 59_990, "0.1")
    desk.wait(2_000)
    assert desk.state(grid[0]) == "LIVE" and not desk.one(grid[0]).open
    desk.deal(BTC, "BUY", 60_010, "0.1")
    answers = [desk.ask_cancel(order) for order in grid]
    desk.wait(1_000)
    assert all(answer.values for answer in answers)
    assert [desk.state(order) for order in grid] == (["FILLED"] + ["CANCELLED"] * 4) * 2
    assert desk.total("BTC") == desk.held("BTC") and desk.corrections() == []
    finish(desk)


def test_a_missed_fill_is_found_while_nobody_does_anything(desk: LiveDesk) -> None:
    """nautilus 4124: the exchange had the position, the node stayed flat, and every check found the order open."""
    desk.wait(3_000)  # the next look at the balances is a minute away
    order = desk.order("buy", "0.3", price=59_990)
    desk.local.switch(f"late_reports:ms={NEVER_MS}")
    desk.deal(BTC, "SELL", 59_990, "0.3")
    desk.wait(2_000)
    assert desk.state(order) == "LIVE" and quantity(desk) == 0
    desk.wait(EVERY_MS)
    assert desk.state(order) == "FILLED" and quantity(desk) == Decimal("0.3") * COIN
    assert desk.total("BTC") == desk.held("BTC") and desk.corrections() == []
    finish(desk)


# --- what cannot be sold


def test_a_rest_that_no_order_may_carry_blocks_nothing_and_leaves_with_the_next_sale(poor: NativeDesk) -> None:
    """freqtrade 12322: what a partial exit left was below the least value: the trade never ended, the bot stood."""
    desk = poor
    desk.order("buy", "0.001")
    assert isinstance(desk.close("0.00095"), Submitted)
    desk.wait(50)
    answer = desk.close()
    assert refused(answer) == "BELOW_MIN_NOTIONAL" and "least order value of 5" in answer.detail
    assert desk.theirs()[-1].status == "FILLED", "the exchange was not asked in vain"
    desk.order("buy", "0.001")
    assert isinstance(desk.close(), Submitted)
    desk.wait(50)
    assert quantity(desk) == 0 and desk.held("BTC") < Decimal("0.00001")
    finish(desk)


@pytest.mark.parametrize("bought", ["0.01", "0.01234", "0.00101", "2.5"])
def test_a_position_is_closed_net_of_the_fee_that_was_taken_from_it(poor: NativeDesk, bought: str) -> None:
    """freqtrade 4710: the fee came off the coins, so the exit wanted more than there was and could not be sold."""
    desk = poor
    order = desk.order("buy", bought)
    assert desk.get(order).fees["BTC"] == Decimal(bought) / 1_000 and desk.held("BTC") == Decimal(bought) * COIN
    answer = desk.close()
    assert isinstance(answer, Submitted), answer
    desk.wait(50)
    assert desk.state(answer.order) == "FILLED"
    assert quantity(desk) == 0 and desk.held("BTC") < order.lot
    finish(desk)


def test_dust_keeps_no_exit_trying_and_no_position_open(poor: NativeDesk) -> None:
    """freqtrade 7586: dust kept the trade open, and the exit was tried every five seconds for ever."""
    desk = poor
    _, stop, target = desk.bracket("0.01234")
    desk.go_to(58_900)
    desk.wait(2_000)
    assert (desk.state(stop), desk.state(target)) == ("FILLED", "CANCELLED") and quantity(desk) == 0
    dust = desk.held("BTC")
    assert 0 < dust < stop.lot
    before = len(frames(desk, "order.place"))
    desk.wait(600_000)
    assert len(frames(desk, "order.place")) == before and desk.node.orders.open == {}
    again, *pair = desk.bracket("0.01", stop_loss=58_000)  # there is room for the next, and it takes the dust along
    desk.go_to(57_900)
    desk.wait(2_000)
    assert [desk.state(leg) for leg in pair] == ["FILLED", "CANCELLED"] and again.protected == 0
    assert quantity(desk) == 0 and desk.held("BTC") < stop.lot
    finish(desk)


# --- brackets


def test_the_exits_of_an_entry_that_fills_in_parts_cover_each_part_and_no_more(poor: NativeDesk) -> None:
    """nautilus 2623: a first part set off exits for the whole entry, and they sold what had never been bought."""
    desk = poor
    entry, stop, target = desk.bracket("1", type="limit", price=59_990)
    for parts in (1, 2, 3):
        desk.deal(BTC, "SELL", 59_990, "0.1")
        desk.wait(50)
        assert {leg.left_lots * leg.lot for leg in (stop, target)} == {parts * Decimal("0.1") * COIN}
        assert entry.protected == desk.held("BTC") == parts * Decimal("0.1") * COIN
    desk.go_to(58_900)
    desk.wait(2_000)
    desk.heal()
    desk.settled_check()
    sold = filled(desk, stop)
    assert sold + filled(desk, target) <= filled(desk, entry) * COIN
    assert quantity(desk) == 0 and desk.held("BTC") < entry.lot and open_there(desk) == set()


def test_a_bracket_on_a_crypto_pair_is_taken_and_stands_at_the_exchange(poor: NativeDesk) -> None:
    """alpaca-py 505: brackets were refused for crypto, so that whoever bought had to watch the price himself."""
    desk = poor
    for pair, price in ((BTC, 60_000), (ETH, 3_000)):
        desk.go_to(price, "1", pair)
        entry, *exits = desk.bracket("0.1", pair=pair, stop_loss=price * 0.98, take_profit=price * 1.03)
        assert desk.state(entry) == "FILLED" and is_at_exchange(desk, *exits)
        held = [desk.at_exchange(leg) for leg in exits]
        assert len({theirs.order_list_id for theirs in held if theirs is not None}) == 1
    desk.heal()
    desk.settled_check()


@pytest.mark.parametrize("part", ["0.00501", "0.0123", "0.7"])
def test_the_exits_of_an_entry_that_was_cancelled_half_way_are_what_the_account_can_sell(
    poor: NativeDesk, part: str
) -> None:
    """freqtrade 4523: the stop was placed for what was ordered, or without the fee: refused, and nothing protected."""
    desk = poor
    entry, stop, target = desk.bracket("1", type="limit", price=59_990)
    desk.deal(BTC, "SELL", 59_990, part)
    desk.wait(50)
    desk.cancel(entry)
    desk.wait(2_000)
    assert is_at_exchange(desk, stop, target) and not stop.held_here
    assert 0 <= desk.held("BTC") - entry.protected < entry.lot
    there = desk.exchange.balances(desk.me)["BTC"]
    assert Decimal(there[1]) / 10**8 == entry.protected, "the exchange has set the same coins aside"
    desk.go_to(58_900)
    desk.wait(2_000)
    assert (desk.state(stop), desk.state(target)) == ("FILLED", "CANCELLED")
    desk.heal()
    desk.settled_check()
    assert quantity(desk) == 0


# --- paper


def prices(desk: LiveDesk, order: Order) -> list[tuple[Decimal, Decimal, Decimal, str]]:
    return [(f.price, f.quantity, f.fee, f.fee_currency) for f in desk.node.orders.fills_of(order.order_id)]


def fund(desk: LiveDesk) -> None:
    desk.node.portfolio.deposit("paper.binance", "USDT", Decimal(1_000_000))


def end(desk: LiveDesk) -> None:
    """As `finish`, where orders on paper stand beside those at the exchange."""
    desk.heal()
    assert desk.faults == []
    check_money(desk)


def test_a_round_trip_on_paper_costs_what_the_live_one_costs(desk: LiveDesk) -> None:
    """freqtrade 3902: +262 on paper and -94 live in the same week, with the same settings."""
    fund(desk)
    for side, amount in (("buy", "2.5"), ("sell", "2.4975")):
        paper = desk.order(side, amount, paper=True, wait_ms=500)
        live = desk.order(side, amount, wait_ms=500)
        assert prices(desk, paper) == prices(desk, live) and len(prices(desk, paper)) == 3
    here, there = (desk.node.portfolio.position(wallet, BTC) for wallet in ("paper.binance", "binance"))
    assert here is not None and there is not None
    assert (here.quantity, here.cost, here.realised) == (there.quantity, there.cost, there.realised)
    assert here.realised < -2 * Decimal("2.4") * 60_000 / 1_000, "both fees, and the spread"
    end(desk)


def test_paper_does_not_buy_the_same_coins_twice(desk: LiveDesk) -> None:
    """freqtrade 12454: an order of any size was filled whole, and the next one from the same level."""
    fund(desk)
    first, second, third = (desk.order("buy", "1", paper=True, wait_ms=200) for _ in range(3))
    assert [prices(desk, o)[0][0] for o in (first, second, third)] == [60_060, 60_120, 60_180]
    rest = desk.order("buy", "1", paper=True, price=60_180, wait_ms=200)
    assert desk.state(rest) == "LIVE", "nothing is left there"
    live = desk.order("buy", "3")
    assert [price for price, *_ in prices(desk, live)] == [60_060, 60_120, 60_180]
    desk.cancel(rest)
    end(desk)


def test_a_touch_of_its_price_fills_no_paper_order_before_those_that_came_first(desk: LiveDesk) -> None:
    """Alpaca 5: one touch of the price filled resting orders whole."""
    fund(desk)
    orders = [desk.order("buy", "0.5", price=59_940, paper=paper, wait_ms=200) for paper in (True, False)]
    for amount, expected in (("0.3", 0), ("0.6", 0), ("0.3", Decimal("0.2")), ("5", Decimal("0.5"))):
        desk.local.deal("BTCUSDT", "SELL", 59_940, amount)
        desk.wait(1_500)  # the trade is told before the book without it
        assert [filled(desk, order) for order in orders] == [expected] * 2, amount
    end(desk)


# --- the table above


def test_each_row_of_the_table_has_a_test_and_each_test_has_a_row() -> None:
    rows = re.findall(r"^    (\w.*?)  +\w.*$", __doc__ or "", re.MULTILINE)
    listed = {
        (system.group(1), number)
        for row in rows
        for part in row.split("; ")
        if (system := re.match(r"([\w -]*[a-zA-Z]) ", part))
        for number in re.findall(r"\d+", part)
    }
    assert len(rows) == 13 and len(listed) == 30
    tested = set()
    for path in (Path(__file__), Path(__file__).with_name("test_live_peers.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and "of_the_table" not in node.name:
                heads, colon, _ = (ast.get_docstring(node) or "").partition(":")
                named = [head.rpartition(" ")[::2] for head in heads.split(", ")]
                assert colon and set(named) <= listed, f"{node.name} names no row of the table: {heads}"
                tested.update(named)
    assert listed == tested, f"without a test: {listed - tested}"
