"""What happened to users of other systems, the second half of `test_orders_peers.py`.

Streams that look well, orders that reduce, callbacks that raise, shared limits; then real processes, where one matters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tbx.core.model.messages import OrderFilled, Submitted

from .exchange_process import ExchangeProcess
from .live_desk import BTC, ETH, MIRROR_NS, LiveDesk, refused
from .live_processes import AGREE_S, API_KEY, Live, an_exchange, live, wait_for
from .native_desk import NativeDesk
from .test_orders_peers import COIN, NEVER_MS, filled, finish, frames, quantity

pytestmark = [pytest.mark.orders, pytest.mark.exchanges, pytest.mark.connectivity]


@pytest.fixture
def desk(tmp_path: Path) -> LiveDesk:
    return LiveDesk(tmp_path)


@pytest.fixture
def poor(tmp_path: Path) -> NativeDesk:
    """An account without spare coins."""
    return NativeDesk(tmp_path)


# --- a stream that looked well


def test_a_market_order_whose_fill_was_never_told_is_known_soon_all_the_same(desk: LiveDesk) -> None:
    """LEAN Alpaca 28: the order was acknowledged and filled; its event never came, and it stayed submitted."""
    other = desk.order("buy", "0.5", price=59_990)
    desk.local.switch(f"mute_after:n=1,on=order.place;late_reports:ms={NEVER_MS},n=2")
    order = desk.sent("buy", "0.5")
    desk.wait(100)
    desk.deal(BTC, "SELL", 59_990, "0.5")
    desk.until(lambda: desk.state(other) == "FILLED", "the stream goes on", 5)
    assert desk.state(order) == "SENT" and desk.one(order).status == "FILLED"
    desk.until(lambda: desk.state(order) == "FILLED", "it is known", 15)
    assert quantity(desk) == COIN and desk.attempts(order) == [1]
    finish(desk)


def test_a_sale_whose_only_report_was_lost_is_not_sold_again_and_again(poor: NativeDesk) -> None:
    """TradeStation 101: a frame was missing; the position was flat there, stood here, and was sold in a loop."""
    desk = poor
    desk.order("buy", "0.5")
    sale = desk.order("sell", "0.4995", price=60_010)
    desk.local.switch(f"late_reports:ms={NEVER_MS},n=1")
    desk.deal(BTC, "BUY", 60_010, "0.4995")
    desk.wait(200)
    assert desk.state(sale) == "LIVE" and not desk.one(sale).open and desk.held("BTC") == 0
    eth = desk.order("buy", "1", pair=ETH)
    assert desk.state(eth) == "FILLED", "all else is told"
    before = len(frames(desk, "order.place"))
    for _ in range(20):
        desk.cancel(sale) if not desk.get(sale).ended else None
        answer = desk.close() if quantity(desk) else None
        assert not isinstance(answer, Submitted), "sold once more"
        desk.wait(1_000)
    assert desk.state(sale) == "FILLED" and quantity(desk) == 0
    assert len(frames(desk, "order.place")) == before and desk.corrections() == []
    finish(desk)


# --- what reduces


def test_whoever_has_put_all_his_money_into_a_position_can_close_it(poor: NativeDesk) -> None:
    """nautilus 2986: a cash account that was all in could not sell: the notional exceeded the free balance."""
    desk = poor
    desk.fill_book(BTC, 60_000, "30")
    desk.mirror()
    desk.deposit("USDT", str(60_060 - desk.held("USDT")))
    desk.wait(100)
    desk.order("buy", "1", price=60_060)
    assert desk.total("USDT") == desk.held("USDT") == 0 and quantity(desk) == COIN
    answer = desk.close()
    assert isinstance(answer, Submitted), answer
    desk.wait(50)
    assert quantity(desk) == 0 and desk.held("BTC") == 0 and desk.held("USDT") > 59_000
    finish(desk)


def test_a_stop_passes_where_growing_is_refused_and_there_is_no_cash(tmp_path: Path) -> None:
    """nautilus 3256: a stop that sells a position was checked against free cash, and refused."""
    desk = NativeDesk(tmp_path, MAX_DAILY_LOSS="0.0001")
    desk.order("buy", "1")
    desk.go_to(59_000)
    desk.wait(1_000)
    answer = desk.submit("buy", "0.001", price=50_000)
    assert refused(answer) == "TRADING_LIMITED" and "MAX_DAILY_LOSS" in answer.detail
    desk.deposit("USDT", str(-desk.held("USDT")))
    desk.wait(100)
    stop = desk.order("sell", "0.4", type="stop_loss", stop_price=58_500)
    limit = desk.order("sell", "0.2", price=59_500)
    assert desk.state(stop) == "HELD" and desk.state(limit) == "LIVE"
    desk.go_to(58_000)
    desk.wait(2_000)
    assert desk.state(stop) == "FILLED" and quantity(desk) == COIN - Decimal("0.4")
    desk.cancel(limit)
    assert isinstance(desk.close(), Submitted)
    desk.wait(50)
    assert quantity(desk) == 0
    finish(desk)


# --- a callback that raises


def test_a_callback_that_raises_stops_new_orders_and_nothing_else_and_is_seen(desk: LiveDesk) -> None:
    """nautilus 5039: exceptions of 23 callbacks were dropped, and trading went on as if nothing had been."""
    order, other = desk.order("buy", "0.3", price=59_990), desk.order("buy", "0.2", price=59_900)

    def broken(message: OrderFilled) -> None:
        raise ZeroDivisionError("a bug in a callback")

    desk.node.kernel.bus.subscribe(OrderFilled, broken)
    for number in (1, 2):
        desk.deal(BTC, "SELL", 59_990, "0.1")
        desk.wait()
        assert len(desk.faults) == number and "a bug in a callback" in desk.faults[-1]
        assert filled(desk, order) == number * Decimal("0.1"), "the fills themselves flow"
    kernel = desk.node.kernel
    assert desk.node.guard.state.value == "HALTED" and kernel.fault_count == 2
    assert "a bug in a callback" in next(c.why for c in kernel.conditions.held if c.name == "fault")
    answer = desk.submit("buy", "0.1", price=59_000)
    assert refused(answer) == "TRADING_LIMITED" and "a bug in a callback" in answer.detail
    desk.cancel(other)
    assert desk.state(other) == "CANCELLED" and not desk.one(other).open
    told = [data for kind, data in desk.events("health") if "a bug in a callback" in str(data)]
    assert told, "it is in the journal"
    desk.faults.clear()
    finish(desk)
    assert quantity(desk) == Decimal("0.2") * COIN
    desk.restart()
    finish(desk)
    assert desk.node.guard.state.value == "ACTIVE"


# --- a limit that several processes share


class Neighbour(LiveDesk):
    """One more node, of another name and with a store of its own, on the account and the address of the first."""

    def __init__(self, first: LiveDesk, node_id: str, folder: Path) -> None:
        self.__dict__.update(first.__dict__)
        self.settings = self._settings(folder, {"NODE_ID": node_id})
        self.store = self._new_store()
        self.archived, self.faults, self.troubles, self.answers = {}, [], [], []
        self.process, self.foreign, self._shown = 0, 1, {}
        self._start()
        self.world.call_in(MIRROR_NS, self._mirror_again)
        self.until(lambda: not self.node.engine.unavailable("binance"), "orders can be sent")


def test_six_nodes_behind_one_address_stay_within_its_limit_whatever_they_have_to_ask(tmp_path: Path) -> None:
    """freqtrade 12441: six bots on one server, each sure that the whole request weight was its own: banned with 418."""
    first = LiveDesk(tmp_path, limited=True)
    first.foreign = 1
    nodes = [first, *(Neighbour(first, f"n{number}", tmp_path) for number in range(5))]
    local, address = first.local, first.local.limits.address("127.0.0.1")
    for number in range(90):
        node = nodes[number % 6]
        node.command(node.submission("buy", "0.001", price=58_000 + number))
    first.wait(1_000)
    most = 0
    for second in range(150):
        if second % 10 == 0:
            first.cut()  # of all: each asks what became of its orders, balances and trades
        first.wait(1_000)
        most = max(most, address.weight.at(local.now_ms()))
        assert address.violations.at(local.now_ms()) == 0 == address.banned_until_ms
    assert most > local.limits.rates.weight * 3 // 4, "together they had more to ask than there was room for"
    for node in nodes:
        finish(node)
    assert address.bans == 0 and [len(node.theirs()) for node in nodes] == [15] * 6


# --- real processes


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeProcess]:
    with an_exchange() as process:
        yield process


@pytest.fixture(scope="module")
def both(exchange: ExchangeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(exchange, tmp_path_factory.mktemp("peers")) as process:
        yield process


def to_price(both: Live, last: int) -> None:
    """The market of BTC goes there and trades."""
    control = both.exchange.control
    depth = httpx.get(f"{both.exchange.url_rest}/api/v3/depth?symbol=BTCUSDT", trust_env=False).json()
    for side, levels in (("BUY", depth["bids"]), ("SELL", depth["asks"])):
        for price, _ in levels:
            control("quote", symbol="BTCUSDT", side=side, price=price, qty="0")
    for step in (1, 2, 3):
        control("quote", symbol="BTCUSDT", side="BUY", price=str(last - 60 * (step - 1)), qty="5")
        control("quote", symbol="BTCUSDT", side="SELL", price=str(last + 60 * step), qty="5")
    control("deal", symbol="BTCUSDT", side="SELL", price=str(last), qty="0.001")


def sees(both: Live, last: int) -> None:
    """Wait until the service has heard of it."""

    def best() -> bool:
        books = both.http.get("/api/book/BTC_USDT").json()
        return bool(books["bids"]) and float(books["bids"][0]["price"]) == last

    wait_for(best, f"a bid at {last}")


def test_a_caller_who_heard_nothing_and_a_service_that_died_make_one_order(both: Live) -> None:
    """freqtrade 13332: the order was at the exchange, its answer was lost, and whoever tried again had two."""
    spec = f"mute_after:n=2,on=order.place;late_reports:ms={NEVER_MS}"
    both.exchange.control("faults", spec=spec)
    wanted: list[dict[str, Any]] = [{"price": 59_900, "clientOrderId": "rests"}, {"clientOrderId": "takes"}]
    first = [both.order("buy", "0.02", **body).json()["orderId"] for body in wanted]
    wait_for(lambda: all(f["fired"] for f in both.exchange.control()["faults"]), "both are at the exchange")
    both.service.kill()
    both.exchange.control("faults", clear=True)
    both.service.start()
    for order_id, body in zip(first, wanted, strict=True):
        answer = both.order("buy", "0.02", **body)
        assert (answer.status_code, answer.json()["orderId"]) == (200, order_id), answer.text
    said = both.agree()
    assert {i: said["orders"][i] for i in first} == {first[0]: (0, True), first[1]: (Decimal("0.02"), False)}
    assert len(both._ours()) == len(both.seen) + 2, "there are two orders at the exchange, not four"
    both.http.delete("/api/orders")
    both.agree()


@pytest.mark.parametrize("end", ["crash", "reboot"])
def test_stops_and_targets_are_there_after_the_process_is(both: Live, end: str) -> None:
    """hummingbot-api 243, OctoBot 3190: killed, or started again in good order, and stop and target were gone."""
    to_price(both, 60_000)
    sees(both, 60_000)
    levels = {"stopLoss": 59_000, "takeProfit": 62_000}
    watched = {trigger: both.placed("buy", "0.1", trigger=trigger, **levels) for trigger in ("bid_ask", "last")}
    for order_id in watched.values():
        wait_for(lambda i=order_id: order_of(both, i)["protectedQuantity"] == 0.0999, "its exits cover it")

    def all_exits() -> dict[str, Any]:
        return {order_id: exits(both, order_id) for order_id in watched.values()}

    def on_their_way() -> bool:
        return any(status == "submitted" for of_one in all_exits().values() for _, status, *_ in of_one)

    wait_for(lambda: not on_their_way(), "the exchange has the pair")
    before = all_exits()
    both.agree()
    if end == "crash":
        both.service.kill()
    else:
        assert both.service.stop() == 0
    both.service.start()
    both.agree()
    wait_for(lambda: not on_their_way(), "the exchange has said so again")
    assert all_exits() == before
    assert [order_of(both, i)["protectedQuantity"] for i in watched.values()] == [0.0999] * 2
    if end == "crash":
        to_price(both, 58_900)
        sold, left = "stopLoss", "takeProfit"
    else:
        both.service.kill()
        to_price(both, 62_100)  # while nobody is there
        both.service.start()
        to_price(both, 62_100)
        sold, left = "takeProfit", "stopLoss"
    for order_id in watched.values():
        linked = order_of(both, order_id)["linkedOrders"]
        both.service.order_when(linked[sold], "filled")
        both.service.order_when(linked[left], "cancelled")
    both.agree()
    assert order_of(both, watched["last"])["protectedQuantity"] == 0


def order_of(both: Live, order_id: str) -> dict[str, Any]:
    document: dict[str, Any] = both.http.get(f"/api/orders/{order_id}").json()
    return document


def exits(both: Live, order_id: str) -> list[tuple[Any, ...]]:
    """Id, status, quantity and price of both."""
    legs = [order_of(both, leg) for leg in order_of(both, order_id)["linkedOrders"].values()]
    return [(leg["orderId"], leg["status"], leg["quantity"], leg["stopPrice"]) for leg in legs]


def listener(both: Live) -> ClientConnection:
    url = both.service.http.base_url.copy_with(scheme="ws", path="/ws")
    return connect(str(url), additional_headers={"authorization": f"Bearer {API_KEY}"})


def hear(socket: ClientConnection, trades: int) -> tuple[list[str], int]:
    """So many trades, by the exchange's ids, and the seq of the last."""
    found: list[str] = []
    seq, deadline = 0, time.monotonic() + AGREE_S  # heartbeats go on
    while len(found) < trades:
        message = json.loads(socket.recv(timeout=max(0.0, deadline - time.monotonic())))
        assert message.get("op") != "gap", message
        if message.get("channel") == "trades":
            assert message["seq"] > seq, "in order, and once"
            seq = message["seq"]
            found.append(str(message["data"]["tradeId"]))
    return found, seq


