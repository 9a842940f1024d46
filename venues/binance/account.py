"""What the venue says about the account unasked, and what it is asked about it: reports, balances, orders, fees.

Always true here: an event that two links tell is told on once. A frame that cannot be understood changes nothing by
guess: where it may have been about an order of ours, the venue is asked about that order until it answers; where it
cannot be told about which, the connection is made anew, and the core asks about every order.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final

from ...core.kernel.clock import SECOND_NS, Clock
from ...core.model.errors import Nonsense, VenueError
from ...core.model.exact import ZERO
from ..client import QueryAnswer
from ..session import Link
from .codec import AccountPosition, BalanceUpdate, ExecutionReport
from .codec_replies import Account
from .codec_reports import balance_moved, exact, order_id_of, position, renamed, translate
from .codec_requests import Requests, Terms
from .connection import Connection
from .errands import Errands, remember
from .scripts import Fees, Found, all_balances, query_order, read_fees, read_holdings

REPAIR_NS: Final = 2 * SECOND_NS  # until an order is asked about again
REPAIRS_MAX: Final = 1_000  # orders that are asked about at a time; more: the connection is made anew
FEES_MAX: Final = 50  # symbols whose fees are asked for when the connection comes: 20 of 6,000 weight each
CLIENT_ID_IN: Final = re.compile(rb'"[cC]"\s*:\s*"([A-Za-z0-9_-]{1,36})"')
SYMBOL_IN: Final = re.compile(rb'"s"\s*:\s*"([^"\\]{1,40})"')

Holdings = dict[str, tuple[Decimal, Decimal]]  # currency -> (free, locked)


class AccountDesk:
    """Hears the account's events and asks about it."""

    def __init__(
        self,
        venue: str,
        clock: Clock,
        connection: Connection,
        requests: Requests,
        errands: Errands,
        by_pair: Mapping[str, Terms],
        *,
        ours: Callable[[str], bool],
        tell: Callable[[Any], None],
        on_trouble: Callable[[str], None],
        on_fees: Callable[[str, Fees], None],
    ) -> None:
        """`on_fees` is told the pair and what trades of it cost."""
        self.venue = venue
        self.clock = clock
        self.connection = connection
        self.requests = requests
        self.errands = errands
        self.ours = ours
        self.tell = tell
        self.on_trouble = on_trouble
        self.on_fees = on_fees
        self.position: Holdings = {}  # as last told
        self.fees: dict[str, Fees] = {}  # by symbol
        self.can_trade = True
        self.elsewhere_count = 0  # reports about symbols that are not traded here
        self._by_pair = by_pair
        self._by_symbol = {terms.symbol: terms for terms in by_pair.values()}
        self._heard: dict[tuple[object, ...], int] = {}  # events, while links overlap -> the link that told them first
        self._aliases: dict[str, str] = {}  # client ids that others' amendments gave to orders of ours -> our id
        self._renamed: dict[str, str] = {}  # the same the other way round
        self._repairs: dict[str, str] = {}  # client id -> pair, of orders that are asked about here

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
        terms = self._by_symbol.get(report.symbol)
        if terms is None:
            self.elsewhere_count += 1
            if self.ours(order_id_of(report, self._aliases)):
                raise Nonsense(f"a report about {report.symbol[:40]!r}, which is not traded here, for an order of ours")
            return
        if (self._heard or self.connection.links_open > 1) and not self._first(
            link, (report.symbol, report.execution_id)
        ):
            return
        messages = translate(report, terms.instrument, self.venue, self.ours, self._aliases)
        client_id = order_id_of(report, self._aliases)
        self.errands.settle(report, client_id)
        if report.kind == "REPLACED" and messages:
            self._note_renamed(report)
            if not self.errands.first_amendment(report.symbol, report.execution_id):
                return
        for message in messages:
            self.tell(message)

    def _note_renamed(self, report: ExecutionReport) -> None:
        """Somebody amended an order of ours by hand, and the venue gave it another client id."""
        new = renamed(report, self._aliases)
        if new is not None:
            remember(self._aliases, new[0], new[1])
            remember(self._renamed, new[1], new[0])

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
            ids = {found.decode() for found in CLIENT_ID_IN.findall(raw)}
            symbol = SYMBOL_IN.search(raw)
            terms = self._by_symbol.get(symbol[1].decode("utf-8", "replace")) if symbol is not None else None
            mine = [client_id for client_id in ids if self.ours(self._aliases.get(client_id, client_id))]
            if ids and not mine:
                return  # somebody else's order
            if terms is None or not mine:
                link.close("a report about an order cannot be understood, not even which")
                return
            for client_id in mine:
                self._repair(self._aliases.get(client_id, client_id), terms.pair)
        elif b"outboundAccountPosition" in raw or b"balanceUpdate" in raw:
            self.report_balances()

    def _repair_report(self, link: Link, report: ExecutionReport) -> None:
        client_id = order_id_of(report, self._aliases)
        if not self.ours(client_id):
            return
        terms = self._by_symbol.get(report.symbol)
        if terms is None:
            link.close(f"a report about an order of ours names {report.symbol[:40]!r}, which is not traded here")
        else:
            self._repair(client_id, terms.pair)

    def _repair(self, client_id: str, pair: str) -> None:
        """Ask about an order until the venue answers; its messages come as usual."""
        if client_id in self._repairs:
            return
        if len(self._repairs) >= REPAIRS_MAX:
            self._repairs.clear()
            if self.connection.link is not None:
                self.connection.link.close(f"more than {REPAIRS_MAX} reports could not be understood")
            return
        self._repairs[client_id] = pair
        self._ask_again(client_id, pair)

    def _ask_again(self, client_id: str, pair: str) -> None:
        if client_id not in self._repairs:
            return

        def answered(taken: bool | None) -> None:
            if taken is None:
                self.clock.call_in(REPAIR_NS, self._ask_again, client_id, pair)
            else:
                self._repairs.pop(client_id, None)

        self.query(client_id, pair, answered)

    # --- questions

    def query(self, client_id: str, pair: str, answer: QueryAnswer) -> None:
        terms = self._by_pair.get(pair)
        if terms is None:
            self.on_trouble(f"{self.venue} orders: {client_id} cannot be asked about: {pair} is not traded here")
            answer(None)
            return

        def ended(found: Found | None, error: VenueError | None) -> None:
            if found is None:
                if isinstance(error, Nonsense):
                    self.connection.note_nonsense(f"what is said of {client_id} cannot be understood: {error}")
                answer(None)
                return
            if found.taken is not None:
                self.errands.lost_ms.pop(client_id, None)
            for message in found.messages:
                self.tell(message)
            answer(found.taken)

        asked_by = self._renamed.get(client_id, client_id)
        sent_ms = partial(self.errands.sent_ms, client_id)
        script = query_order(self.requests, terms, self.venue, client_id, asked_by, sent_ms)
        self.connection.talks.begin(script, ended)

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

    def ask_fees(self) -> None:
        """Ask for the fees of the symbols that have none yet."""
        missing = [terms for symbol, terms in self._by_symbol.items() if symbol not in self.fees]
        for terms in missing[:FEES_MAX]:
            self._ask_fees(terms)

    def _ask_fees(self, terms: Terms) -> None:
        def ended(fees: Fees | None, error: VenueError | None) -> None:
            if fees is not None:
                self.fees[terms.symbol] = fees
                self.on_fees(terms.instrument.pair, fees)
            else:
                self.on_trouble(f"{self.venue} orders: fees of {terms.symbol} could not be asked for: {error}")

        self.connection.talks.begin(read_fees(self.requests, terms), ended)

    def stop(self) -> None:
        self._repairs.clear()
