"""JSON bodies and query strings in, commands out; every field that is wrong is named, not just the first.

Always true here: numbers are read exactly, from their text; nothing is clamped, rounded, guessed or ignored. A field
that is null counts as not given. Numbers may be JSON numbers or decimal text ("0.0245").
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from ..core.model.exact import DECIMALS_MAX, NUMBER, PRICE_MAX, QUANTITY_MAX
from ..core.model.messages import ExecuteSignal, Reply, SubmitOrder
from ..core.model.records import SignalData
from .problems import FieldError, Problem, invalid

TIMEOUT_MS_MAX = 30 * 86_400_000
TIME_MS_MAX = 4_102_444_800_000  # 2100-01-01
TEXT_MAX = 200
QUERY_FIELDS_MAX = 20
NS_PER_MS = 1_000_000

PAIR = re.compile(r"[A-Z0-9]{1,20}_[A-Z0-9]{1,20}")
CLIENT_ORDER_ID = re.compile(r"[A-Za-z0-9._:\-]{1,64}")

SIDES = ("buy", "sell")
TYPES = ("market", "limit", "stop_loss", "take_profit")
TIMES_IN_FORCE = ("GTC", "IOC", "FOK", "GTD")
TRIGGERS = ("bid_ask", "last")
ON_SLIPPAGE = ("refuse", "reduce")
ORDER_FIELDS = frozenset((
    "pair", "side", "type", "quantity", "price", "stopPrice", "stopLoss", "takeProfit", "timeInForce", "exchange",
    "paperTrade", "riskCheck", "signalData", "clientOrderId", "trigger", "postOnly", "expireTime", "timeout",
    "onSlippage",
))  # fmt: skip
SIGNAL_FIELDS = frozenset(("source", "confidence", "strategy"))
AMEND_FIELDS = frozenset(("quantity", "price", "stopPrice"))
CLOSE_FIELDS = frozenset(("quantity",))
RESOLVE_FIELDS = frozenset(("outcome", "reason"))
OUTCOMES = ("not_taken", "cancelled", "ask")
NONE_KNOWN: frozenset[str] = frozenset()
# Fields of a command that are no part of what was asked for.
NOT_ASKED_FOR = frozenset(("reply", "fingerprint", "advice", "on_decided", "refit"))

# Numbers with a fraction or an exponent, and integers beyond 64 bits, arrive as their text.
_decode = msgspec.json.Decoder(float_hook=str).decode
Document = dict[str, Any]


# --- documents -----------------------------------------------------------------------------------------------------


def document(body: bytes) -> Document:
    """A JSON object; raises Problem 400 where it is not JSON, 422 where it is something else or says a thing twice."""
    doc = any_document(body)
    if doc.__class__ is not dict:
        raise Problem(422, "WRONG_TYPE", f"the body is {named(doc)}, expected an object")
    return doc


def any_document(body: bytes) -> Any:
    """Any JSON value, under the same rules."""
    if not body:
        raise Problem(400, "NOT_JSON", "the body is empty, expected JSON")
    try:
        doc = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "NOT_JSON", f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Problem(400, "NOT_JSON", "the body is nested too deeply") from None
    if body.count(b":") != _keys(doc):
        _refuse_duplicates(body)
    return doc


def _keys(doc: Any) -> int:
    """Names in the objects of a small document; deeper ones are left to the exact count."""
    if doc.__class__ is dict:
        return len(doc) + sum([len(value) for value in doc.values() if value.__class__ is dict])
    return -1


def _refuse_duplicates(body: bytes) -> None:
    """More colons than names: one stands inside a text, or a name stands twice, which is then told."""
    errors: list[FieldError] = []

    def no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            errors.extend(FieldError(name[:TEXT_MAX], "stands twice", "DUPLICATE_FIELD") for name in twice)
        return found

    try:
        json.loads(body, object_pairs_hook=no_name_twice, parse_int=str, parse_float=str)
    except RecursionError:
        raise Problem(400, "NOT_JSON", "the body is nested too deeply") from None
    if errors:
        raise invalid(errors)


def named(value: object) -> str:
    """A JSON value's type in words."""
    names = {dict: "an object", list: "an array", str: "text", int: "a number", bool: "a boolean", type(None): "null"}
    return names.get(type(value), type(value).__name__)


