"""Who may ask the local exchange: signatures of each kind, freshness, permissions, sessions."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tbx.venues.simulator.binance import auth
from tbx.venues.simulator.binance.accounts_keys import KeyRing
from tbx.venues.simulator.binance.errors import ApiError
from tbx.venues.simulator.binance.params import text_of

from .exchange_desk import LIMIT_BUY, ExchangeDesk, hmac_of, joined, private_key


def vectors(fixtures: Path) -> dict[str, Any]:
    return json.loads((fixtures / "binance" / "signing_vectors_hmac.json").read_text())


def test_the_official_signing_examples_verify(fixtures: Path) -> None:
    given = vectors(fixtures)
    key = KeyRing(Random(1)).register_hmac("first", given["apiKey"], given["secretKey"])
    for vector in given["vectors"]:
        if vector["api"] == "ws":
            payload = auth.ws_payload({name: text_of(value) for name, value in vector["params"].items()})
        else:
            payload, _ = auth.rest_payload(vector["payload"].encode(), b"")
        assert auth.verify(key, payload, vector["signature"]), vector["note"]
        assert auth.verify(key, payload, vector["signature"].upper()), "hex is case-insensitive"
        assert not auth.verify(key, payload + b"0", vector["signature"]), vector["note"]


@pytest.mark.parametrize(
    ("query", "body", "payload", "signature"),
    [
        pytest.param(b"a=1&b=2&signature=aB%2F%2B%3D", b"", b"a=1&b=2", "aB/+=", id="last in the query"),
        pytest.param(b"signature=x&a=1&b=2", b"", b"a=1&b=2", "x", id="first in the query"),
        pytest.param(b"a=1&signature=x&b=2", b"", b"a=1&b=2", "x", id="between"),
        pytest.param(b"", b"a=1&signature=x", b"a=1", "x", id="in the body"),
        pytest.param(b"a=1", b"b=2&signature=x", b"a=1b=2", "x", id="query and body follow each other directly"),
        pytest.param(b"a=1&signature=x", b"b=2", b"a=1b=2", "x", id="signature in the query, more in the body"),
        pytest.param(b"a=%C3%A9", b"", b"a=%C3%A9", None, id="as sent, percent-encoded, unsigned"),
    ],
)
def test_rest_signs_query_then_body_as_sent_without_the_signature(
    query: bytes, body: bytes, payload: bytes, signature: str | None
) -> None:
    assert auth.rest_payload(query, body) == (payload, signature)


def test_the_seed_fixes_accounts_and_keys() -> None:
    assert KeyRing(Random(7)).accounts == KeyRing(Random(7)).accounts
    assert KeyRing(Random(7)).accounts != KeyRing(Random(8)).accounts


@pytest.mark.parametrize(
    ("timestamp", "recv_window", "code"),
    [
        pytest.param(0, None, None, id="now"),
        pytest.param(-5_000, None, None, id="as old as the window"),
        pytest.param(-5_001, None, -1021, id="older than the window"),
        pytest.param(999, None, None, id="almost a second ahead"),
        pytest.param(1_000, None, -1021, id="a second ahead"),
        pytest.param(-101, "100", -1021, id="a window of its own"),
        pytest.param(-60_000, "60000", None, id="the widest window"),
        pytest.param(-1, "1.000", None, id="a window with decimals"),
        pytest.param(-1, "0.999", -1021, id="decimals count"),
        pytest.param(0, "60001", -1102, id="too wide a window"),
        pytest.param(0, "1.0001", -1100, id="too many decimals"),
        pytest.param(0, "x", -1100, id="no number"),
    ],
)
def test_a_request_is_carried_out_only_while_it_is_fresh(
    timestamp: int, recv_window: str | None, code: int | None
) -> None:
    desk = ExchangeDesk()
    extra = {} if recv_window is None else {"recvWindow": recv_window}
    client = desk.session(account=desk.first)
    reply = client.call("account.status", extra, timestamp=desk.now_ms + timestamp)
    assert reply.get("error", {}).get("code") == code


def test_timestamps_may_be_in_microseconds() -> None:
    desk = ExchangeDesk()
    client = desk.session(account=desk.first)
    for shift_us, status in ((0, 200), (-5_000_001, 400), (999_999, 200), (1_000_000, 400)):
        assert client.call("account.status", timestamp=desk.now_ms * 1000 + shift_us)["status"] == status, shift_us


def test_the_two_texts_of_a_wrong_clock() -> None:
    now_us = 1_790_000_000_000_000
    for sent_ms, said in (
        (1_789_999_994_999, "Timestamp for this request is outside of the recvWindow."),
        (1_790_000_001_000, "Timestamp for this request was 1000ms ahead of the server's time."),
    ):
        with pytest.raises(ApiError) as raised:
            auth.check_fresh({"timestamp": str(sent_ms)}, now_us)
        assert (raised.value.code, raised.value.msg) == (-1021, said)


def test_an_rsa_key_that_a_client_brings_signs_over_both_apis() -> None:
    desk = ExchangeDesk()
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    key = desk.keys.register_rsa("first", pem)
    sent: dict[str, Any] = {"apiKey": key.api_key, "timestamp": desk.now_ms}
    sent["signature"] = base64.b64encode(private.sign(joined(sent).encode(), PKCS1v15(), SHA256())).decode()
    client = desk.session()
    assert client.ask("account.status", sent)["status"] == 200
    sent["signature"] = sent["signature"][::-1]
    assert client.ask("account.status", sent)["error"]["code"] == -1022
    with pytest.raises(ValueError, match="not an RSA"):
        desk.keys.register_rsa("first", private_public_pem(desk))


def private_public_pem(desk: ExchangeDesk) -> str:
    public = private_key(desk.first).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_an_ed25519_key_signs_single_requests_too() -> None:
    desk = ExchangeDesk()
    sent: dict[str, Any] = {"apiKey": desk.second.ed25519_api_key, "timestamp": desk.now_ms, "omitZeroBalances": True}
    sent["signature"] = base64.b64encode(private_key(desk.second).sign(joined(sent).encode())).decode()
    assert desk.session().ask("account.status", sent)["status"] == 200


@pytest.mark.parametrize(
    ("price", "quantity"),
    [("60000.10", "0.01"), (60000.10, 0.01), (60000, 0.0100), ("60000", 1)],
    ids=["texts", "floats", "an integer and a float", "a text and an integer"],
)
def test_numbers_sign_as_they_were_written(price: Any, quantity: Any) -> None:
    desk = ExchangeDesk()
    sent = LIMIT_BUY | {"price": price, "quantity": quantity, "returnRateLimits": False}
    assert desk.session().signed("order.place", sent, desk.first)["status"] == 200


def test_floats_keep_the_zeros_they_were_written_with() -> None:
    desk = ExchangeDesk()
    text = {**LIMIT_BUY, "price": "60000.10", "apiKey": desk.first.hmac_api_key, "timestamp": desk.now_ms}
    signature = hmac_of(desk.first, joined(text))
    raw = json.dumps({"id": 1, "method": "order.place", "params": {**text, "signature": signature}})
    raw = raw.replace('"60000.10"', "60000.10")
    assert desk.session().send(raw.encode())["status"] == 200


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        pytest.param({"apiKey": "short"}, 401, -2014, id="no name of a key"),
        pytest.param({"apiKey": "A" * 64}, 401, -2015, id="an unknown key"),
        pytest.param({"apiKey": None}, 400, -1102, id="no key"),
        pytest.param({"signature": None}, 400, -1102, id="no signature"),
        pytest.param({"signature": "00"}, 400, -1022, id="a wrong signature"),
        pytest.param({"signature": "not base64 or hex"}, 400, -1022, id="no signature at all"),
        pytest.param({"timestamp": None}, 400, -1102, id="no timestamp"),
        pytest.param({"timestamp": "soon"}, 400, -1100, id="no time"),
    ],
)
def test_who_does_not_show_a_key_is_told_why(change: dict[str, Any], status: int, code: int) -> None:
    desk = ExchangeDesk()
    sent: dict[str, Any] = {"apiKey": desk.first.hmac_api_key, "timestamp": desk.now_ms}
    sent["signature"] = hmac_of(desk.first, joined(sent))
    sent = {name: value for name, value in (sent | change).items() if value is not None}
    reply = desk.session().ask("account.status", sent)
    assert (reply["status"], reply["error"]["code"]) == (status, code)


def test_a_key_without_permission_reads_but_does_not_trade() -> None:
    desk = ExchangeDesk()
    key = desk.keys.find(desk.first.hmac_api_key)
    assert key is not None
    key.trade = False
    client = desk.session()
    assert client.signed("order.place", LIMIT_BUY, desk.first)["error"]["code"] == -2015
    assert client.signed("account.status", {}, desk.first)["result"]["canTrade"] is False
    assert desk.http("POST", "/order", LIMIT_BUY, account=desk.first)[2]["code"] == -2015
    assert not desk.exchange.open_orders("first")


def test_a_key_is_refused_from_another_address() -> None:
    desk = ExchangeDesk()
    key = desk.keys.find(desk.first.hmac_api_key)
    assert key is not None
    key.ips = frozenset({"10.0.0.1"})
    for ip, status in (("10.0.0.1", 200), ("10.0.0.2", 401)):
        assert desk.session(ip=ip).signed("account.status", {}, desk.first)["status"] == status
        assert desk.http("GET", "/account", account=desk.first, ip=ip)[0] == status


def test_only_an_ed25519_key_logs_on() -> None:
    desk = ExchangeDesk()
    reply = desk.session().signed("session.logon", {}, desk.first)
    assert reply["error"] == {"code": -4056, "msg": "HMAC_SHA256 API key is not supported."}


def test_a_session_needs_no_signatures_until_it_is_logged_out() -> None:
    desk = ExchangeDesk()
    client = desk.session(account=desk.first)
    assert client.ask("session.status")["result"]["apiKey"] == desk.first.ed25519_api_key
    assert client.call("order.place", LIMIT_BUY)["status"] == 200
    assert client.ask("order.place", LIMIT_BUY)["error"]["code"] == -1102, "the timestamp stays mandatory"
    ended = client.ask("session.logout")["result"]
    assert (ended["apiKey"], ended["authorizedSince"]) == (None, None)
    reply = client.call("order.place", LIMIT_BUY, timestamp=desk.now_ms)
    assert reply["error"]["msg"] == "Mandatory parameter 'apiKey' was not sent, was empty/null, or malformed."


def test_a_request_may_be_signed_by_another_key_than_the_sessions() -> None:
    desk = ExchangeDesk()
    client = desk.session(account=desk.first)
    client.signed("order.place", LIMIT_BUY, desk.second)
    assert [len(desk.exchange.open_orders(name)) for name in ("first", "second")] == [0, 1]


def test_a_session_ends_when_its_key_is_revoked() -> None:
    desk = ExchangeDesk()
    client = desk.session(account=desk.first)
    key = desk.keys.find(desk.first.ed25519_api_key)
    assert key is not None
    key.revoked = True
    reply = client.call("account.status")
    assert (reply["id"], reply["status"], reply["error"]["code"]) == (None, 401, -2015)
    assert client.ask("session.status")["result"]["apiKey"] is None


def test_a_logon_is_signed_even_when_somebody_is_logged_on() -> None:
    desk = ExchangeDesk()
    client = desk.session(account=desk.first)
    assert client.call("session.logon")["error"]["code"] == -1102
    assert client.logon(desk.second)["result"]["apiKey"] == desk.second.ed25519_api_key
