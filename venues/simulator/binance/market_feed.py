"""What moves the books of the local exchange: nothing, the simulated market, or a recording.

Always true here: a market speaks in Binance frames, and the house of a symbol turns them into orders in the same queues
as the users'; `fed(symbol)` is called after each, so that what it caused is sent at once. Chance comes from the seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from ....core.kernel.clock import MS_NS, SECOND_NS, Clock
from ....core.kernel_cache import warm_up
from ....core.model.errors import SettingsError
from ....core.model.instruments import Instrument
from ..exchange.house import House
from ..exchange.listings import extra, symbols, to_symbol
from ..exchange.records import UNIT, Symbol
from ..instruments import LISTINGS, Listing
from ..market import UPDATES_PER_SECOND, SimulatedBook, SimulatedPair
from ..replay import frames
from ..replay_market import SURVEY_FRAMES_MAX, ReplayMarket, survey
from .beat import Beat

MARKETS = "none, simulated or replay:FILE"
TURN_NS_MIN = 5_000_000  # between turns of the simulated market; more symbols share a turn then
EXTRA_DEPTH = 900  # quote currency at each basis point, of symbols without a listing of their own
LADDER_LEVELS = 20  # a side, where there is no market and somebody moves the price
LADDER_GAP_BPS = 1
LADDER_NOTIONAL = 10_000 * UNIT  # quote currency at each of its prices

Fed = Callable[[str], object]


class MarketFeed(Protocol):
    """A source of liquidity for the houses."""

    running: bool

    def start(self, houses: Mapping[str, House], fed: Fed) -> None:
        """Goes on from where it stopped."""
        ...

    def stop(self) -> None: ...

    def move(self, house: House, price: int) -> bool:
        """Brings the symbol's price there in its own way; False where it cannot."""
        ...


def feed_of(
    market: str, clock: Clock, seed: int, listed: Sequence[Symbol] | None, extra_count: int, say: Callable[[str], None]
) -> tuple[MarketFeed, list[Symbol]]:
    """The market that a setting names, and the symbols of an exchange with it.

    `listed` None is the simulated market's pairs, or what a recording holds. Raises SettingsError, CaptureError.
    """
    if market.startswith("replay:"):
        replayed = ReplayFeed(clock, Path(market.removeprefix("replay:")), say)
        return replayed, [*(listed if listed is not None else replayed.symbols), *extra(extra_count)]
    chosen = [*(listed if listed is not None else symbols()), *extra(extra_count)]
    if market == "none":
        return NoMarket(), chosen
    if market == "simulated":
        return SimulatedFeed(clock, chosen, seed), chosen
    raise SettingsError(f"market {market!r} is unknown: {MARKETS}")


class NoMarket:
    """Books stay as they are made by hand."""

    def __init__(self) -> None:
        self.running = False

    def start(self, houses: Mapping[str, House], fed: Fed) -> None:
        """There is nothing to start."""

    def stop(self) -> None:
        """There is nothing to stop."""

    def move(self, *_: object) -> bool:
        return False