# --- fields --------------------------------------------------------------------------------------------------------


class Fields:
    """Reads the fields of one document and collects what is wrong with them."""

    __slots__ = ("doc", "errors", "prefix")

    def __init__(self, doc: Mapping[str, Any], known: AbstractSet[str], prefix: str = "") -> None:
        self.doc = doc
        self.prefix = prefix
        self.errors: list[FieldError] = []
        if not doc.keys() <= known:
            for name in doc:
                if name not in known:
                    self.wrong(name[:TEXT_MAX], "UNKNOWN_FIELD", f"there is no such field{nearest(name, known)}")

    def wrong(self, field: str, code: str, detail: str) -> None:
        self.errors.append(FieldError(self.prefix + field, detail, code))

    def missing(self, field: str, why: str = "is required") -> None:
        self.wrong(field, "REQUIRED", why)

    def positive(self, field: str, most: int) -> Decimal | None:
        """A number above 0 and at most `most`."""
        value = self.doc.get(field)
        if value is None:
            return None
        number = self._number(field, value)
        if number is None:
            return None
        if number > most:
            self.wrong(field, "OUT_OF_RANGE", f"is above {most}, the most that is allowed")
        elif number <= 0:
            self.wrong(field, "OUT_OF_RANGE", "must be greater than 0")
        else:
            return number
        return None

    def share(self, field: str, *, above_zero: bool = False) -> Decimal | None:
        """A number from 0 to 1."""
        value = self.doc.get(field)
        number = None if value is None else self._number(field, value)
        if number is None or (0 <= number <= 1 and (number or not above_zero)):
            return number
        least = "above 0" if above_zero else "0"
        self.wrong(field, "OUT_OF_RANGE", f"expected {least} to 1, as a share: 0.02 is 2 %")
        return None

    def _number(self, field: str, value: object) -> Decimal | None:
        if value.__class__ is int:
            return Decimal(value)
        if value.__class__ is not str:
            self.wrong(field, "WRONG_TYPE", f"is {named(value)}, expected a number or decimal text")
            return None
        assert isinstance(value, str)
        if NUMBER.fullmatch(value) is None:
            self.wrong(field, "INVALID_NUMBER", f"{value[:40]!r} is not a decimal number such as 0.0245")
            return None
        number = Decimal(value)
        if number.is_signed() and not number:
            self.wrong(field, "INVALID_NUMBER", "is negative zero")
            return None
        if len(value) > DECIMALS_MAX and decimals(number) > DECIMALS_MAX:
            detail = f"has more than {DECIMALS_MAX} decimals; nearest: {_rounded(number)}"
            self.wrong(field, "TOO_PRECISE", detail)
            return None
        if "e" in value or "E" in value:
            return self._without_exponent(field, number)
        return number

    def _without_exponent(self, field: str, number: Decimal) -> Decimal | None:
        if decimals(number) > DECIMALS_MAX:
            self.wrong(field, "TOO_PRECISE", f"has more than {DECIMALS_MAX} decimals")
            return None
        return number

    def whole(self, field: str, least: int, most: int, meaning: str) -> int | None:
        value = self.doc.get(field)
        if value is None:
            return None
        if value.__class__ is str and re.fullmatch(r"[0-9]{1,15}", value):
            value = int(value)
        if value.__class__ is not int:
            # A number with a fraction or an exponent has come as its text.
            shown = value if value.__class__ is str and NUMBER.fullmatch(value) else named(value)
            self.wrong(field, "WRONG_TYPE", f"is {shown}, expected {meaning} as a whole number")
        elif not least <= value <= most:
            self.wrong(field, "OUT_OF_RANGE", f"expected {meaning} from {least} to {most}")
        else:
            return value
        return None

    def flag(self, field: str) -> bool | None:
        value = self.doc.get(field)
        if value is None or value.__class__ is bool:
            return value
        self.wrong(field, "WRONG_TYPE", f"is {named(value)}, expected true or false")
        return None

    def text(self, field: str) -> str | None:
        value = self.doc.get(field)
        if value is None:
            return None
        if value.__class__ is not str:
            self.wrong(field, "WRONG_TYPE", f"is {named(value)}, expected text")
        elif not value.strip() or len(value) > TEXT_MAX or not value.isprintable():
            self.wrong(field, "INVALID_VALUE", f"expected 1 to {TEXT_MAX} printable characters, not blanks alone")
        else:
            return value
        return None

    def choice(self, field: str, words: tuple[str, ...], fold: Callable[[str], str]) -> Any:
        value = self.doc.get(field)
        if value is None:
            return None
        if value.__class__ is not str:
            self.wrong(field, "WRONG_TYPE", f"is {named(value)}, expected {one_of(words)}")
            return None
        if value in words:
            return value
        folded = fold(value)
        if folded in words:
            return folded
        self.wrong(field, "INVALID_VALUE", f"{value[:40]!r} is none of {', '.join(words)}{nearest(folded, words)}")
        return None

    def done(self) -> None:
        if self.errors:
            raise invalid(self.errors)


