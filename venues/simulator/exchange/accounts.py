"""Accounts: what each owns, free and locked, to the last unit; and the orders and trades of an account at a symbol.

Always true here: free and locked of an account are never negative (the house's may be: its funds are endless, and
what it owes is what the others got from it); their sum changes by trades, commissions and deposits only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .records import AccountTrade, Amendment, PreventedMatch

if TYPE_CHECKING:
    from .orders import Live

ENDED_KEPT = 20_000  # orders of an account at a symbol that have ended; older ones are forgotten
TRADES_KEPT = 50_000  # of an account at a symbol
RECORDS_KEPT = 10_000  # prevented matches, amendments


class Account:
    """Balances by asset. `touched` are the assets that the current call changed."""

    __slots__ = ("free", "house", "locked", "name", "touched")

    def __init__(self, name: str, balances: Mapping[str, int], *, house: bool = False) -> None:
        self.name = name
        self.house = house
        self.free: dict[str, int] = dict(balances)
        self.locked: dict[str, int] = dict.fromkeys(balances, 0)
        self.touched: dict[str, None] = {}  # in the order in which they were

    def know(self, asset: str) -> None:
        """Have a balance of an asset, of nothing where it is new."""
        if asset not in self.free:
            self.free[asset] = self.locked[asset] = 0

    def lock(self, asset: str, units: int) -> None:
        """Move from free to locked; with a negative number back."""
        self.free[asset] -= units
        self.locked[asset] += units
        self.touched[asset] = None


class Seat:
    """One account at one symbol: its orders, open and ended, and its trades."""

    __slots__ = (
        "account",
        "algo",
        "amendments",
        "by_client",
        "ended",
        "lists",
        "open",
        "orders",
        "prevented",
        "trades",
    )

    def __init__(self, account: Account) -> None:
        self.account = account
        self.orders: dict[int, Live] = {}  # by order id, in its order
        self.by_client: dict[str, Live] = {}  # the last that had this client id
        self.open: dict[int, Live] = {}
        self.algo = 0  # open orders with a stop price or a trailing delta
        self.lists = 0  # open order lists
        self.ended: deque[int] = deque()
        self.trades: deque[AccountTrade] = deque(maxlen=TRADES_KEPT)
        self.prevented: deque[PreventedMatch] = deque(maxlen=RECORDS_KEPT)
        self.amendments: deque[Amendment] = deque(maxlen=RECORDS_KEPT)

    def enter(self, live: Live) -> None:
        order = live.order
        self.orders[order.order_id] = self.open[order.order_id] = live
        self.by_client[order.client_order_id] = live
        self.algo += live.algo

    def leave(self, live: Live) -> None:
        """An order ended: it stays to be asked about until ENDED_KEPT others ended after it."""
        order_id = live.order_id
        del self.open[order_id]
        self.algo -= live.algo
        self.ended.append(order_id)
        if len(self.ended) > ENDED_KEPT:
            old = self.orders.pop(self.ended.popleft())
            if self.by_client.get(old.order.client_order_id) is old:
                del self.by_client[old.order.client_order_id]
