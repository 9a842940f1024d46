"""Three books of account: what the exchange, Redis and the API say of the same orders, trades, money and positions.

Always true here: each book is read from its own source (the official SDK, the `redis` package on the socket, HTTP) and
nothing is taken from one to fill in another. Figures are exact.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import redis

from tbx.core.model.exact import ZERO
from tbx.core.model.ids import id_key
from tbx.core.model.records import ENDED, Balance, Fill, Order, Position, State
from tbx.core.portfolio.positions import apply_fill, is_open

from ..live_desk import order_id_of
from ..live_processes import SYMBOLS, Live

WALLET = "binance"
AS_FOUND = "the account as it was found"
AT_VENUE = (State.LIVE, State.PART)
PAGE = 500


class Finding(NamedTuple):
    """What is not as it must be."""

    kind: str  # lost, doubled or differs
    text: str


class OrderLine(NamedTuple):
    """An order as all three books can tell it."""

    filled: Decimal
    is_open: bool
    fees: tuple[tuple[str, Decimal], ...]  # by currency

    def __str__(self) -> str:
        fees = ", ".join(f"{fee.normalize():f} {currency}" for currency, fee in self.fees)
        return f"filled {self.filled.normalize():f}, {'open' if self.is_open else 'not open'}, fees {fees or 'none'}"


class TradeLine(NamedTuple):
    """A trade as all three books can tell it."""

    order_id: str
    side: str
    price: Decimal
    quantity: Decimal
    fee: Decimal
    fee_currency: str
    maker: bool

    def __str__(self) -> str:
        what = f"{self.side} {self.quantity.normalize():f} at {self.price.normalize():f}"
        return f"{self.order_id} {what}, fee {self.fee.normalize():f} {self.fee_currency}, maker {self.maker}"


class Book(NamedTuple):
    """One book. Trades are listed and not keyed, so that one which stands twice shows."""

    name: str
    orders: dict[str, OrderLine]
    trades: list[tuple[tuple[str, str], TradeLine]]  # (pair, the exchange's number), what
    balances: dict[str, Decimal]  # totals, those that are not 0


class Attempt(NamedTuple):
    """One of our orders at the exchange."""

    client_id: str
    is_open: bool
    quantity: Decimal
    executed: Decimal
    price: Decimal


class Event(msgspec.Struct):
    """Of the journal."""

    seq: int
    channel: str
    type: str
    data: msgspec.Raw


class Tables(NamedTuple):
    """What Redis holds."""

    orders: dict[str, Order]
    fills: list[Fill]
    balances: dict[str, Balance]  # by currency
    positions: dict[str, Position]  # by pair


# --- the exchange


There = tuple[Book, dict[str, list[Attempt]]]


def exchange_book(live: Live) -> There:
    """Its book, and the attempts of each of our orders, first to last."""
    node = live.service.settings["NODE_ID"]
    attempts: dict[str, list[Attempt]] = defaultdict(list)
    fees: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    trades = []
    for pair, symbol in SYMBOLS.items():
        ours = {}
        for theirs in live._all(live.first.all_orders, "order_id", symbol):
            order_id = order_id_of(theirs.client_order_id, node)
            if order_id:
                ours[theirs.order_id] = order_id
                is_open = theirs.status in ("NEW", "PARTIALLY_FILLED")
                numbers = (Decimal(theirs.orig_qty), Decimal(theirs.executed_qty), Decimal(theirs.price))
                attempts[order_id].append(Attempt(theirs.client_order_id, is_open, *numbers))
        for t in live._all(live.first.my_trades, "from_id", symbol):
            order_id = ours.get(t.order_id, "")
            side, fee = "buy" if t.is_buyer else "sell", Decimal(t.commission)
            line = TradeLine(
                order_id, side, Decimal(t.price), Decimal(t.qty), fee, str(t.commission_asset), bool(t.is_maker)
            )
            trades.append(((pair, str(t.id)), line))
            fees[order_id][line.fee_currency] += fee
    orders = {}
    for order_id, made in attempts.items():
        executed = sum((a.executed for a in made), ZERO)
        orders[order_id] = OrderLine(executed, any(a.is_open for a in made), _fees(fees[order_id]))
    held = live.first.get_account(omit_zero_balances=True).data().balances or []
    balances = {str(b.asset): Decimal(b.free or 0) + Decimal(b.locked or 0) for b in held}
    return Book("exchange", orders, trades, balances), attempts


def _fees(fees: dict[str, Decimal]) -> tuple[tuple[str, Decimal], ...]:
    return tuple(sorted((currency, fee) for currency, fee in fees.items() if fee))


# --- Redis


def redis_client(socket: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=30)


def redis_tables(client: redis.Redis, node: str) -> Tables:
    """All of one moment."""
    with client.pipeline(transaction=True) as pipe:
        for table in ("orders", "trades", "balances", "positions"):
            pipe.hvals(f"tbx:{node}:{table}")
        orders, trades, balances, positions = pipe.execute()
    known = [msgspec.json.decode(row, type=Order) for row in orders]
    fills = sorted((msgspec.json.decode(row, type=Fill) for row in trades), key=lambda fill: id_key(fill.fill_id))
    money = [msgspec.json.decode(row, type=Balance) for row in balances]
    held = [msgspec.json.decode(row, type=Position) for row in positions]
    return Tables(
        {order.order_id: order for order in known},
        fills,
        {balance.currency: balance for balance in money if balance.wallet == WALLET},
        {position.pair: position for position in held if position.wallet == WALLET},
    )


def redis_book(tables: Tables) -> Book:
    orders = {
        o.order_id: OrderLine(o.filled_lots * o.lot, o.state in AT_VENUE and not o.waiting, _fees(o.fees))
        for o in tables.orders.values()
    }
    trades = [
        (
            (f.pair, f.trade_id),
            TradeLine(f.order_id, f.side, f.price, f.quantity, f.fee, f.fee_currency, f.maker),
        )
        for f in tables.fills
    ]
    return Book("Redis", orders, trades, {b.currency: b.total for b in tables.balances.values() if b.total})


def redis_journal(client: redis.Redis, node: str) -> list[Event]:
    """Every event, in the order of the journal."""
    events: list[Event] = []
    after = "-"
    while True:
        page: Any = client.xrange(f"tbx:{node}:journal", min=after, count=2_000)
        for _, fields in page:
            events += msgspec.json.decode(fields[b"events"], type=list[Event])
        if len(page) < 2_000:
            return events
        after = f"({page[-1][0].decode()}"


def in_flight(orders: Iterable[Order]) -> list[Order]:
    """Those that were sent and not answered."""
    return [o for o in orders if o.state in (State.SENT, State.UNKNOWN) and not o.waiting]


# --- the API


class ApiBook(NamedTuple):
    """The API's book, and what only it and Redis tell."""

    book: Book
    client_ids: dict[str, str]  # orderId -> clientOrderId
    statuses: dict[str, str]
    locked: dict[str, Decimal]  # by currency
    positions: dict[str, Decimal]  # quantities, by pair


