"""How much prices move, and which move together: from the mids of all books, every few seconds.

Always true here: a return is made between two samples that follow each other, both of a fresh book; a gap makes none.
Nothing is known of a market before it has so many returns, then that is said as a number, never as a guess.

    volatility    root of the exponentially weighted mean of squared log returns (lambda 0.94), as of 365 days a year
    correlation   of the currencies' returns in base currency over one-minute steps, two hours of them

These are statistics: floats. No amount of money is made of them but through `sizing.py`, which turns them into a share.
"""

from collections.abc import Iterator, Sequence
from math import sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..market.data import Feed, MarketData
from .correlations import RETURNS_IN_COMMON_MIN, Correlations
from .groups import DOLLARS, Groups

Floats = NDArray[np.float64]
Market = tuple[str, str]  # exchange, pair

LAMBDA = 0.94
YEAR_NS = 365 * 86_400 * SECOND_NS
VOLATILITY_SAMPLES_MIN = 12  # returns
FIELD = "statistics"  # of table `risk`
KEPT_AGE_MAX_NS = 300 * SECOND_NS
TURN_NS = 50 * MS_NS  # between two turns of a round of comparisons
KEPT_MAX = 4_000  # markets: 160 KB of JSON


class KeptStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a restart goes on from: `statistics` of table `risk`, at most once a minute.

    40 bytes a market, 10 a currency. The returns themselves are not in it: two hours of 500 currencies would be half a
    megabyte a minute; the groups that were found by them are, and stand until there are new ones.
    """

    at_ns: int
    sample_ns: int
    squares: dict[str, tuple[float, int]]  # exchange:pair -> weighted sum of squared returns, how many returns
    groups: tuple[tuple[str, ...], ...]  # currencies that were found to move together; each of them once


class SampleBooks(msgspec.Struct, frozen=True):
    """Time to look at all books."""


class CompareCurrencies(msgspec.Struct, frozen=True):
    """Time for the next turn of a round of comparisons."""


class Statistics(Actor):
    """Volatility by market, and the correlations that `groups` follows."""

    def __init__(
        self,
        kernel: Kernel,
        market: MarketData,
        groups: Groups,
        base_currency: str,
        *,
        sample_ns: int = 5 * SECOND_NS,
        samples_a_step: int = 12,  # of the correlations
        returns_in_common_min: int = RETURNS_IN_COMMON_MIN,
    ) -> None:
        super().__init__(kernel)
        # for the process
        self.groups = groups
        self._sample_ns = sample_ns
        self._samples_a_step = samples_a_step
        self._feeds = [market.feed(*key) for key in market.instruments]
        self._index: dict[Market, int] = {key: i for i, key in enumerate(market.instruments)}
        count = len(self._feeds)
        self._sums = np.zeros(count)
        self._counts = np.zeros(count, np.int64)
        self._years = YEAR_NS / sample_ns
        self.currencies, self._markets_of = _currencies(market, groups, base_currency)
        self._correlations = Correlations(groups, self.currencies, returns_in_common_min)
        self._kept_groups: tuple[int, tuple[tuple[str, ...], ...]] | None = None  # of which version, and what
        self._timer: Timer | None = None
        self._turn: Timer | None = None
        # until the next sample; NaN where the book was not fresh
        self._sampled_ns = 0
        self._logs = np.full(count, np.nan)
        # until the next step of the correlations
        self._step_ns = 0
        self._samples = 0
        self._step_logs = self._logs

    # --- actor

    def handles(self) -> dict[type, Handler]:
        return {SampleBooks: self._sample, CompareCurrencies: self._compare}

    def restore(self, kept: KeptStatistics | None) -> None:
        """Go on from what an earlier process knew, unless that is too old, of another interval, or makes no sense."""
        if kept is None or not 0 <= self.clock.now_ns() - kept.at_ns <= KEPT_AGE_MAX_NS or kept_fault(kept):
            return
        self.groups.restore(kept.groups)
        if kept.sample_ns != self._sample_ns:
            return
        for name, (squares, count) in kept.squares.items():
            exchange, _, pair = name.partition(":")
            index = self._index.get((exchange, pair))
            if index is not None:
                self._sums[index], self._counts[index] = squares, count

    def start(self) -> None:
        self._wait()

    def stop(self) -> None:
        for timer in (self._timer, self._turn):
            if timer is not None:
                timer.cancel()
        self._timer = self._turn = None
        self._keep()

    def _wait(self) -> None:
        self._timer = self.clock.call_in(self._sample_ns, self.kernel.input, SampleBooks())

    def records(self) -> Iterator[tuple[str, str, KeptStatistics]]:
        """What is kept, with its table and key; nothing before there is anything to keep."""
        kept = self._kept()
        if kept.squares:
            yield "risk", FIELD, kept

    def _keep(self) -> None:
        for table, key, record in self.records():
            self.outbox.put(table, key, record)

    def _kept(self) -> KeptStatistics:
        sums, counts = self._sums.tolist(), self._counts.tolist()
        squares = {
            f"{exchange}:{pair}": (sums[index], counts[index])
            for (exchange, pair), index in self._index.items()
            if counts[index]
        }
        if len(squares) > KEPT_MAX:
            squares = dict(sorted(squares.items(), key=lambda item: -item[1][1])[:KEPT_MAX])
        if self._kept_groups is None or self._kept_groups[0] != self.groups.version:
            found = {self.groups.of(currency) for currency in self.currencies}
            self._kept_groups = self.groups.version, tuple(sorted(tuple(sorted(group)) for group in found))
        return KeptStatistics(
            at_ns=self.clock.now_ns(), sample_ns=self._sample_ns, squares=squares, groups=self._kept_groups[1]
        )

    # --- what others ask

    def volatility(self, exchange: str, pair: str) -> float | None:
        """Of the mid in quote currency, a year (0.8 is 80 %); None before VOLATILITY_SAMPLES_MIN returns."""
        index = self._index.get((exchange, pair))
        if index is None or self._counts[index] < VOLATILITY_SAMPLES_MIN:
            return None
        return sqrt(float(self._sums[index]) * (1 - LAMBDA) / (1 - LAMBDA ** int(self._counts[index])) * self._years)

    def samples(self, exchange: str, pair: str) -> int:
        """Returns that the volatility was made of."""
        index = self._index.get((exchange, pair))
        return 0 if index is None else int(self._counts[index])

    def correlation(self, one: str, other: str) -> float | None:
        """Of two currencies' returns in base currency; None where too few are known, or one has not moved."""
        return self._correlations.of(one, other)

    # --- each sample

    def _sample(self, _: SampleBooks) -> None:
        now_ns = self.clock.now_ns()
        self._wait()
        logs = np.log(_mids(self._feeds, now_ns))
        elapsed = (now_ns - self._sampled_ns) / self._sample_ns
        # Later by more than a sample (this process stood still) is a gap, and so is a clock that was set.
        if 0.5 <= elapsed <= 2:
            fold(logs - self._logs, 1 / elapsed, self._sums, self._counts)
        self._sampled_ns, self._logs = now_ns, logs
        self._samples += 1
        if self._samples >= self._samples_a_step:
            self._step(now_ns)
        elif self._samples == 1:  # not in the turn that has the step to do
            self._keep()

    def _step(self, now_ns: int) -> None:
        """One return of each currency, of its market that has been seen most."""
        wanted_ns = self._samples_a_step * self._sample_ns
        if 0.5 <= (now_ns - self._step_ns) / wanted_ns <= 1.5:
            self._correlations.add(self._returns(self._logs - self._step_logs))
            if self._turn is None:
                self._wait_turn()
        self._samples, self._step_ns, self._step_logs = 0, now_ns, self._logs

    def _compare(self, _: CompareCurrencies) -> None:
        self._turn = None
        self._correlations.turn()
        if self._correlations.under_way:
            self._wait_turn()

    def _wait_turn(self) -> None:
        self._turn = self.clock.call_in(TURN_NS, self.kernel.input, CompareCurrencies())

    def _returns(self, returns: Floats) -> Floats:
        seen = np.where(np.isnan(returns), -1, self._counts).tolist()
        found = np.full(len(self.currencies), np.nan)
        for number, markets in enumerate(self._markets_of):
            if markets:
                found[number] = returns[max(markets, key=seen.__getitem__) if len(markets) > 1 else markets[0]]
        return found


