"""Every example payload of Binance's documents: read as what it is, sent alike, or named as not ours with the reason.

A row is found by its document and the last part of its section; a row without a rule fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tbx.core.market.book import DIFF, SNAPSHOT, TICKER, TRADE, peek
from tbx.core.model.errors import Nonsense
from tbx.core.model.messages import VenueAccepted, VenueAmended, VenueEnded
from tbx.venues.binance import codec, codec_replies, codec_reports, errors
from tbx.venues.binance.instruments import read_exchange_info

from .binance_sent import NOT_SENT, SENT, instrument_of, request

ROWS = {
    "filters": 20,
    "rest-api": 76,
    "user-data-stream": 6,
    "web-socket-api": 164,
    "web-socket-streams": 27,
}

read_fault = codec.reader("an error", codec.ApiFault)
Payload = Any
Rule = Callable[[Payload], None]


def not_ours(reason: str) -> Rule:
    """A payload that nothing here asks for or reads. It must still be read without an exception where it may arrive."""
    assert reason

    def check(payload: Payload) -> None:
        if isinstance(payload, dict) and "status" in payload and "id" in payload:
            assert isinstance(reply_of(payload), codec.Reply)

    return check


def raw_of(payload: Payload) -> bytes:
    return json.dumps(payload, ensure_ascii=False).encode()


def reply_of(payload: Payload) -> codec.Reply:
    message = codec.decode(raw_of(payload))
    assert isinstance(message, codec.Reply)
    assert (message.id, message.status) == (payload["id"], payload["status"])
    assert len(message.limits) == len(payload.get("rateLimits", ()))
    return message


def result_of(payload: Payload) -> bytes:
    """The result of a WebSocket reply; a REST answer is the same without its envelope."""
    if isinstance(payload, dict) and "id" in payload and "status" in payload and "rateLimits" in payload:
        reply = reply_of(payload)
        assert reply.error is None
        return bytes(reply.result)
    if isinstance(payload, dict) and set(payload) == {"id", "status", "result"}:
        return bytes(reply_of(payload).result)
    return raw_of(payload)


# --- answers about orders ------------------------------------------------------------------------------------------


def placed(payload: Payload) -> None:
    """New orders: accepted, with their fills; ACK, RESULT and FULL."""
    order = codec_replies.read_placed(result_of(payload))
    instrument = instrument_of(order.symbol)
    if order.status == "FILLED" and order.fills is None:  # RESULT does not tell the fills: never asked for here
        with pytest.raises(Nonsense, match="trades of 0 lots"):
            codec_reports.placed(order, instrument, "binance")
        return
    messages = codec_reports.placed(order, instrument, "binance")
    assert isinstance(messages[0], VenueAccepted) and messages[0].client_id == order.client_order_id
    assert len(messages) == 1 + len(order.fills or ())


def cancelled(payload: Payload) -> None:
    """Cancelled orders and lists: one end for each order, by its original id."""
    answer = codec_replies.read_cancelled(result_of(payload))  # type: ignore[arg-type]
    messages = codec_reports.cancelled(answer, instrument_of(answer.symbol), "binance")
    if isinstance(answer, codec_replies.CancelledList):
        assert [m.client_id for m in messages] == [order.client_order_id for order in answer.orders]
    else:
        assert [m.client_id for m in messages] == [answer.orig_client_order_id]
    assert all(isinstance(m, VenueEnded) and m.kind == "cancelled" for m in messages)


def cancelled_or_refused(payload: Payload) -> None:
    if set(payload) == {"code", "msg"}:
        refused(payload)
    else:
        cancelled(payload)


def refused(payload: Payload) -> None:
    """A bare error object, as REST gives it."""
    fault = read_fault(raw_of(payload))
    assert fault is not None and (fault.code, fault.msg) == (payload["code"], payload["msg"])
    assert isinstance(errors.classify_fault(400, fault, "cancel"), errors.Refused | errors.Retry)


def replaced(payload: Payload) -> None:
    """Both halves, in a result or in an error."""
    if "id" in payload:
        reply = reply_of(payload)
        found = codec_replies.read_replaced(reply.result, reply.error)
        code = reply.error.code if reply.error else 0
        data = (payload.get("error") or {}).get("data") or payload.get("result")
    else:
        fault = read_fault(raw_of(payload)) if "code" in payload else None
        found = codec_replies.read_replaced(codec.Raw(raw_of(payload)), fault)
        code = fault.code if fault else 0
        data = payload.get("data") or payload
    if code == -1015:
        assert found is None
        assert isinstance(errors.classify(429, code, "", "replace"), errors.Retry)
        return
    assert found is not None
    words = {"SUCCESS": False, "FAILURE": True}
    assert isinstance(found.cancel, codec.ApiFault) is words[data["cancelResult"]]
    if data["newOrderResult"] == "NOT_ATTEMPTED":
        assert found.order is None
    else:
        assert isinstance(found.order, codec.ApiFault) is words[data["newOrderResult"]]


def amended(payload: Payload) -> None:
    answer = codec_replies.read_amended(result_of(payload))
    order = answer.amended_order
    (message,) = codec_reports.amended(answer, instrument_of(order.symbol), "binance")
    assert isinstance(message, VenueAmended) and message.client_id == order.orig_client_order_id
    assert message.qty_lots == Decimal(order.qty) * 10**8


def placed_list(payload: Payload) -> None:
    answer = codec_replies.read_placed_list(result_of(payload))
    assert answer.order_reports and len(answer.order_reports) == len(answer.orders)
    assert answer.list_order_status == "EXECUTING"
    messages = codec_reports.placed_list(answer, instrument_of(answer.order_reports[0].symbol), "binance")
    assert [m.client_id for m in messages] == [order.client_order_id for order in answer.orders]
    assert all(isinstance(m, VenueAccepted) for m in messages)


def cancelled_list(payload: Payload) -> None:
    answer = codec_replies.read_cancelled_list(result_of(payload))
    messages = codec_reports.cancelled(answer, instrument_of(answer.symbol), "binance")
    assert [m.client_id for m in messages] == [order.client_order_id for order in answer.orders]


def known(payload: Payload) -> None:
    order = codec_replies.read_order(result_of(payload))
    instrument = instrument_of(order.symbol)
    lots = Decimal(order.executed_qty) * 10**8
    if lots:
        with pytest.raises(Nonsense, match="trades of 0 lots"):
            codec_reports.known(order, (), instrument, "binance", order.client_order_id)
    else:
        accepted, is_now = codec_reports.known(order, (), instrument, "binance", order.client_order_id)
        assert isinstance(accepted, VenueAccepted) and isinstance(is_now, VenueAmended)


def known_orders(payload: Payload) -> None:
    (order,) = codec_replies.read_orders(result_of(payload))
    assert order.status in ("NEW", "PARTIALLY_FILLED", "FILLED")


def trades(payload: Payload) -> None:
    found = codec_replies.read_trades(result_of(payload))
    assert found and all(codec_reports.exact("a price", trade.price) > 0 for trade in found)


# --- other answers -------------------------------------------------------------------------------------------------


def reply(payload: Payload) -> None:
    """An answer whose result nobody reads, such as that of ping, or one that is an error."""
    read = reply_of(payload)
    assert (read.error is None) == (payload["status"] == 200)


def refused_reply(payload: Payload) -> None:
    read = reply_of(payload)
    assert read.error is not None
    verdict = errors.classify_fault(read.status, read.error, "place")
    expected = {-2010: errors.Refused, -2015: errors.KeyTrouble, -1003: errors.Retry}
    assert type(verdict) is expected[read.error.code]
    if isinstance(verdict, errors.Retry):
        assert verdict.retry_after_ms == payload["error"]["data"]["retryAfter"]


def order_or_refusal(payload: Payload) -> None:
    if "error" in payload:
        refused_reply(payload)
    else:
        placed(payload)


def limits_or_ban(payload: Payload) -> None:
    if "error" in payload:
        refused_reply(payload)
    else:
        assert reply_of(payload).limits[0].rate_limit_type == "REQUEST_WEIGHT"


def time(payload: Payload) -> None:
    expected = payload.get("result", payload)
    assert codec_replies.read_time(codec.Raw(result_of(payload))) == expected["serverTime"]


def time_or_empty(payload: Payload) -> None:
    if payload:
        time(payload)


def session(payload: Payload) -> None:
    answer = codec_replies.read_session(result_of(payload))
    assert (answer.api_key, answer.server_time) == (payload["result"]["apiKey"], payload["result"]["serverTime"])


def subscription(payload: Payload) -> None:
    assert codec_replies.read_subscription(codec.Raw(result_of(payload))) == 0


def account(payload: Payload) -> None:
    answer = codec_replies.read_account(result_of(payload))
    report = codec_reports.balances(answer, "binance", 1)
    assert answer.can_trade and len(report.balances) == len(answer.balances) >= 2


def commission(payload: Payload) -> None:
    answer = codec_replies.read_commission(result_of(payload))
    assert answer.standard_commission.maker == "0.00000010"


def exchange_info(payload: Payload) -> None:
    """Loads; tests/test_binance_instruments.py looks into it."""
    listing = read_exchange_info(result_of(payload))
    assert len(listing.instruments) + sum("left out" in w for w in listing.warnings) == 1


def snapshot(payload: Payload) -> None:
    """Read by the book's kernels straight from the bytes."""
    assert peek(result_of(payload))[:2] == (0, SNAPSHOT)


