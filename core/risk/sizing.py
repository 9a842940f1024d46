"""How much an entry buys: fixed fraction, volatility adjusted, Kelly; then every limit, then the instrument's grid.

Always true here: amounts and quantities are exact Decimals, and every rounding is down, so that no limit is passed by a
rounding. What cannot be sized is a `NoSize` with a code and words. Nothing is read but the arguments, nothing is kept.

    method -> raw quantity -> the smallest of it and what each limit leaves (that one is named) -> whole lots

`equity`, risk and exposure are in base currency, prices and the balance in quote, quantities in the pair's base units;
`quote_rate` is what one unit of quote is worth in base currency.

Kelly's f is the share of the equity that is lost when the stop is reached, not the share that is invested: for a stake
that is lost whole or wins b times itself, growth is greatest at f = p - (1 - p)/b (J. L. Kelly, 1956). With a stop the
stake is what lies between entry and stop.
"""

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal
from math import isfinite
from typing import Literal

import msgspec

from ..model.exact import DIGITS, ONE, ZERO, plain, tidy
from ..model.instruments import Instrument
from ..model.records import Sizing, SizingMethod

RECORD_MIN = 30  # closed trades from which on a strategy's own record counts
Z95 = Decimal("1.959963984540054")  # the normal distribution holds 95 % within so many deviations of its middle

CapName = Literal[
    "maxRiskPercent",  # the signal's own, of a method that is not built from it
    "maxRiskPerTrade",
    "maxDailyRisk",
    "maxPositionSize",
    "correlatedExposure",
    "balance",
    "maxQuantity",
]

_DOWN = Context(prec=DIGITS, rounding=ROUND_DOWN)
_EIGHTEEN = Decimal("1E-18")
_SHARE = Decimal("1E-8")


class SizingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the methods; shares of equity, volatility a year."""

    kelly_fraction: Decimal
    target_volatility: Decimal
    volatility_floor: Decimal
    volatility_cap: Decimal


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What each limit leaves to this entry; None where there is no such limit, zero or less where nothing is left."""

    risk_per_trade: Decimal | None = None  # base currency, lost at the stop
    daily_risk: Decimal | None = None  # base currency, lost at the stop
    position: Decimal | None = None  # base currency, as cost
    correlated: Decimal | None = None  # base currency, as cost
    balance: Decimal | None = None  # quote currency, as it would be reserved
    quantity: Decimal | None = None  # base units: the most that the instrument takes, or still takes


class SizingInput(msgspec.Struct, frozen=True, kw_only=True):
    """An entry to be sized. `entry` is the price that it will really get, fees not in it."""

    method: SizingMethod
    settings: SizingSettings
    equity: Decimal  # base currency
    entry: Decimal  # quote; 0 where there is no price
    quote_rate: Decimal  # 0 where nothing prices the quote currency
    stop: Decimal | None = None
    target: Decimal | None = None
    fees: Decimal = ZERO  # quote, of one unit for the way in and out: `round_trip_fees`
    max_risk: Decimal  # share of equity
    confidence: Decimal | None = None  # 0..1
    closed: int = 0  # trades of the strategy
    won: int = 0  # of those
    volatility: float | None = None  # a year: 0.8 is 80 %
    room: Room = Room()
    reserved: Decimal | None = (
        None  # quote, set aside for one unit, at the guard price with its fee; None: entry + fees
    )
    # the instrument's grid
    lot: Decimal
    min_lots: int = 1
    step_lots: int = 1
    min_notional: Decimal = ZERO  # quote


