"""Positions as the API shows them: one kernel call values all, and what did not change is not made again.

Always true here: a figure comes from the kernel or, for what its units cannot hold, from Decimals, and is the same
from both. A position's figures are in its quote currency.
"""

from collections.abc import Iterable
from decimal import Decimal

from ..model.exact import ZERO
from ..model.instruments import Instrument
from ..model.records import Position
from ..model.views import (
    PRICE,
    PositionUpdate,
    PositionView,
    RiskMetricsView,
    percent,
    ratio,
    shown,
    shown_percent,
    shown_units,
)
from .pnl import ASK, OK, Columns
from .positions import is_open
from .rates import Market, Rate, Rates
from .valuation import is_paper

NS_PER_MS = 1_000_000

# Market value, unrealised P&L, day P&L in quote, then both P&Ls in percent: as shown.
Figures = tuple[Decimal, Decimal, Decimal, Decimal, Decimal]


class Held:
    """A position on record and what is kept beside it."""

    __slots__ = (
        "average",
        "base",
        "day_open",
        "figures",
        "fits",
        "key",
        "lot",
        "mark",
        "market",
        "paper",
        "position",
        "quantity",
        "quote",
        "quote_rate",
        "realised",
        "row",
        "sized_by",
        "view",
    )

    def __init__(self, position: Position, instrument: Instrument | None, rates: Rates) -> None:
        # for the life of the record
        self.position = position
        self.key = f"{position.wallet}:{position.pair}"
        self.market: Market = (position.exchange, position.pair)
        self.paper = is_paper(position.wallet)
        base, _, quote = position.pair.partition("_")
        self.base = instrument.base if instrument is not None else base
        self.quote = instrument.quote if instrument is not None else quote
        self.lot = instrument.lot if instrument is not None else ZERO  # delisted: whatever is left counts as open
        self.quote_rate: Rate = rates.rate(position.exchange, self.quote)
        # for a UTC day: quantity x price - cost + realised when it began; None until a price is known
        self.day_open: Decimal | None = None
        # for as long as it is open
        self.row: int | None = None
        self.fits = False  # the row is in the kernel's columns
        # until the next fill or price
        self.mark: Decimal | None = None
        self.figures: Figures | None = None
        self.view: PositionView | None = None
        self.sized_by: tuple[Decimal, Decimal | None] | None = None  # equity and rate of the view's share of equity
        self.quantity = self.average = self.realised = ZERO  # as shown

    @property
    def open(self) -> bool:
        return is_open(self.position, self.lot)

    @property
    def day_cost(self) -> Decimal:
        """What the quantity would be worth if the day had earned nothing."""
        earned = self.day_open if self.day_open is not None else ZERO
        return self.position.cost - self.position.realised + earned

    def total_pnl(self, mark: Decimal) -> Decimal:
        """All that the pair has earned in this wallet at a price."""
        return self.position.quantity * mark - self.position.cost + self.position.realised

    def exact_figures(self, mark: Decimal) -> Figures:
        """The figures with Decimals: the kernel's twin, for one position or for what does not fit the kernel."""
        worth, cost = self.position.quantity * mark, self.position.cost
        value, pnl, today = shown(worth), shown(worth - cost), shown(worth - self.day_cost)
        return value, pnl, today, percent(pnl, cost), percent(today, value - today)