# --- filters -------------------------------------------------------------------------------------------------------

GRIDS = (
    {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "100000", "tickSize": "0.01"},
    {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "100000", "stepSize": "0.001"},
)


def listing_with(payload: Payload, overall: bool) -> Any:
    symbol = {"symbol": "BQ", "status": "TRADING", "baseAsset": "B", "quoteAsset": "Q"}
    symbol |= {"baseAssetPrecision": 8, "quoteAssetPrecision": 8}  # type: ignore[dict-item]
    own = {f["filterType"]: f for f in (*GRIDS, *([] if overall else [payload]))}
    info = {"exchangeFilters": [payload] if overall else [], "symbols": [{**symbol, "filters": list(own.values())}]}
    return read_exchange_info(raw_of(info))


def filter_becomes(**expected: Any) -> Rule:
    """A filter of a symbol is these fields of its instrument."""

    def check(payload: Payload) -> None:
        listing = listing_with(payload, False)
        assert listing.warnings == []
        found = {name: getattr(listing.instruments[0], name) for name in expected}
        assert found == {n: Decimal(v) if isinstance(v, str) else v for n, v in expected.items()}

    return check


def unused_filter(reason: str) -> Rule:
    """Known, and nothing here could break it: no warning."""
    assert reason

    def check(payload: Payload) -> None:
        assert listing_with(payload, payload["filterType"].startswith("EXCHANGE_")).warnings == []

    return check


