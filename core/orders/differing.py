"""What is known here, as a comparison with a venue needs it: orders by the venue's ids, pairs whose trades may be new,
and whether an order is the same on both sides. Pure.
"""

from ..model.comparisons import VenueOrder
from ..model.records import Order, State
from ..portfolio.marks import Marks
from .registry import Orders


def by_venue_id(orders: Orders, wallet: str, pair: str | None = None) -> dict[tuple[str, str], Order]:
    """Orders here by pair and the venue's id, of their earlier attempts too."""
    found = {}
    for order in orders.orders.values():
        if order.wallet == wallet and pair in (None, order.pair):
            for venue_order_id in (*order.past_ids, order.venue_order_id):
                if venue_order_id is not None:
                    found[order.pair, venue_order_id] = order
    return found


def active_pairs(orders: Orders, marks: Marks, wallet: str) -> list[str]:
    """Pairs whose orders have changed since their trades were compared, the one that waits longest first."""
    latest: dict[str, int] = {}
    for order in orders.orders.values():
        if order.wallet == wallet and order.attempt:
            latest[order.pair] = max(latest.get(order.pair, 0), order.updated_ns)
    marked = {pair: marks.get(wallet, pair) for pair in latest}
    active = [(m.compared_ns, pair) for pair, m in marked.items() if m is not None and latest[pair] >= m.compared_ns]
    return [pair for _, pair in sorted(active)]


def differs(order: Order, theirs: VenueOrder) -> bool:
    """Whether an order that is open at its venue is known otherwise here. What is on its way is asked about anyway."""
    if order.ended or order.waiting or order.state is State.HELD:
        return True
    if order.venue_order_id is None:
        return theirs.client_id != order.venue_client_id
    if theirs.venue_order_id != order.venue_order_id:
        return True
    filled = order.filled_lots - order.attempt_from
    return theirs.filled != filled * order.lot if filled else bool(theirs.filled)
