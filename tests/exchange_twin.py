"""A slow book for comparison: one plain list of orders in the order in which they queue, scanned for each trade."""

from __future__ import annotations

from dataclasses import dataclass, field

HOUSE = "house"


@dataclass
class Resting:
    owner: str
    name: object  # what the test calls the order; None for the house's
    is_buy: bool
    price: int
    left: int
    part: int = 0
    shown: int = 0

    def show(self) -> None:
        self.shown = min(self.left, self.part) if self.part else self.left


@dataclass
class Twin:
    """`trades` are (price, quantity, maker's name, taker's name), in order."""

    queue: list[Resting] = field(default_factory=list)
    trades: list[tuple[int, int, object, object]] = field(default_factory=list)

    def place(
        self, owner: str, name: object, is_buy: bool, price: int, qty: int, part: int, tif: str, stp: str
    ) -> None:
        """A limit order; price 0 is a market order."""
        taker = Resting(owner, name, is_buy, price, qty, part)
        if tif == "FOK" and not self._whole(taker, stp):
            return
        self._match(taker, stp)
        if taker.left and price and tif == "GTC":
            taker.show()
            self.queue.append(taker)

    def cancel(self, name: object) -> None:
        self.queue = [order for order in self.queue if order.name != name]

    def shrink(self, name: object, left: int) -> None:
        for order in self.queue:
            if order.name == name:
                order.left = left
                order.shown = min(order.shown, left)
                order.part = min(order.part, left) if order.part else 0

    def set_house(self, is_buy: bool, price: int, qty: int) -> None:
        taker = Resting(HOUSE, None, is_buy, price, qty)
        while taker.left and (best := self._best(taker)) is not None:
            if best.owner == HOUSE:
                self.queue.remove(best)
            else:
                self._trade(taker, best)
        mine = [o for o in self.queue if o.owner == HOUSE and (o.is_buy, o.price) == (is_buy, price)]
        more = taker.left - sum(order.left for order in mine)
        at_price = [o for o in self.queue if (o.is_buy, o.price) == (is_buy, price)]
        if more > 0 and at_price and at_price[-1].owner == HOUSE:
            at_price[-1].left += more
            at_price[-1].show()
        elif more > 0:
            fresh = Resting(HOUSE, None, is_buy, price, more)
            fresh.show()
            self.queue.append(fresh)
        for order in reversed(mine):
            less = min(order.left, max(0, -more))
            more += less
            order.left -= less
            order.shown = order.left
            if not order.left:
                self._remove(order)

    def house_trade(self, is_buy: bool, price: int, qty: int) -> None:
        taker = Resting(HOUSE, None, is_buy, price, qty)
        while taker.left and (best := self._best(taker)) is not None:
            self._trade(taker, best)

    def depth(self) -> tuple[dict[int, int], dict[int, int]]:
        sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for order in self.queue:
            side = sides[0 if order.is_buy else 1]
            side[order.price] = side.get(order.price, 0) + order.shown
        return sides

    def _best(self, taker: Resting) -> Resting | None:
        """The first of those with the best price that the taker may trade with."""
        found = [
            order
            for order in self.queue
            if order.is_buy != taker.is_buy
            and (not taker.price or (order.price <= taker.price if taker.is_buy else order.price >= taker.price))
        ]
        if not found:
            return None
        best = (min if taker.is_buy else max)(order.price for order in found)
        return next(order for order in found if order.price == best)

    def _match(self, taker: Resting, stp: str) -> None:
        while taker.left and (best := self._best(taker)) is not None:
            if best.owner != taker.owner or stp == "NONE":
                self._trade(taker, best)
                continue
            both = min(taker.left, best.left)
            if stp in ("EXPIRE_MAKER", "EXPIRE_BOTH"):
                best.left = 0
            if stp in ("EXPIRE_TAKER", "EXPIRE_BOTH"):
                taker.left = 0
            if stp == "DECREMENT":
                taker.left -= both
                best.left -= both
                if best.left and both >= best.shown:
                    self._requeue(best)
                else:
                    best.shown -= both
            if not best.left:
                self._remove(best)

    def _trade(self, taker: Resting, maker: Resting) -> None:
        qty = min(taker.left, maker.shown)
        self.trades.append((maker.price, qty, maker.name, taker.name))
        taker.left -= qty
        maker.left -= qty
        maker.shown -= qty
        if not maker.left:
            self._remove(maker)
        elif not maker.shown:
            self._requeue(maker)

    def _requeue(self, order: Resting) -> None:
        self._remove(order)
        order.show()
        self.queue.append(order)

    def _remove(self, order: Resting) -> None:
        # By identity: two orders of the house may be equal.
        self.queue = [other for other in self.queue if other is not order]

    def _whole(self, taker: Resting, stp: str) -> bool:
        """Whether a fill-or-kill order would trade all of its quantity: try it on a copy."""
        trial = Twin([Resting(**vars(order)) for order in self.queue])
        copied = Resting(**vars(taker))
        trial._match(copied, stp)
        return sum(qty for _, qty, _, _ in trial.trades) == taker.left