FILTERS: dict[str, Rule] = {
    "PRICE_FILTER": filter_becomes(tick="0.000001", min_price_ticks=1, max_price_ticks=10**11),
    "PERCENT_PRICE": filter_becomes(
        buy_price_min="0.7", buy_price_max="1.3", sell_price_min="0.7", sell_price_max="1.3"
    ),
    "PERCENT_PRICE_BY_SIDE": filter_becomes(
        buy_price_min="0.2", buy_price_max="1.2", sell_price_min="0.8", sell_price_max="5"
    ),
    "LOT_SIZE": filter_becomes(lot="0.001", min_lots=1, max_lots=10**8),
    "MIN_NOTIONAL": filter_becomes(min_notional="0.001", min_notional_market=True),
    "NOTIONAL": filter_becomes(
        min_notional="10", min_notional_market=False, max_notional="10000", max_notional_market=False
    ),
    "ICEBERG_PARTS": unused_filter("no order from here has a hidden part"),
    "MARKET_LOT_SIZE": filter_becomes(market_min_lots=1, market_max_lots=10**8, market_step_lots=1),
    "MAX_NUM_ORDERS": filter_becomes(max_open_orders=25),
    "MAX_NUM_ALGO_ORDERS": filter_becomes(max_stop_orders=5),
    "MAX_NUM_ICEBERG_ORDERS": unused_filter("no order from here has a hidden part"),
    "MAX_POSITION": filter_becomes(max_position="10"),
    "TRAILING_DELTA": unused_filter("trailing stops are held by the service"),
    "MAX_NUM_ORDER_AMENDS": filter_becomes(max_amends=10),
    "MAX_NUM_ORDER_LISTS": filter_becomes(max_order_lists=20),
    "EXCHANGE_MAX_NUM_ORDERS": unused_filter("the exchange counts over all symbols, and refuses one too many"),
    "EXCHANGE_MAX_NUM_ALGO_ORDERS": unused_filter("the exchange counts over all symbols, and refuses one too many"),
    "EXCHANGE_MAX_NUM_ICEBERG_ORDERS": unused_filter("no order from here has a hidden part"),
    "EXCHANGE_MAX_NUM_ORDER_LISTS": unused_filter("few lists are ever open; the exchange refuses one too many"),
    "MAX_ASSET": not_ours(
        "asset filters come with myFilters, which is not asked: the exchange refuses what breaks one"
    ),
}


# --- by section ----------------------------------------------------------------------------------------------------

