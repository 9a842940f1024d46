"""A dense random walk through a world: bursts of orders of several clients, the market, other people, every fault.

`simulate(folder, seed)` walks, heals, and compares the books; the same seed gives the same walk and the same digest.
"""

from __future__ import annotations

import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from tbx.core.kernel.clock import MS_NS

from ..live_desk import BTC, ETH, ed25519, hmac
from ..live_walk import Walk
from .store import SimStore
from .world import TAKEOVER_MS, World

STEPS = 100  # actions of a walk; about half of them are bursts
BURST_MAX = 36
AWAY_MAX = 4  # actions in a row without a way to trade; then all is mended
OPEN_MAX = 100  # orders of one walk that stay open; the oldest are cancelled beyond it
# What happens, and how often: of itself, by others on our account, and what goes wrong.
LIFE = {
    "burst": 70,
    "cancel_some": 10,
    "cancel_many": 1,
    "close_position": 2,
    "market_moves": 16,
    "market_trades": 16,
    "trade_and_cancel": 6,
    "calm": 6,
}
OTHERS = {"others_trade": 2, "money_moves": 1, "others_cancel": 1}
FAULTS = {
    "request_fault": 8,
    "reports_late": 3,
    "network_slow": 4,
    "connection_cut": 4,
    "process_dies": 3,
    "process_paused": 2,
    "exchange_away": 1,
    "clock_off": 1,
    "own_clock_off": 1,
    "ban": 1,
    "shutdown_announced": 1,
    "store_away": 2,
    "store_slow": 2,
    "store_loses_replies": 2,
    "store_power_cut": 1,
    "redis_fault": 4,
}
WEIGHTS = LIFE | OTHERS | FAULTS


class SimWalk(Walk):
    """One walk through one world."""

    desk: World

    def __init__(self, desk: World, seed: int, without: frozenset[str] = frozenset()) -> None:
        super().__init__(desk, seed, without)
        self.names = [name for name in WEIGHTS if name not in without]
        self.weights = [WEIGHTS[name] for name in self.names]
        self.acted: Counter[str] = Counter()
        self.away = 0  # actions in a row that found no way to trade

    def go(self, steps: int) -> None:
        for _ in range(steps):
            name = self.rng.choices(self.names, self.weights)[0]
            self.acted[name] += 1
            what = getattr(self, name)()
            self.told.append(f"{self.desk.world.now_ns() // MS_NS % 10**9} {name}: {what}")
            self.desk.trace.note("act", self.told[-1].encode())
            self._time()

    def _time(self) -> None:
        """Some callbacks, or some milliseconds, rarely some seconds; more of it while orders cannot be sent."""
        rng, desk = self.rng, self.desk
        kind = rng.random()
        away = bool(desk.node.engine.unavailable("binance")) or not desk.node.kernel.store_up
        self.away = self.away + 1 if away else 0
        if self.away > AWAY_MAX:
            self._mend()
            desk.wait(rng.randrange(10_000))
        elif away and kind < 0.7:
            desk.network.silent = desk.network.silent and kind < 0.2
            desk.wait(rng.randrange(4_000))
        elif kind < 0.45:
            for _ in range(rng.randrange(60)):
                desk.world.step()
        elif kind < 0.95:
            desk.wait(rng.randrange(30))
        else:
            desk.wait(rng.randrange(3_000))

    # --- commands

    def burst(self) -> str:
        """Several clients at once: orders, and what is asked of the orders that are there."""
        rng = self.rng
        count = rng.randrange(4, 8 if self.desk.node.engine.unavailable("binance") else BURST_MAX)
        for _ in range(count):
            kind = rng.random()
            if kind < 0.86:
                self.place()
            elif kind < 0.95:
                self.cancel()
            else:
                self.amend()
        self._bound()
        return str(count)

    def _quantity(self, pair: str) -> str:
        most = 300 if self.rng.random() < 0.8 else 1_200
        return str(Decimal(self.rng.randrange(5, most)) / (10_000 if pair == BTC else 1_000))

    def cancel_some(self) -> str:
        orders = self._open()
        chosen = self.rng.sample(orders, min(len(orders), self.rng.randrange(1, 10)))
        for order in chosen:
            self.desk.ask_cancel(order)
        return str(len(chosen))

    def _bound(self) -> None:
        """No more open than an exchange takes."""
        orders = [order for order in self._open() if order.cancel_requested is None]
        for order in orders[: max(0, len(orders) - OPEN_MAX)]:
            self.desk.ask_cancel(order)

    # --- the market

    def market_moves(self) -> str:
        pair = self.rng.choice((BTC, ETH))
        mid = self.mids[pair] = self._price(pair, 0.006).quantize(Decimal(1))
        self.desk.move(pair, int(mid), str(Decimal(self.rng.randrange(5, 60)) / 10), show=self.rng.random() < 0.8)
        return f"{pair} {mid}"

    def trade_and_cancel(self) -> str:
        """A part of an order trades, nobody is told for a moment, and its owner wants it back."""
        orders = [order for order in self._open() if self.desk.safety.open_there(order.order_id)]
        order = self._some(orders)
        if order is None or order.price_ticks is None:
            return "nothing"
        if self.rng.random() < 0.7:
            self.desk.local.switch(f"late_reports:ms={self.rng.choice((20, 300))},n=2")
        part = (order.left_lots * order.lot * Decimal("0.5")).quantize(order.lot)
        if part:
            side = "SELL" if order.side == "buy" else "BUY"
            self.desk.deal(order.pair, side, order.price_ticks * order.tick, part)
        self.desk.ask_cancel(order)
        return f"{order.order_id} {part}"

    # --- faults

    def process_dies(self) -> str:
        away_ms = self.rng.choice((1, 100, 3_000, 30_000))
        self._written_anew()
        self.desk.restart(away_ms)
        return f"away {away_ms} ms"

    def process_paused(self) -> str:
        """It stands still; either it goes on later, or another one has taken over before it wakes."""
        desk, rng = self.desk, self.rng
        self._written_anew()
        if rng.random() < 0.5:
            paused = desk.pause()
            away_ms = rng.choice((50, 900, 8_000, 40_000))
            desk.wait(away_ms)
            paused.wake()
            return f"for {away_ms} ms"
        paused = desk.pause()
        desk.wait(TAKEOVER_MS + rng.randrange(3_000))
        desk.take_over()
        wakes_ms = rng.choice((0, 1, 30, 2_000, 20_000))
        desk.world.call_in(wakes_ms * MS_NS, paused.wake)
        return f"taken over, wakes {wakes_ms} ms later"

    def _written_anew(self) -> None:
        """A store that came back older is written anew by the process that lives: nobody else has it all."""
        desk = self.desk
        if desk.store.behind:
            desk.store.down = False
            desk.node.kernel.outbox.put("meta", "account", desk.node.account)  # a process that is idle does not notice
            desk.node.kernel.flush_soon()
            desk.until(lambda: not desk.store.behind, "the store is written anew")

    def store_away(self) -> str:
        """Redis refuses, for longer than connections are allowed to be silent too."""
        store = self.desk.store
        away_ms = self.rng.choice((20, 500, 3_000, 12_000, 45_000))
        if not store.down:
            store.down = True
            self.desk.world.call_in(away_ms * MS_NS, setattr, store, "down", False)
        return f"{away_ms} ms"

    def store_slow(self) -> str:
        store = self.desk.store
        store.slow_ns = self.rng.choice((0, 0, 5, 50, 700)) * MS_NS
        return str(store.slow_ns)

    def store_loses_replies(self) -> str:
        self.desk.store.lose_replies = self.rng.randrange(1, 4)
        return str(self.desk.store.lose_replies)

    def store_power_cut(self) -> str:
        """It comes back older; the process that lives writes everything anew with its next commit. Of a cut that took
        back that it is the writer nothing is promised: it ends."""
        self._written_anew()
        desk, away_ms = self.desk, self.rng.choice((0, 10, 2_000))
        lost_ns = min(self.rng.randrange(1_000) * MS_NS, desk.world.now_ns() - desk.began_ns)
        return str(desk.store.power_cut(lost_ns, away_ms * MS_NS))

    def redis_fault(self) -> str:
        """One of those that only a server has: memory, disk, connections, scripts that it forgets."""
        store = self.desk.store
        return store.faults.one() if isinstance(store, SimStore) else "nothing"

    def calm(self) -> None:
        super().calm()
        self.desk.store.slow_ns = 0

    def _mend(self) -> None:
        """Nothing is wrong any more but the consequences."""
        store = self.desk.store
        if isinstance(store, SimStore):
            store.faults.heal()
        store.down, store.slow_ns, store.lose_replies = False, 0, 0
        self.calm()

    def end(self) -> None:
        """All trouble is over, everything settles, and the books are compared."""
        desk = self.desk
        self._mend()
        self._written_anew()
        for pair, mid in self.mids.items():  # an exit sells when somebody buys
            desk.move(pair, int(mid), "100")
        desk.heal()
        desk.safety.look()
        desk.check()


