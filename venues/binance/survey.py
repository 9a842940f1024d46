"""What stands at the venue and what has traded there, whoever did it: for comparing it with what is known here.

Always true here: nothing is changed here, and nothing at the venue but what `cancel` is told. What these questions
weigh is counted, so that those that can wait take no more than SHARE of what the account may ask, and none while others
wait.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from ...core.kernel.clock import SECOND_NS
from ...core.model.comparisons import Found, Question, TradePage, VenueOrder, VenueTrade
from ...core.model.errors import Nonsense, VenueError
from ...core.model.exact import ZERO
from ...core.model.messages import CancelAtVenue
from ...core.model.records import TimeInForce
from .codec import ENDED
from .codec_replies import AccountTrade, KnownOrder, read_order, read_trades
from .codec_reports import SIDES, exact, fee_of, lots, ns_of, ticks
from .codec_requests import CANCEL_PREFIX, TRADES_MAX, Requests, Terms
from .connection import Connection
from .errors import ClockOff, NotThere, Unknown
from .names import Names
from .scripts import WEIGHTS, Wanted, list_open, query_order
from .talks import Ask, Declined, Script, granted

SHARE: Final = 10  # percent of the weight of a minute
WINDOW_NS: Final = 60 * SECOND_NS
PAGE_WEIGHT: Final = 20  # myTrades of a symbol, whatever it brings
QUESTION_WEIGHTS: Final[Mapping[Question, int]] = {"open orders": WEIGHTS["open of all"], "trades": PAGE_WEIGHT}
TYPES: Final = {
    "LIMIT": "limit",
    "LIMIT_MAKER": "limit",
    "MARKET": "market",
    "STOP_LOSS": "stop_loss",
    "STOP_LOSS_LIMIT": "stop_loss",
    "TAKE_PROFIT": "take_profit",
    "TAKE_PROFIT_LIMIT": "take_profit",
}
TIFS: Final[Mapping[str, TimeInForce]] = {"GTC": "GTC", "IOC": "IOC", "FOK": "FOK"}


class Survey:
    """Asks about all of the account. A `Surveyor`."""

    def __init__(
        self,
        venue: str,
        connection: Connection,
        names: Names,
        by_pair: Mapping[str, Terms],
        *,
        on_trouble: Callable[[str], None],
    ) -> None:
        self.venue = venue
        self.connection = connection
        self.requests: Requests = connection.requests
        self.names = names
        self.on_trouble = on_trouble
        self._by_pair = by_pair
        self._by_symbol = {terms.symbol: terms for terms in by_pair.values()}
        self._window = 0  # the minute that `_used` is of
        self._used = 0
        self._told = ""  # the last trouble
        self._last: dict[tuple[str, int], tuple[KnownOrder, VenueOrder]] = {}  # open orders as last listed

    # --- the budget

    def room(self, question: Question) -> bool:
        """Whether it may be asked now, within the share, and without keeping other questions waiting."""
        limit = self.connection.budgets.limit("REQUEST_WEIGHT")
        self._roll()
        fits = self._used + QUESTION_WEIGHTS[question] <= limit * SHARE // 100
        return fits and not len(self.connection.talks) and self.connection.link is not None

    def _roll(self) -> None:
        window = self.connection.server.now_ns() // WINDOW_NS
        if window != self._window:
            self._window, self._used = window, 0

    def _begin(self, script: Script[Any], what: str, done: Callable[[Any], None]) -> None:
        """Run a script; `done` gets what it found, or None."""

        def ended(value: Any, error: VenueError | None) -> None:
            if error is None:
                self._told = ""
            elif isinstance(error, Nonsense):
                self.connection.note_nonsense(f"{what} cannot be understood: {error}")
            else:
                self._tell(f"{self.venue} orders: {what} could not be asked for: {error}")
                if isinstance(error, Declined) and isinstance(error.verdict, ClockOff):
                    self.connection.measure(_nothing)
            done(value)

        self._roll()
        self.connection.talks.begin(script, ended)

    def _tell(self, trouble: str) -> None:
        """Once, as long as it is the same: whoever asks goes on asking."""
        if trouble != self._told:
            self._told = trouble
            self.on_trouble(trouble)

    # --- questions

    def list_open(self, done: Callable[[Sequence[VenueOrder] | None], None]) -> None:
        self._begin(self._open_orders(), "the list of open orders", done)

    def _open_orders(self) -> Script[list[VenueOrder]]:
        self._used += WEIGHTS["open of all"]
        orders = yield from list_open(self.requests, None)
        return self.as_orders(orders)

    def as_orders(self, orders: Sequence[KnownOrder]) -> list[VenueOrder]:
        """A list of open orders. What stands in it as it stood in the one before is not read once more: of thousands
        that would take a twentieth of a second."""
        before, self._last = self._last, {}
        for order in orders:
            key = order.symbol, order.order_id
            known = before.get(key)
            self._last[key] = known if known is not None and known[0] == order else (order, self._as_order(order))
        return [theirs for _, theirs in self._last.values()]

    def list_trades(self, pair: str, from_id: int | None, done: Callable[[TradePage | None], None]) -> None:
        self._begin(self._trades(self._by_pair[pair], from_id), f"trades of {pair}", done)

    def _trades(self, terms: Terms, from_id: int | None) -> Script[TradePage]:
        limit = TRADES_MAX if from_id is not None else 1
        self._used += PAGE_WEIGHT

        def encode(number: int, timestamp_ms: int) -> bytes:
            return self.requests.my_trades(number, None, terms, timestamp_ms, from_id, limit)

        reply = yield Ask(encode, PAGE_WEIGHT)
        page: tuple[AccountTrade, ...] = read_trades(granted(reply, "query"))
        trades = [_as_trade(trade, terms) for trade in sorted(page, key=lambda t: t.id)]
        return TradePage(trades, from_id is None or len(page) < TRADES_MAX)

    def find(self, pair: str, venue_order_id: str, known_as: str, done: Callable[[Found | None], None]) -> None:
        terms, order_id = self._by_pair[pair], int(venue_order_id)
        script = self._find(terms, order_id, known_as or self.names.find(terms.symbol, order_id) or "")
        self._begin(script, f"the order {venue_order_id} of {pair}", done)

    def _find(self, terms: Terms, order_id: int, known_as: str) -> Script[Found]:
        """Whose it is, and where it is ours all that became of it."""
        client_id = known_as
        if not client_id:
            self._used += WEIGHTS["status"]

            def encode(number: int, timestamp_ms: int) -> bytes:
                return self.requests.order_status_by_id(number, order_id, terms, timestamp_ms)

            reply = yield Ask(encode, WEIGHTS["status"])
            try:
                order = self._as_order(read_order(granted(reply, "query")))
            except Declined as error:
                if isinstance(error.verdict, NotThere):
                    return Found(None)
                raise
            if not self.names.ours(order.client_id):
                return Found(order)
            client_id = order.client_id
        self._used += WEIGHTS["status"] + WEIGHTS["trades"]
        told = yield from query_order(self.requests, Wanted(client_id, terms, order_id), self.venue)
        if told.order is None:
            return Found(None)
        self.names.note_found(told.order, client_id)
        return Found(self._as_order(told.order, client_id), told.messages)

    # --- somebody else's order

    def cancel(self, pair: str, venue_order_id: str, done: Callable[[str | None], None]) -> None:
        terms = self._by_pair.get(pair)
        if terms is None:
            done(f"{pair} is not traded by this service: cancel it at {self.venue} itself")
            return
        # The id of the cancel is made of this one: it must be one that the venue takes, whatever the order's own is.
        about = CancelAtVenue(client_id=f"ext-{venue_order_id}", pair=pair, venue_order_id=venue_order_id)

        def ended(_: object, error: VenueError | None) -> None:
            if isinstance(error, Declined) and not isinstance(error.verdict, Unknown):
                done(error.verdict.reason)
            else:
                done(None if error is not None else "")

        self.connection.talks.begin(self._cancel(about, terms), ended)

    def _cancel(self, about: CancelAtVenue, terms: Terms) -> Script[bool]:
        reply = yield Ask(partial(_encode_cancel, self.requests, about, terms), 1)
        granted(reply, "cancel")
        return True

    # --- reading

    def _as_order(self, order: KnownOrder, client_id: str = "") -> VenueOrder:
        """Raises Nonsense."""
        terms = self._by_symbol.get(order.symbol)
        name = client_id or self.names.find(order.symbol, order.order_id) or _sent_as(order.client_order_id)
        price, stop = exact("the price", order.price), exact("the stop price", order.stop_price)
        return VenueOrder(
            pair=terms.instrument.pair if terms is not None else order.symbol,
            traded_here=terms is not None,
            venue_order_id=str(order.order_id),
            client_id=name,
            side=SIDES[order.side],
            type=TYPES.get(order.type, order.type),
            quantity=exact("the quantity", order.orig_qty),
            filled=exact("the executed quantity", order.executed_qty),
            price=price if price > ZERO else None,
            stop_price=stop if stop > ZERO else None,
            tif=TIFS.get(order.time_in_force, "GTC"),
            post_only=order.type == "LIMIT_MAKER",
            list_id=str(order.order_list_id) if order.order_list_id >= 0 else "",
            is_open=order.status not in ENDED,
            created_ns=ns_of(order.time) - self.connection.server.offset_ns,
        )


def _nothing() -> None:
    """The question is asked again anyway."""


def _sent_as(client_id: str) -> str:
    """An order that was cancelled may be told under the id of its cancel."""
    return f"tbx{client_id[3:]}" if client_id.startswith(f"{CANCEL_PREFIX}-") else client_id


def _encode_cancel(requests: Requests, about: CancelAtVenue, terms: Terms, number: int, timestamp_ms: int) -> bytes:
    return requests.cancel(number, about, terms, timestamp_ms)


def _as_trade(trade: AccountTrade, terms: Terms) -> VenueTrade:
    """Raises Nonsense."""
    instrument = terms.instrument
    if trade.symbol != terms.symbol:
        raise Nonsense(f"a trade of {trade.symbol[:60]!r} among those of {terms.symbol}")
    fee, fee_currency = fee_of(trade.commission, trade.commission_asset, instrument)
    return VenueTrade(
        pair=instrument.pair,
        trade_id=trade.id,
        venue_order_id=str(trade.order_id),
        side="buy" if trade.is_buyer else "sell",
        price_ticks=ticks(instrument, "the price of a trade", trade.price),
        qty_lots=lots(instrument, "the quantity of a trade", trade.qty),
        fee=fee,
        fee_currency=fee_currency,
        timestamp_ns=ns_of(trade.time),
    )
