"""A writer that was stopped wakes when its standby trades: it has sent nothing more, and the books agree.

Real processes on the local exchange and a Redis of their own. Each moment at which the first process is stopped is one
at which a frame was about to leave.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .exchange_process import ExchangeProcess
from .live_desk import order_id_of
from .live_processes import Live, an_exchange, wait_for
from .standby_processes import Pair, RedisProcess, a_redis_process, await_standby, is_ready, role, twin

pytestmark = [pytest.mark.orders, pytest.mark.exchanges, pytest.mark.connectivity]


@pytest.fixture
def exchange() -> Iterator[ExchangeProcess]:
    with an_exchange() as process:
        yield process


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[RedisProcess]:
    with a_redis_process(tmp_path / "redis") as server:
        yield server


class Trading:
    """A writer and its standby on one account; `both` asks the one that trades."""

    def __init__(self, both: Live, pair: Pair) -> None:
        self.both = both
        self.pair = pair

    def sent(self) -> dict[str, str]:
        """Every order of the node at the exchange: its client id and its status."""
        return {order.client_order_id: order.status for order in self.both._ours().values()}

    def post(self, client_order_id: str) -> threading.Thread:
        """An order to the first process from a caller of its own, who may hear nothing."""

        def call() -> None:
            body: dict[str, Any] = {"pair": "BTC_USDT", "exchange": "binance", "side": "buy", "type": "limit"}
            body |= {"quantity": "0.01", "price": 59_900, "clientOrderId": client_order_id}
            try:
                httpx.post(
                    f"{self.pair.first.http.base_url}/api/orders",
                    json=body,
                    headers={"authorization": self.pair.first.http.headers["authorization"]},
                    timeout=60,
                    trust_env=False,
                )
            except httpx.TransportError:
                pass  # the process ended before it answered

        caller = threading.Thread(target=call)
        caller.start()
        return caller

    def succeeded(self) -> None:
        """Wait until the second process is the writer; from here on `both` asks it."""
        wait_for(lambda: role(self.pair.second) == "writer", "a takeover")
        self.both.service = self.pair.second


@pytest.fixture(params=["ahead", "behind"])
def trading(
    request: pytest.FixtureRequest, exchange: ExchangeProcess, shared: RedisProcess, tmp_path: Path
) -> Iterator[Trading]:
    folder = tmp_path / "first"
    folder.mkdir()
    both = Live(exchange, folder)
    first = both.service
    first.settings |= {"REDIS_URL": shared.url, "DURABILITY": request.param}
    second = twin(first, tmp_path / "second")
    try:
        first.start()
        second.spawn()
        await_standby(second)
        yield Trading(both, Pair(first, second))
    finally:
        if first.process is not None and first.process.poll() is None:
            first.process.send_signal(signal.SIGCONT)
        for service in (second, first):
            service.close()
        for sdk in (both.first, both.second):
            sdk._session.close()


def test_an_order_that_came_while_it_slept_is_not_sent_by_the_one_that_wakes(trading: Trading) -> None:
    pair = trading.pair
    before = [trading.both.placed(price=59_800) for _ in range(3)]
    trading.both.agree()
    pair.send(signal.SIGSTOP)
    caller = trading.post("while-it-slept")
    trading.succeeded()
    wait_for(lambda: is_ready(pair.second), "ready")
    after = trading.both.placed(price=59_850)
    trading.both.service.order_when(after, "open")
    sent = trading.sent()
    pair.send(signal.SIGCONT)
    assert pair.ended() == 3
    caller.join()
    assert trading.sent() == sent, "nothing came from the one that woke"
    assert {*before, after} <= set(trading.both.agree()["orders"])


def test_an_answer_of_redis_that_is_read_after_a_takeover_sends_nothing(trading: Trading, shared: RedisProcess) -> None:
    pair = trading.pair
    trading.both.placed(price=59_800)
    trading.both.agree()
    mine = next(iter(trading.sent())).rpartition("-")[2]

    def sent() -> set[str]:
        """What the first process has sent."""
        return {client_id for client_id in trading.sent() if client_id.endswith(f"-{mine}")}

    order_id = ""
    callers: list[threading.Thread] = []
    while not order_id:
        shared.send(signal.SIGSTOP)
        callers.append(trading.post(f"try-{len(callers)}"))
        order_id = asleep_before_the_answer(pair, shared, callers[-1], f"try-{len(callers) - 1}")
    trading.succeeded()
    before = sent()
    behind = pair.first.settings["DURABILITY"] == "behind"
    assert (order_id in {order_id_of(client_id, "main") for client_id in before}) == behind, "behind, it left at once"
    pair.send(signal.SIGCONT)
    assert pair.ended() == 3
    for caller in callers:
        caller.join()
    assert sent() == before
    trading.both.agree()


def asleep_before_the_answer(pair: Pair, shared: RedisProcess, caller: threading.Thread, name: str) -> str:
    """Stop the first process when Redis has its commit of this order and it has not read the answer; the order's id.
    Empty where another commit was on its way, or the order was refused: then all go on as if nothing had been."""
    first = pair.first
    path = f"/api/orders/client/{name}"
    wait_for(lambda: first.http.get(path).status_code == 200 or not caller.is_alive(), "the order is taken or refused")
    pair.send(signal.SIGSTOP)
    shared.send(signal.SIGCONT)
    shared.client.ping()
    rows = shared.client.hgetall("tbx:main:orders")
    found = [key.decode() for key, row in rows.items() if name.encode() in row]  # type: ignore[union-attr]
    if not found:
        pair.send(signal.SIGCONT)
        wait_for(lambda: is_ready(first), "ready again")
    return "".join(found)
