"""The exchange of the recovery figure: a local exchange where an account of ours has much open, and has traded much.

    python bench/recover_exchange.py DATA_DIR [--empty]

With --empty nothing was ever done. Else it places the orders with the exchange's own engine, and writes the service's
state that goes with them into the embedded Redis of DATA_DIR (stopped afterwards). Then it serves. Its one line of
output is a JSON object: settings for a service, and what was made. It ends with its input.

Always true here: state and exchange agree to the last digit; the orders have client ids of this node, and each fill is
a trade of the exchange.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import preload
import uvloop

from tbx.core.kernel.clock import SystemClock
from tbx.core.kernel.outbox import encode_record
from tbx.core.model.ids import Ids
from tbx.core.model.instruments import Instrument
from tbx.core.model.records import Balance, Fill, Order, Position, Side, State
from tbx.core.portfolio.positions import apply_fill
from tbx.venues.binance.instruments import read_exchange_info
from tbx.venues.simulator.binance.server import LocalExchange
from tbx.venues.simulator.exchange.records import UNIT, NewOrder
from tbx.venues.simulator.exchange.records import Order as TheirOrder

HOST = "127.0.0.1"
SYMBOLS = 200
OPEN_EACH = 50  # orders that rest, of each symbol
TRADED_EACH = 25  # orders that traded, of each symbol
LEVELS = 10  # fills of each of those
PRICE = 100  # USDT, of every symbol
WALLET = "binance"
FUNDS = 10_000_000  # USDT


class Made:
    """Orders at the exchange, and the records of a service that placed them."""

    def __init__(self, exchange: LocalExchange) -> None:
        self.exchange = exchange
        self.account = exchange.accounts[0].name
        self.ids = Ids(preload.NODE, tag="b")
        self.now_ns = time.time_ns() - 3_600 * 10**9
        self.orders: list[Order] = []
        self.fills: list[Fill] = []
        self.positions: dict[str, Position] = {}
        _, _, body = exchange.rest.handle("GET", "/api/v3/exchangeInfo", b"", b"", {})
        self.instruments = [i for i in read_exchange_info(body).instruments if i.symbol.startswith("SYM")]

    def build(self) -> None:
        self.exchange.deposit(self.account, "USDT", FUNDS)
        for instrument in self.instruments:
            for number in range(TRADED_EACH):
                self._traded(instrument, "sell" if number % 3 == 2 else "buy")
            for number in range(OPEN_EACH):
                self._resting(instrument, number)
            self.exchange.settle()

    def _order(self, instrument: Instrument, side: Side, lots: int, ticks: int) -> tuple[Order, TheirOrder]:
        """On record, and placed."""
        self.now_ns += 1_000_000
        order_id = self.ids.order(self.now_ns)
        client_id = self.ids.venue_client_id(order_id, 1)
        new = NewOrder(
            instrument.symbol,
            side.upper(),
            "LIMIT",
            "GTC",
            _units(instrument.quantity(lots)),
            price=_units(ticks * instrument.tick),
            client_order_id=client_id,
        )
        theirs = self.exchange.exchange.place(self.account, new).order
        order = Order(
            order_id=order_id,
            client_order_id=order_id,
            exchange=WALLET,
            pair=instrument.pair,
            wallet=WALLET,
            side=side,
            type="limit",
            tick=instrument.tick,
            lot=instrument.lot,
            quote=instrument.quote,
            base=instrument.base,
            submit_ns=self.now_ns,
            created_ns=self.now_ns,
            updated_ns=self.now_ns,
            sent_ns=self.now_ns,
            qty_lots=lots,
            price_ticks=ticks,
            attempt=1,
            attempt_until=lots,
            venue_client_id=client_id,
            venue_order_id=str(theirs.order_id),
            state=State.LIVE,
        )
        self.orders.append(order)
        return order, theirs

    def _traded(self, instrument: Instrument, side: Side) -> None:
        """It takes LEVELS levels of the book, each a trade."""
        house, away = self.exchange.houses[instrument.symbol], 1 if side == "buy" else -1
        middle = int(PRICE / instrument.tick)
        lots = int(Decimal(1) / instrument.lot)
        for level in range(1, LEVELS + 1):
            price = _units((middle + away * level) * instrument.tick)
            house.set_level("SELL" if side == "buy" else "BUY", price, _units(instrument.quantity(lots)))
        order, theirs = self._order(instrument, side, lots * LEVELS, middle + away * LEVELS)
        assert theirs.executed == theirs.quantity, "the book was made for it"
        position = self.positions.setdefault(
            instrument.pair, Position(position_id="", wallet=WALLET, exchange=WALLET, pair=instrument.pair)
        )
        known = self.exchange.exchange.trades(self.account, instrument.symbol, order_id=theirs.order_id)
        for trade in known:
            fill = Fill(
                fill_id=self.ids.fill(),
                order_id=order.order_id,
                trade_id=str(trade.trade.trade_id),
                exchange=WALLET,
                pair=instrument.pair,
                wallet=WALLET,
                side=side,
                tick=instrument.tick,
                lot=instrument.lot,
                price_ticks=int(Decimal(trade.trade.price) / UNIT / instrument.tick),
                qty_lots=int(Decimal(trade.trade.qty) / UNIT / instrument.lot),
                fee=Decimal(trade.commission) / UNIT,
                fee_currency=trade.commission_asset,
                maker=trade.is_maker,
                timestamp_ns=self.now_ns,
            )
            self.fills.append(fill)
            order.filled_lots += fill.qty_lots
            order.cost += fill.price_ticks * fill.qty_lots
            order.fees[fill.fee_currency] = order.fees.get(fill.fee_currency, Decimal(0)) + fill.fee
            apply_fill(
                position,
                fill,
                base=instrument.base,
                quote=instrument.quote,
                lot=instrument.lot,
                new_id=self.ids.position,
            )
        order.state, order.fill_ns, order.end_ns = State.FILLED, self.now_ns, self.now_ns

    def _resting(self, instrument: Instrument, number: int) -> None:
        ticks = int(PRICE * 8 // 10 / instrument.tick) - number
        order, _ = self._order(instrument, "buy", int(Decimal("0.1") / instrument.lot), ticks)
        order.reserved = instrument.amount(ticks * order.qty_lots)

    def rows(self) -> Iterator[tuple[str, str, bytes]]:
        """(table, field, JSON)"""
        for order in self.orders:
            yield "orders", order.order_id, encode_record(order)
        for fill in self.fills:
            yield "trades", fill.fill_id, encode_record(fill)
        for pair, position in self.positions.items():
            yield "positions", f"{WALLET}:{pair}", encode_record(position)
        for currency, (free, locked) in self.exchange.exchange.balances(self.account).items():
            balance = Balance(
                wallet=WALLET, currency=currency, total=Decimal(free + locked) / UNIT, locked=Decimal(locked) / UNIT
            )
            yield "balances", f"{WALLET}:{currency}", encode_record(balance)
        yield "meta", "ids", encode_record(self.ids.counters)


def _units(amount: Decimal) -> int:
    return int(amount * UNIT)


async def main(data_dir: Path, *, empty: bool) -> None:
    loop = asyncio.get_running_loop()
    exchange = LocalExchange(loop, SystemClock(loop, time.time_ns), market="none", extra_symbols=SYMBOLS)
    made = Made(exchange)
    if not empty:
        made.build()
    data_dir.mkdir(parents=True, exist_ok=True)
    await preload.commit(data_dir, list(made.rows()))
    await exchange.start(HOST)
    account = exchange.accounts[0]
    key_file = data_dir.parent / "key.pem"
    key_file.touch(0o600)
    key_file.write_text(account.ed25519_pem)
    facts = {
        "settings": {
            "BINANCE_REST_URL": exchange.url_rest,
            "BINANCE_WS_API_URL": exchange.url_ws_api,
            "BINANCE_STREAM_URL": exchange.url_stream,
            "BINANCE_API_KEY": account.ed25519_api_key,
            "BINANCE_PRIVATE_KEY_FILE": str(key_file),
            "BINANCE_PAIRS": ",".join(i.pair for i in made.instruments),
            "MAX_ORDERS_KEPT": str(2 * SYMBOLS * (OPEN_EACH + TRADED_EACH)),
        },
        "open": sum(not order.ended for order in made.orders),
        "orders": len(made.orders),
        "trades": len(made.fills),
    }
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    await exchange.stop()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), empty="--empty" in sys.argv[2:]))
