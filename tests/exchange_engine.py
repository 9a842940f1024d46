"""A local exchange with two accounts and one symbol, for tests of the matching engine; amounts are decimal text."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from tbx.venues.simulator.exchange import Exchange, ExchangeError, House
from tbx.venues.simulator.exchange.house import to_units
from tbx.venues.simulator.exchange.records import (
    UNIT,
    BalancesChanged,
    Event,
    Execution,
    Filters,
    ListChanged,
    NewList,
    NewOrder,
    Order,
    Placed,
    PublicTrade,
    Symbol,
)

S = "BTCUSDT"
FUNDS = {"BTC": "1000", "USDT": "10000000"}


def symbol(**filters: Any) -> Symbol:
    """BTCUSDT: tick 0.01, step 0.00001; named filters as given."""
    base: dict[str, Any] = {
        "min_price": 10**6,
        "max_price": to_units("1000000"),
        "tick": 10**6,
        "min_qty": 1_000,
        "max_qty": to_units("9000"),
        "step": 1_000,
        "market_max_qty": to_units("100"),
        "min_notional": to_units("5"),
        "max_notional": to_units("9000000"),
    }
    return Symbol(name=S, base="BTC", quote="USDT", filters=Filters(**{**base, **filters}))


def order(side: str, kind: str, qty: str | None = None, price: str | None = None, **more: Any) -> NewOrder:
    """A new order; texts of amounts become units, `tif` is the time in force (GTC for what needs one)."""
    tif = more.pop("tif", "GTC" if kind in ("LIMIT", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT") else None)
    named = {name: to_units(value) if name in AMOUNTS else value for name, value in more.items()}
    return NewOrder(
        S,
        side,
        kind,
        time_in_force=tif,
        quantity=None if qty is None else to_units(qty),
        price=None if price is None else to_units(price),
        **named,
    )


AMOUNTS = {"stop_price", "iceberg_qty", "quote_order_qty"}


class Pit:
    """An exchange with ann, bob and the house; `events` are those of the last call, `now` is its time."""

    def __init__(self, listed: Symbol | None = None, **filters: Any) -> None:
        self.now = 1_704_067_200_000
        self.all_events: list[Event] = []
        self._seen = 0
        chosen = listed or symbol(**filters)
        self.ex = Exchange([chosen], lambda: self.now, random.Random(7), self.all_events.append)
        for name in ("ann", "bob"):
            self.ex.add_account(name, {asset: to_units(text) for asset, text in FUNDS.items()})
        self.house = House(self.ex, S)

    # --- what happens

    def place(self, account: str, *args: Any, **more: Any) -> Placed:
        self._seen = len(self.all_events)
        return self.ex.place(account, order(*args, **more))

    def limit(self, account: str, side: str, qty: str, price: str, **more: Any) -> Order:
        return self.place(account, side, "LIMIT", qty, price, **more).order

    def oco(self, account: str, above: NewOrder, below: NewOrder, **more: Any) -> Any:
        self._seen = len(self.all_events)
        return self.ex.place_list(account, NewList(kind="OCO", symbol=S, pending=(above, below), **more))

    def oto(self, account: str, working: NewOrder, *pending: NewOrder, **more: Any) -> Any:
        self._seen = len(self.all_events)
        kind = "OTO" if len(pending) == 1 else "OTOCO"
        return self.ex.place_list(account, NewList(kind=kind, symbol=S, working=working, pending=pending, **more))

    def mark(self) -> None:
        """What follows counts as one call for `events`."""
        self._seen = len(self.all_events)

    def print_trade(self, price: str, qty: str = "0.001") -> None:
        """The house trades with itself at a price, which nothing better may stand in the way of."""
        trades = self.ex.tape(S).trades
        before = len(trades)
        self.house.set_level("SELL", to_units(price), to_units(qty))
        self.house.trade("BUY", to_units(price), to_units(qty))
        assert trades[before].price == to_units(price)

    # --- what is

    @property
    def events(self) -> list[Event]:
        return self.all_events[self._seen :]

    def kinds(self, account: str = "") -> list[str]:
        """The last call's executions as "KIND STATUS id", in order; of one account, or of all."""
        return [
            f"{event.kind} {event.order.status} {event.order.order_id}"
            for event in self.events
            if isinstance(event, Execution) and account in ("", event.account)
        ]

    def lists_said(self) -> list[str]:
        return [event.list.status for event in self.events if isinstance(event, ListChanged)]

    def get(self, account: str, order_id: int) -> Order:
        return self.ex.order(account, S, order_id)

    def free(self, account: str, asset: str) -> str:
        return text(self.ex.balances(account)[asset][0])

    def locked(self, account: str, asset: str) -> str:
        return text(self.ex.balances(account)[asset][1])

    def depth(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        _, bids, asks = self.ex.book(S).depth()
        return [(text(p), text(q)) for p, q in bids], [(text(p), text(q)) for p, q in asks]

    def refused(self, code: int, msg: str, account: str, *args: Any, **more: Any) -> None:
        """The order is refused with this code and text, by `place` and by `test`, and nothing has changed."""
        before = self.state()
        for ask in (self.ex.test, self.ex.place):
            with pytest.raises(ExchangeError) as caught:
                ask(account, order(*args, **more))
            assert (caught.value.code, caught.value.msg) == (code, msg)
        assert self.state() == before

    def state(self) -> Any:
        accounts = {
            name: {asset: both for asset, both in self.ex.balances(name).items() if any(both)}
            for name in self.ex.accounts
        }
        opened = {name: self.ex.open_orders(name) for name in self.ex.accounts}
        return accounts, opened, self.ex.book(S).depth(), len(self.all_events), self.ex.fees


def text(units: int) -> str:
    """Units as plain decimal text without trailing zeros."""
    return f"{(Decimal(units) / UNIT).normalize():f}"


__all__ = [
    "UNIT",
    "BalancesChanged",
    "Execution",
    "Pit",
    "PublicTrade",
    "S",
    "order",
    "replace",
    "symbol",
    "text",
    "to_units",
]
