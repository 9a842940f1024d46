"""Reports and replies about orders, translated into the messages of the core. Pure.

Always true here: prices are whole ticks and quantities whole lots of the instrument, exactly, or it is Nonsense; a
message is about the id that the order was sent with, also where the exchange speaks of its cancel; the messages of one
order come as accepted, fills, end. Everything may be told more than once, by a reply and by a report: the core takes a
trade id once.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from ...core.kernel.clock import MS_NS
from ...core.model.errors import Nonsense
from ...core.model.exact import ZERO, plain
from ...core.model.instruments import Instrument, OffGrid
from ...core.model.messages import (
    AskAtVenue,
    BalanceMoved,
    BalancesReported,
    ForeignFilled,
    VenueAccepted,
    VenueAmended,
    VenueEnded,
    VenueFilled,
    VenueRejected,
)
from ...core.model.records import Side
from .codec import AccountPosition, BalanceUpdate, ExecutionReport, one_line
from .codec import Side as TheirSide
from .codec_replies import (
    Account,
    AccountTrade,
    Amended,
    CancelledList,
    CancelledOrder,
    KnownOrder,
    PlacedList,
    PlacedOrder,
)
from .errors import REJECT_REASONS, VENUE_REFUSED

VenueMessage = VenueAccepted | VenueRejected | VenueFilled | VenueEnded | VenueAmended | ForeignFilled

# An executionReport's `eR` and an order's `expiryReason` -> words for people.
EXPIRY_REASONS: Final = {
    "REJECTED": "the exchange refused it after it was taken",
    "EXCHANGE_CANCELED": "the exchange took it back",
    "OCO_TRIGGER": "the other order of its list traded or was triggered",
    "OTO_PHASE_ONE_EXPIRED": "the order that it waited for ended without being filled",
    "UNFILLED_IOC_QUANTITY_EXPIRED": "no liquidity left at its price, and it does not rest",
    "UNFILLED_FOK_ORDER_EXPIRED": "it could not be filled whole at once",
    "INSUFFICIENT_LIQUIDITY": "no liquidity left in the book",
    "EXECUTION_RULE_PRICE_RANGE_EXCEEDED": "the next price is outside the range that the exchange lets trade",
}
SELF_TRADE: Final = "self-trade prevention: it met another order of the same account or group"
CANCELLED: Final = "cancelled"
SIDES: Final[dict[TheirSide, Side]] = {"BUY": "buy", "SELL": "sell"}

_DECIMAL = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?", re.ASCII)
STEPS_MAX: Final = 2**62 - 1  # ticks or lots: what the kernels and the store can hold
TIME_MS_MAX: Final = 9 * 10**12  # the year 2255, which 63 bits hold in nanoseconds; microseconds by mistake are beyond


# --- reports -------------------------------------------------------------------------------------------------------


def translate(report: ExecutionReport, instrument: Instrument, venue: str, client_id: str | None) -> list[VenueMessage]:
    """The messages of one executionReport, in order. Raises Nonsense.

    `client_id` is what the order was sent with; None: it is somebody else's, of which only fills are told, as
    ForeignFilled.
    """
    kind = report.kind
    _about(report.symbol, instrument)
    if client_id is None:
        return [_foreign(report, instrument, venue)] if kind == "TRADE" else []
    timestamp_ns = ns_of(report.time_ms)
    if kind == "TRADE":
        return _traded(report, instrument, venue, client_id, timestamp_ns)
    if kind == "NEW":
        return [_accepted(venue, client_id, report.order_id, report.side, timestamp_ns)]
    if kind == "CANCELED":
        filled = _whole_lots(instrument, "the executed quantity", report.filled)
        return [_ended(venue, client_id, "cancelled", CANCELLED, timestamp_ns, filled)]
    if kind == "REPLACED":
        return [_amended(instrument, venue, client_id, report.quantity, report.price, timestamp_ns)]
    if kind == "REJECTED":
        code, reason = reject_words(report.reject_reason)
        return [VenueRejected(venue=venue, client_id=client_id, code=code, reason=reason, timestamp_ns=timestamp_ns)]
    if kind == "EXPIRED":
        reason = SELF_TRADE if report.status == "EXPIRED_IN_MATCH" else expiry_words(report.expiry_reason, report.tif)
        filled = _whole_lots(instrument, "the executed quantity", report.filled)
        return [_ended(venue, client_id, "expired", reason, timestamp_ns, filled)]
    # TRADE_PREVENTION takes quantity from the order; what is left of it stays as it is.
    if report.status == "EXPIRED_IN_MATCH":
        filled = _whole_lots(instrument, "the executed quantity", report.filled)
        return [_ended(venue, client_id, "expired", SELF_TRADE, timestamp_ns, filled)]
    return []


def order_id_of(report: ExecutionReport) -> str:
    """The client id of a report's order, as the report has it: before an amendment or a cancel gave it another one."""
    if report.original_client_id and report.kind in ("CANCELED", "REPLACED"):
        return report.original_client_id
    return report.client_id


