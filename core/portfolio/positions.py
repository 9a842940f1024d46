"""What a fill does to a position: average cost method, exact.

Always true here, for each position: quantity x price - cost + realised is what its trades have earned at that
price, fees paid. The only rounding is a sold part's share of the cost (18 decimals); what it rounds away stays in
the cost of the rest, and the last sale takes all that is left, so a round trip loses nothing.

Fees reduce `realised` at once, on a buy too, so the average price is the price that was paid:

    in quote      by the fee
    in base       a buy: the fee's coins never reach the position; at the fill's price they are realised as a loss.
                  a sell: they leave the position at their share of the cost, which is realised as a loss.
    in a third    by its worth in quote at the fill (`fee_value`)

Coins that were deposited have no cost here: a sale beyond the position's quantity realises only on the part that
the position covers, with that part's share of the fee. What is left under one lot cannot be sold: the position
counts as closed, and the dust keeps its cost and goes into the next position of the pair.
"""

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

from ..model.exact import ZERO
from ..model.records import Fill, Position

EIGHTEEN = Decimal("1E-18")


def apply_fill(
    position: Position,
    fill: Fill,
    *,
    base: str,
    quote: str,
    lot: Decimal,
    new_id: Callable[[], str],
) -> str | None:
    """Book a fill; returns the name of the API event, or None when no open position was touched.

    `lot` is the least that can be sold. `new_id` names a position that opens. A fee in a third currency costs what it
    was worth, `fill.fee_value`; nothing where that is not known.
    """
    if fill.side == "sell":
        sale = sale_of(position.quantity, fill, base, quote)
        return None if sale is None else apply_sale(position, fill, sale, fill.fee, lot)
    was_open = is_open(position, lot)
    quantity, cost, earned = _bought(fill, base, quote)
    if not was_open and position.quantity + quantity >= lot:
        position.position_id = new_id()
        position.open_ns = fill.timestamp_ns
        position.trip_realised = ZERO
    position.quantity += quantity
    position.cost += cost
    return _booked(position, fill, earned, fill.fee, was_open, lot)


def apply_sale(position: Position, fill: Fill, sale: "Sale", fee: Decimal, lot: Decimal) -> str | None:
    """Book a sale, or a part of one, with its share of the fee; returns as `apply_fill`."""
    was_open = is_open(position, lot)
    return _booked(position, fill, _take(position, fill.price, sale), fee, was_open, lot)


def _booked(position: Position, fill: Fill, earned: Decimal, fee: Decimal, was_open: bool, lot: Decimal) -> str | None:
    position.realised += earned
    position.trip_realised += earned
    position.updated_ns = fill.timestamp_ns
    if fee:
        position.fees[fill.fee_currency] = position.fees.get(fill.fee_currency, ZERO) + fee
    return _event(position, was_open, is_open(position, lot))


def is_open(position: Position, lot: Decimal) -> bool:
    """Whether there is enough of it to sell."""
    return position.quantity >= lot and position.quantity > 0


def _event(position: Position, was_open: bool, now_open: bool) -> str | None:
    if now_open:
        return "PositionChanged" if was_open else "PositionOpened"
    if not was_open:
        return None
    position.closed_count += 1
    position.won_count += position.trip_realised > 0
    return "PositionClosed"


def _bought(fill: Fill, base: str, quote: str) -> tuple[Decimal, Decimal, Decimal]:
    """Quantity and cost that the position gains, and what is realised."""
    quantity, price = fill.quantity, fill.price
    if fill.fee_currency == base:
        quantity -= fill.fee
        return quantity, quantity * price, -fill.fee * price
    return quantity, quantity * price, -(fill.fee if fill.fee_currency == quote else fill.fee_value or ZERO)


class Sale(NamedTuple):
    """What a sale takes from coins that have a cost."""

    sold: Decimal  # coins that were paid for
    gone: Decimal  # those, and what a fee in base took with them
    paid: Decimal  # of the fee, in quote


def sale_of(held: Decimal, fill: Fill, base: str, quote: str) -> Sale | None:
    """What a fill that sells takes from the coins that are held; None where there are none of them."""
    if held <= 0:
        return None
    quantity = fill.quantity
    sold = quantity if quantity <= held else held
    gone, paid = sold, ZERO
    if fill.fee_currency == quote:
        paid = fill.fee
    elif fill.fee_currency != base:
        paid = fill.fee_value or ZERO
    elif fill.fee > 0:
        gone = min(held, sold + fill.fee)
    else:
        paid = fill.fee * fill.price  # coins given back by the venue are no part of the position
    if sold != quantity:
        paid = (paid * sold / quantity).quantize(EIGHTEEN, ROUND_HALF_EVEN)
    return Sale(sold, gone, paid)


def _take(position: Position, price: Decimal, sale: Sale) -> Decimal:
    """Take what was sold out of the position; returns what is realised."""
    held, gone = position.quantity, sale.gone
    share = position.cost if gone == held else (position.cost * gone / held).quantize(EIGHTEEN, ROUND_HALF_EVEN)
    position.quantity = held - gone
    position.cost -= share
    return price * sale.sold - share - sale.paid