MARKET_DATA = not_ours("public market data comes by streams")
NOT_ASKED = not_ours("nothing here asks for it")
RULES_ARE_THEIRS = not_ours("price range rules are the exchange's check")

ANSWERS: dict[str, Rule] = {
    "Response format": order_or_refusal,
    "How to interpret rate limits": time,
    "How to show/hide rate limit information": time,
    "IP limits": limits_or_ban,
    "Unfilled Order Count": placed,
    "Authenticate after connection": refused_reply,
    "Test connectivity": reply,
    "Check server time": time,
    "Exchange information": exchange_info,
    "Query Execution Rules": RULES_ARE_THEIRS,
    "Query Reference Price": RULES_ARE_THEIRS,
    "Query Reference Price Calculation": RULES_ARE_THEIRS,
    "Order book": snapshot,
    "Log in with API key (SIGNED)": session,
    "Query session status": session,
    "Log out of the session": session,
    "Place new order (TRADE)": placed,
    "New order (TRADE)": placed,
    "Test new order (TRADE)": not_ours("orders are sent, not tried"),
    "Cancel order (TRADE)": cancelled_or_refused,
    "Cancel and replace order (TRADE)": replaced,
    "Cancel an Existing Order and Send a New Order (TRADE)": replaced,
    "Order Amend Keep Priority (TRADE)": amended,
    "Cancel open orders (TRADE)": not_ours("each order is cancelled by itself"),
    "Cancel All Open Orders on a Symbol (TRADE)": not_ours("each order is cancelled by itself"),
    "Place new OCO - Deprecated (TRADE)": placed_list,
    "New OCO - Deprecated (TRADE)": placed_list,
    "Place new Order list - OCO (TRADE)": placed_list,
    "New Order list - OCO (TRADE)": placed_list,
    "Place new Order list - OTO (TRADE)": placed_list,
    "New Order list - OTO (TRADE)": placed_list,
    "Place new Order list - OTOCO (TRADE)": placed_list,
    "New Order list - OTOCO (TRADE)": placed_list,
    "OPO (TRADE)": placed_list,
    "OPOCO (TRADE)": placed_list,
    "New Order List - OPO (TRADE)": placed_list,
    "New Order List - OPOCO (TRADE)": placed_list,
    "Cancel Order list (TRADE)": cancelled_list,
    "Place new order using SOR (TRADE)": not_ours("routing is the service's own work"),
    "New order using SOR (TRADE)": not_ours("routing is the service's own work"),
    "Test new order using SOR (TRADE)": not_ours("routing is the service's own work"),
    "Account information (USER_DATA)": account,
    "Query order (USER_DATA)": known,
    "Current open orders (USER_DATA)": known_orders,
    "Account order history (USER_DATA)": known_orders,
    "All orders (USER_DATA)": known_orders,
    "Query Order list (USER_DATA)": NOT_ASKED,
    "Current open Order lists (USER_DATA)": NOT_ASKED,
    "Query Open Order lists (USER_DATA)": NOT_ASKED,
    "Account order list history (USER_DATA)": NOT_ASKED,
    "Query all Order lists (USER_DATA)": NOT_ASKED,
    "Account trade history (USER_DATA)": trades,
    "Account trade list (USER_DATA)": trades,
    "Unfilled Order Count (USER_DATA)": NOT_ASKED,
    "Query Unfilled Order Count (USER_DATA)": NOT_ASKED,
    "Account prevented matches (USER_DATA)": NOT_ASKED,
    "Query Prevented Matches (USER_DATA)": NOT_ASKED,
    "Account allocations (USER_DATA)": NOT_ASKED,
    "Query Allocations (USER_DATA)": NOT_ASKED,
    "Account Commission Rates (USER_DATA)": commission,
    "Query Commission Rates (USER_DATA)": commission,
    "Query Order Amendments (USER_DATA)": NOT_ASKED,
    "Query Relevant Filters (USER_DATA)": NOT_ASKED,
    "Query relevant filters (USER_DATA)": NOT_ASKED,
    "Subscribe to User Data Stream (USER_STREAM)": subscription,
    "Subscribe to User Data Stream through signature subscription (USER_STREAM)": subscription,
    "Unsubscribe from User Data Stream": not_ours("a connection is closed instead"),
    "Listing all subscriptions": not_ours("there is one"),
    "Error Codes": refused,
    **dict.fromkeys(
        [
            "Recent trades", "Historical trades", "Historical Block Trades", "Aggregate trades", "Klines", "UI Klines",
            "Current average price", "24hr ticker price change statistics", "Trading Day Ticker",
            "Rolling window price change statistics", "Symbol price ticker", "Symbol order book ticker",
            "Recent trades list", "Old trade lookup", "Compressed/Aggregate trades list", "Kline/Candlestick data",
            "UIKlines",
        ],
        MARKET_DATA,
    ),
}  # fmt: skip


