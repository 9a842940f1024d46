"""What a BUY signal orders: where, how much, with which stop; or why nothing.

Always true here: an entry is sized with the price that the book gives for it now, never with the price that the signal
was decided at, and nothing is sent or kept.
"""

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal

import msgspec

from ..core.execution.engine import ExecutionEngine, Plan
from ..core.execution.filters import NO_LIMIT, Terms
from ..core.market.book import BUY
from ..core.market.slippage import walk_book
from ..core.model.exact import ONE, ZERO, plain, tidy
from ..core.model.instruments import Instrument, round_ticks
from ..core.model.messages import ExecuteSignal, Refusal, SubmitOrder
from ..core.model.records import Order, SignalData, Sizing
from ..core.portfolio.subledgers import Record
from ..core.risk.checks import Checks
from ..core.risk.sizing import NoSize, Room, Sized, SizingInput, SizingSettings, record, round_trip_fees, size

PRICE_STEP = Decimal("1e-12")  # an expected average price need not end; it is rounded up to this

Volatility = Callable[[str, str], float | None]  # (exchange, pair), a year; None: not known yet
TrackRecord = Callable[[str], Record]  # of a strategy


class EntrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of entries."""

    sizing: SizingSettings
    max_risk: Decimal  # share of equity, of a signal that says none


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that may be ordered."""

    instrument: Instrument
    given: SizingInput
    sized: Sized
    warnings: tuple[str, ...] = ()
    assumed_target: bool = False  # the target that it was sized with is none of the order's

    def sizing(self, order: Order | None) -> Sizing:
        """What is kept and shown of its size; `order` as it was taken, which may be smaller than what was asked for."""
        quantity = None if order is None else tidy(order.qty_lots * order.lot)
        if order is None or quantity is None or quantity >= self.sized.quantity:
            found = record(self.given, self.sized)
        else:
            found = record(self.given, self.sized, quantity, _cut_by(order))
        return msgspec.structs.replace(found, target_price=None) if self.assumed_target else found


def _cut_by(order: Order) -> str:
    """What made an order smaller than its signal's size."""
    if order.risk is not None and order.risk.fallback:
        return "riskServiceFallback"
    if order.risk is not None and order.risk.adjusted_order is not None:
        return "riskService"
    return "maxSlippage"


