"""Instruments, and the only place where decimal text becomes ticks and lots.

Always true here: a conversion is exact or refused. `OffGrid` names the nearest values that the venue would take.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from typing import Literal

import msgspec

from .exact import ZERO, plain

FeeIn = Literal["received", "quote"]


class OffGrid(ValueError):
    """A price or quantity that is not a whole number of steps; `nearest` holds the valid neighbours."""

    def __init__(self, what: str, value: Decimal, step: Decimal, nearest: tuple[Decimal, ...]) -> None:
        self.nearest = nearest
        names = " or ".join(plain(n) for n in nearest)
        super().__init__(f"{what} {plain(value)} is not a multiple of {plain(step)}; nearest valid: {names}")


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One pair at one exchange: its grid, its limits, its fees."""

    exchange: str
    pair: str  # BASE_QUOTE, as the API writes it
    symbol: str  # as the venue writes it
    base: str
    quote: str
    tick: Decimal  # price step
    lot: Decimal  # quantity step
    min_lots: int = 1
    max_lots: int = 10**12
    min_price_ticks: int = 0  # 0: none
    max_price_ticks: int = 0  # 0: none
    # of an order at the market; 0: as of any other order
    market_min_lots: int = 0
    market_max_lots: int = 0
    market_step_lots: int = 1
    # how far a price may be from the venue's average price, as multiples of it (Binance PERCENT_PRICE_BY_SIDE)
    buy_price_min: Decimal | None = None
    buy_price_max: Decimal | None = None
    sell_price_min: Decimal | None = None
    sell_price_max: Decimal | None = None
    min_notional: Decimal = ZERO  # in quote
    max_notional: Decimal | None = None
    min_notional_market: bool = True  # whether it holds for an order at the market too
    max_notional_market: bool = True
    max_open_orders: int = 0  # at the venue at once, of one account; 0: no limit
    max_stop_orders: int = 0  # of those, how many may be stops that the venue holds; 0: no limit
    max_order_lists: int = 0  # orders of which one cancels the other, open at once; 0: no limit
    max_amends: int = 0  # of one order; 0: no limit
    linked_exits: bool = False  # takes a stop and a target at the market of which one cancels the other
    max_position: Decimal | None = None  # base currency held and being bought
    maker_fee: Decimal = ZERO  # fraction of the traded amount
    taker_fee: Decimal = ZERO
    fee_in: FeeIn = "quote"  # received: base on a buy, quote on a sell
    base_decimals: int = 8  # fees in base are rounded to these
    quote_decimals: int = 8
    trading: bool = True

    def price_ticks(self, price: Decimal) -> int:
        """Whole ticks of a price; raises OffGrid."""
        return steps("price", price, self.tick)

    def qty_lots(self, quantity: Decimal) -> int:
        """Whole lots of a quantity; raises OffGrid."""
        return steps("quantity", quantity, self.lot)

    def floor_lots(self, quantity: Decimal) -> int:
        """Lots that fit into a quantity; what is left over is dust."""
        return int((quantity / self.lot).to_integral_value(ROUND_FLOOR))

    @property
    def market_range(self) -> tuple[int, int, int]:
        """Of an order without a price: its least and greatest lots, both whole steps, and the step."""
        step = self.market_step_lots
        least = max(self.min_lots, self.market_min_lots, 1)
        most = min(self.max_lots, self.market_max_lots or self.max_lots)
        return -(-least // step) * step, most // step * step, step

    def market_lots(self, lots: int) -> int:
        """How much of so many lots one order without a price can take; 0 where it is too little for one."""
        least, most, step = self.market_range
        fits = min(lots, most) // step * step
        return fits if fits >= least else 0

    def price(self, ticks: int) -> Decimal:
        return ticks * self.tick

    def quantity(self, lots: int) -> Decimal:
        return lots * self.lot

    def amount(self, ticks_x_lots: int) -> Decimal:
        """An amount of quote currency from a sum of ticks x lots."""
        return ticks_x_lots * self.tick * self.lot

    def with_fee(self, cost: Decimal) -> Decimal:
        """What a buy of this cost takes of the quote currency at most."""
        return cost + cost * self.taker_fee if self.fee_in == "quote" else cost

    def fee_currency(self, side: str) -> str:
        return self.base if self.fee_in == "received" and side == "buy" else self.quote


def steps(what: str, value: Decimal, step: Decimal) -> int:
    """How many whole steps a value is; raises OffGrid with its valid neighbours."""
    whole, rest = divmod(value, step)
    if rest:
        below, above = whole * step, (whole + 1) * step
        raise OffGrid(what, value, step, (below, above) if below > 0 else (above,))
    return int(whole)


def round_ticks(price: Decimal, tick: Decimal, *, up: bool) -> int:
    """Ticks of a price that need not lie on the grid, rounded in the stated direction."""
    return int((price / tick).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR))


def decimal_of(text: str) -> Decimal:
    """A finite Decimal from text; raises ValueError for anything else."""
    try:
        value = Decimal(text)
    except InvalidOperation as exc:
        raise ValueError(f"{text!r} is not a number") from exc
    if not value.is_finite():
        raise ValueError(f"{text!r} is not a finite number")
    return value
