"""FLATTEN: cancels and sells everything in a scope, and goes on until nothing is left.

Theory of operation. While a limit says FLATTEN, every order of its scope that is neither an exit nor a closing sale is
cancelled, and each position there is sold by `ClosePosition`, which takes exits at a venue back first; exits here
shrink with the sale. What fails (a thin book, an exchange that is away) is tried again after a second, for as long as
it takes. When no order is open in the scope and nothing is held that an exchange would take, the limit becomes HALTED.

Always true here: what is sold is held, and nothing of anybody else's: a strategy's scope sells what its sub-ledger
holds; exits leave only when what they protect is gone. The limit is on record, so a restart goes on where this was.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS, SECOND_NS, Timer
from ..kernel.kernel import Kernel
from ..model.exact import ZERO, plain
from ..model.messages import ClosePosition, LimitChanged, OrderEnded, Refusal
from ..model.records import Order, Position, SignalData, State, TradingLimit, strategy_of
from ..orders.manager import OrderManager
from ..portfolio.manager import PortfolioManager
from ..portfolio.valuation import is_paper
from .guard import Guard, TradingState

LOOK_NS: Final = 250 * MS_NS
SOON_NS: Final = 10 * MS_NS  # until the look that the end of an order brings: a look goes over all open orders
AGAIN_NS: Final = 1 * SECOND_NS  # between two sales of one position
SALES_MAX: Final = 10  # that one look begins, the next one follows soon: a thousand at once would hold up the loop
DUST: Final = frozenset(("BELOW_MIN_QUANTITY", "BELOW_MIN_NOTIONAL"))  # less than its exchange takes: counts as sold
REASONS_MAX: Final = 20

Place = tuple[str, str]  # wallet, pair


class FlattenDue(msgspec.Struct, frozen=True):
    """Time to look at what is left."""


class FlattenView(msgspec.Struct, frozen=True, rename="camel"):
    """How far one FLATTEN has come."""

    scope: str
    orders_open: int
    positions_open: int
    reasons: tuple[str, ...]  # why what is left could not be sold at the last try


class Work:
    """What one limit still has to do."""

    __slots__ = ("began_ns", "dust", "next_ns", "reasons")

    def __init__(self, now_ns: int) -> None:
        self.began_ns = now_ns
        self.next_ns: dict[Place, int] = {}  # of the next sale
        self.dust: dict[Place, Decimal] = {}  # so much was refused as too little
        self.reasons: dict[Place, str] = {}


def is_exit(order: Order) -> bool:
    return order.parent_id is not None


def in_scope(scope: str, exchange: str, pair: str) -> bool:
    """Whether a market is part of a scope; of a strategy's every one may be."""
    kind, _, name = scope.partition(":")
    return {"exchange": exchange, "pair": pair}.get(kind, name) == name


def orders_in(manager: OrderManager, scope: str) -> list[Order]:
    """Every open order of a scope."""
    kind, _, name = scope.partition(":")
    orders = manager.orders.open.values()
    if kind == "exchange":
        return [order for order in orders if order.exchange == name]
    if kind == "pair":
        return [order for order in orders if order.pair == name]
    if kind == "strategy":
        return [order for order in orders if strategy_of(order) == name]
    return list(orders)


def cancel(manager: OrderManager, order: Order, reason: str) -> None:
    """Cancel an open order once; again where the venue refused it, or where it is only here by now."""
    if not order.ended and (order.cancel_requested is None or order.waiting or order.state is State.HELD):
        manager.request_cancel(order, reason)