class Entries:
    """Sizes BUY signals against the books, the equity and what the risk limits leave."""

    def __init__(
        self,
        engine: ExecutionEngine,
        checks: Checks,
        settings: EntrySettings,
        *,
        volatility: Volatility,
        track_record: TrackRecord,
    ) -> None:
        self.engine = engine
        self.checks = checks
        self.settings = settings
        self.volatility = volatility
        self.track_record = track_record

    def of(self, asked: ExecuteSignal, now_ns: int) -> Entry | Refusal:
        """The entry at the exchange that was named, or at the one that routing prefers."""
        refused = not_traded(self.engine, asked)
        if refused is not None:
            return refused
        entries: list[Entry] = []
        refusals: list[Refusal] = []
        for instrument in self.engine.by_pair[asked.pair]:
            if asked.exchange in (None, instrument.exchange):
                found = self._at(self.engine.terms[instrument.exchange, instrument.pair], asked, now_ns)
                (entries if isinstance(found, Entry) else refusals).append(found)  # type: ignore[arg-type]
        if not entries:  # what would be refused again says more than what may pass
            return next((refusal for refusal in refusals if refusal.status == 422), refusals[0])
        return entries[0] if len(entries) == 1 else self._routed(entries, asked, now_ns)

    def _routed(self, entries: list[Entry], asked: ExecuteSignal, now_ns: int) -> Entry:
        """Of entries at several exchanges the one that an order of the smallest size would go to."""
        smallest = min(entries, key=lambda entry: entry.sized.quantity)
        plan = self.engine.plan(order_of(asked, smallest, exchange=None), now_ns)
        if not isinstance(plan, Plan):
            return smallest
        return next((e for e in entries if e.instrument.exchange == plan.instrument.exchange), smallest)

    def _at(self, terms: Terms, asked: ExecuteSignal, now_ns: int) -> Entry | Refusal:
        instrument, feed = terms.instrument, terms.feed
        where = f"{instrument.pair} at {instrument.exchange}"
        if not terms.trading:
            return Refusal(code="MARKET_CLOSED", detail=f"{where} is not open for trading")
        wallet = terms.paper_wallet if self.engine.limits.paper or asked.paper is True else terms.wallet
        away = self.engine.unavailable(wallet)
        if away:
            return self.engine.away_refusal(instrument.exchange, away)
        bid, ask = feed.top
        if not (ask and feed.fresh(now_ns)):
            detail = f"there is no current price of {where} to size with"
            return Refusal(code="NO_MARKET_DATA", detail=detail, status=503, retry_after_s=1)
        mid = (bid + ask) * terms.half_tick if bid else instrument.price(ask)
        away_from = self._too_far(asked, mid)
        return away_from if away_from is not None else self._sized(terms, wallet, asked, mid, ask)

    def _too_far(self, asked: ExecuteSignal, mid: Decimal) -> Refusal | None:
        """A signal whose entry price is not of this market: old, of another pair, or a slip of the finger."""
        price, collar = asked.entry_price, self.checks.limits.price_collar
        if price is None or abs(price - mid) <= mid * collar:
            return None
        detail = (
            f"entryPrice {plain(price)} is more than {plain(collar * 100)} % away from the market, "
            f"which is at {plain(mid)}"
        )
        return Refusal(code="ENTRY_PRICE_AWAY", detail=detail)

    def _sized(self, terms: Terms, wallet: str, asked: ExecuteSignal, mid: Decimal, ask_ticks: int) -> Entry | Refusal:
        """Sized at the best ask, then again at what that much would cost: a larger order pays more, and risks more."""
        instrument = terms.instrument
        price, stop = instrument.price(ask_ticks), asked.stop_loss
        warnings: tuple[str, ...] = ()
        if stop is None and self.engine.limits.stop_distance is not None:
            stop = instrument.price(self.engine.attached_stop(terms, price)) or None
            if stop is not None:
                warnings = (f"no stopLoss was given: one at {plain(stop)} was attached",)
        guard = mid * (ONE + self.engine.limits.max_slippage)
        limit = round_ticks(guard, instrument.tick, up=True)
        room = self._room(terms, wallet, limit)
        while True:
            crossed = _crossed(asked, stop, price)
            if crossed is not None:
                return crossed
            given = self._given(instrument, wallet, asked, price, stop, guard, room)
            sized = size(given)
            if isinstance(sized, NoSize):
                return Refusal(code=sized.code, detail=sized.detail)
            average = _average(terms, instrument.floor_lots(sized.quantity), limit)
            if average <= price:
                break
            price = average
        assumed = asked.take_profit is None and given.target is not None
        if assumed:
            warnings += ("no takeProfit was given: it was sized for a gain as large as the loss at the stop",)
        return Entry(instrument=instrument, given=given, sized=sized, warnings=warnings, assumed_target=assumed)

    def _given(
        self,
        instrument: Instrument,
        wallet: str,
        asked: ExecuteSignal,
        price: Decimal,
        stop: Decimal | None,
        guard: Decimal,
        room: Room,
    ) -> SizingInput:
        method, target = asked.method or "fixed_fraction", asked.take_profit
        if method == "kelly_criterion" and target is None and stop is not None:
            target = price + (price - stop)  # the least that makes a signal worth following
        known = self.track_record(asked.strategy) if asked.strategy is not None else Record()
        exchange, pair = instrument.exchange, instrument.pair
        return SizingInput(
            method=method,
            settings=self.settings.sizing,
            equity=self.checks.figures.equity(wallet),
            entry=price,
            quote_rate=self.checks.figures.to_base(instrument.quote, exchange) or ZERO,
            stop=stop,
            target=target,
            fees=round_trip_fees(instrument, price, stop),
            max_risk=self.settings.max_risk if asked.max_risk is None else asked.max_risk,
            confidence=asked.confidence,
            closed=known.closed,
            won=known.won,
            volatility=self.volatility(exchange, pair) if method == "volatility_adjusted" else None,
            room=room,
            reserved=instrument.with_fee(guard),
            lot=instrument.lot,
            min_lots=instrument.min_lots,
            min_notional=instrument.min_notional,
        )

    def _room(self, terms: Terms, wallet: str, limit_ticks: int) -> Room:
        """What the limits leave; those of the instrument and the balance hold also where risk checks are off."""
        instrument = terms.instrument
        lots = min(terms.max_lots, terms.market_lots[1])  # the exits leave at the market
        if terms.max_cost < NO_LIMIT:
            lots = min(lots, terms.max_cost // limit_ticks)
        quantity = instrument.quantity(lots)
        if terms.max_position is not None:
            quantity = min(quantity, terms.max_position - self.engine.holding(wallet, instrument.pair))
        return room_of(self.checks, wallet, instrument, quantity)


def room_of(checks: Checks, wallet: str, instrument: Instrument, quantity: Decimal) -> Room:
    """What the limits of the checks leave to one more entry, when the instrument takes so much."""
    figures, exchange, pair = checks.figures, instrument.exchange, instrument.pair
    balance = figures.available(wallet, instrument.quote)
    if not checks.limits.enabled:
        return Room(balance=balance, quantity=quantity)
    amounts, rate = checks.amounts(wallet), figures.to_base(instrument.quote, exchange) or ZERO
    held, _ = figures.exposure(wallet, instrument.base)
    return Room(
        risk_per_trade=amounts.trade,
        daily_risk=amounts.risk_day - figures.lost_today(wallet) - figures.open_risk(wallet),
        position=amounts.position - figures.position_value(wallet, pair) - figures.buying(wallet, pair) * rate,
        correlated=amounts.correlated - held,
        balance=balance,
        quantity=quantity,
    )


def order_of(asked: ExecuteSignal, entry: Entry, exchange: str | None, **more: object) -> SubmitOrder:
    """The order of an entry; `exchange` None leaves it to routing."""
    fields = {"reply": _nobody} | more
    return SubmitOrder(
        pair=asked.pair,
        side="buy",
        type="market",
        quantity=entry.sized.quantity,
        exchange=exchange,
        paper=asked.paper,
        stop_loss=entry.given.stop,
        take_profit=asked.take_profit,
        on_slippage="reduce",
        signal_data=data_of(asked),
        **fields,  # type: ignore[arg-type]
    )


def data_of(asked: ExecuteSignal) -> SignalData:
    """Who wanted its orders."""
    return SignalData(source=asked.source, confidence=asked.confidence, strategy=asked.strategy)


def not_traded(engine: ExecutionEngine, asked: ExecuteSignal) -> Refusal | None:
    """Why a signal's pair cannot be traded at all, or not at its exchange."""
    listed = engine.by_pair.get(asked.pair)
    if not listed:
        return Refusal(code="INVALID_PAIR", detail=f"{asked.pair} is not traded here")
    names = sorted(instrument.exchange for instrument in listed)
    if asked.exchange is None or asked.exchange in names:
        return None
    detail = f"{asked.pair} is not traded at {asked.exchange!r}; it is at: {', '.join(names)}"
    return Refusal(code="INVALID_EXCHANGE", detail=detail)


def _crossed(asked: ExecuteSignal, stop: Decimal | None, price: Decimal) -> Refusal | None:
    """A signal that the market has overtaken: at its stop or its target already."""
    if stop is not None and stop > price:
        detail = f"stopLoss {plain(stop)} is above the price of about {plain(price)} that a buy gets now"
    elif asked.take_profit is not None and asked.take_profit <= price:
        detail = f"takeProfit {plain(asked.take_profit)} is not above the price of about {plain(price)} that a buy gets"
    else:
        return None
    return Refusal(code="CONTRADICTORY_SIGNAL", detail=detail)


def _average(terms: Terms, lots: int, limit_ticks: int) -> Decimal:
    """What a unit of so much costs by the book as it is, as far as the limit goes; 0 where it holds nothing."""
    walk = walk_book(terms.feed.book, BUY, lots, limit_ticks)
    if not walk.filled_lots:
        return ZERO
    return tidy((walk.cost * terms.tick / walk.filled_lots).quantize(PRICE_STEP, ROUND_CEILING))


def _nobody(_: object) -> None:
    """The reply of an order that is only looked at."""
