"""Orders, reports and answers of Binance that several tests look at."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from tbx.core.model.instruments import Instrument
from tbx.venues.binance import codec
from tbx.venues.binance.codec import decode

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
NOW_MS = 1_645_423_376_532


def ours(client_id: str) -> bool:
    return client_id.startswith("tbx-node1-")


REPORT: dict[str, Any] = {
    "e": "executionReport",
    "E": 1_499_405_658_658,
    "s": "BTCUSDT",
    "c": ID,
    "S": "BUY",
    "o": "LIMIT",
    "f": "GTC",
    "q": "0.01234000",
    "p": "52000.00000000",
    "P": "0.00000000",
    "F": "0.00000000",
    "g": -1,
    "C": "",
    "x": "NEW",
    "X": "NEW",
    "r": "NONE",
    "i": 4_293_153,
    "l": "0.00000000",
    "z": "0.00000000",
    "L": "0.00000000",
    "n": "0",
    "N": None,
    "T": 1_499_405_658_657,
    "t": -1,
    "I": 8_641_984,
    "w": True,
    "m": False,
    "M": False,
    "O": 1_499_405_658_657,
    "Z": "0.00000000",
    "Y": "0.00000000",
    "Q": "0.00000000",
    "V": "NONE",
}
TRADE = {"x": "TRADE", "X": "PARTIALLY_FILLED", "l": "0.00034000", "z": "0.00034000", "L": "51999.99000000"}
TRADE |= {"n": "0.00000034", "N": "BTC", "t": 77, "m": True}
AT_NS = 1_499_405_658_657_000_000


def event_frame(event: dict[str, Any]) -> bytes:
    return json.dumps({"subscriptionId": 0, "event": event}).encode()


def report_of(**changes: Any) -> codec.ExecutionReport:
    message = decode(event_frame({**REPORT, **changes}))
    assert isinstance(message, codec.ExecutionReport)
    return message
