"""The exchange: what accounts may ask of it. Pure and synchronous; time comes from `now_ms`, chance from `rng`.

Always true here:
- A request is refused with ExchangeError before anything has changed, or it is carried out whole. (cancelReplace is
  two requests, and says which of them failed.)
- `sink` hears the events of a request in order, before the request returns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from copy import copy

from .accounts import Account, Seat
from .execution import Floor
from .filters import check_amend, check_count, check_counts, check_order
from .lists import Group, admit_pending, check_list, listed
from .market import Market
from .orders import Live, check_composition, draft
from .records import (
    UNIT,
    Amended,
    Amendment,
    BalanceMoved,
    Cancelled,
    CancelReplaceError,
    Event,
    ExchangeError,
    Execution,
    ListReport,
    NewList,
    NewOrder,
    OrderList,
    Placed,
    Replaced,
    Symbol,
    snapshot,
)
from .register import Register

HOUSE = "house"
REJECT_REASONS = {
    "Account has insufficient balance for requested action.": "INSUFFICIENT_BALANCES",
    "Order would immediately match and take.": "WOULD_MATCH_IMMEDIATELY",
    "Stop price would trigger immediately.": "STOP_PRICE_WOULD_TRIGGER_IMMEDIATELY",
}


class Exchange(Register):
    """Takes orders for the symbols; `sink` gets each event (records.py)."""

    def __init__(
        self,
        symbols: Iterable[Symbol],
        now_ms: Callable[[], int],
        rng: random.Random,
        sink: Callable[[Event], object],
    ) -> None:
        super().__init__(symbols)
        self.now_ms = now_ms
        self.house = Account(HOUSE, {}, house=True)
        self.floor = Floor(now_ms, sink, self.house)
        self._rng = rng
        self._list_id = 0

    @property
    def fees(self) -> dict[str, int]:
        """What accounts have paid in commissions, by asset."""
        return dict(self.floor.fees)

    def deposit(self, account: str, asset: str, units: int) -> None:
        """Add to a free balance; with a negative number withdraw. Raises ValueError where that leaves it negative."""
        known = self._account(account)
        if known.free.get(asset, 0) + units < 0:
            raise ValueError(f"account {account} has {known.free.get(asset, 0)} free of {asset}, less than {-units}")
        floor = self.floor
        now = floor.begin()
        known.know(asset)
        known.free[asset] += units
        known.touched[asset] = None
        floor.touch(known)
        floor.emit(BalanceMoved(account, asset, units, now))
        floor.end()

    # --- orders

    def place(self, account: str, new: NewOrder) -> Placed:
        """A new order. Raises ExchangeError -11xx, -1013, -2010."""
        self.floor.begin()
        return self._place(self._checked(account, new))

    def test(self, account: str, new: NewOrder) -> None:
        """Everything `place` checks, and nothing it does."""
        self.floor.begin()
        self.floor.admit(self._checked(account, new))

    def cancel(
        self,
        account: str,
        symbol: str,
        order_id: int | None = None,
        client_id: str | None = None,
        new_client_id: str | None = None,
        restrictions: str | None = None,
    ) -> Cancelled | ListReport:
        """Cancel an order, with its list where it is part of one. Raises ExchangeError -2011, -1145."""
        self.floor.begin()
        live = self._to_cancel(self.seat(account, symbol), order_id, client_id, restrictions)
        done = self._cancel(live, new_client_id)
        self.floor.end()
        return done

    def cancel_all(self, account: str, symbol: str) -> list[Cancelled | ListReport]:
        """Cancel every open order of the account at a symbol. Raises ExchangeError -2011 where there is none."""
        seat = self.seat(account, symbol)
        if not seat.open:
            raise ExchangeError(-2011, "Unknown order sent.")
        self.floor.begin()
        done: list[Cancelled | ListReport] = []
        for live in list(seat.open.values()):
            if live.order.open:  # not cancelled with its list already
                done.append(self._cancel(live, None))
        self.floor.end()
        return done

    def cancel_replace(
        self,
        account: str,
        new: NewOrder,
        mode: str,
        order_id: int | None = None,
        client_id: str | None = None,
        new_client_id: str | None = None,
        restrictions: str | None = None,
    ) -> Replaced:
        """Cancel an order, then place one; `new.symbol` is the symbol of both.

        `mode`: STOP_ON_FAILURE does not place where the cancel failed, ALLOW_FAILURE does. Filters come before both.
        Raises CancelReplaceError -2021 (one half failed), -2022 (both failed, or the second was not tried), and
        ExchangeError where nothing was tried.
        """
        if mode not in ("STOP_ON_FAILURE", "ALLOW_FAILURE"):
            raise ExchangeError(-1130, "Data sent for parameter 'cancelReplaceMode' is not valid.")
        seat = self.seat(account, new.symbol)
        symbol = self.symbols[new.symbol]
        if not symbol.cancel_replace_allowed:
            raise ExchangeError(-1013, "Order cancel-replace is not supported for this symbol.")
        floor = self.floor
        floor.begin()
        check_composition(symbol, new)
        check_order(self._markets[new.symbol], new, floor.now)
        cancelled: Cancelled | ListReport | ExchangeError
        try:
            cancelled = self._cancel(self._to_cancel(seat, order_id, client_id, restrictions), new_client_id)
        except ExchangeError as error:
            if mode == "STOP_ON_FAILURE":
                raise CancelReplaceError(-2022, "Order cancel-replace failed.", error, None) from None
            cancelled = error
        try:
            placed = self._place(self._checked(account, new))
        except ExchangeError as error:
            if isinstance(cancelled, ExchangeError):
                raise CancelReplaceError(-2022, "Order cancel-replace failed.", cancelled, error) from None
            self._say_rejected(account, new, error)
            floor.end()
            raise CancelReplaceError(-2021, "Order cancel-replace partially failed.", cancelled, error) from None
        if isinstance(cancelled, ExchangeError):
            raise CancelReplaceError(-2021, "Order cancel-replace partially failed.", cancelled, placed)
        return Replaced(cancelled, placed)

    def amend(
        self,
        account: str,
        symbol: str,
        new_quantity: int,
        order_id: int | None = None,
        client_id: str | None = None,
        new_client_id: str | None = None,
    ) -> Amended:
        """Reduce an order's quantity; it keeps its place. A pair's orders are amended together.

        Without `new_client_id` the order gets a new one. Raises ExchangeError -2038, -1013.
        """
        seat = self.seat(account, symbol)
        market = self._markets[symbol]
        live = self._find(seat, order_id, client_id)
        if live is None or not live.order.open:
            raise ExchangeError(-2038, "Unknown order sent.")
        self._check_amend(market, live, new_quantity)
        if new_client_id is not None and new_client_id != live.order.client_order_id:
            self._check_unused(seat, new_client_id)
        floor = self.floor
        floor.begin()
        group = live.group
        together: list[Live] = [live]
        if group is not None and live in group.pending and len(group.pending) == 2:
            together = [each for each in group.pending if each.order.open]
        execution_id, was_id = 0, live.order.client_order_id
        for each in together:
            renamed = (new_client_id or self._client_id()) if each is live else each.order.client_order_id
            said = self._shrink(each, new_quantity, renamed)
            execution_id = said if each is live else execution_id
        if group is not None:
            if group.pair is not None:
                group.lock(floor)
            if live.order.client_order_id != was_id:
                group.renamed(floor)
        floor.end()
        record = copy(group.record) if group is not None else None
        return Amended(snapshot(live.order), execution_id, floor.now, record)

    # --- lists

    def place_list(self, account: str, new: NewList) -> ListReport:
        """OCO, OTO or OTOCO. Raises ExchangeError as `place` does, and for what is no list."""
        floor = self.floor
        floor.begin()
        market = self.market(new.symbol)
        seat = self.seat(account, new.symbol)
        for order in new.pending if new.working is None else (new.working, *new.pending):
            check_composition(market.symbol, order)
        check_list(market.symbol, new, market.tape.last_price)
        if new.client_list_id is not None:
            known = self._group(account, None, None, new.client_list_id)
            if known is not None and known.open:
                raise ExchangeError(-2010, "Duplicate order sent.")
        working = None if new.working is None else self._checked(account, new.working, count=False)
        pending = tuple(self._checked(account, order, count=False) for order in new.pending)
        members = pending if working is None else (working, *pending)
        if len({live.order.client_order_id for live in members}) < len(members):
            raise ExchangeError(-2010, "Duplicate order sent.")
        check_counts(market, seat, list(members), lists=1)
        if working is None:
            admit_pending(floor, pending)
        else:
            floor.admit(working)
        group = self._open_list(seat, new, working, pending)
        if working is not None:
            floor.proceed(working)
        else:
            for live in pending:
                floor.proceed(live)
        floor.drain(market)
        floor.end()
        fills = [fill for live in members for fill in live.fills or ()]
        for live in members:
            live.fills = None
        return ListReport(copy(group.record), [snapshot(live.order) for live in members], "", fills)

    def cancel_list(
        self,
        account: str,
        symbol: str,
        list_id: int | None = None,
        client_list_id: str | None = None,
        new_client_id: str | None = None,
    ) -> ListReport:
        """Cancel what is open of a list. Raises ExchangeError -2011."""
        self.market(symbol)
        group = self._group(account, symbol, list_id, client_list_id)
        if group is None or not group.open:
            raise ExchangeError(-2011, "Unknown order list sent.")
        self.floor.begin()
        done = self._cancel_group(group, new_client_id)
        self.floor.end()
        return done

    # --- inside

    def _checked(self, account: str, new: NewOrder, *, count: bool = True) -> Live:
        """The order of a request that passed every check of its own; nothing is changed yet."""
        market = self.market(new.symbol)
        seat = market.seats.get(account) or market.seat(self._account(account))
        check_composition(market.symbol, new)
        now = self.floor.now
        check_order(market, new, now)
        client_id = new.client_order_id
        if client_id is None:
            client_id = self._client_id()
        else:
            self._check_unused(seat, client_id)
        live = draft(market, seat, new, client_id, now)
        if count:
            check_count(market, seat, live)
        return live

    def _place(self, live: Live) -> Placed:
        floor = self.floor
        floor.admit(live)
        floor.enter(live)
        floor.start(live)
        floor.drain(live.market)
        floor.end()
        fills, live.fills = live.fills or [], None
        return Placed(snapshot(live.order), fills, live.prevented)

    def _to_cancel(self, seat: Seat, order_id: int | None, client_id: str | None, restrictions: str | None) -> Live:
        if restrictions not in (None, "ONLY_NEW", "ONLY_PARTIALLY_FILLED"):
            raise ExchangeError(-1145, "Invalid cancelRestrictions")
        live = self._find(seat, order_id, client_id)
        if live is None or not live.order.open:
            raise ExchangeError(-2011, "Unknown order sent.")
        if restrictions is not None and live.order.status != restrictions.removeprefix("ONLY_"):
            raise ExchangeError(-2011, "Order was not canceled due to cancel restrictions.")
        return live

    def _cancel(self, live: Live, new_client_id: str | None) -> Cancelled | ListReport:
        if live.group is not None:
            return self._cancel_group(live.group, new_client_id)
        cancel_id = new_client_id or self._client_id()
        self.floor.finish(live, "CANCELED", "CANCELED", None, cancel_id)
        return Cancelled(snapshot(live.order), cancel_id)

    def _cancel_group(self, group: Group, new_client_id: str | None) -> ListReport:
        cancel_id = new_client_id or self._client_id()
        cancelled = group.cancel(self.floor, cancel_id)
        return ListReport(copy(group.record), cancelled, cancel_id)

    def _say_rejected(self, account: str, new: NewOrder, error: ExchangeError) -> None:
        """A replacement that was refused after its cancel was done is the one refusal that makes an event."""
        market = self.market(new.symbol)
        client_id = new.client_order_id or self._client_id()
        live = draft(market, market.seat(self._account(account)), new, client_id, self.floor.now)
        live.order.order_id = market.order_id()
        live.order.status = "REJECTED"
        self.floor.emit(
            Execution(
                account=account,
                kind="REJECTED",
                order=live.order,
                execution_id=self.floor.next_execution_id(market),
                time_ms=self.floor.now,
                reject_reason=REJECT_REASONS.get(error.msg, "UNKNOWN"),
            )
        )

    def _check_amend(self, market: Market, live: Live, qty: int) -> None:
        order = live.order
        if not market.symbol.amend_allowed:
            raise ExchangeError(-2038, "Order amend is not supported for this symbol.")
        if qty == order.quantity:
            raise ExchangeError(-2038, "The requested action would change no state; rejecting.")
        if qty > order.quantity:
            raise ExchangeError(-2038, "Order amend (quantity increase) is not supported.")
        if qty <= order.executed + order.prevented_quantity:
            raise ExchangeError(-2038, "The order has executed or prevented as much as the new quantity already.")
        check_amend(market, live, qty)

    def _shrink(self, live: Live, qty: int, client_id: str) -> int:
        """Make an order smaller, free what it needs no more, and say REPLACED; returns the execution id."""
        floor, order, seat = self.floor, live.order, live.seat
        less = order.quantity - qty
        left = live.left - less
        if live.locked:
            floor.unlock(live, live.lock_price * less // UNIT)
        if live.level is not None:
            live.market.book.shrink(live, left)
        else:
            live.left = left
        was_id, was_qty = order.client_order_id, order.quantity
        order.quantity = qty
        order.iceberg_qty = min(order.iceberg_qty, qty)
        live.part = min(live.part, qty)
        order.client_order_id = client_id
        order.amend_count += 1
        order.updated_ms = floor.now
        if client_id != was_id:
            del seat.by_client[was_id]
            seat.by_client[client_id] = live
        execution_id = floor.report(live, "REPLACED", amended_from=was_id)
        seat.amendments.append(
            Amendment(order.symbol, order.order_id, execution_id, was_id, client_id, was_qty, qty, floor.now)
        )
        return execution_id

    def _open_list(self, seat: Seat, new: NewList, working: Live | None, pending: tuple[Live, ...]) -> Group:
        """Ids for the list and its orders, funds, NEW for each, and the list's own event."""
        floor = self.floor
        self._list_id += 1
        members = pending if working is None else (working, *pending)
        for live in members:
            live.order.order_list_id = self._list_id
            floor.enter(live)
        record = OrderList(
            list_id=self._list_id,
            symbol=new.symbol,
            contingency="OCO" if working is None else "OTO",
            account=seat.account.name,
            client_list_id=new.client_list_id or self._client_id(),
            status="EXEC_STARTED",
            order_status="EXECUTING",
            orders=listed(members),
            time_ms=floor.now,
        )
        group = Group(record, seat, working, pending)
        self._keep(group)
        seat.lists += 1
        for live in members:
            live.group = group
        if working is None:
            group.open_pair(floor)
        else:
            floor.lock(working)
            floor.announce(working)
            for live in pending:
                live.order.status = "PENDING_NEW"
                floor.report(live, "NEW")
        group.say(floor, "EXEC_STARTED")
        return group

    @staticmethod
    def _check_unused(seat: Seat, client_id: str) -> None:
        known = seat.by_client.get(client_id)
        if known is not None and known.order.open:
            raise ExchangeError(-2010, "Duplicate order sent.")

    def _client_id(self) -> str:
        return f"{self._rng.getrandbits(88):022x}"
