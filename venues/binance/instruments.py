"""exchangeInfo and account.commission, as instruments.

Always true here: a symbol that cannot be understood, or whose grid cannot be held, is left out with a warning that
names it, and never stops the others; a filter that nobody here knows is a warning too, and its symbol stays, for the
exchange itself refuses what breaks it. Source: "Exchange information" of rest-api.md and filters.md in
binance-spot-api-docs.

    {"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","quotePrecision":8,...,"filters":[
     {"filterType":"PRICE_FILTER","minPrice":"0.01000000","maxPrice":"1000000.00000000","tickSize":"0.01000000"},...]}
"""

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from ...core.market.grid import Grid
from ...core.model.errors import Nonsense
from ...core.model.exact import ZERO
from ...core.model.instruments import Instrument
from .codec import RateLimit, Read, reader
from .codec_replies import Commission, Rates
from .codec_reports import exact

# What the books can hold of a grid: see core/market/kernels_text.py.
GRID_DECIMALS_MAX: Final = 18
GRID_UNITS_MAX: Final = 2**62 - 1
STANDARD_FEE: Final = Decimal("0.001")  # maker and taker of an account without any discount
EXIT_TYPES: Final = frozenset({"STOP_LOSS", "TAKE_PROFIT"})  # of an order list that sells at the market
WARNINGS_MAX: Final = 1_000  # more are counted, not kept


class Listing(Struct, kw_only=True):
    """All that exchangeInfo says and that can be used here."""

    instruments: list[Instrument] = []
    left_out: dict[str, str] = {}  # pair -> why it cannot be traded here
    notes: dict[str, list[str]] = {}  # pair -> warnings about one that can; "": about the exchange
    limits: tuple[RateLimit, ...] = ()
    server_time_ms: int = 0
    warnings: list[str] = []  # all of them
    warnings_left_out: int = 0

    def warn(self, text: str, pair: str | None = None) -> None:
        """`pair`: as in `notes`; None for what is kept elsewhere."""
        if len(self.warnings) < WARNINGS_MAX:
            self.warnings.append(text)
            if pair is not None:
                self.notes.setdefault(pair, []).append(text)
        else:
            self.warnings_left_out += 1


class _Info(Struct, rename="camel"):
    symbols: list[Raw]
    server_time: int = 0
    rate_limits: list[Raw] = []
    exchange_filters: list[Raw] = []


class _Symbol(Struct, rename="camel"):
    symbol: str
    status: str
    base_asset: str
    quote_asset: str
    base_asset_precision: int
    quote_asset_precision: int
    filters: list[Raw]
    quote_precision: int | None = None
    base_commission_precision: int | None = None
    quote_commission_precision: int | None = None
    order_types: tuple[str, ...] = ()
    is_spot_trading_allowed: bool = True
    oco_allowed: bool = False


class _Assets(Struct, rename="camel"):
    base_asset: str
    quote_asset: str


class _Name(Struct, rename="camel"):
    filter_type: str


class _PriceFilter(Struct, rename="camel"):
    min_price: str
    max_price: str
    tick_size: str


class _LotSize(Struct, rename="camel"):
    min_qty: str
    max_qty: str
    step_size: str


class _PercentPrice(Struct, rename="camel"):
    multiplier_up: str
    multiplier_down: str


class _PercentPriceBySide(Struct, rename="camel"):
    bid_multiplier_up: str
    bid_multiplier_down: str
    ask_multiplier_up: str
    ask_multiplier_down: str


class _MinNotional(Struct, rename="camel"):
    min_notional: str
    apply_to_market: bool


class _Notional(Struct, rename="camel"):
    min_notional: str
    apply_min_to_market: bool
    max_notional: str
    apply_max_to_market: bool


class _MaxPosition(Struct, rename="camel"):
    max_position: str


class _MaxOrders(Struct, rename="camel"):
    max_num_orders: int


class _MaxAlgoOrders(Struct, rename="camel"):
    max_num_algo_orders: int


class _MaxOrderLists(Struct, rename="camel"):
    max_num_order_lists: int


class _MaxAmends(Struct, rename="camel"):
    max_num_order_amends: int


