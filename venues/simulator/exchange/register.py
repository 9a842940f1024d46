"""What the exchange knows: symbols, accounts, orders, lists, trades; and the questions that can be asked about them.

Always true here: questions change nothing, and what they answer are copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import TypeVar

from msgspec.structs import replace

from .accounts import Account, Seat
from .lists import Group
from .market import Market
from .matching import Book
from .orders import Live
from .records import AccountTrade, Amendment, ExchangeError, Order, OrderList, PreventedMatch, Symbol
from .tape import Tape

T = TypeVar("T")

LISTS_KEPT = 10_000  # lists of an account; older ones are forgotten when they have ended
LIMIT_MAX = 1000  # records an answer holds


class Register:
    """Accounts and symbols. Symbol names and account names are unique."""

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        self.symbols: dict[str, Symbol] = {}
        self.accounts: dict[str, Account] = {}
        self._markets: dict[str, Market] = {}
        self._groups: dict[str, dict[int, Group]] = {}
        for symbol in symbols:
            self.add_symbol(symbol)

    def add_symbol(self, symbol: Symbol) -> None:
        """List a symbol. Raises ValueError for a name that is listed, and for a grid whose amounts are not exact."""
        if symbol.name in self.symbols:
            raise ValueError(f"{symbol.name} is listed already")
        self._markets[symbol.name] = Market(symbol)
        self.symbols[symbol.name] = symbol

    def set_status(self, name: str, status: str) -> None:
        """TRADING, HALT, BREAK: anything but TRADING takes no new orders."""
        changed = replace(self.market(name).symbol, status=status)
        self.symbols[name] = self._markets[name].symbol = changed

    def add_account(self, name: str, balances: Mapping[str, int]) -> None:
        """An account with balances in units. Raises ValueError where it exists or a balance is negative."""
        if name in self.accounts:
            raise ValueError(f"account {name} exists already")
        if any(units < 0 for units in balances.values()):
            raise ValueError(f"account {name}: a balance cannot be negative")
        self.accounts[name] = Account(name, balances)
        self._groups[name] = {}

    # --- symbols

    def market(self, symbol: str) -> Market:
        market = self._markets.get(symbol)
        if market is None:
            raise ExchangeError(-1121, "Invalid symbol.")
        return market

    def book(self, symbol: str) -> Book:
        """The order book: best_bid, best_ask, depth(limit), update_id, take_changes()."""
        return self.market(symbol).book

    def tape(self, symbol: str) -> Tape:
        """Public trades: trades, bars, last_price, avg_price(mins, now_ms), stats(now_ms, minutes)."""
        return self.market(symbol).tape

    # --- accounts

    def balances(self, account: str) -> dict[str, tuple[int, int]]:
        """Free and locked by asset."""
        known = self._account(account)
        return {asset: (free, known.locked[asset]) for asset, free in known.free.items()}

    def seat(self, account: str, symbol: str) -> Seat:
        market = self.market(symbol)
        return market.seats.get(account) or market.seat(self._account(account))

    def order(self, account: str, symbol: str, order_id: int | None = None, client_id: str | None = None) -> Order:
        """By order id, or the most recent with a client id; where both are given both must agree. -2013 if none."""
        live = self._find(self.seat(account, symbol), order_id, client_id)
        if live is None:
            raise ExchangeError(-2013, "Order does not exist.")
        return copy(live.order)

    def open_orders(self, account: str, symbol: str | None = None) -> list[Order]:
        """Open orders, of one symbol or of all, those that wait in lists included; first placed first."""
        if symbol is not None:
            return [copy(live.order) for live in self.seat(account, symbol).open.values()]
        self._account(account)
        seats = [market.seats[account] for market in self._markets.values() if account in market.seats]
        return [copy(live.order) for seat in seats for live in seat.open.values()]

    def all_orders(
        self,
        account: str,
        symbol: str,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
    ) -> list[Order]:
        """Open and ended orders by rising id: from an id or a time, else the most recent."""
        orders = self.seat(account, symbol).orders.values()
        found = [
            live
            for live in orders
            if (from_id is None or live.order_id >= from_id) and _between(live.order.created_ms, start_ms, end_ms)
        ]
        chosen = _cut(found, limit, first=from_id is not None or start_ms is not None)
        return [copy(live.order) for live in chosen]

    def trades(
        self,
        account: str,
        symbol: str,
        order_id: int | None = None,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
    ) -> list[AccountTrade]:
        """The account's trades by rising id; both sides of a trade with itself."""
        found = [
            mine
            for mine in self.seat(account, symbol).trades
            if (order_id is None or mine.order_id == order_id)
            and (from_id is None or mine.trade.trade_id >= from_id)
            and _between(mine.trade.time_ms, start_ms, end_ms)
        ]
        return _cut(found, limit, first=from_id is not None or start_ms is not None)

    def prevented_matches(
        self,
        account: str,
        symbol: str,
        prevented_match_id: int | None = None,
        order_id: int | None = None,
        from_id: int | None = None,
        limit: int = 500,
    ) -> list[PreventedMatch]:
        """By rising id: one, those of an order, or those from an id on."""
        found = [
            match
            for match in self.seat(account, symbol).prevented
            if (prevented_match_id is None or match.prevented_match_id == prevented_match_id)
            and (order_id is None or order_id in (match.taker_order_id, match.maker_order_id))
            and (from_id is None or match.prevented_match_id >= from_id)
        ]
        return _cut(found, limit, first=True)

    def amendments(
        self, account: str, symbol: str, order_id: int, from_execution_id: int | None = None, limit: int = 500
    ) -> list[Amendment]:
        """Changes of an order's quantity, first to last."""
        found = [
            change
            for change in self.seat(account, symbol).amendments
            if change.order_id == order_id and (from_execution_id is None or change.execution_id >= from_execution_id)
        ]
        return _cut(found, limit, first=True)

    # --- lists

    def order_list(self, account: str, list_id: int | None = None, client_list_id: str | None = None) -> OrderList:
        """By id, or the most recent with a client id. -2018 where there is none."""
        group = self._group(account, None, list_id, client_list_id)
        if group is None:
            raise ExchangeError(-2018, "Order list does not exist.")
        return copy(group.record)

    def open_lists(self, account: str) -> list[OrderList]:
        self._account(account)
        return [copy(group.record) for group in self._groups[account].values() if group.open]

    def all_lists(
        self,
        account: str,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
    ) -> list[OrderList]:
        """By rising id: from an id or a time, else the most recent."""
        self._account(account)
        found = [
            group
            for group in self._groups[account].values()
            if (from_id is None or group.record.list_id >= from_id) and _between(group.record.time_ms, start_ms, end_ms)
        ]
        chosen = _cut(found, limit, first=from_id is not None or start_ms is not None)
        return [copy(group.record) for group in chosen]

    # --- inside

    def _account(self, name: str) -> Account:
        account = self.accounts.get(name)
        if account is None:
            raise ValueError(f"there is no account {name}")
        return account

    @staticmethod
    def _find(seat: Seat, order_id: int | None, client_id: str | None) -> Live | None:
        if order_id is None:
            return None if client_id is None else seat.by_client.get(client_id)
        live = seat.orders.get(order_id)
        if live is not None and client_id is not None and live.order.client_order_id != client_id:
            return None
        return live

    def _group(self, account: str, symbol: str | None, list_id: int | None, client_list_id: str | None) -> Group | None:
        self._account(account)
        groups = self._groups[account]
        if list_id is not None:
            found = groups.get(list_id)
        else:
            found = next((g for g in reversed(groups.values()) if g.record.client_list_id == client_list_id), None)
        if found is None or (symbol is not None and found.record.symbol != symbol):
            return None
        if list_id is not None and client_list_id is not None and found.record.client_list_id != client_list_id:
            return None
        return found

    def _keep(self, group: Group) -> None:
        """Remember a list, and forget the oldest that ended where there are too many."""
        account = group.record.account
        groups = self._groups[account]
        groups[group.record.list_id] = group
        if len(groups) > LISTS_KEPT:
            oldest = next(iter(groups))
            if not groups[oldest].open:
                del groups[oldest]


def _between(time_ms: int, start_ms: int | None, end_ms: int | None) -> bool:
    return (start_ms is None or time_ms >= start_ms) and (end_ms is None or time_ms <= end_ms)


def _cut(found: list[T], limit: int, *, first: bool) -> list[T]:
    limit = max(0, min(limit, LIMIT_MAX))
    return found[:limit] if first else found[max(0, len(found) - limit) :]