class Statement:
    """All open positions, in rows; `touch` after a fill, `move` after a price, then ask."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._columns = Columns()
        self._groups: dict[Rate, tuple[int, int]] = {}  # quote rate -> (live, paper) group
        self._touched: set[Held] = set()
        self._moved: set[Held] = set()
        self.open: dict[str, Held] = {}  # by key, in order of opening

    def touch(self, held: Held) -> None:
        """The position changed; it may have opened or closed."""
        self._touched.add(held)
        if held.open:
            self.open[held.key] = held
        else:
            self.open.pop(held.key, None)

    def move(self, helds: Iterable[Held]) -> None:
        """Their market has a new price."""
        self._moved.update(helds)

    def totals(self, paper: bool) -> tuple[Decimal, Decimal]:
        """(market value, cost) of the open positions that have a price, in base currency, exact but for the rates."""
        self._sync()
        columns = self._columns
        fits = columns.value(2 * len(self._groups))
        value, cost = ZERO, ZERO
        if fits:
            for rate, pair in self._groups.items():
                if rate.value is not None:
                    at = 2 * pair[paper]
                    value += columns.sum(at) * rate.value
                    cost += columns.sum(at + 1) * rate.value
        for held in self.open.values():
            if held.paper != paper or (fits and held.fits) or held.mark is None or held.quote_rate.value is None:
                continue
            value += held.position.quantity * held.mark * held.quote_rate.value
            cost += held.position.cost * held.quote_rate.value
        return value, cost

    def views(self, paper: bool, equity: Decimal) -> list[PositionView]:
        """Every open position; call `totals` first, which values them."""
        rows = self._columns.figures.tolist()
        status = self._columns.status.tolist()
        views = []
        for held in self.open.values():
            if held.paper != paper:
                continue
            if held.figures is None and held.mark is not None:
                row = held.row
                if held.fits and row is not None and status[row] == OK and ASK not in rows[row]:
                    value, pnl, today, pnl_percent, today_percent = rows[row]
                    held.figures = (
                        shown_units(value),
                        shown_units(pnl),
                        shown_units(today),
                        shown_percent(pnl_percent),
                        shown_percent(today_percent),
                    )
                else:
                    held.figures = held.exact_figures(held.mark)
            views.append(self._view(held, equity))
        return views

    def update(self, held: Held) -> PositionUpdate:
        """A position after a trade, without anything that a price would change."""
        self._prepare(held)
        position = held.position
        return PositionUpdate(
            position.position_id,
            position.pair,
            "long",
            held.quantity,
            held.average,
            held.realised,
            position.open_ns // NS_PER_MS,
            position.exchange,
            position.updated_ns // NS_PER_MS,
        )

    def _sync(self) -> None:
        """Bring the columns up to date."""
        self._moved |= self._touched
        for held in self._touched:
            self._prepare(held)
            if held.open and held.row is None:
                held.row = self._columns.take_row()
            elif not held.open and held.row is not None:
                self._columns.give_back(held.row)
                held.row = None
        waiting = set()
        for held in self._moved:
            held.view = held.figures = None
            mark = held.mark = self._rates.mark(held.market)
            if held.row is None:
                continue
            if mark is None:
                waiting.add(held)
            if not held.fits or held in self._touched:
                held.fits = self._put(held, held.row)
            if held.fits and mark is not None:
                held.fits = self._columns.put_mark(held.row, mark)
        self._touched, self._moved = set(), waiting

    def _put(self, held: Held, row: int) -> bool:
        pair = self._groups.get(held.quote_rate)
        if pair is None:
            first = 2 * len(self._groups)
            pair = self._groups[held.quote_rate] = (first, first + 1)
        position = held.position
        return self._columns.put(row, pair[held.paper], position.quantity, position.cost, held.day_cost)

    @staticmethod
    def _prepare(held: Held) -> None:
        """What a fill changes and a price does not."""
        position = held.position
        held.view = None
        held.quantity = shown(position.quantity, PRICE)
        held.average = shown(position.cost / position.quantity, PRICE) if position.quantity else ZERO
        held.realised = shown(position.trip_realised)

    @staticmethod
    def _view(held: Held, equity: Decimal) -> PositionView:
        figures, rate, old = held.figures, held.quote_rate.value, held.view
        if old is not None and held.sized_by == (equity, rate):
            return old
        held.sized_by = (equity, rate)
        size = ratio(figures[0] * rate, equity) if figures is not None and rate is not None else ZERO
        if old is not None and old.risk_metrics.position_size == size:
            return old
        position = held.position
        value = pnl = pnl_percent = today = today_percent = None
        if figures is not None:
            value, pnl, today, pnl_percent, today_percent = figures
            if held.day_open is None:
                today = today_percent = None
        held.view = PositionView(
            position.position_id,  # id
            position.pair,
            "long",  # side
            held.quantity,
            held.average,  # average_price
            shown(held.mark, PRICE) if held.mark is not None else None,  # current_price
            value,  # market_value
            pnl,  # unrealized_pnl
            pnl_percent,  # unrealized_pnl_percent
            held.realised,  # realised_pnl
            today,  # day_pnl
            today_percent,  # day_pnl_percent
            position.open_ns // NS_PER_MS,  # open_date
            position.exchange,
            RiskMetricsView(size),  # risk_metrics
        )
        return held.view
