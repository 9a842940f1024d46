"""Commands over Redis Streams when the service dies, loses its Redis, or is not the writer any more."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from tbx.core.kernel.outbox import encode_record
from tbx.core.risk.advice import RiskAnswer
from tbx.core.state.address import Address
from tbx.core.state.archive import Archive, ArchivedOrder
from tbx.http.archive import ArchivedHistory
from tbx.http.stream_commands import StreamCommands
from tbx.strategies_bridge.streams import CommandStream, Delivery, Outcome, _Session

from .kept_state import tbx
from .live_processes import wait_for
from .redis_fixtures import a_client, a_redis, in_loop, until
from .service_fixtures import a_service
from .service_process import ServiceProcess
from .standby_processes import RedisProcess, a_redis_process
from .stream_client import Answered, StreamClient, buy, resting

ROUNDS = 6
SEED = 20260501
SMALL = {"maxRiskPercent": "0.00001"}
ROOMY = {"INITIAL_BALANCE": "1000000", "ORDER_RATE_LIMIT": "0", "PAPER_LATENCY_MS": "0"}  # no limit is met


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisProcess]:
    """Redis outlives the service."""
    with a_redis_process(tmp_path / "redis") as process:
        yield process


@pytest.fixture
def service(tmp_path: Path, server: RedisProcess) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path, REDIS_URL=server.url, **ROOMY)
    try:
        yield process.start()
    finally:
        process.close()


@pytest.fixture
def sender(server: RedisProcess) -> Iterator[StreamClient]:
    client = redis.Redis(unix_socket_path=str(server.socket), decode_responses=True)
    try:
        yield StreamClient(client)
    finally:
        client.close()


def events_of(sender: StreamClient) -> list[dict[str, Any]]:
    entries: Any = sender.redis.xrange("tbx:main:journal")
    return [event for _, fields in entries for event in json.loads(fields["events"])]


def test_every_command_has_one_effect_and_one_answer_whenever_the_service_is_killed(
    service: ServiceProcess, sender: StreamClient
) -> None:
    rng = random.Random(SEED)
    target = sender.ask("target", "order", resting()).body["orderId"]
    service.order_when(target, "open")
    kinds: dict[str, str] = {}
    sent = 0
    for number in range(ROUNDS):
        for _ in range(rng.randint(20, 150)):
            name = f"c{len(kinds)}"
            kinds[name] = rng.choices(("order", "amend", "signal"), (8, 1, 1))[0]
            body = resting("0.021") if rng.random() < 0.5 else buy(300, exchange="binance")
            if kinds[name] == "amend":
                body = {"orderId": target, "price": f"0.01{len(kinds) % 1000:03d}"}
            elif kinds[name] == "signal":
                body = {"pair": "RVN_USDT", "signal": "BUY", "stopLoss": "0.02", "riskParameters": SMALL}
            for _ in range(1 + (rng.random() < 0.1)):  # some are sent twice
                sender.send(name, kinds[name], body)
                sent += 1
        left = rng.randint(0, sender.waiting())
        while sender.waiting() > left:  # it carries out some of them before it dies
            assert service.process is not None and service.process.poll() is None, service.stderr()
        service.kill()
        kinds[f"down{number}"] = "order"
        sender.send(f"down{number}", "order", buy(300, exchange="binance"))
        sent += 1
        service.start()

    answers: dict[str, list[Answered]] = {}
    for answer in sender.next(sent):
        answers.setdefault(answer.id, []).append(answer)
    assert set(answers) == set(kinds) and sender.waiting() == 0
    assert len({answer.entry for found in answers.values() for answer in found}) == sent
    placed: dict[str, set[str]] = {}
    signals: list[str] = []
    amended = 0
    for event in events_of(sender):
        amended += event["type"] == "OrderAmendRequested"
        if event["channel"] == "signals":
            signals.append(event["data"]["clientSignalId"])
        if event["channel"] == "orders":
            placed.setdefault(event["data"]["clientOrderId"], set()).add(event["data"]["orderId"])
    taken = 0
    for name, kind in kinds.items():
        if kind == "order":
            assert {answer.status for answer in answers[name]} <= {200, 201}, answers[name]
            assert len(placed[name]) == 1, (name, placed[name])
        elif kind == "amend":
            taken += any(a.status in (200, 202) or a.body["code"] == "AMEND_LOST" for a in answers[name])
    assert taken == amended > 0
    assert sorted(signals) == sorted(name for name, kind in kinds.items() if kind == "signal")


def test_what_was_done_and_not_answered_is_not_done_again_after_a_crash(
    service: ServiceProcess, sender: StreamClient
) -> None:
    kept = sender.ask("kept", "order", resting()).body["orderId"]
    service.order_when(kept, "open")
    sender.redis.rename(sender.answers, "aside")
    sender.redis.set(sender.answers, "an answer cannot be written here")
    sender.send("sweep", "cancel_all")
    service.order_when(kept, "cancelled")
    other = service.order(**resting()).json()["orderId"]
    service.order_when(other, "open")
    sender.send("cheaper", "amend", {"orderId": other, "price": "0.019"})
    wait_for(lambda: service.http.get(f"/api/orders/{other}").json()["price"] == 0.019, "it is amended")
    service.http.patch(f"/api/orders/{other}", json={"price": "0.018"})
    sender.send("once", "order", buy())
    wait_for(lambda: service.http.get("/api/orders/client/once").status_code == 200, "it is bought")

    service.kill()
    sender.redis.delete(sender.answers)
    service.start()

    found = {answer.id: answer for answer in sender.next(3)}
    assert found["sweep"].status == 200 and [o["orderId"] for o in found["sweep"].body["orders"]] == [kept]
    assert (found["cheaper"].status, found["cheaper"].body["code"]) == (409, "AMEND_LOST")
    assert found["once"].status == 200
    order = service.http.get(f"/api/orders/{other}").json()
    assert (order["status"], order["price"]) == ("open", 0.018)
    assert sum(e["type"] == "OrderSubmitted" and e["data"]["clientOrderId"] == "once" for e in events_of(sender)) == 1
    sender.redis.delete("aside")


def test_commands_go_on_where_redis_was_away(
    service: ServiceProcess, sender: StreamClient, server: RedisProcess
) -> None:
    assert sender.ask("before", "order", buy()).status == 201
    sender.redis.client_kill_filter(_type="normal", skipme=True)
    assert sender.ask("cut", "order", buy()).status == 201
    server.send(signal.SIGSTOP)
    try:
        wait_for(lambda: service.http.get("/readyz").status_code == 503, "commits wait")
    finally:
        server.send(signal.SIGCONT)
    wait_for(lambda: service.http.get("/readyz").status_code == 200, "commits go on")
    assert sender.ask("paused", "order", buy()).status == 201
    sender.redis.delete(sender.commands)  # and with it its group
    assert sender.ask("anew", "order", buy()).status == 201


def test_a_stop_answers_what_is_under_way_and_leaves_the_rest_to_the_next_start(
    service: ServiceProcess, sender: StreamClient
) -> None:
    for number in range(200):
        sender.send(f"s{number}", "order", buy(100))
    assert service.stop() == 0
    waiting = sender.waiting()
    pending: Any = sender.redis.xpending(sender.commands, "tbx")
    assert pending["pending"] == 0, "each that was taken is answered"

    service.start()

    answers = sender.next(200)
    assert sorted(answer.id for answer in answers) == sorted(f"s{number}" for number in range(200))
    assert {answer.status for answer in answers} == {201} and waiting <= 200


def test_a_restore_drops_what_waits_in_the_streams_and_marks_come_back_with_the_state(
    service: ServiceProcess, sender: StreamClient
) -> None:
    sender.ask("sweep", "cancel_all")
    url = service.settings["REDIS_URL"]
    assert tbx(service.folder, "backup", "b.zip", REDIS_URL=url).returncode == 0
    sender.redis.xgroup_create("tbx:main:journal", "audit", "$")
    assert service.stop() == 0
    sender.send("of another past", "order", buy())

    done = tbx(service.folder, "restore", "b.zip", "--replace", REDIS_URL=url)
    assert done.returncode == 0, done.stderr
    assert not sender.redis.exists(sender.commands, sender.answers)
    assert sender.redis.xinfo_groups("tbx:main:journal") == []

    service.start()
    sender.seen = "0-0"
    kept = service.order(**resting()).json()["orderId"]
    assert sender.ask("sweep", "cancel_all").body["orders"] == []  # it was carried out in the state that came back
    assert service.order_when(kept, "open")


def test_a_key_of_the_streams_that_something_else_uses_refuses_the_start(tmp_path: Path, server: RedisProcess) -> None:
    server.client.set("tbx:main:commands", "something else")
    done = tbx(tmp_path, "serve", REDIS_URL=server.url)
    assert done.returncode == 2 and "tbx:main:commands" in done.stderr and "must be a stream" in done.stderr


@in_loop
async def test_a_process_that_is_not_the_writer_takes_nothing_and_answers_nothing(tmp_path: Path) -> None:
    carried: list[str] = []
    told: list[tuple[bool, str]] = []
    changed_hands = False

    async with a_redis(tmp_path) as server, a_client(server.address) as client:

        async def carry_out(delivery: Delivery, entered: Any) -> Outcome:
            carried.append(delivery.id)
            entered()
            if changed_hands:
                await client.call("SET", "tbx:main:lease", "j1:2")
            return Outcome(200, b"{}")

        def stream(token: str) -> CommandStream:
            return CommandStream(_address(server.address), "main", token, carry_out, lambda *state: told.append(state))

        await client.call("SET", "tbx:main:lease", "j1:1")
        await client.call("XADD", "tbx:main:commands", "*", "id", "a", "type", "order")
        await stream("j1:0").run()  # one of before
        assert carried == [] and told[-1] == (False, "another process is the writer")

        changed_hands = True
        await stream("j1:1").run()  # the writer, until another one takes over while its command is under way
        assert carried == ["a"] and not await client.call("EXISTS", "tbx:main:answers")

        changed_hands = False
        writer = stream("j1:2")
        running = asyncio.get_running_loop().create_task(writer.run())
        await until(lambda: writer.answered == 1, "the next writer answers it")
        await writer.stop()
        await running
        assert carried == ["a", "a"] and await client.call("XLEN", "tbx:main:answers") == 1


def _address(address: Address | str) -> Address:
    assert isinstance(address, Address)
    return address


@pytest.mark.parametrize("kind", ["order", "signal"])
@in_loop
async def test_a_command_that_waits_for_the_risk_service_past_its_time_is_not_told_that_nothing_was_done(
    tmp_path: Path, kind: str
) -> None:
    async with a_service(tmp_path, {"STOP_LOSS_ENABLED": "true"}) as service:
        node, waiting = service.node, list[Any]()
        node.advising.ask, node.advising.relied_on = (lambda _, done: waiting.append(done)), lambda: True
        body = {"pair": "RVN_USDT", "exchange": "xeggex"}
        body |= {"signal": "BUY"} if kind == "signal" else {"side": "buy", "type": "market", "quantity": 1000}
        soon_ms = time.time_ns() // 1_000_000 + 200
        fields = {"id": "slow", "type": kind, "body": json.dumps(body), "expires": str(soon_ms)}
        delivery = Delivery("1-1", {name.encode(): value.encode() for name, value in fields.items()}, again=False)
        commands = StreamCommands(service.app.api, node.command_marks)
        first = asyncio.ensure_future(commands.carry_out(delivery, lambda: None))
        await until(lambda: bool(waiting), "the question")
        first.cancel()  # the connection to Redis was lost
        await until(lambda: time.time_ns() // 1_000_000 > soon_ms, "its time")
        delivery = msgspec.structs.replace(delivery, again=True)
        assert await commands.carry_out(delivery, lambda: None) is None
        waiting[0](RiskAnswer(recommended=Decimal(10**9)))
        outcome = None
        async with asyncio.timeout(5):
            while outcome is None:
                outcome = await commands.carry_out(delivery, lambda: None)
                await asyncio.sleep(0)
        assert outcome.status == 200
        assert len([order for order in node.orders.orders.values() if order.role == "entry"]) == 1


@in_loop
async def test_an_id_whose_order_is_in_the_archive_serves_no_other_type_of_command(tmp_path: Path) -> None:
    async with a_service(tmp_path) as service:
        node, api = service.node, service.app.api
        commands = StreamCommands(api, node.command_marks)

        async def answered(command_id: str, kind: str, **body: Any) -> tuple[int, str]:
            fields = {"id": command_id, "type": kind, "body": json.dumps(body)}
            delivery = Delivery("1-1", {name.encode(): value.encode() for name, value in fields.items()}, again=False)
            outcome = await commands.carry_out(delivery, lambda: None)
            assert outcome is not None
            return outcome.status, json.loads(outcome.body).get("code") or ""

        order = {"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 1000}
        signal = {"pair": "RVN_USDT", "signal": "BUY", "stopLoss": 0.022}
        assert (await answered("p-1", "order", **order), await answered("p-2", "signal", **signal)) == ((201, ""),) * 2
        archive = Archive(tmp_path / "archive.sqlite3")
        for name in ("p-1", "signal:p-2"):
            found = node.orders.by_client_id(name)
            assert found is not None
            await until(lambda found=found: found.ended, "the fill")
            row = {field: getattr(found, field) for field in ("order_id", "pair", "exchange", "side")}
            raw = encode_record(found)
            archive.add([ArchivedOrder(**row, client_id=name, status="filled", submit_ms=1, json=raw)], [])
            node.orders.forget([found.order_id])
        node.signals.signals.clear()

        async def run(work: Any) -> Any:
            return work()

        api.queries.archive, api.archive_used = ArchivedHistory(archive, run), lambda: True
        refused = (422, "IDEMPOTENCY_MISMATCH")
        assert await answered("p-1", "signal", **signal) == refused
        assert await answered("p-1", "cancel_all") == refused
        assert await answered("p-2", "order", **order) == refused
        assert await answered("p-2", "amend", orderId="ORD_1", price=1) == refused
        assert (await answered("p-1", "order", **order), await answered("p-2", "signal", **signal)) == ((200, ""),) * 2
        archive.close()


@in_loop
async def test_an_answer_that_fails_when_its_connection_is_given_up_is_no_exception_that_nobody_sees(
    tmp_path: Path,
) -> None:
    async def carry_out(_: Delivery, entered: Any) -> Outcome:
        entered()
        return Outcome(200, b"{}")

    unseen: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    async with a_redis(tmp_path) as server:
        stream = CommandStream(_address(server.address), "main", "j1:1", carry_out, lambda *_: None)
        session = _Session(stream, loop)
        await session.hand.open()
        session._answer(Delivery("1-1", {}, again=False), Outcome(200, b"{}"))
        await asyncio.sleep(0)  # it is on its way
        await session.end()
        moved = session._moved
        await until(moved.is_set, "its failure")
        del session
        gc.collect()
    assert unseen == []