def _traded(
    report: ExecutionReport, instrument: Instrument, venue: str, client_id: str, timestamp_ns: int
) -> list[VenueMessage]:
    messages: list[VenueMessage] = [
        _filled(
            instrument,
            venue,
            client_id,
            report.order_id,
            report.side,
            trade_id=_trade_id(report.trade_id, report.allocation_id),
            price=report.last_price,
            quantity=report.last_quantity,
            fee=fee_of(report.fee, report.fee_currency, instrument),
            maker=report.maker,
            timestamp_ns=timestamp_ns,
        )
    ]
    if (
        report.status == "FILLED"
        and report.filled != report.quantity  # the usual case, and the text tells it
        and exact("filled", report.filled) < exact("quantity", report.quantity)
    ):
        # Filled but for what self-trade prevention took (DECREMENT): nothing more will come.
        filled = _whole_lots(instrument, "the executed quantity", report.filled)
        messages.append(_ended(venue, client_id, "expired", SELF_TRADE, timestamp_ns, filled))
    return messages


def _foreign(report: ExecutionReport, instrument: Instrument, venue: str) -> ForeignFilled:
    fee, fee_currency = fee_of(report.fee, report.fee_currency, instrument)
    price_ticks = ticks(instrument, "the price of a trade", report.last_price)
    qty_lots = lots(instrument, "the quantity of a trade", report.last_quantity)
    _require_less(instrument, fee, fee_currency, price_ticks, qty_lots)
    return ForeignFilled(
        venue=venue,
        pair=instrument.pair,
        client_id=report.client_id,
        trade_id=_trade_id(report.trade_id, report.allocation_id),
        side=SIDES[report.side],
        price_ticks=price_ticks,
        qty_lots=qty_lots,
        fee=fee,
        fee_currency=fee_currency,
        timestamp_ns=ns_of(report.time_ms),
    )


def fee_of(fee: str, currency: str | None, instrument: Instrument) -> tuple[Decimal, str]:
    """A fee and its currency; no fee has none."""
    amount = exact("a fee", fee)
    if amount < 0:
        raise Nonsense(f"a fee of {fee}: Binance pays none for a trade")
    if currency:
        return amount, currency
    if amount:
        raise Nonsense(f"a fee of {fee} in no currency")
    return ZERO, instrument.quote


def _require_less(instrument: Instrument, fee: Decimal, currency: str, price_ticks: int, qty_lots: int) -> None:
    """A fee takes a part of what was traded. One in a third asset has no measure here."""
    if currency == instrument.base:
        most = instrument.quantity(qty_lots)
    elif currency == instrument.quote:
        most = instrument.amount(price_ticks * qty_lots)
    else:
        return
    if fee > most:
        raise Nonsense(f"a fee of {plain(fee)} {currency} for a trade of {plain(most)}")


def _trade_id(trade_id: int, allocation_id: int | None) -> str:
    if trade_id >= 0:
        return str(trade_id)
    if allocation_id is not None and allocation_id >= 0:  # SOR: a fill that is no trade of the symbol
        return f"A{allocation_id}"
    raise Nonsense(f"a trade with the id {trade_id}")


def balance_moved(event: BalanceUpdate, venue: str) -> BalanceMoved:
    """Money came or went without a trade."""
    return BalanceMoved(
        venue=venue,
        currency=event.asset,
        change=exact("the change of a balance", event.change),
        reason="a deposit, a withdrawal or a transfer at Binance",
        timestamp_ns=ns_of(event.time_ms),
    )


def position(event: AccountPosition) -> dict[str, tuple[Decimal, Decimal]]:
    """Currency -> (free, locked) of what an event may have changed."""
    return {b.asset: _held(b.asset, b.free, b.locked) for b in event.balances}


# --- replies -------------------------------------------------------------------------------------------------------