def api_book(live: Live) -> ApiBook:
    orders, client_ids, statuses = {}, {}, {}
    for o in _pages(live, "orders"):
        fees = _fees(o["feesByCurrency"])
        orders[o["orderId"]] = OrderLine(o["filledQuantity"], o["status"] in ("open", "partial"), fees)
        client_ids[o["orderId"]], statuses[o["orderId"]] = o["clientOrderId"], o["status"]
    names = ("orderId", "side", "price", "quantity", "fee", "feeCurrency", "maker")
    trades = [((t["pair"], t["tradeId"]), TradeLine(*(t[name] for name in names))) for t in _pages(live, "trades")]
    portfolio = live.get("/api/portfolio")
    balances = {b["currency"]: b["total"] for b in portfolio["balances"] if b["total"]}
    locked = {b["currency"]: b["locked"] for b in portfolio["balances"] if b["locked"]}
    positions = {p["pair"]: p["quantity"] for p in portfolio["positions"]}
    return ApiBook(Book("API", orders, trades, balances), client_ids, statuses, locked, positions)


def _pages(live: Live, what: str) -> Iterator[dict[str, Any]]:
    cursor = ""
    while True:
        page = live.get(f"/api/{what}?limit={PAGE}{cursor}")
        yield from page[what]
        if not page["pagination"]["hasMore"]:
            return
        cursor = f"&cursor={page['pagination']['nextCursor']}"


# --- the comparison


