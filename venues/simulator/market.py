"""A market that makes itself up: two exchanges around one fair price per pair, in Binance depth and trade frames.

Always true here:
- Everything random comes from the seed. The n-th step of a pair is the same in every run with the same start prices,
  whatever the clock says; only the event time in a frame ("E", "T") is the clock's.
- Each book is a window of LEVELS prices a side, an even gap apart, around the exchange's mid. A frame never leaves it
  crossed.
- Paper orders change nothing here. What they took comes back because quantities near the top are drawn anew and
  levels come and go.

The fair price is a random walk that is pulled back to the listing's price within hours, so that examples written for
it keep working; the two exchanges stray from it by a few basis points, for seconds.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

from ...core.kernel.clock import MS_NS, SECOND_NS, Clock, Timer
from ...core.market.grid import Grid
from ...core.model.instruments import Instrument
from .instruments import DEPTH_RATIO, LISTINGS, Listing, simulated_instruments

FrameSink = Callable[[str, str, bytes, int], object]  # exchange, pair, frame, local_ns

LEVELS = 100  # prices a side
HALF_SPREAD = 0.75  # from the mid to where quoting begins, in gaps between prices
REDRAWN = 6  # quantities drawn anew at each update
REDRAWN_DEPTH = 6.0  # mean distance of those from the top, in levels
TRADE_SHARE = 0.35  # of updates that begin with a trade
TRADE_SIZE = 0.5  # median of a trade, in basis points of depth
UPDATES_PER_SECOND = 10  # of each book
BOOKS_A_TURN = 2  # updated together: half the wake-ups
OPENINGS_MAX = 2_000  # price texts that a book remembers
VOLATILITY = 1.0e-4  # of the fair price, over a second
PULL = 5.0e-5  # share of the way back to the listing's price, a second
BASIS_NOISE = 0.6  # of an exchange's own mid, an update, in gaps between prices
BASIS_PULL = 0.04  # share of the way back to the fair price, an update


class SimulatedBook:
    """One exchange's book of one pair. `step` returns the frames of what happened."""

    def __init__(self, instrument: Instrument, listing: Listing, price: float, rng: random.Random) -> None:
        depth = listing.depth * (DEPTH_RATIO if instrument.exchange == "binance" else 1)
        self.instrument = instrument
        self.price_grid, self.qty_grid = Grid.of(instrument.tick), Grid.of(instrument.lot)
        self.rng = rng
        self.tick = float(instrument.tick)
        self.gap = max(1, round(listing.gap_bps * 1e-4 * price / self.tick))  # ticks between prices
        self.lots_a_level = depth * (self.gap * self.tick / price * 1e4) / price / float(instrument.lot)
        self.lots_a_trade = TRADE_SIZE * depth / price / float(instrument.lot)
        self.basis_noise = BASIS_NOISE * listing.gap_bps * 1e-4
        self.basis = 0.0  # where this exchange's mid is, relative to the fair price
        self.update_id = 1_000
        self.trade_id = 0
        # Slots are prices in units of `gap`; side 0 is the bids, side 1 the asks.
        self.lots: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.best = [0, 0]
        self.window = [(1, 1), (1, 1)]  # slots that the book holds: from, and below
        self._openings: dict[int, str] = {}  # slot -> the text of a level up to its quantity
        self.changed: tuple[set[int], set[int]] = (set(), set())
        self._quote(price)
        self.changed[0].clear()
        self.changed[1].clear()

    # --- what happens

    def step(self, fair: float, time_ms: int) -> list[bytes]:
        """A trade perhaps, then the quotes follow the fair price; trade frames first, then one depth frame."""
        rng = self.rng
        self.basis += self.basis_noise * rng.gauss(0.0, 1.0) - BASIS_PULL * self.basis
        frames: list[bytes] = []
        if rng.random() < TRADE_SHARE:
            self._trade(frames, time_ms)
        swept = self._quote(fair * (1.0 + self.basis))
        if swept is not None:
            side, slot, lots = swept
            frames.append(self._trade_frame(side, slot, max(1, int(lots * (0.1 + 0.4 * rng.random()))), time_ms))
        for _ in range(REDRAWN):
            side = rng.getrandbits(1)
            self._draw(side, min(LEVELS - 1, int(rng.expovariate(1.0 / REDRAWN_DEPTH))))
        frames.append(self._depth_frame(time_ms))
        return frames

    def _trade(self, frames: list[bytes], time_ms: int) -> None:
        """A market order takes from one side; a level that it empties stays empty until the next update."""
        rng = self.rng
        side = rng.getrandbits(1)
        left = max(1, int(self.lots_a_trade * math.exp(rng.gauss(0.0, 1.0))))
        book, outward = self.lots[side], 1 if side else -1
        for i in range(5):
            slot = self.best[side] + outward * i
            shown = book.get(slot, 0)
            if shown:
                taken = min(shown, left)
                frames.append(self._trade_frame(side, slot, taken, time_ms))
                book[slot] = shown - taken
                self.changed[side].add(slot)
                left -= taken
            if not left:
                return

    def _quote(self, mid: float) -> tuple[int, int, int] | None:
        """Move both windows to the mid; returns (side, slot, lots) of a best price that was swept by the move."""
        ticks = mid / self.tick
        half = HALF_SPREAD * self.gap
        bid = math.floor((ticks - half) / self.gap)
        ask = math.ceil((ticks + half) / self.gap)
        swept = None
        for side, slot in ((0, bid), (1, ask)):
            outward = 1 if side else -1
            book, best = self.lots[side], self.best[side]
            if (slot - best) * outward > 0 and book.get(best):
                swept = (side, best, book[best])
            self._move(side, slot, outward)
        return swept

    def _move(self, side: int, slot: int, outward: int) -> None:
        """Make the window begin at `slot`, drawing what is new and where a trade left nothing."""
        book, changed = self.lots[side], self.changed[side]
        low, high = (slot, slot + LEVELS) if outward > 0 else (slot - LEVELS + 1, slot + 1)
        low = max(low, 1)
        emptied = sorted(s for s in changed if low <= s < high and not book.get(s))
        was_low, was_high = self.window[side]
        if (low, high) != (was_low, was_high):
            for gone in (*range(was_low, min(was_high, low)), *range(max(was_low, high), was_high)):
                del book[gone]
                changed.add(gone)
            self.best[side], self.window[side] = slot, (low, high)
            for new in (*range(low, min(high, was_low)), *range(max(low, was_high), high)):
                self._draw(side, (new - slot) * outward)
        for s in emptied:
            self._draw(side, (s - slot) * outward)

    def _draw(self, side: int, i: int) -> None:
        """A new quantity at the i-th price; the first prices hold less than those behind."""
        slot = self.best[side] + (i if side else -i)
        if slot >= 1:
            mean = self.lots_a_level * (0.5 + min(i, 20) / 20)
            self.lots[side][slot] = max(1, int(mean * (0.15 + self.rng.expovariate(1.0))))
            self.changed[side].add(slot)

    # --- frames

    def snapshot(self) -> bytes:
        bids = self._levels(0, sorted(self.lots[0], reverse=True))
        asks = self._levels(1, sorted(self.lots[1]))
        return f'{{"lastUpdateId":{self.update_id},"bids":[{bids}],"asks":[{asks}]}}'.encode()

    def _levels(self, side: int, slots: Iterable[int]) -> str:
        quantity, lots, openings = self.qty_grid.text, self.lots[side], self._openings
        if len(openings) > OPENINGS_MAX:
            openings.clear()
        return ",".join([f'{openings.get(s) or self._opening(s)}{quantity(lots.get(s, 0))}"]' for s in slots])

    def _opening(self, slot: int) -> str:
        self._openings[slot] = text = f'["{self.price_grid.text(slot * self.gap)}","'
        return text

    def _depth_frame(self, time_ms: int) -> bytes:
        bids, asks = self.changed
        first = self.update_id + 1
        self.update_id += max(1, len(bids) + len(asks))
        frame = (
            f'{{"e":"depthUpdate","E":{time_ms},"s":"{self.instrument.symbol}","U":{first},"u":{self.update_id},'
            f'"b":[{self._levels(0, sorted(bids, reverse=True))}],"a":[{self._levels(1, sorted(asks))}]}}'
        )
        bids.clear()
        asks.clear()
        return frame.encode()

    def _trade_frame(self, side: int, slot: int, lots: int, time_ms: int) -> bytes:
        self.trade_id += 1
        return (
            f'{{"e":"trade","E":{time_ms},"s":"{self.instrument.symbol}","t":{self.trade_id},'
            f'"p":"{self.price_grid.text(slot * self.gap)}","q":"{self.qty_grid.text(lots)}","T":{time_ms},'
            f'"m":{"false" if side else "true"},"M":true}}'
        ).encode()


