"""Open orders on our accounts that are not of this service: listed, left alone, and cancelled only when asked.

Always true here: only an order that was listed can be cancelled here. One of ours that has ended here and is open at
its venue is listed with them, as nobody here manages it.
"""

from collections.abc import Callable, Mapping

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS
from ..kernel.kernel import Kernel
from ..model.comparisons import ExternalOrder, Surveyor, VenueOrder
from ..model.messages import CancelExternal, Refusal

Key = tuple[str, str]  # pair, the venue's id


class _Listed(msgspec.Struct):
    """Of one wallet."""

    venue: Surveyor
    orders: dict[Key, VenueOrder] = {}
    suspects: dict[Key, VenueOrder] = {}  # of ours, that have perhaps ended here
    seen_ns: int = 0


class External(Actor):
    """Keeps the last list of each wallet."""

    def __init__(
        self,
        kernel: Kernel,
        contradicted: dict[tuple[str, str, str], str],
        *,
        is_up: Callable[[str], bool],
        look_again: Callable[[str], None],
    ) -> None:
        """`contradicted`: wallet, pair and venue's id of orders of ours that are open there and ended here; one that is
        cancelled leaves it. `look_again` has a wallet compared, because it is not known what is open there."""
        super().__init__(kernel)
        self.contradicted = contradicted
        self.is_up = is_up
        self.look_again = look_again
        self._wallets: dict[str, _Listed] = {}

    def attach(self, wallet: str, venue: Surveyor) -> None:
        self._wallets[wallet] = _Listed(venue)

    def handles(self) -> dict[type, Handler]:
        return {CancelExternal: self.cancel}

    @property
    def listed(self) -> list[ExternalOrder]:
        """All of them, as last listed."""
        return [
            _view(name, order, wallet.seen_ns)
            for name, wallet in self._wallets.items()
            for order in self._of(name).values()
        ]

    def _of(self, name: str) -> dict[Key, VenueOrder]:
        wallet = self._wallets.get(name)
        if wallet is None:
            return {}
        suspects = {key: order for key, order in wallet.suspects.items() if (name, *key) in self.contradicted}
        return wallet.orders | suspects

    def found(
        self, name: str, orders: dict[Key, VenueOrder], suspects: dict[Key, VenueOrder], seen_ns: int
    ) -> Mapping[str, str]:
        """A new list of a wallet; those that were not in the one before, by their ids, in words."""
        wallet = self._wallets[name]
        new = {k[1]: str(_view(name, order, seen_ns)) for k, order in orders.items() if k not in wallet.orders}
        wallet.orders, wallet.suspects, wallet.seen_ns = orders, suspects, seen_ns
        self._tell(name, wallet)
        return new

    def _tell(self, name: str, wallet: _Listed) -> None:
        if wallet.orders:
            first = _view(name, next(iter(wallet.orders.values())), wallet.seen_ns)
            self.kernel.conditions.begin("external_orders", f"{len(wallet.orders)}, such as {first}", name)
        else:
            self.kernel.conditions.end("external_orders", name)

    # --- cancelling

    def cancel(self, request: CancelExternal) -> None:
        """Ask the venue to cancel one."""
        name, key = request.exchange, (request.pair, request.venue_order_id)
        order = self._of(name).get(key)
        if order is None:
            detail = (
                f"no order {request.venue_order_id} of {request.pair} is listed at {name}; "
                "GET /api/orders/external lists those that are not of this service"
            )
            request.reply(Refusal(code="ORDER_NOT_FOUND", detail=detail, status=404))
            return
        if not self.is_up(name):
            detail = f"{name} is not connected"
            request.reply(Refusal(code="VENUE_UNAVAILABLE", detail=detail, status=503, retry_after_s=1))
            return

        def done(why: str | None) -> None:
            self.kernel.run(self._cancelled, request, order, why)

        # As an effect, though there is nothing to commit: a process that is not the writer any more sends nothing.
        self.outbox.effect(self._wallets[name].venue.cancel, *key, done)

    def _cancelled(self, request: CancelExternal, order: VenueOrder, why: str | None) -> None:
        name, key = request.exchange, (order.pair, order.venue_order_id)
        if why is None:
            detail = f"{name} has not answered: the next list shows whether it was cancelled"
            self.outbox.effect(request.reply, Refusal(code="OUTCOME_UNKNOWN", detail=detail, status=503))
        elif why:
            detail = f"{name} refused to cancel {order.venue_order_id}: {why}"
            self.outbox.effect(request.reply, Refusal(code="CANCEL_REFUSED", detail=detail, status=409))
        else:
            wallet = self._wallets[name]
            wallet.orders.pop(key, None)
            wallet.suspects.pop(key, None)
            self.contradicted.pop((name, *key), None)
            self._tell(name, wallet)
            self.outbox.effect(request.reply, _view(name, order, self.clock.now_ns()))
        self.look_again(name)


def _view(exchange: str, order: VenueOrder, seen_ns: int) -> ExternalOrder:
    return ExternalOrder(
        exchange=exchange,
        pair=order.pair,
        venue_order_id=order.venue_order_id,
        client_order_id=order.client_id,
        side=order.side,
        type=order.type,
        quantity=order.quantity,
        filled=order.filled,
        price=order.price,
        seen_at=seen_ns // MS_NS,
    )
