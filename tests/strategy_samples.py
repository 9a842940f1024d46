"""Strategies for the tests: each does one thing, and notes what it was told."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from typing import Any, ClassVar

from tbx.core.market.book import BUY
from tbx.strategies_bridge.strategy import (
    BookView,
    OwnFill,
    OwnOrder,
    Parameters,
    SignalAnswer,
    Strategy,
    TradeView,
)


class Told(Strategy):
    """Notes every call; a test tells it what to do by setting `on_...` of the instance's `act`."""

    pairs = ("RVN_USDT",)
    exchange = "xeggex"
    instances: ClassVar[list[Told]] = []  # the newest last

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.calls: list[tuple[str, Any]] = []
        self.act: dict[str, Any] = {}
        self.instances.append(self)

    def _told(self, hook: str, *facts: Any) -> None:
        self.calls.append((hook, facts[0] if facts else None))
        if hook in self.act:
            self.act[hook](self, *facts)

    def on_start(self) -> None:
        self._told("start")

    def on_stop(self) -> None:
        self._told("stop")

    def on_book(self, book: BookView) -> None:
        self._told("book", book)

    def on_trade(self, trade: TradeView) -> None:
        self._told("trade", trade)

    def on_fill(self, fill: OwnFill, order: OwnOrder) -> None:
        self._told("fill", fill, order)

    def on_order(self, order: OwnOrder) -> None:
        self._told("order", order)

    def on_signal(self, answer: SignalAnswer) -> None:
        self._told("signal", answer)

    def on_timer(self, name: str) -> None:
        self._told("timer", name)

    def told(self, hook: str) -> list[Any]:
        return [fact for name, fact in self.calls if name == hook]


class Quiet(Strategy):
    """Overrides nothing."""

    pairs = ("RVN_USDT",)


class Resting(Strategy):
    """Rests one buy far below the market."""

    pairs = ("RVN_USDT",)
    exchange = "xeggex"

    def on_start(self) -> None:
        self.state["starts"] = self.state.get("starts", 0) + 1
        self.submit(side="buy", type="limit", quantity=1000, price="0.02", timeout_s=0)
        self.log("began", starts=self.state["starts"])


class Counting(Strategy):
    """Counts a timer, so that a test sees that it goes on."""

    pairs = ("RVN_USDT",)

    def on_start(self) -> None:
        self.timer("tick", every=0.02)

    def on_timer(self, name: str) -> None:
        self.state["ticks"] = self.state.get("ticks", 0) + 1


class Looping(Resting):
    """Does not come back from its tenth book, whatever is raised inside it."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.how = parameters.text("how", "python")
        self.left = 10

    def on_book(self, book: BookView) -> None:
        self.left -= 1
        while self.left <= 0:
            try:
                if self.how == "core":
                    book.levels("bids", 20)
                    self.position()
                elif self.how == "sleep":
                    time.sleep(60)
                elif self.how == "expression":
                    re.match(r"(a+)+$", "a" * 40 + "b")
                elif self.how == "json":
                    json.dumps({"bids": BUY})
            except Exception:  # an author who keeps everything
                self.left -= 1


class Compiled(Strategy):
    """Stays in compiled code for a while, less than it may."""

    pairs = ("RVN_USDT",)

    def on_start(self) -> None:
        re.match(r"(a+)+$", "a" * 24 + "b")


class Leaving(Strategy):
    """Ends the interpreter, as it thinks."""

    pairs = ("RVN_USDT",)

    def on_start(self) -> None:
        raise SystemExit(7)


class Raising(Strategy):
    """Raises what is no usual exception."""

    pairs = ("RVN_USDT",)

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.how = parameters.text("how")

    def on_start(self) -> None:
        if self.how == "interrupt":
            raise KeyboardInterrupt
        raise ValueError("boom \ud800\ntbx: ready \x1b[31m")


class Endless(Strategy):
    """Cannot be made."""

    pairs = ("RVN_USDT",)

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        while True:
            pass


class Flooding(Strategy):
    """Submits as many orders as it may in each call."""

    pairs = ("RVN_USDT",)
    exchange = "xeggex"

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.each = parameters.whole("each", 100, least=1)

    def on_start(self) -> None:
        self.timer("flood", every=0.01)

    def on_timer(self, name: str) -> None:
        for _ in range(self.each):
            self.submit(side="buy", type="limit", quantity=1000, price=Decimal("0.02"), timeout_s=0)


class Unready(Strategy):
    """Asks before it may."""

    pairs = ("RVN_USDT",)

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.submit(side="buy", type="market", quantity=1)


NOT_A_STRATEGY = 7