class Result(msgspec.Struct, kw_only=True):
    """What came of one seed."""

    seed: int
    orders: int = 0  # that the exchange has taken
    fills: int = 0
    commits: int = 0
    steps: int = 0  # callbacks
    restarts: int = 0
    takeovers: int = 0
    virtual_ns: int = 0
    wall_s: float = 0.0
    faults: dict[str, int] = {}
    digest: str = ""
    failure: str = ""  # what was violated; empty where all was well
    told: list[str] = []  # then the last actions
    trace: list[str] = []  # and the last of all that happened


def options_of(seed: int) -> dict[str, Any]:
    """Some seeds have the exchange's rate limits on, a small memory, another kind of key, a stop on every entry, or a
    risk service that answers late, with less than was asked for, or not at all."""
    options: dict[str, Any] = {"signer": hmac if seed % 4 == 0 else ed25519}
    if seed % 10 == 3:
        options["limited"] = True
    if seed % 10 == 5:
        options |= {"MAX_ORDERS_KEPT": "50", "MAX_TRADES_KEPT": "50"}
    if seed % 3 == 1:
        options["STOP_LOSS_ENABLED"] = "true"
    if seed % 7 == 2:
        options["risk_service"] = True
    return options


def simulate(
    folder: Path, seed: int, steps: int = STEPS, without: frozenset[str] = frozenset(), **options: Any
) -> Result:
    """One seed from beginning to end; a violation is in the result, never raised."""
    begun_s = time.perf_counter()
    world = World(folder, seed=seed, **options_of(seed) | options)
    begun_ns = world.world.now_ns()
    walk = SimWalk(world, seed, without)
    result = Result(seed=seed)
    try:
        walk.go(steps)
        walk.end()
    except Exception as error:  # what the product raises is found too
        what = str(error) if isinstance(error, AssertionError) else repr(error)
        result.failure = str(world.safety.first or what).partition("\n")[0] or "an assertion"
        result.told, result.trace = walk.told[-15:], world.trace.words()
    result.orders, result.fills = len(world.safety.taken), world.safety.fills_made
    result.commits, result.steps = world.store.commits, world.world.steps
    result.restarts, result.takeovers = world.restarts, world.takeovers
    result.virtual_ns = world.world.now_ns() - begun_ns
    result.faults = {name: count for name, count in walk.acted.items() if name in FAULTS}
    result.digest = world.trace.digest
    result.wall_s = time.perf_counter() - begun_s
    return result