def placed(order: PlacedOrder, instrument: Instrument, venue: str) -> list[VenueMessage]:
    """The messages of the reply to order.place, or of one leg of an order list. Raises Nonsense."""
    _about(order.symbol, instrument)
    client_id, timestamp_ns = order.client_order_id, ns_of(order.transact_time)
    if order.status == "REJECTED":
        reason = "Binance rejected it"
        return [
            VenueRejected(
                venue=venue, client_id=client_id, code=VENUE_REFUSED, reason=reason, timestamp_ns=timestamp_ns
            )
        ]
    messages: list[VenueMessage] = [_accepted(venue, client_id, order.order_id, order.side, timestamp_ns)]
    if order.status is None:
        return messages
    fills = [
        _filled(
            instrument,
            venue,
            client_id,
            order.order_id,
            order.side,
            trade_id=_trade_id(fill.trade_id, fill.alloc_id),
            price=fill.price,
            quantity=fill.qty,
            fee=fee_of(fill.commission, fill.commission_asset, instrument),
            maker=False,  # what trades on arrival takes
            timestamp_ns=timestamp_ns,
        )
        for fill in order.fills or ()
    ]
    return [*messages, *fills, *_outcome(order, fills, instrument, venue, client_id, timestamp_ns)]


def placed_list(answer: PlacedList, instrument: Instrument, venue: str) -> list[VenueMessage]:
    """The messages of all legs of an order list, in the order of the reply."""
    return [message for order in answer.order_reports for message in placed(order, instrument, venue)]


def cancelled(answer: CancelledOrder | CancelledList, instrument: Instrument, venue: str) -> list[VenueMessage]:
    """The end of the order, or of each order of the list that it was part of. Fills may still come as reports."""
    messages: list[VenueMessage] = []
    for order, client_id in cancelled_orders(answer):
        _about(order.symbol, instrument)
        if order.status not in ("CANCELED", "EXPIRED", "EXPIRED_IN_MATCH"):
            raise Nonsense(f"the order {order.order_id} is {order.status} after it was cancelled")
        filled = _whole_lots(instrument, "the executed quantity", order.executed_qty)
        messages.append(_ended(venue, client_id, "cancelled", CANCELLED, ns_of(order.transact_time), filled))
    return messages


def cancelled_orders(answer: CancelledOrder | CancelledList) -> list[tuple[CancelledOrder, str]]:
    """Each order that ended with the client id that it was sent with. Raises Nonsense where that is not told."""
    orders: tuple[CancelledOrder, ...]
    if isinstance(answer, CancelledOrder):
        orders, listed = (answer,), {}
    else:
        orders, listed = answer.order_reports, {order.order_id: order.client_order_id for order in answer.orders}
    named = [(order, order.orig_client_order_id or listed.get(order.order_id, "")) for order in orders]
    for order, client_id in named:
        if not client_id:
            raise Nonsense(f"the order {order.order_id} was cancelled, and its client id is not told")
    return named


def amended(answer: Amended, instrument: Instrument, venue: str) -> list[VenueMessage]:
    """The order with its new quantity."""
    order = answer.amended_order
    _about(order.symbol, instrument)
    timestamp_ns = ns_of(answer.transact_time)
    return [_amended(instrument, venue, order.orig_client_order_id, order.qty, order.price, timestamp_ns)]


def known(
    order: KnownOrder,
    trades: Sequence[AccountTrade],
    instrument: Instrument,
    venue: str,
    client_id: str,
    *,
    known_lots: int = 0,
) -> list[VenueMessage]:
    """All that the exchange knows of an order that it was asked about: accepted, what it is now, fills, end.

    `client_id` is what it was asked by. `trades` are all of the order, or all but those of `known_lots` that were told
    before; while the exchange still shows fewer than it has executed that is Nonsense, and it has to be asked again.
    Raises Nonsense.
    """
    _about(order.symbol, instrument)
    created_ns, updated_ns = ns_of(order.time), ns_of(order.update_time)
    if order.status == "REJECTED":
        reason = "Binance rejected it"
        return [
            VenueRejected(venue=venue, client_id=client_id, code=VENUE_REFUSED, reason=reason, timestamp_ns=updated_ns)
        ]
    messages: list[VenueMessage] = [
        _accepted(venue, client_id, order.order_id, order.side, created_ns),
        # An amendment whose answer was lost shows only here. The price is as it was sent: nothing changes it in place.
        VenueAmended(
            venue=venue,
            client_id=client_id,
            qty_lots=lots(instrument, "the quantity", order.orig_qty),
            price_ticks=None,
            timestamp_ns=updated_ns,
        ),
    ]
    fills: list[VenueFilled] = []
    for trade in sorted(trades, key=lambda t: t.id):
        if trade.order_id != order.order_id or trade.symbol != order.symbol:
            raise Nonsense(f"a trade of the order {trade.order_id} among those of {order.order_id}")
        message = _filled(
            instrument,
            venue,
            client_id,
            order.order_id,
            order.side,
            trade_id=_trade_id(trade.id, None),
            price=trade.price,
            quantity=trade.qty,
            fee=fee_of(trade.commission, trade.commission_asset, instrument),
            maker=trade.is_maker,
            timestamp_ns=ns_of(trade.time),
        )
        fills.append(message)
    return [*messages, *fills, *_outcome(order, fills, instrument, venue, client_id, updated_ns, known_lots)]


