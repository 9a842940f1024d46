"""Bodies and queries: exact numbers, every wrong field at once, and never anything but a result or a problem."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tbx.core.model.messages import SubmitOrder
from tbx.http.problems import Problem
from tbx.http.schema import ORDER_FIELDS, OrderRules, any_document, document, query

NOW_MS = 1_704_067_200_000
RULES = OrderRules(["RVN_USDT", "XMR_USDT"], ["xeggex", "binance"])
MARKET = {"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 1000}
LIMIT = MARKET | {"type": "limit", "price": 0.0245}

pytestmark = pytest.mark.orders


def read(body: bytes | dict[str, Any], key: str | None = None) -> SubmitOrder:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RULES.submit_order(document(raw), print, NOW_MS, key)


def errors_of(body: bytes | dict[str, Any], key: str | None = None) -> dict[str, str | None]:
    with pytest.raises(Problem) as caught:
        read(body, key)
    assert caught.value.status == 422
    return {error.field: error.code for error in caught.value.errors}


def test_the_manuals_body_becomes_the_command_it_describes() -> None:
    command = read(
        b"""{"pair": "RVN_USDT", "side": "buy", "type": "market", "quantity": 5000, "price": 0.0245,
        "stopLoss": 0.0233, "takeProfit": 0.0270, "timeInForce": "GTC", "exchange": "xeggex", "paperTrade": false,
        "riskCheck": true, "signalData": {"source": "technical_analysis", "confidence": 0.78, "strategy": "macd"}}"""
    )
    assert (command.pair, command.side, command.type, command.tif) == ("RVN_USDT", "buy", "market", "GTC")
    assert (command.quantity, command.price) == (Decimal(5000), Decimal("0.0245"))
    assert (command.stop_loss, command.take_profit) == (Decimal("0.0233"), Decimal("0.0270"))
    assert (command.exchange, command.paper, command.risk_check) == ("xeggex", False, True)
    assert command.signal_data is not None
    assert command.signal_data.confidence == Decimal("0.78")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", "0.1"),
        ('"0.1"', "0.1"),
        ("5000.0", "5000"),
        ('"1e3"', "1000"),
        ("1E-7", "0.0000001"),
        ("0.1234567890123456", "0.1234567890123456"),
        ('"0.123456789012345678"', "0.123456789012345678"),
        ("10000000", "10000000"),
    ],
)
def test_numbers_are_read_digit_by_digit(text: str, value: str) -> None:
    raw = b'{"pair":"RVN_USDT","side":"buy","type":"market","quantity":%b}' % text.encode()
    assert read(raw).quantity == Decimal(value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("0", "OUT_OF_RANGE"),
        ("-1", "OUT_OF_RANGE"),
        ("-0.0", "INVALID_NUMBER"),
        ('"-0"', "INVALID_NUMBER"),
        ("10000000.1", "OUT_OF_RANGE"),
        ("1e400", "INVALID_NUMBER"),
        ("1" + "0" * 400, "OUT_OF_RANGE"),
        ('"' + "1" * 401 + '"', "INVALID_NUMBER"),
        ("1e99", "OUT_OF_RANGE"),
        ("1e-99", "TOO_PRECISE"),
        ("0.1234567890123456789", "TOO_PRECISE"),
        ('"NaN"', "INVALID_NUMBER"),
        ('"sNaN"', "INVALID_NUMBER"),
        ('"Infinity"', "INVALID_NUMBER"),
        ('"1_000"', "INVALID_NUMBER"),
        ('" 1 "', "INVALID_NUMBER"),
        ('"\\u0661"', "INVALID_NUMBER"),
        ('""', "INVALID_NUMBER"),
        ('"abc"', "INVALID_NUMBER"),
        ("true", "WRONG_TYPE"),
        ("[]", "WRONG_TYPE"),
        ("{}", "WRONG_TYPE"),
        ("null", "REQUIRED"),
    ],
)
def test_a_quantity_that_is_no_positive_number_in_range_is_refused(text: str, code: str) -> None:
    raw = b'{"pair":"RVN_USDT","side":"buy","type":"market","quantity":%b}' % text.encode()
    assert errors_of(raw) == {"quantity": code}


@pytest.mark.parametrize(
    "pair", ["rvn_usdt", "RVNUSDT", "RVN-USDT", "RVN_USDT\n", "_", "RVN_USDT_X", "ÄÖ_USDT", "FOO_BAR", 5]
)
def test_a_pair_that_is_malformed_or_unknown_is_an_invalid_pair(pair: object) -> None:
    assert errors_of(MARKET | {"pair": pair}) == {"pair": "INVALID_PAIR"}


def test_every_wrong_field_is_named_at_once_with_the_nearest_known_name() -> None:
    wrong: dict[str, Any] = {"pair": "rvn", "side": "by", "type": 1, "quantity": True, "stoploss": 1}
    wrong |= {"riskCheck": "yes", "timeout": 1.5}
    with pytest.raises(Problem) as caught:
        read(wrong)
    assert caught.value.code == "VALIDATION_FAILED"
    found = {error.field: error for error in caught.value.errors}
    assert found.keys() == wrong.keys()
    assert "did you mean stopLoss?" in found["stoploss"].detail
    assert "did you mean buy?" in found["side"].detail


def test_an_empty_object_names_what_is_required() -> None:
    assert errors_of({}) == dict.fromkeys(("pair", "side", "type", "quantity"), "REQUIRED")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "limit"}, "price"),
        ({"type": "stop_loss"}, "stopPrice"),
        ({"type": "stop_loss", "stopPrice": 1, "stopLoss": 1}, "stopLoss"),
        ({"stopPrice": 0.02}, "stopPrice"),
        ({"postOnly": True}, "postOnly"),
        ({"type": "limit", "price": 1, "postOnly": True, "timeInForce": "IOC"}, "postOnly"),
        ({"type": "limit", "price": 1, "timeInForce": "GTD"}, "expireTime"),
        ({"type": "limit", "price": 1, "expireTime": NOW_MS + 1}, "expireTime"),
        ({"type": "limit", "price": 1, "timeInForce": "GTD", "expireTime": NOW_MS}, "expireTime"),
        ({"timeInForce": "GTD", "expireTime": NOW_MS + 1}, "timeInForce"),
        ({"stopLoss": 0.03, "takeProfit": 0.02}, "stopLoss"),
        ({"side": "sell", "stopLoss": 0.02, "takeProfit": 0.03}, "takeProfit"),
        ({"type": "limit", "price": 0.02, "stopLoss": 0.021}, "stopLoss"),
        ({"price": 1_000_001}, "price"),
        ({"exchange": "kraken"}, "exchange"),
        ({"timeout": -1}, "timeout"),
        ({"trigger": "last"}, "trigger"),
        ({"clientOrderId": "with space"}, "clientOrderId"),
        ({"clientOrderId": "x" * 65}, "clientOrderId"),
        ({"signalData": {"sorce": "x"}}, "signalData.sorce"),
        ({"signalData": {"confidence": 2}}, "signalData.confidence"),
        ({"signalData": []}, "signalData"),
    ],
)
def test_what_does_not_fit_together_is_refused_at_the_field_that_is_wrong(change: dict[str, Any], field: str) -> None:
    assert list(errors_of(MARKET | change)) == [field]


def test_words_are_taken_in_any_case() -> None:
    command = read(LIMIT | {"side": "BUY", "type": "Limit", "timeInForce": "gtc", "exchange": "XEGGEX"})
    assert (command.side, command.type, command.tif, command.exchange) == ("buy", "limit", "GTC", "xeggex")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"a":NaN}',
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b"{}{}",
        b"'a'",
        b"[" * 60_000,
        b"[" * 30_000 + b"]" * 30_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
)
def test_what_is_not_json_is_400(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        document(body)
    assert (caught.value.status, caught.value.code) == (400, "NOT_JSON")


def test_json_that_is_no_object_is_422() -> None:
    for body in (b"[]", b"1", b'"x"', b"null", b"true"):
        with pytest.raises(Problem) as caught:
            document(body)
        assert (caught.value.status, caught.value.code) == (422, "WRONG_TYPE")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"quantity":1,"quantity":2}', "quantity"),
        (b'{"quantity":1,"qu\\u0061ntity":2}', "quantity"),
        (b'{"signalData":{"source":"a:b","source":"c"}}', "source"),
        (b'{"a":{"b":{"c":1,"c":2}}}', "c"),
    ],
)
def test_a_name_that_stands_twice_is_refused(body: bytes, field: str) -> None:
    with pytest.raises(Problem) as caught:
        document(body)
    assert [(e.field, e.code) for e in caught.value.errors] == [(field, "DUPLICATE_FIELD")]


def test_colons_inside_text_are_not_names() -> None:
    assert document(b'{"a":"x:y","b":{"c":":::"}}') == {"a": "x:y", "b": {"c": ":::"}}


def test_an_idempotency_key_is_the_client_order_id() -> None:
    assert read(MARKET, "key-1").client_order_id == "key-1"
    assert read(MARKET | {"clientOrderId": "a"}, "a").client_order_id == "a"
    assert errors_of(MARKET | {"clientOrderId": "a"}, "b") == {"Idempotency-Key": "IDEMPOTENCY_MISMATCH"}
    assert errors_of(MARKET, "no spaces") == {"Idempotency-Key": "INVALID_VALUE"}


def test_a_fingerprint_is_of_what_is_asked_and_not_of_how_it_is_written() -> None:
    same = [
        b'{"pair":"RVN_USDT","side":"buy","type":"limit","quantity":1000,"price":0.0245,"clientOrderId":"a"}',
        b'{"price":"0.02450","clientOrderId":"a","type":"LIMIT","side":"BUY","quantity":1e3,"pair":"RVN_USDT"}',
        b'{"price":"0.02450","clientOrderId":"a","type":"LIMIT","side":"BUY","quantity":1e3,"pair":"RVN_USDT","timeout":null}',
    ]
    assert len({read(body).fingerprint for body in same}) == 1
    assert read(LIMIT | {"clientOrderId": "a", "price": 0.0246}).fingerprint != read(same[0]).fingerprint
    assert read(LIMIT | {"clientOrderId": "a", "postOnly": True}).fingerprint != read(same[0]).fingerprint


def test_a_query_names_what_is_unknown_or_stands_twice() -> None:
    assert [e.field for e in query(b"lmit=5", {"limit"}).errors] == ["lmit"]
    for text in (b"limit=1&limit=2", b"&".join(b"a=1" for _ in range(50)), b"a=%ff", b"\xff=1"):
        with pytest.raises(Problem) as caught:
            query(text, {"limit"})
        assert caught.value.status == 422


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.decimals().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(ORDER_FIELDS)) | st.text(max_size=10), VALUES, max_size=8))
def test_any_object_is_a_command_or_a_problem(doc: dict[str, Any]) -> None:
    outcome: SubmitOrder | Problem
    try:
        outcome = read(MARKET | doc)
    except Problem as problem:
        outcome = problem
    if isinstance(outcome, Problem):
        assert outcome.status in (400, 422)
        assert outcome.encode("/api/orders")
    else:
        assert 0 < outcome.quantity <= 10_000_000


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_document_or_a_problem(body: bytes) -> None:
    status = None
    try:
        any_document(body)
    except Problem as problem:
        status = problem.status
    assert status in (None, 400, 422)