def compare(
    live: Live, client: redis.Redis, acknowledged: dict[str, str], refused: dict[str, str], there: There
) -> list[Finding]:
    """Everything that is lost, doubled or different, of all that was ever traded with this data folder."""
    theirs, attempts = there
    node = live.service.settings["NODE_ID"]
    tables = redis_tables(client, node)
    api = api_book(live)
    ours = redis_book(tables)
    findings = [*_lines(theirs, ours, api.book), *_trades(theirs, ours, api.book)]
    findings += _balances(theirs, ours, api.book)
    findings += _attempts(attempts, tables.orders)
    findings += _intents(tables.orders, api, acknowledged, refused)
    findings += _reservations(tables, api)
    if not findings:  # the journal is long, and tells what the tables do once more
        findings += _journal(redis_journal(client, node), tables, api)
    return findings


def _lines(theirs: Book, ours: Book, api: Book) -> Iterator[Finding]:
    """Orders: filled, fees, and whether they are open."""
    nothing = OrderLine(ZERO, False, ())
    for order_id in sorted(theirs.orders.keys() | ours.orders.keys() | api.orders.keys()):
        told = [book.orders.get(order_id) for book in (theirs, ours, api)]
        if told[0] is None and told[1] == nothing:
            told[0] = nothing  # it never was there, and nothing came of it
        if told[0] == told[1] == told[2]:
            continue
        yield Finding("lost" if None in told else "differs", f"order {order_id}: {_told(told)}")


def _trades(theirs: Book, ours: Book, api: Book) -> Iterator[Finding]:
    books = [dict(book.trades) for book in (theirs, ours, api)]
    for book in (theirs, ours, api):
        for key, count in Counter(key for key, _ in book.trades).items():
            if count > 1:
                yield Finding("doubled", f"trade {key}: {count} times in the book of {book.name}")
    for key in sorted(set().union(*books)):
        told = [book.get(key) for book in books]
        if not told[0] == told[1] == told[2]:
            kind = "lost" if told[0] is not None and None in told else "doubled" if told[0] is None else "differs"
            yield Finding(kind, f"trade {key}: {_told(told)}")


def _balances(theirs: Book, ours: Book, api: Book) -> Iterator[Finding]:
    for currency in sorted(theirs.balances.keys() | ours.balances.keys() | api.balances.keys()):
        told = [book.balances.get(currency, ZERO) for book in (theirs, ours, api)]
        if not told[0] == told[1] == told[2]:
            yield Finding("differs", f"balance {currency}: {_told(told)}")


def _told(told: list[Any]) -> str:
    return "; ".join(f"{name} {line}" for name, line in zip(("exchange", "Redis", "API"), told, strict=True))


def _attempts(attempts: dict[str, list[Attempt]], orders: dict[str, Order]) -> Iterator[Finding]:
    """At most one working order for each order, under the id that is on record, and a client id never twice."""
    names = Counter(a.client_id for made in attempts.values() for a in made)
    for name, count in names.items():
        if count > 1:
            yield Finding("doubled", f"the client id {name} was taken {count} times")
    for order_id, made in attempts.items():
        working = [a for a in made if a.is_open]
        order = orders.get(order_id)
        if len(working) > 1:
            yield Finding("doubled", f"order {order_id} works twice at the exchange: {working}")
        if order is None:
            continue  # told above
        if order.filled_lots > order.qty_lots:
            yield Finding("doubled", f"order {order_id} is filled over its quantity: {order}")
        for a in working:
            price = order.price_ticks * order.tick if order.price_ticks is not None else a.price
            left, needed = order.left_lots * order.lot, a.quantity - a.executed
            if (a.client_id, needed, a.price) != (order.venue_client_id, left, price) and not order.listed:
                yield Finding("differs", f"order {order_id} works as {a}; on record {order}")


