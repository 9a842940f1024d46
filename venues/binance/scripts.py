"""What is asked of the venue beside orders: the time, signing on, what became of an order, balances, fees.

Always true here: a script tells what the venue has answered and no more: that it knows no such order comes with the
timestamp of the question, and `questions.py` decides what that proves.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec

from ...core.kernel.clock import MS_NS, Clock
from ...core.model.errors import Unreachable
from ...core.model.exact import ZERO, plain
from ...core.model.instruments import Instrument
from ...core.model.messages import AskAtVenue, BalancesReported, VenueEnded
from .codec import Reply, one_line
from .codec_replies import (
    Account,
    AccountTrade,
    KnownOrder,
    read_account,
    read_commission,
    read_order,
    read_orders,
    read_session,
    read_subscription,
    read_time,
    read_trades,
)
from .codec_reports import balances, differs, exact, known
from .codec_requests import TRADES_MAX, Requests, Terms
from .errors import NotThere, Refused, classify_fault
from .instruments import with_fees
from .talks import Ask, Declined, Script, granted

CLOCK_SAMPLES: Final = 3
AHEAD_MS: Final = 1_000  # how far ahead of the venue's clock a timestamp may be
READS_MAX: Final = 3  # of an order that trades while it is looked at
PAGES_MAX: Final = 50  # of TRADES_MAX trades each
WEIGHTS: Final = {
    "time": 1,
    "logon": 2,
    "subscribe": 2,
    "status": 4,
    "trades": 5,
    "open": 6,
    "open of all": 80,
    "account": 20,
    "commission": 20,
}


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


class Wanted(msgspec.Struct, frozen=True):
    """An order that is asked about."""

    client_id: str  # that it was sent with
    terms: Terms
    order_id: int | None  # the venue's; None: it is asked for by our id
    asked: AskAtVenue | None = None  # what it must be to be ours; None: the core compares


Said = tuple[str, str]  # a question and its answer, in the venue's words


class Found(msgspec.Struct, frozen=True):
    """What a question about an order found: `taken` as `QueryAnswer` has it, after `messages`."""

    taken: bool | None
    messages: tuple[Any, ...] = ()
    order: KnownOrder | None = None
    not_ours: str = ""  # what stands there under our id is another order: how it differs
    missed_ms: int = 0  # there is no such order: the timestamp of the question, which the venue took
    said: tuple[Said, ...] = ()  # what was asked and answered


def asked_for(wanted: Wanted) -> str:
    """The question about one order, in the venue's words."""
    by = f"origClientOrderId={wanted.client_id}" if wanted.order_id is None else f"orderId={wanted.order_id}"
    return f"order.status {by}"


def status_words(order: KnownOrder, instrument: Instrument) -> str:
    """What the venue says of an order. Raises Nonsense."""
    executed, quantity = exact("the executed quantity", order.executed_qty), exact("the quantity", order.orig_qty)
    by = f"orderId {order.order_id}"
    return f"{order.status} executed {plain(executed)} of {plain(quantity)} {instrument.base}, {by}"


def query_order(requests: Requests, wanted: Wanted, venue: str) -> Script[Found]:
    """What became of an order."""
    for _ in range(READS_MAX):
        asked_ms = 0

        def encode(number: int, timestamp_ms: int) -> bytes:
            nonlocal asked_ms
            asked_ms = timestamp_ms
            if wanted.order_id is not None:
                return requests.order_status_by_id(number, wanted.order_id, wanted.terms, timestamp_ms)
            return requests.order_status(number, wanted.client_id, wanted.terms, timestamp_ms)

        reply = yield Ask(encode, WEIGHTS["status"])
        if reply.error is not None:
            return _not_found(reply, venue, wanted, asked_ms)
        order: KnownOrder = read_order(reply.result)
        executed = exact("the executed quantity", order.executed_qty)
        said: tuple[Said, ...] = ((asked_for(wanted), status_words(order, wanted.terms.instrument)),)
        trades: list[AccountTrade] = []
        if executed:
            trades = yield from _trades(requests, wanted.terms, order.order_id)
            told = sum((exact("a quantity", trade.qty) for trade in trades), ZERO)
            said += ((f"myTrades orderId={order.order_id}", f"{len(trades)} trades of {plain(told)} in all"),)
        if sum((exact("a quantity", trade.qty) for trade in trades), ZERO) == executed:
            return found(order, trades, wanted, venue, said)
        # It traded between the two questions, or the venue lists its trades later than it counts them.
    raise Unreachable(f"the venue does not list all trades of {wanted.client_id} yet")


def found(
    order: KnownOrder,
    trades: Sequence[AccountTrade],
    wanted: Wanted,
    venue: str,
    said: tuple[Said, ...] = (),
    known_lots: int = 0,
) -> Found:
    """An order that the venue has, with its trades: all, or all but those of `known_lots`. Raises Nonsense."""
    instrument = wanted.terms.instrument
    if wanted.asked is not None and (how := differs(order, wanted.asked, instrument)):
        return Found(None, not_ours=how, said=(*said, (asked_for(wanted), f"another order: {how}")))
    messages = known(order, trades, instrument, venue, wanted.client_id, known_lots=known_lots)
    return Found(True, tuple(messages), order, said=said)


def _not_found(reply: Reply, venue: str, wanted: Wanted, asked_ms: int) -> Found:
    error = reply.error
    assert error is not None
    verdict = classify_fault(reply.status, error, "query")
    said = ((asked_for(wanted), f"{error.code} {one_line(error.msg)}"),)
    if isinstance(verdict, NotThere):
        return Found(None, missed_ms=asked_ms, said=said)
    if isinstance(verdict, Refused) and verdict.code == "ORDER_ARCHIVED":
        ended = VenueEnded(
            venue=venue,
            client_id=wanted.client_id,
            kind="expired",
            reason=verdict.reason,
            timestamp_ns=asked_ms * MS_NS,
        )
        return Found(True, (ended,), said=said)
    raise Declined(verdict)


def list_open(requests: Requests, terms: Terms | None) -> Script[tuple[KnownOrder, ...]]:
    """All open orders of a symbol, or of the account."""
    weight = WEIGHTS["open of all" if terms is None else "open"]
    reply = yield Ask(partial(_open_orders, requests, terms), weight)
    orders: tuple[KnownOrder, ...] = read_orders(granted(reply, "query"))
    return orders


def _open_orders(requests: Requests, terms: Terms | None, number: int, timestamp_ms: int) -> bytes:
    return requests.open_orders(number, timestamp_ms, terms)


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
