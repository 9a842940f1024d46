"""What a live venue says our account holds, against the ledger.

Theory of operation. The ledger follows the account by what moves it: our fills, other people's trades on the account
(`ForeignFilled`), deposits and withdrawals (`BalanceMoved`). When the venue has come up and every order's outcome is
known, and every CHECK_NS after that, the venue is asked for its balances. Where they differ, a report may still be on
its way or lost: every open order is asked about; where the same difference shows again without a fill in between, the
trades that may be why are compared (`core/orders/reconciliation.py`), and only what is left of it after that corrects
the ledger. A correction is a flow, like a deposit: it earns nothing, and it is told in the journal, the feed and the
log.

Always true here: no order of a live wallet can be sent before its balances were compared once since the venue came up.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Protocol

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.exact import ZERO, plain
from ..model.instruments import Instrument
from ..model.messages import BalanceMoved, BalancesReported, ForeignFilled, OrderFilled, VenueFilled, VenueStateChanged
from ..model.records import Side
from .manager import PortfolioManager
from .marks import Marks

AS_FOUND = "the account as it was found"
RECENT_MAX = 10_000  # trades and moves remembered, to tell one that is reported twice


class AccountVenue(Protocol):
    """The part of a live venue that accounts ask."""

    def report_balances(self) -> None:
        """Answers BalancesReported, or nothing where the venue cannot be asked."""
        ...


class BalanceCorrected(msgspec.Struct, frozen=True, rename="camel"):
    """The event of the portfolio channel: the ledger was made to agree with the venue."""

    exchange: str
    currency: str
    change: Decimal
    total: Decimal  # as the venue says
    reason: str


class Account:
    """What is known of one live wallet. Attributes are for one connection of its venue."""

    def __init__(self) -> None:
        self.up = False
        self.compared = False
        self.fills = 0  # fills and moves booked, so that a report from before one is told apart
        self.fills_then = 0  # at the last report
        self.differences: dict[str, Decimal] = {}  # at the last report
        self.searched: dict[str, Decimal] = {}  # the differences for which trades were compared
        self.asked = False  # somebody waits for a comparison from now on
        self.corrected = False  # since the last comparison that agreed: a late report of the same may still come


class Accounts(Actor):
    """Keeps the ledger of live wallets true to their venues.

    `settled(wallet)`: the outcome of every order there is known. `doubt(wallet)` asks about all of them.
    """

    LOOK_NS = 1 * SECOND_NS  # while a wallet has not been compared, or differed, or somebody waits
    CHECK_NS = 60 * SECOND_NS

    def __init__(
        self,
        kernel: Kernel,
        portfolio: PortfolioManager,
        instruments: Mapping[tuple[str, str], Instrument],
        settled: Callable[[str], bool],
        doubt: Callable[[str], None],
    ) -> None:
        super().__init__(kernel)
        self.portfolio = portfolio
        self.instruments = instruments
        self.settled = settled
        self.doubt = doubt
        self.venues: dict[str, AccountVenue] = {}
        self._accounts: dict[str, Account] = {}
        self._recent: deque[tuple[object, ...]] = deque()
        self._known: set[tuple[object, ...]] = set()
        self.marks = Marks(kernel.outbox)
        # Set by who compares trades: begin that for the currencies of a wallet; whether it is still under way; hear of
        # a correction (wallet, currency, here, there).
        self.compare_trades: Callable[[str, Collection[str]], None] = _compare_none
        self.comparing: Callable[[str], bool] = lambda _: False
        self.on_differs: Callable[[str, str, str, str], None] = lambda *_: None
        self._timer: Timer | None = None

    def attach(self, wallet: str, venue: AccountVenue) -> None:
        self.venues[wallet] = venue
        self._accounts[wallet] = Account()

    def pending(self, wallet: str) -> str:
        """Why the wallet's balances are not to be relied on; empty where they are."""
        account = self._accounts.get(wallet)
        if account is None or account.compared:
            return ""
        return "its orders and balances are being reconciled" if account.up else "it is not connected"

    def compare(self, wallet: str) -> None:
        """Compare a wallet's balances now; `agrees` is false until that is through."""
        account = self._accounts.get(wallet)
        if account is not None and account.up:
            account.asked = True
            self._look_in(0)

    def agrees(self, wallet: str) -> bool:
        """Whether the ledger was the same as the venue's balances when they were last compared."""
        account = self._accounts[wallet]
        return account.compared and not account.differences and not account.asked

    def differing(self, wallet: str) -> list[str]:
        """The currencies whose balances differ, and not only because a report was still on its way."""
        return sorted(self._accounts[wallet].searched)

    def handles(self) -> dict[type, Handler]:
        return {
            VenueStateChanged: self.on_venue,
            OrderFilled: self.on_filled,
            ForeignFilled: self.on_foreign,
            BalanceMoved: self.on_moved,
            BalancesReported: self.on_balances,
        }

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- when to ask

    def on_venue(self, message: VenueStateChanged) -> None:
        account = self._accounts.get(message.venue)
        if account is None:
            return
        account.up = message.up
        if message.up:
            account.compared, account.differences, account.searched = False, {}, {}
            self._look_in(0)

    def _look_in(self, delay_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.clock.call_in(delay_ns, self.kernel.run, self._look)

    def _look(self) -> None:
        waits = False
        for wallet, account in self._accounts.items():
            if account.up and self.settled(wallet):
                self.venues[wallet].report_balances()
            waits |= account.up and (not account.compared or bool(account.differences or account.asked))
        self._look_in(self.LOOK_NS if waits else self.CHECK_NS)

    # --- what moves an account besides our orders

    def on_filled(self, message: OrderFilled) -> None:
        account = self._accounts.get(message.fill.wallet)
        if account is not None:
            account.fills += 1

    def on_foreign(self, message: ForeignFilled) -> None:
        instrument = self.instruments.get((message.venue, message.pair))
        key = message.venue, message.pair, message.trade_id, message.side
        if instrument is None or self.marks.booked(*key) or not self._first("trade", *key):
            return
        if self._book(message.venue, _moves(instrument, message.side, message)):
            self.marks.note_foreign(*key)

    def take_back(self, wallet: str, message: VenueFilled) -> None:
        """A fill of ours was booked whose money the ledger had already: as it was found, or as somebody else's."""
        assert message.pair is not None, "the venue lists what it was a trade of"
        assert message.side is not None, "and on which side"
        moves = _moves(self.instruments[wallet, message.pair], message.side, message)
        self._book(wallet, {currency: -change for currency, change in moves.items()})

    def on_moved(self, message: BalanceMoved) -> None:
        if self._first("move", message.venue, message.currency, message.change, message.timestamp_ns):
            self._book(message.venue, {message.currency: message.change})

    def _first(self, *key: object) -> bool:
        """Whether this is not a repeat: two connections overlap while one takes over from the other."""
        if key in self._known:
            return False
        self._known.add(key)
        self._recent.append(key)
        if len(self._recent) > RECENT_MAX:
            self._known.discard(self._recent.popleft())
        return True

    def _book(self, wallet: str, moves: Mapping[str, Decimal]) -> bool:
        account = self._accounts.get(wallet)
        if account is None or not self.ever_held(wallet):
            return False  # the first comparison brings all of it
        account.fills += 1
        if account.corrected:
            self._look_in(self.LOOK_NS)
        for currency, change in moves.items():
            if change:
                self.portfolio.flow(wallet, currency, change)
        return True

    def ever_held(self, wallet: str) -> bool:
        """Whether its balances were ever taken over from the venue."""
        return any(balance.wallet == wallet for balance in self.portfolio.ledger)

    # --- what the venue says it all is

    def on_balances(self, message: BalancesReported) -> None:
        account = self._accounts.get(message.venue)
        if account is None or not self.settled(message.venue):
            return
        differences = self._differences(message)
        first = not self.ever_held(message.venue)
        again = differences == account.differences and account.fills == account.fills_then
        account.differences, account.fills_then = differences, account.fills
        if not differences:
            account.compared, account.corrected = True, False
        elif first or (again and account.searched == differences and not self.comparing(message.venue)):
            reason = AS_FOUND if first else "the venue's balance differs from what was reported"
            self._correct(message.venue, differences, reason)
            account.differences, account.compared, account.corrected = {}, True, not first
        elif not again:
            self.doubt(message.venue)
        elif account.searched != differences:
            account.searched = differences
            self.compare_trades(message.venue, differences.keys())
        if not account.compared or account.differences:
            self._look_in(self.LOOK_NS)
        else:
            account.asked, account.searched = False, {}

    def _correct(self, wallet: str, differences: Mapping[str, Decimal], reason: str) -> None:
        for currency, change in differences.items():
            here = self.portfolio.ledger.total(wallet, currency)
            self.portfolio.flow(wallet, currency, change)
            total = self.portfolio.ledger.total(wallet, currency)
            corrected = BalanceCorrected(wallet, currency, change, total, reason)
            self.outbox.event("portfolio", "BalanceCorrected", corrected)
            if reason is not AS_FOUND:
                self.on_differs(wallet, currency, plain(here), plain(total))

    def _differences(self, message: BalancesReported) -> dict[str, Decimal]:
        ours = {b.currency: b.total for b in self.portfolio.ledger if b.wallet == message.venue}
        theirs = {currency: free + locked for currency, (free, locked) in message.balances.items()}
        names = sorted(ours.keys() | theirs.keys())
        changes = ((name, theirs.get(name, ZERO) - ours.get(name, ZERO)) for name in names)
        return {name: change for name, change in changes if change}


def _compare_none(_wallet: str, _currencies: Collection[str]) -> None:
    """Nobody compares trades: what differs is corrected."""


def _moves(instrument: Instrument, side: Side, trade: ForeignFilled | VenueFilled) -> dict[str, Decimal]:
    """What a trade has moved, by currency."""
    cost = instrument.amount(trade.price_ticks * trade.qty_lots)
    quantity = instrument.quantity(trade.qty_lots)
    buy = side == "buy"
    moves = {instrument.quote: -cost if buy else cost}
    moves[instrument.base] = moves.get(instrument.base, ZERO) + (quantity if buy else -quantity)
    moves[trade.fee_currency] = moves.get(trade.fee_currency, ZERO) - trade.fee
    return moves
