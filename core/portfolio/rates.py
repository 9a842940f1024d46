"""What one unit of a currency is worth in base currency, along direct or two-step prices.

Always true here: a price that was seen stays in use until the market shows another one, so a book that is empty on
one side for a moment moves nothing. A path uses, in this order, markets of the holding's own exchange, of one other
exchange, of two exchanges; one step before two; and the first path whose prices are all known is taken.
"""

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

from ..model.exact import ONE
from ..model.instruments import Instrument

Market = tuple[str, str]  # exchange, pair
Leg = tuple[Market, bool]  # and whether it divides: BASE_X prices X upside down
Path = tuple[Leg, ...]
Mid = Callable[[str, str], Decimal | None]


class Rate:
    """One currency at one exchange. `value` is None until a path to the base currency is priced."""

    __slots__ = ("best", "currency", "exchange", "path", "paths", "value")

    def __init__(self, exchange: str, currency: str, paths: tuple[Path, ...]) -> None:
        self.exchange = exchange
        self.currency = currency
        self.paths = paths  # best first; one empty path for the base currency itself
        self.path: Path | None = None
        self.best = False
        self.value: Decimal | None = None


class Rates:
    """Marks of the markets that matter, and the rates made from them."""

    def __init__(self, instruments: Mapping[Market, Instrument], mid: Mid, base_currency: str) -> None:
        self._mid = mid
        self.base_currency = base_currency
        self._steps: dict[Market, dict[str, Leg]] = {}  # (exchange, currency) -> other currency -> leg
        for market, instrument in sorted(instruments.items()):
            exchange = market[0]
            self._steps.setdefault((exchange, instrument.base), {})[instrument.quote] = (market, False)
            self._steps.setdefault((exchange, instrument.quote), {}).setdefault(instrument.base, (market, True))
        self._exchanges = sorted({exchange for exchange, _ in instruments})
        self._rates: dict[Market, Rate] = {}
        self._marks: dict[Market, Decimal] = {}
        self._users: dict[Market, list[Rate]] = {}  # whose path uses the market
        self._unsettled: list[Rate] = []  # without a path, or not on their best one

    def mark(self, market: Market) -> Decimal | None:
        """The last price seen; asks the market the first time."""
        mark = self._marks.get(market)
        if mark is None:
            mark = self._mid(*market)
            if mark is not None:
                self._marks[market] = mark
        return mark

    def markets(self) -> Iterator[Market]:
        """Every market whose price is used."""
        return iter(self._marks)

    def update(self, market: Market) -> bool:
        """Take the market's present price; whether that moved a mark that somebody uses."""
        old = self._marks.get(market)
        if old is None:
            return False  # nobody has asked for it yet, or `settle` will
        new = self._mid(*market)
        if new is None or new == old:
            return False
        self._marks[market] = new
        return True

    def moved(self, market: Market) -> list[Rate]:
        """The rates that a new mark of the market changed, recomputed."""
        users = self._users.get(market)
        if users is None:
            return []
        for rate in users:
            path = rate.path or ()
            rate.value = self._marks[market] if len(path) == 1 and not path[0][1] else self._along(path)
        return users

    def rate(self, exchange: str, currency: str) -> Rate:
        """The rate of a currency at an exchange, kept up to date from now on."""
        rate = self._rates.get((exchange, currency))
        if rate is None:
            rate = Rate(exchange, currency, tuple(self._paths(exchange, currency, self.base_currency)))
            self._rates[exchange, currency] = rate
            if not self._choose(rate) or not rate.best:
                self._unsettled.append(rate)
        return rate

    def settle(self) -> list[Rate]:
        """Look again for what had no price, or a lesser path; returns the rates that changed."""
        if not self._unsettled:
            return []
        changed = [rate for rate in self._unsettled if self._choose(rate)]
        self._unsettled = [rate for rate in self._unsettled if not rate.best and rate.paths]
        return changed

    def convert(self, exchange: str, source: str, target: str) -> Decimal | None:
        """Worth of one unit of `source` in `target` at present prices, not marks; None when nothing prices it."""
        for path in self._paths(exchange, source, target):
            value = self._along(path, self._present)
            if value is not None:
                return value
        return None

    def _present(self, market: Market) -> Decimal | None:
        """The price now, which leaves the mark as it is for those who still have to follow it."""
        price = self._mid(*market)
        return price if price is not None else self._marks.get(market)

    def _choose(self, rate: Rate) -> bool:
        """Put the rate on the first path that is priced; whether that changed its path."""
        for number, path in enumerate(rate.paths):
            value = self._along(path)
            if value is None:
                continue
            rate.best = number == 0
            if path == rate.path:
                return False
            for market, _ in rate.path or ():
                self._users[market].remove(rate)
            for market, _ in path:
                self._users.setdefault(market, []).append(rate)
            rate.path, rate.value = path, value
            return True
        return False

    def _along(self, path: Path, price: Callable[[Market], Decimal | None] | None = None) -> Decimal | None:
        price = price or self.mark
        value = ONE
        for market, inverse in path:
            mark = price(market)
            if not mark:
                return None
            value = value / mark if inverse else value * mark
        return value

    def _paths(self, exchange: str, source: str, target: str) -> Iterator[Path]:
        if source == target:
            yield ()
            return
        order = [exchange, *(name for name in self._exchanges if name != exchange)]
        for name in order:
            yield from self._at_one(name, source, target)
        for first in order:
            for middle, leg in sorted(self._steps.get((first, source), {}).items()):
                for second in order:
                    last = self._steps.get((second, middle), {}).get(target)
                    if second != first and last is not None:
                        yield (leg, last)

    def _at_one(self, exchange: str, source: str, target: str) -> Iterator[Path]:
        steps = self._steps.get((exchange, source), {})
        if target in steps:
            yield (steps[target],)
        for middle, leg in sorted(steps.items()):
            last = self._steps.get((exchange, middle), {}).get(target)
            if last is not None:
                yield (leg, last)
