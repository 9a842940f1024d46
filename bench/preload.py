"""A state of the size that the service keeps: orders with their fills, balances, positions, written into its Redis.

Always true here: the records are those that the service writes itself (`core/model/records.py`), and they agree: the
fills of an order are its filled quantity, cost and fees, positions and balances are what fills make of the deposits.
Beyond those of the simulated books, positions stand in paper wallets of their own, at the prices of the same books.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import msgspec
import uvloop
from order_flow import PRICES, order_lots

from tbx.core.kernel.outbox import encode_record
from tbx.core.model.errors import StoreError
from tbx.core.model.ids import Ids
from tbx.core.model.instruments import Instrument
from tbx.core.model.records import Balance, Check, Fill, Order, Position, RiskValidation, Side, State
from tbx.core.portfolio.positions import apply_fill
from tbx.core.state.batch import Batch
from tbx.core.state.server import EmbeddedRedis
from tbx.core.state.store import Store
from tbx.venues.simulator.instruments import simulated_instruments

NODE = "main"
DEPOSIT = Decimal("500000000")  # of quote currency, at each exchange
SPACING_NS = 100_000_000  # between orders
MS_NS = 1_000_000
ROWS_A_COMMIT = 10_000


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept."""

    orders: int = 10_000
    fills_an_order: int = 5
    positions: int = 1_000
    resting: int = 100  # of the orders: limit orders that are open, far from the market

    @property
    def trades(self) -> int:
        return self.orders * self.fills_an_order