def differs(order: KnownOrder, asked: AskAtVenue, instrument: Instrument) -> str:
    """How an order that was found under our id is not the one that we asked about; empty where it may be. An
    amendment whose answer was lost makes it smaller than we know. Raises Nonsense."""
    _about(order.symbol, instrument)
    if SIDES[order.side] != asked.side:
        return f"it is a {SIDES[order.side]}, ours is a {asked.side}"
    if lots(instrument, "the quantity", order.orig_qty) > asked.qty_lots:
        return f"its quantity is {one_line(order.orig_qty)}, ours {plain(instrument.quantity(asked.qty_lots))}"
    if asked.price_ticks is not None:
        price = instrument.price(asked.price_ticks)
        if exact("the price", order.price) != price:
            return f"its price is {one_line(order.price)}, ours {plain(price)}"
    return ""


def balances(account: Account, venue: str, timestamp_ns: int) -> BalancesReported:
    """All that the account holds."""
    held = {b.asset: _held(b.asset, b.free, b.locked) for b in account.balances}
    return BalancesReported(venue=venue, balances=held, timestamp_ns=timestamp_ns)


# --- parts ---------------------------------------------------------------------------------------------------------


def reject_words(reason: str) -> tuple[str, str]:
    """Our code and words for an executionReport's reject reason."""
    known_as = REJECT_REASONS.get(reason)
    if known_as is not None:
        return known_as[0], f"Binance: {known_as[1]}"
    return VENUE_REFUSED, "Binance rejected it" if reason == "NONE" else f"Binance rejected it: {one_line(reason)}"


def expiry_words(reason: str | int | None, tif: str) -> str:
    """Why an order expired, in words."""
    if reason is None or reason == "NONE":
        return f"expired at Binance ({one_line(tif)})"
    if isinstance(reason, str) and reason in EXPIRY_REASONS:
        return EXPIRY_REASONS[reason]
    return f"expired at Binance: reason {one_line(str(reason))}"


def exact(what: str, text: str) -> Decimal:
    """A decimal as Binance writes them: digits, perhaps with a point; no exponent, no NaN. Raises Nonsense."""
    if _DECIMAL.fullmatch(text) is None:
        raise Nonsense(f"{what} is {text[:60]!r}: not a decimal number")
    return Decimal(text)


def ticks(instrument: Instrument, what: str, text: str) -> int:
    """Whole ticks of a price above zero. Raises Nonsense."""
    try:
        whole = instrument.price_ticks(exact(what, text))
    except OffGrid as error:
        raise Nonsense(f"{what} of {instrument.symbol} is not on its grid: {error}") from None
    if not 0 < whole <= STEPS_MAX:
        raise Nonsense(f"{what} of {instrument.symbol} is {text}: it must be above zero, and small enough to be held")
    return whole


def lots(instrument: Instrument, what: str, text: str) -> int:
    """Whole lots of a quantity above zero. Raises Nonsense."""
    whole = _whole_lots(instrument, what, text)
    if not whole:
        raise Nonsense(f"{what} of {instrument.symbol} is {text}: it must be above zero")
    return whole


def _whole_lots(instrument: Instrument, what: str, text: str) -> int:
    """Whole lots of a quantity that may be nothing. Raises Nonsense."""
    try:
        whole = instrument.qty_lots(exact(what, text))
    except OffGrid as error:
        raise Nonsense(f"{what} of {instrument.symbol} is not on its grid: {error}") from None
    if not 0 <= whole <= STEPS_MAX:
        raise Nonsense(f"{what} of {instrument.symbol} is {text}: it must not be negative, and small enough to be held")
    return whole


