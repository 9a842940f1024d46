"""Commands over Redis Streams: what they do, what they are refused for, and who reads them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from .conftest import ROOT
from .live_processes import wait_for
from .service_process import ServiceProcess
from .standby_processes import a_redis_process
from .stream_client import StreamClient, buy, resting


def client_of(service: ServiceProcess) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(service.folder / "data/redis.sock"), decode_responses=True)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path_factory.mktemp("streams"), PAPER_LATENCY_MS="0", MAX_POSITION_SIZE="1")
    try:
        yield process.start()
    finally:
        process.close()


@pytest.fixture
def sender(service: ServiceProcess) -> Iterator[StreamClient]:
    client = client_of(service)
    try:
        yield StreamClient(client)
    finally:
        client.close()


def orders_of(service: ServiceProcess, command_id: str) -> list[dict[str, Any]]:
    orders = service.http.get("/api/orders", params={"limit": 500}).json()["orders"]
    return [order for order in orders if order["clientOrderId"] == command_id]


def test_an_order_is_answered_as_over_http_and_carries_the_id_and_the_source(
    service: ServiceProcess, sender: StreamClient
) -> None:
    answer = sender.ask("first", "order", buy(signalData={"strategy": "ma"}), source="a notebook")

    assert answer.status == 201 and answer.body["clientOrderId"] == "first"
    order = service.http.get("/api/orders/client/first").json()
    assert order["orderId"] == answer.body["orderId"]
    assert (order["signalData"]["source"], order["signalData"]["strategy"]) == ("a notebook", "ma")
    assert sender.waiting() == 0


def test_the_same_command_twice_is_one_order_and_another_one_with_its_id_is_refused(
    service: ServiceProcess, sender: StreamClient
) -> None:
    first = sender.ask("twice", "order", buy())
    again, other = sender.ask("twice", "order", buy()), sender.ask("twice", "order", buy(2000))

    assert (first.status, again.status) == (201, 200)
    assert again.body["orderId"] == first.body["orderId"]
    assert (other.status, other.body["code"]) == (422, "IDEMPOTENCY_MISMATCH")
    assert len(orders_of(service, "twice")) == 1


def test_two_entries_with_one_id_that_come_together_are_both_answered_with_the_one_order(sender: StreamClient) -> None:
    pipeline = sender.redis.pipeline()
    for _ in range(3):
        pipeline.xadd(sender.commands, {"id": "together", "type": "order", "body": json.dumps(buy())})
    pipeline.execute()

    answers = sender.next(3)

    assert sorted(answer.status for answer in answers) == [200, 200, 201]
    assert len({answer.body["orderId"] for answer in answers}) == 1


def test_commands_enter_in_the_order_of_the_stream(sender: StreamClient) -> None:
    pipeline = sender.redis.pipeline()
    names = [f"row-{number}" for number in range(60)]
    for name in names:
        pipeline.xadd(sender.commands, {"id": name, "type": "order", "body": json.dumps(resting())})
    pipeline.execute()

    numbers = {answer.id: answer.body["orderId"] for answer in sender.next(60)}

    assert [numbers[name] for name in names] == sorted(numbers.values())
    assert sender.ask("row-end", "cancel_all").body["cancelled"] >= 60


def test_an_order_is_amended_cancelled_and_a_position_closed(service: ServiceProcess, sender: StreamClient) -> None:
    order_id = sender.ask("to-amend", "order", resting()).body["orderId"]
    service.order_when(order_id, "open")

    amended = sender.ask("amend-it", "amend", {"orderId": order_id, "price": 0.021})
    repeated = sender.ask("amend-it", "amend", {"orderId": order_id, "price": 0.021})
    other = sender.ask("amend-it", "amend", {"orderId": order_id, "price": 0.019})
    cancelled = sender.ask("cancel-it", "cancel", {"orderId": order_id})
    service.order_when(sender.ask("to-close", "order", buy(exchange="binance")).body["orderId"], "filled")
    positions = service.http.get("/api/positions").json()["positions"]
    position_id = next(p["id"] for p in positions if p["exchange"] == "binance")
    closed = sender.ask("close-it", "close", {"positionId": position_id, "quantity": 400})

    assert (amended.status, amended.body["price"]) == (200, 0.021) == (repeated.status, repeated.body["price"])
    assert (other.status, other.body["code"]) == (422, "IDEMPOTENCY_MISMATCH")
    assert (cancelled.status, cancelled.body["status"]) == (200, "cancelled")
    assert closed.status == 201 and (closed.body["side"], closed.body["quantity"]) == ("sell", 400)


def test_a_cancel_of_all_that_comes_again_leaves_newer_orders_alone(
    service: ServiceProcess, sender: StreamClient
) -> None:
    older = sender.ask("older", "order", resting()).body["orderId"]
    first = sender.ask("sweep", "cancel_all", {"pair": "RVN_USDT"})
    newer = sender.ask("newer", "order", resting()).body["orderId"]
    again = sender.ask("sweep", "cancel_all", {"pair": "RVN_USDT"})

    for answer in (first, again):
        assert answer.status == 200 and [order["orderId"] for order in answer.body["orders"]] == [older]
    assert service.order_when(newer, "open")["status"] == "open"
    assert sender.ask("after", "cancel", {"orderId": newer}).status == 200


def test_a_signal_is_executed_once_and_keeps_its_metadata_as_written(
    service: ServiceProcess, sender: StreamClient
) -> None:
    body = (
        '{"pair": "RVN_USDT", "signal": "BUY", "confidence": 0.8, "stopLoss": 0.022, "metadata": {"rsi": 28.50}, '
        '"riskParameters": {"maxRiskPercent": 0.001}}'
    )
    first = sender.ask("wave-1", "signal", body, source="a notebook")
    again = sender.ask("wave-1", "signal", body, source="a notebook")
    held = sender.ask("wave-2", "signal", {"pair": "RVN_USDT", "signal": "HOLD"})
    refused = sender.ask("wave-3", "signal", {"pair": "RVN_USDT", "signal": "JUMP"})

    assert (first.status, again.status, held.status, refused.status) == (201, 200, 200, 422), first
    assert again.body["orders"][0]["orderId"] == first.body["orders"][0]["orderId"]
    assert (first.body["source"], first.body["clientSignalId"]) == ("a notebook", "wave-1")
    assert '"metadata":{"rsi": 28.50}' in service.http.get("/api/signals/wave-1").text
    assert held.body["orders"] == []


def test_a_late_command_that_was_carried_out_in_time_is_answered_as_a_repeat(sender: StreamClient) -> None:
    soon = str(int(time.time() * 1000) + 300)
    assert sender.ask("in-time", "order", buy(), expires=soon).status == 201
    while time.time() * 1000 <= int(soon):
        sender.redis.ping()
    assert sender.ask("in-time", "order", buy(), expires=soon).status == 200


ORDER = ("order", buy())
SMALL = {"maxRiskPercent": 1e-5}
SIGNAL = ("signal", {"pair": "RVN_USDT", "signal": "BUY", "stopLoss": 0.022, "riskParameters": SMALL})
HOLD = ("signal", {"pair": "RVN_USDT", "signal": "HOLD"})
SWEEP = ("cancel_all", {"pair": "XMR_USDT"})
CANCEL, AMEND = ("cancel", {"orderId": "{order}"}), ("amend", {"orderId": "{order}", "price": 0.021})
CLOSE = ("close", {"positionId": "{order}"})
USED = [
    (ORDER, SIGNAL), (SIGNAL, ORDER), (HOLD, ORDER), (ORDER, SWEEP), (ORDER, AMEND), (ORDER, CANCEL),
    (SIGNAL, SWEEP), (SIGNAL, CLOSE), (CANCEL, ORDER), (CANCEL, SIGNAL), (SWEEP, ORDER), (SWEEP, AMEND),
    (AMEND, SIGNAL), (AMEND, CANCEL),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), USED, ids=[f"{one[0]} {other[0]}" for one, other in USED])
def test_an_id_that_another_type_of_command_has_used_does_nothing(
    service: ServiceProcess, sender: StreamClient, first: Any, second: Any
) -> None:
    order_id = service.order(**resting(exchange="binance")).json()["orderId"]
    service.order_when(order_id, "open")
    pipeline = sender.redis.pipeline()
    name = f"{order_id}-twice"
    for kind, body in (first, second, first):
        pipeline.xadd(
            sender.commands, {"id": name, "type": kind, "body": json.dumps(body).replace("{order}", order_id)}
        )
    pipeline.execute()

    done, other, again = sender.next(3)

    assert done.status in (200, 201) and again.status == 200, (done, again)
    assert (other.status, other.body["code"]) == (422, "IDEMPOTENCY_MISMATCH"), other
    assert "Key" not in str(other.body) and name in other.body["detail"]
    assert len(orders_of(service, name)) == (first is ORDER)
    if first is not CANCEL:
        assert service.http.get(f"/api/orders/{order_id}").json()["status"] == "open"


def test_a_cancel_that_comes_again_is_answered_with_the_order_and_serves_no_other_one(
    service: ServiceProcess, sender: StreamClient
) -> None:
    one, other = (service.order(**resting(exchange="binance")).json()["orderId"] for _ in range(2))
    answers = [sender.ask("stop-it", "cancel", {"orderId": order_id}) for order_id in (one, one, other)]
    assert [answer.status for answer in answers] == [200, 200, 422]
    assert [answer.body.get("orderId") for answer in answers[:2]] == [one, one]
    assert service.order_when(other, "open")


def test_a_field_that_stands_twice_is_refused(sender: StreamClient) -> None:
    fields = ("id", "p-2", "type", "order", "body", json.dumps(buy()), "body", json.dumps(buy(2000)))
    named = sender.redis.execute_command("XADD", sender.commands, "*", *fields)
    nameless = sender.redis.execute_command("XADD", sender.commands, "*", "id", "p-3", *fields[:6])

    body, ids = sender.next(2)

    assert (body.id, body.entry, body.status, body.body["code"]) == ("p-2", named, 422, "DUPLICATE_FIELD")
    assert (ids.id, ids.entry, ids.body["code"]) == ("", nameless, "DUPLICATE_FIELD")
    assert ids.body["errors"] == [{"field": "id", "detail": "stands twice", "code": "DUPLICATE_FIELD"}]


def test_commands_that_are_not_read_or_not_answered_show_in_health_until_they_are(
    service: ServiceProcess, sender: StreamClient
) -> None:
    def conditions() -> dict[str, str]:
        return {c["name"]: c["why"] for c in service.http.get("/api/health").json()["conditions"]}

    def lines(word: str) -> int:
        return (service.folder / "logs" / "execution.log").read_text().count(f" {word} ")

    read = lines("COMMANDS_READ")
    assert "commands_away" not in conditions()
    sender.redis.set(sender.commands, "something else")
    wait_for(lambda: "WRONGTYPE" in conditions().get("commands_away", ""), "the condition")
    assert service.http.get("/api/health").json()["status"] == "degraded"
    sender.redis.delete(sender.commands)
    wait_for(lambda: "commands_away" not in conditions(), "its end")

    sender.redis.rename(sender.answers, "aside")
    sender.redis.set(sender.answers, "something else")
    sender.send("unanswered", "order", buy())
    wait_for(lambda: "no stream" in conditions().get("commands_away", ""), "the condition")
    tries = clients_made(sender)
    wait_for(lambda: clients_made(sender) >= tries + 6, "three more tries")
    assert "commands_away" in conditions()
    sender.redis.rename("aside", sender.answers)
    assert sender.next()[0].id == "unanswered"
    wait_for(lambda: "commands_away" not in conditions(), "its end")
    wait_for(lambda: lines("COMMANDS_READ") == read + 2, "each end in the log, and nothing in between")


def clients_made(sender: StreamClient) -> int:
    info: Any = sender.redis.info("stats")
    return int(info["total_connections_received"])


LATE = {"expires": "1600000000000"}
POISON = {
    "no id": ({"type": "order", "body": "{}"}, 422, "REQUIRED", "id"),
    "an id of another form": ({"id": "a b", "type": "order", "body": "{}"}, 422, "INVALID_VALUE", "id"),
    "an unknown type": ({"id": "p1", "type": "ordr", "body": "{}"}, 422, "INVALID_VALUE", "did you mean order?"),
    "an unknown field": ({"id": "p2", "type": "order", "body": "{}", "to": "x"}, 422, "UNKNOWN_FIELD", "to"),
    "no JSON": ({"id": "p3", "type": "order", "body": "{"}, 400, "NOT_JSON", "JSON"),
    "no body": ({"id": "p4", "type": "order"}, 400, "NOT_JSON", "empty"),
    "a body that is no object": ({"id": "p5", "type": "cancel", "body": "[]"}, 422, "WRONG_TYPE", "array"),
    "a megabyte": ({"id": "p6", "type": "order", "body": "x" * 2**20}, 413, "BODY_TOO_LARGE", "65536"),
    "bytes": ({"id": b"\xff\xfe", "type": b"\xff", "body": b"\xff"}, 422, "INVALID_VALUE", "id"),
    "a field of REST": (
        {"id": "p13", "type": "signal", "body": '{"pair": "RVN_USDT", "signal": "HOLD", "signalId": "other"}'},
        422,
        "IDEMPOTENCY_MISMATCH",
        "signalId: differs from the command's id 'p13'",
    ),
    "many fields": ({str(n): "x" for n in range(500)}, 422, "VALIDATION_FAILED", "no such field"),
    "another id inside": (
        {"id": "p7", "type": "order", "body": json.dumps(buy(clientOrderId="other"))},
        422,
        "IDEMPOTENCY_MISMATCH",
        "clientOrderId: differs from the command's id 'p7'; leave it out",
    ),
    "what REST refuses": ({"id": "p8", "type": "order", "body": json.dumps(buy(-1))}, 422, "OUT_OF_RANGE", "quantity"),
    "no such order": ({"id": "p9", "type": "cancel", "body": '{"orderId": "ORD_1"}'}, 404, "ORDER_NOT_FOUND", "ORD_1"),
    "an amend of nothing": ({"id": "p10", "type": "amend", "body": '{"price": 1}'}, 422, "REQUIRED", "orderId"),
    "a wrong filter": ({"id": "p11", "type": "cancel_all", "body": '{"pair": 5}'}, 422, "WRONG_TYPE", "pair"),
    "one that is late": ({"id": "p12", "type": "order", "body": json.dumps(buy()), **LATE}, 409, "COMMAND_EXPIRED", ""),
}


@pytest.mark.parametrize(("fields", "status", "code", "says"), POISON.values(), ids=POISON)
def test_an_entry_that_cannot_be_carried_out_is_answered_and_keeps_nobody_back(
    sender: StreamClient, fields: dict[str, Any], status: int, code: str, says: str
) -> None:
    entry = sender.redis.xadd(sender.commands, fields)
    sender.send("behind", "cancel", {"orderId": "ORD_0"})

    refused, behind = sender.next(2)

    assert (refused.entry, refused.status, refused.body["code"]) == (entry, status, code), refused
    assert says in refused.body["detail"] and refused.body["instance"].endswith(str(entry))
    assert behind.id == "behind" and sender.waiting() == 0


def test_groups_of_others_on_the_journal_are_left_alone_and_follow_every_event(
    service: ServiceProcess, sender: StreamClient
) -> None:
    journal = "tbx:main:journal"
    sender.redis.xgroup_create(journal, "audit", "$")
    order_id = sender.ask("followed", "order", buy()).body["orderId"]
    service.order_when(order_id, "filled")

    numbers, kinds = [], set()
    while "TradeExecuted" not in kinds:
        streams: Any = sender.redis.xreadgroup("audit", "one", {journal: ">"}, block=5_000)
        assert streams, kinds
        for _, fields in streams[0][1]:
            assert fields["v"] == "1"
            events = json.loads(fields["events"])
            assert int(fields["seq"]) == events[-1]["seq"]
            numbers += [event["seq"] for event in events]
            kinds |= {event["type"] for event in events if event["data"].get("orderId") == order_id}
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_the_example_in_the_documentation_runs_as_it_stands(service: ServiceProcess) -> None:
    text = (ROOT / "strategies_bridge" / "STREAMS.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    assert len([line for line in found[1].splitlines() if line.strip()]) <= 20
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", found[1]], cwd=service.folder, stdout=subprocess.PIPE, text=True
    )
    late = threading.Timer(30, process.kill)  # what it prints is waited for no longer
    late.start()
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
    finally:
        late.cancel()
        process.kill()
        process.wait()
    answer = next(line for line in lines if line.startswith("answer 201"))
    order = json.loads(answer.removeprefix("answer 201"))
    assert any(line.startswith(f"fill {order['orderId']}") for line in lines)


# --- who reads, and when


def test_a_command_that_was_there_before_the_first_start_is_carried_out_and_a_late_one_is_not(tmp_path: Path) -> None:
    with a_redis_process(tmp_path / "redis") as server:
        client = redis.Redis(unix_socket_path=str(server.socket), decode_responses=True)
        sender = StreamClient(client)
        sender.send("early", "order", buy())
        sender.send("late", "order", buy(), expires=str(int(time.time() * 1000)))
        service = ServiceProcess(tmp_path, REDIS_URL=server.url)
        try:
            service.start()
            early, late = sorted(sender.next(2), key=lambda answer: answer.id)
            assert (early.id, early.status) == ("early", 201)
            assert (late.id, late.body["code"]) == ("late", "COMMAND_EXPIRED")
        finally:
            service.close()
            client.close()


def test_an_order_and_a_signal_with_one_id_that_lie_there_before_a_start_are_one_trade(tmp_path: Path) -> None:
    with a_redis_process(tmp_path / "redis") as server:
        client = redis.Redis(unix_socket_path=str(server.socket), decode_responses=True)
        sender = StreamClient(client)
        for name, pair in (("p-1", (ORDER, SIGNAL)), ("p-2", (SIGNAL, ORDER))):
            for kind, body in pair:
                sender.send(name, kind, body)
        service = ServiceProcess(tmp_path, REDIS_URL=server.url)
        try:
            service.start()
            answers = sender.next(4)
            for name in ("p-1", "p-2"):
                assert [answer.status for answer in answers if answer.id == name] == [201, 422], answers
            orders = service.http.get("/api/orders").json()["orders"]
            assert [order["side"] for order in orders].count("buy") == 2
        finally:
            service.close()
            client.close()


def test_nothing_is_read_where_stream_commands_are_off(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path, STREAM_COMMANDS="false")
    try:
        service.start()
        client = client_of(service)
        StreamClient(client).send("unread", "order", buy())
        assert service.order(quantity=1000).status_code == 201
        assert client.xlen("tbx:main:commands") == 1 and not client.exists("tbx:main:answers")
        assert client.xinfo_groups("tbx:main:commands") == []
        client.close()
    finally:
        service.close()
