"""Our Binance venue against the local exchange in virtual time: no sockets, no sleeps; what was sent is looked at."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tbx.core.kernel.clock import MS_NS
from tbx.core.kernel.kernel import Kernel
from tbx.core.state.memory import MemoryStore
from tbx.venues.binance.client import BinanceVenue
from tbx.venues.binance.instruments import read_exchange_info
from tbx.venues.simulator.binance.server import LocalExchange

from .binance_desk import Desk, ed25519
from .exchange_fixtures import fill_book
from .live_network import LiveNetwork, ProcessClock, Stepped


class VirtualDesk(Desk):
    """A venue that is signed on. `world` is the time of both; `clock` the venue's."""

    def __init__(self, exchange_options: dict[str, Any] | None = None, **options: Any) -> None:
        self.world = Stepped()
        exchange = LocalExchange(None, self.world, **{"limited": False, **(exchange_options or {})})  # type: ignore[arg-type]
        fill_book(exchange)
        self.network = LiveNetwork(self.world, exchange, random.Random(1))
        _, _, body = exchange.rest.handle("GET", "/api/v3/exchangeInfo", b"", b"", {})
        self.listing = read_exchange_info(body)
        self.options = {"ours": lambda client_id: client_id.startswith("tbx-"), **options}
        troubles: list[str] = []
        self.clock = ProcessClock(self.world)
        kernel = Kernel(self.clock, MemoryStore(self.world.call_soon))
        super().__init__(exchange, self._venue(kernel, troubles), kernel, troubles)
        self.venue.start()
        self.pass_ms(100)

    def _venue(self, kernel: Kernel, troubles: list[str]) -> BinanceVenue:
        return BinanceVenue(
            kernel,
            self.clock,
            self.network.connector(self.clock),
            "ws://memory/ws-api/v3",
            ed25519(self.network.exchange.accounts[0]),
            self.listing.instruments,
            jitter=lambda: 0.5,
            on_trouble=troubles.append,
            **self.options,
        )

    def pass_ms(self, milliseconds: int) -> None:
        self.world.advance(milliseconds * MS_NS)

    def ask(self, client_id: str, wait_ms: int = 100, **what: Any) -> list[bool | None]:
        """What a question has been answered after a while."""
        answers: list[bool | None] = []
        self.venue.query(self.question(client_id, **what), answers.append)
        self.pass_ms(wait_ms)
        return answers

    def when(self, client_id: str, answered: Callable[[bool | None], bool], step_ms: int = 2_000) -> int:
        """Asks again and again, as the core does; the milliseconds after which the answer is such a one."""
        began_ns = self.world.now_ns()
        for _ in range(60):
            (answer,) = self.ask(client_id, 50)
            if answered(answer):
                return (self.world.now_ns() - began_ns) // MS_NS
            self.pass_ms(step_ms - 50)
        raise AssertionError(f"{client_id}: no such answer in {60 * step_ms} ms")

    @property
    def sent(self) -> list[dict[str, Any]]:
        """Every frame of the venue, first to last."""
        return [json.loads(raw) for socket in self.network.sockets for raw in socket.sent]

    def asked(self, method: str, since: int = 0) -> list[dict[str, Any]]:
        """The parameters of each request of a method, from the frame with this number on."""
        return [frame.get("params", {}) for frame in self.sent[since:] if frame["method"] == method]