class SimulatedPair:
    """The fair price of a pair and its book at each exchange, which are updated in turn."""

    def __init__(self, books: dict[str, SimulatedBook], price: float, listed: float, rng: random.Random) -> None:
        self.books = books
        self.turns = list(books)
        self.listed = listed
        self.away = math.log(price / listed)  # how far the fair price is from the listing's
        self.rng = rng
        self.steps = 0
        self.step_s = 1.0 / (UPDATES_PER_SECOND * len(books))

    @property
    def fair(self) -> float:
        return self.listed * math.exp(self.away)

    def step(self, time_ms: int) -> tuple[str, list[bytes]]:
        self.away += VOLATILITY * math.sqrt(self.step_s) * self.rng.gauss(0.0, 1.0) - PULL * self.step_s * self.away
        exchange = self.turns[self.steps % len(self.turns)]
        self.steps += 1
        return exchange, self.books[exchange].step(self.fair, time_ms)


class SimulatedMarket:
    """Feeds `sink(exchange, pair, frame, local_ns)`; `MarketData.frame` is one.

    `start_prices` continue where an earlier run left off: stored mid prices by pair.
    """

    def __init__(
        self,
        clock: Clock,
        sink: FrameSink,
        *,
        seed: int,
        start_prices: Mapping[str, Decimal] | None = None,
        instruments: Iterable[Instrument] | None = None,
    ) -> None:
        self.clock = clock
        self.sink = sink
        self.instruments = list(instruments) if instruments is not None else simulated_instruments()
        self.pairs = self._pairs(seed, start_prices or {})
        self._order = list(self.pairs)
        self._turn = 0
        self._interval_ns = BOOKS_A_TURN * SECOND_NS // UPDATES_PER_SECOND // max(1, len(self.instruments))
        self._timer: Timer | None = None

    def _pairs(self, seed: int, start_prices: Mapping[str, Decimal]) -> dict[str, SimulatedPair]:
        listings = {listing.pair: listing for listing in LISTINGS}
        by_pair: dict[str, list[Instrument]] = {}
        for instrument in self.instruments:
            by_pair.setdefault(instrument.pair, []).append(instrument)
        pairs = {}
        for pair, instruments in by_pair.items():
            listing = listings[pair]
            listed = float(listing.price)
            price = float(start_prices.get(pair) or listed)
            books = {
                i.exchange: SimulatedBook(i, listing, price, random.Random(f"{seed}:{pair}:{i.exchange}"))
                for i in instruments
            }
            pairs[pair] = SimulatedPair(books, price, listed, random.Random(f"{seed}:{pair}"))
        return pairs

    def start(self) -> None:
        """Snapshots of every book, then updates, a few books at a time, each UPDATES_PER_SECOND times a second."""
        for pair, simulated in self.pairs.items():
            for exchange in simulated.books:
                self.snapshot(exchange, pair)
        self._timer = self.clock.call_in(self._interval_ns, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resync(self, exchange: str, pair: str) -> None:
        """A snapshot soon, as an exchange would answer a request for one."""
        self.clock.call_soon(self.snapshot, exchange, pair)

    def snapshot(self, exchange: str, pair: str) -> None:
        self.sink(exchange, pair, self.pairs[pair].books[exchange].snapshot(), self.clock.now_ns())

    def step(self, pair: str) -> None:
        """One update of the pair's next book."""
        now_ns = self.clock.now_ns()
        exchange, frames = self.pairs[pair].step(now_ns // MS_NS)
        for frame in frames:
            self.sink(exchange, pair, frame, now_ns)

    def _tick(self) -> None:
        self._timer = self.clock.call_in(self._interval_ns, self._tick)
        for _ in range(BOOKS_A_TURN):
            pair = self._order[self._turn]
            self._turn = (self._turn + 1) % len(self._order)
            self.step(pair)
