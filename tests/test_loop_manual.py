"""The manual's requests about signals, risk and the other services, as they stand there, against a real process with
real peers. Each answer has every field that the manual shows, with the same kind of value."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .loop_bot import manual_text
from .risk_off import OLD_RISK_LIMITS
from .service_peers import POSITION_SIZE, Peers, peers
from .service_process import ServiceProcess

HERE = "http://localhost:3004"
REFUSED = {"INVALID_PAIR": 422}  # a pair that the manual sends to see it refused
DEADLINE_S = 15.0


@pytest.fixture(scope="module")
def neighbours() -> Iterator[Peers]:
    with peers() as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, neighbours: Peers) -> Iterator[ServiceProcess]:
    """With the limits that everybody has who sets none."""
    process = ServiceProcess(tmp_path_factory.mktemp("service"), **neighbours.environment)
    for name in OLD_RISK_LIMITS.keys() - neighbours.environment.keys():
        del process.settings[name]
    yield process.start()
    process.close()


@pytest.fixture(autouse=True)
def well(neighbours: Peers) -> Iterator[None]:
    """Each test begins and ends with peers that have no fault, and a risk service that lets everything through."""
    yield
    for peer in neighbours.all:
        peer.fault("")
    neighbours.risk.recommend(1_000_000_000_000)


def until(met: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := met()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)
    return found


def curls() -> list[tuple[str, str, Any]]:
    """(method, path, body) of every whole curl of ours in the manual."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", manual_text(), re.MULTILINE | re.DOTALL):
        for command in re.findall(r"^curl .*?(?:'\{.*?\}'[^\n]*|[^\\])$", block, re.MULTILINE | re.DOTALL):
            url = re.search(rf"{re.escape(HERE)}(/\S*)", command)
            body = re.search(r"-d '(\{.*?\})'", command, re.DOTALL)
            if url is not None and (body is not None or "-d " not in command):  # one of them breaks off
                method = "POST" if "-X POST" in command else "GET"
                found.append((method, url[1], json.loads(body[1]) if body else None))
    return found


def example(title: str, kind: str) -> dict[str, Any]:
    """The JSON under **Request Body:** or **Response:** of a numbered endpoint of the manual."""
    section = manual_text().split(f"**{title}**", 1)[1]
    block = section.split(f"**{kind}:**", 1)[1]
    found: dict[str, Any] = json.loads(re.search(r"```json\n(.*?)```", block, re.DOTALL)[1])  # type: ignore[index]
    return found


def same_kind(shown: Any, ours: Any, where: str = "") -> None:
    """Every field of the manual's is in ours, with the same kind of value; null may stand for what is not known."""
    if isinstance(shown, dict):
        assert isinstance(ours, dict), where
        for name, value in shown.items():
            assert name in ours, f"{where}.{name} is missing"
            same_kind(value, ours[name], f"{where}.{name}")
    elif isinstance(shown, list):
        assert isinstance(ours, list), where
        if shown and ours:
            same_kind(shown[0], ours[0], f"{where}[0]")
    elif shown is not None and ours is not None:
        numbers = (int, float)
        assert isinstance(ours, numbers if isinstance(shown, numbers) else type(shown)), f"{where}: {ours!r}"


def test_every_curl_of_the_manual_gets_the_answer_that_it_is_there_to_show(service: ServiceProcess) -> None:
    asked = curls()
    assert len(asked) >= 12, asked
    for method, path, body in asked:
        answer = service.http.request(method, path, json=body)
        expected = REFUSED.get((body or {}).get("pair", ""), 201 if path == "/api/orders" else 200)
        assert answer.status_code == expected, f"{method} {path} {body}: {answer.status_code} {answer.text}"


def test_the_other_services_are_in_health_as_the_manual_shows_them(service: ServiceProcess, neighbours: Peers) -> None:
    def checked() -> dict[str, Any] | None:
        services = service.http.get("/api/health").json()["services"]
        return services if all(of["status"] == "healthy" for of in services.values()) else None

    services = until(checked, "every service checked")
    assert set(services) == {"core", "risk", "ml", "backtest", "dashboard"}
    same_kind(example("GET /api/health", "Response")["services"], services)
    assert abs(services["core"]["lastCheck"] / 1000 - time.time()) < 60
    assert neighbours.core.asked("/api/health")


