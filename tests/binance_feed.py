"""Binance's market data on virtual time: combined streams and depth snapshots of simulated books in a memory network.

Streams go to the connections that subscribed to them; `book` is the truth that a follower's books are compared with.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from tbx.core.kernel.clock import MS_NS, ManualClock
from tbx.core.model.errors import VenueError
from tbx.core.model.instruments import Instrument
from tbx.venues.simulator.instruments import simulated_instruments
from tbx.venues.simulator.market import SimulatedBook, SimulatedMarket

from .memory_network import Connection, Network

INSTRUMENTS = [i for i in simulated_instruments() if i.exchange == "binance"]


class BinanceFeed:
    """The venue's side: a market that moves, who subscribed to what, and what may go wrong."""

    def __init__(self, clock: ManualClock, instruments: Iterable[Instrument] = INSTRUMENTS, seed: int = 5) -> None:
        self.clock = clock
        self.network = Network(clock)
        self.network.on_message = self._message
        self.instruments = list(instruments)
        self.subscribed: dict[Connection, set[str]] = {}
        self.messages: list[tuple[int, Connection, dict[str, Any]]] = []  # (when, where, what)
        self.refusal: dict[str, Any] | None = None  # answers every SUBSCRIBE, while it is set
        self.lose: Callable[[str, bytes], bool] = lambda stream, frame: False  # frames that nobody gets
        self.requests: list[tuple[int, str, int]] = []  # REST: (when, path, weight)
        self.failure: VenueError | None = None  # answers every REST request, while it is set
        self.snapshot_delay_ns = 20 * MS_NS
        self.trades: Counter[str] = Counter()  # of each pair, that were sent to anybody
        self.market = SimulatedMarket(clock, self._frame, seed=seed, instruments=self.instruments)
        self._symbols = {i.pair: i.symbol for i in self.instruments}
        if self.instruments:
            self.market._timer = clock.call_in(0, self.market._tick)  # without the snapshots that `start` hands out

    def book(self, pair: str) -> SimulatedBook:
        return self.market.pairs[pair].books["binance"]

    # --- streams

    def _message(self, connection: Connection, raw: bytes) -> None:
        message = json.loads(raw)
        self.messages.append((self.clock.now_ns(), connection, message))
        if self.refusal is not None:
            connection.send(json.dumps(self.refusal | {"id": message["id"]}).encode())
            return
        self.subscribed.setdefault(connection, set()).update(message["params"])
        connection.send(b'{"result":null,"id":%d}' % message["id"])

    def _frame(self, exchange: str, pair: str, frame: bytes, local_ns: int) -> None:
        symbol = self._symbols[pair]
        is_trade = frame.startswith(b'{"e":"trade"')
        stream = f"{symbol.lower()}@{'trade' if is_trade else 'depth@100ms'}"
        if not self.lose(stream, frame) and self.send(stream, frame) and is_trade:
            self.trades[pair] += 1

    def send(self, stream: str, data: bytes) -> int:
        """To how many it went."""
        listening = [c for c in self.network.live if stream in self.subscribed.get(c, ())]
        for connection in listening:
            connection.send(b'{"stream":"%s","data":%s}' % (stream.encode(), data))
        return len(listening)

    # --- REST

    def get(self, path: str, weight: int, answer: Callable[[bytes | VenueError], None]) -> None:
        self.requests.append((self.clock.now_ns(), path, weight))
        self.clock.call_in(self.snapshot_delay_ns, self._answer, path, answer)

    def _answer(self, path: str, answer: Callable[[bytes | VenueError], None]) -> None:
        if self.failure is not None:
            answer(self.failure)
            return
        symbol = path.partition("symbol=")[2].partition("&")[0]
        pair = next(pair for pair, name in self._symbols.items() if name == symbol)
        # As it is now; its way back takes as long as its way here took.
        self.clock.call_in(self.snapshot_delay_ns, answer, self.book(pair).snapshot())
