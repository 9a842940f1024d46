"""What is asked of the venue beside orders: the time, signing on, what became of an order, balances, fees.

Always true here: an order is said not to have been taken only when its frame can no longer be on its way. That is so
once a question, whose own timestamp the venue accepted, finds no such order and is younger than the order's frame by
more than the receive window and by what the venue tolerates of clocks that are ahead.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec

from ...core.kernel.clock import MS_NS, Clock
from ...core.model.errors import Unreachable
from ...core.model.exact import ZERO
from ...core.model.messages import BalancesReported, VenueEnded
from .codec import Reply
from .codec_replies import (
    Account,
    AccountTrade,
    KnownOrder,
    read_account,
    read_commission,
    read_order,
    read_session,
    read_subscription,
    read_time,
    read_trades,
)
from .codec_reports import balances, exact, known
from .codec_requests import TRADES_MAX, Requests, Terms
from .errors import NotThere, Refused, classify_fault
from .instruments import with_fees
from .talks import Ask, Declined, Script, granted

CLOCK_SAMPLES: Final = 3
AHEAD_MS: Final = 1_000  # how far ahead of the venue's clock a timestamp may be
READS_MAX: Final = 3  # of an order that trades while it is looked at
PAGES_MAX: Final = 50  # of TRADES_MAX trades each
WEIGHTS: Final = {"time": 1, "logon": 2, "subscribe": 2, "status": 4, "trades": 5, "account": 20, "commission": 20}


# --- time ----------------------------------------------------------------------------------------------------------


class ServerClock:
    """The venue's time, as far as it can be told from here."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.offset_ns = 0  # the venue's clock less ours
        self.round_trip_ns = 0  # of the measurement; the offset is right within half of it
        self.measured_ns = 0  # by our clock; 0: never

    def now_ns(self) -> int:
        return self.clock.now_ns() + self.offset_ns


def measure_clock(requests: Requests, server: ServerClock) -> Script[None]:
    """Sets the offset: the quickest of some round trips, halved."""
    clock = server.clock
    quickest_ns, offset_ns = 0, 0
    for sample in range(CLOCK_SAMPLES):
        asked_ns = clock.now_ns()
        reply = yield Ask(lambda number, _: requests.time(number), WEIGHTS["time"])
        took_ns = max(0, clock.now_ns() - asked_ns)
        # The venue tells whole milliseconds: half of one is what it leaves out on average.
        time_ns = read_time(granted(reply, "session")) * MS_NS + MS_NS // 2
        if not sample or took_ns < quickest_ns:
            quickest_ns, offset_ns = took_ns, time_ns - (asked_ns + took_ns // 2)
    server.offset_ns, server.round_trip_ns, server.measured_ns = offset_ns, quickest_ns, clock.now_ns()


# --- signing on ----------------------------------------------------------------------------------------------------


def sign_on(requests: Requests, server: ServerClock) -> Script[Account]:
    """Time, logon where the key has sessions, the account's reports, and what the account may do."""
    yield from measure_clock(requests, server)
    if requests.session:
        reply = yield Ask(requests.logon, WEIGHTS["logon"])
        read_session(granted(reply, "session"))
    reply = yield Ask(requests.subscribe, WEIGHTS["subscribe"])
    read_subscription(granted(reply, "session"))
    account = yield from read_holdings(requests)
    return account


def read_holdings(requests: Requests) -> Script[Account]:
    reply = yield Ask(partial(requests.account, omit_zero=True), WEIGHTS["account"])
    account: Account = read_account(granted(reply, "account"))
    return account


def all_balances(account: Account, venue: str, zeros: Iterable[str], timestamp_ns: int) -> BalancesReported:
    """What the account holds; currencies in `zeros` that it does not mention are at nothing."""
    report = balances(account, venue, timestamp_ns)
    for currency in zeros:
        report.balances.setdefault(currency, (ZERO, ZERO))
    return report


# --- fees ----------------------------------------------------------------------------------------------------------


class Fees(msgspec.Struct, frozen=True):
    """Fractions of what is traded, before a discount for paying them in another asset."""

    maker: Decimal
    taker: Decimal


def read_fees(requests: Requests, terms: Terms) -> Script[Fees]:
    reply = yield Ask(partial(_commission, requests, terms), WEIGHTS["commission"])
    priced = with_fees(terms.instrument, read_commission(granted(reply, "account")))
    return Fees(priced.maker_fee, priced.taker_fee)


def _commission(requests: Requests, terms: Terms, number: int, timestamp_ms: int) -> bytes:
    return requests.commission(number, terms, timestamp_ms)


# --- orders --------------------------------------------------------------------------------------------------------


class Found(msgspec.Struct, frozen=True):
    """What a question about an order found: `taken` as `QueryAnswer` has it, after `messages`."""

    taken: bool | None
    messages: tuple[Any, ...] = ()


def query_order(
    requests: Requests, terms: Terms, venue: str, client_id: str, asked_by: str, sent_ms: Callable[[], int]
) -> Script[Found]:
    """What became of the order `client_id`, which the venue knows as `asked_by`; `sent_ms` tells the latest timestamp
    that its frame may bear."""
    for _ in range(READS_MAX):
        asked_ms = 0

        def encode(number: int, timestamp_ms: int) -> bytes:
            nonlocal asked_ms
            asked_ms = timestamp_ms
            return requests.order_status(number, asked_by, terms, timestamp_ms)

        reply = yield Ask(encode, WEIGHTS["status"])
        if reply.error is not None:
            proven = asked_ms > sent_ms() + requests.recv_window_ms + AHEAD_MS
            return _not_found(reply, venue, client_id, proven, asked_ms)
        order: KnownOrder = read_order(reply.result)
        executed = exact("the executed quantity", order.executed_qty)
        trades: list[AccountTrade] = []
        if executed:
            trades = yield from _trades(requests, terms, order.order_id)
        if sum((exact("a quantity", trade.qty) for trade in trades), ZERO) == executed:
            return Found(True, tuple(known(order, trades, terms.instrument, venue, client_id)))
        # It traded between the two questions, or the venue lists its trades later than it counts them.
    raise Unreachable(f"the venue does not list all trades of {client_id} yet")


def _not_found(reply: Reply, venue: str, client_id: str, proven: bool, asked_ms: int) -> Found:
    assert reply.error is not None
    verdict = classify_fault(reply.status, reply.error, "query")
    if isinstance(verdict, NotThere):
        return Found(False if proven else None)
    if isinstance(verdict, Refused) and verdict.code == "ORDER_ARCHIVED":
        ended = VenueEnded(
            venue=venue, client_id=client_id, kind="expired", reason=verdict.reason, timestamp_ns=asked_ms * MS_NS
        )
        return Found(True, (ended,))
    raise Declined(verdict)


def _trades(requests: Requests, terms: Terms, order_id: int) -> Script[list[AccountTrade]]:
    trades: list[AccountTrade] = []
    from_id = 0  # without it the latest trades come, not the first
    for _ in range(PAGES_MAX):
        reply = yield Ask(partial(_my_trades, requests, terms, order_id, from_id), WEIGHTS["trades"])
        page: tuple[AccountTrade, ...] = read_trades(granted(reply, "query"))
        trades += page
        if len(page) < TRADES_MAX:
            return trades
        from_id = max(trade.id for trade in page) + 1
    raise Unreachable(f"the order {order_id} has more than {PAGES_MAX * TRADES_MAX} trades")


def _my_trades(requests: Requests, terms: Terms, order_id: int, from_id: int, number: int, timestamp_ms: int) -> bytes:
    return requests.my_trades(number, order_id, terms, timestamp_ms, from_id)
