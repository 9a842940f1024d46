"""A whole node in virtual time on a store in memory, with a market that the test moves by hand.

The books are real (depth frames through the kernels), so is every actor and the paper venue; only time, Redis and the
exchange's socket are not here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from tbx.core.kernel.clock import MS_NS, Clock, ManualClock
from tbx.core.market.data import MarketData
from tbx.core.model.errors import StoreError
from tbx.core.model.messages import (
    AmendOrder,
    CancelOrder,
    CancelOrders,
    ClosePosition,
    Refusal,
    SubmitOrder,
    Submitted,
    VenueFilled,
)
from tbx.core.model.records import Fill, Order
from tbx.core.portfolio.subpositions import adds_up
from tbx.core.settings import load_settings
from tbx.core.state.memory import MemoryStore
from tbx.core.state.store import Loaded
from tbx.http.composition import Node

from .risk_off import OLD_RISK_LIMITS

Level = tuple[str, str]  # price, quantity
RVN = "RVN_USDT"
BOOK = ([("0.02449", "40000"), ("0.02448", "40000")], [("0.02451", "40000"), ("0.02452", "40000")])


class HandMarket:
    """Feeds exactly the frames that a test asks for."""

    def __init__(self, clock: Clock, market: MarketData) -> None:
        self.clock = clock
        self.market = market
        self.update_id = 0

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def resync(self, exchange: str, pair: str) -> None: ...

    def snapshot(self, exchange: str, pair: str, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        self.update_id += 10
        frame = {"lastUpdateId": self.update_id, "bids": list(bids), "asks": list(asks)}
        self.market.frame(exchange, pair, json.dumps(frame).encode(), self.clock.now_ns())

    def trade(self, exchange: str, pair: str, price: str, quantity: str, *, buyer_is_maker: bool) -> None:
        frame = {"e": "trade", "s": pair, "t": 1, "p": price, "q": quantity, "T": 1, "m": buyer_is_maker}
        self.market.frame(exchange, pair, json.dumps(frame).encode(), self.clock.now_ns())


def loaded_from(store: MemoryStore) -> Loaded:
    return Loaded(
        meta=dict(store.tables.get("meta", {})),
        tables={name: dict(rows) for name, rows in store.tables.items()},
        seq=store.seq,
        number=store.number,
        equity=list(store.streams.get("equity", [])),
    )


class Desk:
    """One node. `restart` ends the process as kill -9 does and starts the next on what was committed."""

    def __init__(self, folder: Path, **settings: str) -> None:
        given = {"INITIAL_BALANCE": "50000", **OLD_RISK_LIMITS, "MAX_POSITION_SIZE": "1", **settings}
        self.settings = load_settings(given, folder)
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock.call_soon)
        self.archived: list[Any] = []
        self.faults: list[str] = []
        self.fatal: list[StoreError] = []
        self._start()

    def _start(self) -> None:
        epoch = self.store.acquire()
        self.node = Node(
            self.settings,
            self.clock,
            self.store.writer(epoch),
            loaded_from(self.store),
            self._archive,
            self._archived_trades,
            epoch=epoch,
            on_fatal=self.fatal.append,
            on_fault=lambda fault, error: self.faults.append(f"{fault.where}: {fault.error}"),
            market_source=HandMarket,
        )
        assert isinstance(self.node.source, HandMarket)
        self.hand = self.node.source
        self.node.start()
        for exchange in ("xeggex", "binance"):
            self.book(exchange=exchange)
        self.clock.settle()

    def _archive(self, orders: Any, trades: Any, done: Callable[[StoreError | None], None]) -> None:
        self.archived.append((list(orders), list(trades)))
        self.clock.call_soon(done, None)

    def _archived_trades(self, client_id: str, found: Callable[[frozenset[str]], None]) -> None:
        order_id = self.node.ids.order_of(client_id)
        fills = [msgspec.json.decode(t.json, type=Fill) for _, trades in self.archived for t in trades]
        known = {fill.trade_id for fill in fills if fill.order_id == order_id}
        self.clock.call_soon(found, frozenset(known))

    def restart(self) -> None:
        """The process dies now, with whatever it had not committed; the next one begins."""
        self.clock = ManualClock(self.clock.now_ns() + 1_000 * MS_NS)
        self.store._call_soon = self.clock.call_soon
        self._start()

    # --- the market

    def book(
        self,
        bids: list[Level] | None = None,
        asks: list[Level] | None = None,
        *,
        exchange: str = "xeggex",
        pair: str = RVN,
    ) -> None:
        self.hand.snapshot(exchange, pair, BOOK[0] if bids is None else bids, BOOK[1] if asks is None else asks)

    def price(self, bid: str, ask: str, quantity: str = "40000") -> None:
        """Move xeggex' RVN book so that its best prices are these."""
        self.book([(bid, quantity)], [(ask, quantity)])
        self.clock.settle()

    def wait(self, milliseconds: int = 50) -> None:
        """Let time pass while the books stay as they are and fresh."""
        for _ in range(max(1, milliseconds // 1_000)):
            self.clock.advance(min(milliseconds, 1_000) * MS_NS)
            for exchange in ("xeggex", "binance"):
                book = self.node.market.book(exchange, RVN)
                book.local_ns = self.clock.now_ns()

    # --- commands

    def _ask(self, make: Callable[[Callable[[Any], None]], Any], wait_ms: int) -> Any:
        answers: list[Any] = []
        self.node.kernel.input(make(answers.append))
        self.clock.settle()
        if wait_ms:
            self.wait(wait_ms)
        assert len(answers) == 1, f"answered {len(answers)} times"
        return answers[0]

    def submit(self, side: str = "buy", quantity: str = "1000", *, wait_ms: int = 0, **more: Any) -> Any:
        """Submitted or Refusal; a market order for RVN at xeggex unless told otherwise."""
        fields: dict[str, Any] = {"pair": RVN, "type": "market", "exchange": "xeggex", **more}
        for name in ("price", "stop_price", "stop_loss", "take_profit"):
            if isinstance(fields.get(name), str):
                fields[name] = Decimal(fields[name])
        answer = self._ask(lambda reply: SubmitOrder(side=side, quantity=Decimal(quantity), reply=reply, **fields), 0)
        if wait_ms:
            self.wait(wait_ms)
        return answer

    def order(self, side: str = "buy", quantity: str = "1000", *, wait_ms: int = 50, **more: Any) -> Order:
        """The order that was submitted, after the venue had time to answer."""
        answer = self.submit(side, quantity, wait_ms=wait_ms, **more)
        assert isinstance(answer, Submitted), answer
        return self.now(answer)

    def now(self, answer: Any) -> Order:
        """The order of an answer as it has become since."""
        return self.node.orders.orders[answer.order.order_id]

    def cancel(self, order: Order, wait_ms: int = 50) -> Any:
        return self._ask(lambda reply: CancelOrder(order_id=order.order_id, reply=reply), wait_ms)

    def cancel_many(self, wait_ms: int = 50, **which: Any) -> Any:
        return self._ask(lambda reply: CancelOrders(reply=reply, **which), wait_ms)

    def amend(self, order: Order, wait_ms: int = 50, **change: str) -> Any:
        return self._ask(lambda reply: self.amend_command(order, reply, **change), wait_ms)

    @staticmethod
    def amend_command(order: Order, reply: Callable[[Any], None], **change: str) -> AmendOrder:
        numbers = {name: Decimal(value) for name, value in change.items()}
        return AmendOrder(order_id=order.order_id, reply=reply, **numbers)

    def fill(self, order: Order, trade_id: str, quantity: str, **other: Any) -> VenueFilled:
        """What a venue would say of a fill of the order, at its limit price and without a fee."""
        fields: dict[str, Any] = {
            "venue": order.exchange,
            "client_id": order.venue_client_id,
            "venue_order_id": "V",
            "trade_id": trade_id,
            "price_ticks": order.price_ticks or 1,
            "qty_lots": int(Decimal(quantity) / order.lot),
            "fee": Decimal(0),
            "fee_currency": order.quote,
            "maker": True,
            "timestamp_ns": self.clock.now_ns(),
        }
        return VenueFilled(**fields | other)

    def close(self, position_id: str, quantity: str | None = None) -> Any:
        amount = None if quantity is None else Decimal(quantity)
        return self._ask(lambda reply: ClosePosition(position_id=position_id, quantity=amount, reply=reply), 0)

    # --- looking

    def get(self, order_id: str | None) -> Order:
        found = self.node.orders.get(order_id or "")
        assert found is not None, f"no order {order_id}"
        return found

    def total(self, currency: str, exchange: str = "xeggex") -> Decimal:
        return self.node.ledger.total(f"paper.{exchange}", currency)

    def locked(self, currency: str, exchange: str = "xeggex") -> Decimal:
        return self.total(currency, exchange) - self.node.ledger.available(f"paper.{exchange}", currency)

    def events(self, channel: str = "orders") -> list[tuple[str, str]]:
        """(type, order id) of every committed event of a channel."""
        found = []
        for _, raw in self.store.journal:
            for event in json.loads(raw):
                if event["channel"] == channel:
                    found.append((event["type"], event["data"].get("orderId", "")))
        return found

    def check(self) -> None:
        """What must be true at any moment: no fault, sums that agree, nothing reserved without an open order."""
        assert self.faults == []
        node = self.node
        locked: dict[tuple[str, str], Decimal] = {}
        for order in node.orders.orders.values():
            assert order.filled_lots == sum(f.qty_lots for f in node.orders.fills_of(order.order_id))
            if order.ended:
                assert order.reserved == 0, f"{order.order_id} has ended and still reserves {order.reserved}"
            elif order.reserved:
                key = (order.wallet, order.quote if order.side == "buy" else order.base)
                locked[key] = locked.get(key, Decimal(0)) + order.reserved
        for balance in node.ledger:
            assert balance.locked == locked.get((balance.wallet, balance.currency), 0), balance
            assert balance.total >= balance.locked >= 0, balance
        for _, position in node.portfolio.records():
            if position.updated_ns:
                assert adds_up(position, node.subledgers.of(position.wallet, position.pair)), position
        covered: dict[tuple[str, str, str], Decimal] = {}
        for order in node.orders.orders.values():
            if order.protected and order.signal_data is not None and order.signal_data.strategy:
                whose = (order.signal_data.strategy, order.wallet, order.pair)
                covered[whose] = covered.get(whose, Decimal(0)) + order.protected
        for whose, quantity in covered.items():
            assert quantity <= node.subledgers.quantity(*whose), f"{whose} covers more than it owns: {quantity}"
        for name in node.subledgers.names():
            shares = node.subledgers.positions(name)
            trips = sum(share.closed_count for share in shares), sum(share.won_count for share in shares)
            record = node.subledgers.record(name)
            assert (record.closed, record.won) == trips, name


def refused(answer: Any) -> str:
    """The code of a refusal."""
    assert isinstance(answer, Refusal), answer
    return answer.code