def _intents(
    orders: dict[str, Order], api: ApiBook, acknowledged: dict[str, str], refused: dict[str, str]
) -> Iterator[Finding]:
    """Each request that was taken is one order, and no order is there that nobody asked for."""
    entries = {o.order_id: o.client_order_id for o in orders.values() if o.role == "entry"}
    for name, count in Counter(entries.values()).items():
        if count > 1:
            yield Finding(
                "doubled", f"{name} is {count} orders in Redis: {[i for i, n in entries.items() if n == name]}"
            )
        if name not in acknowledged and name not in refused:
            yield Finding("doubled", f"{name} is an order in Redis, and nobody was told so")
    for name, order_id in acknowledged.items():
        if entries.get(order_id) != name:
            yield Finding("lost", f"{name} was acknowledged as {order_id}; in Redis that is {entries.get(order_id)}")
        if api.client_ids.get(order_id) != name:
            yield Finding("lost", f"{name} was acknowledged as {order_id}; API says {api.client_ids.get(order_id)}")
    for order_id, name in entries.items():
        if name in refused and orders[order_id].state is not State.REJECTED:
            yield Finding("doubled", f"{name} was refused ({refused[name]}) and is {orders[order_id].state}")
    for order in orders.values():
        if order.state in (State.SENT, State.UNKNOWN):
            yield Finding("differs", f"order {order.order_id} is still {order.state.value}: {order.reason}")


def _reservations(tables: Tables, api: ApiBook) -> Iterator[Finding]:
    reserved: dict[str, Decimal] = defaultdict(Decimal)
    for order in tables.orders.values():
        if order.state in ENDED and order.reserved:
            yield Finding("differs", f"order {order.order_id} is {order.state.value} and reserves {order.reserved}")
        reserved[order.quote if order.side == "buy" else order.base] += order.reserved
    for currency in sorted(reserved.keys() | api.locked.keys()):
        if reserved[currency] != api.locked.get(currency, ZERO):
            told = f"orders reserve {reserved[currency]} {currency}, the API has {api.locked.get(currency)} locked"
            yield Finding("differs", told)


def _journal(events: list[Event], tables: Tables, api: ApiBook) -> Iterator[Finding]:
    """The journal has no gap, tells each trade once, and with its deposits makes the balances and positions.

    A Redis that was killed while its fsync was slow may come back without its last commits: the service writes it anew
    from memory, and the journal begins there. What came in before is what the balances say that flowed."""
    anew = bool(events) and events[0].seq > 1
    for before, after in pairwise(events):
        if after.seq != before.seq + 1:
            yield Finding("lost", f"the journal goes from {before.seq} to {after.seq}")
    totals: dict[str, Decimal] = defaultdict(Decimal)
    told: Counter[str] = Counter()
    for event in events:
        data = json.loads(bytes(event.data), parse_float=Decimal, parse_int=Decimal)
        if event.type == "TradeExecuted":
            told[data["fillId"]] += 1
        elif event.type == "Deposited" and data["wallet"] == WALLET and not anew:
            totals[data["currency"]] += data["amount"]
        elif event.type == "BalanceCorrected" and data["reason"] != AS_FOUND:
            yield Finding("differs", f"the ledger was corrected, and nobody else trades here: {data}")
    kept = Counter(fill.fill_id for fill in tables.fills)
    if anew:
        totals.update((currency, balance.flows) for currency, balance in tables.balances.items())
    if told - kept or (kept - told and not anew):
        yield Finding("differs", f"trades of journal and table differ: {(told - kept) + (kept - told)}")
    positions: dict[str, Position] = {}
    lots = {order.pair: order.lot for order in tables.orders.values()}
    for fill in tables.fills:
        order, sign = tables.orders[fill.order_id], 1 if fill.side == "buy" else -1
        totals[order.base] += sign * fill.quantity
        totals[order.quote] -= sign * fill.cost
        totals[fill.fee_currency] -= fill.fee
        position = positions.setdefault(
            fill.pair, Position(position_id="", wallet=fill.wallet, exchange=fill.exchange, pair=fill.pair)
        )
        apply_fill(position, fill, base=order.base, quote=order.quote, lot=order.lot, new_id=str)
    for currency, balance in tables.balances.items():
        if totals[currency] != balance.total:
            yield Finding("differs", f"the journal makes {totals[currency]} {currency}, on record is {balance.total}")
    for pair, made in positions.items():
        kept_one = tables.positions.get(pair)
        if kept_one is None or (made.quantity, made.cost, made.realised) != (
            kept_one.quantity,
            kept_one.cost,
            kept_one.realised,
        ):
            yield Finding("differs", f"the fills make the position {made}, on record is {kept_one}")
        shown = made.quantity if is_open(made, lots[pair]) else ZERO
        if api.positions.get(pair, ZERO) != shown:
            yield Finding("differs", f"position {pair}: Redis {shown}, API {api.positions.get(pair)}")