_SHAPES: Final[dict[str, Any]] = {
    "PRICE_FILTER": _PriceFilter,
    "PERCENT_PRICE": _PercentPrice,
    "PERCENT_PRICE_BY_SIDE": _PercentPriceBySide,
    "LOT_SIZE": _LotSize,
    "MARKET_LOT_SIZE": _LotSize,
    "MIN_NOTIONAL": _MinNotional,
    "NOTIONAL": _Notional,
    "MAX_POSITION": _MaxPosition,
    "MAX_NUM_ORDERS": _MaxOrders,
    "MAX_NUM_ALGO_ORDERS": _MaxAlgoOrders,
    "MAX_NUM_ORDER_LISTS": _MaxOrderLists,
    "MAX_NUM_ORDER_AMENDS": _MaxAmends,
}
# Known, and not compared with here: iceberg quantities and trailing stops, which no order from here has, and counts
# over all symbols, which the exchange itself keeps.
UNUSED_FILTERS: Final = frozenset(
    {
        "ICEBERG_PARTS",
        "MAX_NUM_ICEBERG_ORDERS",
        "TRAILING_DELTA",
        "EXCHANGE_MAX_NUM_ORDERS",
        "EXCHANGE_MAX_NUM_ALGO_ORDERS",
        "EXCHANGE_MAX_NUM_ICEBERG_ORDERS",
        "EXCHANGE_MAX_NUM_ORDER_LISTS",
    }
)

_read_info: Read[_Info] = reader("exchangeInfo", _Info)
_read_limit: Read[RateLimit] = reader("a rate limit of exchangeInfo", RateLimit)
_read_symbol: Read[_Symbol] = reader("a symbol of exchangeInfo", _Symbol)
_read_assets: Read[_Assets] = reader("a symbol of exchangeInfo", _Assets)
_read_name: Read[_Name] = reader("a filter", _Name)
_READERS: Final[dict[str, Callable[[Raw], Any]]] = {name: reader(name, shape) for name, shape in _SHAPES.items()}
Filters = dict[str, Any]


def read_exchange_info(
    raw: Raw | bytes,
    *,
    exchange: str = "binance",
    maker_fee: Decimal = STANDARD_FEE,
    taker_fee: Decimal = STANDARD_FEE,
) -> Listing:
    """The body of GET /api/v3/exchangeInfo, or the result of `exchangeInfo`. Raises Nonsense where it is neither.

    The fees are not part of it: `with_fees` puts in those of the account.
    """
    info = _read_info(raw)
    listing = Listing(server_time_ms=info.server_time)
    limits: list[RateLimit] = []
    for limit in info.rate_limits:
        try:
            limits.append(_read_limit(limit))
        except Nonsense as error:
            listing.warn(str(error), "")
    listing.limits = tuple(limits)
    _filters("the exchange", "", info.exchange_filters, listing)
    taken: set[str] = set()
    for position, row in enumerate(info.symbols):
        try:
            symbol = _read_symbol(row)
        except Nonsense as error:
            _leave_out(f"symbol number {position + 1}", row, str(error), taken, listing)
            continue
        try:
            _list(symbol, exchange, maker_fee, taker_fee, taken, listing)
        except Nonsense as error:
            _leave_out(_shown(symbol.symbol), row, str(error), taken, listing)
    return listing


def _leave_out(whose: str, row: Raw, why: str, taken: set[str], listing: Listing) -> None:
    listing.warn(f"{whose} is left out: {why}")
    try:
        assets = _read_assets(row)
    except Nonsense:
        return  # not even whose it is can be told; the warning says so
    pair = f"{assets.base_asset}_{assets.quote_asset}"
    if pair not in taken:
        listing.left_out[pair] = why


def _list(
    symbol: _Symbol, exchange: str, maker_fee: Decimal, taker_fee: Decimal, taken: set[str], listing: Listing
) -> None:
    """Add one symbol, and its pair to those that are taken. Raises Nonsense where it cannot be traded here."""
    for asset in (symbol.base_asset, symbol.quote_asset):
        if not asset or "_" in asset or not asset.isprintable():
            raise Nonsense(f"{asset!r} cannot be part of the name of a pair")
    if not symbol.symbol or not symbol.symbol.isprintable():
        raise Nonsense("its name cannot be shown")
    pair = f"{symbol.base_asset}_{symbol.quote_asset}"
    if pair in taken:
        raise Nonsense(f"another symbol is {pair} already")
    filters = _filters(_shown(symbol.symbol), pair, symbol.filters, listing)
    quote_decimals = symbol.quote_precision if symbol.quote_precision is not None else symbol.quote_asset_precision
    tick, prices = _price_grid(filters, quote_decimals)
    lot, quantities = _lot_grid(filters, symbol.base_asset_precision)
    base_fee, quote_fee = symbol.base_commission_precision, symbol.quote_commission_precision
    instrument = Instrument(
        exchange=exchange,
        pair=pair,
        symbol=symbol.symbol,
        base=symbol.base_asset,
        quote=symbol.quote_asset,
        tick=tick,
        lot=lot,
        maker_fee=maker_fee,
        taker_fee=taker_fee,
        fee_in="received",
        base_decimals=symbol.base_asset_precision if base_fee is None else base_fee,
        quote_decimals=symbol.quote_asset_precision if quote_fee is None else quote_fee,
        trading=symbol.status == "TRADING" and symbol.is_spot_trading_allowed,
        linked_exits=symbol.oco_allowed and set(symbol.order_types) >= EXIT_TYPES,
        **prices,
        **quantities,
        **_notional(filters),
        **_bands(filters),
        **_counts(filters),
    )
    listing.instruments.append(instrument)
    taken.add(pair)


