"""The exchange's books of an account against a node's, and what must be true of both. For `live_desk`."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING

from tbx.core.model.ids import id_key
from tbx.core.model.records import Fill, Order, State
from tbx.core.portfolio.recompute import recompute
from tbx.core.portfolio.subpositions import adds_up
from tbx.venues.simulator.exchange.records import UNIT, AccountTrade
from tbx.venues.simulator.exchange.records import Order as TheirOrder

if TYPE_CHECKING:
    from .live_desk import LiveDesk


def check(desk: LiveDesk) -> None:
    """After `LiveDesk.heal`: raises AssertionError where money or an order was lost, doubled or misstated."""
    assert desk.faults == [], desk.faults
    attempts: dict[str, list[TheirOrder]] = defaultdict(list)
    for theirs in desk.theirs():
        attempts[desk.ours(theirs)].append(theirs)
    orders = {order_id: (o, fills) for order_id, (o, fills) in desk.every().items() if o.attempt}
    # One that is over and never traded moved nothing, and no list of the exchange's that is asked for has it.
    unknown = {name for name in attempts.keys() - orders.keys() if any(o.open or o.executed for o in attempts[name])}
    assert not unknown, f"at the exchange, and nobody here knows of them: {unknown}"
    trades = defaultdict(list)
    for trade in desk.trades():
        trades[trade.order_id, trade.trade.symbol].append(trade)
    for name, (order, fills) in orders.items():
        there = [t for o in attempts[name] for t in trades[o.order_id, o.symbol]]
        check_order(desk, order, fills, attempts[name], there)
    check_money(desk)
    check_answers(desk)


def check_order(
    desk: LiveDesk, order: Order, fills: list[Fill], attempts: list[TheirOrder], trades: list[AccountTrade]
) -> None:
    """One order and all its attempts at the exchange."""
    what = f"{order.order_id} ({order.state.value}, {order.code}: {order.reason})"
    names = [desk.named(a) for a in attempts]
    assert len(set(names)) == len(names), f"{what} was taken twice: {names}"
    for before, after in pairwise(attempts):
        assert not before.open, f"{what} has two attempts at the exchange: {before.client_order_id} is still open"
        assert ended_before(desk, before, after), f"{what}: {after.client_order_id} was there before the other ended"
    mine = {str(t.trade.trade_id): t for t in trades}
    assert sorted(f.trade_id for f in fills) == sorted(mine), f"{what} has fills {fills}, the exchange {sorted(mine)}"
    for fill in fills:
        trade = mine[fill.trade_id]
        assert fill.price * UNIT == trade.trade.price and fill.quantity * UNIT == trade.trade.qty, f"{what}: {fill}"
        assert fill.fee * UNIT == trade.commission and fill.fee_currency == trade.commission_asset, f"{what}: {fill}"
        assert fill.maker is trade.is_maker, f"{what}: {fill} and {trade}"
    executed = sum(a.executed for a in attempts)
    assert order.filled_lots == sum(f.qty_lots for f in fills)
    assert order.filled_lots * order.lot * UNIT == executed, f"{what}: filled {order.filled_lots}, there {executed}"
    assert order.filled_lots <= order.qty_lots, f"{what} was filled over its quantity"
    is_open = bool(attempts) and attempts[-1].open
    if order.ended:
        assert not is_open, f"{what} has ended here and is open at the exchange"
        assert order.reserved == 0, f"{what} still reserves {order.reserved}"
    else:
        check_open(order, attempts, what)


def ended_before(desk: LiveDesk, before: TheirOrder, after: TheirOrder) -> bool:
    """Whether the exchange was through with one order when it took the other."""

    def of(order: TheirOrder) -> list[int]:
        key = order.symbol, order.order_id
        return [i for i, e in enumerate(desk.local.done) if (e.order.symbol, e.order.order_id) == key]

    return max(of(before)) < min(of(after))


def check_open(order: Order, attempts: list[TheirOrder], what: str) -> None:
    """An order that has not ended here: it is held, waits for its next attempt, or is open there just so."""
    assert order.state not in (State.SENT, State.UNKNOWN), f"{what} is not settled"
    if order.state is State.HELD or order.waiting:
        assert not attempts or not attempts[-1].open, f"{what} is open at the exchange"
        return
    assert attempts and attempts[-1].open, f"{what} is open here and not at the exchange: {attempts}"
    there = attempts[-1]
    if there.client_order_id == order.venue_client_id:  # else somebody else has amended it
        assert (order.qty_lots - order.attempt_from) * order.lot * UNIT == there.quantity, f"{what}: {there}"
        assert order.attempt_until == order.qty_lots, what
    # An exit that the exchange watches, or one that was found there; a pair's coins are reserved on one of the two.
    if order.listed or (order.adopted and order.stop_ticks is not None and order.price_ticks is None):
        assert there.type == order.type.upper() and there.quantity == order.left_lots * order.lot * UNIT, (
            f"{what}: {there}"
        )
        assert order.stop_ticks is not None and there.stop_price == order.stop_ticks * order.tick * UNIT, (
            f"{what}: {there}"
        )
        return
    assert order.price_ticks is not None and order.price_ticks * order.tick * UNIT == there.price, f"{what}: {there}"
    left, price = there.quantity - there.executed, order.price_ticks * order.tick
    needed = Decimal(left) / UNIT * (price if order.side == "buy" else 1)
    assert order.reserved >= needed, f"{what} reserves {order.reserved}, the exchange locks {needed}"


def check_money(desk: LiveDesk) -> None:
    """Balances, reservations, positions; and nothing was corrected that nobody else had moved."""
    node = desk.node
    assert node.recovery.unsettled == set()
    assert node.engine.unavailable("binance") == ""
    for currency, (free, locked) in desk.exchange.balances(desk.me).items():
        there = Decimal(free + locked) / UNIT
        assert desk.total(currency) == there, f"{desk.total(currency)} {currency} here, {there} at the exchange"
    reserved: dict[str, Decimal] = defaultdict(Decimal)
    for order in node.orders.open.values():
        reserved[order.quote if order.side == "buy" else order.base] += order.reserved
    for balance in node.ledger:
        if balance.wallet == "binance":
            assert balance.locked == reserved[balance.currency], balance
    deposits = [
        (data["wallet"], data["currency"], Decimal(data["amount"]))
        for kind, data in desk.events("portfolio")
        if kind == "Deposited"
    ]
    fills = sorted((f for _, fills in desk.every().values() for f in fills), key=lambda f: id_key(f.fill_id))
    anew = recompute(fills, deposits, node.instruments, node.market.mid, "USDT", paper=False)
    for (wallet, currency), total in anew.totals.items():
        assert node.ledger.total(wallet, currency) == total, f"{currency}: the journal says {total}"
    for (wallet, pair), position in anew.positions.items():
        held = node.portfolio.position(wallet, pair)
        assert (held.quantity if held is not None else 0) == position.quantity, pair
        assert held is None or (held.cost, held.realised) == (position.cost, position.realised), pair
    for _, position in node.portfolio.records():
        if position.updated_ns:
            assert adds_up(position, node.subledgers.of(position.wallet, position.pair)), position
    entries = [order for order in node.orders.orders.values() if order.stop_loss_id is not None]
    at_stops = sum((node.open_risk.of_entry(entry) for entry in entries), Decimal(0))
    assert node.open_risk.of("binance") == at_stops, f"{node.open_risk.of('binance')} at stops, anew {at_stops}"
    if not desk.foreign:
        assert desk.corrections() == [], "corrected, and nobody else had moved anything"


def check_answers(desk: LiveDesk) -> None:
    """Every command of this process has one answer; those of one that died may have none."""
    for answer in desk.answers:
        assert len(answer.values) <= 1, f"answered {len(answer.values)} times"
        assert answer.process != desk.process or answer.values, "a command was never answered"
