"""The filters of a symbol: what an order must satisfy before it reaches the book.

Always true here: a check only reads; it raises ExchangeError(-1013, "Filter failure: NAME") or returns.
"""

from __future__ import annotations

from .accounts import Seat
from .market import Market
from .orders import LIMITED, STOPS, Live
from .records import UNIT, ExchangeError, Filters, NewOrder


def failure(name: str) -> ExchangeError:
    return ExchangeError(-1013, f"Filter failure: {name}")


def check_order(market: Market, new: NewOrder, now_ms: int) -> None:
    """Every filter that looks at the order alone."""
    filters = market.symbol.filters
    price, qty = new.price, new.quantity
    if price is not None:
        if price <= 0:
            raise ExchangeError(-1013, "Invalid price.")
        _price(filters, price)
    if new.stop_price is not None:
        if new.stop_price <= 0:
            raise ExchangeError(-1013, "Invalid stopPrice.")
        _price(filters, new.stop_price)
    if price is not None:
        reference = market.tape.reference_price(now_ms)
        if reference and not market.in_percent_band(new.side == "BUY", price, reference):
            raise failure("PERCENT_PRICE_BY_SIDE")
    if qty is not None:
        if qty <= 0:
            raise ExchangeError(-1013, "Invalid quantity.")
        check_qty(filters, qty)
        if new.type == "MARKET":
            check_market_qty(filters, qty)
    if new.iceberg_qty:
        _iceberg(filters, qty or 0, new.iceberg_qty)
    if new.trailing_delta is not None:
        _trailing(filters, new.side == "BUY", new.type, new.trailing_delta)
    _notional(market, new, now_ms)


def check_count(market: Market, seat: Seat, live: Live) -> None:
    """`check_counts` of one order, at once where none of its bounds is near."""
    filters = market.symbol.filters
    if live.algo or filters.max_position is not None or len(seat.open) >= filters.max_orders:
        check_counts(market, seat, [live])


def check_counts(market: Market, seat: Seat, orders: list[Live], *, lists: int = 0) -> None:
    """MAX_NUM_ORDERS, MAX_NUM_ALGO_ORDERS, MAX_NUM_ORDER_LISTS and MAX_POSITION, with these orders added."""
    filters = market.symbol.filters
    if len(seat.open) + len(orders) > filters.max_orders:
        raise failure("MAX_NUM_ORDERS")
    algo = sum([live.algo for live in orders])
    if algo and seat.algo + algo > filters.max_algo_orders:
        raise failure("MAX_NUM_ALGO_ORDERS")
    if lists and seat.lists + lists > filters.max_order_lists:
        raise failure("MAX_NUM_ORDER_LISTS")
    if filters.max_position is not None:
        bought = sum(live.left for live in orders if live.is_buy)
        if bought:
            account = seat.account
            position = account.free.get(market.base, 0) + account.locked.get(market.base, 0)
            position += sum(live.left for live in seat.open.values() if live.is_buy)
            if position + bought > filters.max_position:
                raise failure("MAX_POSITION")


def check_qty(filters: Filters, qty: int) -> None:
    """LOT_SIZE."""
    if qty < filters.min_qty or qty > filters.max_qty or qty % filters.step:
        raise failure("LOT_SIZE")


def check_market_qty(filters: Filters, qty: int) -> None:
    """MARKET_LOT_SIZE; a bound of 0 is off."""
    over = filters.market_max_qty and qty > filters.market_max_qty
    if qty < filters.market_min_qty or over or (filters.market_step and qty % filters.market_step):
        raise failure("MARKET_LOT_SIZE")


def check_amend(market: Market, live: Live, qty: int) -> None:
    """What a smaller quantity may break: LOT_SIZE, NOTIONAL, MAX_NUM_ORDER_AMENDS."""
    filters, order = market.symbol.filters, live.order
    if order.amend_count >= filters.max_amends:
        raise ExchangeError(-2038, "Filter failure: MAX_NUM_ORDER_AMENDS")
    check_qty(filters, qty)
    if order.price and order.price * qty // UNIT < filters.min_notional:
        raise failure("NOTIONAL")
    if order.iceberg_qty:
        _iceberg(filters, qty, min(order.iceberg_qty, qty))


def _price(filters: Filters, price: int) -> None:
    over = filters.max_price and price > filters.max_price
    if price < filters.min_price or over or price % filters.tick:
        raise failure("PRICE_FILTER")


def _iceberg(filters: Filters, qty: int, iceberg_qty: int) -> None:
    if iceberg_qty > qty:
        raise ExchangeError(-2010, "IcebergQty exceeds QTY.")
    check_qty(filters, iceberg_qty)
    if -(-qty // iceberg_qty) > filters.iceberg_parts:
        raise failure("ICEBERG_PARTS")


def _trailing(filters: Filters, is_buy: bool, kind: str, delta: int) -> None:
    above = is_buy == kind.startswith("STOP_LOSS")
    low = filters.min_trailing_above if above else filters.min_trailing_below
    high = filters.max_trailing_above if above else filters.max_trailing_below
    if not low <= delta <= high:
        raise failure("TRAILING_DELTA")


def _notional(market: Market, new: NewOrder, now_ms: int) -> None:
    """Price times quantity; market orders are measured at the average price, by quote quantity at that."""
    filters = market.symbol.filters
    kind = new.type
    if kind in LIMITED:
        cost = (new.price or 0) * (new.quantity or 0) // UNIT
        apply_min = apply_max = True
    else:
        apply_min, apply_max = filters.apply_min_to_market, filters.apply_max_to_market
        if new.quote_order_qty is not None:
            cost = new.quote_order_qty
        else:
            price = market.tape.reference_price(now_ms)
            if kind in STOPS and new.stop_price:
                price = new.stop_price
            if not price:
                return
            cost = price * (new.quantity or 0) // UNIT
    if cost <= 0:
        raise ExchangeError(-1013, "Price * QTY is zero or less.")
    if (apply_min and cost < filters.min_notional) or (
        apply_max and filters.max_notional and cost > filters.max_notional
    ):
        raise failure("NOTIONAL")
