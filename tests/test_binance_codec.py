"""Frames from Binance: read as what they are, or refused as nonsense; and what its errors prove."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tbx.core.model.errors import Nonsense
from tbx.core.orders.reports import RETRYABLE
from tbx.venues.binance import codec, codec_replies, errors
from tbx.venues.binance.codec import NotOurs, Reply, ServerShutdown, StreamReply, decode, decode_stream_control

from .binance_examples import REPORT, event_frame, report_of

laws = settings(max_examples=200, deadline=None, derandomize=True, database=None)

# --- frames --------------------------------------------------------------------------------------------------------


def test_a_reply_keeps_its_result_unread() -> None:
    reply = decode(b'{"id":7,"status":200,"result":{"serverTime":5},"rateLimits":[]}')
    assert isinstance(reply, Reply)
    assert (reply.id, reply.status, reply.error, bytes(reply.result)) == (7, 200, None, b'{"serverTime":5}')
    assert codec_replies.read_time(reply.result) == 5


@pytest.mark.parametrize("request_id", [7, "e2a85d9f-07a5-4f94-8d5f-789dc3deb097", None])
def test_the_id_of_a_reply_is_a_number_a_text_or_nothing(request_id: Any) -> None:
    reply = decode(json.dumps({"id": request_id, "status": 401, "error": {"code": -2015, "msg": "no"}}).encode())
    assert isinstance(reply, Reply)
    assert reply.id == request_id and reply.error == codec.ApiFault(-2015, "no")


def test_budgets_come_with_a_reply() -> None:
    limits = [{"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 50, "count": 12}]
    reply = decode(json.dumps({"id": 7, "status": 200, "result": {}, "rateLimits": limits}).encode())
    assert isinstance(reply, Reply)
    assert reply.limits == (codec.RateLimit("ORDERS", "SECOND", 10, 50, 12),)
    assert reply.limits[0].interval_ns == 10_000_000_000


def test_a_ban_says_until_when() -> None:
    data = {"serverTime": 1, "retryAfter": 1_659_146_400_000}
    raw = json.dumps({"id": 7, "status": 418, "error": {"code": -1003, "msg": "banned", "data": data}}).encode()
    reply = decode(raw)
    assert isinstance(reply, Reply) and reply.error is not None
    assert reply.error.retry_after_ms == 1_659_146_400_000
    assert codec.ApiFault(-1003, "").retry_after_ms is None
    assert codec.ApiFault(-2021, "", Raw(b'{"cancelResult":"SUCCESS"}')).retry_after_ms is None
    assert codec.ApiFault(-2021, "", Raw(b'["retryAfter"]')).retry_after_ms is None


def test_an_event_nobody_uses_is_named() -> None:
    assert decode(b'{"event":{"e":"listenKeyExpired","E":"1","listenKey":"x"}}') == NotOurs("listenKeyExpired")


NONSENSE_FRAMES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "a frame"),
    "not JSON": (b"<html>502</html>", "a frame"),
    "cut off": (event_frame(REPORT)[:-40], "truncated"),
    "not UTF-8": (b'{"id":"\xff","status":200}', "UTF-8"),
    "a list": (b"[]", "Expected `object`"),
    "neither": (b"{}", "neither a reply"),
    "nested without end": (b'{"result":' + b"[" * 100_000, "a frame"),
    "status as text": (b'{"id":1,"status":"200","result":{}}', "status"),
    "a status that is none": (b'{"id":1,"status":7}', "status 7"),
    "an error without an error": (b'{"id":1,"status":400}', "no error"),
    "both": (b'{"id":1,"status":400,"result":{},"error":{"code":1,"msg":""}}', "both"),
    "an error without its code": (b'{"id":1,"status":400,"error":{"msg":""}}', "code"),
    "an unknown event": (b'{"event":{"e":"orderSwallowed"}}', "unknown kind 'orderSwallowed'"),
    "an event without a name": (b'{"event":{"E":1}}', "`e`"),
    "an event that is a text": (b'{"event":"executionReport"}', "event"),
    "a price as a number": (event_frame({**REPORT, "p": 52000.0}), "`p`"),
    "an order id as text": (event_frame({**REPORT, "i": "4293153"}), "`i`"),
    "a fee of null": (event_frame({**REPORT, "n": None}), "`n`"),
    "an unknown kind": (event_frame({**REPORT, "x": "TELEPORTED"}), "TELEPORTED"),
    "an unknown status": (event_frame({**REPORT, "X": "DANCING"}), "DANCING"),
    "a side that is none": (event_frame({**REPORT, "S": "HOLD"}), "HOLD"),
    "a fraction of a trade id": (event_frame({**REPORT, "t": 1.5}), "`t`"),
    "a maker flag as a number": (event_frame({**REPORT, "m": 1}), "`m`"),
}


@pytest.mark.parametrize("case", NONSENSE_FRAMES)
def test_a_frame_that_the_protocol_does_not_allow_is_named(case: str) -> None:
    raw, reason = NONSENSE_FRAMES[case]
    with pytest.raises(Nonsense) as caught:
        decode(raw)
    text = str(caught.value)
    assert reason in text
    assert len(text) < 600 and text.isprintable()


@pytest.mark.parametrize("field", list("scCSofqpgxXrilzLnNTtIm"))
def test_no_field_of_a_report_that_is_read_may_be_missing(field: str) -> None:
    report = {name: value for name, value in REPORT.items() if name != field}
    with pytest.raises(Nonsense, match=f"executionReport.*`{field}`"):
        decode(event_frame(report))


def test_fields_that_nobody_reads_may_be_missing_and_new_ones_may_come() -> None:
    fields = {
        name: value for name, value in REPORT.items() if name not in ("P", "F", "w", "M", "O", "Z", "Y", "Q", "V")
    }
    assert decode(event_frame({**fields, "zz": {"new": [1, 2]}, "W": 1})) == report_of()


def test_the_order_of_fields_does_not_matter() -> None:
    assert decode(event_frame(dict(reversed(REPORT.items())))) == report_of()


def test_a_frame_beyond_the_bound_is_not_read() -> None:
    with pytest.raises(Nonsense, match="at most"):
        decode(b" " * (codec.FRAME_BYTES_MAX + 1))


# --- market streams' control frames --------------------------------------------------------------------------------


def test_control_frames_of_streams_are_told_from_data() -> None:
    assert decode_stream_control(b'{"result":null,"id":1}').__class__ is StreamReply
    refused = decode_stream_control(b'{"error":{"code":2,"msg":"Invalid request: unknown"},"id":"a"}')
    assert isinstance(refused, StreamReply)
    assert (refused.id, refused.error) == ("a", codec.ApiFault(2, "Invalid request: unknown"))
    older = decode_stream_control(b'{"code":2,"msg":"Invalid request"}')
    assert isinstance(older, StreamReply) and older.error == codec.ApiFault(2, "Invalid request")
    assert decode_stream_control(b'{"e":"serverShutdown","E":5}') == ServerShutdown(5)
    combined = b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":5}}'
    assert decode_stream_control(combined) == ServerShutdown(5)
    data = b'{"stream":"btcusdt@trade","data":{"e":"trade"}}'
    assert decode_stream_control(data) == NotOurs("btcusdt@trade")
    assert decode_stream_control(b'{"e":"depthUpdate","E":1,"s":"BTCUSDT"}') == NotOurs("depthUpdate")
    for raw in (b"{}", b"[]", b'{"e":"serverShutdown"}', b'{"stream":"!serverShutdown"}', b"\xff", b'{"id":1}'):
        with pytest.raises(Nonsense):
            decode_stream_control(raw)


# --- errors --------------------------------------------------------------------------------------------------------

VERDICTS: dict[str, tuple[int, int, str, errors.Asked, type[Any], str]] = {
    "no money": (
        400, -2010, "Account has insufficient balance for requested action.", "place",
        errors.Refused, "INSUFFICIENT_BALANCE",
    ),
    "post only": (
        400, -2010, "Order would immediately match and take.", "place", errors.Refused, "POST_ONLY_WOULD_TAKE",
    ),
    "a filter": (400, -1013, "Filter failure: LOT_SIZE", "place", errors.Refused, "FILTER_LOT_SIZE"),
    "a filter in the engine": (400, -2010, "Filter failure: NOTIONAL", "place", errors.Refused, "FILTER_NOTIONAL"),
    "market closed": (400, -2010, "Market is closed.", "place", errors.Refused, "MARKET_CLOSED"),
    "no such symbol": (400, -1121, "Invalid symbol.", "place", errors.Refused, "INVALID_PAIR"),
    "a malformed parameter": (400, -1102, "Mandatory parameter 'x'", "place", errors.Refused, "VENUE_REFUSED"),
    "an unknown code at 400": (400, -9999, "New.", "place", errors.Unknown, ""),
    "another unknown code at 400": (400, -3000, "New.", "cancel", errors.Unknown, ""),
    "a new code of a documented family": (400, -1199, "New.", "place", errors.Refused, "VENUE_REFUSED"),
    "a 400 without a code": (400, 0, "", "place", errors.Refused, "VENUE_REFUSED"),
    "disabled": (400, -2010, "This action is disabled on this account.", "place", errors.Refused, "KEY_REFUSED"),
    "not amended": (400, -2038, "Order amend rejected.", "amend", errors.Refused, "AMEND_REFUSED"),
    "archived": (400, -2026, "Order was canceled", "query", errors.Refused, "ORDER_ARCHIVED"),
    "the firewall": (403, 0, "", "place", errors.Retry, "TEMPORARY_UNAVAILABLE"),
    "weight": (429, -1003, "Too much request weight used", "place", errors.Retry, "RATE_LIMIT_EXCEEDED"),
    "banned": (418, -1003, "Way too much", "query", errors.Retry, "RATE_LIMIT_EXCEEDED"),
    "too many orders": (429, -1015, "Too many new orders", "place", errors.Retry, "RATE_LIMIT_EXCEEDED"),
    "too many orders at 400": (400, -1015, "Too many new orders", "place", errors.Retry, "RATE_LIMIT_EXCEEDED"),
    "the same id again": (400, -2010, "Duplicate order sent.", "place", errors.Unknown, ""),
    "timeout": (408, -1007, "Timeout waiting for response from backend server.", "place", errors.Unknown, ""),
    "timeout at 400": (400, -1007, "Timeout", "place", errors.Unknown, ""),
    "unexpected response": (400, -1006, "An unexpected response", "cancel", errors.Unknown, ""),
    "unknown error": (400, -1000, "An unknown error occurred", "place", errors.Unknown, ""),
    "disconnected": (400, -1001, "Internal error", "place", errors.Unknown, ""),
    "busy": (503, -1008, "Server is currently overloaded", "place", errors.Unknown, ""),
    "a proxy's page": (502, 0, "", "place", errors.Unknown, ""),
    "5xx with a code that would refuse": (500, -2010, "Account has insufficient balance", "place", errors.Unknown, ""),
    "half of a replacement": (409, -2021, "Order cancel-replace partially failed.", "replace", errors.Unknown, ""),
    "a status nobody knows": (302, 0, "", "place", errors.Unknown, ""),
    "an unknown code at 409": (409, -9999, "New.", "place", errors.Unknown, ""),
    "an unknown code at 408": (408, -9999, "New.", "place", errors.Unknown, ""),
    "our clock": (400, -1021, "Timestamp for this request is outside of the recvWindow.", "place", errors.ClockOff, ""),
    "a signature": (400, -1022, "Signature for this request is not valid.", "place", errors.KeyTrouble, ""),
    "key": (401, -2015, "Invalid API-key, IP, or permissions for action.", "session", errors.KeyTrouble, ""),
    "a key's form": (400, -2014, "API-key format invalid.", "session", errors.KeyTrouble, ""),
    "a 401 of another kind": (401, -9999, "", "session", errors.KeyTrouble, ""),
    "nothing to cancel": (400, -2011, "Unknown order sent.", "cancel", errors.NotThere, ""),
    "nothing found": (400, -2013, "Order does not exist.", "query", errors.NotThere, ""),
    "cancel restricted": (
        400, -2011, "Order was not canceled due to cancel restrictions.", "cancel", errors.Refused, "VENUE_REFUSED",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VERDICTS)
def test_an_error_means_what_it_proves(case: str) -> None:
    status, code, msg, asked, kind, ours_code = VERDICTS[case]
    verdict = errors.classify(status, code, msg, asked)
    assert type(verdict) is kind
    assert getattr(verdict, "code", "") == ours_code
    assert str(code) in verdict.reason and msg in verdict.reason


def test_what_the_exchange_says_is_shown_as_one_line() -> None:
    verdict = errors.classify(400, -9999, "a\nb\x1b[31m" + "x" * 10_000, "place")
    assert verdict.reason.isprintable() and len(verdict.reason) < 300


def test_what_passes_is_what_the_core_tries_again() -> None:
    assert {errors.RATE_LIMIT_EXCEEDED, errors.TEMPORARY_UNAVAILABLE} <= RETRYABLE
    data = Raw(b'{"serverTime":1,"retryAfter":1659146400000}')
    verdict = errors.classify_fault(418, codec.ApiFault(-1003, "banned", data), "place")
    assert isinstance(verdict, errors.Retry) and verdict.retry_after_ms == 1_659_146_400_000


@laws
@given(status=st.integers(500, 599), code=st.integers(-9999, 0), msg=st.text(max_size=40))
def test_no_5xx_proves_anything(status: int, code: int, msg: str) -> None:
    assert isinstance(errors.classify(status, code, msg, "place"), errors.Unknown)
