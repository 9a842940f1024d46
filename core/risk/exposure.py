"""What is held and being bought of currencies that move together, in base currency, exactly.

Always true here, when asked: the exposure of a group is the sum over its markets of

    position x mark x rate of the quote currency     (at its cost, while the market has no price)
  + what open buys have reserved x that rate

each of the two rounded to 18 decimals, so that adding the differences gives what adding everything anew would. Fills
and reservations count at once. Prices are those of the portfolio, at most REVALUE_NS old: where it has taken new ones
since a group was last asked about, the markets of that group whose mark or rate moved are valued again, and no others.
"""

from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.kernel import Kernel
from ..model.exact import ONE, ZERO, tidy
from ..model.messages import OrderFilled
from ..model.records import Order, Position
from ..orders.registry import Orders
from ..portfolio.manager import PortfolioManager
from ..portfolio.rates import Market, Rate
from ..portfolio.valuation import is_paper
from .groups import Groups

EIGHTEEN = Decimal("1E-18")
NOTHING: tuple[Decimal, frozenset[str]] = (ZERO, frozenset())
Key = tuple[str, str]  # wallet, pair


class ExposureView(msgspec.Struct, frozen=True, rename="camel"):
    """A group that something is held of, for GET /api/risk."""

    group: str
    currencies: tuple[str, ...]  # those that something is held of
    exposure: Decimal  # base currency
    limit: Decimal
    members: int  # currencies of the group in all


class _Part:
    """One market of one wallet, as it was last valued."""

    __slots__ = (
        *("changed", "currency", "key", "market", "quote_rate", "total"),
        *("buying", "mark", "position", "rate", "value"),
    )

    def __init__(self, key: Key, market: Market, currency: str, quote_rate: Rate) -> None:
        self.key = key
        self.market = market
        self.currency = currency
        self.quote_rate = quote_rate  # follows prices
        self.total: _Total | None = None
        self.changed = False  # by a fill or a reservation, since it was valued
        # as it was valued
        self.position: Position | None = None  # the record itself, which follows its fills
        self.buying = ZERO
        self.mark: Decimal | None = None
        self.rate: Decimal | None = None
        self.value = ZERO


class _Total:
    """A group at one side, paper or live."""

    __slots__ = ("changed", "currencies", "parts", "seen", "sum")

    def __init__(self, currencies: frozenset[str]) -> None:
        self.currencies = currencies
        self.parts: list[_Part] = []
        self.changed: list[_Part] = []
        self.seen = -1  # count of the portfolio's looks at prices when it was last valued
        self.sum = ZERO


class Exposure(Actor):
    """Sums by group and side; follows fills, reservations, prices, and the groups themselves."""

    def __init__(self, kernel: Kernel, portfolio: PortfolioManager, orders: Orders, groups: Groups) -> None:
        super().__init__(kernel)
        self._portfolio = portfolio
        self._rates = portfolio.rates
        self._orders = orders
        self._groups = groups
        self._version = groups.version
        self._parts: dict[Key, _Part] = {}
        self._totals: dict[tuple[bool, str], _Total] = {}  # by paper and currency
        orders.reserved_hooks.append(self._on_reserved)

    def handles(self) -> dict[type, Handler]:
        return {OrderFilled: self._on_filled}

    def restore(self) -> None:
        """Begin with all positions and open orders; they are restored."""
        for _, position in self._portfolio.records():
            self._note(position.wallet, position.exchange, position.pair)
        for order in self._orders.open.values():
            if order.side == "buy":
                self._note(order.wallet, order.exchange, order.pair)

    def _on_filled(self, message: OrderFilled) -> None:
        fill = message.fill
        self._note(fill.wallet, fill.exchange, fill.pair)

    def _on_reserved(self, order: Order) -> None:
        self._note(order.wallet, order.exchange, order.pair)

    def _note(self, wallet: str, exchange: str, pair: str) -> None:
        """A market has to be valued again before its group is next told."""
        part = self._parts.get((wallet, pair))
        if part is None:
            base, _, quote = pair.partition("_")
            part = _Part((wallet, pair), (exchange, pair), base, self._rates.rate(exchange, quote))
            self._parts[wallet, pair] = part
            self._join(part)
        elif not part.changed and part.total is not None:
            part.changed = True
            part.total.changed.append(part)

    def _join(self, part: _Part) -> None:
        """Put a market into the sum of its group; what is exposed to nothing is in none."""
        part.total, part.changed = None, False
        if self._groups.exposed(part.currency):
            total = part.total = self._total(is_paper(part.key[0]), part.currency)
            total.parts.append(part)
            total.sum += part.value
            total.changed.append(part)
            part.changed = True

    def _total(self, paper: bool, currency: str) -> _Total:
        total = self._totals.get((paper, currency))
        if total is None:
            group = self._groups.of(currency)
            total = _Total(group)
            for member in group:
                self._totals[paper, member] = total
        return total

    def _regroup(self) -> None:
        """The groups have changed: every market goes to its new one, valued as it was."""
        self._version = self._groups.version
        self._totals.clear()
        for part in self._parts.values():
            self._join(part)

    # --- what others ask

    def room_actual(self, wallet: str, currency: str) -> tuple[Decimal, frozenset[str]]:
        """What the wallet's side has of all that moves together with a currency, and that group.

        A currency that is exposed to nothing has no group: zero.
        """
        if self._version != self._groups.version:
            self._regroup()
        paper = is_paper(wallet)
        total = self._totals.get((paper, currency))
        if total is None:
            group = self._groups.of(currency)
            if not group:
                return NOTHING
            total = self._total(paper, currency)
        return self._value(paper, total), total.currencies

    def view(self, paper: bool, limit: Decimal) -> list[ExposureView]:
        """Every group that something is held of, the largest first; `limit` is an amount in base currency."""
        if self._version != self._groups.version:
            self._regroup()
        shown = []
        for total in {id(total): total for (side, _), total in self._totals.items() if side == paper}.values():
            amount = self._value(paper, total)
            if amount:
                held = tuple(sorted({part.currency for part in total.parts if part.value}))
                name = self._groups.name(total.currencies)
                shown.append(ExposureView(name, held, tidy(amount), tidy(limit), len(total.currencies)))
        return sorted(shown, key=lambda view: (-view.exposure, view.group))

    # --- values

    def _value(self, paper: bool, total: _Total) -> Decimal:
        portfolio = self._portfolio
        portfolio.equity(paper)  # takes new prices, where that is due
        if total.changed:
            for part in total.changed:
                part.changed = False
                part.position = self._portfolio.position(*part.key)
                part.buying = self._orders.buying(*part.key)
                self._revalue(part)
            total.changed.clear()
        if total.seen != portfolio.looks:
            total.seen = portfolio.looks
            mark = self._rates.mark
            for part in total.parts:
                if part.quote_rate.value is not part.rate or mark(part.market) is not part.mark:
                    self._revalue(part)
        return total.sum

    def _revalue(self, part: _Part) -> None:
        """At the prices of now."""
        rate, mark, position, value = part.quote_rate.value, self._rates.mark(part.market), part.position, ZERO
        part.rate, part.mark = rate, mark
        if position is not None and position.quantity:
            value = position.cost if mark is None else position.quantity * mark
            value = (value if rate is None or rate is ONE else value * rate).quantize(EIGHTEEN, ROUND_HALF_EVEN)
        if part.buying:
            value += (part.buying if rate is None else part.buying * rate).quantize(EIGHTEEN, ROUND_HALF_EVEN)
        total = part.total
        assert total is not None, "it is in a group's sum"
        total.sum += value - part.value
        part.value = value
