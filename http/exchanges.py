"""What MARKET names: which instruments are traded, what feeds their books, and which live venues take orders.

`live.py` has those that are connected to; `Simulated` needs nothing but this machine.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple, Protocol

import msgspec

from ..core.kernel.clock import Clock
from ..core.kernel.kernel import Kernel
from ..core.market.data import MarketData, StoredBook
from ..core.model.comparisons import Surveyor
from ..core.model.ids import Ids
from ..core.model.instruments import Instrument
from ..core.settings import Settings
from ..venues.client import VenueClient, VenueStatus
from ..venues.simulator.instruments import simulated_instruments
from ..venues.simulator.market import SimulatedMarket
from ..venues.simulator.replay import frames
from ..venues.simulator.replay_market import ReplayMarket, survey

# Levels held a side: beyond them the far end of a book is dropped.
DEPTH_MAX_SIMULATED, DEPTH_MAX_RECORDED = 1_000, 5_000

Trouble = Callable[[str], None]


class MarketSource(Protocol):
    """What feeds the books."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def resync(self, exchange: str, pair: str) -> None: ...


class LiveVenue(VenueClient, Protocol):
    """A venue with an account of ours."""

    def report_balances(self) -> None:
        """Answers BalancesReported, or nothing where the venue cannot be asked."""
        ...

    @property
    def survey(self) -> Surveyor:
        """What is asked for comparing all of the account with what is known here."""
        ...

    def counters(self) -> dict[str, int]:
        """What it counts, by name; for metrics."""
        ...


class Core(NamedTuple):
    """What live venues need of the core."""

    kernel: Kernel
    ids: Ids
    jitter: Callable[[], float]  # 0..1, seeded
    trouble: Trouble
    set_fees: Callable[[str, str, Decimal, Decimal], None]  # exchange, pair, maker, taker
    set_trading: Callable[[str, str, bool], None]  # exchange, pair, whether it takes orders now
    account_id: Callable[[str], str]  # told what the exchange calls the account: "", or why that is not ours


class Exchanges(Protocol):
    """The exchanges of this process."""

    instruments: Sequence[Instrument]
    depth_max: int
    warnings: Sequence[str]  # what was left out, for the log
    shown: str  # the market in words
    account: str  # where live orders go; empty where every order is paper

    def source(self, clock: Clock, market: MarketData, stored: Iterable[StoredBook], trouble: Trouble) -> MarketSource:
        """What feeds the books; `stored` are their tops when the process before this one ended."""
        ...

    def live_venues(self, core: Core, /) -> list[LiveVenue]:
        """The venues that take live orders; none where every order is paper."""
        ...

    async def close(self) -> None:
        """Let go of what is kept open to ask questions; sources and venues are stopped by then."""
        ...

    def market_status(self) -> Mapping[str, VenueStatus]:
        """Of exchanges whose prices come over a connection."""
        ...


class Simulated:
    """Two exchanges that are made up, or the ones of a capture. There is nothing to connect to."""

    warnings: Sequence[str] = ()
    account = ""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.file = settings.market.file
        self.instruments: Sequence[Instrument] = (
            simulated_instruments() if self.file is None else survey(frames(self.file))
        )
        self.shown = "simulated market" if self.file is None else self.file.name
        self.depth_max = DEPTH_MAX_SIMULATED if self.file is None else DEPTH_MAX_RECORDED

    def source(self, clock: Clock, market: MarketData, stored: Iterable[StoredBook], trouble: Trouble) -> MarketSource:
        if self.file is not None:
            return ReplayMarket(clock, market.frame, frames(self.file), self.instruments, on_end=trouble)
        start_prices: dict[str, Decimal] = {}
        for book in stored:
            if book.bids and book.asks:
                start_prices[book.pair] = (Decimal(book.bids[0][0]) + Decimal(book.asks[0][0])) / 2
        return SimulatedMarket(clock, market.frame, seed=self.settings.market_seed, start_prices=start_prices)

    def live_venues(self, _: Core, /) -> list[LiveVenue]:
        return []

    async def close(self) -> None:
        """Nothing is open."""

    def market_status(self) -> Mapping[str, VenueStatus]:
        return {}


class Shown:
    """One exchange for health: the weakest of its prices, its orders and our books of its account."""

    def __init__(
        self,
        name: str,
        orders: Callable[[], VenueStatus],
        prices: Callable[[], Mapping[str, VenueStatus]],
        pending: Callable[[], str],
        any_book: Callable[[], bool],
    ) -> None:
        """`any_book`: whether the book of any of its pairs is up to date."""
        self.name = name
        self._orders = orders
        self._prices = prices
        self._pending = pending
        self._any_book = any_book

    def status(self) -> VenueStatus:
        orders = self._orders()
        prices = self._prices().get(self.name)
        if prices is not None:
            orders = msgspec.structs.replace(orders, latency_ms=prices.latency_ms)
        if orders.status == "disconnected":
            return orders
        if prices is not None and prices.status != "connected":
            reason = f"market data: {prices.reason or prices.status}"
            return msgspec.structs.replace(orders, status=prices.status, reason=reason)
        reason = orders.reason or self._pending()
        if not reason and not self._any_book():
            reason = "no book is up to date"
        return msgspec.structs.replace(orders, status="stale", reason=reason) if reason else orders
