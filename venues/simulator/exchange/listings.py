"""The symbols that the local exchange lists, with full sets of filters.

Always true here: names are BASEQUOTE; ticks and steps are those of the simulated market's binance pairs, so that its
frames lie on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from ....core.model.instruments import Instrument
from ..instruments import simulated_instruments
from .records import UNIT, Filters, Symbol

PRICE_TICKS_MAX = 100_000_000
MAX_NOTIONAL = 9_000_000 * UNIT
MARKET_SHARE = 100  # a market order may be this part of the largest limit order


def to_symbol(instrument: Instrument) -> Symbol:
    """An instrument as the exchange lists it: its grid and fees, the filters that venue's symbols have."""
    tick, step = int(instrument.tick * UNIT), int(instrument.lot * UNIT)
    max_qty = step * min(instrument.max_lots or PRICE_TICKS_MAX, 900_000_000)
    return Symbol(
        name=instrument.symbol,
        base=instrument.base,
        quote=instrument.quote,
        filters=Filters(
            min_price=tick,
            max_price=tick * PRICE_TICKS_MAX,
            tick=tick,
            min_qty=step,
            max_qty=max_qty,
            step=step,
            market_max_qty=max(step, max_qty // MARKET_SHARE),
            min_notional=int(instrument.min_notional * UNIT),
            max_notional=MAX_NOTIONAL,
            iceberg_parts=100,
        ),
        maker_rate=instrument.maker_fee,
        taker_rate=instrument.taker_fee,
    )


def symbols() -> list[Symbol]:
    """The simulated market's pairs at binance."""
    return [to_symbol(instrument) for instrument in simulated_instruments() if instrument.exchange == "binance"]


def extra(count: int) -> list[Symbol]:
    """SYM001USDT, SYM002USDT, ...: symbols for loads larger than the simulated market."""
    return [to_symbol(instrument) for instrument in extra_instruments(count)]


def extra_instruments(count: int) -> Iterable[Instrument]:
    """The instruments behind `extra`, for whoever makes a market for them; a price of 1 to 1000 fits their grid."""
    for number in range(1, count + 1):
        base = f"SYM{number:03d}"
        yield Instrument(
            exchange="binance",
            pair=f"{base}_USDT",
            symbol=f"{base}USDT",
            base=base,
            quote="USDT",
            tick=Decimal("0.01"),
            lot=Decimal("0.001"),
            max_lots=100_000_000,
            min_notional=Decimal(5),
            maker_fee=Decimal("0.001"),
            taker_fee=Decimal("0.001"),
            fee_in="received",
        )
