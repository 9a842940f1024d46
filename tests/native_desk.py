"""A live node whose exits may wait at the exchange: `LiveDesk`, with prices that trade, and what must be true of exits.

`go_to` moves the market and trades there, so that stops at the exchange are triggered. `check_now` holds at every
moment, `settled_check` after `heal`.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from tbx.core.model.messages import CancelOrders, ClosePosition
from tbx.core.model.records import Order, State
from tbx.venues.simulator.binance.server import units
from tbx.venues.simulator.exchange.records import UNIT, NewOrder
from tbx.venues.simulator.exchange.records import Order as TheirOrder

from . import live_check
from .live_desk import BTC, ETH, LiveDesk, ed25519, hmac
from .live_walk import Walk, last_steps

STOP, TARGET = 59_000, 62_000


class NativeDesk(LiveDesk):
    """The market of BTC_USDT stands at 60,000 and has traded; without `coins` the account has none of those."""

    def __init__(self, *args: Any, coins: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.go_to(60_000)
        if not coins:
            self.local.deposit(self.me, "BTC", str(-self.held("BTC")))
        self.wait(10)

    def go_to(self, price: int, quantity: str = "1", pair: str = BTC) -> None:
        """The market moves, and the best bid there is hit."""
        self.move(pair, price, quantity, show=False)
        self.deal(pair, "SELL", price - price // 1_000, "0.001")

    # --- commands

    def bracket(self, quantity: str = "0.01", **more: Any) -> tuple[Order, Order, Order]:
        """Entry, stop and target that may wait at the exchange."""
        exits = {"stop_loss": STOP, "take_profit": TARGET, "trigger": "last"}
        entry = self.order("buy", quantity, **exits | more)
        return entry, self.get(entry.stop_loss_id), self.get(entry.take_profit_id)

    def close(self, quantity: str | None = None) -> Any:
        """The answer to closing the open position."""
        position = self.node.portfolio.open_positions(paper=False)[0]
        amount = None if quantity is None else Decimal(quantity)
        return self._ask(
            lambda reply: ClosePosition(position_id=position.position_id, quantity=amount, reply=reply), 50
        )

    def cancel_many(self) -> Any:
        return self._ask(lambda reply: CancelOrders(reply=reply), 50)

    # --- the account and the book

    def foreign_stop(self, price: int) -> None:
        """Somebody else's stop on our account."""
        self.foreign += 1
        quantity, at = units("0.001"), units(price)
        self.exchange.place(self.me, NewOrder("BTCUSDT", "SELL", "STOP_LOSS", None, quantity, stop_price=at))

    def empty_book(self, last: int) -> None:
        """One trade, and then nobody buys."""
        house = self.local.houses["BTCUSDT"]
        _, bids, _ = self.exchange.book("BTCUSDT").depth()
        for at, _ in bids:
            house.set_level("BUY", at, 0)
        self.quote(BTC, "BUY", last, "0.001", show=False)
        self.deal(BTC, "SELL", last, "0.001")

    # --- looking

    def at_exchange(self, order: Order) -> TheirOrder | None:
        """The open order of the exchange that is an order's present attempt."""
        order = self.get(order)
        return next((o for o in self.theirs() if o.client_order_id == order.venue_client_id and o.open), None)

    def kinds(self, order: Order) -> list[str]:
        """The types of all attempts of an order at the exchange."""
        return [o.type for o in self.theirs() if self.node.ids.order_of(self.named(o)) == order.order_id]

    def cancels(self) -> int:
        """Frames that asked the exchange to cancel something."""
        return sum(b'"order.cancel' in raw for socket in self.network.sockets for raw in socket.sent)

    def free(self, currency: str = "BTC") -> Decimal:
        return self.node.ledger.available("binance", currency)

    def brackets(self) -> list[tuple[Order, list[Order]]]:
        """Each entry with all exits that it ever had."""
        exits: dict[str, list[Order]] = defaultdict(list)
        for order in self.node.orders.orders.values():
            if order.parent_id is not None:
                exits[order.parent_id].append(order)
        return [(self.get(entry), found) for entry, found in exits.items()]

    def check_now(self) -> None:
        """What is true after every input: coins are reserved once, sold once, and `protected` says what is covered."""
        assert self.faults == [], self.faults
        armed = self.node.triggers.armed
        for entry, exits in self.brackets():
            net = entry.filled_lots * entry.lot - entry.fees.get(entry.base, 0)
            gone = sum(leg.filled_lots for leg in exits) * entry.lot
            assert gone <= net, f"{entry.order_id} bought {net} and its exits sold {gone}"
            pair = [leg for leg in exits if not leg.ended]
            selling = [leg for leg in pair if leg.triggered_ns is not None]
            at_venue = [leg for leg in pair if leg.at_venue]
            assert len(selling) <= 1, f"both exits of {entry.order_id} sell"
            assert not at_venue or all(leg.listed for leg in selling), f"{entry.order_id} sells here and there"
            if at_venue:
                sent = (at_venue[0].attempt_until - at_venue[0].attempt_from) * entry.lot
                reserved = sum(leg.reserved for leg in exits)
                assert reserved <= sent, f"{entry.order_id} has {sent} at the exchange and reserves {reserved}"
                sold = any(leg.state is State.FILLED for leg in exits)  # the end of the other is still on its way
                if not (self.foreign or selling or sold):
                    assert reserved == sent, f"{entry.order_id} reserves {reserved} of {sent}"
            for leg in pair:
                assert not (armed(leg.order_id) and (at_venue or selling)), f"{leg.order_id} is watched twice"
            shown = [
                (o.order_id, o.state.value, o.left_lots, o.listed, o.triggered_ns, o.waiting, o.reason) for o in pair
            ]
            if entry.protected:
                covers = [leg for leg in pair if leg.at_venue or leg in selling or armed(leg.order_id)]
                what = f"{entry.order_id} says {entry.protected}, which nothing watches: {shown}"
                assert any(leg.left_lots * leg.lot >= entry.protected for leg in covers), what
        locked: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for order in self.node.orders.orders.values():
            assert not (order.ended and order.reserved), f"{order.order_id} has ended and reserves {order.reserved}"
            locked[order.wallet, order.quote if order.side == "buy" else order.base] += order.reserved
        for balance in self.node.ledger:
            assert balance.locked == locked[balance.wallet, balance.currency], balance
            if not self.foreign:
                assert balance.total >= balance.locked, balance

    def settled_check(self) -> None:
        """After `heal`: as `check`, and a pair at the exchange is just the pair that is known here."""
        self.check_now()
        attempts: dict[str, list[TheirOrder]] = defaultdict(list)
        for theirs in self.theirs():
            attempts[self.node.ids.order_of(self.named(theirs)) or ""].append(theirs)
        for order in self.node.orders.orders.values():
            if order.attempt:
                mine = attempts.pop(order.order_id, [])
                self._check_order(order, mine)
                if order.at_venue:
                    self._check_listed(order, mine)
        assert not attempts, f"at the exchange, and nobody here knows of them: {attempts}"
        self._check_pairs()
        live_check.check_money(self)
        live_check.check_answers(self)

    def _check_order(self, order: Order, mine: list[TheirOrder]) -> None:
        """All that the exchange traded for it is known here, and nothing of it is open there that is not here."""
        names = [self.named(theirs) for theirs in mine]
        assert len(set(names)) == len(names), f"{order.order_id} was taken twice: {names}"
        ids = {(theirs.symbol, theirs.order_id) for theirs in mine}
        there = sorted(str(t.trade.trade_id) for t in self.trades() if (t.trade.symbol, t.order_id) in ids)
        assert sorted(fill.trade_id for fill in self.node.orders.fills_of(order.order_id)) == there, (order, mine)
        opened = [theirs.client_order_id for theirs in mine if theirs.open]
        if order.ended or order.state is State.HELD or order.waiting:
            assert not opened, f"{order} is open at the exchange"
        else:
            assert order.state in (State.LIVE, State.PART), order
            assert opened == [order.venue_client_id], f"{order} and {mine}"

    def _check_listed(self, order: Order, mine: list[TheirOrder]) -> None:
        assert order.state is State.LIVE and order.filled_lots == 0, order
        there = next(o for o in mine if o.open)
        kind = "STOP_LOSS" if order.role == "stop_loss" else "TAKE_PROFIT"
        assert (there.type, there.order_list_id >= 0, there.executed) == (kind, True, 0), there
        assert there.quantity == (order.attempt_until - order.attempt_from) * order.lot * UNIT, there
        assert order.stop_ticks is not None and there.stop_price == order.stop_ticks * order.tick * UNIT, there

    def _check_pairs(self) -> None:
        """Both are there, and their coins are reserved once."""
        for entry, exits in self.brackets():
            listed = [leg for leg in exits if leg.at_venue]
            assert len(listed) in (0, 2), listed
            if listed:
                lots = listed[0].left_lots
                assert sum(leg.reserved for leg in listed) == lots * entry.lot == entry.protected, (entry, listed)


