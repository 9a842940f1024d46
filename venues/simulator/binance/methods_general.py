"""Methods about the exchange itself: is it there, what time is it, what is traded by which rules."""

from __future__ import annotations

from typing import Any

from ..exchange.records import Symbol
from . import documents, errors, params
from .methods import Call, Method, named
from .methods_market import SYMBOL_STATUSES

TIMEZONE = "UTC"


def ping(_call: Call) -> Any:
    return {}


def time(call: Call) -> Any:
    return {"serverTime": call.server_time}


def exchange_info(call: Call) -> Any:
    """exchangeInfo: everything, or what one of symbol, symbols, permissions asks for."""
    show = params.boolean(call.params, "showPermissionSets") is not False
    return {
        "timezone": TIMEZONE,
        "serverTime": call.server_time,
        "rateLimits": call.api.limits.document(websocket=call.session is not None),
        "exchangeFilters": [],
        "symbols": [documents.symbol(found, show) for found in _chosen(call)],
    }


def execution_rules(call: Call) -> Any:
    """executionRules: no symbol has any here."""
    return {"symbolRules": [{"symbol": found.name, "rules": []} for found in _chosen(call)]}


def _chosen(call: Call) -> list[Symbol]:
    """The symbols that are asked for; symbolStatus chooses among all of them only."""
    sent = call.params
    status = params.choice(sent, "symbolStatus", SYMBOL_STATUSES)
    if status is not None and ("symbol" in sent or "symbols" in sent):
        raise errors.bad_combination()
    asked = [name for name in ("symbol", "symbols", "permissions") if name in sent]
    if len(asked) > 1:
        raise errors.bad_combination()
    if "symbol" in sent:
        return [call.listed(params.symbol(sent))]
    if "symbols" in sent:
        names = params.words(sent, "symbols") or []
        if len(names) > len(set(names)):
            raise errors.duplicate_symbols()
        return [call.listed(name) for name in names]
    symbols = list(call.api.exchange.symbols.values())
    if "permissions" in sent and documents.PERMISSION not in (params.words(sent, "permissions") or []):
        return []
    return [found for found in symbols if status is None or found.status == status]


METHODS = (
    Method(name="ping", http=(("GET", "/ping"),), run=ping),
    Method(name="time", http=(("GET", "/time"),), run=time),
    Method(
        name="exchangeInfo",
        http=(("GET", "/exchangeInfo"),),
        run=exchange_info,
        weight=20,
        params=named("symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"),
    ),
    Method(
        name="executionRules",
        http=(("GET", "/executionRules"),),
        run=execution_rules,
        weight=2,
        params=named("symbol", "symbols", "symbolStatus"),
    ),
)