def _mids(feeds: Sequence[Feed], now_ns: int) -> Floats:
    """Twice the mid of each book in ticks; NaN where the book is not fresh, or has an empty side."""
    found = []
    for feed in feeds:
        if feed.fresh(now_ns):
            bid, ask = feed.top
            found.append(bid + ask if bid and ask else np.nan)
        else:
            found.append(np.nan)
    return np.array(found, np.float64)


def fold(returns: Floats, scale: float, sums: Floats, counts: NDArray[np.int64]) -> None:
    """Add a return of each market (NaN: none) to its sum of squares, in which the last weighs 1, the one before LAMBDA.

    `scale` brings a square to the length of a sample. The mean of n squares is sum x (1 - LAMBDA) / (1 - LAMBDA^n).
    """
    known = ~np.isnan(returns)
    squares = np.where(known, returns, 0.0) ** 2 * scale
    np.copyto(sums, sums * LAMBDA + squares, where=known)
    counts += known


def kept_fault(kept: KeptStatistics) -> str:
    """Why a record cannot be taken over; empty where it can."""
    for name, (squares, count) in kept.squares.items():
        if not 0 <= squares < float("inf") or not 1 <= count < 2**62:
            return f"{name}: {squares!r} of {count} returns is no sum of squares"
    named = [currency for group in kept.groups for currency in group]
    return "" if len(named) == len(set(named)) else "a currency is in two groups"


def _currencies(market: MarketData, groups: Groups, base_currency: str) -> tuple[tuple[str, ...], list[list[int]]]:
    """Every currency that is exposed to something, and the numbers of the markets that price it in base currency.

    Where the base currency is a stable coin, any stable coin does. Without such a market a currency has no returns.
    """
    priced_in = DOLLARS if base_currency in DOLLARS else frozenset((base_currency,))
    markets: dict[str, list[int]] = {}
    for number, instrument in enumerate(market.instruments.values()):
        if groups.exposed(instrument.base):
            of_base = markets.setdefault(instrument.base, [])
            if instrument.quote in priced_in:
                of_base.append(number)
    return tuple(markets), list(markets.values())