def _filters(whose: str, pair: str, rows: list[Raw], listing: Listing) -> Filters:
    """The filters that are used here, by name; the others are warned of, where they are not known."""
    filters: Filters = {}
    for row in rows:
        name = _read_name(row).filter_type
        if name in filters:
            raise Nonsense(f"the filter {name} stands twice")
        if name in _READERS:
            filters[name] = _READERS[name](row)
        elif name not in UNUSED_FILTERS:
            listing.warn(f"{whose} has an unknown filter {_shown(name)}: the exchange may refuse orders for it", pair)
    return filters


# --- the grids -----------------------------------------------------------------------------------------------------


def _price_grid(filters: Filters, decimals: int) -> tuple[Decimal, dict[str, Any]]:
    """The price step, and the limits in ticks. A filter that is switched off leaves the precision as the grid."""
    found: _PriceFilter | None = filters.get("PRICE_FILTER")
    if found is None:
        raise Nonsense("it has no PRICE_FILTER")
    tick = _step("tickSize", found.tick_size, decimals)
    return tick, {
        "min_price_ticks": _steps_up("minPrice", found.min_price, tick),
        "max_price_ticks": _most("maxPrice", found.max_price, tick),
    }


def _lot_grid(filters: Filters, decimals: int) -> tuple[Decimal, dict[str, Any]]:
    """The quantity step, and the limits in lots, of all orders and of orders at the market."""
    found: _LotSize | None = filters.get("LOT_SIZE")
    if found is None:
        raise Nonsense("it has no LOT_SIZE")
    lot = _step("stepSize", found.step_size, decimals)
    limits: dict[str, Any] = {"min_lots": max(1, _steps_up("minQty", found.min_qty, lot))}
    most = _most("maxQty", found.max_qty, lot)
    limits["max_lots"] = most or GRID_UNITS_MAX // Grid.of(lot).units
    if limits["max_lots"] < limits["min_lots"]:
        raise Nonsense("its LOT_SIZE lets no quantity pass")
    market: _LotSize | None = filters.get("MARKET_LOT_SIZE")
    if market is not None:
        limits["market_min_lots"] = _steps_up("minQty", market.min_qty, lot)
        limits["market_max_lots"] = _most("maxQty", market.max_qty, lot)
        limits["market_step_lots"] = _market_step(market.step_size, lot)
    return lot, limits


def _step(what: str, text: str, decimals: int) -> Decimal:
    """A step that the books can hold."""
    step = _not_negative(what, text)
    if not step:  # off: whatever the precision allows
        if not 0 <= decimals <= GRID_DECIMALS_MAX:
            raise Nonsense(f"{what} is 0 and the precision {decimals}")
        step = Decimal(1).scaleb(-decimals)
    step = step.normalize() + ZERO
    grid = Grid.of(step)
    if grid.decimals > GRID_DECIMALS_MAX or grid.units > GRID_UNITS_MAX:
        raise Nonsense(f"{what} {text} is a grid that the books cannot hold")
    return step


def _market_step(text: str, lot: Decimal) -> int:
    """Lots in the step of market orders: both filters hold, so that it is their least common multiple."""
    step = _not_negative("stepSize", text)
    if not step:
        return 1
    scale = Decimal(10) ** max(-_exponent(step), -_exponent(lot), 0)
    of_market, of_lots = int(step * scale), int(lot * scale)
    return math.lcm(of_market, of_lots) // of_lots


def _exponent(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int), "the value is finite"
    return exponent


def _steps_up(what: str, text: str, step: Decimal) -> int:
    """Whole steps that are at least as much."""
    return _bounded(what, (_not_negative(what, text) / step).to_integral_value(ROUND_CEILING))


def _most(what: str, text: str, step: Decimal) -> int:
    """Whole steps that are at most as much; 0 where the limit is switched off."""
    limit = _not_negative(what, text)
    if not limit:
        return 0
    whole = min((limit / step).to_integral_value(ROUND_FLOOR), Decimal(GRID_UNITS_MAX))
    if not whole:
        raise Nonsense(f"{what} {text} is less than one step of {step}")
    return int(whole)


def _bounded(what: str, whole: Decimal) -> int:
    if whole > GRID_UNITS_MAX:
        raise Nonsense(f"{what} is {whole} steps: more than can be held")
    return int(whole)


