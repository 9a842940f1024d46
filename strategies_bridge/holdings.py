"""What one strategy holds, what of it no stop protects, and the stops that are put where one is missing.

Always true here: a stop of this module sells no more than the strategy holds: it is taken back in the same input in
which the coins leave. It is an order like any other, found again after a restart by its client id.
"""

from collections.abc import Callable, Iterator
from decimal import ROUND_FLOOR, Decimal

import msgspec

from ..core.kernel.kernel import Kernel
from ..core.market.data import MarketData
from ..core.model.exact import ZERO
from ..core.model.ids import wallet_of
from ..core.model.instruments import Instrument
from ..core.model.messages import CancelOrder, OrderFilled, SubmitOrder
from ..core.model.records import Order, SignalData, State
from ..core.orders.registry import Orders

STOP_PREFIX = "guard"  # of the client ids of the stops made here

# What a strategy holds in a wallet of a pair, in base currency.
QuantityOf = Callable[[str, str, str], Decimal]


class Unprotected(msgspec.Struct, frozen=True):
    """Coins that no stop covers."""

    instrument: Instrument
    wallet: str
    lots: int


class Holdings:
    """One strategy's coins and orders; everything is worked out when it is asked for."""

    def __init__(
        self,
        kernel: Kernel,
        orders: Orders,
        market: MarketData,
        quantity_of: QuantityOf,
        strategy: str,
        *,
        paper: bool,
        stop_loss_percent: Decimal,
    ) -> None:
        self.kernel = kernel
        self.orders = orders
        self.market = market
        self.quantity_of = quantity_of
        self.strategy = strategy
        self.paper = paper
        self.stop_loss_percent = stop_loss_percent
        self.by_pair: dict[str, list[Instrument]] = {}
        for instrument in market.instruments.values():
            self.by_pair.setdefault(instrument.pair, []).append(instrument)
        self._stops: dict[tuple[str, str], list[str]] = {}  # order ids by wallet and pair
        for order in orders.open.values():
            if self._is_stop(order):
                self._stops.setdefault((order.wallet, order.pair), []).append(order.order_id)
        kernel.bus.subscribe(OrderFilled, self._on_filled)

    # --- looking

    def wallet(self, instrument: Instrument) -> str:
        return wallet_of(instrument, paper=self.paper)

    def lots(self, instrument: Instrument) -> int:
        """What the strategy holds of a pair at one exchange, in whole lots."""
        return instrument.floor_lots(self.quantity_of(self.strategy, self.wallet(instrument), instrument.pair))

    def sellable(self, instrument: Instrument) -> bool:
        """Whether it holds enough for one order; what is less is dust."""
        lots = self.lots(instrument)
        return lots > 0 and instrument.market_lots(lots) > 0 and self._worth_an_order(instrument, lots)

    def _worth_an_order(self, instrument: Instrument, lots: int) -> bool:
        quote = self.market.quote(instrument.exchange, instrument.pair)
        return quote is None or instrument.amount(quote[0] * lots) >= instrument.min_notional

    def holds(self, pair: str) -> bool:
        return any(self.sellable(instrument) for instrument in self.by_pair.get(pair, ()))

    def busy(self, pair: str) -> str:
        """Which order of the strategy is opening or closing a position in the pair; empty for none."""
        for order in self._own():
            if order.pair == pair and order.role in ("entry", "close"):
                return f"{order.order_id} is under way"
        return ""

    def _own(self) -> Iterator[Order]:
        for order in self.orders.open.values():
            data = order.signal_data
            if data is not None and data.strategy == self.strategy:
                yield order

    def price(self, pair: str) -> Decimal | None:
        """The mid of a pair at the first exchange whose book may be traded on; None where none may."""
        now_ns = self.kernel.clock.now_ns()
        for instrument in self.by_pair.get(pair, ()):
            if self.market.fresh(instrument.exchange, pair, now_ns):
                return self.market.mid(instrument.exchange, pair)
        return None

    def on_grid(self, pair: str, price: Decimal) -> Decimal:
        """A price rounded down to what each exchange of the pair takes; zero where it is less than a step."""
        tick = max(instrument.tick for instrument in self.by_pair[pair])
        return (price / tick).to_integral_value(ROUND_FLOOR) * tick

    # --- protection

    def unprotected(self) -> Iterator[Unprotected]:
        """What the strategy holds beyond what stops cover and closing orders sell."""
        covered = self._covered()
        for instruments in self.by_pair.values():
            for instrument in instruments:
                lots = self.lots(instrument) - covered.get((self.wallet(instrument), instrument.pair), 0)
                lots = instrument.market_lots(lots) if lots > 0 else 0
                if lots and self._worth_an_order(instrument, lots):
                    yield Unprotected(instrument, self.wallet(instrument), lots)

    def _covered(self) -> dict[tuple[str, str], int]:
        """Lots that stops and closing orders of the strategy sell, by wallet and pair."""
        covered: dict[tuple[str, str], int] = {}
        for order in self._own():
            if order.role not in ("stop_loss", "close") or order.side != "sell":
                continue
            entry = self.orders.get(order.parent_id) if order.parent_id is not None else None
            if entry is not None and not entry.filled_lots:
                continue  # it waits for its entry and covers nothing yet
            key = (order.wallet, order.pair)
            covered[key] = covered.get(key, 0) + order.left_lots
        return covered

    def protect(self, bare: Unprotected, client_order_id: str, reply: Callable[[object], None]) -> str:
        """Submit a stop below the present price; what stands in the way, or nothing. The reply comes as usual."""
        instrument = bare.instrument
        exchange, pair = instrument.exchange, instrument.pair
        quote = self.market.quote(exchange, pair)
        if quote is None or not self.market.fresh(exchange, pair, self.kernel.clock.now_ns()):
            return f"there is no current order book of {pair} at {exchange}"
        ticks = int((quote[0] * (1 - self.stop_loss_percent / 100)).to_integral_value(ROUND_FLOOR))
        if ticks <= 0:
            return f"no price lies {self.stop_loss_percent:f} % below the best bid"
        self.kernel.input(
            SubmitOrder(
                pair=pair,
                side="sell",
                type="stop_loss",
                quantity=instrument.quantity(bare.lots),
                stop_price=instrument.price(ticks),
                exchange=exchange,
                paper=self.paper or None,
                timeout_ns=0,
                role="stop_loss",
                client_order_id=client_order_id,
                fingerprint=client_order_id,
                signal_data=SignalData(source=self.strategy, strategy=self.strategy),
                reply=reply,
            )
        )
        order = self.orders.by_client_id(client_order_id)
        if order is not None and not order.ended:
            self._stops.setdefault((bare.wallet, pair), []).append(order.order_id)
        return ""

    def trim(self) -> None:
        """As after each sale, for what was sold while nobody listened."""
        for wallet, pair in list(self._stops):
            self._trim(wallet, pair)

    def _is_stop(self, order: Order) -> bool:
        data = order.signal_data
        own = data is not None and data.strategy == self.strategy and order.parent_id is None
        return own and order.client_order_id.startswith(f"{STOP_PREFIX}.")

    def _on_filled(self, message: OrderFilled) -> None:
        if self._stops and message.order.side == "sell":
            self._trim(message.order.wallet, message.order.pair)

    def _trim(self, wallet: str, pair: str) -> None:
        """Stops of ours that cover more than is held go, and the next review puts a smaller one."""
        stops = [order for i in self._stops.get((wallet, pair), ()) if (order := self.orders.open.get(i)) is not None]
        if not stops:
            self._stops.pop((wallet, pair), None)
            return
        held = self.quantity_of(self.strategy, wallet, pair)
        if sum((order.left_lots * order.lot for order in stops), ZERO) <= held:
            return
        for order in stops:
            if order.state is State.HELD and order.triggered_ns is None:
                reason = "what it protected was sold"
                self.kernel.bus.publish(CancelOrder(order_id=order.order_id, reply=_unheard, reason=reason))


def _unheard(_: object) -> None:
    """Nobody waits for the end of a stop that has nothing to protect."""
