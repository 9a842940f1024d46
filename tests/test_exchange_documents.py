"""Each document of the request side has the fields of the official example of the same section, and no others.

What an example has and ours has not, or the other way round, is named with its reason in the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tbx.venues.simulator.binance import documents
from tbx.venues.simulator.binance.methods import NONE, USER_STREAM
from tbx.venues.simulator.binance.methods_table import BY_NAME
from tbx.venues.simulator.exchange import records

from .exchange_desk import LIMIT_BUY, Client, ExchangeDesk

# Conditional fields: there for some orders only. Examples show them on orders that could not have them.
CONDITIONAL = frozenset(
    {
        "stopPrice",
        "trailingDelta",
        "trailingTime",
        "icebergQty",
        "strategyId",
        "strategyType",
        "preventedMatchId",
        "preventedQuantity",
    }
)
SELL = LIMIT_BUY | {"side": "SELL"}
OCO = {
    "symbol": "BTCUSDT",
    "side": "SELL",
    "quantity": "0.01",
    "aboveType": "LIMIT_MAKER",
    "abovePrice": "61000",
    "belowType": "STOP_LOSS",
    "belowStopPrice": "59000",
    "newOrderRespType": "RESULT",
}
OTO = {
    "symbol": "BTCUSDT",
    "workingType": "LIMIT",
    "workingSide": "BUY",
    "workingTimeInForce": "GTC",
    "workingPrice": "59000",
    "workingQuantity": "0.01",
    "pendingSide": "SELL",
    "pendingQuantity": "0.01",
}
OTOCO = OTO | {
    "pendingAboveType": "LIMIT_MAKER",
    "pendingAbovePrice": "65000",
    "pendingBelowType": "STOP_LOSS",
    "pendingBelowStopPrice": "50000",
}


class Row(NamedTuple):
    """A section of the documents, which of its results (by order), and how ours is made."""

    section: str
    make: Callable[[Client], Any]
    example: int = 0
    missing: frozenset[str] = CONDITIONAL  # of the example, allowed to miss in ours
    more: frozenset[str] = frozenset()  # in ours, and why: see the comment at the row


def answer(client: Client, method: str, sent: dict[str, Any]) -> Any:
    signed = BY_NAME[method].security not in (NONE, USER_STREAM)
    reply = client.call(method, sent) if signed else client.ask(method, sent)
    return reply.get("result", reply.get("error"))


def after(first: tuple[str, dict[str, Any]], method: str, sent: dict[str, Any]) -> Callable[[Client], Any]:
    """One request, then the one whose answer counts."""

    def make(client: Client) -> Any:
        assert client.call(*first)["status"] == 200, first
        return answer(client, method, sent)

    return make


def only(method: str, sent: dict[str, Any] | None = None) -> Callable[[Client], Any]:
    return lambda client: answer(client, method, sent or {})


NAMED = {"symbol": "BTCUSDT", "origClientOrderId": "mine"}
MINE = ("order.place", SELL | {"price": "61000", "newClientOrderId": "mine"})
REPLACE = SELL | {"price": "62000", "cancelReplaceMode": "ALLOW_FAILURE", "newOrderRespType": "RESULT"}
TAKER = LIMIT_BUY | {"type": "LIMIT_MAKER"}
del TAKER["timeInForce"]
STP = LIMIT_BUY | {"price": "61000", "quantity": "0.02"}
ALL = "BTCUSDT"

ROWS = {
    "ping": Row("Test connectivity", only("ping")),
    "time": Row("Check server time", only("time")),
    "exchangeInfo": Row(
        # No smart order routing here, so no sors.
        "Exchange information",
        only("exchangeInfo", {"symbol": ALL}),
        missing=frozenset({"sors"}),
    ),
    "executionRules": Row("Query Execution Rules", only("executionRules", {"symbol": ALL})),
    "depth": Row("Order book", only("depth", {"symbol": ALL})),
    "trades.recent": Row("Recent trades", only("trades.recent", {"symbol": ALL})),
    "trades.historical": Row("Historical trades", only("trades.historical", {"symbol": ALL, "fromId": 0})),
    "trades.aggregate": Row("Aggregate trades", only("trades.aggregate", {"symbol": ALL})),
    "klines": Row("Klines", only("klines", {"symbol": ALL, "interval": "1m"})),
    "uiKlines": Row("UI Klines", only("uiKlines", {"symbol": ALL, "interval": "1h"})),
    "avgPrice": Row("Current average price", only("avgPrice", {"symbol": ALL})),
    "ticker.24hr": Row("24hr ticker price change statistics", only("ticker.24hr", {"symbol": ALL})),
    "ticker.24hr mini": Row(
        "24hr ticker price change statistics", only("ticker.24hr", {"symbol": ALL, "type": "MINI"}), 1
    ),
    "ticker.24hr many": Row("24hr ticker price change statistics", only("ticker.24hr"), 2),
    "ticker.tradingDay": Row("Trading Day Ticker", only("ticker.tradingDay", {"symbol": ALL})),
    "ticker.tradingDay mini": Row("Trading Day Ticker", only("ticker.tradingDay", {"symbol": ALL, "type": "MINI"}), 2),
    "ticker": Row("Rolling window price change statistics", only("ticker", {"symbol": ALL, "windowSize": "1h"})),
    "ticker mini": Row("Rolling window price change statistics", only("ticker", {"symbol": ALL, "type": "MINI"}), 1),
    "ticker.price": Row("Symbol price ticker", only("ticker.price", {"symbol": ALL})),
    "ticker.price all": Row("Symbol price ticker", only("ticker.price"), 1),
    "ticker.book": Row("Symbol order book ticker", only("ticker.book", {"symbol": ALL})),
    "ticker.book many": Row("Symbol order book ticker", only("ticker.book", {"symbols": ["BTCUSDT", "ETHUSDT"]}), 1),
    "referencePrice": Row("Query Reference Price", only("referencePrice", {"symbol": ALL}), 2),
    "session.status": Row("Query session status", only("session.status")),
    "session.logout": Row("Log out of the session", lambda client: client.ask("session.logout")["result"]),
    "order.place ACK": Row("Place new order (TRADE)", only("order.place", SELL | {"newOrderRespType": "ACK"})),
    "order.place RESULT": Row("Place new order (TRADE)", only("order.place", SELL | {"newOrderRespType": "RESULT"}), 1),
    "order.place FULL": Row(
        # The example of FULL left the mode out; the text says that FULL is RESULT and fills.
        "Place new order (TRADE)",
        only("order.place", LIMIT_BUY | {"price": "60010"}),
        2,
        more=frozenset({"selfTradePreventionMode"}),
    ),
    "order.test": Row("Test new order (TRADE)", only("order.test", LIMIT_BUY)),
    "order.test rates": Row(
        "Test new order (TRADE)", only("order.test", LIMIT_BUY | {"computeCommissionRates": True}), 1
    ),
    "order.cancel": Row("Cancel order (TRADE)", after(MINE, "order.cancel", NAMED)),
    "order.cancel list": Row(
        "Cancel order (TRADE)",
        after(("orderList.place.oco", OCO | {"aboveClientOrderId": "mine"}), "order.cancel", NAMED),
        1,
    ),
    "order.cancelReplace": Row(
        # The example's new order is shown without workingTime; the failed example below it has one.
        "Cancel and replace order (TRADE)",
        after(MINE, "order.cancelReplace", REPLACE | {"cancelOrigClientOrderId": "mine"}),
        more=frozenset({"workingTime"}),
    ),
    "order.cancelReplace not attempted": Row(
        "Cancel and replace order (TRADE)",
        only("order.cancelReplace", REPLACE | {"cancelOrderId": 99, "cancelReplaceMode": "STOP_ON_FAILURE"}),
        1,
    ),
    "order.cancelReplace new order failed": Row(
        "Cancel and replace order (TRADE)",
        after(
            MINE,
            "order.cancelReplace",
            TAKER | {"price": "60010", "cancelReplaceMode": "ALLOW_FAILURE", "cancelOrigClientOrderId": "mine"},
        ),
        2,
    ),
    "order.cancelReplace cancel failed": Row(
        "Cancel and replace order (TRADE)",
        only("order.cancelReplace", REPLACE | {"cancelOrderId": 99, "newOrderRespType": "FULL"}),
        3,
    ),
    "order.cancelReplace both failed": Row(
        "Cancel and replace order (TRADE)",
        only(
            "order.cancelReplace",
            TAKER | {"price": "60010", "cancelReplaceMode": "ALLOW_FAILURE", "cancelOrderId": 99},
        ),
        4,
    ),
    "order.amend.keepPriority": Row(
        "Order Amend Keep Priority (TRADE)", after(MINE, "order.amend.keepPriority", NAMED | {"newQty": "0.005"})
    ),
    "order.amend.keepPriority in a list": Row(
        "Order Amend Keep Priority (TRADE)",
        after(
            ("orderList.place.oto", OTO | {"pendingType": "MARKET", "workingClientOrderId": "mine"}),
            "order.amend.keepPriority",
            NAMED | {"newQty": "0.005"},
        ),
        1,
    ),
    "openOrders.cancelAll": Row("Cancel open orders (TRADE)", after(MINE, "openOrders.cancelAll", {"symbol": ALL})),
    "orderList.place": Row(
        "Place new OCO - Deprecated (TRADE)",
        only(
            "orderList.place",
            {
                "symbol": ALL,
                "side": "SELL",
                "quantity": "0.01",
                "price": "61000",
                "stopPrice": "59000",
                "stopLimitPrice": "58900",
                "stopLimitTimeInForce": "GTC",
            },
        ),
    ),
    "orderList.place.oco": Row("Place new Order list - OCO (TRADE)", only("orderList.place.oco", OCO)),
    "orderList.place.oto": Row(
        "Place new Order list - OTO (TRADE)", only("orderList.place.oto", OTO | {"pendingType": "MARKET"})
    ),
    "orderList.place.otoco": Row("Place new Order list - OTOCO (TRADE)", only("orderList.place.otoco", OTOCO)),
    "orderList.cancel": Row(
        # The example's reports lack origClientOrderId; REST's example of the same and order.cancel's have it.
        "Cancel Order list (TRADE)",
        after(
            ("orderList.place.oco", OCO | {"listClientOrderId": "list"}),
            "orderList.cancel",
            {"symbol": ALL, "listClientOrderId": "list"},
        ),
        more=frozenset({"origClientOrderId"}),
    ),
    "account.status": Row("Account information (USER_DATA)", only("account.status")),
    "order.status": Row("Query order (USER_DATA)", after(MINE, "order.status", NAMED)),
    "openOrders.status": Row("Current open orders (USER_DATA)", after(MINE, "openOrders.status", {"symbol": ALL})),
    "allOrders": Row("Account order history (USER_DATA)", after(MINE, "allOrders", {"symbol": ALL})),
    "orderList.status": Row(
        "Query Order list (USER_DATA)",
        after(
            ("orderList.place.oco", OCO | {"listClientOrderId": "list"}),
            "orderList.status",
            {"origClientOrderId": "list"},
        ),
    ),
    "openOrderLists.status": Row(
        "Current open Order lists (USER_DATA)", after(("orderList.place.oco", OCO), "openOrderLists.status", {})
    ),
    "allOrderLists": Row(
        "Account order list history (USER_DATA)", after(("orderList.place.oco", OCO), "allOrderLists", {})
    ),
    "myTrades": Row("Account trade history (USER_DATA)", only("myTrades", {"symbol": ALL})),
    "account.rateLimits.orders": Row("Unfilled Order Count (USER_DATA)", only("account.rateLimits.orders")),
    "myPreventedMatches": Row(
        "Account prevented matches (USER_DATA)",
        lambda client: answer(
            client,
            "myPreventedMatches",
            {
                "symbol": ALL,
                "preventedMatchId": [answer(client, "order.place", sent) for sent in (MINE[1], STP)][1][
                    "preventedMatches"
                ][0]["preventedMatchId"],
            },
        ),
    ),
    "account.commission": Row("Account Commission Rates (USER_DATA)", only("account.commission", {"symbol": ALL})),
    "order.amendments": Row(
        "Query Order Amendments (USER_DATA)",
        lambda client: answer(
            client,
            "order.amendments",
            {
                "symbol": ALL,
                "orderId": after(MINE, "order.amend.keepPriority", NAMED | {"newQty": "0.005"})(client)["amendedOrder"][
                    "orderId"
                ],
            },
        ),
    ),
    "userDataStream.subscribe": Row(
        "Subscribe to User Data Stream (USER_STREAM)",
        lambda client: client.ask("userDataStream.subscribe")["result"],
    ),
    "userDataStream.unsubscribe": Row(
        "Unsubscribe from User Data Stream", lambda client: client.ask("userDataStream.unsubscribe")["result"]
    ),
    "session.subscriptions": Row(
        "Listing all subscriptions",
        lambda client: [
            client.ask(method)["result"] for method in ("userDataStream.subscribe", "session.subscriptions")
        ][1],
    ),
}


@pytest.fixture(scope="module")
def examples(fixtures: Path) -> dict[str, list[Any]]:
    """The results of the WebSocket API's examples, by the last part of their section."""
    found: dict[str, list[Any]] = {}
    for line in (fixtures / "binance/docs_examples/web-socket-api.jsonl").read_text().splitlines():
        row = json.loads(line)
        payload = row["payload"]
        if isinstance(payload, dict) and "status" in payload:
            found.setdefault(row["section"][-1], []).append(payload.get("result", payload.get("error")))
    return found