def test_the_signal_of_the_manual_becomes_a_sized_entry_with_its_exits(service: ServiceProcess) -> None:
    request = example("POST /api/signals/execute", "Request Body")
    answer = service.http.post("/api/signals/execute", json=request)
    assert answer.status_code in (200, 201), answer.text
    done = answer.json()
    shown = example("POST /api/signals/execute", "Response")
    same_kind(shown, done)
    assert done["status"] == "executed" and done["positionSizing"]["method"] == shown["positionSizing"]["method"]
    assert [order["type"] for order in done["orders"]] == [order["type"] for order in shown["orders"]]
    assert [order.get("price") for order in done["orders"][1:]] == [request["stopLoss"], request["takeProfit"]]
    assert done["positionSizing"]["riskPercent"] <= request["riskParameters"]["maxRiskPercent"]
    entry = service.order_when(done["orders"][0]["orderId"], "filled")
    assert entry["quantity"] == done["positionSizing"]["recommendedSize"]


def order_with_signal(service: ServiceProcess, **more: Any) -> Any:
    """The manual's example of an order, with a stop and a target around the market as it is now."""
    given = example("POST /api/orders", "Request Body")
    given |= {"quantity": 400, "stopLoss": 0.018, "takeProfit": 0.036} | more
    return service.http.post("/api/orders", json=given)


def test_the_risk_service_is_asked_as_the_manual_does_and_what_it_recommends_is_the_order(
    service: ServiceProcess, neighbours: Peers
) -> None:
    neighbours.risk.recommend(150)
    before = len(neighbours.risk.asked(POSITION_SIZE))
    answer = order_with_signal(service)
    assert answer.status_code == 201, answer.text
    (asked,) = neighbours.risk.asked(POSITION_SIZE)[before:]
    assert set(asked.body) == {"pair", "signal", "confidence", "entryPrice", "stopLoss", "takeProfit"}
    assert (asked.body["pair"], asked.body["signal"], asked.body["confidence"]) == ("RVN_USDT", "BUY", 0.78)
    order = answer.json()
    assert order["quantity"] == 150
    validation = order["riskValidation"]
    assert validation["passed"] and validation["recommendedSize"] == 150
    assert validation["adjustedOrder"]["quantity"] == 150
    assert validation["adjustedOrder"]["requestedQuantity"] == 400


def test_a_size_below_zero_is_a_no(service: ServiceProcess, neighbours: Peers) -> None:
    neighbours.risk.fault("negative", path=POSITION_SIZE)
    answer = order_with_signal(service)
    neighbours.risk.fault("")
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["code"] == "RISK_SERVICE_REFUSED" and "a size below zero" in problem["detail"]
    assert problem["riskValidation"]["checks"][-1]["name"] == "riskService"


@pytest.mark.parametrize("fault", ["500", "garbage", "hang", "close", "drip"])
def test_while_the_risk_service_gives_no_answer_an_order_is_halved_and_says_so(
    service: ServiceProcess, neighbours: Peers, fault: str
) -> None:
    neighbours.risk.fault(fault, path=POSITION_SIZE)
    began = time.monotonic()
    answer = order_with_signal(service)
    took = time.monotonic() - began
    assert answer.status_code == 201, answer.text
    validation = answer.json()["riskValidation"]
    assert answer.json()["quantity"] == 200 and validation["fallback"] is True
    assert took < 2.0, f"answered after {took:.1f} s; the risk service has 0.5 s"


def test_without_the_risk_check_the_service_is_not_asked(service: ServiceProcess, neighbours: Peers) -> None:
    before = len(neighbours.risk.asked(POSITION_SIZE))
    answer = order_with_signal(service, riskCheck=False)
    assert answer.status_code == 201 and answer.json()["quantity"] == 400
    assert len(neighbours.risk.asked(POSITION_SIZE)) == before


def test_a_sale_never_waits_for_the_risk_service(service: ServiceProcess, neighbours: Peers) -> None:
    bought = order_with_signal(service, riskCheck=False)
    service.order_when(bought.json()["orderId"], "filled")
    neighbours.risk.fault("hang")
    began = time.monotonic()
    sale = {"pair": "RVN_USDT", "side": "sell", "type": "market", "quantity": 100}
    answer = service.http.post("/api/orders", json=sale)
    assert answer.status_code == 201, answer.text
    assert answer.json()["quantity"] == 100 and time.monotonic() - began < 0.4