class ExitsWalk(Walk):
    """A random walk of brackets: the market moves far enough to reach exits, and everything of `Walk` goes wrong."""

    desk: NativeDesk

    def go(self, steps: int) -> None:
        for _ in range(steps):
            super().go(1)
            self.desk.check_now()

    def place(self) -> str:
        rng, desk = self.rng, self.desk
        if rng.random() < 0.25:
            return super().place()
        mid, cent = self.mids[BTC], Decimal("0.01")
        more: dict[str, Any] = {"trigger": "last" if rng.random() < 0.9 else "bid_ask"}
        more["stop_loss"] = (mid * Decimal(str(rng.choice((0.99, 0.995, 0.997))))).quantize(cent)
        if rng.random() < 0.9:
            more["take_profit"] = (mid * Decimal(str(rng.choice((1.003, 1.005, 1.01))))).quantize(cent)
        if rng.random() < 0.4:
            more["price"] = self._price(BTC, 0.002)
        quantity = self._quantity(BTC)
        desk.command(desk.submission("buy", quantity, **more))
        return f"buy {quantity} {more}"

    def amend(self) -> str:
        exits = [o for o in self._open() if o.parent_id is not None]
        if not exits or self.rng.random() < 0.3:
            return super().amend()
        order = self.rng.choice(exits)
        factor = Decimal(str(self.rng.uniform(0.998, 1.002)))
        price = (order.stop_ticks or 0) * order.tick * factor
        self.desk.ask_amend(order, stop_price=price.quantize(Decimal("0.01")))
        return f"{order.order_id} to {price}"

    def market_moves(self) -> str:
        pair = self.rng.choice((BTC, BTC, BTC, ETH))
        mid = self.mids[pair] = self._price(pair, 0.009).quantize(Decimal(1))
        quantity = str(Decimal(self.rng.choice((1, 2, 5, 30))) / 10)
        self.desk.go_to(int(mid), quantity, pair)
        return f"{pair} {mid}, {quantity} a level"


def exits_walk(folder: Path, seed: int, steps: int = 200, without: frozenset[str] = frozenset()) -> NativeDesk:
    """Raises AssertionError, with the walk's last steps in it, where something is lost, doubled or unprotected."""
    desk = NativeDesk(folder, coins=seed % 2 == 0, seed=seed, signer=hmac if seed % 4 == 0 else ed25519)
    walked = ExitsWalk(desk, seed, without)
    with last_steps(walked, seed):
        walked.go(steps)
        desk.store.down = False
        desk.heal()
        desk.settled_check()
    return desk


def done(desk: NativeDesk) -> None:
    desk.heal()
    desk.settled_check()


def is_at_exchange(desk: NativeDesk, *exits: Order) -> bool:
    return all(desk.get(leg).at_venue and desk.at_exchange(leg) is not None for leg in exits)


def is_here(desk: NativeDesk, *exits: Order) -> bool:
    armed = desk.node.triggers.armed
    return all(
        desk.get(leg).state is State.HELD and armed(leg.order_id) and desk.at_exchange(leg) is None for leg in exits
    )
