"""OpenAPI 3.1 from the very structs that are sent, and a page to browse it that needs nothing from elsewhere.

Requests are described by structs of their own here: bodies are not decoded into them, because every wrong field is to
be told at once (`schema.py`); a test holds their fields and the accepted ones together.
"""

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from ..core.model.exact import PRICE_MAX, QUANTITY_MAX
from .problems import CODES, ProblemDocument

VERSION = "1.0.0"

Number = float | str
Price = Annotated[float, msgspec.Meta(gt=0, le=PRICE_MAX)] | str
Quantity = Annotated[float, msgspec.Meta(gt=0, le=QUANTITY_MAX)] | str


class SignalDataRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Who wanted the order; kept with it."""

    source: str | None = None
    confidence: float | None = None
    strategy: str | None = None


class OrderRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A new order. Numbers may be decimal text, so that no digit is lost on the way."""

    pair: Annotated[str, msgspec.Meta(pattern="^[A-Z0-9]+_[A-Z0-9]+$", examples=["RVN_USDT"])]
    side: Literal["buy", "sell"]
    type: Literal["market", "limit", "stop_loss", "take_profit"]
    quantity: Quantity
    price: Price | None = None
    stop_price: Price | None = None
    stop_loss: Price | None = None
    take_profit: Price | None = None
    time_in_force: Literal["GTC", "IOC", "FOK", "GTD"] | None = None
    exchange: str | None = None
    paper_trade: bool | None = None
    risk_check: bool | None = None
    signal_data: SignalDataRequest | None = None
    client_order_id: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._:-]{1,64}$")] | None = None
    trigger: Literal["bid_ask", "last"] | None = None
    post_only: bool | None = None
    expire_time: int | None = None
    timeout: int | None = None
    on_slippage: Literal["refuse", "reduce"] | None = None


class OrderBatch(msgspec.Struct, forbid_unknown_fields=True):
    """Up to 50 orders, each taken or refused by itself."""

    orders: Annotated[list[OrderRequest], msgspec.Meta(min_length=1, max_length=50)]


