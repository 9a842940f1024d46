"""Signals: trading decisions that come in, and what becomes of each.

    ExecuteSignal -> timely? consistent? -> BUY: sized, one bracket     SELL, CLOSE: sold, what is held     HOLD: noted
                                         -> signal, orders and event in one commit -> Signalled | Refusal

Always true here: a signal with an id of the caller's is carried out once, however often it comes; it and its orders are
in one commit, and it is answered after that. A refusal that would be the same again (422) is on record; one that says
"not now" (429, 503, ...) leaves nothing behind, so that the same signal can come again.

The order of a signal with an id is named after it (`order_name`): a signal that has left memory does not become a
second order as long as its order is known, in memory or in the archive.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from ..core.kernel.actor import Actor
from ..core.kernel.bus import Handler
from ..core.kernel.clock import MS_NS
from ..core.kernel.kernel import Kernel
from ..core.model.exact import ZERO, tidy
from ..core.model.ids import id_key
from ..core.model.messages import ClosePosition, ExecuteSignal, Refusal, Signalled, Submitted
from ..core.model.records import Order, Position, Signal, SignalStatus, Sizing
from ..core.orders.manager import OrderManager
from ..core.portfolio.manager import PortfolioManager
from ..core.risk.order_rate import OrderRate
from .signal_entries import Entries, Entry, data_of, not_traded, order_of
from .signal_records import contradiction, order_name, recorded, refusal_of, signal_of_order, signal_update, untimely

KEPT_MAX: Final = 10_000  # signals in memory and in the table; older ones leave both
PENDING_MAX: Final = 1_000  # signals whose orders wait for the risk service or for a venue; more are refused

KINDS: Final[dict[SignalStatus, str]] = {
    "executed": "SignalExecuted",
    "held": "SignalHeld",
    "rejected": "SignalRejected",
}

Owned = Callable[[str, str, str], Decimal]  # (strategy, wallet, pair): the coins that are a strategy's


class _Pending:
    """A signal whose orders are not all decided."""

    __slots__ = ("asked", "entry", "outcomes", "signal", "waits", "withdrawn")

    def __init__(self, asked: ExecuteSignal, signal: Signal, parts: int, entry: Entry | None = None) -> None:
        self.asked = asked
        self.signal = signal
        self.entry = entry
        self.outcomes: list[Order | Refusal | None] = [None] * parts
        self.waits = False  # for the risk service
        self.withdrawn = ""  # why it is not to buy any more, when the service has answered


class _Waits(msgspec.Struct, frozen=True):
    """Comes behind the order of a signal: what is not decided by then waits for the risk service."""

    pending: _Pending


class Signals(Actor):
    """Carries signals out, and keeps the last of them."""

    def __init__(
        self,
        kernel: Kernel,
        manager: OrderManager,
        portfolio: PortfolioManager,
        entries: Entries,
        *,
        owned: Owned,
        max_age_ns: int,
        rate_limit: int = 0,
    ) -> None:
        """`max_age_ns`: after a signal's own timestamp; `rate_limit`: signals a second of one strategy, and of all
        without one together; 0 for no bound."""
        super().__init__(kernel)
        self.manager = manager
        self.orders = manager.orders
        self.portfolio = portfolio
        self.entries = entries
        self.owned = owned
        self.max_age_ns = max_age_ns
        self.rate = OrderRate(rate_limit)  # a share of its own: what is refused before it is an order counts too
        self.signals: dict[str, Signal] = {}  # by our id, oldest first
        self._by_client: dict[str, str] = {}
        self._uncommitted: set[str] = set()
        self._pending: dict[str, _Pending] = {}  # by our id
        self._pending_client: dict[str, str] = {}  # by the caller's id: the fingerprint

    def handles(self) -> dict[type, Handler]:
        return {ExecuteSignal: self.execute, _Waits: self._note_waiting}

    def restore(self, signals: Iterable[Signal]) -> None:
        """Take what was loaded, in any order."""
        for signal in sorted(signals, key=lambda s: id_key(s.signal_id)):
            self._index(signal)

    def records(self) -> Iterator[tuple[str, Signal]]:
        """Every signal that is kept, with its key in the table."""
        return iter(self.signals.items())

    # --- reading

    def find(self, signal_id: str) -> Signal | None:
        """By our id or the caller's."""
        return self.signals.get(signal_id) or self.signals.get(self._by_client.get(signal_id, ""))

    def under_way(self, client_signal_id: str) -> bool:
        """Whether the orders of a signal with this id of the caller's are not decided yet."""
        return client_signal_id in self._pending_client

    def orders_of(self, signal: Signal) -> tuple[Order, ...]:
        """Its orders that are in memory, the entry first, as they are now."""
        found = (self.orders.get(order_id) for order_id in signal.order_ids)
        return tuple(order for order in found if order is not None)

    # --- carrying out

    def execute(self, asked: ExecuteSignal) -> None:
        now_ns = self.clock.now_ns()
        known = self._repeat(asked) or self._not_now(asked, now_ns)
        if known is not None:
            asked.reply(known)
            return
        signal = self._new(asked, now_ns)
        wrong = untimely(asked, now_ns, self.max_age_ns) or not_traded(self.manager.engine, asked)
        if wrong is None and asked.action != "HOLD":
            wrong = contradiction(asked)
        if wrong is not None:
            self._refuse(signal, asked, wrong)
        elif asked.action == "HOLD":
            signal.status = "held"
            self._keep(signal)
            self.outbox.effect(asked.reply, Signalled(copy(signal)))
        elif asked.action == "BUY":
            self._buy(signal, asked, now_ns)
        else:
            self._sell(signal, asked)

    def _not_now(self, asked: ExecuteSignal, now_ns: int) -> Refusal | None:
        """Why no signal is taken at this moment; nothing of it goes on record."""
        if not self.kernel.store_up:
            detail = f"signals cannot be made durable now: {self.kernel.store_why}"
            return Refusal(code="STORE_UNAVAILABLE", detail=detail, status=503, retry_after_s=1)
        if len(self._pending) >= PENDING_MAX:
            detail = f"{PENDING_MAX} signals wait for the word of the risk service or of an exchange already"
            return Refusal(code="TOO_MANY_SIGNALS", detail=detail, status=429, retry_after_s=1)
        wait_ns = self.rate.take(asked.strategy or "", now_ns)
        if not wait_ns:
            return None
        who = f"strategy {asked.strategy!r}" if asked.strategy else "signals without a strategy"
        detail = (
            f"{who}: {self.rate.limit} signals a second are allowed (ORDER_RATE_LIMIT); "
            f"try again in {wait_ns // MS_NS + 1} ms"
        )
        return Refusal(code="ORDER_RATE", detail=detail, status=429, retry_after_s=1)

    def _repeat(self, asked: ExecuteSignal) -> Signalled | Refusal | None:
        """The answer to a signal whose id was used before."""
        name = asked.client_signal_id
        if name is None:
            return None
        signal, order = self.signals.get(self._by_client.get(name, "")), self.orders.by_client_id(order_name(name))
        known = signal.fingerprint if signal is not None else order.fingerprint if order is not None else None
        known = self._pending_client.get(name, known)
        if known is None:
            return None
        if known != asked.fingerprint:
            detail = f"{name!r} was used for another signal; use a new id for a new signal"
            return Refusal(code="IDEMPOTENCY_MISMATCH", detail=detail)
        if name in self._pending_client or (signal is not None and signal.signal_id in self._uncommitted):
            detail = f"the first signal with {name!r} is still in progress"
            return Refusal(code="IDEMPOTENCY_IN_PROGRESS", detail=detail, status=409, retry_after_s=1)
        if signal is None:
            assert order is not None, "else nothing is known"
            signal = signal_of_order(asked, order)
        orders = self.orders_of(signal)
        if signal.status == "rejected":
            return refusal_of(signal, orders[0] if orders else None)
        return Signalled(signal, orders, True)

    def _new(self, asked: ExecuteSignal, now_ns: int) -> Signal:
        return recorded(asked, self.manager.ids.signal(now_ns), now_ns)

    def _begin(self, pending: _Pending) -> None:
        self._pending[pending.signal.signal_id] = pending
        if pending.asked.client_signal_id is not None:
            self._pending_client[pending.asked.client_signal_id] = pending.asked.fingerprint

    # --- buying

    def _buy(self, signal: Signal, asked: ExecuteSignal, now_ns: int) -> None:
        entry = self.entries.of(asked, now_ns)
        if isinstance(entry, Refusal):
            self._refuse(signal, asked, entry)
            return
        signal.exchange, signal.warnings = entry.instrument.exchange, entry.warnings
        pending = _Pending(asked, signal, 1, entry)
        self._begin(pending)
        name = asked.client_signal_id
        self.bus.publish(
            order_of(
                asked,
                entry,
                entry.instrument.exchange,
                reply=partial(self._answered, pending, 0),
                on_decided=partial(self._decided, pending, 0),
                refit=partial(self._refit, pending),
                signal_id=signal.signal_id,
                client_order_id=None if name is None else order_name(name),
                fingerprint=asked.fingerprint if name is not None else "",
            )
        )
        self.bus.publish(_Waits(pending))

    @staticmethod
    def _note_waiting(message: _Waits) -> None:
        message.pending.waits = True

    def _refit(self, pending: _Pending) -> Decimal:
        """The size as it is after a wait: a market that has moved, or less equity, would have the order refused."""
        entry = pending.entry
        assert entry is not None, "only a sized order is fitted again"
        if pending.withdrawn:
            return ZERO
        asked = msgspec.structs.replace(
            pending.asked, stop_loss=entry.given.stop, exchange=entry.instrument.exchange, entry_price=None
        )
        again = self.entries.of(asked, self.clock.now_ns())
        if not isinstance(again, Refusal) and again.sized.quantity < entry.sized.quantity:
            pending.entry = entry = again
        return entry.sized.quantity

    # --- selling

    def _sell(self, signal: Signal, asked: ExecuteSignal) -> None:
        """Sell what is held of the pair; first, buys of it that are open or still wait are taken back."""
        if asked.action == "SELL" and (asked.stop_loss is not None or asked.take_profit is not None):
            signal.warnings = ("stopLoss and takeProfit were not used: a spot sale opens no position to protect",)
        shares = list(self._shares(asked))
        cancelled = self._cancel_entries(asked)
        if cancelled:
            signal.warnings += (f"open buys were cancelled: {', '.join(cancelled)}",)
        withdrawn = self._withdraw(asked)
        if withdrawn:
            signal.warnings += (f"signals that were not orders yet were taken back: {', '.join(withdrawn)}",)
        if not shares:
            if cancelled or withdrawn:
                self._conclude(_Pending(asked, signal, 0))
                return
            whose = f" of strategy {asked.strategy!r}" if asked.strategy is not None else ""
            where = f" at {asked.exchange}" if asked.exchange is not None else ""
            detail = f"there is nothing{whose} to sell of {asked.pair}{where}; a sale cannot open a position on spot"
            self._refuse(signal, asked, Refusal(code="NOTHING_TO_SELL", detail=detail))
            return
        if len(shares) == 1:
            signal.exchange = shares[0][0].exchange
        pending = _Pending(asked, signal, len(shares))
        self._begin(pending)
        name = asked.client_signal_id
        for part, (position, quantity) in enumerate(shares):
            self.bus.publish(
                ClosePosition(
                    position_id=position.position_id,
                    quantity=quantity,
                    reply=partial(self._answered, pending, part),
                    on_decided=partial(self._decided, pending, part),
                    signal_data=data_of(asked),
                    signal_id=signal.signal_id,
                    client_order_id=None if name is None else order_name(name, position.exchange if part else ""),
                    fingerprint=asked.fingerprint if name is not None else "",
                )
            )

    def _shares(self, asked: ExecuteSignal) -> Iterator[tuple[Position, Decimal | None]]:
        """Positions that are sold of, and how much of each; None: all of it. What no exchange lists now is left."""
        engine = self.manager.engine
        paper = engine.limits.paper or asked.paper is True
        held = sorted(self.portfolio.open_positions(paper), key=lambda position: position.exchange)
        for position in held:
            if position.pair != asked.pair or asked.exchange not in (None, position.exchange):
                continue
            instrument = engine.instruments.get((position.exchange, position.pair))
            if instrument is None:
                continue
            if asked.strategy is None:
                yield position, None
                continue
            own = self.owned(asked.strategy, position.wallet, position.pair)
            if own >= position.quantity:
                yield position, None
            elif own > 0:
                lots = instrument.floor_lots(own)
                if lots:
                    yield position, instrument.quantity(lots)

    def _cancel_entries(self, asked: ExecuteSignal) -> list[str]:
        """Take back the open buys of what is to be sold; returns their ids."""
        paper = self.manager.engine.limits.paper or asked.paper is True
        found = [
            order
            for order in self.orders.open.values()
            if order.role == "entry"
            and order.side == "buy"
            and order.pair == asked.pair
            and order.paper == paper
            and asked.exchange in (None, order.exchange)
            and asked.strategy in (None, order.signal_data.strategy if order.signal_data is not None else None)
        ]
        for order in found:
            self.manager.request_cancel(order, f"a signal to {asked.action.lower()}")
        return [order.order_id for order in found]

    def _withdraw(self, asked: ExecuteSignal) -> list[str]:
        """Let buys of the pair that wait for the risk service become no orders; returns their signals' ids."""
        all_paper = self.manager.engine.limits.paper
        found = []
        for signal_id, pending in self._pending.items():
            buy, entry = pending.asked, pending.entry
            if (
                entry is not None
                and pending.waits
                and buy.pair == asked.pair
                and asked.exchange in (None, entry.instrument.exchange)
                and asked.strategy in (None, buy.strategy)
                and (all_paper or (buy.paper is True) == (asked.paper is True))
            ):
                pending.withdrawn = f"a signal to {asked.action.lower()} came while it waited for the risk service"
                found.append(signal_id)
        return found

    # --- what became of it

    def _decided(self, pending: _Pending, part: int, outcome: Order | Refusal) -> None:
        """One of its orders is on record, or is refused: within the input that did so."""
        if pending.outcomes[part] is not None:
            return
        pending.outcomes[part] = outcome
        if None not in pending.outcomes:
            self._conclude(pending)
        elif isinstance(outcome, Order):  # the others wait for a venue; what is sold already is in the signal's record
            self._take_in(pending)
            self._put(pending.signal)

    def _answered(self, pending: _Pending, part: int, outcome: Submitted | Refusal) -> None:
        """The reply to one of its orders, which was decided before as a rule; not where it was refused on the way."""
        if pending.outcomes[part] is None:
            decided = outcome.order if isinstance(outcome, Submitted) else outcome
            self.kernel.run(self._decided, pending, part, decided)

    def _take_in(self, pending: _Pending) -> None:
        """Note the orders in the signal."""
        signal, ids = pending.signal, []
        for outcome in pending.outcomes:
            order = outcome.order if isinstance(outcome, Refusal) else outcome
            if order is not None and order.signal_id == signal.signal_id:
                ids += [o for o in (order.order_id, order.stop_loss_id, order.take_profit_id) if o is not None]
        signal.order_ids = tuple(ids)
        taken = [order for order in pending.outcomes if isinstance(order, Order)]
        if pending.entry is not None:
            signal.sizing = pending.entry.sizing(taken[0] if taken else None)
        elif taken:
            signal.sizing = self._sold(taken)
        if taken or not pending.outcomes:
            signal.status = "executed"

    def _sold(self, taken: list[Order]) -> Sizing:
        quantity = tidy(sum((order.qty_lots * order.lot for order in taken), ZERO))
        return Sizing(
            recommended_size=quantity,
            raw_size=quantity,
            risk_amount=ZERO,
            risk_percent=ZERO,
            method="position",
            equity=self.portfolio.equity(taken[0].paper),
            entry_price=taken[0].arrival_mid or ZERO,
        )

    def _conclude(self, pending: _Pending) -> None:
        """All of its orders are decided."""
        signal, asked = pending.signal, pending.asked
        self._pending.pop(signal.signal_id, None)
        self._pending_client.pop(asked.client_signal_id or "", None)
        self._take_in(pending)
        refusals = [outcome for outcome in pending.outcomes if isinstance(outcome, Refusal)]
        if signal.status != "executed":
            withdrawn = pending.withdrawn and refusals[0].status == 422
            why = Refusal(code="SIGNAL_WITHDRAWN", detail=pending.withdrawn) if withdrawn else refusals[0]
            self._refuse(signal, asked, why)
            return
        signal.warnings += tuple(f"not everything was sold: {refusal.detail}" for refusal in refusals)
        self._keep(signal)
        # Copies: until this is committed and told they may have gone on, and a crash would take that back.
        orders = tuple(copy(order) for order in self.orders_of(signal))
        self.outbox.effect(asked.reply, Signalled(copy(signal), orders))

    def _refuse(self, signal: Signal, asked: ExecuteSignal, refusal: Refusal) -> None:
        """Put it on record as rejected, unless it may pass another time."""
        if refusal.status != 422:
            asked.reply(refusal)
            return
        signal.status, signal.code, signal.reason = "rejected", refusal.code, refusal.detail
        self._keep(signal)
        self.outbox.effect(asked.reply, msgspec.structs.replace(refusal, signal_id=signal.signal_id))

    # --- on record

    def _keep(self, signal: Signal) -> None:
        self._put(signal)
        self.outbox.event("signals", KINDS[signal.status], signal_update(signal))

    def _put(self, signal: Signal) -> None:
        signal.updated_ns = self.clock.now_ns()
        new = signal.signal_id not in self.signals
        self._index(signal)
        if new:
            self._before_younger(signal)
        outbox, ids = self.outbox, self.manager.ids
        outbox.put("signals", signal.signal_id, signal)
        if ids.dirty:
            ids.dirty = False
            outbox.put("meta", "ids", ids.counters)
        self._uncommitted.add(signal.signal_id)
        outbox.effect(self._uncommitted.discard, signal.signal_id)
        while len(self.signals) > KEPT_MAX:
            oldest = self.signals.pop(next(iter(self.signals)))
            if self._by_client.get(oldest.client_signal_id or "") == oldest.signal_id:
                del self._by_client[oldest.client_signal_id or ""]
            outbox.delete("signals", oldest.signal_id)

    def _before_younger(self, signal: Signal) -> None:
        """One that waited takes its place among those that were kept meanwhile: lists are cut into pages by id, and no
        signal leaves before an older one."""
        rank, younger = id_key(signal.signal_id), []
        for name in islice(reversed(self.signals), 1, None):
            if id_key(name) < rank:
                break
            younger.append(name)
        for name in reversed(younger):
            self.signals[name] = self.signals.pop(name)

    def _index(self, signal: Signal) -> None:
        self.signals[signal.signal_id] = signal
        if signal.client_signal_id is not None:
            self._by_client[signal.client_signal_id] = signal.signal_id
