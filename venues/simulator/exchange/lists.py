"""Order lists: one cancels the other (OCO), one triggers the other (OTO), one triggers a pair (OTOCO).

Always true here:
- A pair locks funds once, as much as its dearer order needs. The first trade or trigger of one order moves what it
  needs to that order, frees the rest and expires the other: both never trade.
- Orders that wait for the working order lock nothing and are in no book. They are placed when it is FILLED, with every
  check of a new order; when it ends otherwise, they expire.
- A list is done when each of its orders has ended.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from .accounts import Seat
from .orders import STOPS, Live
from .records import (
    EXPIRY_OCO,
    EXPIRY_OTO,
    UNIT,
    ExchangeError,
    ListChanged,
    ListedOrder,
    NewList,
    NewOrder,
    Order,
    OrderList,
    Symbol,
)

if TYPE_CHECKING:
    from .execution import Floor

PAIR_TYPES = frozenset({"LIMIT_MAKER", *STOPS})


class Group:
    """A list while and after it lives."""

    __slots__ = ("_closing", "locked", "pair", "pending", "record", "seat", "working")

    def __init__(self, record: OrderList, seat: Seat, working: Live | None, pending: tuple[Live, ...]) -> None:
        self.record = record
        self.seat = seat
        self.working = working
        self.pending = pending
        self.pair: tuple[Live, Live] | None = None  # while either may still be the one that trades
        self.locked = 0  # for the pair
        self._closing = False

    @property
    def members(self) -> tuple[Live, ...]:
        return self.pending if self.working is None else (self.working, *self.pending)

    @property
    def open(self) -> bool:
        return self.record.status != "ALL_DONE"

    def open_pair(self, floor: Floor) -> None:
        """Lock for both orders, and say NEW for each."""
        above, below = self.pending
        self.pair = (above, below)
        self.lock(floor)
        floor.announce(above)
        floor.announce(below)

    def lock(self, floor: Floor) -> None:
        """Make the pair's lock what it needs now."""
        above, below = self.pending
        change = max(need(above), need(below)) - self.locked
        above.account.lock(above.lock_asset, change)
        floor.touch(above.account)
        self.locked += change

    def activated(self, floor: Floor, leg: Live) -> None:
        """An order of the pair trades or is triggered: from now on it is alone."""
        other = self._dissolve(floor, leg)
        if other is not None:
            floor.lock(leg)
            floor.finish(other, "EXPIRED", "EXPIRED", EXPIRY_OCO)

    def ended(self, floor: Floor, live: Live) -> None:
        """An order of the list has ended."""
        if self._closing:
            return
        other = self._dissolve(floor, live)
        if other is not None:
            floor.finish(other, "EXPIRED", "EXPIRED", EXPIRY_OCO)
        elif live is self.working:
            if live.order.status == "FILLED":
                floor.later(start_pending, live)
            else:
                for waiting in self.pending:
                    floor.finish(waiting, "EXPIRED", "EXPIRED", EXPIRY_OTO)
        self._close_if_done(floor)

    def cancel(self, floor: Floor, cancel_client_id: str) -> list[Order]:
        """Cancel what is open; returns those orders as they are then."""
        self._closing = True
        if self.pair is not None:
            self._dissolve(floor, self.pair[0])
        cancelled: list[Order] = []
        for live in self.members:
            if live.order.open:
                floor.finish(live, "CANCELED", "CANCELED", None, cancel_client_id)
                cancelled.append(copy(live.order))
        self._closing = False
        self._close_if_done(floor)
        return cancelled

    def renamed(self, floor: Floor) -> None:
        """An amendment gave an order another client id."""
        self.record.orders = listed(self.members)
        self.say(floor, "UPDATED")

    def say(self, floor: Floor, status: str) -> None:
        """A ListChanged event with this status type."""
        self.record.time_ms = floor.now
        record = copy(self.record)
        record.status = status
        floor.emit(ListChanged(record.account, record))

    def _dissolve(self, floor: Floor, leg: Live) -> Live | None:
        """Free what the pair locked; returns the other order, None where `leg` is of no pair."""
        pair = self.pair
        if pair is None or leg not in pair:
            return None
        self.pair = None
        leg.account.lock(leg.lock_asset, -self.locked)
        floor.touch(leg.account)
        self.locked = 0
        return pair[1] if leg is pair[0] else pair[0]

    def _close_if_done(self, floor: Floor) -> None:
        if self.open and not any(live.order.open for live in self.members):
            self.record.status = self.record.order_status = "ALL_DONE"
            self.seat.lists -= 1
            self.say(floor, "ALL_DONE")


