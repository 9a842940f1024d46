"""Every order and fill that is held in memory, and the one way to change what the world sees of them.

Always true here: `orders` and `fills` are in the order in which they came; `open` holds exactly the orders that have
not ended; `open_count` counts those of them that have been sent; a change that is not passed to `changed` or
`add_fill` is not committed.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import msgspec

from ..kernel.kernel import Kernel
from ..model.exact import ZERO
from ..model.ids import Ids, id_key
from ..model.messages import OrderEnded
from ..model.order_views import fill_view, order_update
from ..model.records import ENDED, Fill, Order, State

# The feed's name for what happened, and the state that it left the order in.
EVENT_OF_STATE = {
    State.HELD: "OrderPending",
    State.SENT: "OrderSubmitted",
    State.UNKNOWN: "OrderUnknown",
    State.LIVE: "OrderAccepted",
    State.PART: "OrderPartiallyFilled",
    State.FILLED: "OrderFilled",
    State.CANCELLED: "OrderCancelled",
    State.REJECTED: "OrderRejected",
    State.EXPIRED: "OrderExpired",
}


ORDER_WORDS = ("exchange", "pair", "wallet", "tick", "lot", "quote", "base")
FEW_FILLS = 16  # so many are looked through one by one
FILL_WORDS = ("order_id", "exchange", "pair", "wallet", "tick", "lot", "fee_currency")


def _note_nothing(_: Order) -> None:
    """Nobody adds up what is at risk."""


class Orders:
    """The orders and fills of this node that have not left for the archive."""

    def __init__(self, kernel: Kernel, ids: Ids) -> None:
        self.kernel = kernel
        self.ids = ids
        self.orders: dict[str, Order] = {}
        self.open: dict[str, Order] = {}
        self.by_client: dict[str, str] = {}
        self._adopted: dict[str, str] = {}  # client id that an order was found under -> its id here
        self.fills: dict[str, Fill] = {}
        self._fills_of: dict[str, list[Fill]] = {}
        self._trade_ids: dict[str, set[str]] = {}  # of orders with more than FEW_FILLS
        # Lots that orders have filled and no record tells of: one was set aside, or deleted. Their money is booked.
        self.unrecorded: dict[str, int] = {}
        self._uncommitted: set[str] = set()
        self._buying: dict[tuple[str, str], Decimal] = {}
        self._sent: set[str] = set()  # ids of open orders that have been sent
        self._sent_count: dict[tuple[str, str], int] = {}  # by wallet and pair
        # Told of each change of an entry with a stop, of its stop, and of what its exits cover.
        self.on_protection: Callable[[Order], None] = _note_nothing
        self.reserved_hooks: list[Callable[[Order], None]] = []  # told of each change of what an open buy reserves

    # --- reading

    def buying(self, wallet: str, pair: str) -> Decimal:
        """What open buys of a pair have reserved, in quote."""
        return self._buying.get((wallet, pair), ZERO)

    def open_count(self, wallet: str, pair: str) -> int:
        """How many orders of a pair the venue has, or may have: sent and not ended."""
        return self._sent_count.get((wallet, pair), 0)

    def quantity_bought(self, wallet: str, pair: str) -> Decimal:
        """What the open buys of a pair that have been sent may still bring, in base; looks at every open order."""
        return sum(
            (
                order.left_lots * order.lot
                for order in self.open.values()
                if order.side == "buy"
                and order.pair == pair
                and order.wallet == wallet
                and order.state is not State.HELD
            ),
            ZERO,
        )

    def note_reserved(self, order: Order, change: Decimal) -> None:
        """An order's reservation has changed."""
        if order.side == "buy" and change:
            key = (order.wallet, order.pair)
            self._buying[key] = self._buying.get(key, ZERO) + change
            for hook in self.reserved_hooks:
                hook(order)

    def get(self, order_id: str) -> Order | None:
        return self.orders.get(order_id)

    def by_client_id(self, client_order_id: str) -> Order | None:
        return self.orders.get(self.by_client.get(client_order_id, ""))

    def of_venue_client_id(self, client_id: str) -> Order | None:
        """The order that was sent, or adopted, under this id."""
        if self._adopted and client_id in self._adopted:
            return self.orders.get(self._adopted[client_id])
        order = self.orders.get(self.ids.order_of(client_id) or "")
        return order if order is not None and self.sent_as(order, client_id) else None

    def sent_as(self, order: Order, client_id: str) -> bool:
        """Whether an order, held or archived, was sent or adopted under a client id of this node."""
        if client_id in (order.venue_client_id, order.adopted_as):
            return True
        if self.ids.order_of(client_id) != order.order_id:
            return False
        # An attempt that is not on record here is another order, or one whose commit was lost: `Adoption` finds out.
        return self.ids.attempt_of(client_id) <= order.attempt and self.ids.made(client_id, order.tags)

    def fills_of(self, order_id: str) -> list[Fill]:
        return self._fills_of.get(order_id, [])

    def has_trade(self, order_id: str, trade_id: str) -> bool:
        """Whether the order has a fill with this id of the venue's."""
        fills = self._fills_of.get(order_id)
        if fills is None:
            return False
        if len(fills) <= FEW_FILLS:
            return any(fill.trade_id == trade_id for fill in fills)
        known = self._trade_ids.get(order_id)
        if known is None:
            known = self._trade_ids[order_id] = {fill.trade_id for fill in fills}
        return trade_id in known

    def committed(self, order: Order) -> bool:
        """Whether the first commit of an order that came with an id has been acknowledged."""
        return order.order_id not in self._uncommitted

    # --- changing

    def restore(self, orders: Iterable[Order], fills: Iterable[Fill]) -> None:
        """Take what was loaded, in any order.

        Words that repeat (pair, wallet, step) are made one object each: decoded one by one they would be a third of
        the memory.
        """
        known: dict[Any, Any] = {}
        for order in sorted(orders, key=lambda o: id_key(o.order_id)):  # ids rise even when the clock goes back
            _share(order, ORDER_WORDS, known)
            known[order.order_id] = order.order_id
            self._index(order)
        for fill in sorted(fills, key=lambda f: id_key(f.fill_id)):
            _share(fill, FILL_WORDS, known)
            self._index_fill(fill)
        for order in self.orders.values():
            if order.filled_lots:
                missing = order.filled_lots - sum(fill.qty_lots for fill in self.fills_of(order.order_id))
                if missing > 0:
                    self.unrecorded[order.order_id] = missing

    def add(self, order: Order, kind: str | None = None) -> None:
        """Put a new order on record."""
        self._index(order)
        if order.fingerprint:  # only a request with an id of its own can be repeated
            self._uncommitted.add(order.order_id)
            self.kernel.outbox.effect(self._uncommitted.discard, order.order_id)
        self.changed(order, kind or EVENT_OF_STATE[order.state], order.created_ns)

    def changed(self, order: Order, kind: str, now_ns: int) -> None:
        """Commit the order as it now is and tell the world what happened to it."""
        order.updated_ns = now_ns
        ended = order.state in ENDED
        if ended:
            if order.end_ns is None:
                order.end_ns = now_ns
            self.open.pop(order.order_id, None)
        here = ended or order.state is State.HELD
        if here is (order.order_id in self._sent):
            self._count(order, here)
        outbox = self.kernel.outbox
        outbox.put("orders", order.order_id, order)
        if self.ids.dirty:
            self.ids.dirty = False
            outbox.put("meta", "ids", self.ids.counters)
        outbox.event("orders", kind, order_update(order))
        if order.stop_loss_id is not None or order.role == "stop_loss":
            self.on_protection(order)
        if ended:
            self.kernel.bus.publish(OrderEnded(order, kind))

    def add_fill(self, fill: Fill) -> None:
        self._index_fill(fill)
        outbox = self.kernel.outbox
        outbox.put("trades", fill.fill_id, fill)
        outbox.event("trades", "TradeExecuted", fill_view(fill))

    def forget(self, order_ids: Iterable[str]) -> None:
        """Drop ended orders that are in the archive now, here and in the store."""
        outbox = self.kernel.outbox
        for order_id in order_ids:
            order = self.orders.pop(order_id, None)
            if order is None:
                continue
            if self.by_client.get(order.client_order_id) == order_id:
                del self.by_client[order.client_order_id]
            self._adopted.pop(order.adopted_as, None)
            outbox.delete("orders", order_id)
            self._trade_ids.pop(order_id, None)
            for fill in self._fills_of.pop(order_id, ()):
                del self.fills[fill.fill_id]
                outbox.delete("trades", fill.fill_id)

    def _index(self, order: Order) -> None:
        self.orders[order.order_id] = order
        if order.adopted_as:
            self._adopted[order.adopted_as] = order.order_id
        if order.fingerprint:
            self.by_client[order.client_order_id] = order.order_id
        else:  # a name that we made gives way to one that a caller chose
            self.by_client.setdefault(order.client_order_id, order.order_id)
        if not order.ended:
            self.open[order.order_id] = order
            self._count(order, False)
            if order.reserved and order.side == "buy":
                self.note_reserved(order, order.reserved)

    def _count(self, order: Order, here: bool) -> None:
        """Follow an order that was sent, or that is not at a venue any more."""
        key, order_id = (order.wallet, order.pair), order.order_id
        if here:
            self._sent.discard(order_id)
            self._sent_count[key] -= 1
        elif order.state is not State.HELD and order_id not in self._sent:
            self._sent.add(order_id)
            self._sent_count[key] = self._sent_count.get(key, 0) + 1

    def _index_fill(self, fill: Fill) -> None:
        self.fills[fill.fill_id] = fill
        known = self._fills_of.get(fill.order_id)
        if known is None:
            self._fills_of[fill.order_id] = [fill]
        else:
            known.append(fill)
            if fill.order_id in self._trade_ids:
                self._trade_ids[fill.order_id].add(fill.trade_id)


def _share(record: msgspec.Struct, fields: Iterable[str], known: dict[Any, Any]) -> None:
    """Replace each field's value by the first equal one that was seen. Decimals are told apart by their digits too."""
    for field in fields:
        value = getattr(record, field)
        key = value if value.__class__ is str else (str(value), field)
        msgspec.structs.force_setattr(record, field, known.setdefault(key, value))
