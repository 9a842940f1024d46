"""Orders at Binance spot: a VenueClient over one connection to the WebSocket API.

Always true here: everything that a reply or a report causes goes in by `Kernel.input`; nothing waits, and no task is
made. Orders are taken while a link is signed on, the account may trade, and the venue bars nothing; else `unavailable`
says why, and an order that is placed all the same is refused as proven not sent.
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Final

from ...core.kernel.clock import MS_NS, SECOND_NS, Clock, Timer
from ...core.kernel.kernel import Kernel
from ...core.model.errors import Nonsense, VenueError
from ...core.model.instruments import Instrument
from ...core.model.messages import AmendAtVenue, CancelAtVenue, PlaceAtVenue, VenueStateChanged
from ..client import Capabilities, QueryAnswer, VenueStatus
from ..limits import Budgets, ConnectBudget
from ..session import Connect
from .account import AccountDesk
from .codec_replies import Account
from .codec_requests import PlaceList, ReplaceOrder, Requests, Terms
from .connection import Connection, key_words
from .errands import Errands, Readers
from .errors import KEY_REFUSED, RATE_LIMIT_EXCEEDED, TEMPORARY_UNAVAILABLE, KeyTrouble, Verdict
from .inflight import Errand, Part
from .scripts import Fees, read_holdings
from .signing import Signer

BLOCK_NS: Final = 30 * SECOND_NS  # no orders for so long after the key or the clock was refused for one
RECHECK_NS: Final = 60 * SECOND_NS  # until an account that may not trade is looked at again
STALE_NS: Final = 30 * SECOND_NS  # without any sign of life; Binance pings every 20 s
AMEND_WEIGHT: Final = 4
MAY_NOT_TRADE: Final = "the account may not trade (canTrade is false)"


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
        budgets: Budgets | None = None,
        connects: ConnectBudget | None = None,
        **session: int,
    ) -> None:
        """`ours` tells the client ids of this node. `budgets` and `connects` are shared with other connections of the
        account and the address; `session` are times of `Session` that differ from its own."""
        self.kernel = kernel
        self.clock = clock
        self.on_trouble = on_trouble
        self._instruments = [i for i in instruments if i.exchange == self.name]
        self._terms = {i.pair: Terms(i) for i in self._instruments}
        self.requests = Requests(signer)
        self.connection = Connection(
            clock,
            connect,
            url,
            self.requests,
            self,
            jitter=jitter,
            on_trouble=on_trouble,
            budgets=budgets,
            connects=connects,
            **session,
        )
        self._tell = kernel.input
        self.errands = Errands(self.name, clock, self.connection, self._tell, on_blocked=self._blocked)
        self.account = AccountDesk(
            self.name,
            clock,
            self.connection,
            self.requests,
            self.errands,
            self._terms,
            ours=ours,
            tell=self._tell,
            on_trouble=on_trouble,
        )
        self.heard = self.account.heard  # straight to where events are read
        self.garbled = self.account.garbled
        self._readers = Readers(self.errands, ours)
        self._read_placed = self._readers.placed
        self._ready = False
        self._told_up = False
        self._bar = ""  # why the venue takes nothing from this address
        self._block = ""  # why it would take no orders now
        self._block_code = KEY_REFUSED
        self._unblock: Timer | None = None
        self._recheck: Timer | None = None  # of an account that may not trade

    # --- the service

    def instruments(self) -> Sequence[Instrument]:
        return self._instruments

    def start(self) -> None:
        self.connection.start()

    def stop(self) -> None:
        """What is on its way becomes VenueUnknown."""
        for timer in (self._unblock, self._recheck):
            if timer is not None:
                timer.cancel()
        self._unblock = self._recheck = None
        self.account.stop()
        self.connection.stop()

    @property
    def unavailable(self) -> str:
        """Why no order can be sent now; empty where one can."""
        if self._ready:
            return ""
        if self._bar:
            return self._bar
        connection = self.connection
        if connection.link is not None:
            return self._block or MAY_NOT_TRADE
        reason, now = connection.reason, connection.session.reason
        return f"{self.name} is not connected: {reason}" + (f" ({now})" if now and now not in reason else "")

    @property
    def position(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Currency -> (free, locked) as the venue told last."""
        return self.account.position

    def fees(self, symbol: str) -> Fees | None:
        """What the venue charges this account for trades of a symbol; None where it has not said yet."""
        return self.account.fees.get(symbol)

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

    def cancel_list(self, list_client_id: str, pair: str, legs: Sequence[str], list_id: int | None = None) -> None:
        """Cancels an order list; messages for each of `legs`, the client ids of its open orders."""

        def encode(number: int, about: str, terms: Terms, timestamp_ms: int) -> bytes:
            return self.requests.cancel_list(number, list_id, about, terms, timestamp_ms)

        parts: tuple[Part, ...] = tuple(("cancel", client_id) for client_id in legs)
        terms = self._there(parts, pair)
        if terms is not None:
            self.errands.send(Errand("cancel", parts, list_client_id, terms, encode, self._readers.cancelled_list))

    def query(self, client_id: str, pair: str, answer: QueryAnswer) -> None:
        """Asks what became of an order: its messages, in order, then `answer`. False only where it is proven that the
        venue did not take it and will not: until its frame is older than the venue takes, `answer` is given None."""
        self.account.query(client_id, pair, answer)

    def report_balances(self) -> None:
        """Answers BalancesReported: all that the account holds, and nothing for what it held before."""
        self.account.report_balances()

    def _there(self, parts: tuple[Part, ...], pair: str) -> Terms | None:
        terms = self._terms.get(pair)
        if terms is None:
            self.errands.not_sent(parts, "INVALID_PAIR", f"not sent: {pair} is not traded at {self.name} here")
        elif not self._ready and parts[-1][0] == "place":
            code = TEMPORARY_UNAVAILABLE
            if self._bar:
                code = RATE_LIMIT_EXCEEDED
            elif self.connection.link is not None:
                code = self._block_code if self._block else KEY_REFUSED
            self.errands.not_sent(parts, code, f"not sent: {self.unavailable}")
            return None
        return terms

    # --- the connection

    def holds(self, account: Account) -> None:
        try:
            self.account.holds(account)
        except Nonsense as error:
            self.connection.note_nonsense(f"balances cannot be understood: {error}")
        self._judge()

    def came(self) -> None:
        self._told_up = True
        self._judge()
        self._tell(VenueStateChanged(venue=self.name, up=True, reason="", timestamp_ns=self.clock.now_ns()))
        self.account.ask_fees()

    def went(self, reason: str) -> None:
        self._judge()
        if self._told_up:
            self._told_up = False
            self._tell(VenueStateChanged(venue=self.name, up=False, reason=reason, timestamp_ns=self.clock.now_ns()))

    def barred(self, reason: str) -> None:
        self._bar = reason
        self._judge()

    def _blocked(self, verdict: Verdict) -> None:
        """The key, or our clock twice in a row, was refused for an order: the next ones would be refused too."""
        if isinstance(verdict, KeyTrouble):
            self._block, self._block_code = key_words(verdict), KEY_REFUSED
        else:
            self._block = f"the clock is off, and measuring it did not help: {verdict.reason}"
            self._block_code = TEMPORARY_UNAVAILABLE
        self.on_trouble(f"{self.name} orders: {self._block}")
        if self._unblock is not None:
            self._unblock.cancel()
        self._unblock = self.clock.call_in(BLOCK_NS, self._try_again)
        self._judge()

    def _try_again(self) -> None:
        self._block, self._unblock = "", None
        self._judge()

    def _judge(self) -> None:
        """Whether orders can be sent."""
        connected, can_trade = self.connection.link is not None, self.account.can_trade
        self._ready = connected and can_trade and not self._bar and not self._block
        if connected and not can_trade and self._recheck is None:
            self._recheck = self.clock.call_in(RECHECK_NS, self._ask_rights)

    def _ask_rights(self) -> None:
        """Whether the account may trade by now."""

        def ended(account: Account | None, _: VenueError | None) -> None:
            self._recheck = None
            if account is not None:
                self.holds(account)
            self._judge()

        self.connection.talks.begin(read_holdings(self.requests), ended)