def shape(value: Any) -> Any:
    """Names of fields, as deep as they go; of an array its first element."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [shape(value[0])]
    return len(value) if isinstance(value, list) and value and not isinstance(value[0], list) else type(value).__name__


def differences(ours: Any, theirs: Any, path: str = "") -> list[tuple[str, str]]:
    """(what is wrong, where) for each field that only one of the two has."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = [("missing", f"{path}.{name}") for name in theirs.keys() - ours.keys()]
        found += [("more", f"{path}.{name}") for name in ours.keys() - theirs.keys()]
        for name in ours.keys() & theirs.keys():
            found += differences(ours[name], theirs[name], f"{path}.{name}")
        return found
    if isinstance(ours, list) and isinstance(theirs, list):
        if ours and theirs and isinstance(ours[0], dict):
            return differences(ours[0], theirs[0], f"{path}[]")
        if ours and theirs and path == "" and isinstance(ours[0], list) and len(ours[0]) != len(theirs[0]):
            return [("length", path)]  # a candle
    return []


def expected_type(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where a text is a number or the other way round."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            bad
            for name in ours.keys() & theirs.keys()
            for bad in expected_type(ours[name], theirs[name], f"{path}.{name}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list):
        return expected_type(ours[0], theirs[0], f"{path}[]") if ours and theirs else []
    same = type(ours) is type(theirs) or ours is None or theirs is None
    return [] if same else [f"{path}: {type(ours).__name__}, theirs {type(theirs).__name__}"]


@pytest.mark.parametrize("name", ROWS)
def test_a_document_has_the_fields_of_the_official_example(name: str, examples: dict[str, list[Any]]) -> None:
    row = ROWS[name]
    desk = ExchangeDesk()
    desk.trade_at("60000", "0.5")
    desk.trade_at("60000.01", "0.5")
    # A seller that the account can take from, and a buyer below.
    for price, side in (("60005", "SELL"), ("59995", "BUY")):
        desk.session(account=desk.second).call("order.place", LIMIT_BUY | {"price": price, "side": side})
    ours = row.make(desk.session(account=desk.first))
    theirs = examples[row.section][row.example]
    found = [
        (kind, where)
        for kind, where in differences(ours, theirs)
        if where.rpartition(".")[2] not in {"missing": row.missing, "more": row.more | CONDITIONAL}.get(kind, set())
    ]
    assert not found
    if not name.startswith("executionRules"):
        assert expected_type(ours, theirs) == []


def test_conditional_fields_stand_on_the_orders_they_belong_to() -> None:
    desk = ExchangeDesk()
    desk.trade_at("60000")
    client = desk.session(account=desk.first)
    plain = answer(client, "order.place", SELL | {"price": "61000"})
    assert not CONDITIONAL & plain.keys()
    stop = {"symbol": ALL, "side": "SELL", "type": "STOP_LOSS", "quantity": "0.01", "newOrderRespType": "RESULT"}
    stopped = answer(client, "order.place", stop | {"stopPrice": "59000"})
    assert CONDITIONAL & stopped.keys() == {"stopPrice"} and stopped["workingTime"] == -1
    trailing = answer(client, "order.place", stop | {"trailingDelta": 100})
    assert CONDITIONAL & trailing.keys() == {"stopPrice", "trailingDelta", "trailingTime"}
    labelled = SELL | {"price": "61000", "quantity": "0.1", "icebergQty": "0.05", "strategyId": 1}
    iceberg = answer(client, "order.place", labelled | {"strategyType": 1_000_000})
    assert CONDITIONAL & iceberg.keys() == {"icebergQty", "strategyId", "strategyType"}
    queried = answer(client, "order.status", {"symbol": ALL, "orderId": plain["orderId"]})
    assert CONDITIONAL & queried.keys() == {"stopPrice", "icebergQty"}, "a query always tells these two"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timeInForce": "IOC"}, "UNFILLED_IOC_QUANTITY_EXPIRED"),
        ({"timeInForce": "FOK"}, "UNFILLED_FOK_ORDER_EXPIRED"),
        ({}, None),
    ],
)
def test_an_order_that_expired_tells_why(change: dict[str, Any], reason: str | None) -> None:
    client = (desk := ExchangeDesk()).session(account=desk.first)
    placed = answer(client, "order.place", LIMIT_BUY | change)
    queried = answer(client, "order.status", {"symbol": ALL, "orderId": placed["orderId"]})
    assert placed.get("expiryReason") == queried.get("expiryReason") == reason


