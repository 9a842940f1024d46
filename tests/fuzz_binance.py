"""Mutated and truncated frames of Binance: a message, nothing, or Nonsense; never another exception, never odd money.

    python tests/fuzz_binance.py --count 1000000 --seed 1

Frames are the examples below and, where the recorded payloads are at hand (TBX_FIXTURES), those of the documents. A
failure prints the frame, and the seed that makes it again. tests/test_binance_fuzz.py runs fewer.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tbx.core.model.errors import Nonsense
from tbx.core.model.instruments import Instrument
from tbx.core.model.messages import ForeignFilled, VenueAmended, VenueFilled
from tbx.venues.binance import codec, codec_replies, codec_reports, errors, instruments
from tbx.venues.binance.names import Names

ROOT = Path(__file__).resolve().parent.parent

BTC = Instrument(
    exchange="binance",
    pair="BTC_USDT",
    symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    tick=Decimal("0.01"),
    lot=Decimal("0.00001"),
)
ID = "tbx-node1-250101000123-1"
T = TypeVar("T")

REPORT: dict[str, Any] = {
    "e": "executionReport", "E": 1499405658658, "s": "BTCUSDT", "c": ID, "S": "BUY", "o": "LIMIT", "f": "GTC",
    "q": "0.01234000", "p": "52000.00000000", "P": "0.00000000", "g": -1, "C": "", "x": "TRADE", "X": "FILLED",
    "r": "NONE", "i": 4293153, "l": "0.01234000", "z": "0.01234000", "L": "52000.00000000", "n": "0.00001",
    "N": "BTC", "T": 1499405658657, "t": 12345678, "I": 8641984, "w": True, "m": False, "O": 1499405658657,
    "Z": "641.68000000", "V": "NONE", "A": "0.5", "eR": "OCO_TRIGGER",
}  # fmt: skip
ORDER: dict[str, Any] = {
    "symbol": "BTCUSDT", "orderId": 4293153, "orderListId": -1, "clientOrderId": ID, "transactTime": 1499405658657,
    "price": "52000.00", "origQty": "0.01234", "executedQty": "0.00034", "status": "EXPIRED", "timeInForce": "IOC",
    "type": "LIMIT", "side": "BUY", "origClientOrderId": ID, "time": 1499405658657, "updateTime": 1499405658657,
    "fills": [{"price": "51999.99", "qty": "0.00034", "commission": "0.1", "commissionAsset": "BNB", "tradeId": 77}],
}  # fmt: skip
LIMITS = [{"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 50, "count": 12}]
FAULT = {"code": -1003, "msg": "Way too much request weight used", "data": {"retryAfter": 1659146400000}}
SYMBOL: dict[str, Any] = {
    "symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "baseAssetPrecision": 8, "quoteAsset": "USDT",
    "quotePrecision": 8, "quoteAssetPrecision": 8, "orderTypes": ["LIMIT"], "filters": [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": "0.01"},
        {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000.00", "stepSize": "0.00001"},
        {"filterType": "MARKET_LOT_SIZE", "minQty": "0.0", "maxQty": "100.0", "stepSize": "0.0"},
        {"filterType": "PERCENT_PRICE", "multiplierUp": "5", "multiplierDown": "0.2", "avgPriceMins": 5},
        {"filterType": "NOTIONAL", "minNotional": "5", "applyMinToMarket": True, "maxNotional": "9000000",
         "applyMaxToMarket": False, "avgPriceMins": 5},
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200}, {"filterType": "MAX_POSITION", "maxPosition": "10"},
    ],
}  # fmt: skip

SEEDS: list[Any] = [
    {"subscriptionId": 0, "event": REPORT},
    {"subscriptionId": 0, "event": {**REPORT, "x": "CANCELED", "X": "CANCELED", "C": ID, "c": "can-x"}},
    {"subscriptionId": 0, "event": {**REPORT, "x": "REPLACED", "X": "NEW"}},
    {"subscriptionId": 0, "event": {**REPORT, "c": "web_1"}},
    {"subscriptionId": 0, "event": {"e": "balanceUpdate", "E": 1, "a": "BTC", "d": "1.0", "T": 1573200697068}},
    {"event": {"e": "outboundAccountPosition", "E": 1, "u": 1, "B": [{"a": "ETH", "f": "1.0", "l": "0.0"}]}},
    {"event": {"e": "serverShutdown", "E": 1770123456789}},
    {"id": 7, "status": 200, "result": ORDER, "rateLimits": LIMITS},
    {"id": "a", "status": 200, "result": [{**ORDER, "id": 1, "qty": "0.00034", "commission": "0", "isBuyer": True}]},
    {"id": None, "status": 418, "error": FAULT, "rateLimits": LIMITS},
    {"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": 1770123456789}},
    {"result": None, "id": 1},
    {"error": {"code": 2, "msg": "Invalid request"}, "id": 1},
    {"symbols": [SYMBOL], "rateLimits": LIMITS, "exchangeFilters": [{"filterType": "MAX_ASSET"}], "serverTime": 5},
]

ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, 1e300, -0.0, 2**31, 2**53 + 1, 2**63, 2**64, 10**40, -(2**63) - 1, "", " ", "0",
    "-1", "1e5", "NaN", "Infinity", "-0", "0.000000001", "9" * 29, "9" * 50, "1.", ".5", "0x10", "1_0", "１", "\x00",
    "a\nb", "\u2028", "\U0001f4a9", "BTCUSDT", "TRADE", "FILLED", "EXPIRED_IN_MATCH", [], {}, [[]], [None], {"e": "x"},
]  # fmt: skip
ODD_TOKENS = [
    b"null", b'""', b"-1", b"1e999", b"NaN", b"Infinity", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u",
    b"\xff", b'"\\ud800"', b"\xed\xa0\x80", b"\x00", b"9" * 400, b"/*", b"'", b"\xef\xbb\xbf", b'"e":',
    b'{"e":"executionReport"}',
]  # fmt: skip

RESULT_READERS: list[Callable[[Any], Any]] = [
    codec_replies.read_placed,
    codec_replies.read_placed_list,
    codec_replies.read_cancelled,
    codec_replies.read_cancelled_list,
    codec_replies.read_amended,
    codec_replies.read_order,
    codec_replies.read_orders,
    codec_replies.read_trades,
    codec_replies.read_account,
    codec_replies.read_commission,
    codec_replies.read_session,
    codec_replies.read_time,
    codec_replies.read_subscription,
    codec_replies.read_replaced,
    instruments.read_exchange_info,
]


def all_seeds() -> list[Any]:
    """The examples above, several times each, and the documents', where they are at hand; each as a frame."""
    folder = Path(os.environ.get("TBX_FIXTURES") or ROOT.parent / "shared" / "fixtures")
    seeds = SEEDS * 12
    for path in sorted(folder.glob("binance/docs_examples/*.jsonl")):
        for line in path.read_text().splitlines():
            payload = json.loads(line)["payload"]
            frame = isinstance(payload, dict) and not payload.keys().isdisjoint(("status", "event", "e", "stream"))
            if not (isinstance(payload, dict) and "method" in payload):  # what is sent never comes
                seeds.append(payload if frame else {"id": 1, "status": 200, "result": payload})
    return seeds