class OrderAmendment(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """New values; what is left out stays as it is."""

    quantity: Quantity | None = None
    price: Price | None = None
    stop_price: Price | None = None


class OrderResolution(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator knows of an order in doubt; `ask` has its exchange asked now, and decides nothing."""

    outcome: Literal["not_taken", "cancelled", "ask"]
    reason: Annotated[str, msgspec.Meta(max_length=200)] | None = None  # how it is known; not needed with `ask`


class PositionClosing(msgspec.Struct, forbid_unknown_fields=True):
    """How much to close; all of it without."""

    quantity: Quantity | None = None


class TradingStateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What may be traded; without a scope everywhere."""

    state: Literal["ACTIVE", "REDUCING", "HALTED", "FLATTEN"]
    scope: Annotated[str, msgspec.Meta(max_length=200, examples=["pair:BTC_USDT"])] | None = None
    reason: Annotated[str, msgspec.Meta(max_length=200)] | None = None  # of every state but ACTIVE


class DeadManRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Seconds within which the timer has to be renewed; 0 disarms it."""

    timeout: Annotated[int, msgspec.Meta(ge=0, le=86_400)]


class DrillRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Where to drill; without a pair at the first that has a fresh book."""

    pair: str | None = None


Share = Annotated[float, msgspec.Meta(ge=0, le=1)] | str


class RiskParametersRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """How a signal is sized: by how much of the equity it may lose at its stop, as a share (0.02 is 2 %), and how."""

    max_risk_percent: Share | None = None
    position_size_method: (
        Literal["fixed_fraction", "fixed_fractional", "volatility_adjusted", "kelly", "kelly_criterion"] | None
    ) = None


class SignalRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A trading decision. BUY is sized and becomes an entry with its exits; SELL and CLOSE sell what is held (of the
    strategy, where one is named); HOLD is put on record."""

    pair: Annotated[str, msgspec.Meta(pattern="^[A-Z0-9]+_[A-Z0-9]+$", examples=["RVN_USDT"])]
    signal: Literal["BUY", "SELL", "HOLD", "CLOSE"]
    confidence: Share | None = None
    source: str | None = None
    strategy: str | None = None
    entry_price: Price | None = None
    stop_loss: Price | None = None
    take_profit: Price | None = None
    risk_parameters: RiskParametersRequest | None = None
    metadata: dict[str, Any] | None = None  # at most 4 KiB; kept as it is
    signal_id: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._:-]{1,64}$")] | None = None
    exchange: str | None = None
    paper_trade: bool | None = None
    timestamp: int | None = None  # ms, when it was decided
    expires_at: int | None = None  # ms


class Operation:
    """A row of the table of routes."""

    __slots__ = ("answer", "body", "endpoint", "method", "path", "query", "scope", "status")

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: Callable[..., Awaitable[Any]],
        scope: str | None,
        body: type | None,
        answer: type | None,  # str is text, else a document
        status: int = 200,
        query: Sequence[str] = (),
    ) -> None:
        self.method = method
        self.path = path
        self.endpoint = endpoint
        self.scope = scope  # of the key that is needed; None: nobody is asked
        self.body = body
        self.answer = answer
        self.status = status
        self.query = query

    @property
    def summary(self) -> str:
        """What the endpoint's docstring says behind its path."""
        text = (self.endpoint.__doc__ or "").strip().splitlines()[0]
        return text.partition(": ")[2] or text


def openapi(operations: Sequence[Operation]) -> bytes:
    """The document, encoded."""
    types = {t for op in operations for t in (op.body, op.answer) if t not in (None, str)} | {ProblemDocument}
    ordered = sorted(types, key=lambda t: t.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for op in operations:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op, schema_of)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "trading-bot-execution",
            "version": VERSION,
            "description": "Takes trading decisions and makes them happen. Money is JSON numbers with every digit; "
            "times are milliseconds. Errors are RFC 9457 documents with a stable code. The feed is at /ws.",
        },
        "paths": paths,
        "components": {
            "schemas": _decimals_are_numbers(components),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _operation(op: Operation, schema_of: dict[type, Any]) -> dict[str, Any]:
    problem = {
        "description": "An error, with a stable code",
        "content": {"application/problem+json": {"schema": schema_of[ProblemDocument]}},
    }
    answer: dict[str, Any] = {"description": "Done"}
    if op.answer is str:
        answer["content"] = {"text/plain": {"schema": {"type": "string"}}}
    elif op.answer is not None:
        answer["content"] = {"application/json": {"schema": schema_of[op.answer]}}
    entry: dict[str, Any] = {
        "summary": op.summary,
        "operationId": op.endpoint.__name__,
        "responses": {str(op.status): answer, "default": problem},
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", op.path)
    ]
    parameters += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in op.query]
    if op.path == "/api/orders" and op.method == "POST":
        parameters += [
            {"name": name, "in": "header", "schema": {"type": "string"}} for name in ("Idempotency-Key", "Prefer")
        ]
    if parameters:
        entry["parameters"] = parameters
    if op.body is not None:
        content = {"application/json": {"schema": schema_of[op.body]}}
        entry["requestBody"] = {"required": op.body is not PositionClosing, "content": content}
    if op.scope is not None:
        entry["security"] = [{}, {"bearer": []}, {"key": []}]
        entry["description"] = f"Where API keys are set: scope {op.scope}."
    return entry


def _decimals_are_numbers(schema: Any) -> Any:
    """Decimals are encoded as JSON numbers here; msgspec describes them as text."""
    if isinstance(schema, dict):
        if schema.get("format") == "decimal" and schema.get("type") == "string":
            return {**{k: v for k, v in schema.items() if k not in ("format", "type")}, "type": "number"}
        return {name: _decimals_are_numbers(value) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_decimals_are_numbers(value) for value in schema]
    return schema


# --- the page ------------------------------------------------------------------------------------------------------

STYLE = """
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}body{max-width:62rem;margin:2rem auto;padding:0 1rem}
code,pre{font:13px/1.5 ui-monospace,monospace}summary{cursor:pointer;padding:.35rem 0}pre{overflow:auto;padding:.8rem;
border:1px solid #8886;border-radius:6px}b.m{display:inline-block;width:4.5rem;font-family:ui-monospace,monospace}
details{border-bottom:1px solid #8884}small{opacity:.7}dt{font-family:ui-monospace,monospace;margin-top:.6rem}
dd{margin-left:1rem}
"""


def docs_page(operations: Sequence[Operation], document: bytes) -> tuple[bytes, bytes]:
    """The page, and the content security policy that lets its own style in and nothing else."""
    spec = json.loads(document)
    rows = "".join(_row(op, spec["paths"][op.path][op.method.lower()]) for op in operations)
    schemas = "".join(
        f'<details id="schema-{name}"><summary><code>{name}</code> '
        f"<small>{_html(schema.get('description', ''))}</small></summary>"
        f"<pre>{_html(json.dumps(schema, indent=2))}</pre></details>"
        for name, schema in sorted(spec["components"]["schemas"].items())
    )
    codes = "".join(f'<dt id="{code}">{code}</dt><dd>{_html(text)}</dd>' for code, text in sorted(CODES.items()))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{spec['info']['title']}</title><style>{STYLE}</style><h1>{spec['info']['title']}</h1>"
        f'<p>{_html(spec["info"]["description"])} <a href="/openapi.json">openapi.json</a></p>'
        f"<h2>Requests</h2>{rows}<h2>Schemas</h2>{schemas}<h2>Error codes</h2><dl>{codes}</dl></html>"
    )
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest())
    policy = b"default-src 'none'; style-src 'sha256-%b'; frame-ancestors 'none'" % digest
    return page.encode(), policy


def _row(op: Operation, entry: dict[str, Any]) -> str:
    details = json.dumps({k: v for k, v in entry.items() if k != "summary"}, indent=2)
    linked = re.sub(r"#/components/schemas/(\w+)", r'<a href="#schema-\1">#/components/schemas/\1</a>', _html(details))
    return (
        f'<details><summary><b class="m">{op.method}</b> <code>{_html(op.path)}</code> '
        f"<small>{_html(op.summary)}</small></summary><pre>{linked}</pre></details>"
    )


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
