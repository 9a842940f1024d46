"""User data events: what the exchange says of an account, as Binance's bytes, to everybody who subscribed to it.

Always true here:
- An event goes to every subscription of its account, in the order in which the exchange made the events.
- What one request causes waits until `flush`, so that the server decides whether reports or the reply come first.
- Prices, quantities and amounts are texts of eight decimals; times are milliseconds, or microseconds for a connection
  that asked for them.

A report as it leaves (user-data-stream.md, "Order Update"; the rest of the fields is in `execution_report`):

    {"subscriptionId":0,"event":{"e":"executionReport","E":1499405658658,"s":"ETHBTC","c":"mUvoqJxFIILMdfAW5iGSOW",...}}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from ....core.kernel.clock import MS_NS, Clock
from ..exchange.records import (
    UNIT,
    BalanceMoved,
    BalancesChanged,
    Event,
    Execution,
    ListChanged,
    Order,
)
from .documents import EXPIRY_REASONS, ZERO, fixed
from .faults import Faults

PENDING_MAX = 100_000  # events that one request may cause; more is a fault of the exchange


# --- events as bytes; `scale` is 1 for milliseconds, 1000 for microseconds


def execution_report(event: Execution, now_ms: int, scale: int) -> bytes:
    """`executionReport` with every field of the documentation, the conditional ones where their condition holds."""
    order, trade = event.order, event.trade
    client_id, original_id = order.client_order_id, ""
    if event.kind == "CANCELED" and event.cancel_client_id:
        client_id, original_id = event.cancel_client_id, order.client_order_id
    elif event.kind == "REPLACED":
        original_id = event.amended_from
    if trade is None:
        last, fee = f'"l":"{ZERO}"', '"n":"0","N":null'
        last_price = last_quote = ZERO
        trade_id, maker, ours = -1, "false", "false"
    else:
        deal = trade.trade
        last = f'"l":"{fixed(deal.qty)}"'
        fee = f'"n":"{fixed(trade.commission)}","N":"{trade.commission_asset}"'
        last_price, last_quote = fixed(deal.price), fixed(deal.quote_qty)
        trade_id, ours = deal.trade_id, "true"
        maker = "true" if trade.is_maker else "false"
    on_book = "true" if order.is_working and order.open else "false"
    trailing = f'"d":{order.trailing_delta},' if order.trailing_delta else ""
    return (
        f'{{"e":"executionReport","E":{now_ms * scale},"s":"{order.symbol}","c":"{client_id}","S":"{order.side}",'
        f'"o":"{order.type}","f":"{order.time_in_force}","q":"{fixed(order.quantity)}","p":"{fixed(order.price)}",'
        f'"P":"{fixed(order.stop_price)}",{trailing}"F":"{fixed(order.iceberg_qty)}","g":{order.order_list_id},'
        f'"C":"{original_id}","x":"{event.kind}","X":"{order.status}","r":"{event.reject_reason}",'
        f'"i":{order.order_id},{last},"z":"{fixed(order.executed)}","L":"{last_price}",{fee},'
        f'"T":{event.time_ms * scale},"t":{trade_id},{_prevention(event)}"I":{event.execution_id},'
        f'"w":{on_book},"m":{maker},"M":{ours},"O":{order.created_ms * scale},"Z":"{fixed(order.executed_quote)}",'
        f'"Y":"{last_quote}","Q":"{fixed(order.quote_order_qty)}",{_more(order, scale)}"V":"{order.stp_mode}"}}'
    ).encode()


def _prevention(event: Execution) -> str:
    """v, A, B, u, U, Cs, pl, pL, pY: only where orders of one account were kept from each other."""
    order = event.order
    text = ""
    if order.prevented_match_id >= 0:
        text = f'"v":{order.prevented_match_id},"A":"{fixed(order.prevented_quantity)}",'
    if event.kind == "TRADE_PREVENTION":
        quote = event.prevented_trade_qty * event.prevented_price // UNIT
        text += (
            f'"B":"{fixed(event.prevented_quantity)}","u":{event.trade_group_id},"U":{event.counter_order_id},'
            f'"Cs":"{event.counter_symbol}","pl":"{fixed(event.prevented_trade_qty)}",'
            f'"pL":"{fixed(event.prevented_price)}","pY":"{fixed(quote)}",'
        )
    return text


def _more(order: Order, scale: int) -> str:
    """D, j, J, W, eR."""
    text = ""
    if order.trailing_time >= 0:
        text += f'"D":{order.trailing_time * scale},'
    if order.strategy_id is not None:
        text += f'"j":{order.strategy_id},'
    if order.strategy_type is not None:
        text += f'"J":{order.strategy_type},'
    if order.working_ms >= 0:
        text += f'"W":{order.working_ms * scale},'
    if not order.open and order.expiry_reason in EXPIRY_REASONS:
        text += f'"eR":"{EXPIRY_REASONS[order.expiry_reason]}",'
    return text


def account_position(event: BalancesChanged, now_ms: int, scale: int) -> bytes:
    balances = ",".join(
        f'{{"a":"{asset}","f":"{fixed(free)}","l":"{fixed(locked)}"}}'
        for asset, (free, locked) in event.balances.items()
    )
    return (
        f'{{"e":"outboundAccountPosition","E":{now_ms * scale},"u":{event.time_ms * scale},"B":[{balances}]}}'
    ).encode()


def balance_update(event: BalanceMoved, now_ms: int, scale: int) -> bytes:
    return (
        f'{{"e":"balanceUpdate","E":{now_ms * scale},"a":"{event.asset}","d":"{fixed(event.delta)}",'
        f'"T":{event.time_ms * scale}}}'
    ).encode()


def list_status(event: ListChanged, now_ms: int, scale: int) -> bytes:
    listed = event.list
    reason = "NONE"
    orders = ",".join(
        f'{{"s":"{order.symbol}","i":{order.order_id},"c":"{order.client_order_id}"}}' for order in listed.orders
    )
    return (
        f'{{"e":"listStatus","E":{now_ms * scale},"s":"{listed.symbol}","g":{listed.list_id},'
        f'"c":"{listed.contingency}","l":"{listed.status}","L":"{listed.order_status}","r":"{reason}",'
        f'"C":"{listed.client_list_id}","T":{listed.time_ms * scale},"O":[{orders}]}}'
    ).encode()


def stream_terminated(now_ms: int, scale: int) -> bytes:
    return f'{{"e":"eventStreamTerminated","E":{now_ms * scale}}}'.encode()


def encode(event: Event, now_ms: int, scale: int) -> bytes | None:
    """The event's JSON; None for what concerns no account."""
    if isinstance(event, Execution):
        return execution_report(event, now_ms, scale)
    if isinstance(event, BalancesChanged):
        return account_position(event, now_ms, scale)
    if isinstance(event, ListChanged):
        return list_status(event, now_ms, scale)
    if isinstance(event, BalanceMoved):
        return balance_update(event, now_ms, scale)
    return None