class SimulatedFeed:
    """A fair price for each symbol, and a book around it, updated UPDATES_PER_SECOND times a second in turn."""

    def __init__(self, clock: Clock, listed: Sequence[Symbol], seed: int) -> None:
        self.running = False
        self._clock = clock
        self._pairs = {symbol.name: _pair(symbol, seed) for symbol in listed}
        self._order = list(self._pairs)
        self._turn = 0
        updates = len(self._order) * UPDATES_PER_SECOND
        self._interval_ns = max(TURN_NS_MIN, SECOND_NS // max(1, updates))
        self._due = 0.0  # updates that are owed, where a turn is not a whole number of them
        self._a_turn = updates * self._interval_ns / SECOND_NS
        self._houses: Mapping[str, House] = {}
        self._fed: Fed = str
        self._beat: Beat | None = None

    def start(self, houses: Mapping[str, House], fed: Fed) -> None:
        self._houses, self._fed = houses, fed
        for name, pair in self._pairs.items():
            houses[name].apply_frame(pair.books["binance"].snapshot())
            fed(name)
        self.running = True
        if self._beat is None and self._order:
            self._beat = Beat(self._clock, self._interval_ns, self._tick)

    def stop(self) -> None:
        self.running = False
        if self._beat is not None:
            self._beat.stop()
            self._beat = None

    def move(self, house: House, price: int) -> bool:
        pair = self._pairs[house.market.name]
        pair.away = math.log(price / UNIT / pair.listed)
        self.step(house.market.name)
        return True

    def step(self, name: str) -> None:
        """One update of a symbol."""
        _, stepped = self._pairs[name].step(self._clock.now_ns() // MS_NS)
        house = self._houses[name]
        for frame in stepped:
            house.apply_frame(frame)
        self._fed(name)

    def _tick(self) -> None:
        self._due += self._a_turn
        while self._due >= 1.0:
            self._due -= 1.0
            name = self._order[self._turn]
            self._turn = (self._turn + 1) % len(self._order)
            self.step(name)


def _pair(symbol: Symbol, seed: int) -> SimulatedPair:
    """The simulated market's pair for a symbol; one that it does not list gets a price that fits its grid."""
    instrument = instrument_of(symbol)
    rng = random.Random(f"{seed}:{symbol.name}")
    listing = next((one for one in LISTINGS if one.pair == instrument.pair), None)
    if listing is None:
        price = symbol.tick * round(10_000 * math.exp(rng.gauss(0.0, 0.5))) / UNIT
        grid = (str(instrument.tick), str(instrument.lot))
        listing = Listing(instrument.pair, f"{price:.8f}", EXTRA_DEPTH, *grid, *grid)
    price = float(listing.price)
    book = SimulatedBook(instrument, listing, price, random.Random(f"{seed}:{symbol.name}:book"))
    return SimulatedPair({"binance": book}, price, price, rng)


def instrument_of(symbol: Symbol) -> Instrument:
    """The symbol as the core knows instruments."""
    return Instrument(
        exchange="binance",
        pair=f"{symbol.base}_{symbol.quote}",
        symbol=symbol.name,
        base=symbol.base,
        quote=symbol.quote,
        tick=Decimal(symbol.tick) / UNIT,
        lot=Decimal(symbol.step) / UNIT,
    )


class ReplayFeed:
    """A recording at its own pace. Symbols are those that its first frames name, on the grids of their numbers."""

    def __init__(self, clock: Clock, path: Path, say: Callable[[str], None]) -> None:
        next(frames(path), None)  # a file that cannot be read is told now, not after half a minute of compiling
        warm_up(say)  # the recording's frames are told apart by compiled kernels
        self.running = False
        instruments = survey(islice(frames(path), SURVEY_FRAMES_MAX))
        self.symbols = [to_symbol(instrument) for instrument in instruments]
        self._names = {instrument.pair: instrument.symbol for instrument in instruments}
        self._market = ReplayMarket(clock, self._frame, frames(path), instruments, on_end=say)
        self._houses: Mapping[str, House] = {}
        self._fed: Fed = str
        self._say = say
        self.refused = 0  # frames that the house could not take
        for symbol in self.symbols:
            if symbol.tick * symbol.step % UNIT:
                raise SettingsError(
                    f"{path}: {symbol.name} has prices in steps of {instrument_of(symbol).tick} and quantities of "
                    f"{instrument_of(symbol).lot}: their products have more than eight decimals"
                )

    def start(self, houses: Mapping[str, House], fed: Fed) -> None:
        self._houses, self._fed = houses, fed
        if not self.running:
            self.running = True
            self._market.start()

    def stop(self) -> None:
        self.running = False
        self._market.stop()

    def move(self, *_: object) -> bool:
        return False

    def _frame(self, _exchange: str, pair: str, frame: bytes, _local_ns: int) -> None:
        name = self._names[pair]
        house = self._houses.get(name)
        if house is None:
            return
        try:
            house.apply_frame(frame)
        except (ValueError, msgspec.DecodeError) as error:
            self.refused += 1
            if self.refused == 1:
                self._say(f"a frame of the recording cannot be used, nor may others: {error}")
        self._fed(name)


def ladder(house: House, price: int) -> None:
    """The house leaves the book and comes back around a price, LADDER_LEVELS a side."""
    symbol, book = house.market.symbol, house.market.book
    for side, levels in (("BUY", book.bids.levels), ("SELL", book.asks.levels)):
        for level_price in [at for at, level in levels.items() if level.house]:
            house.set_level(side, level_price, 0)
    gap = max(symbol.tick, price * LADDER_GAP_BPS // 10_000 // symbol.tick * symbol.tick)
    middle = price // symbol.tick * symbol.tick
    for step in range(1, LADDER_LEVELS + 1):
        for side, at in (("BUY", middle - step * gap), ("SELL", middle + step * gap)):
            if at > 0:
                house.set_level(side, at, max(symbol.step, LADDER_NOTIONAL * UNIT // at))