def start_pending(floor: Floor, working: Live) -> None:
    """The working order is filled: place what waited for it, or expire it with the reason that it was refused."""
    group = working.group
    assert group is not None
    pending = group.pending
    try:
        admit_pending(floor, pending)
    except ExchangeError:
        # The account asked for this long ago and is told by the orders' own reports.
        for live in pending:
            floor.refuse_pending(live)
        return
    if len(pending) == 1:
        floor.start(pending[0])
        return
    group.open_pair(floor)
    for live in pending:
        floor.proceed(live)


def admit_pending(floor: Floor, pending: tuple[Live, ...]) -> None:
    """Raises ExchangeError where one order, or a pair as a pair, may not be placed now."""
    if len(pending) == 1:
        floor.admit(pending[0])
        return
    for live in pending:
        floor.admit(live, funds=False)
    above = pending[0]
    if above.account.free[above.lock_asset] < max(need(live) for live in pending):
        raise ExchangeError(-2010, "Account has insufficient balance for requested action.")


def need(live: Live) -> int:
    """What an order locks for what is left of it."""
    return live.lock_price * live.left // UNIT


def listed(members: tuple[Live, ...]) -> tuple[ListedOrder, ...]:
    return tuple(ListedOrder(live.order.symbol, live.order.order_id, live.order.client_order_id) for live in members)


def check_list(symbol: Symbol, new: NewList, last_price: int) -> None:
    """Refuse what is no list. Raises ExchangeError -1013, -1014, -1158, -1165, -1166, -1168, -1196 to -1199, -2010."""
    orders = new.pending if new.working is None else (new.working, *new.pending)
    if any(order.symbol != new.symbol for order in orders):
        raise ExchangeError(-1014, "Unsupported order combination.")
    expected = {"OCO": (False, 2), "OTO": (True, 1), "OTOCO": (True, 2)}.get(new.kind)
    if expected != (new.working is not None, len(new.pending)):
        raise ExchangeError(-1014, "Unsupported order combination.")
    if new.kind != "OTO" and not symbol.oco_allowed:
        raise ExchangeError(-1013, "OCO orders are not supported for this symbol")
    if new.working is not None:
        if not symbol.oto_allowed:
            raise ExchangeError(-1013, "OTO orders are not supported for this symbol")
        if new.working.type not in ("LIMIT", "LIMIT_MAKER"):
            raise ExchangeError(-1014, "Unsupported order combination.")
        if any(order.quote_order_qty is not None for order in new.pending):
            raise ExchangeError(-1014, "Unsupported order combination.")
    if len(new.pending) == 2:
        _check_pair(*new.pending, last_price if new.working is None else 0)


def _check_pair(above: NewOrder, below: NewOrder, last_price: int) -> None:
    """Which types may stand where, and how their prices lie around each other and the last price (0: not asked)."""
    if above.type not in PAIR_TYPES or below.type not in PAIR_TYPES:
        raise ExchangeError(-1158, "Order type not supported in OCO.")
    if above.side != below.side or above.quantity != below.quantity:
        raise ExchangeError(-1014, "Unsupported order combination.")
    if above.type == below.type == "LIMIT_MAKER":
        raise ExchangeError(-1168, "At least one OCO order must be contingent.")
    if above.side == "BUY":
        if above.type == "LIMIT_MAKER":
            raise ExchangeError(-1165, "A limit order in a buy OCO must be below.")
        if below.type.startswith("STOP_LOSS"):
            raise ExchangeError(-1196, "A stop loss order in a buy OCO must be above.")
        if above.type.startswith("TAKE_PROFIT"):
            raise ExchangeError(-1198, "A take profit order in a buy OCO must be below.")
    else:
        if below.type == "LIMIT_MAKER":
            raise ExchangeError(-1166, "A limit order in a sell OCO must be above.")
        if above.type.startswith("STOP_LOSS"):
            raise ExchangeError(-1197, "A stop loss order in a sell OCO must be below.")
        if below.type.startswith("TAKE_PROFIT"):
            raise ExchangeError(-1199, "A take profit order in a sell OCO must be above.")
    high, low = _trigger_price(above), _trigger_price(below)
    wrong = bool(high and low and high <= low)
    if last_price:
        wrong = wrong or bool(high and high <= last_price) or bool(low and low >= last_price)
    if wrong:
        raise ExchangeError(-2010, "The relationship of the prices for the orders is not correct.")


def _trigger_price(order: NewOrder) -> int:
    """0 for a trailing order without a stop price."""
    return (order.price if order.type == "LIMIT_MAKER" else order.stop_price) or 0
