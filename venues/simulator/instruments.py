"""The pairs of the simulated market at its two exchanges.

Always true here: ticks and lots are powers of ten, and every price and quantity in the manual's examples lies on them.
"""

from decimal import Decimal
from typing import NamedTuple

from ...core.model.instruments import FeeIn, Instrument

EXCHANGES = ("xeggex", "binance")


class Listing(NamedTuple):
    """A pair as the two exchanges list it: their grids, where its price lives, how much stands in its books."""

    pair: str
    price: str
    depth: int  # quote currency at each basis point from the mid, at xeggex; binance has DEPTH_RATIO times as much
    xeggex_tick: str
    xeggex_lot: str
    binance_tick: str
    binance_lot: str
    gap_bps: float = 1.0  # between the prices of its books; one tick where that is more


DEPTH_RATIO = 3

LISTINGS = (
    Listing("BTC_USDT", "62000", 6_000, "0.01", "0.000001", "0.01", "0.00001", 0.25),
    Listing("ETH_USDT", "3000", 4_000, "0.01", "0.00001", "0.01", "0.0001", 0.4),
    Listing("XMR_USDT", "160", 900, "0.01", "0.0001", "0.01", "0.001"),
    Listing("RVN_USDT", "0.0245", 400, "0.000001", "0.01", "0.00001", "0.1"),
    Listing("BEL_USDT", "0.564", 400, "0.0001", "0.01", "0.0001", "0.1"),
    Listing("DOGE_USDT", "0.38", 900, "0.00001", "0.01", "0.00001", "1"),
    Listing("KAS_USDT", "0.12", 400, "0.00001", "0.01", "0.00001", "0.1"),
    Listing("SAL_USDT", "0.3", 300, "0.0001", "0.01", "0.0001", "0.1"),
)


class Terms(NamedTuple):
    """What an exchange asks of an order and takes for it."""

    maker_fee: str
    taker_fee: str
    fee_in: FeeIn
    min_notional: str
    slowness: float  # its latency on paper, in units of the PAPER_LATENCY_MS setting


TERMS = {
    # The manual: 5,000 RVN at 0.02451 cost 0.12 USDT.
    "xeggex": Terms("0.001", "0.001", "quote", "1", 1.6),
    "binance": Terms("0.001", "0.001", "received", "5", 0.8),
}


def simulated_instruments() -> list[Instrument]:
    """Every pair at both exchanges."""
    return [_instrument(exchange, listing) for listing in LISTINGS for exchange in EXCHANGES]


def paper_latency_ns(exchange: str, setting_ns: int) -> int:
    """How long a request takes to reach an exchange on paper; the setting itself for one that is not simulated."""
    terms = TERMS.get(exchange)
    return setting_ns if terms is None else int(setting_ns * terms.slowness)


def _instrument(exchange: str, listing: Listing) -> Instrument:
    base, quote = listing.pair.split("_")
    terms = TERMS[exchange]
    at_binance = exchange == "binance"
    lot = Decimal(listing.binance_lot if at_binance else listing.xeggex_lot)
    return Instrument(
        exchange=exchange,
        pair=listing.pair,
        symbol=base + quote if at_binance else f"{base}/{quote}",
        base=base,
        quote=quote,
        tick=Decimal(listing.binance_tick if at_binance else listing.xeggex_tick),
        lot=lot,
        max_lots=int(Decimal(100_000_000) / lot),
        min_notional=Decimal(terms.min_notional),
        maker_fee=Decimal(terms.maker_fee),
        taker_fee=Decimal(terms.taker_fee),
        fee_in=terms.fee_in,
    )
