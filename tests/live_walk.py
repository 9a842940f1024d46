"""A random walk over all that can happen to a live node: orders, the market, other people, and every fault, by seed.

The same seed gives the same walk. `walk(folder, seed, steps)` ends healed and checked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from tbx.core.kernel.clock import MS_NS, SECOND_NS
from tbx.core.model.messages import CancelOrders, ClosePosition
from tbx.core.model.records import Order, SignalData
from tbx.venues.simulator.exchange.records import ExchangeError

from .live_desk import BTC, ETH, PRICES, SYMBOLS, LiveDesk, ed25519, hmac

LOST = ("drop", "mute", "http5xx", "unknown1006", "unknown1007")
METHODS = ("order.place", "order.cancel", "order.amend.keepPriority", "order.status+myTrades", "account.status", "any")
# What happens, and how often.
ACTIONS = {
    "place": 45,
    "cancel": 12,
    "amend": 20,
    "cancel_many": 1,
    "close_position": 2,
    "market_moves": 10,
    "market_trades": 10,
    "others_trade": 3,
    "money_moves": 2,
    "others_cancel": 1,
    "request_fault": 8,
    "reports_late": 3,
    "network_slow": 4,
    "connection_cut": 4,
    "process_dies": 2,
    "exchange_away": 1,
    "clock_off": 1,
    "own_clock_off": 1,
    "ban": 1,
    "shutdown_announced": 1,
    "store_away": 1,
    "calm": 6,
}


class Walk:
    """One walk. `told` is what was done, for whoever looks for the reason of a failure."""

    def __init__(self, desk: LiveDesk, seed: int, without: frozenset[str] = frozenset()) -> None:
        self.desk = desk
        self.rng = random.Random(seed)
        self.told: list[str] = []
        self.mids = {pair: Decimal(price) for pair, price in PRICES.items()}
        self.names = [name for name in ACTIONS if name not in without]
        self.weights = [ACTIONS[name] for name in self.names]

    def go(self, steps: int) -> None:
        for _ in range(steps):
            name = self.rng.choices(self.names, self.weights)[0]
            act: Callable[[], object] = getattr(self, name)
            self.told.append(f"{self.desk.world.now_ns() // MS_NS % 10**9} {name}: {act()}")
            self._time()

    def _time(self) -> None:
        """Some callbacks, or some milliseconds, or some seconds; while orders cannot be sent mostly longer."""
        rng, desk = self.rng, self.desk
        kind = rng.random()
        if desk.node.engine.unavailable("binance") and kind < 0.6:
            desk.network.silent = False
            desk.wait(rng.randrange(4_000))
            return
        if kind < 0.45:
            for _ in range(rng.randrange(12)):
                desk.world.step()
        elif kind < 0.9:
            desk.wait(rng.randrange(20))
        else:
            desk.wait(rng.randrange(3_000))

    def _some(self, orders: list[Order]) -> Order | None:
        return self.rng.choice(orders) if orders else None

    def _open(self) -> list[Order]:
        return list(self.desk.node.orders.open.values())

    def _price(self, pair: str, spread: float = 0.004) -> Decimal:
        """Near the mid."""
        tick = Decimal("0.01")
        return (self.mids[pair] * Decimal(1 + self.rng.uniform(-spread, spread))).quantize(tick)

    def _quantity(self, pair: str) -> str:
        return str(Decimal(self.rng.randrange(20, 1_500)) / (1_000 if pair == BTC else 100))

    # --- commands

    def place(self) -> str:
        rng, desk = self.rng, self.desk
        pair, side = rng.choice((BTC, BTC, ETH)), rng.choice(("buy", "sell"))
        owner = ("one", None, "other", "one")[len(desk.answers) % 4]  # not by chance: the seeds keep their walks
        more: dict[str, Any] = {"pair": pair}
        if owner is not None:
            more["signal_data"] = SignalData(strategy=owner)
        kind = rng.random()
        if kind < 0.65:
            more["price"] = self._price(pair)
            more["tif"] = rng.choice(("GTC", "GTC", "GTC", "IOC", "FOK", "GTD"))
            if more["tif"] == "GTD":
                more["expires_ns"] = desk.world.now_ns() + rng.randrange(1, 20) * SECOND_NS
            elif more["tif"] == "GTC":
                more["post_only"] = rng.random() < 0.25
        elif kind < 0.75:
            more["stop_price"], more["type"] = self._price(pair, 0.01), rng.choice(("stop_loss", "take_profit"))
            if rng.random() < 0.3:
                more["price"] = self._price(pair)
        if side == "buy" and kind < 0.95 and "stop_price" not in more and rng.random() < 0.4:
            more["trigger"] = rng.choice(("last", "bid_ask"))
            more["stop_loss"] = self.mids[pair].quantize(Decimal("0.01")) * Decimal("0.994")
            if rng.random() < 0.7:
                more["take_profit"] = self.mids[pair].quantize(Decimal("0.01")) * Decimal("1.006")
            for name in ("stop_loss", "take_profit"):
                if name in more:
                    more[name] = more[name].quantize(Decimal("0.01"))
        quantity = self._quantity(pair)
        desk.command(desk.submission(side, quantity, **more))
        return f"{side} {quantity} {more}"

    def cancel(self) -> str:
        order = self._some(self._open())
        if order is not None:
            self.desk.ask_cancel(order)
        return order.order_id if order is not None else "nothing"

    def amend(self) -> str:
        order = self._some(self._open())
        if order is None:
            return "nothing"
        change: dict[str, Any] = {}
        kind = self.rng.random()
        if kind < 0.7:
            factor = Decimal(str(self.rng.choice((0.3, 0.5, 0.8, 0.95, 1.0, 1.3, 2))))
            change["quantity"] = (order.qty_lots * order.lot * factor).quantize(order.lot)
        if kind > 0.5:
            change["price"] = self._price(order.pair)
        self.desk.ask_amend(order, **change)
        return f"{order.order_id} {change}"

    def cancel_many(self) -> None:
        self.desk.command(lambda reply: CancelOrders(reply=reply))

    def close_position(self) -> str:
        positions = self.desk.node.portfolio.open_positions(paper=False)
        if not positions:
            return "nothing"
        position = self.rng.choice(positions)
        self.desk.command(lambda reply: ClosePosition(position_id=position.position_id, reply=reply))
        return position.position_id

    # --- the market

    def market_moves(self) -> str:
        pair = self.rng.choice((BTC, ETH))
        mid = self.mids[pair] = self._price(pair, 0.006).quantize(Decimal(1))
        self.desk.move(pair, int(mid), str(Decimal(self.rng.randrange(1, 30)) / 10), show=self.rng.random() < 0.7)
        return f"{pair} {mid}"

    def market_trades(self) -> str:
        """The house meets an order of ours, whole or in part."""
        desk = self.desk
        resting = [o for symbol in SYMBOLS.values() for o in desk.exchange.open_orders(desk.me, symbol)]
        if not resting:
            return "nothing"
        order = self.rng.choice(resting)
        pair = next(p for p, s in SYMBOLS.items() if s == order.symbol)
        side = "SELL" if order.side == "BUY" else "BUY"
        part = Decimal(order.quantity) / 10**8 * Decimal(self.rng.choice((0.25, 0.5, 1)))
        desk.deal(pair, side, Decimal(order.price) / 10**8, part.quantize(Decimal("0.001")))
        return f"{order.client_order_id} {part}"

    # --- others on our account

    def others_trade(self) -> str:
        pair, side = self.rng.choice((BTC, ETH)), self.rng.choice(("BUY", "SELL"))
        try:
            order = self.desk.foreign_order(pair, side, self._price(pair), self._quantity(pair))
        except ExchangeError as error:
            return str(error)
        return f"{side} {order.executed}"

    def money_moves(self) -> str:
        asset, sum_ = self.rng.choice(("BTC", "ETH", "USDT", "XRP")), self.rng.choice((1, 2, "0.5", -1, "-0.25", None))
        if sum_ is None:  # nearly all that is free goes
            sum_ = str(-Decimal(self.desk.exchange.balances(self.desk.me).get(asset, (0, 0))[0] * 9 // 10) / 10**8)
        try:
            self.desk.deposit(asset, sum_)
        except ValueError as error:  # less is there
            return str(error)
        return f"{sum_} {asset}"

    def others_cancel(self) -> str:
        desk = self.desk
        resting = [o for o in desk.theirs() if o.open]
        if not resting:
            return "nothing"
        order = self.rng.choice(resting)
        desk.exchange.cancel(desk.me, order.symbol, order.order_id)
        return order.client_order_id

    # --- faults

    def request_fault(self) -> str:
        rng = self.rng
        name = f"{rng.choice(LOST)}_{rng.choice(('before', 'after'))}"
        spec = f"{name}:n={rng.randrange(1, 4)},p={rng.choice((1, 0.5))}"
        if rng.random() < 0.6:
            spec += f",on={rng.choice(METHODS)}"
        self.desk.local.switch(spec)
        return spec

    def reports_late(self) -> str:
        rng = self.rng
        spec = f"late_reports:p=0.5,ms={rng.choice((5, 50, 500, 15_000))},n={rng.randrange(1, 20)}"
        if rng.random() < 0.5:
            spec += f";reorder_reports:n={rng.randrange(1, 10)}"
        self.desk.local.switch(spec)
        return spec

    def network_slow(self) -> str:
        network, rng = self.desk.network, self.rng
        network.spread_ns = rng.choice((0, 0, 5, 100)) * MS_NS
        network.more_ns[rng.choice(("up", "down"))] = rng.choice((0, 0, 20, 3_000, 12_000)) * MS_NS
        return f"{network.spread_ns} {network.more_ns}"

    def connection_cut(self) -> str:
        lost = self.rng.random() < 0.5
        if self.rng.random() < 0.3:
            self.desk.local.close_connections(politely=lost)
            return "by the exchange"
        self.desk.cut(lost=lost)
        return f"lost={lost}"

    def process_dies(self) -> str:
        away_ms = self.rng.choice((1, 100, 3_000, 30_000))
        self.desk.restart(away_ms)
        return f"away {away_ms} ms"

    def exchange_away(self) -> str:
        network = self.desk.network
        network.silent = not network.silent and self.rng.random() < 0.5
        if network.silent:
            self.desk.cut()
        return str(network.silent)

    def clock_off(self) -> str:
        spec = f"skew:ms={self.rng.choice((-20_000, -3_000, 900, 1_500, 20_000))}"
        self.desk.local.switch(spec)
        return spec

    def own_clock_off(self) -> str:
        """The machine's clock is set."""
        self.desk.clock.skew_ns = self.rng.choice((0, -5_000, -900, 700, 4_000, 60_000)) * MS_NS
        return str(self.desk.clock.skew_ns)

    def ban(self) -> str:
        spec = self.rng.choice(("ban418:s=3", "limit429:s=3"))
        self.desk.local.switch(spec)
        return spec

    def shutdown_announced(self) -> None:
        self.desk.local.shut_down(self.rng.choice((0, 500, 5_000)))

    def store_away(self) -> str:
        """Redis refuses for a while."""
        store = self.desk.store
        store.down = not store.down
        if store.down:
            self.desk.world.call_in(self.rng.randrange(3_000) * MS_NS, setattr, store, "down", False)
        return str(store.down)

    def calm(self) -> None:
        self.desk.local.faults.clear()
        self.desk.network.more_ns, self.desk.network.spread_ns = {"up": 0, "down": 0}, 0
        self.desk.network.silent = False


@contextmanager
def last_steps(walked: Walk, seed: int) -> Iterator[None]:
    """What fails is told with the seed and the walk's last steps."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(walked.told[-15:])) from error


def walk(folder: Path, seed: int, steps: int = 200, without: frozenset[str] = frozenset(), **more: Any) -> Walk:
    """Raises AssertionError, with the walk's last steps in it, where the books differ in the end."""
    desk = LiveDesk(folder, seed=seed, signer=hmac if seed % 4 == 0 else ed25519, **more)
    walked = Walk(desk, seed, without)
    with last_steps(walked, seed):
        walked.go(steps)
        desk.store.down = False
        desk.heal()
        desk.check()
    return walked
