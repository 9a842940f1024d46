"""What the API shows of the portfolio: the manual's JSON, field by field.

Amounts are rounded to 8 decimals, prices to 12, percents and ratios to 4 (2.44 is 2.44 %), half to even, without
trailing zeros; an encoder with `decimal_format="number"` prints them as JSON numbers. Null means not known. Every
figure of a position is in its quote currency, every figure of the summary in the base currency.
"""

from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from .exact import ONE, ZERO

MONEY = Decimal("1E-8")
PRICE = Decimal("1E-12")
PERCENT = Decimal("1E-4")


def shown(value: Decimal, step: Decimal = MONEY) -> Decimal:
    """The value rounded to a step, without trailing zeros, exponent or negative zero."""
    # Adding zero turns the exponent of 1.6E+2 into 160, and minus zero into zero.
    return value.quantize(step, ROUND_HALF_EVEN).normalize() + ZERO


def shown_units(units: int) -> Decimal:
    """`shown` of an amount that is already a whole number of 1E-8."""
    return (MONEY * units).normalize() + ZERO


def shown_percent(units: int) -> Decimal:
    """`shown` of a percentage that is already a whole number of 1E-4."""
    return (PERCENT * units).normalize() + ZERO


def ratio(part: Decimal, whole: Decimal) -> Decimal:
    """part / whole to 4 decimals; 0 where there is nothing to divide by."""
    return shown(part / whole, PERCENT) if whole else ZERO


def percent(part: Decimal, whole: Decimal) -> Decimal:
    """part / whole in percent to 4 decimals; 0 where there is nothing to divide by."""
    return shown(part * 100 / whole, PERCENT) if whole else ZERO


class RiskMetricsView(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Of one position; on spot nothing is borrowed."""

    position_size: Decimal  # share of equity: 0.39 is 39 %
    leverage: Decimal = ONE
    margin_used: Decimal = ZERO
    liquidation_price: Decimal | None = None


class PositionView(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One open position."""

    id: str
    pair: str
    side: str
    quantity: Decimal
    average_price: Decimal
    current_price: Decimal | None  # mid; null until the market has shown one
    market_value: Decimal | None
    unrealized_pnl: Decimal | None = msgspec.field(name="unrealizedPnL")
    unrealized_pnl_percent: Decimal | None = msgspec.field(name="unrealizedPnLPercent")
    realised_pnl: Decimal = msgspec.field(name="realisedPnL")  # since this position was opened, after fees
    day_pnl: Decimal | None = msgspec.field(name="dayPnL")
    day_pnl_percent: Decimal | None = msgspec.field(name="dayPnLPercent")
    open_date: int  # ms
    exchange: str
    risk_metrics: RiskMetricsView


class PositionUpdate(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What an event on the channel `positions` says: what a trade made of it. Prices move on; they are no events."""

    id: str
    pair: str
    side: str
    quantity: Decimal
    average_price: Decimal
    realised_pnl: Decimal = msgspec.field(name="realisedPnL")  # since this position was opened, after fees
    open_date: int  # ms
    exchange: str
    timestamp: int  # ms


class BalanceView(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One currency at one exchange."""

    currency: str
    total: Decimal
    available: Decimal
    locked: Decimal
    exchange: str


class UnpricedView(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A balance that no market prices in base currency; it is in no total."""

    currency: str
    amount: Decimal
    exchange: str


class SummaryView(msgspec.Struct, frozen=True, rename="camel"):
    """The whole portfolio in base currency; totalValue = totalCash + totalPositions."""

    total_value: Decimal
    total_cash: Decimal
    total_positions: Decimal
    unrealized_pnl: Decimal = msgspec.field(name="unrealizedPnL")
    unrealized_pnl_percent: Decimal = msgspec.field(name="unrealizedPnLPercent")
    day_pnl: Decimal = msgspec.field(name="dayPnL")
    day_pnl_percent: Decimal = msgspec.field(name="dayPnLPercent")
    unpriced: tuple[UnpricedView, ...] = ()


class PerformanceView(msgspec.Struct, frozen=True, rename="camel"):
    """All in percent, except the Sharpe ratio."""

    total_return: Decimal = ZERO
    day_return: Decimal = ZERO
    week_return: Decimal = ZERO
    month_return: Decimal = ZERO
    max_drawdown: Decimal = ZERO
    sharpe_ratio: Decimal | None = None  # null under two days of samples
    win_rate: Decimal | None = None  # null until a position was closed


class SubPositionView(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What a strategy holds of a pair at an exchange, in the quote currency of the pair."""

    pair: str
    exchange: str
    quantity: Decimal
    average_price: Decimal  # that the strategy itself has paid
    current_price: Decimal | None  # mid; null until the market has shown one
    market_value: Decimal | None
    unrealized_pnl: Decimal | None = msgspec.field(name="unrealizedPnL")
    realised_pnl: Decimal = msgspec.field(name="realisedPnL")  # of all its trades of the pair, after fees
    fees: dict[str, Decimal]  # of all its trades of the pair, as paid, by currency


class SubLedgerView(msgspec.Struct, frozen=True, rename="camel"):
    """What a strategy holds, and how its trades went."""

    positions: list[SubPositionView]  # those that it holds anything of
    closed: int  # round trips ended
    won: int  # of those, with a profit
    win_rate: Decimal | None  # in percent; null until one ended
    realised_pnl: Decimal | None = msgspec.field(name="realisedPnL")  # of all pairs in base currency; null: no price


class PortfolioView(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to GET /api/portfolio."""

    timestamp: int  # ms
    summary: SummaryView
    positions: list[PositionView]
    balances: list[BalanceView]
    performance: PerformanceView