def test_every_reason_to_expire_has_a_name() -> None:
    assert set(documents.EXPIRY_REASONS) == {
        getattr(records, name) for name in dir(records) if name.startswith("EXPIRY_")
    }


def test_a_prevented_order_says_so() -> None:
    desk = ExchangeDesk()
    desk.trade_at("60000")
    client = desk.session(account=desk.first)
    answer(client, "order.place", SELL | {"newClientOrderId": "resting"})
    taker = answer(client, "order.place", LIMIT_BUY | {"selfTradePreventionMode": "EXPIRE_TAKER"})
    assert (taker["status"], taker["preventedQuantity"]) == ("EXPIRED_IN_MATCH", "0.01000000")
    (match,) = taker["preventedMatches"]
    assert match["takerPreventedQuantity"] == "0.01000000" and "makerPreventedQuantity" not in match


def test_the_recorded_exchange_info_has_the_same_fields_and_filters(fixtures: Path) -> None:
    (path,) = (fixtures / "binance").glob("exchangeInfo_live_TSLABUSDT*.json")
    theirs = json.loads(path.read_text())["symbols"][0]
    ours = ExchangeDesk().session().ask("exchangeInfo", {"symbol": ALL})["result"]["symbols"][0]
    assert set(ours) == set(theirs)
    assert [shape(one) for one in ours["filters"]] == [shape(one) for one in theirs["filters"]]