class Flatten(Actor):
    """Carries out the limits that say FLATTEN."""

    def __init__(
        self,
        kernel: Kernel,
        guard: Guard,
        manager: OrderManager,
        portfolio: PortfolioManager,
        quantity_of: Callable[[str, str, str], Decimal],
    ) -> None:
        """`quantity_of(strategy, wallet, pair)` is what a strategy holds of a position, in base currency."""
        super().__init__(kernel)
        self.guard = guard
        self.manager = manager
        self.portfolio = portfolio
        self.quantity_of = quantity_of
        self._works: dict[tuple[str, str], Work] = {}  # by scope and name of the limit
        self._timer: Timer | None = None
        self._due = False  # the next look comes soon
        self._begun = 0  # sales of the present look

    def handles(self) -> dict[type, Handler]:
        return {LimitChanged: self.on_limit, OrderEnded: self.on_ended, FlattenDue: self.on_due}

    def start(self) -> None:
        """Go on with what was under way."""
        for limit in self.guard.limits():
            if limit.state == TradingState.FLATTEN.value:
                self._works[limit.scope, limit.name] = Work(self.clock.now_ns())
        self._look_in(0)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- when to look

    def on_limit(self, message: LimitChanged) -> None:
        limit = message.limit
        key = limit.scope, limit.name
        if message.lifted or limit.state != TradingState.FLATTEN.value:
            self._works.pop(key, None)
        elif key not in self._works:
            self._works[key] = Work(self.clock.now_ns())
            self.on_due(FlattenDue())

    def on_ended(self, _: OrderEnded) -> None:
        """Its coins are free, or it has sold: look once for all that end now."""
        if self._works and not self._due:
            self._due = True
            self._look_in(SOON_NS)

    def on_due(self, _: FlattenDue) -> None:
        self._due, self._begun = False, 0
        sales = self._open_sales() if self._works else {}
        for scope, name in list(self._works):
            limit = self.guard.find(scope, name)
            if limit is not None:
                self._look(limit, self._works[scope, name], sales)
        self._look_in(SOON_NS if self._due else LOOK_NS)

    def _look_in(self, delay_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._works:
            self._timer = self.clock.call_in(delay_ns, self.kernel.input, FlattenDue())

    # --- a look

    def _open_sales(self) -> dict[Place, list[Order]]:
        """Every open sale, by where it sells."""
        found: dict[Place, list[Order]] = {}
        for order in self.manager.orders.open.values():
            if order.side == "sell":
                found.setdefault((order.wallet, order.pair), []).append(order)
        return found

    def _look(self, limit: TradingLimit, work: Work, sales: dict[Place, list[Order]]) -> None:
        now_ns = self.clock.now_ns()
        orders = orders_in(self.manager, limit.scope)
        for order in orders:
            if not is_exit(order) and order.role != "close":
                cancel(self.manager, order, f"everything is being closed: {limit.why}")
        left = [holding for holding in self._holdings(limit.scope) if not self._is_dust(work, *holding)]
        held = {(position.wallet, position.pair) for position, _ in left}
        for order in orders:
            if is_exit(order) and (order.wallet, order.pair) not in held and not self._bought_by(order, orders):
                cancel(self.manager, order, "what it protected was sold")
        for position, quantity in left:
            open_sales = [sale for sale in sales.get((position.wallet, position.pair), ()) if not sale.ended]
            self._sell(limit, work, position, quantity, open_sales, now_ns)
        if not left and all(order.ended for order in orders):
            self._flat(limit)

    def _flat(self, limit: TradingLimit) -> None:
        kept = self.guard.is_kept(limit)
        why = f"flattened: {limit.why}"
        self.guard.limit(limit.name, TradingState.HALTED, why, limit.scope, kept=kept, by=limit.by)

    def _holdings(self, scope: str) -> Iterator[tuple[Position, Decimal]]:
        """Positions of a scope, and how much of each is to go: what its wallet holds of it. Those of a mode that this
        process is not in are left."""
        kind, _, name = scope.partition(":")
        engine = self.manager.engine
        for paper in (True, False):
            for position in self.portfolio.open_positions(paper):
                here = position.wallet in engine.venues and (position.exchange, position.pair) in engine.instruments
                if not here or not in_scope(scope, position.exchange, position.pair):
                    continue
                base = position.pair.partition("_")[0]
                quantity = min(position.quantity, self.manager.ledger.total(position.wallet, base))
                if kind == "strategy":
                    quantity = min(quantity, self.quantity_of(name, position.wallet, position.pair))
                if quantity > 0:
                    yield position, quantity

    def _is_dust(self, work: Work, position: Position, quantity: Decimal) -> bool:
        """Whether the exchange would not take so little."""
        if quantity <= work.dust.get((position.wallet, position.pair), ZERO):
            return True
        instrument = self.manager.engine.instruments[position.exchange, position.pair]
        return instrument.floor_lots(quantity) < instrument.min_lots

    @staticmethod
    def _bought_by(exit_order: Order, orders: list[Order]) -> bool:
        """Whether its entry may still fill: it would need this exit until that is sold too."""
        return any(order.order_id == exit_order.parent_id and not order.ended for order in orders)

    def _sell(
        self, limit: TradingLimit, work: Work, position: Position, quantity: Decimal, theirs: list[Order], now_ns: int
    ) -> None:
        """`theirs` are the open sales of the position, whosever they are."""
        place = position.wallet, position.pair
        if 0 < work.next_ns.get(place, 0) - now_ns <= AGAIN_NS:  # further off: the clock was set back
            return
        if any(order.role == "close" for order in theirs):
            return  # its end is looked at
        taken_back = any(not is_exit(order) and order.cancel_requested for order in theirs)
        if taken_back and 0 <= now_ns - work.began_ns < AGAIN_NS:
            return  # its coins come back at once, as a rule
        lots = self._sellable(position, quantity, theirs)
        instrument = self.manager.engine.instruments[position.exchange, position.pair]
        if lots < instrument.min_lots:
            work.reasons[place] = f"{plain(quantity)} {instrument.base} are set aside for other orders"
            return
        if self._begun >= SALES_MAX:
            self._due = True
            return
        self._begun += 1
        work.next_ns[place] = now_ns + AGAIN_NS
        whole = lots >= instrument.floor_lots(quantity)
        kind, _, name = limit.scope.partition(":")
        self.bus.publish(
            ClosePosition(
                position_id=position.position_id,
                quantity=instrument.quantity(lots),
                reply=partial(self._answered, work, place, quantity if whole else None),
                signal_data=SignalData(source="flatten", strategy=name) if kind == "strategy" else None,
            )
        )

    def _sellable(self, position: Position, quantity: Decimal, sales: list[Order]) -> int:
        """Lots that one order may sell now; exits at the venue are taken back for it."""
        instrument = self.manager.engine.instruments[position.exchange, position.pair]
        if not any(order.at_venue for order in sales):
            quantity = min(quantity, self.manager.ledger.available(position.wallet, instrument.base))
        lots = min(instrument.floor_lots(quantity), instrument.max_lots)
        quote = self.manager.engine.market.quote(position.exchange, position.pair)
        if instrument.max_notional is not None and quote is not None and quote[1]:
            lots = min(lots, int(instrument.max_notional / instrument.amount(quote[1])))
        return lots

    def _answered(self, work: Work, place: Place, quantity: Decimal | None, answer: Any) -> None:
        """`quantity` is all that was left, None where only a part of that could be sold: that a part is too little
        says nothing of the rest."""
        if not isinstance(answer, Refusal):
            work.reasons.pop(place, None)
        elif answer.code in DUST and quantity is not None:
            work.dust[place] = quantity
        else:
            work.reasons[place] = answer.detail

    # --- looking in

    def holds(self, scope: str, *, live: bool = False) -> bool:
        """Whether anything is held in a scope that an exchange would take, on paper too or `live` only."""
        nothing = Work(0)
        return any(
            not self._is_dust(nothing, *holding)
            for holding in self._holdings(scope)
            if not (live and is_paper(holding[0].wallet))
        )

    def views(self) -> list[FlattenView]:
        """Each that is under way."""
        found = []
        for (scope, _), work in self._works.items():
            left = [holding for holding in self._holdings(scope) if not self._is_dust(work, *holding)]
            places = {(position.wallet, position.pair) for position, _ in left}
            reasons = [why for place, why in work.reasons.items() if place in places][:REASONS_MAX]
            found.append(FlattenView(scope, len(orders_in(self.manager, scope)), len(left), tuple(reasons)))
        return found