class Sized(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity that may be ordered, and how it came about."""

    method: SizingMethod
    raw: Decimal  # before limits and grid, rounded down to 18 decimals
    quantity: Decimal  # on the grid
    risk_amount: Decimal  # base currency, lost at the stop with fees; without a stop the whole cost
    risk_percent: Decimal  # that, as a share of equity
    cap: CapName | None = None  # which limit bound it
    kelly_fraction: Decimal | None = None  # f, before KELLY_FRACTION
    win_probability: Decimal | None = None  # p that f was worked out with
    detail: str | None = None


class NoSize(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is nothing to order.

    NO_PRICE, NO_EQUITY, STOP_REQUIRED, ZERO_STOP_DISTANCE, TARGET_REQUIRED, CONFIDENCE_REQUIRED, NO_EDGE,
    NO_VOLATILITY: the method has nothing to work with. NO_ROOM: the limit `cap` leaves nothing. BELOW_MIN_QUANTITY,
    BELOW_MIN_NOTIONAL: what is left is less than the instrument takes.
    """

    code: str
    detail: str
    raw: Decimal | None = None
    cap: CapName | None = None


def size(given: SizingInput) -> Sized | NoSize:
    """The quantity of an entry."""
    found = _raw(given)
    if isinstance(found, NoSize):
        return found
    raw, f, p, detail = found
    cap, quantity = _capped(given, raw)
    if cap is not None and quantity <= 0:
        return NoSize(
            code="NO_ROOM", detail=f"{cap} leaves nothing of {_shown(raw)} that the method asks for", raw=raw, cap=cap
        )
    quantity = _on_grid(given, quantity)
    refused = _too_little(given, raw, quantity, cap)
    if refused is not None:
        return refused
    risk = risk_amount(given, quantity)
    return Sized(
        method=given.method,
        raw=raw,
        quantity=quantity,
        risk_amount=risk,
        risk_percent=_share_of(risk, given.equity),
        cap=cap,
        kelly_fraction=f,
        win_probability=p,
        detail=detail,
    )


def record(given: SizingInput, sized: Sized, quantity: Decimal | None = None, cap: str | None = None) -> Sizing:
    """What is kept and shown of it; `quantity` and `cap` where the order was cut further after it was sized."""
    ordered = sized.quantity if quantity is None else quantity
    risk = sized.risk_amount if quantity is None else risk_amount(given, ordered)
    return Sizing(
        recommended_size=ordered,
        risk_amount=risk,
        method=given.method,
        risk_percent=_share_of(risk, given.equity),
        raw_size=sized.raw,
        cap=cap or sized.cap,
        equity=tidy(given.equity),
        entry_price=given.entry,
        stop_price=given.stop,
        target_price=given.target,
        volatility=given.volatility if given.method == "volatility_adjusted" else None,
        kelly_fraction=_short(sized.kelly_fraction),
        win_probability=_short(sized.win_probability),
        detail=sized.detail,
    )


def round_trip_fees(instrument: Instrument, entry: Decimal, stop: Decimal | None) -> Decimal:
    """Taker fees in quote of one unit that is bought at the entry and sold at the stop (no stop: at the entry).

    A fee that is taken in base costs no more than this.
    """
    return instrument.taker_fee * (entry + (entry if stop is None else stop))


def _short(share: Decimal | None) -> Decimal | None:
    """Eight decimals: a division has as many digits as the arithmetic."""
    return None if share is None else tidy(share.quantize(_SHARE, ROUND_HALF_EVEN))


def risk_amount(given: SizingInput, quantity: Decimal) -> Decimal:
    """What a quantity loses at the stop, fees included, or all that it costs; in base currency, never too little."""
    return tidy((quantity * unit_risk(given) * given.quote_rate).quantize(_EIGHTEEN, ROUND_CEILING))


def unit_risk(given: SizingInput) -> Decimal:
    """What one unit loses at the stop, or without one all that it costs; fees included, in quote."""
    return (given.entry if given.stop is None else abs(given.entry - given.stop)) + given.fees


def kelly(p: Decimal, entry: Decimal, stop: Decimal, target: Decimal) -> Decimal:
    """f = p - (1 - p)/b with b = |target - entry| / |entry - stop|: the share of equity to lose at the stop.

    p=0.55 and b=2 give 0.325. A target at the entry wins nothing: -1.
    """
    gain, loss = abs(target - entry), abs(entry - stop)
    return p - (ONE - p) * loss / gain if gain else -ONE


def wilson_lower(won: int, closed: int) -> Decimal:
    """Lower end of the 95 % interval of a share that was `won` of `closed` (E. B. Wilson, 1927), rounded down.

    15 of 30 give 0.3315, 30 of 30 give 0.8865.
    """
    if closed <= 0:
        return ZERO
    n, w, zz = Decimal(closed), Decimal(won), Z95 * Z95
    spread = Z95 * (w * (n - w) / n + zz / 4).sqrt()
    return max(ZERO, ((w + zz / 2 - spread) / (n + zz)).quantize(_EIGHTEEN, ROUND_DOWN))


def win_probability(confidence: Decimal | None, won: int, closed: int) -> Decimal | None:
    """p for Kelly: the confidence, no more than what the strategy's own record supports once that counts."""
    if closed < RECORD_MIN:
        return confidence
    bound = wilson_lower(won, closed)
    return bound if confidence is None else min(confidence, bound)


# --- methods -------------------------------------------------------------------------------------------------------

# Raw quantity, f, p, and what is worth knowing in words.
_Raw = tuple[Decimal, Decimal | None, Decimal | None, str | None]


def _raw(given: SizingInput) -> _Raw | NoSize:
    """The quantity as the method gives it."""
    missing = _missing(given)
    if missing is not None:
        return missing
    if given.method == "volatility_adjusted":
        return _of_volatility(given)
    if given.method == "kelly_criterion":
        return _of_kelly(given)
    assert given.method == "fixed_fraction", "a sale takes what is held, nothing is sized"
    return _at_risk(given, given.max_risk), None, None, None


def _missing(given: SizingInput) -> NoSize | None:
    """What every method needs, or this one."""
    entry, rate, stop = given.entry, given.quote_rate, given.stop
    if entry <= 0:
        return NoSize(code="NO_PRICE", detail="there is no price to size with")
    if not rate or rate < 0:
        return NoSize(code="NO_PRICE", detail="nothing prices the quote currency in base currency")
    if given.equity <= 0:
        return NoSize(code="NO_EQUITY", detail=f"the equity is {_shown(given.equity)}, there is nothing to size with")
    if stop is None:
        if given.method == "volatility_adjusted":
            return None
        return NoSize(code="STOP_REQUIRED", detail=f"{given.method} sizes by the distance to the stop: give a stopLoss")
    if stop == entry:
        detail = f"the stop {plain(stop)} is the entry price: the distance that sizes the order is zero"
        return NoSize(code="ZERO_STOP_DISTANCE", detail=detail)
    return None


def _of_volatility(given: SizingInput) -> _Raw | NoSize:
    settings, volatility = given.settings, given.volatility
    if volatility is None or not isfinite(volatility) or volatility < 0:
        return NoSize(code="NO_VOLATILITY", detail="the book has not been watched long enough to know its volatility")
    believed = max(Decimal(repr(volatility)), settings.volatility_floor)
    share = min(_DOWN.divide(settings.target_volatility, believed), settings.volatility_cap)
    raw = _units(given.equity * share, given.entry * given.quote_rate)
    return raw, None, None, f"{_shown(share)} of equity at a volatility of {_shown(believed)} a year"


def _of_kelly(given: SizingInput) -> _Raw | NoSize:
    entry, stop, target = given.entry, given.stop, given.target
    if target is None:
        return NoSize(code="TARGET_REQUIRED", detail="kelly sizes by what can be won: give a takeProfit")
    p = win_probability(given.confidence, given.won, given.closed)
    if p is None:
        detail = "kelly needs the probability of winning: give a confidence"
        return NoSize(code="CONFIDENCE_REQUIRED", detail=detail)
    assert stop is not None, "looked at before"
    f = kelly(p, entry, stop, target)
    of_record = given.closed >= RECORD_MIN and p != given.confidence
    why = f"; {given.won} of {given.closed} trades won support no more than p={_shown(p)}" if of_record else ""
    if f <= 0:
        odds = f"p={_shown(p)}, gain {plain(abs(target - entry))} against loss {plain(abs(entry - stop))}"
        return NoSize(code="NO_EDGE", detail=f"nothing is expected to be won: f={_shown(f)} with {odds}{why}")
    share = f * given.settings.kelly_fraction
    return _at_risk(given, share), f, p, f"f={_shown(f)} with p={_shown(p)}{why}"


def _at_risk(given: SizingInput, share: Decimal) -> Decimal:
    """The quantity that loses this share of equity at the stop."""
    return _units(given.equity * share, unit_risk(given) * given.quote_rate)


# --- limits --------------------------------------------------------------------------------------------------------


def _capped(given: SizingInput, raw: Decimal) -> tuple[CapName | None, Decimal]:
    """The smallest of the raw quantity and what each limit leaves, and that limit's name."""
    name: CapName | None = None
    quantity = raw
    for cap, amount, unit in _caps(given):
        if amount is not None:
            left = _units(amount, unit) if amount > 0 else ZERO
            if left < quantity:
                name, quantity = cap, left
    return name, quantity


def _caps(given: SizingInput) -> Iterator[tuple[CapName, Decimal | None, Decimal]]:
    """Name, what the limit leaves, and what one unit takes of that. Without a stop no risk is known: no risk limit."""
    entry, rate, room = given.entry, given.quote_rate, given.room
    if given.stop is not None:
        risk = unit_risk(given) * rate
        if given.method != "fixed_fraction":
            yield "maxRiskPercent", given.equity * given.max_risk, risk
        yield "maxRiskPerTrade", room.risk_per_trade, risk
        yield "maxDailyRisk", room.daily_risk, risk
    yield "maxPositionSize", room.position, entry * rate
    yield "correlatedExposure", room.correlated, entry * rate
    yield "balance", room.balance, entry + given.fees if given.reserved is None else given.reserved
    yield "maxQuantity", room.quantity, ONE


def _on_grid(given: SizingInput, quantity: Decimal) -> Decimal:
    """Whole steps of lots, rounded down."""
    step = given.lot * given.step_lots
    return tidy(quantity // step * step)


def _too_little(given: SizingInput, raw: Decimal, quantity: Decimal, cap: CapName | None) -> NoSize | None:
    """Less than the instrument takes; nothing is ever rounded up to that."""
    bound = f" ({cap} bound it)" if cap is not None else ""
    asked = f"{_shown(raw)} by {given.method} comes to {plain(quantity)}{bound}"
    least = max(given.min_lots, given.step_lots, 1) * given.lot
    if quantity < least:
        detail = f"{asked}; the least that is traded is {plain(least)}"
        return NoSize(code="BELOW_MIN_QUANTITY", detail=detail, raw=raw, cap=cap)
    notional = quantity * given.entry
    if notional < given.min_notional:
        detail = f"{asked}, worth {_shown(notional)}; the least that is traded is worth {plain(given.min_notional)}"
        return NoSize(code="BELOW_MIN_NOTIONAL", detail=detail, raw=raw, cap=cap)
    return None


def _units(amount: Decimal, unit: Decimal) -> Decimal:
    """How many units an amount pays for, rounded down to 18 decimals."""
    return tidy(_DOWN.divide(amount, unit).quantize(_EIGHTEEN, ROUND_DOWN))


def _share_of(amount: Decimal, equity: Decimal) -> Decimal:
    return tidy((amount / equity).quantize(_SHARE, ROUND_HALF_EVEN))


def _shown(value: Decimal) -> str:
    return plain(value.quantize(_SHARE, ROUND_HALF_EVEN))
