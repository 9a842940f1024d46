"""Closing a position: one market order for what can be sold. Its exits shrink with its fills, so the position is never
without them before it is gone, and keeps them where the closing order is refused. Exits that wait at the venue come
back first, as their coins are set aside there."""

from collections.abc import Callable
from decimal import Decimal
from functools import partial

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.kernel import Kernel
from ..model.exact import ZERO, plain
from ..model.instruments import Instrument, OffGrid
from ..model.messages import ClosePosition, Refusal, SubmitOrder
from ..model.records import Position, strategy_of
from ..portfolio.valuation import is_paper
from .manager import OrderManager

# An open position by its id; None when there is none.
FindPosition = Callable[[str], Position | None]


class Closing(Actor):
    """Makes the order that closes a position."""

    def __init__(self, kernel: Kernel, manager: OrderManager, find: FindPosition) -> None:
        super().__init__(kernel)
        self.manager = manager
        self.find = find
        # The coins that are a strategy's: (strategy, wallet, pair); set by who keeps them.
        self.owned: Callable[[str, str, str], Decimal] | None = None

    def handles(self) -> dict[type, Handler]:
        return {ClosePosition: self.close}

    def close(self, request: ClosePosition, *, back: bool = False) -> None:
        """`back`: exits that venues watch were asked back for this."""
        if request.client_order_id is not None and self.manager.orders.by_client_id(request.client_order_id):
            self._submit(request, "", "", ZERO, paper=False)  # a repeat: answered from what is on record
            return
        position = self.find(request.position_id)
        if position is None or not position.quantity:
            detail = f"there is no open position {request.position_id}"
            request.reply(Refusal(code="POSITION_NOT_FOUND", detail=detail, status=404))
            return
        for order in self.manager.orders.open.values():
            if order.role == "close" and order.wallet == position.wallet and order.pair == position.pair:
                detail = f"{order.order_id} is closing the position; ask again when it has ended"
                request.reply(Refusal(code="ORDER_IN_FLIGHT", detail=detail, status=409, order=order))
                return
        instrument = self.manager.engine.instruments.get((position.exchange, position.pair))
        if instrument is None:
            detail = f"{position.pair} at {position.exchange} is none of what is traded here now; the position is kept"
            request.reply(Refusal(code="MARKET_CLOSED", detail=detail))
            return
        request = self._own(request, position, instrument)
        there = self.manager.ledger.available(position.wallet, instrument.base)
        if self._asks_back(request, position, there, back):
            return
        wanted = min(position.quantity, there) if request.quantity is None else request.quantity
        if request.quantity is not None and request.quantity > position.quantity:
            detail = f"the position holds {plain(position.quantity)} {instrument.base}"
            error = {"field": "quantity", "code": "QUANTITY_RANGE", "detail": detail}
            request.reply(Refusal(code="QUANTITY_RANGE", detail=detail, errors=(error,)))
            return
        try:
            lots = instrument.floor_lots(wanted) if request.quantity is None else instrument.qty_lots(wanted)
        except OffGrid as error:
            request.reply(Refusal(code="QUANTITY_STEP", detail=str(error)))
            return
        if lots < instrument.min_lots:
            detail = (
                f"{plain(wanted)} {instrument.base} can be sold now, less than the least quantity of "
                f"{plain(instrument.quantity(instrument.min_lots))}; it is kept as dust and leaves with the next exit"
            )
            request.reply(Refusal(code="BELOW_MIN_QUANTITY", detail=detail))
            return
        paper = is_paper(position.wallet)
        self._submit(request, position.exchange, position.pair, instrument.quantity(lots), paper=paper)

    def _own(self, request: ClosePosition, position: Position, instrument: Instrument) -> ClosePosition:
        """For no more than its strategy owns now and offers nowhere else: what it was made for may be sold by now."""
        strategy = request.signal_data.strategy if request.signal_data is not None else None
        if not strategy or self.owned is None or request.quantity is None:
            return request
        mine = self.owned(strategy, position.wallet, position.pair)
        for order in self.manager.orders.open.values():
            offered = order.wallet == position.wallet and order.pair == position.pair and order.side == "sell"
            if offered and order.parent_id is None and strategy_of(order) == strategy:
                mine -= order.left_lots * order.lot
        if request.quantity <= mine:
            return request
        lots = instrument.floor_lots(max(ZERO, mine))
        return msgspec.structs.replace(request, quantity=instrument.quantity(lots))

    def _asks_back(self, request: ClosePosition, position: Position, there: Decimal, back: bool) -> bool:
        """Whether exits at the venue hold what is to be sold: they come back first, and shrink with the sale.

        Those of a strategy that sells come back in any case: left there, they would sell the coins of another one.
        """
        manager = self.manager
        wanted = position.quantity if request.quantity is None else request.quantity
        exits = [order for order in manager.orders.open.values() if order.at_venue and order.wallet == position.wallet]
        exits = [order for order in exits if order.pair == position.pair]
        if not there < wanted:
            seller = request.signal_data.strategy if request.signal_data is not None else None
            exits = [order for order in exits if seller and strategy_of(order) == seller]
        if not exits or wanted > position.quantity or manager.engine.unavailable(position.wallet):
            return False
        if back:
            detail = f"{position.exchange} has not given back the exits of {position.position_id} yet; ask again"
            request.reply(Refusal(code="ORDER_IN_FLIGHT", detail=detail, status=409, retry_after_s=1))
        else:
            manager.recall(exits, f"{position.position_id} is to be closed", partial(self.close, request, back=True))
        return True

    def _submit(self, request: ClosePosition, exchange: str, pair: str, quantity: Decimal, *, paper: bool) -> None:
        self.bus.publish(
            SubmitOrder(
                pair=pair,
                side="sell",
                type="market",
                quantity=quantity,
                exchange=exchange,
                paper=True if paper else None,  # a paper position is never sold for real
                role="close",
                reply=request.reply,
                client_order_id=request.client_order_id,
                fingerprint=request.fingerprint,
                signal_data=request.signal_data,
                signal_id=request.signal_id,
                on_decided=request.on_decided,
            )
        )