# --- who gets them


class Listener(Protocol):
    """A connection that user data goes to."""

    scale: int  # 1: milliseconds, 1000: microseconds

    def send_event(self, frame: bytes) -> None:
        """Puts a frame on its way; what to do with one that is gone is the connection's business."""
        ...


class Subscription(Struct):
    """One userDataStream.subscribe. `session` is whom the protocol knows, `listener` where its events go."""

    number: int
    account: str
    session: object
    listener: Listener
    prefix: bytes


class UserData:
    """Keeps subscriptions and hands events out."""

    def __init__(self, clock: Clock, now_ms: Callable[[], int], faults: Faults) -> None:
        self._clock = clock
        self._now_ms = now_ms
        self._faults = faults
        self._listeners: dict[int, Listener] = {}  # id of a session -> where its events go
        self._numbers: dict[int, int] = {}  # id of a session -> its next subscription's number
        self._by_account: dict[str, list[Subscription]] = {}
        self._pending: list[Event] = []
        self.sent = 0

    # --- sessions

    def open(self, session: object, listener: Listener) -> None:
        """A connection that may subscribe."""
        self._listeners[id(session)] = listener
        self._numbers[id(session)] = 0

    def close(self, session: object) -> None:
        """The connection is gone, and its subscriptions with it."""
        self._remove(lambda subscription: subscription.session is session)
        self._listeners.pop(id(session), None)
        self._numbers.pop(id(session), None)

    def subscribe(self, account: str, session: object) -> int:
        """The number of the new subscription; a session that subscribes again to an account keeps the one it has."""
        for subscription in self._by_account.get(account, ()):
            if subscription.session is session:
                return subscription.number
        number = self._numbers[id(session)]
        self._numbers[id(session)] = number + 1
        prefix = b'{"subscriptionId":%d,"event":' % number
        subscription = Subscription(number, account, session, self._listeners[id(session)], prefix)
        self._by_account.setdefault(account, []).append(subscription)
        return number

    def unsubscribe(self, session: object, number: int | None = None) -> bool:
        """Ends one subscription of the session, or all, with `eventStreamTerminated`; False where there is none."""
        gone = self._remove(lambda one: one.session is session and number in (None, one.number))
        now_ms = self._now_ms()
        for subscription in gone:
            event = stream_terminated(now_ms, subscription.listener.scale)
            # After the reply to the request that ended it, as a notice and not as an answer.
            self._clock.call_soon(subscription.listener.send_event, subscription.prefix + event + b"}")
        return bool(gone)

    def subscriptions(self, session: object) -> list[int]:
        """Numbers of the session's subscriptions, oldest first."""
        return sorted(s.number for all_ in self._by_account.values() for s in all_ if s.session is session)

    def _remove(self, which: Callable[[Subscription], bool]) -> list[Subscription]:
        gone = [one for subscriptions in self._by_account.values() for one in subscriptions if which(one)]
        for account, subscriptions in tuple(self._by_account.items()):
            kept = [one for one in subscriptions if not which(one)]
            if kept:
                self._by_account[account] = kept
            else:
                del self._by_account[account]
        return gone

    # --- events

    def event(self, event: Event) -> None:
        """Keeps an event until `flush`."""
        if len(self._pending) >= PENDING_MAX:
            raise RuntimeError(f"{PENDING_MAX} user data events without a flush")
        self._pending.append(event)

    @property
    def waiting(self) -> bool:
        return bool(self._pending)

    def flush(self, *, swapped: bool = False) -> None:
        """Sends what waits. `swapped` changes neighbours' places, which no client may stumble over."""
        if not self._pending:
            return
        events, self._pending = self._pending, []
        if swapped:
            for i in range(0, len(events) - 1, 2):
                events[i], events[i + 1] = events[i + 1], events[i]
        if self._by_account:
            for event in events:
                self._hand_out(event)

    def _hand_out(self, event: Event) -> None:
        subscriptions = self._by_account.get(getattr(event, "account", ""))
        if not subscriptions:
            return
        now_ms = self._now_ms()
        bodies: dict[int, bytes | None] = {}
        delay_ms = self._faults.report_delay_ms() if self._faults.reports_armed else 0
        for subscription in subscriptions:
            listener = subscription.listener
            if listener.scale not in bodies:
                bodies[listener.scale] = encode(event, now_ms, listener.scale)
            body = bodies[listener.scale]
            if body is None:
                return
            frame = subscription.prefix + body + b"}"
            self.sent += 1
            if delay_ms:
                self._clock.call_in(delay_ms * MS_NS, listener.send_event, frame)
            else:
                listener.send_event(frame)
