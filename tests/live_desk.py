"""A whole node that trades live, in virtual time, on the real local exchange: no sockets, no sleeps, any fault.

The exchange is `LocalExchange` with its engine, its protocol and its faults; the venue is `BinanceVenue`; between them
lies `live_network`. The books of the node are those of the exchange, shown to it by hand. `restart` is kill -9 at this
moment, `cut` a lost connection, `heal` the end of all trouble; `check` compares what the exchange says of the account
with what the node says of its orders, fills, balances and positions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tbx.core.kernel.clock import MS_NS, SECOND_NS, Clock
from tbx.core.kernel.kernel import CommitStore
from tbx.core.market.data import MarketData, StoredBook
from tbx.core.model.errors import StoreError
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import AmendOrder, CancelOrder, Faulted, Refusal, SubmitOrder, Submitted
from tbx.core.model.records import Fill, Order
from tbx.core.settings import Settings, load_settings
from tbx.core.state.lease import Lease
from tbx.core.state.memory import MemoryStore
from tbx.core.state.store import Loaded
from tbx.http.composition import Node
from tbx.http.exchanges import Core, LiveVenue, MarketSource, Trouble
from tbx.venues.binance.client import BinanceVenue
from tbx.venues.binance.instruments import read_exchange_info
from tbx.venues.binance.signing import Ed25519Signer, HmacSigner, Signer
from tbx.venues.client import VenueStatus
from tbx.venues.simulator.binance.accounts_keys import TestAccount
from tbx.venues.simulator.binance.server import LocalExchange, units
from tbx.venues.simulator.exchange.records import UNIT, AccountTrade, Event, Execution, NewOrder, PublicTrade, Trade
from tbx.venues.simulator.exchange.records import Order as TheirOrder

from .desk import HandMarket, loaded_from
from .live_check import check
from .live_network import LiveNetwork, ProcessClock, Stepped
from .risk_off import NO_RISK_LIMITS

BTC, ETH = "BTC_USDT", "ETH_USDT"
SYMBOLS = {BTC: "BTCUSDT", ETH: "ETHUSDT"}
PRICES = {BTC: 60_000, ETH: 3_000}
MIRROR_NS = 1_000 * MS_NS  # between two looks of the node at the books
COMMIT_NS = 200_000  # how long the store takes
KEY = "desk:" + "0" * 64 + ":read+trade+admin"


class Answer:
    """What a command was answered; `values` holds one thing, or nothing yet."""

    def __init__(self, process: int) -> None:
        self.process = process
        self.values: list[Any] = []


class Here:
    """The exchanges of the node: the local one, on the network in memory."""

    depth_max = 1_000
    warnings: Sequence[str] = ()
    shown = "the local exchange in memory"
    account = "binance at memory"

    def __init__(self, desk: LiveDesk) -> None:
        self.desk = desk
        self.instruments: Sequence[Instrument] = desk.instruments
        self.venue: BinanceVenue | None = None

    def source(self, clock: Clock, market: MarketData, _: Iterable[StoredBook], trouble: Trouble) -> MarketSource:
        return HandMarket(clock, market)

    def live_venues(self, core: Core, /) -> list[LiveVenue]:
        desk = self.desk
        self.venue = BinanceVenue(
            core.kernel,
            desk.clock,
            desk.network.connector(desk.clock),
            "ws://memory/ws-api/v3",
            desk.signer,
            self.instruments,
            ours=lambda client_id: core.ids.order_of(client_id) is not None,
            jitter=core.jitter,
            on_trouble=core.trouble,
            on_fees=lambda pair, fees: core.set_fees("binance", pair, fees.maker, fees.taker),
            account_id=core.account_id,
            **desk.session,
        )
        return [self.venue]

    async def close(self) -> None:
        """Nothing is open."""

    def market_status(self) -> Mapping[str, VenueStatus]:
        return {}


def ed25519(account: TestAccount) -> Signer:
    key = load_pem_private_key(account.ed25519_pem.encode(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return Ed25519Signer(account.ed25519_api_key, key)


def hmac(account: TestAccount) -> Signer:
    return HmacSigner(account.hmac_api_key, account.hmac_secret_key)


class Watched(LocalExchange):
    """The exchange, with all that it ever did to accounts' orders."""

    def __init__(self, clock: Stepped, **options: Any) -> None:
        self.done: list[Execution] = []
        self.on_execution: Callable[[Execution], object] | None = None
        self.on_trade: Callable[[Trade], object] | None = None
        super().__init__(None, clock, **options)  # type: ignore[arg-type]

    def _sink(self, event: Event) -> None:
        if type(event) is Execution:
            self.done.append(event)
            if self.on_execution is not None:
                self.on_execution(event)
        elif type(event) is PublicTrade and self.on_trade is not None:
            self.on_trade(event.trade)
        super()._sink(event)