class Records:
    """The records as they grow."""

    def __init__(self, size: Size, now_ns: int) -> None:
        self.size = size
        self.ids = Ids(NODE)
        self.books = simulated_instruments()
        self.by_book = {(book.exchange, book.pair): book for book in self.books}
        self.orders: list[Order] = []
        self.fills: list[Fill] = []
        self.positions: dict[tuple[str, str], Position] = {}
        self.balances: dict[tuple[str, str], Balance] = {}
        self.now_ns = now_ns - size.orders * SPACING_NS
        for exchange in {book.exchange for book in self.books}:
            self._balance(f"paper.{exchange}", "USDT").total += DEPOSIT

    def build(self) -> None:
        resting = self.size.resting
        for number in range(self.size.orders - resting):
            # Twice bought, once sold, so that every book ends with a position.
            side: Side = "sell" if number // len(self.books) % 3 == 2 else "buy"
            # Some have one fill more, for those that rest and have none.
            parts = self.size.fills_an_order + (number < resting * self.size.fills_an_order)
            self._filled(self.books[number % len(self.books)], side, parts)
            self.now_ns += SPACING_NS
        for number in range(resting):
            self._resting(self.books[number % len(self.books)])
            self.now_ns += SPACING_NS
        for number in range(self.size.positions - len(self.positions)):
            self._position_of_its_own(number)

    def _order(self, book: Instrument, side: Side, lots: int) -> Order:
        order_id = self.ids.order(self.now_ns)
        cost = book.amount(lots * self._ticks(book))
        return Order(
            order_id=order_id,
            client_order_id=order_id,
            exchange=book.exchange,
            pair=book.pair,
            wallet=f"paper.{book.exchange}",
            side=side,
            type="market",
            tick=book.tick,
            lot=book.lot,
            quote=book.quote,
            base=book.base,
            submit_ns=self.now_ns,
            created_ns=self.now_ns,
            updated_ns=self.now_ns,
            sent_ns=self.now_ns,
            qty_lots=lots,
            tif="GTC",
            timeout_ns=300_000 * MS_NS,
            attempt=1,
            venue_client_id=self.ids.venue_client_id(order_id, 1),
            venue_order_id=f"P{len(self.orders) + 1}",
            arrival_mid=PRICES[book.pair],
            risk=_report(book.quantity(lots), cost),
        )

    def _filled(self, book: Instrument, side: Side, parts: int) -> None:
        lots = parts * order_lots(book)
        order = self._order(book, side, lots)
        order.state, order.filled_lots = State.FILLED, lots
        order.guard_ticks = self._ticks(book) * (1005 if side == "buy" else 995) // 1000
        order.fill_ns = order.end_ns = order.updated_ns = self.now_ns + 5 * MS_NS
        for part in range(parts):
            fill = self._fill(book, order, lots // parts, self._ticks(book) + part)
            order.cost += fill.price_ticks * fill.qty_lots
            order.fees[fill.fee_currency] = order.fees.get(fill.fee_currency, Decimal(0)) + fill.fee
            self._settle(book, fill)
        self.orders.append(order)

    def _fill(self, book: Instrument, order: Order, lots: int, ticks: int) -> Fill:
        currency = book.fee_currency(order.side)
        fee = book.taker_fee * (book.quantity(lots) if currency == book.base else book.amount(ticks * lots))
        fill = Fill(
            fill_id=self.ids.fill(),
            order_id=order.order_id,
            trade_id=f"T{len(self.fills) + 1}",
            exchange=book.exchange,
            pair=book.pair,
            wallet=order.wallet,
            side=order.side,
            tick=book.tick,
            lot=book.lot,
            price_ticks=ticks,
            qty_lots=lots,
            fee=fee,
            fee_currency=currency,
            timestamp_ns=self.now_ns + 5 * MS_NS,
        )
        self.fills.append(fill)
        return fill

    def _settle(self, book: Instrument, fill: Fill) -> None:
        sign = 1 if fill.side == "buy" else -1
        self._balance(fill.wallet, book.base).total += sign * fill.quantity
        self._balance(fill.wallet, book.quote).total -= sign * fill.cost
        self._balance(fill.wallet, fill.fee_currency).total -= fill.fee
        self._book_position(book, fill)

    def _book_position(self, book: Instrument, fill: Fill) -> None:
        key = (fill.wallet, fill.pair)
        if key not in self.positions:
            self.positions[key] = Position(position_id="", wallet=fill.wallet, exchange=book.exchange, pair=book.pair)
        apply_fill(
            self.positions[key],
            fill,
            base=book.base,
            quote=book.quote,
            lot=book.lot,
            new_id=self.ids.position,
        )

    def _resting(self, book: Instrument) -> None:
        """A limit order a fifth under the market, its money set aside."""
        lots = 2 * order_lots(book)
        order = self._order(book, "buy", lots)
        order.type, order.state, order.timeout_ns = "limit", State.LIVE, 0
        order.price_ticks = self._ticks(book) * 4 // 5
        cost = book.amount(order.price_ticks * lots)
        order.reserved = cost * (1 + book.taker_fee) if book.fee_in == "quote" else cost
        self._balance(order.wallet, book.quote).locked += order.reserved
        self.orders.append(order)

    def _position_of_its_own(self, number: int) -> None:
        book = self.books[number % len(self.books)]
        order = self._order(book, "buy", order_lots(book))
        order.wallet = f"paper.{book.exchange}.{number // len(self.books)}"
        fill = self._fill(book, order, order.qty_lots, self._ticks(book))
        self.fills.pop()  # long archived
        self._book_position(book, fill)

    def _ticks(self, book: Instrument) -> int:
        return int(PRICES[book.pair] / book.tick)

    def _balance(self, wallet: str, currency: str) -> Balance:
        key = (wallet, currency)
        if key not in self.balances:
            self.balances[key] = Balance(wallet=wallet, currency=currency)
        return self.balances[key]

    def rows(self) -> Iterator[tuple[str, str, bytes]]:
        """(table, field, JSON)"""
        for order in self.orders:
            yield "orders", order.order_id, encode_record(order)
        for fill in self.fills:
            yield "trades", fill.fill_id, encode_record(fill)
        for (wallet, pair), position in self.positions.items():
            yield "positions", f"{wallet}:{pair}", encode_record(position)
        for (wallet, currency), balance in self.balances.items():
            yield "balances", f"{wallet}:{currency}", encode_record(balance)
        yield "meta", "ids", encode_record(self.ids.counters)


def _report(quantity: Decimal, cost: Decimal) -> RiskValidation:
    """As long as the service's own."""
    limit = DEPOSIT.quantize(Decimal("0.00000001"))
    checks = (
        Check("tradingState", True, detail="ACTIVE"),
        Check("balance", True, limit, cost),
        Check("positionSize", True, limit, cost),
        Check("dailyLoss", True, -limit, Decimal("-12.34567891")),
    )
    return RiskValidation(
        passed=True,
        position_size_check="approved",
        portfolio_risk_check="approved",
        recommended_size=quantity,
        max_risk=cost,
        checks=checks,
    )


def write(data_dir: Path, size: Size) -> Records:
    """Make the state and leave it in the embedded Redis of `data_dir`, stopped."""
    state = Records(size, time.time_ns())
    state.build()
    data_dir.mkdir(parents=True, exist_ok=True)
    uvloop.run(commit(data_dir, list(state.rows())))
    return state


async def commit(data_dir: Path, rows: list[tuple[str, str, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    server = EmbeddedRedis(loop, data_dir)
    await server.start()
    try:
        store = Store(loop, server.address, NODE, journal_id="bench")
        await store.open()
        await store.acquire(time.time_ns() // MS_NS)
        for number, first in enumerate(range(0, len(rows), ROWS_A_COMMIT), start=1):
            batch = Batch(number, 0, [], rows[first : first + ROWS_A_COMMIT], [], [])
            answer: asyncio.Future[StoreError | None] = loop.create_future()
            store.commit(batch, answer.set_result)
            error = await answer
            if error is not None:
                raise error
        await store.close()
    finally:
        await server.stop()
