"""What open entries would lose at their stops: the worst that a day can still bring, if every stop holds.

    risk of an entry = open lots x (its price - its stop) + protected lots x (average price - stop) + both fees

Always true here: the sum of a side is that of its entries, each as it was at its last change, at the rates of now; an
entry without a stop, or one whose exits have ended, counts nothing: its size is what limits it. One that is being
amended counts as what it is or as what it may become, whichever is more.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal

from ..model.exact import ZERO
from ..model.instruments import Instrument
from ..model.records import Order
from ..orders.manager import amended
from ..orders.registry import Orders
from ..portfolio.valuation import is_paper


class OpenRisk:
    """Follows entries with a stop; `orders.on_protection` calls `note` at each change of one or of its stop."""

    def __init__(
        self,
        orders: Orders,
        instruments: Mapping[tuple[str, str], Instrument],
        to_base: Callable[[str, str], Decimal | None],
    ) -> None:
        """`to_base(currency, exchange)` is a price in base currency, None where there is none."""
        self._orders = orders
        self._instruments = instruments
        self._to_base = to_base
        self._risks: dict[str, Decimal] = {}  # by entry, in its quote currency
        self._sums: dict[tuple[bool, str, str], Decimal] = {}  # by paper, exchange and quote currency
        orders.on_protection = self.note

    def of(self, wallet: str) -> Decimal:
        """Of all entries of the wallet's side, in base currency."""
        paper, whole = is_paper(wallet), ZERO
        for (side, exchange, quote), risk in self._sums.items():
            if side is paper and risk:
                whole += self._in_base(risk, exchange, quote)
        return whole

    def restore(self) -> None:
        """Take over every entry that may have one."""
        for order in self._orders.orders.values():
            if order.stop_loss_id is not None:
                self.note(order)

    def note(self, order: Order) -> None:
        """An entry with a stop has changed, or one of its exits."""
        entry = order if order.parent_id is None else self._orders.get(order.parent_id)
        if entry is None or entry.stop_loss_id is None:
            return
        risk = self._risk(entry)
        before = self._risks.get(entry.order_id, ZERO)
        if risk == before:
            return
        where = entry.paper, entry.exchange, entry.quote
        self._sums[where] = self._sums.get(where, ZERO) + risk - before
        if risk:
            self._risks[entry.order_id] = risk
        else:
            del self._risks[entry.order_id]

    def of_entry(self, entry: Order, stop_ticks: int | None = None) -> Decimal:
        """Of one entry as it is now, or as it would be with its stop there, in base currency."""
        return self._in_base(self._risk(entry, stop_ticks), entry.exchange, entry.quote)

    def _in_base(self, risk: Decimal, exchange: str, quote: str) -> Decimal:
        rate = self._to_base(quote, exchange)
        return risk if rate is None else risk * rate

    def _risk(self, entry: Order, stop_ticks: int | None = None) -> Decimal:
        """In quote currency."""
        risk = self._as_it_is(entry, stop_ticks)
        if entry.amend_requested is None:
            return risk
        return max(risk, self._as_it_is(amended(entry, entry.amend_requested), stop_ticks))

    def _as_it_is(self, entry: Order, stop_ticks: int | None) -> Decimal:
        stop = self._orders.get(entry.stop_loss_id or "")
        lots = int(entry.protected / entry.lot) if entry.protected else 0
        open_lots = 0 if entry.ended else entry.left_lots
        if stop is None or stop.stop_ticks is None or not (lots or open_lots):
            return ZERO
        if stop.ended and not open_lots:
            return ZERO
        cost = entry.cost * lots // entry.filled_lots if entry.filled_lots else 0
        if open_lots:
            ticks = entry.price_ticks or entry.guard_ticks or entry.stop_ticks or 0
            cost += ticks * open_lots
        left = (stop.stop_ticks if stop_ticks is None else stop_ticks) * (lots + open_lots)
        instrument = self._instruments.get((entry.exchange, entry.pair))
        fee = instrument.taker_fee if instrument is not None else ZERO
        return max(ZERO, (cost - left + (cost + left) * fee) * entry.tick * entry.lot)
