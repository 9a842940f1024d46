"""What open entries would lose at their stops: the worst that a day can still bring, if every stop holds.

    risk of an entry = open lots x (its price - its stop) + protected lots x (average price - stop) + both fees

Always true here: the sum of a side is that of its entries, each as it was at its last change; an entry without a stop,
or one whose exits have ended, counts nothing: its size is what limits it.
"""

from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal

from ..model.exact import ZERO
from ..model.instruments import Instrument
from ..model.records import Order
from ..orders.registry import Orders
from ..portfolio.valuation import is_paper

GRID = Decimal("1E-8")


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
        self._risks: dict[str, Decimal] = {}  # by entry
        self._sums = {True: ZERO, False: ZERO}  # by paper
        orders.on_protection = self.note

    def of(self, wallet: str) -> Decimal:
        """Of all entries of the wallet's side, in base currency."""
        return self._sums[is_paper(wallet)]

    def restore(self) -> None:
        """Take over every entry that may have one; prices are those of now."""
        for order in self._orders.orders.values():
            if order.stop_loss_id is not None:
                self.note(order)

    def note(self, order: Order) -> None:
        """An entry with a stop has changed, or one of its exits."""
        entry = order if order.parent_id is None else self._orders.get(order.parent_id)
        if entry is None or entry.stop_loss_id is None:
            return
        risk = self.of_entry(entry)
        before = self._risks.get(entry.order_id, ZERO)
        if risk == before:
            return
        self._sums[entry.paper] += risk - before
        if risk:
            self._risks[entry.order_id] = risk
        else:
            del self._risks[entry.order_id]

    def of_entry(self, entry: Order) -> Decimal:
        """Of one entry as it is now, in base currency."""
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
        left = stop.stop_ticks * (lots + open_lots)
        instrument = self._instruments.get((entry.exchange, entry.pair))
        fee = instrument.taker_fee if instrument is not None else ZERO
        risk = (cost - left + (cost + left) * fee) * entry.tick * entry.lot
        if risk <= 0:
            return ZERO
        rate = self._to_base(entry.quote, entry.exchange)
        return (risk if rate is None else risk * rate).quantize(GRID, ROUND_HALF_EVEN)
