"""PortfolioManager: turns fills into balances and positions, and values them.

Always true here, after each input: balances and positions are exactly what the fills and deposits make them. Equity
and market values follow fills at once and prices with a delay of at most REVALUE_NS: a frame only marks its market,
and the next reader after that delay takes the new prices of the marked markets, once. Nothing here revalues what
did not change.

    OrderFilled -> ledger, position, equity        BookUpdated -> a set        reader -> marks -> rates -> equity
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.exact import ZERO
from ..model.ids import Ids
from ..model.instruments import Instrument
from ..model.messages import BookUpdated, OrderFilled
from ..model.records import Balance, EquitySample, Fill, Position
from ..model.views import (
    BalanceView,
    PerformanceView,
    PortfolioView,
    PositionView,
    SummaryView,
    UnpricedView,
    percent,
    shown,
)
from .ledger import Account, Ledger
from .performance import DAY_NS, Performance
from .positions import apply_fill
from .rates import Market, Mid, Rates
from .statement import Held, Statement
from .valuation import Valuation, exchange_of, is_paper, worth


class SampleDue(msgspec.Struct, frozen=True):
    """Time for an equity sample."""


class DayBegan(msgspec.Struct, frozen=True):
    """It is 00:00 UTC."""


class Deposit(msgspec.Struct, frozen=True, rename="camel"):
    """Money that came in from outside, or with a minus went out; the event `Deposited` of the journal."""

    wallet: str
    currency: str
    amount: Decimal
    timestamp: int  # ms


class FeeValued(msgspec.Struct, frozen=True, rename="camel"):
    """What a fee in a third currency was worth when it was paid: the event `FeeValued` of the journal.

    As `FeeUnpriced`, without a value: no market turns it into quote currency. It has left the balance, and no profit
    knows of it.
    """

    fill_id: str
    order_id: str
    exchange: str
    pair: str
    fee: Decimal
    fee_currency: str
    fee_value: Decimal | None  # in quote, 18 decimals
    quote: str


class DayOpen(msgspec.Struct, frozen=True):
    """What each open position had earned in all when a UTC day began: field `dayOpen` of table `meta`."""

    day: int  # since 1970
    pnl: dict[str, Decimal]  # by wallet:pair, in quote: quantity x price - cost + realised


class DayRealised(msgspec.Struct, frozen=True, kw_only=True):
    """What trades have earned on a UTC day, fees paid, in base currency: key `dayRisk` of table `risk`."""

    day: int  # since 1970
    paper: Decimal = ZERO
    live: Decimal = ZERO


class PortfolioManager(Actor):
    """Ledger, positions and their worth; reads prices through `mid(exchange, pair)`.

    Equity samples and performance are those of one side: paper's if `paper`, else live's.
    """

    REVALUE_NS = 100 * MS_NS
    FIRST_SAMPLE_RETRY_NS = 1 * SECOND_NS  # after a start, until every balance has a price

    def __init__(
        self,
        kernel: Kernel,
        ids: Ids,
        instruments: Mapping[Market, Instrument],
        mid: Mid,
        base_currency: str,
        *,
        sample_interval_ns: int = 60 * SECOND_NS,
        paper: bool = True,
    ) -> None:
        super().__init__(kernel)
        # for the process
        self.paper = paper
        self.ledger = Ledger(self.outbox)
        self.rates = Rates(instruments, mid, base_currency)
        self.valuation = Valuation(self.ledger, self.rates)
        self.performance = Performance()
        self.statement = Statement(self.rates)
        self._ids = ids
        self._instruments = instruments
        self._sample_interval_ns = sample_interval_ns
        # Whether balances are what the venues say: right after a start fills and corrections come in one by one, which
        # is neither gain nor loss. Set by who compares them.
        self.settled = True
        self._held: dict[tuple[str, str], Held] = {}  # by wallet and pair, every one on record
        self._by_market: dict[Market, list[Held]] = {}
        self._closed = {True: 0, False: 0}  # round trips, by paper
        self._won = {True: 0, False: 0}
        self._balance_views: dict[Account, tuple[Decimal, Decimal, BalanceView]] = {}
        self._balance_order: list[Balance] = []
        self._timers: dict[str, Timer] = {}
        # until the next look at prices
        self._dirty: set[Market] = set()
        self._next_refresh_ns = 0
        self.looks = 0  # how often new prices were taken: as long as this stands still no mark and no rate moves
        # until the next sample
        self._flow = ZERO
        self._flows: list[Deposit] = []  # not valued yet, as their currency has no price
        # until the end of the UTC day
        self._day = 0
        self._day_ends_ns = 0
        self._realised = {True: ZERO, False: ZERO}  # by paper
        self._without_day_open: set[Held] = set()

    def handles(self) -> dict[type, Handler]:
        return {
            OrderFilled: self.on_filled,
            BookUpdated: self.on_book,
            SampleDue: self.on_sample_due,
            DayBegan: self.on_day_began,
        }

    def restore(
        self,
        balances: Iterable[Balance],
        positions: Iterable[Position],
        samples: Iterable[EquitySample],
        reserved: Iterable[tuple[str, str, Decimal]],
        day_open: DayOpen | None = None,
        day_realised: DayRealised | None = None,
    ) -> None:
        """Take back what was committed; `reserved` from `reservations()` of the open orders, `samples` oldest first.

        A position opened today needs no record of the day's beginning; one from before has it in `day_open`, or counts
        from the first price that is seen.
        """
        self._enter_day(self.clock.now_ns())
        self.ledger.restore(balances, reserved)
        for sample in samples:
            self.performance.add(sample)
        if day_realised is not None and day_realised.day == self._day:
            self._realised = {True: day_realised.paper, False: day_realised.live}
        known = day_open.pnl if day_open is not None and day_open.day == self._day else {}
        for position in sorted(positions, key=_opening):
            held = self._add(position)
            self._closed[held.paper] += position.closed_count
            self._won[held.paper] += position.won_count
            if position.open_ns // DAY_NS >= self._day:
                held.day_open = position.realised - position.trip_realised
            else:
                held.day_open = known.get(held.key)
            if held.open and held.day_open is None:
                self._without_day_open.add(held)
            self.statement.touch(held)

    def start(self) -> None:
        now_ns = self.clock.now_ns()
        self._roll(now_ns)
        self.on_sample_due(SampleDue())
        self._time("day", self._day_ends_ns - now_ns, DayBegan())

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _time(self, name: str, delay_ns: int, message: object) -> None:
        self._timers[name] = self.clock.call_in(delay_ns, self.kernel.input, message)

    # --- what happens

    def on_book(self, message: BookUpdated) -> None:
        self._dirty.add((message.exchange, message.pair))

    def on_filled(self, message: OrderFilled) -> None:
        fill = message.fill
        self._roll(self.clock.now_ns())
        held = self._held.get((fill.wallet, fill.pair)) or self._new(fill)
        self._settle(fill, held, message.reserved_change)
        position, realised = held.position, held.position.realised
        kind = apply_fill(
            position,
            fill,
            base=held.base,
            quote=held.quote,
            lot=held.lot,
            new_id=self._ids.position,
        )
        self.valuation.follow()
        if not position.updated_ns:
            return  # deposited coins were sold; there never was a position
        self.outbox.put("positions", held.key, position)
        self._count_realised(held, position.realised - realised)
        if kind == "PositionOpened":
            held.day_open = realised
        elif kind == "PositionClosed":
            self._closed[held.paper] += 1
            self._won[held.paper] += position.trip_realised > 0
        self.statement.touch(held)
        if kind is not None:
            self.outbox.event("positions", kind, self.statement.update(held))

    def _count_realised(self, held: Held, earned: Decimal) -> None:
        rate = held.quote_rate.value
        if earned and rate is not None:
            self._realised[held.paper] += worth(earned, rate)
            self.outbox.put("risk", "dayRisk", self.day_realised_record())

    def _settle(self, fill: Fill, held: Held, reserved_change: Decimal) -> None:
        """Move the money."""
        buy, fee, paid_in = fill.side == "buy", fill.fee, fill.fee_currency
        self.ledger.reserve(fill.wallet, held.quote if buy else held.base, reserved_change)
        quantity = fill.quantity
        cost = fill.price * quantity
        quote, base = (-cost, quantity) if buy else (cost, -quantity)
        if paid_in == held.quote:
            quote -= fee
        elif paid_in == held.base:
            base -= fee
        elif fee:
            self._value_fee(fill, held.quote)
            self.ledger.settle(fill.wallet, paid_in, -fee)
        self.ledger.settle(fill.wallet, held.quote, quote)
        self.ledger.settle(fill.wallet, held.base, base)

    def _value_fee(self, fill: Fill, quote: str) -> None:
        """Note in the fill what its fee in a third currency is worth now; say so where nothing prices it.

        The fill is put on record by this very input, so what is committed has the value from the first.
        """
        rate = self.rates.convert(fill.exchange, fill.fee_currency, quote)
        value = None if rate is None else worth(fill.fee, rate)
        msgspec.structs.force_setattr(fill, "fee_value", value)
        valued = FeeValued(
            fill.fill_id, fill.order_id, fill.exchange, fill.pair, fill.fee, fill.fee_currency, value, quote
        )
        self.outbox.event("portfolio", "FeeUnpriced" if value is None else "FeeValued", valued)

    def deposit(self, wallet: str, currency: str, amount: Decimal) -> None:
        """Money from outside, or with a minus to it; earns nothing in any return. Raises Overdrawn."""
        if amount < 0:
            self.ledger.check_withdrawal(wallet, currency, -amount)
        self.flow(wallet, currency, amount)

    def flow(self, wallet: str, currency: str, amount: Decimal) -> None:
        """Money that came, or with a minus went, at the venue: it has happened, so it is never refused."""
        now_ns = self.clock.now_ns()
        self.ledger.flow(wallet, currency, amount)
        deposit = Deposit(wallet, currency, amount, now_ns // MS_NS)
        self.outbox.event("portfolio", "Deposited", deposit)
        if is_paper(wallet) == self.paper:
            self._flows.append(deposit)
        self.valuation.follow()
        if self.performance.last is not None:
            self._sample(now_ns)  # right behind the flow, so that returns are exact

    # --- time

    def balances_known(self) -> None:
        """All that came in until now is how the accounts are: days and returns begin with it."""
        self.settled = True
        self._sample(self.clock.now_ns())

    def on_sample_due(self, _: SampleDue) -> None:
        taken = self._sample(self.clock.now_ns())
        wait_ns = self._sample_interval_ns if taken else min(self._sample_interval_ns, self.FIRST_SAMPLE_RETRY_NS)
        self._time("sample", wait_ns, SampleDue())

    def _sample(self, now_ns: int) -> bool:
        """Record the equity; not while a balance waits for its first price, which would look like a loss."""
        self._roll(now_ns)
        self._refresh(now_ns)
        if not (self.settled and self.valuation.complete(self.paper)):
            return False
        sample = EquitySample(timestamp_ns=now_ns, equity=self.valuation.equity[self.paper], flow=self._flow_now())
        self._flow = ZERO
        self.performance.add(sample)
        self.outbox.append("equity", sample)
        return True

    def _flow_now(self) -> Decimal:
        """Deposits less withdrawals since the last sample, each valued as soon as it can be."""
        waiting = []
        for deposit in self._flows:
            rate = self.rates.rate(exchange_of(deposit.wallet), deposit.currency).value
            if rate is None:
                waiting.append(deposit)
            else:
                self._flow += worth(deposit.amount, rate)
        self._flows = waiting
        return self._flow

    def on_day_began(self, _: DayBegan) -> None:
        now_ns = self.clock.now_ns()
        self._roll(now_ns)
        self._time("day", self._day_ends_ns - now_ns, DayBegan())

    def _enter_day(self, now_ns: int) -> None:
        self._day = now_ns // DAY_NS
        self._day_ends_ns = (self._day + 1) * DAY_NS

    def _roll(self, now_ns: int) -> None:
        """Begin a new UTC day if it is time: each open position starts its day at the present price."""
        if now_ns < self._day_ends_ns:
            return
        self._enter_day(now_ns)
        self._realised = {True: ZERO, False: ZERO}
        self._without_day_open = set(self.statement.open.values())
        for held in self._without_day_open:
            held.day_open = None
        self._refresh(now_ns)

    def _open_day(self) -> None:
        """Note what positions had earned when the day began, for those whose price is known by now."""
        noted = False
        for held in tuple(self._without_day_open):
            mark = self.rates.mark(held.market)
            if held.day_open is None and mark is not None:
                held.day_open = held.total_pnl(mark)
                self.statement.touch(held)
                noted = True
            if held.day_open is not None:
                self._without_day_open.discard(held)
        if noted:
            self.outbox.put("meta", "dayOpen", self.day_open_record())

    def day_open_record(self) -> DayOpen:
        """What is known of how this UTC day began."""
        pnl = {held.key: held.day_open for held in self.statement.open.values() if held.day_open is not None}
        return DayOpen(self._day, pnl)

    # --- prices

    def _refresh(self, now_ns: int) -> None:
        """Take the new prices of the markets whose books changed."""
        self._next_refresh_ns = now_ns + self.REVALUE_NS
        self.looks += 1
        self.valuation.follow()
        dirty, self._dirty = self._dirty, set()
        rates = self.rates
        by_market = self._by_market
        for market in dirty:
            if rates.update(market):
                self.valuation.revalue(rates.moved(market))
                if market in by_market:
                    self.statement.move(by_market[market])
        self.valuation.revalue(rates.settle())
        if self._without_day_open:
            self._open_day()
        if self._flows:
            self._flow_now()

    def revalue(self) -> None:
        """Ask every market that matters for its price, and value all balances and positions anew."""
        self._dirty.update(self.rates.markets())
        self._refresh(self.clock.now_ns())
        self.valuation.recompute()
        for held in self.statement.open.values():
            self.statement.touch(held)

    def _refresh_if_due(self) -> None:
        now_ns = self.clock.now_ns()
        # A clock that was set back must not stop the revaluation.
        if now_ns >= self._next_refresh_ns or now_ns < self._next_refresh_ns - self.REVALUE_NS:
            self._refresh(now_ns)

    # --- what others ask

    def equity(self, paper: bool) -> Decimal:
        """All balances of a side in base currency; prices are at most REVALUE_NS old, fills are in it."""
        if self._dirty:
            self._refresh_if_due()
        if self.ledger.changed:
            self.valuation.follow()
        return self.valuation.equity[paper]

    def complete(self, paper: bool) -> bool:
        """Whether every balance is known and, where a market could price it, priced; until then `equity` is wrong."""
        self.equity(paper)
        return self.settled and self.valuation.complete(paper)

    def day_pnl(self) -> Decimal:
        """Of the sampled side, in base currency: equity now - equity before 00:00 UTC - deposits since."""
        equity = self.equity(self.paper)
        return self.performance.day_pnl(equity, self._flow, self.clock.now_ns())

    def growth(self) -> tuple[float, float]:
        """Of the sampled side: what one unit of money has become, deposits and withdrawals aside, and its peak."""
        equity = self.equity(self.paper)
        return self.performance.growth(equity, self._flow_now())

    def lost_today(self, paper: bool) -> Decimal:
        """What the trades of this UTC day have lost in all, fees included, in base currency; 0 where they earned."""
        if self.clock.now_ns() >= self._day_ends_ns:
            self._roll(self.clock.now_ns())
        return max(ZERO, -self._realised[paper])

    def day_realised_record(self) -> DayRealised:
        return DayRealised(day=self._day, paper=self._realised[True], live=self._realised[False])

    def position_value(self, wallet: str, pair: str) -> Decimal:
        """A position's worth in base currency; at its cost while the market has no price, never silently nothing."""
        held = self._held.get((wallet, pair))
        if held is None:
            return ZERO
        if self._dirty:
            self._refresh_if_due()
        mark = self.rates.mark(held.market)
        value = held.position.cost if mark is None else held.position.quantity * mark
        rate = held.quote_rate.value
        return value if rate is None else value * rate

    def position(self, wallet: str, pair: str) -> Position | None:
        """The position on record, open or closed."""
        held = self._held.get((wallet, pair))
        return held.position if held is not None else None

    def find(self, position_id: str) -> Position | None:
        """An open position by its id."""
        for held in self.statement.open.values():
            if held.position.position_id == position_id:
                return held.position
        return None

    def records(self) -> Iterator[tuple[str, Position]]:
        """Every position on record, open or closed, with its key in the table."""
        return ((held.key, held.position) for held in self._held.values())

    def open_positions(self, paper: bool) -> list[Position]:
        return [held.position for held in self.statement.open.values() if held.paper == paper]

    def view(self, paper: bool, now_ns: int) -> PortfolioView:
        """The answer to GET /api/portfolio."""
        summary = self.summary(paper, now_ns)
        return PortfolioView(
            timestamp=now_ns // MS_NS,
            summary=summary,
            positions=self.statement.views(paper, self.valuation.equity[paper]),
            balances=self._balances(paper),
            performance=self.performance_view(paper, now_ns),
        )

    def positions_view(self, paper: bool, now_ns: int) -> list[PositionView]:
        """The open positions alone."""
        self._roll(now_ns)
        self._refresh(now_ns)
        self.statement.totals(paper)
        return self.statement.views(paper, self.valuation.equity[paper])

    def summary(self, paper: bool, now_ns: int) -> SummaryView:
        self._roll(now_ns)
        self._refresh(now_ns)
        equity = self.valuation.equity[paper]
        value, cost = self.statement.totals(paper)
        today = ZERO
        if paper == self.paper:
            today = self.performance.day_pnl(equity, self._flow_now(), now_ns)
        total, positions = shown(equity), shown(value)
        return SummaryView(
            total_value=total,
            total_cash=shown(total - positions),
            total_positions=positions,
            unrealized_pnl=shown(value - cost),
            unrealized_pnl_percent=percent(value - cost, cost),
            day_pnl=shown(today),
            day_pnl_percent=percent(today, equity - today),
            unpriced=tuple(
                UnpricedView(holding.account[1], shown(holding.amount), exchange_of(holding.account[0]))
                for holding in self.valuation.unpriced(paper)
            ),
        )

    def performance_view(self, paper: bool, now_ns: int) -> PerformanceView:
        """Of the side that is not sampled only the win rate is known."""
        closed, won = self._closed[paper], self._won[paper]
        if paper != self.paper:
            return Performance().view(ZERO, ZERO, now_ns, closed, won)
        return self.performance.view(self.equity(paper), self._flow_now(), now_ns, closed, won)

    def _balances(self, paper: bool) -> list[BalanceView]:
        """What is held of each currency, by exchange and name; made again only for a balance that changed."""
        views = []
        if len(self._balance_order) != len(self.ledger):
            self._balance_order = sorted(self.ledger, key=lambda balance: (balance.wallet, balance.currency))
        for balance in self._balance_order:
            total, locked = balance.total, balance.locked
            if is_paper(balance.wallet) != paper or not (total or locked):
                continue
            account = (balance.wallet, balance.currency)
            known = self._balance_views.get(account)
            if known is None or known[0] is not total or known[1] is not locked:
                view = BalanceView(
                    balance.currency, shown(total), shown(total - locked), shown(locked), exchange_of(balance.wallet)
                )
                known = self._balance_views[account] = (total, locked, view)
            views.append(known[2])
        return views

    # --- positions on record

    def _new(self, fill: Fill) -> Held:
        position = Position(position_id="", wallet=fill.wallet, exchange=fill.exchange, pair=fill.pair)
        return self._add(position)

    def _add(self, position: Position) -> Held:
        market = (position.exchange, position.pair)
        held = Held(position, self._instruments.get(market), self.rates)
        self._held[position.wallet, position.pair] = held
        self._by_market.setdefault(market, []).append(held)
        return held


def _opening(position: Position) -> tuple[int, str]:
    """The order in which positions were opened: that of their numbers, which may outgrow their three digits."""
    return len(position.position_id), position.position_id