class LiveDesk:
    """One node and one exchange. `world` is everybody's time, `clock` the node's."""

    world_type: type[Stepped] = Stepped

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 1,
        signer: Callable[[TestAccount], Signer] = ed25519,
        limited: bool = False,
        ready: bool = True,
        session: Mapping[str, int] | None = None,
        **settings: str,
    ) -> None:
        self.rng = random.Random(seed)
        self.world = self.world_type()
        self.local = Watched(self.world, seed=seed, limited=limited)
        self.exchange = self.local.exchange
        self.network = LiveNetwork(self.world, self.local, random.Random(f"{seed}:network"))
        self.me, self.other = (account.name for account in self.local.accounts)
        self.signer = signer(self.local.accounts[0])
        self.session = dict(session or {})
        self.instruments = self._listed()
        self.settings = self._settings(folder, settings)
        self.store = self._new_store()
        self.archived: dict[str, tuple[Order, list[Fill]]] = {}
        self.faults: list[str] = []
        self.troubles: list[str] = []
        self.answers: list[Answer] = []
        self.process = 0
        self.foreign = 0  # things that others did on our account
        for pair, price in PRICES.items():
            self.fill_book(pair, price)
        self._shown: dict[str, int] = {}  # the update of each pair's book that the node was shown
        self._start()
        self.world.call_in(MIRROR_NS, self._mirror_again)
        self.local.on_trade = lambda trade: self.world.call_in(self.network.takes_ns("down"), self._traded, trade)
        if ready:
            self.until(lambda: not self.node.engine.unavailable("binance"), "orders can be sent")

    def _listed(self) -> list[Instrument]:
        _, _, body = self.local.rest.handle("GET", "/api/v3/exchangeInfo", b"", b"", {})
        return [i for i in read_exchange_info(body).instruments if i.pair in SYMBOLS]

    @staticmethod
    def _settings(folder: Path, more: Mapping[str, str]) -> Settings:
        given = {
            "MARKET": "binance",
            "PAPER_TRADING": "false",
            "LIVE_TRADING": "true",
            "BINANCE_API_KEY": "k",
            "BINANCE_API_SECRET": "s",
            "BINANCE_PAIRS": f"{BTC},{ETH}",
            "API_KEYS": KEY,
            **NO_RISK_LIMITS,
            "DEFAULT_ORDER_TIMEOUT": "0",
            **more,
        }
        return load_settings(given, folder)

    # --- the process

    def _new_store(self) -> MemoryStore:
        return MemoryStore(self.world.call_soon)

    def _open_store(self) -> tuple[CommitStore, Loaded, int]:
        """For the process that begins on `clock`: where it commits, what was committed, and its epoch."""
        clock = self.clock
        self.store._call_soon = lambda done, *args: clock.call_in(COMMIT_NS, done, *args)
        epoch = self.store.acquire()
        return self.store.writer(epoch), loaded_from(self.store), epoch

    def _start(self) -> None:
        self.process += 1
        self.clock = ProcessClock(self.world)
        clock = self.clock
        store, loaded, epoch = self._open_store()
        self.clock.epoch = epoch
        here = Here(self)
        self.node = Node(
            self.settings,
            self.clock,
            store,
            loaded,
            self._archive,
            self._archived_trades,
            epoch=epoch,
            run=f"{self.process:x}",
            exchanges=here,
            lease=Lease(self.world.now_ns),  # of the machine: setting its clock does not move it
            on_fatal=partial(self._fatal, clock),
            on_fault=partial(self._fault, clock),
            on_trouble=self.troubles.append,
        )
        assert isinstance(self.node.source, HandMarket)
        self.hand = self.node.source
        self.node.start()
        assert here.venue is not None
        self.venue = here.venue
        self._shown.clear()
        self.mirror()

    def _archive(self, orders: Any, trades: Any, done: Callable[[StoreError | None], None]) -> None:
        """Its own thread takes a while."""
        fills = [msgspec.json.decode(trade.json, type=Fill) for trade in trades]
        for row in orders:
            order = msgspec.json.decode(row.json, type=Order)
            self.archived[order.order_id] = (order, [f for f in fills if f.order_id == order.order_id])
        self.clock.call_in(MS_NS, done, None)

    def _archived_trades(self, client_id: str, found: Callable[[frozenset[str]], None]) -> None:
        sent_as = self.node.orders.sent_as
        known = [fill for order, fills in self.archived.values() if sent_as(order, client_id) for fill in fills]
        self.clock.call_in(MS_NS, found, frozenset(fill.trade_id for fill in known))

    def every(self) -> dict[str, tuple[Order, list[Fill]]]:
        """Each order with its fills, held or in the archive."""
        orders = self.node.orders
        held = {order_id: (order, orders.fills_of(order_id)) for order_id, order in orders.orders.items()}
        return {**self.archived, **held}

    def _fault(self, clock: ProcessClock, fault: Faulted, error: Exception) -> None:
        """A process has found a bug of ours."""
        self.faults.append(f"{fault.where}: {fault.error}")

    def _fatal(self, clock: ProcessClock, error: StoreError) -> None:
        """A process has heard that it is not the writer any more: it ends."""
        clock.alive = False
        self.network.process_died(clock)

    def kill(self) -> None:
        """kill -9: what it has committed and sent is all that is left of it."""
        self.clock.alive = False
        self.network.process_died(self.clock)

    def restart(self, away_ms: int = 1_000) -> None:
        """The process dies now, with whatever it had not committed; the next one begins `away_ms` later."""
        self.kill()
        self.world.advance(away_ms * MS_NS)
        self._start()

    def cut(self, *, lost: bool = True) -> None:
        """Every connection breaks now; what is on its way is lost, or else still reaches the exchange."""
        self.network.cut(lost=lost)

    # --- time

    def wait(self, milliseconds: int = 50) -> None:
        self.world.advance(milliseconds * MS_NS)

    def until(self, condition: Callable[[], object], what: str, within_s: int = 120) -> None:
        """Let time pass, callback by callback, until it is so."""
        end_ns = self.world.now_ns() + within_s * SECOND_NS
        while not condition():
            self.world.step()
            assert self.world.now_ns() < end_ns, f"never: {what}; troubles: {self.troubles[-5:]}"

    def heal(self) -> None:
        """No more faults, and time for everything to settle."""
        self.local.faults.clear()
        network = self.network
        network.more_ns, network.spread_ns = {"up": 0, "down": 0}, 0
        network.refusal, network.silent = None, False
        self.until(self.settled, "all is settled", 600)
        self.wait(65_000)  # balances are looked at once more
        self.until(self.settled, "all is settled")

    def settled(self) -> bool:
        node = self.node
        open_orders = node.orders.open.values()
        asked = any(
            o.cancel_requested or o.amend_requested or o.state.value in ("SENT", "UNKNOWN") for o in open_orders
        )
        quiet = not len(self.venue.connection.inflight) and not len(self.venue.connection.talks)
        return not asked and quiet and node.recovery.settled and not node.engine.unavailable("binance")

    # --- the market

    def fill_book(self, pair: str, price: int, quantity: str = "1") -> None:
        """Three levels a side."""
        for distance in (1, 2, 3):
            self.quote(pair, "BUY", price - distance * price // 1_000, quantity, show=False)
            self.quote(pair, "SELL", price + distance * price // 1_000, quantity, show=False)

    def quote(self, pair: str, side: str, price: Any, quantity: Any, *, show: bool = True) -> None:
        """The house shows so much there; orders that it crosses trade."""
        self.local.quote(SYMBOLS[pair], side, price, quantity)
        if show:
            self.mirror()

    def move(self, pair: str, price: int, quantity: str = "1", *, show: bool = True) -> None:
        """The house goes to another price, with new levels around it; orders in between trade."""
        house = self.local.houses[SYMBOLS[pair]]
        _, bids, asks = self.exchange.book(SYMBOLS[pair]).depth()
        for side, levels in (("BUY", bids), ("SELL", asks)):
            for at, _ in levels:
                house.set_level(side, at, 0)
        self.fill_book(pair, price, quantity)
        if show:
            self.mirror()

    def deal(self, pair: str, side: str, price: Any, quantity: Any) -> None:
        """The house trades with what rests."""
        self.local.deal(SYMBOLS[pair], side, price, quantity)
        self.mirror()

    def mirror(self) -> None:
        """Show the node the books as they are."""
        if not self.clock.alive or self.clock.paused:
            return
        self.node.market.alive("binance", self.clock.now_ns())
        for pair, symbol in SYMBOLS.items():
            update_id = self.exchange.book(symbol).update_id
            if self._shown.get(pair) == update_id:
                continue
            self._shown[pair] = update_id
            _, bids, asks = self.exchange.book(symbol).depth(20)
            levels = [[(text(price), text(qty)) for price, qty in side] for side in (bids, asks)]
            self.hand.snapshot("binance", pair, *levels)

    def _traded(self, trade: Trade) -> None:
        """Show the node a trade of the market."""
        if self.clock.alive and not self.clock.paused:
            pair = next(pair for pair, symbol in SYMBOLS.items() if symbol == trade.symbol)
            maker = trade.buyer_is_maker
            self.hand.trade("binance", pair, text(trade.price), text(trade.qty), buyer_is_maker=maker)

    def _mirror_again(self) -> None:
        self.world.call_in(MIRROR_NS, self._mirror_again)
        self.mirror()

    # --- others on our account

    def foreign_order(self, pair: str, side: str, price: Any, quantity: Any, tif: str = "IOC") -> TheirOrder:
        """Somebody else's order with our account, straight at the exchange."""
        self.foreign += 1
        new = NewOrder(SYMBOLS[pair], side, "LIMIT", tif, units(str(quantity)), price=units(str(price)))
        return self.exchange.place(self.me, new).order

    def deposit(self, asset: str, amount: Any) -> None:
        self.foreign += 1
        self.local.deposit(self.me, asset, str(amount))

    # --- commands

    def command(self, make: Callable[[Callable[[Any], None]], Any]) -> Answer:
        """Give a command; its answer comes in time."""
        answer = Answer(self.process)
        self.answers.append(answer)
        self.node.kernel.input(make(answer.values.append))
        return answer

    def _ask(self, make: Callable[[Callable[[Any], None]], Any], wait_ms: int) -> Any:
        answer = self.command(make)
        self.until(lambda: answer.values, "an answer", 30)
        self.wait(wait_ms)
        assert len(answer.values) == 1, f"answered {len(answer.values)} times"
        return answer.values[0]

    def submission(self, side: str, quantity: str, **more: Any) -> Callable[[Callable[[Any], None]], SubmitOrder]:
        fields: dict[str, Any] = {"pair": BTC, "exchange": "binance", **more}
        fields.setdefault("type", "limit" if "price" in fields else "market")
        for name in ("price", "stop_price", "stop_loss", "take_profit"):
            if name in fields:
                fields[name] = Decimal(str(fields[name]))
        return lambda reply: SubmitOrder(side=side, quantity=Decimal(quantity), reply=reply, **fields)  # type: ignore[arg-type]

    def submit(self, side: str = "buy", quantity: str = "0.01", *, wait_ms: int = 0, **more: Any) -> Any:
        """Submitted or Refusal; at the market, or with `price` a limit order, of BTC_USDT."""
        return self._ask(self.submission(side, quantity, **more), wait_ms)

    def order(self, side: str = "buy", quantity: str = "0.01", *, wait_ms: int = 50, **more: Any) -> Order:
        """The order that was submitted, after the venue had time to answer."""
        answer = self.submit(side, quantity, wait_ms=wait_ms, **more)
        assert isinstance(answer, Submitted), answer
        return self.get(answer.order.order_id)

    def sent(self, side: str = "buy", quantity: str = "0.01", **more: Any) -> Order:
        """The order as it is on its way: nothing has answered yet."""
        return self.order(side, quantity, wait_ms=0, **more)

    def ask_cancel(self, order: Order) -> Answer:
        return self.command(lambda reply: CancelOrder(order_id=order.order_id, reply=reply))

    def ask_amend(self, order: Order, **change: Any) -> Answer:
        numbers = {name: Decimal(str(value)) for name, value in change.items()}
        return self.command(lambda reply: AmendOrder(order_id=order.order_id, reply=reply, **numbers))

    def cancel(self, order: Order, wait_ms: int = 50) -> Any:
        return self._ask(lambda reply: CancelOrder(order_id=order.order_id, reply=reply), wait_ms)

    def amend(self, order: Order, wait_ms: int = 50, **change: Any) -> Any:
        numbers = {name: Decimal(str(value)) for name, value in change.items()}
        return self._ask(lambda reply: AmendOrder(order_id=order.order_id, reply=reply, **numbers), wait_ms)

    # --- looking

    def get(self, order: Order | str | None) -> Order:
        """As the present process has it."""
        found = self.node.orders.get(order.order_id if isinstance(order, Order) else order or "")
        assert found is not None, f"no order {order}"
        return found

    def state(self, order: Order | str | None) -> str:
        return self.get(order).state.value

    def theirs(self, order: Order | None = None) -> list[TheirOrder]:
        """Orders at the exchange that this node placed, or the attempts of one order, first to last."""
        every = [live.order for s in SYMBOLS.values() for live in self.exchange.seat(self.me, s).orders.values()]
        return [o for o in every if (self.ours(o) == order.order_id if order is not None else self.ours(o))]

    def ours(self, order: TheirOrder) -> str:
        """The id of our order that an order at the exchange is an attempt of; empty where it is none, and its client id
        where it is one that nobody here knows of."""
        name = self.named(order)
        order_id = order_id_of(name, self.settings.node_id)
        if not order_id:
            return ""
        known = self.node.orders.of_venue_client_id(name)
        if known is not None:
            return known.order_id
        sent_as = self.node.orders.sent_as
        return next((other.order_id for other, _ in self.archived.values() if sent_as(other, name)), name)

    def attempts(self, order: Order) -> list[int]:
        """Which attempts of an order the exchange has taken."""
        return [int(self.named(o).split("-")[3], 36) for o in self.theirs(order)]

    def named(self, order: TheirOrder) -> str:
        """The client id that an order was placed with: somebody else's amendment may have changed it."""
        changes = self.exchange.amendments(self.me, order.symbol, order.order_id, limit=1)
        return changes[0].old_client_id if changes else order.client_order_id

    def one(self, order: Order) -> TheirOrder:
        """The only attempt of an order at the exchange."""
        (found,) = self.theirs(order)
        return found

    def trades(self) -> list[AccountTrade]:
        """All of our account."""
        return [t for symbol in SYMBOLS.values() for t in self.exchange.seat(self.me, symbol).trades]

    def total(self, currency: str) -> Decimal:
        """In the node's ledger."""
        return self.node.ledger.total("binance", currency)

    def held(self, currency: str) -> Decimal:
        """At the exchange."""
        free, locked = self.exchange.balances(self.me)[currency]
        return amount(free + locked)

    def locked(self, currency: str) -> Decimal:
        return self.total(currency) - self.node.ledger.available("binance", currency)

    def events(self, channel: str = "orders") -> list[tuple[str, dict[str, Any]]]:
        """(type, data) of every committed event of a channel, of all processes."""
        found = []
        for _, raw in self.store.journal:
            for event in json.loads(raw, parse_float=Decimal, parse_int=Decimal):
                if event["channel"] == channel:
                    found.append((event["type"], event["data"]))
        return found

    def corrections(self) -> list[dict[str, Any]]:
        """How the ledger was corrected after it had been compared for the first time."""
        found = [data for kind, data in self.events("portfolio") if kind == "BalanceCorrected"]
        return [data for data in found if data["reason"] != "the account as it was found"]

    def check(self) -> None:
        """After `heal`: the exchange's books, the node's, and what must always be true are one."""
        check(self)


def order_id_of(client_id: str, node: str) -> str:
    """The id of the order that a node's venue client id was made for, by whichever process; empty for others' ids."""
    own, _, rest = client_id.partition(f"tbx-{node}-")
    day, number = rest[:6], rest[6:].partition("-")[0]
    return f"ORD_20{day}_{int(number, 36):06d}" if not own and number else ""


def text(amount_units: int) -> str:
    return f"{amount_units // UNIT}.{amount_units % UNIT:08d}"


def amount(amount_units: int) -> Decimal:
    return Decimal(amount_units) / UNIT


def refused(answer: Any) -> str:
    """The code of a refusal."""
    assert isinstance(answer, Refusal), answer
    return answer.code