def _not_negative(what: str, text: str) -> Decimal:
    value = exact(what, text)
    if value < 0:
        raise Nonsense(f"{what} is {text}: it must not be negative")
    return value


# --- the limits ----------------------------------------------------------------------------------------------------


def _notional(filters: Filters) -> dict[str, Any]:
    """Least and greatest order value; NOTIONAL took MIN_NOTIONAL's place, and where both stand both hold."""
    older: _MinNotional | None = filters.get("MIN_NOTIONAL")
    newer: _Notional | None = filters.get("NOTIONAL")
    limits: dict[str, Any] = {}
    if older is not None:
        limits["min_notional"] = _not_negative("minNotional", older.min_notional)
        limits["min_notional_market"] = older.apply_to_market
    if newer is not None:
        least = _not_negative("minNotional", newer.min_notional)
        limits["min_notional"] = max(least, limits.get("min_notional", ZERO))
        limits["min_notional_market"] = newer.apply_min_to_market or limits.get("min_notional_market", False)
        most = _not_negative("maxNotional", newer.max_notional)
        limits["max_notional"] = most or None
        limits["max_notional_market"] = newer.apply_max_to_market
    return limits


def _bands(filters: Filters) -> dict[str, Any]:
    """How far from the average price an order may be, for each side; the narrower of the two filters."""
    both: _PercentPrice | None = filters.get("PERCENT_PRICE")
    sides: _PercentPriceBySide | None = filters.get("PERCENT_PRICE_BY_SIDE")
    least: dict[str, list[str]] = {"buy": [], "sell": []}
    most: dict[str, list[str]] = {"buy": [], "sell": []}
    if both is not None:
        for side in ("buy", "sell"):
            least[side].append(both.multiplier_down)
            most[side].append(both.multiplier_up)
    if sides is not None:
        least["buy"].append(sides.bid_multiplier_down)
        most["buy"].append(sides.bid_multiplier_up)
        least["sell"].append(sides.ask_multiplier_down)
        most["sell"].append(sides.ask_multiplier_up)
    bands: dict[str, Any] = {}
    for side in ("buy", "sell"):
        if least[side]:
            bands[f"{side}_price_min"] = max(_not_negative("a price multiplier", text) for text in least[side])
            bands[f"{side}_price_max"] = min(_not_negative("a price multiplier", text) for text in most[side])
    return bands


def _counts(filters: Filters) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    if "MAX_NUM_ORDERS" in filters:
        counts["max_open_orders"] = filters["MAX_NUM_ORDERS"].max_num_orders
    if "MAX_NUM_ALGO_ORDERS" in filters:
        counts["max_stop_orders"] = filters["MAX_NUM_ALGO_ORDERS"].max_num_algo_orders
    if "MAX_NUM_ORDER_LISTS" in filters:
        counts["max_order_lists"] = filters["MAX_NUM_ORDER_LISTS"].max_num_order_lists
    if "MAX_NUM_ORDER_AMENDS" in filters:
        counts["max_amends"] = filters["MAX_NUM_ORDER_AMENDS"].max_num_order_amends
    if "MAX_POSITION" in filters:
        counts["max_position"] = _not_negative("maxPosition", filters["MAX_POSITION"].max_position) or None
    if any(type(value) is int and value < 0 for value in counts.values()):
        raise Nonsense("a number of orders is negative")
    return counts


# --- fees ----------------------------------------------------------------------------------------------------------


def with_fees(instrument: Instrument, commission: Commission) -> Instrument:
    """The instrument with what the account pays: standard, special and tax commission, and the dearer side of each.

    The discount for paying in another asset is left out: it is not known before a trade whether that asset lasts, and
    a fill tells its real fee. Raises Nonsense.
    """
    if commission.symbol != instrument.symbol:
        raise Nonsense(f"the commission of {_shown(commission.symbol)} where {instrument.symbol} was asked for")
    kinds = (commission.standard_commission, commission.special_commission, commission.tax_commission)
    maker, taker = ZERO, ZERO
    for rates in kinds:
        if rates is not None:
            side = _dearer_side(rates)
            maker += exact("a commission rate", rates.maker) + side
            taker += exact("a commission rate", rates.taker) + side
    if not (-1 < maker < 1 and -1 < taker < 1):
        raise Nonsense(f"commission rates of {instrument.symbol} are {maker} and {taker}: they must be fractions")
    return msgspec.structs.replace(instrument, maker_fee=maker, taker_fee=taker, fee_in="received")


def _dearer_side(rates: Rates) -> Decimal:
    return max(exact("a commission rate", rates.buyer), exact("a commission rate", rates.seller))


def _shown(text: str) -> str:
    return text[:40] if text.isprintable() else repr(text[:40])
