"""What the venue says about the account unasked, and what it is asked about it: reports, balances, fees.

Always true here: an event that two links tell is told on once. A frame that cannot be understood changes nothing by
guess: where it may have been about an order of ours, the venue is asked about that order until it answers; where it
cannot be told about which, the connection is made anew, and the core asks about every order.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from ...core.kernel.clock import SECOND_NS, Clock, Timer
from ...core.model.errors import Nonsense, VenueError
from ...core.model.exact import ZERO
from ..session import Link
from .codec import AccountPosition, BalanceUpdate, ExecutionReport, one_line
from .codec_replies import Account
from .codec_reports import balance_moved, exact, position, translate
from .codec_requests import Requests, Terms
from .connection import Connection
from .errands import Errands, remember
from .names import Names
from .questions import Questions
from .scripts import Fees, all_balances, read_fees, read_holdings

FEES_MAX: Final = 50  # symbols whose fees are asked for at a time: 20 of 6,000 weight each
FEES_EVERY_NS: Final = 60 * SECOND_NS  # between two such pages: a window of the weight
FEES_AGAIN_NS: Final = 600 * SECOND_NS  # until those that were not told are asked for again
CLIENT_ID_IN: Final = re.compile(rb'"[cC]"\s*:\s*"([A-Za-z0-9_-]{1,36})"')
ORDER_ID_IN: Final = re.compile(rb'"i"\s*:\s*([0-9]{1,18})')
SYMBOL_IN: Final = re.compile(rb'"s"\s*:\s*"([^"\\]{1,40})"')

Holdings = dict[str, tuple[Decimal, Decimal]]  # currency -> (free, locked)


class AccountDesk:
    """Hears the account's events and asks about it."""

    def __init__(
        self,
        venue: str,
        clock: Clock,
        connection: Connection,
        errands: Errands,
        questions: Questions,
        names: Names,
        by_pair: Mapping[str, Terms],
        *,
        tell: Callable[[Any], None],
        on_trouble: Callable[[str], None],
        on_fees: Callable[[str, Fees], None],
    ) -> None:
        """`on_fees` is told the pair and what trades of it cost."""
        self.venue = venue
        self.clock = clock
        self.connection = connection
        self.requests: Requests = connection.requests
        self.errands = errands
        self.questions = questions
        self.names = names
        self.tell = tell
        self.on_trouble = on_trouble
        self.on_fees = on_fees
        self.position: Holdings = {}  # as last told
        self.fees: dict[str, Fees] = {}  # by symbol
        self.can_trade = True
        self.elsewhere_count = 0  # reports about symbols that are not traded here
        self._by_symbol = {terms.symbol: terms for terms in by_pair.values()}
        self._heard: dict[tuple[object, ...], int] = {}  # events, while links overlap -> the link that told them first
        self._fees_timer: Timer | None = None

    # --- events

    def heard(self, link: Link, event: Any) -> None:
        kind = type(event)
        try:
            if kind is ExecutionReport:
                self._report(link, event)
            elif kind is AccountPosition:
                self.position.update(position(event))
            elif kind is BalanceUpdate:
                moved = balance_moved(event, self.venue)
                if self._first(link, (event.asset, event.change, event.time_ms)):
                    self._note_moved(moved.currency, moved.change)
                    self.tell(moved)
            # listStatus and externalLockUpdate say nothing that the reports and positions beside them do not.
        except Nonsense as error:
            self.connection.note_nonsense(f"{kind.__name__} cannot be understood: {error}")
            if kind is ExecutionReport:
                self._repair_report(link, event)
            else:
                self.report_balances()

    def _report(self, link: Link, report: ExecutionReport) -> None:
        client_id = self.names.of_report(report)
        terms = self._by_symbol.get(report.symbol)
        if terms is None:
            self.elsewhere_count += 1
            if client_id is not None:
                named = one_line(report.symbol)
                raise Nonsense(f"a report about {named!r}, which is not traded here, for an order of ours")
            return
        if (self._heard or self.connection.links_open > 1) and not self._first(
            link, (report.symbol, report.execution_id)
        ):
            return
        messages = translate(report, terms.instrument, self.venue, client_id)
        if client_id is not None:
            self.errands.settle(report, client_id)
            if report.kind == "REPLACED" and not self.errands.first_amendment(report.symbol, report.execution_id):
                return
        for message in messages:
            self.tell(message)

    def _note_moved(self, currency: str, change: Decimal) -> None:
        free, locked = self.position.get(currency, (ZERO, ZERO))
        self.position[currency] = free + change, locked

    def _first(self, link: Link, key: tuple[object, ...]) -> bool:
        """Whether no other link has told this event. The same event twice on one link is two events."""
        first = self._heard.get(key)
        if first is not None and first != link.number:
            return False
        if self.connection.links_open > 1:
            remember(self._heard, key, link.number)
        elif self._heard:
            self._heard.clear()
        return True

    # --- what cannot be understood

    def garbled(self, link: Link, raw: bytes) -> None:
        """A frame that is no reply, and cannot be understood."""
        if b"executionReport" in raw:
            symbol_in, order_in = SYMBOL_IN.search(raw), ORDER_ID_IN.search(raw)
            symbol = symbol_in[1].decode("utf-8", "replace") if symbol_in is not None else ""
            ids = {found.decode() for found in CLIENT_ID_IN.findall(raw)}
            mine = {client_id for client_id in ids if self.names.ours(client_id)}
            known_as = self.names.find(symbol, int(order_in[1])) if order_in is not None else None
            if known_as is not None:
                mine.add(known_as)
            terms = self._by_symbol.get(symbol)
            if ids and not mine:
                return  # somebody else's order
            if terms is None or not mine:
                link.close("a report about an order cannot be understood, not even which")
                return
            for client_id in sorted(mine):
                self.questions.repair(client_id, terms.pair)
        elif b"outboundAccountPosition" in raw or b"balanceUpdate" in raw:
            self.report_balances()

    def _repair_report(self, link: Link, report: ExecutionReport) -> None:
        client_id = self.names.of_report(report)
        if client_id is None:
            return
        terms = self._by_symbol.get(report.symbol)
        if terms is None:
            named = one_line(report.symbol)
            link.close(f"a report about an order of ours names {named!r}, which is not traded here")
        else:
            self.questions.repair(client_id, terms.pair)

    # --- questions

    def report_balances(self) -> None:
        """Tells BalancesReported; where the venue cannot be asked, that is told as trouble."""

        def ended(account: Account | None, error: VenueError | None) -> None:
            if account is None:
                self.on_trouble(f"{self.venue} orders: balances could not be asked for: {error}")
                return
            try:
                self.holds(account)
                now_ns = self.clock.now_ns()
                self.tell(all_balances(account, self.venue, list(self.position), now_ns))
            except Nonsense as nonsense:
                self.connection.note_nonsense(f"balances cannot be understood: {nonsense}")

        self.connection.talks.begin(read_holdings(self.requests), ended)

    def holds(self, account: Account) -> None:
        """All that the account has now. Raises Nonsense."""
        self.can_trade = account.can_trade
        held = {b.asset: (exact("a balance", b.free), exact("a balance", b.locked)) for b in account.balances}
        gone = {currency: (ZERO, ZERO) for currency in self.position if currency not in held}
        self.position = held | gone

    # --- fees

    def ask_fees(self) -> None:
        """Ask for the fees of the symbols that have none yet, a page at a time."""
        self._call_off_fees()
        missing = [terms for symbol, terms in self._by_symbol.items() if symbol not in self.fees]
        self._ask_page(missing)

    def _ask_page(self, missing: Sequence[Terms]) -> None:
        self._fees_timer = None
        if self.connection.link is None or not missing:
            return  # the next connection asks again
        for terms in missing[:FEES_MAX]:
            self._ask_fees(terms)
        rest = missing[FEES_MAX:]
        if rest:
            self._fees_timer = self.clock.call_in(FEES_EVERY_NS, self._ask_page, rest)
        else:
            self._fees_timer = self.clock.call_in(FEES_AGAIN_NS, self.ask_fees)  # those that could not be asked for

    def _ask_fees(self, terms: Terms) -> None:
        def ended(fees: Fees | None, error: VenueError | None) -> None:
            if fees is not None:
                self.fees[terms.symbol] = fees
                self.on_fees(terms.instrument.pair, fees)
            else:
                self.on_trouble(f"{self.venue} orders: fees of {terms.symbol} could not be asked for: {error}")

        self.connection.talks.begin(read_fees(self.requests, terms), ended)

    def _call_off_fees(self) -> None:
        if self._fees_timer is not None:
            self._fees_timer.cancel()
            self._fees_timer = None

    def stop(self) -> None:
        self._call_off_fees()
