"""Orders at Binance spot: a VenueClient over one connection to the WebSocket API.

Always true here: everything that a reply or a report causes goes in by `Kernel.input`; nothing waits, and no task is
made. Orders are taken while a link is signed on, the account may trade, and the venue bars nothing; else `unavailable`
says why, and an order that is placed all the same is refused as proven not sent.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ...core.kernel.clock import MS_NS, SECOND_NS, Clock
from ...core.kernel.kernel import Kernel
from ...core.model.errors import Nonsense, VenueError
from ...core.model.instruments import Instrument
from ...core.model.messages import (
    AmendAtVenue,
    AskAtVenue,
    CancelAtVenue,
    PlaceAtVenue,
    PlaceExitsAtVenue,
    VenueStateChanged,
    VenueTookOver,
)
from ..client import Capabilities, QueryAnswer, VenueStatus
from ..limits import Budgets, ConnectBudget
from ..session import Connect
from .account import AccountDesk
from .codec import masked
from .codec_replies import Account
from .codec_requests import Leg, PlaceList, ReplaceOrder, Requests, Terms, exits_id
from .connection import Connection
from .errands import Errands, Readers
from .errors import Verdict
from .gate import Gate
from .inflight import Errand, Part
from .names import Names
from .questions import Questions
from .scripts import Fees, read_holdings
from .signing import Signer
from .survey import Survey

STALE_NS: Final = 30 * SECOND_NS  # without any sign of life; Binance pings every 20 s
AMEND_WEIGHT: Final = 4


class BinanceVenue:
    """Orders of one account. `listener` of its connection."""

    name = "binance"
    capabilities = Capabilities(
        tifs=frozenset({"GTC", "IOC", "FOK", "GTD"}),  # GTD rests like GTC: the service cancels it in time
        post_only=True,
        amend=True,
        amend_up=False,
        amend_price=False,
        amend_keeps_queue=True,
        linked_orders=True,
        market_guard=True,  # as a limit order that does not rest
    )

    def __init__(
        self,
        kernel: Kernel,
        clock: Clock,
        connect: Connect,
        url: str,
        signer: Signer,
        instruments: Iterable[Instrument],
        *,
        ours: Callable[[str], bool],
        jitter: Callable[[], float],
        on_trouble: Callable[[str], None],
        on_fees: Callable[[str, Fees], None] = lambda *_: None,
        account_id: Callable[[str], str] = lambda _: "",
        budgets: Budgets | None = None,
        connects: ConnectBudget | None = None,
        **session: int,
    ) -> None:
        """`ours` tells the client ids of this node; `on_fees` hears what trades of a pair cost; `account_id` hears the
        account's uid at each sign-on, and says why that account is not to be used, or "". `budgets` and `connects` are
        shared with other connections of the account and the address; `session` are times of `Session` that differ from
        its own."""

        def trouble(what: str) -> None:
            on_trouble(masked(what))

        self.kernel, self.clock, self.on_trouble = kernel, clock, trouble
        self._tell = kernel.input
        self._account_id = account_id
        self._instruments = [i for i in instruments if i.exchange == self.name]
        self._terms = terms = {i.pair: Terms(i) for i in self._instruments}
        self.requests = Requests(signer)
        shared: dict[str, Any] = {"budgets": budgets, "connects": connects, "jitter": jitter, **session}
        self.connection = line = Connection(clock, connect, url, self.requests, self, on_trouble=trouble, **shared)
        self.errands = errands = Errands(self.name, clock, line, self._tell, on_blocked=self._blocked, sure=kernel.sure)
        names = Names(ours)
        told: dict[str, Any] = {"tell": self._tell, "on_trouble": trouble}
        self.questions = asks = Questions(self.name, clock, line, errands, names, terms, **told)
        self.account = AccountDesk(self.name, clock, line, errands, asks, names, terms, **told, on_fees=on_fees)
        self.gate = Gate(self.name, clock, line, self.account, ask_rights=self._ask_rights, on_trouble=trouble)
        self.survey = Survey(self.name, line, names, terms, on_trouble=trouble)
        self.heard = self.account.heard  # straight to where events are read
        self.garbled = self.account.garbled
        self._readers = Readers(errands, ours)
        self._read_placed = self._readers.placed
        self._told_up = False

    # --- the service

    def instruments(self) -> Sequence[Instrument]:
        return self._instruments

    def start(self) -> None:
        self.connection.start()

    def stop(self) -> None:
        """What is on its way becomes VenueUnknown."""
        self.gate.stop()
        self.account.stop()
        self.questions.stop()
        self.connection.stop()

    @property
    def unavailable(self) -> str:
        """Why no order can be sent now; empty where one can."""
        return self.gate.reason

    def status(self) -> VenueStatus:
        connection = self.connection
        session, server_ns = connection.session.status(), connection.server.now_ns()
        fresh = self.clock.now_ns() - session.last_sign_ns < STALE_NS
        return VenueStatus(
            status="disconnected" if connection.link is None else "connected" if fresh else "stale",
            last_ping_ms=session.last_sign_ns // MS_NS or None,
            rate_limit_remaining=connection.budgets.remaining("REQUEST_WEIGHT", server_ns),
            rate_limit_reset_ms=connection.budgets.reset_ns("REQUEST_WEIGHT", server_ns) // MS_NS,
            reason=self.unavailable,
        )

    def counters(self) -> dict[str, int]:
        """For health."""
        connection = self.connection
        inflight = connection.inflight
        return {
            "reconnects": connection.session.reconnects,
            "unknown": self.errands.unknown_count,
            "nonsense": connection.nonsense_count,
            "overdue": inflight.overdue_count,
            "lateReplies": inflight.late_count,
            "elsewhere": self.account.elsewhere_count,
            "roundTripP50Us": (inflight.round_trips.p50_ns() or 0) // 1_000,
            "clockOffsetUs": connection.server.offset_ns // 1_000,
        }

    # --- orders

    def place(self, request: PlaceAtVenue) -> None:
        parts: tuple[Part, ...] = (("place", request.client_id),)
        terms = self._there(parts, request.pair)
        if terms is not None:
            self.errands.send(Errand("place", parts, request, terms, self.requests.place, self._read_placed, orders=1))

    def cancel(self, request: CancelAtVenue) -> None:
        """Without a connection nothing is sent or answered: the order keeps its request, and the core sends it again
        when the venue is back and the order was asked about."""
        if self.connection.link is None:
            return
        parts: tuple[Part, ...] = (("cancel", request.client_id),)
        terms = self._there(parts, request.pair)
        if terms is not None:
            self.errands.send(Errand("cancel", parts, request, terms, self.requests.cancel, self._readers.cancelled))

    def amend(self, request: AmendAtVenue) -> None:
        parts: tuple[Part, ...] = (("amend", request.client_id),)
        if request.amend.price_ticks is not None or request.amend.qty_lots is None:
            reason = "Binance changes nothing but the quantity of an order in place, and only downwards"
            self.errands.not_sent(parts, "NOT_SUPPORTED", reason)
            return
        if self.connection.link is None:
            self.errands.not_sent(parts, "NOT_CONNECTED", f"not sent: {self.unavailable}")
            return
        terms = self._there(parts, request.pair)
        if terms is not None:
            self.errands.send(
                Errand("amend", parts, request, terms, self.requests.amend, self._readers.amended, weight=AMEND_WEIGHT)
            )

    def replace(self, request: ReplaceOrder) -> None:
        """Cancels an order and places another one of the pair: not one transaction; messages for each of the two."""
        parts: tuple[Part, ...] = (("cancel", request.cancel.client_id), ("place", request.order.client_id))
        terms = self._there(parts, request.order.pair)
        if terms is not None:
            self.errands.send(
                Errand("replace", parts, request, terms, self.requests.replace, self._readers.replaced, orders=1)
            )

    def place_list(self, request: PlaceList) -> None:
        """An order list; messages for each of its legs."""
        parts: tuple[Part, ...] = tuple(("place", leg.client_id) for leg in request.legs)
        terms = self._there(parts, request.pair)
        if terms is not None:
            encode, read = self.requests.place_list, self._readers.placed_list
            self.errands.send(Errand("list", parts, request, terms, encode, read, orders=len(parts)))

    def place_exits(self, request: PlaceExitsAtVenue) -> None:
        """An OCO of a take profit above and a stop loss below, both at the market; cancelling one cancels both."""
        qty_lots = request.qty_lots
        above = Leg(
            client_id=request.target_client_id,
            side="sell",
            type="TAKE_PROFIT",
            qty_lots=qty_lots,
            stop_ticks=request.target_ticks,
        )
        below = Leg(
            client_id=request.stop_client_id,
            side="sell",
            type="STOP_LOSS",
            qty_lots=qty_lots,
            stop_ticks=request.stop_ticks,
        )
        name = exits_id(request.stop_client_id)
        self.place_list(PlaceList(kind="oco", client_id=name, pair=request.pair, above=above, below=below))

    def cancel_list(self, list_client_id: str, pair: str, legs: Sequence[str], list_id: int | None = None) -> None:
        """Cancels an order list; messages for each of `legs`, the client ids of its open orders."""

        def encode(number: int, about: str, terms: Terms, timestamp_ms: int) -> bytes:
            return self.requests.cancel_list(number, list_id, about, terms, timestamp_ms)

        parts: tuple[Part, ...] = tuple(("cancel", client_id) for client_id in legs)
        terms = self._there(parts, pair)
        if terms is not None:
            self.errands.send(Errand("cancel", parts, list_client_id, terms, encode, self._readers.cancelled_list))

    def query(self, asked: AskAtVenue, answer: QueryAnswer) -> None:
        """Asks what became of an order: its messages, in order, then `answer`. False only where it is proven that the
        venue did not take it and will not (`questions.py`): until then `answer` is given None. Another order under our
        id: VenueContradicted, and None."""
        self.questions.query(asked, answer)

    def report_balances(self) -> None:
        """Answers BalancesReported: all that the account holds, and nothing for what it held before."""
        self.account.report_balances()

    def _there(self, parts: tuple[Part, ...], pair: str) -> Terms | None:
        terms = self._terms.get(pair)
        if terms is None:
            self.errands.not_sent(parts, "INVALID_PAIR", f"not sent: {pair} is not traded at {self.name} here")
        elif not self.gate.ready and parts[-1][0] == "place":
            self.errands.not_sent(parts, self.gate.code, f"not sent: {self.gate.reason}")
            return None
        return terms

    # --- the connection

    def refuses(self, account: Account) -> str:
        return self._account_id(str(account.uid)) if account.uid is not None else ""

    def holds(self, account: Account) -> None:
        try:
            self.account.holds(account)
        except Nonsense as error:
            self.connection.note_nonsense(f"balances cannot be understood: {error}")
        self.gate.judge()

    def came(self) -> None:
        self._told_up = True
        self.gate.judge()
        self._tell(VenueStateChanged(venue=self.name, up=True, reason="", timestamp_ns=self.clock.now_ns()))
        self.account.ask_fees()

    def took_over(self) -> None:
        self._tell(VenueTookOver(venue=self.name, timestamp_ns=self.clock.now_ns()))

    def went(self, reason: str) -> None:
        self.gate.judge()
        if self._told_up:
            self._told_up = False
            self._tell(VenueStateChanged(venue=self.name, up=False, reason=reason, timestamp_ns=self.clock.now_ns()))

    def barred(self, reason: str) -> None:
        self.gate.bar(reason)

    def _blocked(self, verdict: Verdict) -> None:
        self.gate.block(verdict)

    def _ask_rights(self) -> None:
        """Whether the account may trade by now."""

        def ended(account: Account | None, _: VenueError | None) -> None:
            if account is not None:
                self.holds(account)
            self.gate.judge()

        self.connection.talks.begin(read_holdings(self.requests), ended)
