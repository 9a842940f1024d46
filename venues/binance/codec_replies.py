"""What the replies to requests hold, as typed structs; each reader raises Nonsense for what does not fit.

Always true here: fields that only some answers have are optional, and what is computed from them says what it needs.
Amounts are decimal text as sent. Source: web-socket-api.md in binance-spot-api-docs.
"""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from .codec import ABSENT, ApiFault, OrderStatus, Read, Side, nonsense, reader


class OrderFill(Struct, frozen=True, rename="camel", gc=False):
    """One trade of an order at the moment it was placed."""

    price: str
    qty: str
    commission: str
    commission_asset: str
    trade_id: int = -1
    alloc_id: int = -1  # instead, for an order routed by SOR


class PlacedOrder(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The reply to order.place, and a leg in the reply to an order list. An ACK has the first fields only.

    {"symbol":"BTCUSDT","orderId":28,"orderListId":-1,"clientOrderId":"6gCr...","transactTime":1507725176595,
     "price":"23416.10000000","origQty":"0.00847000","executedQty":"0.00847000","status":"FILLED",...,
     "fills":[{"price":"23416.10000000","qty":"0.00635000","commission":"0.000000","commissionAsset":"BNB",
               "tradeId":1650422481}]}
    """

    symbol: str
    order_id: int
    order_list_id: int
    client_order_id: str
    transact_time: int
    status: OrderStatus | None = None  # None: an ACK
    orig_qty: str = "0"  # absent while what the order sells is not known yet (OPO)
    executed_qty: str = "0"
    time_in_force: str = ""
    type: str = ""
    side: Side | None = None
    fills: tuple[OrderFill, ...] | None = None  # None: not told (RESULT)
    expiry_reason: str | int | None = None


class CancelledOrder(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The reply to order.cancel: the order as it was when it ended; `client_order_id` is the cancel's."""

    symbol: str
    orig_client_order_id: str = ""  # may be left out in a list's answer, whose `orders` then tell it
    order_id: int
    order_list_id: int
    client_order_id: str
    transact_time: int
    orig_qty: str
    executed_qty: str
    status: OrderStatus


class ListOrder(Struct, frozen=True, rename="camel", gc=False):
    symbol: str
    order_id: int
    client_order_id: str


class _List(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    order_list_id: int
    contingency_type: str
    list_status_type: str
    list_order_status: str
    list_client_order_id: str
    transaction_time: int
    symbol: str
    orders: tuple[ListOrder, ...]


class PlacedList(_List, frozen=True, kw_only=True, rename="camel", gc=False):
    """The reply to orderList.place.oco, .oto and .otoco."""

    order_reports: tuple[PlacedOrder, ...] = ()


class CancelledList(_List, frozen=True, kw_only=True, rename="camel", gc=False):
    """The reply to orderList.cancel, and to order.cancel of an order that was part of a list."""

    order_reports: tuple[CancelledOrder, ...]


class AmendedOrder(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    symbol: str
    order_id: int
    order_list_id: int
    orig_client_order_id: str
    client_order_id: str
    price: str
    qty: str
    executed_qty: str
    status: OrderStatus


class Amended(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The reply to order.amend.keepPriority."""

    transact_time: int
    execution_id: int
    amended_order: AmendedOrder


class KnownOrder(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The reply to order.status, and an element of openOrders.status."""

    symbol: str
    order_id: int
    order_list_id: int
    client_order_id: str
    price: str
    orig_qty: str
    executed_qty: str
    status: OrderStatus
    time_in_force: str
    type: str
    side: Side
    time: int
    update_time: int
    expiry_reason: str | int | None = None
    stop_price: str = "0"


class AccountTrade(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """An element of myTrades."""

    symbol: str
    id: int
    order_id: int
    price: str
    qty: str
    commission: str
    commission_asset: str
    time: int
    is_buyer: bool
    is_maker: bool


class Holding(Struct, frozen=True, gc=False):
    asset: str
    free: str
    locked: str


class Account(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The reply to account.status."""

    can_trade: bool
    update_time: int
    balances: tuple[Holding, ...]
    uid: int | None = None  # of the account


class Rates(Struct, frozen=True, gc=False):
    """Fractions of what is traded; buyer's and seller's come on top of maker's and taker's."""

    maker: str
    taker: str
    buyer: str = "0"
    seller: str = "0"


class Commission(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The reply to account.commission."""

    symbol: str
    standard_commission: Rates
    special_commission: Rates | None = None
    tax_commission: Rates | None = None


class Session(Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The reply to session.logon, .status and .logout."""

    api_key: str | None
    server_time: int


class Replaced(Struct, frozen=True, kw_only=True, gc=False):
    """What became of the two halves of a cancel-replace; None: not tried. A fault: that half failed."""

    cancel: "CancelledOrder | CancelledList | ApiFault | None"
    order: PlacedOrder | ApiFault | None


class _ServerTime(Struct, rename="camel"):
    server_time: int


class _Subscription(Struct, rename="camel"):
    subscription_id: int


class _Halves(Struct, rename="camel"):
    cancel_result: str
    new_order_result: str
    cancel_response: Raw = ABSENT
    new_order_response: Raw = ABSENT


class _Kind(Struct, rename="camel"):
    """What tells a list's answer from an order's."""

    contingency_type: str | None = None


read_placed: Read[PlacedOrder] = reader("the answer to order.place", PlacedOrder)
read_placed_list: Read[PlacedList] = reader("the answer to an order list", PlacedList)
read_cancelled_list: Read[CancelledList] = reader("the answer to orderList.cancel", CancelledList)
read_amended: Read[Amended] = reader("the answer to order.amend.keepPriority", Amended)
read_order: Read[KnownOrder] = reader("the answer to order.status", KnownOrder)
read_orders: Read[tuple[KnownOrder, ...]] = reader("the answer to openOrders.status", tuple[KnownOrder, ...])
read_trades: Read[tuple[AccountTrade, ...]] = reader("the answer to myTrades", tuple[AccountTrade, ...])
read_account: Read[Account] = reader("the answer to account.status", Account)
read_commission: Read[Commission] = reader("the answer to account.commission", Commission)
read_session: Read[Session] = reader("the answer to session.logon", Session)

_read_time: Read[_ServerTime] = reader("the answer to time", _ServerTime)
_read_subscription: Read[_Subscription] = reader("the answer to userDataStream.subscribe", _Subscription)
_read_kind: Read[_Kind] = reader("the answer to order.cancel", _Kind)
_read_cancelled: Read[CancelledOrder] = reader("the answer to order.cancel", CancelledOrder)
_read_halves: Read[_Halves] = reader("the answer to order.cancelReplace", _Halves)
_read_fault: Read[ApiFault] = reader("half of the answer to order.cancelReplace", ApiFault)

SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
NOT_ATTEMPTED: Final = "NOT_ATTEMPTED"


def read_time(result: Raw | None) -> int:
    """The exchange's clock, UTC milliseconds."""
    return _read_time(result).server_time


def read_subscription(result: Raw | None) -> int:
    return _read_subscription(result).subscription_id


def read_cancelled(result: Raw | None) -> CancelledOrder | CancelledList:
    """order.cancel of an order of a list ends the whole list, and answers with it."""
    if _read_kind(result).contingency_type is None:
        return _read_cancelled(result)
    return read_cancelled_list(result)


def read_replaced(result: Raw | None, fault: ApiFault | None = None) -> Replaced | None:
    """Both halves of a cancel-replace, from its result, or from the data of its error -2021 or -2022.

    None where the error is of another kind: then neither half was tried, or nothing is known (see `errors`).
    """
    if fault is not None:
        if fault.code not in (-2021, -2022):
            return None
        result = fault.data
    halves = _read_halves(result)
    cancel: CancelledOrder | CancelledList | ApiFault | None
    order: PlacedOrder | ApiFault | None
    if halves.cancel_result == SUCCESS:
        cancel = read_cancelled(halves.cancel_response)
    else:
        cancel = _failed(halves.cancel_result, halves.cancel_response)
    if halves.new_order_result == SUCCESS:
        order = read_placed(halves.new_order_response)
    else:
        order = _failed(halves.new_order_result, halves.new_order_response)
    return Replaced(cancel=cancel, order=order)


def _failed(outcome: str, response: Raw) -> ApiFault | None:
    if outcome == FAILURE:
        return _read_fault(response)
    if outcome == NOT_ATTEMPTED:
        return None
    error = msgspec.ValidationError(f"a half ended as {outcome!r}")
    raise nonsense("the answer to order.cancelReplace", error, bytes(response))