# --- mutations -----------------------------------------------------------------------------------------------------


def mutated(rng: random.Random, raws: list[bytes]) -> bytes:
    """A frame that is a little, or much, other than one of the seeds."""
    kind = rng.random()
    if kind < 0.55:
        value = json.loads(rng.choice(raws))
        for _ in range(1 if kind < 0.4 else rng.randint(2, 5)):
            value = _with_odd_value(rng, value)
        raw = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    else:
        raw = rng.choice(raws)
    if kind > 0.5:
        for _ in range(rng.randint(1, 3)):
            raw = _with_odd_bytes(rng, raw, raws)
    return raw


def _with_odd_value(rng: random.Random, value: Any) -> Any:
    """One value somewhere inside is another, gone, or doubled."""
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        node = stack.pop()
        keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            stack.append(node[key])
    if not places:
        return copy.deepcopy(rng.choice(ODD_VALUES))
    node, key = rng.choice(places)
    action = rng.random()
    if action < 0.6:
        node[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    elif action < 0.75:
        del node[key]
    elif action < 0.9:
        other, other_key = rng.choice(places)
        node[key] = copy.deepcopy(other[other_key])
    elif isinstance(node, dict):
        node[str(rng.choice(ODD_VALUES))] = copy.deepcopy(node[key])
    else:
        node.append(copy.deepcopy(node[key]))
    return value


def _with_odd_bytes(rng: random.Random, raw: bytes, raws: list[bytes]) -> bytes:
    at = rng.randint(0, len(raw))
    action = rng.randrange(6)
    if action == 0:
        return raw[:at]
    if action == 1:
        return raw[:at] + rng.choice(ODD_TOKENS) + raw[at:]
    if action == 2:
        return raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
    if action == 3:
        return raw[:at] + raw[at + rng.randint(1, 12) :]
    if action == 4:
        return raw[:at] + raw[max(0, at - rng.randint(1, 40)) :]
    other = rng.choice(raws)
    return raw[:at] + other[rng.randint(0, len(other)) :]


# --- what must hold ------------------------------------------------------------------------------------------------


def look(raw: bytes) -> str:
    """All that may be done with a frame; what it turned out to be. Raises what is a bug."""
    _control(raw)
    message = _or_none(codec.decode, raw)
    if message is None:
        _listed(_or_none(instruments.read_exchange_info, raw))
        return "Nonsense"
    if isinstance(message, codec.ExecutionReport):
        _reported(message)
    elif isinstance(message, codec.BalanceUpdate):
        _kept(_or_none(codec_reports.balance_moved, message, "binance"))
    elif isinstance(message, codec.AccountPosition):
        _or_none(codec_reports.position, message)
    elif isinstance(message, codec.Reply):
        _replied(message)
    return type(message).__name__


def _control(raw: bytes) -> None:
    _or_none(codec.decode_stream_control, raw)


def _or_none(function: Callable[..., T], *arguments: Any) -> T | None:
    try:
        return function(*arguments)
    except Nonsense as error:
        text = str(error)
    assert _shown(text)
    return None


def _shown(text: str) -> bool:
    """An explanation is one line that fits a log."""
    assert text.isprintable(), "an explanation that is more than a line"
    return 0 < len(text) < 800


def _listed(listing: instruments.Listing | None) -> None:
    for warning in listing.warnings if listing is not None else ():
        assert _shown(warning)


def _reported(report: codec.ExecutionReport) -> None:
    client_id = Names(lambda c: c.startswith("tbx-")).of_report(report)
    found = _or_none(codec_reports.translate, report, BTC, "binance", client_id)
    for message in found or ():
        _kept(message)


def _replied(reply: codec.Reply) -> None:
    if reply.error is not None:
        assert _shown(errors.classify_fault(reply.status, reply.error, "place").reason)
        _or_none(codec_replies.read_replaced, codec.ABSENT, reply.error)
        return
    for read in RESULT_READERS:
        _answered(_or_none(read, reply.result))


def _answered(answer: Any) -> None:
    found: list[Any] | None = None
    if isinstance(answer, codec_replies.PlacedOrder):
        found = _or_none(codec_reports.placed, answer, BTC, "binance")
    elif isinstance(answer, codec_replies.PlacedList):
        found = _or_none(codec_reports.placed_list, answer, BTC, "binance")
    elif isinstance(answer, codec_replies.CancelledOrder | codec_replies.CancelledList):
        found = _or_none(codec_reports.cancelled, answer, BTC, "binance")
    elif isinstance(answer, codec_replies.Amended):
        found = _or_none(codec_reports.amended, answer, BTC, "binance")
    elif isinstance(answer, codec_replies.KnownOrder):
        found = _or_none(codec_reports.known, answer, (), BTC, "binance", ID)
    elif isinstance(answer, codec_replies.Account):
        _kept(_or_none(codec_reports.balances, answer, "binance", 1))
    elif isinstance(answer, instruments.Listing):
        _listed(answer)
    elif isinstance(answer, codec_replies.Commission):
        _or_none(instruments.with_fees, BTC, answer)
    for message in found or ():
        _kept(message)


def _kept(message: Any) -> None:
    """A message can be stored and read again, and its money is possible."""
    if message is None:
        return
    stored = msgspec.json.encode(message)
    assert msgspec.json.decode(stored, type=type(message)) == message
    if isinstance(message, VenueFilled | ForeignFilled):
        assert 0 < message.price_ticks < 2**62 and 0 < message.qty_lots < 2**62
        assert message.trade_id and message.fee.is_finite() and message.fee_currency
    assert _shown(getattr(message, "reason", "-"))
    if isinstance(message, VenueAmended):
        assert 0 < message.qty_lots < 2**62
    assert 0 < message.timestamp_ns < 2**63


def run(count: int, seed: int, seeds: list[Any]) -> Counter[str]:
    """Look at `count` mutated frames; what they turned out to be. Raises AssertionError that names the frame."""
    rng = random.Random(seed)
    raws = [json.dumps(value).encode() for value in seeds]
    outcomes: Counter[str] = Counter()
    for number in range(count):
        raw = mutated(rng, raws)
        try:
            outcomes[look(raw)] += 1
        except Exception as error:
            raise AssertionError(f"frame {number} of seed {seed}: {error!r}: {raw!r}") from error
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    seeds = all_seeds()
    began = time.monotonic()
    outcomes = run(arguments.count, arguments.seed, seeds)
    took = time.monotonic() - began
    print(f"{outcomes.total()} frames in {took:.0f} s, seed {arguments.seed}: no failure")
    for name, number in outcomes.most_common():
        print(f"  {number:9} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