def decimals(number: Decimal) -> int:
    """Digits behind the point, without trailing zeros."""
    exponent = number.normalize().as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _rounded(number: Decimal) -> str:
    return f"{number.quantize(Decimal(1).scaleb(-DECIMALS_MAX)):f}"


def nearest(word: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(word[:TEXT_MAX], known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def one_of(words: tuple[str, ...]) -> str:
    return " or ".join(words)


def pair_error(pair: object, pairs: Collection[str]) -> str | None:
    """What is wrong with a pair, or None."""
    if pair.__class__ is not str:
        return f"is {named(pair)}, expected a trading pair such as RVN_USDT"
    assert isinstance(pair, str)
    if PAIR.fullmatch(pair) is None:
        return "invalid trading pair format, expected BASE_QUOTE in capitals such as RVN_USDT" + nearest(
            pair.upper(), pairs
        )
    if pair not in pairs:
        return f"{pair} is not traded here{nearest(pair, pairs)}"
    return None


# --- orders --------------------------------------------------------------------------------------------------------


class OrderRules:
    """Turns bodies into SubmitOrder; knows which pairs and exchanges there are."""

    def __init__(self, pairs: Collection[str], exchanges: Collection[str]) -> None:
        self.pairs = frozenset(pairs)
        self.exchanges = frozenset(exchanges)

    def submit_order(self, doc: Document, reply: Reply, now_ms: int, key: str | None = None) -> SubmitOrder:
        """The command, or Problem 422 with everything that is wrong. `key` is the Idempotency-Key header."""
        fields = Fields(doc, ORDER_FIELDS)
        get = doc.get
        pair = get("pair")
        if pair not in self.pairs if pair.__class__ is str else True:
            self._pair_wrong(fields, pair)
        side = fields.choice("side", SIDES, str.lower)
        kind = fields.choice("type", TYPES, str.lower)
        quantity = fields.positive("quantity", QUANTITY_MAX)
        given: dict[str, Any] = {}
        if len(doc) > 4 or kind != "market" or side is None or quantity is None:
            given = self._optional(fields, now_ms)
            self._consistent(fields, side, kind, given)
        for field in ("side", "type", "quantity"):
            if get(field) is None:
                fields.missing(field)
        client_order_id = client_id(fields, key)
        fields.done()
        command = SubmitOrder(
            pair=pair,  # type: ignore[arg-type]
            side=side,
            type=kind,
            quantity=quantity,  # type: ignore[arg-type]
            reply=reply,
            client_order_id=client_order_id,
            **given,
        )
        if client_order_id is None:
            return command
        return msgspec.structs.replace(command, fingerprint=fingerprint(command))

    def _pair_wrong(self, fields: Fields, pair: object) -> None:
        if pair is None:
            fields.missing("pair")
        else:
            fields.wrong("pair", "INVALID_PAIR", pair_error(pair, self.pairs) or "")

    def _optional(self, fields: Fields, now_ms: int) -> dict[str, Any]:
        """The fields of SubmitOrder that were given; those that were not keep its defaults."""
        doc = fields.doc
        given: dict[str, Any] = {}
        for name in doc:
            read = OPTIONAL.get(name)
            if read is not None and doc[name] is not None:
                target, reader = read
                given[target] = reader(fields, name)
        exchange = given.get("exchange")
        if exchange is not None:
            if exchange.lower() in self.exchanges:
                given["exchange"] = exchange.lower()
            else:
                detail = f"{exchange[:40]!r} is none of {', '.join(sorted(self.exchanges))}"
                fields.wrong("exchange", "INVALID_EXCHANGE", detail)
        expires_ns = given.get("expires_ns")
        if expires_ns is not None and expires_ns <= now_ms * NS_PER_MS:
            fields.wrong("expireTime", "OUT_OF_RANGE", f"is in the past; it is {now_ms} now")
        return given

    def _consistent(self, fields: Fields, side: str | None, kind: str | None, given: Mapping[str, Any]) -> None:
        """Rules between fields; what was wrong by itself is not told again."""
        doc, tif = fields.doc, given.get("tif")
        triggered = kind in ("stop_loss", "take_profit")
        if kind == "limit" and doc.get("price") is None:
            fields.missing("price", "a limit order needs a price")
        if triggered and doc.get("stopPrice") is None:
            fields.missing("stopPrice", f"a {kind} order needs a stopPrice")
        if kind in ("market", "limit") and doc.get("stopPrice") is not None:
            fields.wrong("stopPrice", "INVALID_VALUE", f"a {kind} order has none; use stopLoss, or type stop_loss")
        if (
            given.get("trigger")
            and kind in ("market", "limit")
            and "stop_loss" not in given
            and "take_profit" not in given
        ):
            fields.wrong("trigger", "INVALID_VALUE", f"a {kind} order without exits waits for nothing")
        if triggered:
            for name in ("stopLoss", "takeProfit"):
                if doc.get(name) is not None:
                    fields.wrong(name, "INVALID_VALUE", f"a {kind} order is an exit itself and has no exits")
        if given.get("post_only") and (kind != "limit" or tif in ("IOC", "FOK")):
            fields.wrong("postOnly", "INVALID_VALUE", "only a limit order that may rest can be post-only")
        if tif == "GTD" and doc.get("expireTime") is None:
            fields.missing("expireTime", "timeInForce GTD needs an expireTime")
        if tif == "GTD" and kind == "market":
            fields.wrong("timeInForce", "INVALID_VALUE", "a market order does not rest; use GTC, IOC or FOK")
        if tif != "GTD" and doc.get("expireTime") is not None:
            fields.wrong("expireTime", "INVALID_VALUE", "needs timeInForce GTD")
        self._exits(fields, side, kind, given)

    def _exits(self, fields: Fields, side: str | None, kind: str | None, given: Mapping[str, Any]) -> None:
        """For a buy: stopLoss < price < takeProfit; for a sell the reverse. A market order's price is a reference."""
        stop, target = given.get("stop_loss"), given.get("take_profit")
        price = given.get("price") if kind == "limit" else None
        if side is None or (stop is None and target is None):
            return
        low, high = (stop, target) if side == "buy" else (target, stop)
        low_name, high_name = ("stopLoss", "takeProfit") if side == "buy" else ("takeProfit", "stopLoss")
        if low is not None and high is not None and low >= high:
            fields.wrong(low_name, "INVALID_VALUE", f"must be below {high_name} for a {side}")
        if price is not None and low is not None and low >= price:
            fields.wrong(low_name, "INVALID_VALUE", f"must be below the price for a {side}")
        if price is not None and high is not None and high <= price:
            fields.wrong(high_name, "INVALID_VALUE", f"must be above the price for a {side}")


def _price(fields: Fields, name: str) -> Decimal | None:
    return fields.positive(name, PRICE_MAX)


def _expires_ns(fields: Fields, name: str) -> int | None:
    value = fields.whole(name, 1, TIME_MS_MAX, "a time in ms")
    return None if value is None else value * NS_PER_MS


def _timeout_ns(fields: Fields, name: str) -> int | None:
    value = fields.whole(name, 0, TIMEOUT_MS_MAX, "milliseconds")
    return None if value is None else value * NS_PER_MS


def _signal_data(fields: Fields, name: str) -> SignalData | None:
    doc = fields.doc[name]
    if doc.__class__ is not dict:
        fields.wrong(name, "WRONG_TYPE", f"is {named(doc)}, expected an object")
        return None
    inside = Fields(doc, SIGNAL_FIELDS, "signalData.")
    confidence = None
    if doc.get("confidence") is not None:
        confidence = inside._number("confidence", doc["confidence"])
        if confidence is not None and not 0 <= confidence <= 1:
            inside.wrong("confidence", "OUT_OF_RANGE", "expected 0 to 1")
    signal = SignalData(source=inside.text("source"), confidence=confidence, strategy=inside.text("strategy"))
    fields.errors += inside.errors
    return signal


# API name -> (field of SubmitOrder, reader)
OPTIONAL: dict[str, tuple[str, Callable[[Fields, str], Any]]] = {
    "price": ("price", _price),
    "stopPrice": ("stop_price", _price),
    "stopLoss": ("stop_loss", _price),
    "takeProfit": ("take_profit", _price),
    "timeInForce": ("tif", lambda fields, name: fields.choice(name, TIMES_IN_FORCE, str.upper)),
    "exchange": ("exchange", Fields.text),
    "paperTrade": ("paper", Fields.flag),
    "riskCheck": ("risk_check", Fields.flag),
    "postOnly": ("post_only", Fields.flag),
    "trigger": ("trigger", lambda fields, name: fields.choice(name, TRIGGERS, str.lower)),
    "onSlippage": ("on_slippage", lambda fields, name: fields.choice(name, ON_SLIPPAGE, str.lower)),
    "expireTime": ("expires_ns", _expires_ns),
    "timeout": ("timeout_ns", _timeout_ns),
    "signalData": ("signal_data", _signal_data),
}


def client_id(fields: Fields, key: str | None, field: str = "clientOrderId") -> str | None:
    """The caller's own id in this field, else the Idempotency-Key; notes what is wrong, also that both differ."""
    value = fields.doc.get(field)
    if value is None and key is None:
        return None
    if value is not None and (value.__class__ is not str or CLIENT_ORDER_ID.fullmatch(value) is None):
        fields.wrong(field, "INVALID_VALUE", "expected 1 to 64 letters, digits or . _ : -")
        return None
    if key is None:
        return value
    if CLIENT_ORDER_ID.fullmatch(key) is None:
        fields.wrong("Idempotency-Key", "INVALID_VALUE", "expected 1 to 64 letters, digits or . _ : -")
        return None
    if value is not None and value != key:
        fields.wrong("Idempotency-Key", "IDEMPOTENCY_MISMATCH", f"differs from {field}; send one of them")
        return None
    return key


def checked_key(key: str) -> str:
    """An Idempotency-Key; raises Problem 422 where it is none."""
    if CLIENT_ORDER_ID.fullmatch(key) is None:
        wrong = "expected 1 to 64 letters, digits or . _ : -"
        raise invalid([FieldError("Idempotency-Key", wrong, "INVALID_VALUE")])
    return key


def fingerprint(command: SubmitOrder | ExecuteSignal) -> str:
    """The same for two requests that ask for the same, however they were written."""
    parts = []
    for name in command.__struct_fields__:
        if name in NOT_ASKED_FOR:
            continue
        value = getattr(command, name)
        parts.append(str(value.normalize()) if isinstance(value, Decimal) else repr(_canonical(value)))
    return hashlib.blake2b("|".join(parts).encode(), digest_size=12).hexdigest()


def _canonical(value: object) -> object:
    if isinstance(value, SignalData):
        confidence = value.confidence
        return (value.source, None if confidence is None else str(confidence.normalize()), value.strategy)
    return value


# --- queries -------------------------------------------------------------------------------------------------------


def query(text: bytes, known: AbstractSet[str] = NONE_KNOWN) -> Fields:
    """The parameters of a query string; raises Problem 422 where one stands twice or the text is none."""
    try:
        pairs = parse_qsl(
            text.decode("ascii"), keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX, errors="strict"
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise Problem(422, "INVALID_VALUE", f"the query string cannot be read: {error}") from None
    doc = dict(pairs)
    if len(doc) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise invalid([FieldError(name[:TEXT_MAX], "stands twice", "DUPLICATE_FIELD") for name in twice])
    return Fields(doc, known)
