"""What a live venue has, against what is known here: open orders, trades, balances; and what was put right.

A run goes through these, for one wallet, each when the one before it is through:

    balances as found      only the very first time: what the account holds then is where everything begins
    marks                  where the trades of a pair begin to be compared (core/portfolio/marks.py)
    open orders            one list of all: ours that nobody knows are adopted, others are listed as external, and each
                           that is open on one side only is asked about (`adoption.py`)
    trades                 of pairs with orders since the last time, or whose balances differ: all since the mark
    balances               the ledger and the venue agree (`core/portfolio/accounts.py`)

Always true here: after its venue has come up no new order of a wallet is taken before a run is through, and after a
start no order that is known here is sent once more before that. A run that finds nothing changes nothing. What is found
is repaired only from what the venue lists as traded, and is in the report.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.comparisons import (
    Compared,
    Difference,
    ExternalOrder,
    Reason,
    Reconciled,
    Surveyor,
    TradePage,
    VenueOrder,
)
from ..model.exact import plain
from ..model.instruments import Instrument
from ..model.messages import (
    BalancesReported,
    OrderFilled,
    VenueFilled,
    VenueStateChanged,
    VenueTookOver,
)
from ..model.records import State
from ..portfolio.accounts import Accounts
from ..portfolio.marks import Marks
from .adoption import Adoption, Inspection
from .differing import active_pairs, by_venue_id, differs
from .external import External
from .manager import OrderManager
from .reports import ArchivedTrades

T = TypeVar("T")

RUNS_KEPT: Final = 50
DIFFERENCES_MAX: Final = 200  # of a run that are listed; of more only the number is told
MARKS_MAX: Final = 50  # pairs whose mark is set before a venue counts as healthy; the others take turns
PAIRS_AT_ONCE: Final = 8  # whose trades are asked for at a time; by the timer it is one
LATE_NS: Final = 2 * SECOND_NS  # a fill that is booked so long after it happened had been missing here
ASKED_MAX: Final = 100  # who may wait for the end of runs at a time; the first of more is told before it

STAGES: Final = ("balances", "trades before", "open orders", "trades", "orders that differ", "balances", "the report")
TRADES: Final = STAGES.index("trades")

Stage = Callable[["_Wallet", "_Run"], None]
TakePage = Callable[["_Wallet", "_Run", str, TradePage], None]


class _Listing(msgspec.Struct):
    """The trades of one pair, while they are asked for."""

    upto: int = 0  # the highest that was listed
    asked_ns: int = 0  # for the last page
    listed: bool = False  # all of them were


class _Run(msgspec.Struct):
    """One comparison, while it lasts."""

    reason: Reason
    started_ns: int
    stage: int = 0
    waits: bool = False  # for an answer, or to ask again
    asked_ns: int = 0  # for the list of open orders
    marks_left: int = MARKS_MAX  # pairs whose mark may still be set at a start
    pairs: list[str] | None = None  # whose trades are still to be compared
    listings: dict[str, _Listing] = {}  # pairs whose trades are being asked for, or compared
    balances_asked: bool = False
    compared: Compared = msgspec.field(default_factory=Compared)
    differences: dict[tuple[str, str], Difference] = {}
    more: int = 0
    left: list[str] = []


class _Wallet(msgspec.Struct):
    """What is known of one live wallet."""

    name: str
    venue: Surveyor
    up: bool = False
    ever: bool = False  # it was up before, in this process
    once: bool = False  # a run was through, in this process
    through: bool = False  # a run was, since the venue came up
    run: _Run | None = None
    again: Reason | None = None  # one more run behind this one
    wanted: list[str] = []  # pairs whose balances differ
    timer: Timer | None = None


def _nothing() -> None:
    """Nobody waits."""


class Reconciliation(Actor):
    """Compares live wallets with their venues: when one comes up, when asked, and every EVERY_NS."""

    EVERY_NS = 300 * SECOND_NS
    AGAIN_NS = 2 * SECOND_NS  # until a question that was not answered is asked again

    def __init__(
        self,
        kernel: Kernel,
        manager: OrderManager,
        accounts: Accounts,
        instruments: Mapping[tuple[str, str], Instrument],
        archived: ArchivedTrades,
    ) -> None:
        super().__init__(kernel)
        self.orders = manager.orders
        self.triggers = manager.triggers
        self.accounts = accounts
        self.instruments = instruments
        self.marks: Marks = accounts.marks
        self.adoption = Adoption(
            kernel,
            manager,
            self.marks,
            archived,
            differs=self._differs,
            over=self._over,
            counted=accounts.take_back,
        )
        self.others = External(
            kernel, self.adoption.contradicted, is_up=lambda name: self._wallets[name].up, look_again=self.look
        )
        self.runs: deque[Reconciled] = deque(maxlen=RUNS_KEPT)  # the newest first
        self._wallets: dict[str, _Wallet] = {}
        self._asked: list[Callable[[], None]] = []
        self.on_settled: Callable[[], None] = _nothing  # every wallet was compared once; set by who waits for that
        accounts.compare_trades, accounts.comparing = self.want_trades, self.comparing
        accounts.on_differs = self._balance_differs
        self._stages: tuple[Stage, ...] = (
            *(self._found, self._mark, self._list_open, self._list_trades, self._inspected, self._agree, self._end),
        )

    def attach(self, wallet: str, venue: Surveyor) -> None:
        self._wallets[wallet] = _Wallet(wallet, venue)
        self.adoption.venues[wallet] = venue
        self.others.attach(wallet, venue)

    def handles(self) -> dict[type, Handler]:
        return {
            VenueStateChanged: self.on_venue,
            VenueTookOver: self.on_took_over,
            BalancesReported: self.on_balances,
            OrderFilled: self.on_filled,
            **self.others.handles(),
        }

    def stop(self) -> None:
        for wallet in self._wallets.values():
            if wallet.timer is not None:
                wallet.timer.cancel()

    # --- what others ask

    def pending(self, name: str) -> str:
        """Why orders of a wallet are not to be sent yet; empty where they are."""
        wallet = self._wallets.get(name)
        if wallet is None or wallet.through or not wallet.up:
            return ""
        stage = wallet.run.stage if wallet.run is not None else 0
        return f"it is being reconciled: {STAGES[stage]}"

    def not_yet(self, order_id: str) -> bool:
        """Whether an order that waits here may have been sent by a process before this one, whose commit was lost."""
        order = self.orders.get(order_id)
        wallet = self._wallets.get(order.wallet) if order is not None else None
        return wallet is not None and not wallet.once

    def refresh(self, done: Callable[[], None]) -> None:
        """Compare with every venue that is up; `done` when that is through, and committed."""
        up = [wallet for wallet in self._wallets.values() if wallet.up]
        if not up:
            self.outbox.effect(done)
            return
        self._asked.append(done)
        if len(self._asked) > ASKED_MAX:
            self.outbox.effect(self._asked.pop(0))
        for wallet in up:
            self.accounts.doubt(wallet.name)
            self.begin(wallet, "asked")

    @property
    def external(self) -> list[ExternalOrder]:
        """Open orders that are not of this service, as last listed."""
        return self.others.listed

    def adopt(self, message: VenueFilled) -> bool:
        """A fill of an order of this node that is not known: whether it is asked about now."""
        wallet = self._wallets.get(message.venue)
        if wallet is None or message.pair is None or (message.venue, message.pair) not in self.instruments:
            return False
        self.adoption.inspect(Inspection(message.venue, message.pair, message.venue_order_id))
        return True

    def unknown_accepted(self, venue: str) -> None:
        """An order of this node that is not known stands at a venue: it is in the list of open orders."""
        wallet = self._wallets.get(venue)
        if wallet is not None and wallet.up:
            self.begin(wallet, "report")

    def look(self, name: str) -> None:
        """Compare a wallet, because somebody asks for it."""
        self._judge(self._wallets[name])
        if self._wallets[name].up:
            self.begin(self._wallets[name], "asked")

    def want_trades(self, name: str, currencies: Collection[str]) -> None:
        """These balances differ: compare the trades that may be why."""
        wallet = self._wallets.get(name)
        if wallet is None:
            return
        for (exchange, pair), instrument in self.instruments.items():
            here = exchange == name and pair not in wallet.wanted and self.marks.get(name, pair) is not None
            if here and (instrument.base in currencies or instrument.quote in currencies):
                wallet.wanted.append(pair)
        if wallet.run is None:
            self.begin(wallet, "balances")
        else:
            self._step(wallet)

    def comparing(self, name: str) -> bool:
        """Whether trades that may be why balances differ are still to be compared."""
        wallet = self._wallets.get(name)
        if wallet is None:
            return False
        return bool(wallet.wanted or self.adoption.under_way(name) or (wallet.run is not None and wallet.run.pairs))

    # --- when

    def on_venue(self, message: VenueStateChanged) -> None:
        wallet = self._wallets.get(message.venue)
        if wallet is None:
            return
        wallet.up, wallet.through = message.up, False
        wallet.run, wallet.again, wallet.wanted = None, None, []
        self.adoption.drop(wallet.name)
        if message.up:
            reason: Reason = "reconnect" if wallet.ever else "start"
            wallet.ever = True
            self.begin(wallet, reason)
        elif wallet.timer is not None:
            wallet.timer.cancel()

    def on_took_over(self, message: VenueTookOver) -> None:
        wallet = self._wallets.get(message.venue)
        if wallet is not None and wallet.up:
            self.begin(wallet, "reconnect")

    def begin(self, wallet: _Wallet, reason: Reason) -> None:
        """Begin a run; behind the one that is under way, if there is one."""
        if wallet.run is not None:
            wallet.again = reason
            return
        wallet.run = _Run(reason, self.clock.now_ns())
        self._step(wallet)

    def _in(self, wallet: _Wallet, delay_ns: int, action: Callable[[_Wallet], None]) -> None:
        if wallet.timer is not None:
            wallet.timer.cancel()
        wallet.timer = self.clock.call_in(delay_ns, self.kernel.run, action, wallet)

    def _due(self, wallet: _Wallet) -> None:
        if wallet.up:
            self.begin(wallet, "timer")

    def _again(self, wallet: _Wallet) -> None:
        if wallet.run is not None:
            wallet.run.waits = False
            self._step(wallet)

    # --- a run

    def _step(self, wallet: _Wallet) -> None:
        """Go on with the present stage."""
        run = wallet.run
        if run is not None and not run.waits and wallet.up:
            self._stages[run.stage](wallet, run)

    def _through(self, wallet: _Wallet, run: _Run) -> None:
        run.stage += 1
        self._step(wallet)

    def _heard(self, wallet: _Wallet, run: _Run, take: Callable[[T], None], answer: T | None) -> None:
        """An answer has come: take it and go on, or ask again later where there is none."""
        if wallet.run is not run:
            return
        if answer is None:
            self._in(wallet, self.AGAIN_NS, self._again)
            return
        run.waits = False
        take(answer)
        self._step(wallet)

    def _answer(self, wallet: _Wallet, run: _Run, take: Callable[[T], None]) -> Callable[[T | None], None]:
        """What a question of a run is answered with; the run waits for it."""
        run.waits = True
        return lambda answer: self.kernel.run(self._heard, wallet, run, take, answer)

    def _found(self, wallet: _Wallet, run: _Run) -> None:
        """The very first time everything begins with what the account holds."""
        if self.accounts.ever_held(wallet.name) or self.accounts.agrees(wallet.name):
            self._through(wallet, run)

    def _mark(self, wallet: _Wallet, run: _Run) -> None:
        """The latest trade of each pair that has no mark: what was before is in the balances as they were found."""
        if run.reason not in ("start", "timer"):
            self._through(wallet, run)
            return
        missing = [p for exchange, p in self.instruments if exchange == wallet.name and not self.marks.get(exchange, p)]
        for pair in self._next(run, missing):
            if run.reason == "timer" and not wallet.venue.room("trades"):
                run.left.append(f"the latest trades of {len(missing)} pairs")
                break
            if run.reason == "start" and not run.marks_left:
                break
            run.marks_left -= 1
            self._ask_trades(wallet, run, pair, None, self._set_mark)
        if not run.listings:
            self._through(wallet, run)

    def _set_mark(self, wallet: _Wallet, run: _Run, pair: str, page: TradePage) -> None:
        del run.listings[pair]
        newest = max((trade.trade_id for trade in page.trades), default=0)
        self.marks.begin(wallet.name, pair, newest, self.clock.now_ns())

    def _next(self, run: _Run, pairs: Collection[str]) -> list[str]:
        """Those of the pairs whose turn it is, a few at a time; by the timer one, so that it can wait for others."""
        at_once = 1 if run.reason == "timer" else PAIRS_AT_ONCE
        return [pair for pair in pairs if pair not in run.listings][: at_once - len(run.listings)]

    def _ask_trades(self, wallet: _Wallet, run: _Run, pair: str, from_id: int | None, take: TakePage) -> None:
        """Ask for a page until it comes, as long as the run lasts."""
        if wallet.run is not run:
            return
        run.listings.setdefault(pair, _Listing()).asked_ns = self.clock.now_ns()

        def heard(page: TradePage | None) -> None:
            if page is None:
                self.clock.call_in(self.AGAIN_NS, self.kernel.run, self._ask_trades, wallet, run, pair, from_id, take)
            elif wallet.run is run:
                take(wallet, run, pair, page)
                self._step(wallet)

        wallet.venue.list_trades(pair, from_id, lambda page: self.kernel.run(heard, page))

    # --- open orders

    def _list_open(self, wallet: _Wallet, run: _Run) -> None:
        if run.reason == "timer" and not wallet.venue.room("open orders"):
            run.left.append("open orders")
            self._through(wallet, run)
            return
        run.asked_ns = self.clock.now_ns()

        def take(listed: Sequence[VenueOrder]) -> None:
            self._compare_open(wallet, run, listed)
            run.stage += 1

        wallet.venue.list_open(self._answer(wallet, run, take))

    def _compare_open(self, wallet: _Wallet, run: _Run, listed: Sequence[VenueOrder]) -> None:
        run.compared.open_orders = len(listed)
        known = by_venue_id(self.orders, wallet.name)
        external, suspects, there = {}, {}, set()
        for theirs in listed:
            key = theirs.pair, theirs.venue_order_id
            there.add(key)
            order = known.get(key) or self.orders.of_venue_client_id(theirs.client_id)
            if order is None and (not theirs.traded_here or self.orders.ids.order_of(theirs.client_id) is None):
                external[key] = theirs
            elif order is None or differs(order, theirs):
                if order is not None:
                    suspects[key] = theirs
                self.adoption.inspect(Inspection(wallet.name, *key, order.order_id if order is not None else ""))
        for order in list(self.orders.open.values()):
            resting = order.state in (State.LIVE, State.PART) and not order.waiting and order.wallet == wallet.name
            if not resting or order.venue_order_id is None or order.updated_ns >= run.asked_ns:
                continue
            if (order.pair, order.venue_order_id) not in there:
                self.adoption.inspect(Inspection(wallet.name, order.pair, order.venue_order_id, order.order_id))
        for over in [k for k in self.adoption.contradicted if k[0] == wallet.name and k[1:] not in there]:
            del self.adoption.contradicted[over]
        for number, there_is in self.others.found(wallet.name, external, suspects, run.asked_ns).items():
            difference = Difference("external", number, "not ours", there_is, "none: it is left alone")
            self._differs(wallet.name, difference)

    # --- trades

    def _list_trades(self, wallet: _Wallet, run: _Run) -> None:
        if run.pairs is None:
            run.pairs = active_pairs(self.orders, self.marks, wallet.name)
        run.pairs += [pair for pair in wallet.wanted if pair not in run.pairs]
        for pair, listing in list(run.listings.items()):
            if listing.listed and not self.adoption.under_way(wallet.name, pair):
                self._compared(wallet, run, pair)
        for pair in self._next(run, run.pairs):
            if run.reason == "timer" and pair not in wallet.wanted and not wallet.venue.room("trades"):
                run.left += [pair for pair in run.pairs if pair not in wallet.wanted]
                run.pairs = [pair for pair in run.pairs if pair in wallet.wanted]
                self._step(wallet)
                return
            mark = self.marks.get(wallet.name, pair)
            assert mark is not None, f"{pair} has a mark"
            self._ask_trades(wallet, run, pair, mark.upto + 1, self._compare_trades)
        if not run.pairs:
            self._through(wallet, run)

    def _compared(self, wallet: _Wallet, run: _Run, pair: str) -> None:
        """All trades of a pair were, and what was missing is booked."""
        assert run.pairs is not None
        listing = run.listings.pop(pair)
        self.marks.advance(wallet.name, pair, listing.upto, listing.asked_ns)
        run.pairs.remove(pair)
        if pair in wallet.wanted:
            wallet.wanted.remove(pair)

    def _compare_trades(self, wallet: _Wallet, run: _Run, pair: str, page: TradePage) -> None:
        listing, trades = run.listings[pair], page.trades
        run.compared.trades += len(trades)
        listing.upto = max((trade.trade_id for trade in trades), default=listing.upto)
        listing.listed = page.last
        if not page.last:
            self._ask_trades(wallet, run, pair, listing.upto + 1, self._compare_trades)
        known = by_venue_id(self.orders, wallet.name, pair)
        missing: dict[str, Inspection] = {}
        for trade in trades:
            order, trade_id = known.get((pair, trade.venue_order_id)), str(trade.trade_id)
            if order is not None:
                booked = self.orders.has_trade(order.order_id, trade_id)
            else:
                booked = self.marks.booked(wallet.name, pair, trade_id, trade.side)
            if not booked:
                order_id = order.order_id if order is not None else ""
                found = Inspection(wallet.name, pair, trade.venue_order_id, order_id)
                missing.setdefault(trade.venue_order_id, found).trades.append(trade)
        for inspection in missing.values():
            self.adoption.inspect(inspection)

    # --- the end

    def _inspected(self, wallet: _Wallet, run: _Run) -> None:
        if not self.adoption.under_way(wallet.name):
            self._through(wallet, run)

    def _over(self, name: str) -> None:
        """An order has been dealt with."""
        self._judge(self._wallets[name])
        self._step(self._wallets[name])

    def _agree(self, wallet: _Wallet, run: _Run) -> None:
        if not run.balances_asked:
            run.balances_asked = True
            self.accounts.compare(wallet.name)
        elif wallet.wanted:
            run.stage = TRADES
            self._step(wallet)
        elif self.accounts.agrees(wallet.name):
            self._through(wallet, run)

    def on_balances(self, message: BalancesReported) -> None:
        """The accounts have compared them already."""
        wallet = self._wallets.get(message.venue)
        if wallet is None:
            return
        if wallet.run is not None:
            wallet.run.compared.currencies = len(message.balances)
        self.adoption.fund()
        self._judge(wallet)
        self._step(wallet)

    def _end(self, wallet: _Wallet, run: _Run) -> None:
        self.adoption.fund()
        first = not wallet.once
        wallet.run, wallet.through, wallet.once = None, True, True
        still = self._open(wallet)
        report = Reconciled(
            venue=wallet.name,
            reason=run.reason,
            started=run.started_ns // MS_NS,
            ended=self.clock.now_ns() // MS_NS,
            compared=run.compared,
            differences=list(run.differences.values()),
            more=run.more,
            left=run.left,
            open=still,
            settled=not still,
        )
        self.runs.appendleft(report)
        self.outbox.event("health", "Reconciled", report)
        if first:
            self.triggers.release()
            if all(other.once for other in self._wallets.values()):
                self.on_settled()
        self._judge(wallet)
        self._in(wallet, self.EVERY_NS, self._due)
        if wallet.again is not None:
            reason, wallet.again = wallet.again, None
            self.begin(wallet, reason)
        if not any(other.run is not None for other in self._wallets.values()):
            asked, self._asked = self._asked, []
            for done in asked:
                self.outbox.effect(done)

    # --- what is told

    def _differs(self, name: str, difference: Difference) -> None:
        """Into the report of the run; what differs between two runs is in that of a run of its own."""
        wallet = self._wallets[name]
        if wallet.run is None:
            self.begin(wallet, "report")
        run = wallet.run
        if run is None:
            return
        key = difference.kind, difference.subject
        if key in run.differences or len(run.differences) < DIFFERENCES_MAX:
            run.differences[key] = difference
        else:
            run.more += 1

    def _balance_differs(self, name: str, currency: str, here: str, there: str) -> None:
        """The ledger is made to agree with the venue."""
        self._differs(name, Difference("balance", currency, here, there, "the ledger was corrected"))

    def on_filled(self, message: OrderFilled) -> None:
        fill = message.fill
        wallet = self._wallets.get(fill.wallet)
        if wallet is None:
            return
        if fill.trade_id.isdecimal():
            self.marks.begin(fill.wallet, fill.pair, int(fill.trade_id) - 1)
        late = self.clock.now_ns() - fill.timestamp_ns > LATE_NS
        key = "missing_fill", fill.order_id
        if wallet.run is not None and late and key not in wallet.run.differences:
            there = f"trade {fill.trade_id} of {plain(fill.quantity)} at {plain(fill.price)}"
            repair = "its fills were booked from the venue's trades"
            self._differs(fill.wallet, Difference("missing_fill", fill.order_id, "not known", there, repair))

    def _open(self, wallet: _Wallet) -> list[str]:
        """What is not repaired, in words."""
        found = [detail for key, detail in self.adoption.contradicted.items() if key[0] == wallet.name]
        asked = self.adoption.under_way(wallet.name)
        if asked:
            found.append(f"{asked} orders are asked about")
        differing = self.accounts.differing(wallet.name)
        if differing:
            found.append(f"balances differ: {', '.join(differing)}")
        return found

    def _judge(self, wallet: _Wallet) -> None:
        still = self._open(wallet)
        if still:
            self.kernel.conditions.begin("reconciliation_differs", "; ".join(still[:3]), wallet.name)
        else:
            self.kernel.conditions.end("reconciliation_differs", wallet.name)
