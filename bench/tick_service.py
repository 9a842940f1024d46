"""`tbx serve` with one strategy in the process: the service of tick to order.

Always true here: everything but the strategy is the service as it is. To each new state of its book the strategy
answers with one order that ends at once (IOC, far below the market), so that orders neither trade nor pile up.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from decimal import Decimal
from typing import Any

import uvloop

from tbx.core.kernel.actor import Actor
from tbx.core.kernel.bus import Handler
from tbx.core.kernel.kernel import Kernel
from tbx.core.market.data import MarketData
from tbx.core.model.messages import BookUpdated, Refusal, SubmitOrder
from tbx.core.settings import load_settings
from tbx.http.service import Service

MARKET = ("binance", "BTC_USDT")
QUANTITY = Decimal("0.001")
BELOW = 100  # the limit is a hundredth below the best bid


class Strategy(Actor):
    """Buys what nobody sells."""

    def __init__(self, kernel: Kernel, market: MarketData) -> None:
        super().__init__(kernel)
        self.feed = market.feed(*MARKET)
        self.instrument = market.instruments[MARKET]
        self.update_id = -1
        self.told: set[str] = set()

    def handles(self) -> dict[type, Handler]:
        return {BookUpdated: self.on_book}

    def on_book(self, message: BookUpdated) -> None:
        feed = self.feed
        if (message.exchange, message.pair) != MARKET or feed.book.update_id == self.update_id:
            return
        self.update_id = feed.book.update_id
        bid, _ = feed.top
        self.kernel.bus.publish(
            SubmitOrder(
                exchange=message.exchange,
                pair=message.pair,
                side="buy",
                type="limit",
                quantity=QUANTITY,
                price=self.instrument.price(bid - bid // BELOW),
                tif="IOC",
                reply=self.answered,
            )
        )

    def answered(self, answer: Any) -> None:
        """Say once for each kind why there is no order; whoever waits for it will give up."""
        if isinstance(answer, Refusal) and answer.code not in self.told:
            self.told.add(answer.code)
            print(f"refused: {answer.code} {answer.detail}", file=sys.stderr, flush=True)


class StrategyService(Service):
    """The service, and the strategy behind its actors."""

    async def _start_node(self, stack: contextlib.AsyncExitStack) -> None:
        await super()._start_node(stack)
        strategy = Strategy(self.node.kernel, self.node.market)
        self.node.kernel.add(strategy)
        strategy.start()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(StrategyService(load_settings()).run()))