def subscribe(both: Live, socket: ClientConnection, **more: Any) -> dict[str, Any]:
    socket.send(json.dumps({"op": "subscribe", "channels": ["trades"], **more}))
    while True:
        message: dict[str, Any] = json.loads(socket.recv(timeout=20))
        if message.get("op") == "subscribed":
            return message


def test_a_listener_who_was_deaf_for_a_while_hears_each_trade_once_and_the_api_has_them_too(both: Live) -> None:
    """LEAN Alpaca 28, TradeStation 101: a fill was missing on a stream whose heartbeats went on: lost for good."""
    to_price(both, 60_000)
    sees(both, 60_000)
    start = len(both.get("/api/trades?limit=500")["trades"])
    with listener(both) as socket:
        epoch = subscribe(both, socket)["epoch"]
        for _ in range(2):
            both.placed("buy", "0.01")
        heard, seq = hear(socket, 2)
    for _ in range(3):  # while nobody listens, and one of them before a crash
        both.service.order_when(both.placed("buy", "0.01"), "filled")
    both.service.kill()
    both.service.start()
    with listener(both) as socket:
        subscribe(both, socket, resume={"epoch": epoch, "seq": seq})
        both.placed("buy", "0.01")
        missed, _ = hear(socket, 4)
    rows = both.get("/api/trades?limit=500")["trades"]
    told = [str(row["tradeId"]) for row in rows]
    assert len(told) == start + 6 and len(set(told)) == len(told)
    assert sorted(heard + missed, key=int) == heard + missed and set(heard + missed) == set(told[:6])
    both.agree()
