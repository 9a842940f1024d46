"""The feed over real WebSockets: live, resumed, with gaps, slow, wrong, and at the end. Resume reads a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tbx.core.kernel.outbox import Event
from tbx.http import feed as feed_module
from tbx.http.feed import (
    COALESCE_AT,
    GOING_AWAY,
    MESSAGE_MAX,
    QUEUE_MAX,
    SLOW,
    TOO_LARGE,
    TRY_LATER,
    UNAUTHORIZED,
    Client,
)

from .redis_fixtures import a_redis, a_store, in_loop, until
from .service_fixtures import Served, a_service
from .test_http_gate import keys

pytestmark = pytest.mark.connectivity
Message = dict[str, Any]


async def ask(socket: ClientConnection, **message: Any) -> Message:
    """Send a request and return the next message that is no event."""
    await socket.send(json.dumps(message))
    return await until_op(socket)


async def until_op(socket: ClientConnection, op: str | None = None) -> Message:
    while True:
        message: Message = json.loads(await socket.recv())
        if "op" in message and op in (None, message["op"]):
            return message


async def events(socket: ClientConnection, enough: Callable[[list[Message]], bool]) -> list[Message]:
    """Messages of channels, until there are enough."""
    found: list[Message] = []
    while not enough(found):
        message = json.loads(await socket.recv())
        if "channel" in message:
            found.append(message)
    return found


async def everything(socket: ClientConnection) -> tuple[list[Message], int]:
    """What comes until the server hangs up, and with which code it does."""
    found: list[Message] = []
    try:
        while True:
            found.append(json.loads(await socket.recv()))
    except ConnectionClosed as closed:
        return found, closed.rcvd.code if closed.rcvd is not None else 1006


def last_is(seq: int) -> Callable[[list[Message]], bool]:
    return lambda found: bool(found) and found[-1]["seq"] >= seq


@contextlib.asynccontextmanager
async def a_durable_service(folder: Path, **options: Any) -> AsyncIterator[Served]:
    async with a_redis(folder) as redis, a_store(redis.address, **options) as store:
        async with a_service(folder, store=store) as service:
            yield service


async def settled(service: Served) -> int:
    """The seq once everything that happened is committed and nothing is open."""
    kernel = service.node.kernel
    await until(lambda: not service.node.orders.open and kernel.committed_seq == kernel.outbox.seq, "quiet")
    return kernel.committed_seq


@in_loop
async def test_a_subscriber_sees_the_life_of_an_order_in_order(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        answer = await ask(socket, op="subscribe", channels=["orders", "trades", "positions"])
        channels = ["orders", "trades", "positions"]
        assert answer == {"op": "subscribed", "channels": channels, "epoch": "j1", "seq": answer["seq"]}
        placed = (await service.order()).json()
        seen = await events(socket, lambda found: any(e["channel"] == "positions" for e in found))
        assert [e["seq"] for e in seen] == sorted({e["seq"] for e in seen})
        orders = [e for e in seen if e["channel"] == "orders"]
        assert (orders[0]["type"], orders[-1]["type"]) == ("OrderSubmitted", "OrderFilled")
        assert {e["data"]["orderId"] for e in orders} == {placed["orderId"]}
        assert {e["type"] for e in seen if e["channel"] == "trades"} == {"TradeExecuted"}


@in_loop
async def test_requests_are_answered_and_wrong_ones_keep_the_connection(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        assert await ask(socket, op="ping") == {"op": "pong"}
        for raw in ("{", "[]", "5", "", '{"op":5}', '{"op":"subscribe","channels":"orders"}', '{"no":1}', "[" * 10_000):
            await socket.send(raw)
            assert (await until_op(socket))["code"] == "BAD_MESSAGE", raw
        await socket.send(b"\xff\x00")
        assert (await until_op(socket))["code"] == "BAD_MESSAGE"
        unknown = await ask(socket, op="subscibe", channels=["orders"])
        assert unknown["code"] == "UNKNOWN_OP"
        assert "did you mean subscribe?" in unknown["detail"]
        assert (await ask(socket, op="subscribe", channels=["book:FOO_BAR"]))["code"] == "UNKNOWN_CHANNEL"
        assert (await ask(socket, op="subscribe", channels=[]))["code"] == "REQUIRED"
        await ask(socket, op="subscribe", channels=["orders", "trades"])
        listed = await ask(socket, op="list")
        assert listed["subscribed"] == ["orders", "trades"]
        assert "book:RVN_USDT" in listed["channels"]
        assert (await ask(socket, op="unsubscribe", channels=["trades"]))["op"] == "unsubscribed"
        assert (await ask(socket, op="list"))["subscribed"] == ["orders"]
        await socket.send("x" * (MESSAGE_MAX + 1))
        assert await everything(socket) == ([], TOO_LARGE)
    assert service.log.lines == []


@in_loop
async def test_pictures_of_books_portfolio_and_health_come_by_themselves(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        channels = ["book:RVN_USDT", "portfolio", "health"]
        await ask(socket, op="subscribe", channels=channels)
        seen = await events(socket, lambda found: {e["channel"] for e in found} == set(channels) and len(found) > 4)
        assert {e["type"] for e in seen} == {"Snapshot"}
        data = {e["channel"]: e["data"] for e in seen}
        assert data["book:RVN_USDT"]["bids"]
        assert data["portfolio"]["summary"]["totalValue"] == 50_000
        assert data["health"]["status"] == "healthy"
    await until(lambda: not service.app.feed._listeners and not service.app.feed._timers, "nobody looks any more")


@in_loop
async def test_what_was_missed_comes_first_and_once_while_more_keeps_coming(tmp_path: Path) -> None:
    async with a_durable_service(tmp_path) as service:
        feed_module_entries, feed_module.RESUME_ENTRIES = feed_module.RESUME_ENTRIES, 2
        try:
            async with connect(service.ws) as witness, connect(service.ws) as late:
                await ask(witness, op="subscribe", channels=["orders", "trades"])
                await asyncio.gather(*(service.order() for _ in range(5)))
                middle = await settled(service)
                stop = asyncio.Event()

                async def go_on() -> None:
                    while not stop.is_set():
                        await service.order(quantity=300)

                traffic = asyncio.create_task(go_on())
                resume = {"epoch": "j1", "seq": 3}
                answer = await ask(late, op="subscribe", channels=["orders", "trades"], resume=resume)
                assert (answer["op"], answer["seq"] >= middle) == ("subscribed", True)
                resumed = await events(late, last_is(answer["seq"] + 30))
                stop.set()
                await traffic
                end = await settled(service)
                resumed += await events(late, last_is(end - 1))
                whole = await events(witness, last_is(resumed[-1]["seq"]))
                assert resumed == [e for e in whole if 3 < e["seq"] <= resumed[-1]["seq"]]
        finally:
            feed_module.RESUME_ENTRIES = feed_module_entries


class BusyJournal:
    """A journal during whose reading another order is placed and committed."""

    def __init__(self, service: Served, orders: int) -> None:
        self.service = service
        self.orders = orders
        self.journal = service.app.feed.journal

    async def journal_since(self, seq: int, limit: int) -> list[tuple[int, bytes]] | None:
        entries = await self.journal.journal_since(seq, 1)
        if self.orders:
            self.orders -= 1
            await self.service.resting()
        return entries


@in_loop
async def test_what_comes_while_the_journal_is_read_follows_it(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as witness, connect(service.ws) as late:
        await ask(witness, op="subscribe", channels=["orders"])
        for _ in range(3):
            await service.resting()
        service.app.feed.journal = BusyJournal(service, 2)
        answer = await ask(late, op="subscribe", channels=["orders"], resume={"epoch": "j1", "seq": 0})
        whole = await events(witness, lambda found: len({e["data"]["orderId"] for e in found}) == 5)
        assert whole[-1]["seq"] > answer["seq"]
        assert await events(late, last_is(whole[-1]["seq"])) == whole


@in_loop
async def test_a_snapshot_leaves_behind_the_commit_of_what_it_shows(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        service.commits.hold()
        placing = asyncio.create_task(service.order(type="limit", price="0.02"))
        await until(lambda: bool(service.node.orders.orders), "the order")
        await ask(socket, op="subscribe", channels=["orders", "portfolio"], resume={"epoch": "other", "seq": 0})
        assert (await until_op(socket))["op"] == "gap"
        await socket.send('{"op":"ping"}')
        assert json.loads(await socket.recv()) == {"op": "pong"}, "nothing that is not committed came before"
        service.commits.release()
        seen = await events(
            socket, lambda found: {e["channel"] for e in found} == {"orders", "portfolio"} and len(found) > 2
        )
        orders = [e for e in seen if e["channel"] == "orders"]
        assert [e["type"] for e in orders[:2]] == ["Snapshot", "OrderAccepted"]
        assert orders[0]["data"][0]["orderId"] == (await placing).json()["orderId"]
        assert orders[0]["seq"] < orders[1]["seq"], "what the snapshot shows is not told again"


@in_loop
async def test_a_client_that_comes_back_misses_nothing_and_sees_nothing_twice(tmp_path: Path) -> None:
    async with a_durable_service(tmp_path) as service, connect(service.ws) as witness:
        await ask(witness, op="subscribe", channels=["orders"])
        seen: list[Message] = []
        seq = service.node.kernel.committed_seq
        for _ in range(4):
            async with connect(service.ws) as socket:
                await ask(socket, op="subscribe", channels=["orders"], resume={"epoch": "j1", "seq": seq})
                await asyncio.gather(*(service.order() for _ in range(3)))
                seen += await events(socket, lambda found: len(found) >= 4)
                seq = seen[-1]["seq"]
        assert seen == await events(witness, last_is(seq))


@in_loop
async def test_resume_on_the_spot_sends_nothing_old(tmp_path: Path) -> None:
    async with a_durable_service(tmp_path) as service, connect(service.ws) as socket:
        await service.order()
        seq = await settled(service)
        await ask(socket, op="subscribe", channels=["orders"], resume={"epoch": "j1", "seq": seq})
        await service.order()
        first = (await events(socket, lambda found: bool(found)))[0]
        assert first["seq"] > seq


OTHER_EPOCH, FUTURE, NEGATIVE = ({"epoch": e, "seq": n} for e, n in (("other", 1), ("j1", 10**9), ("j1", -1)))


@pytest.mark.parametrize("resume", [OTHER_EPOCH, FUTURE, NEGATIVE])
def test_another_epoch_or_an_impossible_seq_is_a_gap_with_snapshots(tmp_path: Path, resume: dict[str, Any]) -> None:
    @in_loop
    async def run() -> None:
        async with a_service(tmp_path) as service, connect(service.ws) as socket:
            await service.order()
            await until(lambda: not service.node.orders.open, "a fill")
            resting = await service.resting()
            channels = ["orders", "trades", "positions"]
            await ask(socket, op="subscribe", channels=channels, resume=resume)
            gap = await until_op(socket, "gap")
            assert (gap["epoch"], gap["channels"]) == ("j1", channels)
            snapshots = await events(socket, lambda found: len(found) == 3)
            assert [(e["channel"], e["type"]) for e in snapshots] == [(name, "Snapshot") for name in channels]
            assert [order["orderId"] for order in snapshots[0]["data"]] == [resting["orderId"]]
            assert snapshots[1]["data"]
            assert snapshots[2]["data"][0]["pair"] == "RVN_USDT"
            later = await service.resting()
            assert (await events(socket, lambda found: bool(found)))[0]["data"]["orderId"] == later["orderId"]

    run()


@in_loop
async def test_events_that_are_no_longer_held_are_a_gap(tmp_path: Path) -> None:
    async with a_durable_service(tmp_path, journal_max=1) as service, connect(service.ws) as socket:
        for _ in range(150):  # Redis trims whole nodes of a hundred
            await service.order(quantity=300)
        await settled(service)
        await ask(socket, op="subscribe", channels=["orders"], resume={"epoch": "j1", "seq": 1})
        assert (await until_op(socket))["op"] == "gap"


@in_loop
async def test_a_client_that_does_not_read_is_dropped_and_slows_nobody(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as quick:
        await ask(quick, op="subscribe", channels=["orders"])
        slow = await connect(service.ws, max_queue=1)
        await ask(slow, op="subscribe", channels=["orders"])
        (client,) = (c for c in service.app.feed._listeners["orders"][1:])
        slow.transport.pause_reading()
        frame = b'{"channel":"orders","seq":%d,"type":"Noise","data":"' + b"x" * 500 + b'"}'
        sent = 0
        while client.close_code is None:
            noise = [Event(sent + n, "orders", "Noise", b"", frame % (sent + n)) for n in range(500)]
            service.app.feed.committed(noise)
            sent += 500
            got = await events(quick, lambda found: len(found) == 500)
            assert [e["seq"] for e in got] == list(range(sent - 500, sent))
            assert sent < 10 * QUEUE_MAX, "never dropped"
        assert client.close_code == SLOW
        await until(lambda: client not in service.app.feed.clients, "the client to be forgotten")
        slow.transport.resume_reading()
        _, code = await everything(slow)
        assert code == SLOW
        assert await ask(quick, op="ping") == {"op": "pong"}


def test_a_full_queue_gives_up_positions_before_it_gives_up_the_client() -> None:
    client = Client(frozenset({"read"}), "")
    for number in range(COALESCE_AT):
        client.put("positions" if number % 2 else "orders", str(number))
    assert client.stale == set()
    client.put("orders", "last")
    assert client.stale == {"positions"}
    assert len(client.queue) == COALESCE_AT // 2 + 1
    assert client.queue_bytes == sum(len(text) for _, text in client.queue)
    taken = [client.take() for _ in range(COALESCE_AT // 2 + 1)]
    assert taken == [*(str(n) for n in range(0, COALESCE_AT, 2)), "last"]
    assert (client.take(), client.close_code, client.queue_bytes) == (None, None, 0)


def test_only_the_newest_picture_waits_for_a_client() -> None:
    client = Client(frozenset({"read"}), "")
    client.put("orders", "event")
    client.pictures["portfolio"] = "old"
    client.pictures["portfolio"] = "new"
    assert [client.take() for _ in range(3)] == ["event", "new", None]


def test_a_queue_that_overflows_is_dropped_whole() -> None:
    client = Client(frozenset({"read"}), "")
    for number in range(QUEUE_MAX + 1):
        client.put("orders", str(number))
    assert (client.close_code, len(client.queue)) == (SLOW, 0)


@in_loop
async def test_a_coalesced_channel_comes_back_as_a_snapshot(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        await ask(socket, op="subscribe", channels=["positions"])
        (client,) = service.app.feed.clients
        client.stale.add("positions")
        client.wake.set()
        (snapshot,) = await events(socket, lambda found: bool(found))
        assert (snapshot["channel"], snapshot["type"], snapshot["data"]) == ("positions", "Snapshot", [])


@in_loop
async def test_where_keys_are_set_the_feed_asks_for_one(tmp_path: Path, monkeypatch: Any) -> None:
    async with a_service(tmp_path, keys(looker="read", trader="trade")) as service:
        async with connect(service.ws) as socket:
            assert (await ask(socket, op="subscribe", channels=["orders"]))["code"] == "UNAUTHORIZED"
            assert await ask(socket, op="ping") == {"op": "pong"}
            assert (await ask(socket, op="auth", key="trader"))["scopes"] == ["trade"]
            assert (await ask(socket, op="subscribe", channels=["orders"]))["code"] == "UNAUTHORIZED"
            assert await ask(socket, op="auth", key="looker") == {"op": "authenticated", "scopes": ["read"]}
            assert (await ask(socket, op="subscribe", channels=["orders"]))["op"] == "subscribed"
        async with connect(service.ws, additional_headers={"authorization": "Bearer looker"}) as socket:
            assert (await ask(socket, op="subscribe", channels=["orders"]))["op"] == "subscribed"
        async with connect(service.ws) as socket:
            for _ in range(3):
                assert (await ask(socket, op="auth", key="guess"))["code"] == "UNAUTHORIZED"
            assert await everything(socket) == ([], UNAUTHORIZED)
        monkeypatch.setattr("tbx.http.feed.AUTH_WAIT_S", 0.01)
        async with connect(service.ws) as socket:
            assert await everything(socket) == ([], UNAUTHORIZED)


@in_loop
async def test_pages_from_elsewhere_get_no_feed(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
            with pytest.raises(InvalidStatus) as refused:
                await connect(service.ws, additional_headers=headers)
            assert refused.value.response.status_code == 403
        async with connect(service.ws, origin="http://localhost:3005") as socket:
            assert await ask(socket, op="ping") == {"op": "pong"}


@in_loop
async def test_clients_are_bounded_and_hear_heartbeats(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tbx.http.feed.CLIENTS_MAX", 1)
    monkeypatch.setattr("tbx.http.feed.HEARTBEAT_S", 0.01)
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        beat = await until_op(socket, "heartbeat")
        assert beat.keys() == {"op", "seq", "timestamp"}
        async with connect(service.ws) as another:
            assert await everything(another) == ([], TRY_LATER)


@in_loop
async def test_the_service_says_goodbye_after_what_waits(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        await ask(socket, op="subscribe", channels=["orders"])
        await service.resting()
        await service.app.close()
        seen, code = await everything(socket)
        assert seen[0]["type"] == "OrderSubmitted"
        assert seen[-1] == {"op": "shutdown"}
        assert code == GOING_AWAY


@in_loop
async def test_while_the_store_is_away_nothing_uncommitted_is_shown(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service, connect(service.ws) as socket:
        await ask(socket, op="subscribe", channels=["orders", "portfolio"])
        service.store.down = True
        await service.order(clientOrderId="dark")
        assert await ask(socket, op="ping") == {"op": "pong"}
        service.store.down = False
        seen = await events(socket, lambda found: any(e["channel"] == "orders" for e in found))
        assert [e["data"]["clientOrderId"] for e in seen if e["channel"] == "orders"] == ["dark"]