def event(shape: type[Any]) -> Rule:
    def check(payload: Payload) -> None:
        assert isinstance(codec.decode(raw_of(payload)), shape)

    return check


EVENTS: dict[str, Rule] = {
    "Event format": event(codec.AccountPosition),
    "Server Shutdown": event(codec.ServerShutdown),
    "Account Update": event(codec.AccountPosition),
    "Balance Update": event(codec.BalanceUpdate),
    "Order Update": event(codec.ExecutionReport),
    "Order Reject Reason": event(codec.ListStatus),
    "Event Stream Terminated": event(codec.StreamTerminated),
    "External Lock Update": event(codec.ExternalLock),
}


def control(shape: type[Any]) -> Rule:
    def check(payload: Payload) -> None:
        assert isinstance(codec.decode_stream_control(raw_of(payload)), shape)

    return check


def kernel(kind: int) -> Rule:
    """Read by the book's kernels straight from the bytes; here it is only told from control frames, or is none."""

    def check(payload: Payload) -> None:
        assert peek(raw_of(payload))[:2] == (0, kind)
        if "e" in payload:
            assert codec.decode_stream_control(raw_of(payload)) == codec.NotOurs(payload["e"])

    return check


def other_stream(payload: Payload) -> None:
    """A stream that nobody here subscribes to: named, or refused as nonsense, where it comes all the same."""
    if isinstance(payload, dict):
        assert codec.decode_stream_control(raw_of(payload)) == codec.NotOurs(payload["e"])
    else:
        with pytest.raises(Nonsense):
            codec.decode_stream_control(raw_of(payload))


STREAMS: dict[str, Rule] = {
    "Server Shutdown": control(codec.ServerShutdown),
    "Subscribe to a stream": control(codec.StreamReply),
    "Unsubscribe to a stream": control(codec.StreamReply),
    "Listing Subscriptions": control(codec.StreamReply),
    "Setting Properties": control(codec.StreamReply),
    "Retrieving Properties": control(codec.StreamReply),
    "Trade Streams": kernel(TRADE),
    "Individual Symbol Book Ticker Streams": kernel(TICKER),
    "Partial Book Depth Streams": kernel(SNAPSHOT),
    "Diff. Depth Stream": kernel(DIFF),
    **dict.fromkeys(
        [
            "Reference Price Streams", "Aggregate Trade Streams", "Block Trade Streams",
            "Kline/Candlestick Streams for UTC", "Kline/Candlestick Streams with timezone offset",
            "Individual Symbol Mini Ticker Stream", "All Market Mini Tickers Stream",
            "Individual Symbol Ticker Streams",
            "Individual Symbol Rolling Window Statistics Streams", "All Market Rolling Window Statistics Streams",
            "Average Price",
        ],
        other_stream,
    ),
}  # fmt: skip


def rule_of(document: str, section: str, payload: Payload) -> Rule:
    if isinstance(payload, dict) and "method" in payload:
        return request
    if document == "filters":
        return FILTERS[section]
    if document == "web-socket-streams":
        return STREAMS[section]
    if isinstance(payload, dict) and "event" in payload:
        return EVENTS[section]
    if document == "rest-api" and section in ("Test connectivity", "Check server time"):
        return time_or_empty
    return ANSWERS[section]


@pytest.mark.parametrize("document", ROWS)
def test_every_example_is_read_as_what_it_is_or_named_as_not_ours(document: str, fixtures: Path) -> None:
    lines = (fixtures / "binance" / "docs_examples" / f"{document}.jsonl").read_text().splitlines()
    failures = []
    for line in lines:
        row = json.loads(line)
        section, payload = row["section"][-1], row["payload"]
        try:
            rule_of(document, section, payload)(payload)
        except KeyError as missing:
            failures.append(f"{row['doc']}:{row['line']} {section}: no rule for {missing}")
        except (AssertionError, Nonsense) as wrong:
            failures.append(f"{row['doc']}:{row['line']} {section}: {wrong!r}")
    assert failures == []
    assert len(lines) == ROWS[document]


def test_no_method_is_both_sent_and_not_sent() -> None:
    assert set(SENT) & set(NOT_SENT) == set()