def _held(asset: str, free: str, locked: str) -> tuple[Decimal, Decimal]:
    name = one_line(asset)
    pair = exact(f"the free {name}", free), exact(f"the locked {name}", locked)
    if pair[1] < 0:
        raise Nonsense(f"the locked {name} is {locked}")
    return pair


def ns_of(time_ms: int) -> int:
    """UTC nanoseconds of the exchange's milliseconds. Raises Nonsense for what is no such time."""
    if not 0 < time_ms < TIME_MS_MAX:
        raise Nonsense(f"{time_ms} is not a time in milliseconds")
    return time_ms * MS_NS


def _about(symbol: str, instrument: Instrument) -> None:
    if symbol != instrument.symbol:
        raise Nonsense(f"it is about {symbol[:60]!r}, where {instrument.symbol} was expected")


def _outcome(
    order: PlacedOrder | KnownOrder,
    fills: Sequence[VenueFilled],
    instrument: Instrument,
    venue: str,
    client_id: str,
    timestamp_ns: int,
    known_lots: int = 0,
) -> list[VenueMessage]:
    """The end of an order that has one, beyond being filled. Raises Nonsense where `fills` and `known_lots` are not all
    that was executed: a missing one would be lost money."""
    filled = known_lots + sum(fill.qty_lots for fill in fills)
    expected = _whole_lots(instrument, "the executed quantity", order.executed_qty)
    if filled != expected:
        raise Nonsense(f"the order {order.order_id} has executed {expected} lots, and trades of {filled} lots are told")
    match order.status:
        case "CANCELED":
            kind, reason = "cancelled", CANCELLED
        case "EXPIRED":
            kind, reason = "expired", expiry_words(order.expiry_reason, order.time_in_force)
        case "EXPIRED_IN_MATCH":
            kind, reason = "expired", SELF_TRADE
        case "FILLED" if filled < _whole_lots(instrument, "the quantity", order.orig_qty):
            kind, reason = "expired", SELF_TRADE
        case _:
            return []
    return [_ended(venue, client_id, kind, reason, timestamp_ns, filled)]


def _accepted(venue: str, client_id: str, order_id: int, side: TheirSide | None, timestamp_ns: int) -> VenueAccepted:
    return VenueAccepted(
        venue=venue,
        client_id=client_id,
        venue_order_id=str(order_id),
        timestamp_ns=timestamp_ns,
        side=SIDES[side] if side is not None else None,
    )


def _filled(
    instrument: Instrument,
    venue: str,
    client_id: str,
    order_id: int,
    side: TheirSide | None,
    *,
    trade_id: str,
    price: str,
    quantity: str,
    fee: tuple[Decimal, str],
    maker: bool,
    timestamp_ns: int,
) -> VenueFilled:
    price_ticks = ticks(instrument, "the price of a trade", price)
    qty_lots = lots(instrument, "the quantity of a trade", quantity)
    _require_less(instrument, *fee, price_ticks, qty_lots)
    return VenueFilled(
        venue=venue,
        client_id=client_id,
        venue_order_id=str(order_id),
        trade_id=trade_id,
        price_ticks=price_ticks,
        qty_lots=qty_lots,
        fee=fee[0],
        fee_currency=fee[1],
        maker=maker,
        timestamp_ns=timestamp_ns,
        side=SIDES[side] if side is not None else None,
        pair=instrument.pair,
    )


def _ended(venue: str, client_id: str, kind: str, reason: str, timestamp_ns: int, filled_lots: int) -> VenueEnded:
    return VenueEnded(
        venue=venue,
        client_id=client_id,
        kind="cancelled" if kind == "cancelled" else "expired",
        reason=reason,
        timestamp_ns=timestamp_ns,
        filled_lots=filled_lots,
    )


def _amended(
    instrument: Instrument, venue: str, client_id: str, quantity: str, price: str, timestamp_ns: int
) -> VenueAmended:
    at = exact("the price", price)
    return VenueAmended(
        venue=venue,
        client_id=client_id,
        qty_lots=lots(instrument, "the quantity of an amended order", quantity),
        price_ticks=ticks(instrument, "the price of an amended order", price) if at else None,
        timestamp_ns=timestamp_ns,
    )
