"""The trading state, of everything and of parts: ACTIVE takes orders, REDUCING only those that reduce a position,
HALTED nothing new, FLATTEN only what closes, while everything there is being cancelled and sold (`flatten.py`).

Theory of operation. A limit is a reason with a name, a state and a scope: everything (""), an exchange, a pair or a
strategy. Of all limits that hold where an order would go the strictest decides. Some limits end by themselves or with
the process (a fault, a store that is away); the others are kept, and only a person lifts them: those of an operator,
and those that losses or the dead-man timer set.

Always true here: cancels, venue reports and exits that are already held flow in every state; a limit of a scope changes
nothing outside of it; `restricted` is False exactly where nothing limits anything; kept limits are on record.
"""

from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from enum import Enum
from typing import Any, Final

import msgspec

from ..kernel.actor import Actor
from ..kernel.bus import Handler
from ..kernel.clock import MS_NS
from ..kernel.kernel import Kernel
from ..model.messages import Faulted, LimitChanged, Refusal, SetTradingState, StoreStateChanged
from ..model.record_checks import limit_key
from ..model.records import TradingLimit


class TradingState(Enum):
    """From what lets everything through to what lets least through."""

    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"
    FLATTEN = "FLATTEN"

    # A member is its own only copy; Enum's hash, a Python function, would be half the cost of every lookup.
    __hash__ = object.__hash__


SEVERITY: Final = {state: number for number, state in enumerate(TradingState)}
EVERYTHING: Final = ""
OPERATOR: Final = "operator"  # the name of the limit that a person sets
SCOPED_MAX: Final = 1_000  # limits of parts; one of everything always has room
WHY_MAX: Final = 20  # reasons that are told in words; the rest are counted


class StateChanged(msgspec.Struct, frozen=True):
    """The event `TradingStateChanged`: the strictest limit of a scope itself is another."""

    scope: str
    before: str
    state: str
    name: str  # of the limit that was set or lifted
    why: str
    by: str
    since: int  # ms


def scopes_of(exchange: str, pair: str, strategy: str | None) -> tuple[str, ...]:
    """Every scope that an order is part of, everything first."""
    scopes = EVERYTHING, f"exchange:{exchange}", f"pair:{pair}"
    return scopes if strategy is None else (*scopes, f"strategy:{strategy}")


class Guard(Actor):
    """Holds why trading is limited, and where; the strictest reason decides."""

    def __init__(self, kernel: Kernel, markets: Collection[tuple[str, str]] = ()) -> None:
        """`markets` are (exchange, pair): what scopes may name."""
        super().__init__(kernel)
        self.state = TradingState.ACTIVE  # of everything
        self.why = TradingState.ACTIVE.value  # the reasons in words
        self.restricted = False  # whether anything limits anything: the fast path of the checks
        self._limits: dict[str, dict[str, TradingLimit]] = {}  # by scope and name; no scope without any
        self._states: dict[str, TradingState] = {}  # of scopes with limits
        self._kept: set[tuple[str, str]] = set()  # (scope, name)
        self._known = {"exchange": {name for name, _ in markets}, "pair": {pair for _, pair in markets}}

    def handles(self) -> dict[type, Handler]:
        return {
            Faulted: self.on_fault,
            StoreStateChanged: self.on_store,
            SetTradingState: self.on_command,
        }

    def restore(self, limits: Iterable[TradingLimit]) -> None:
        """Take back what was kept; they hold from here on, whatever else comes."""
        for limit in sorted(limits, key=lambda limit: limit.since_ns):
            self._limits.setdefault(limit.scope, {})[limit.name] = limit
            self._kept.add((limit.scope, limit.name))
        for scope in self._limits:
            self._decide(scope)

    def records(self) -> Iterator[tuple[str, TradingLimit]]:
        """Kept limits, each with its key in table `risk`."""
        for limit in self.limits():
            if self.is_kept(limit):
                yield limit_key(limit.scope, limit.name), limit

    def on_fault(self, message: Faulted) -> None:
        self.limit("fault", TradingState.HALTED, f"a fault in {message.where}: {message.error}")

    def on_store(self, message: StoreStateChanged) -> None:
        if message.up:
            self.lift(EVERYTHING, "store")
        else:
            self.limit("store", TradingState.REDUCING, f"the store is away: {message.reason}")

    # --- what holds

    def state_of(self, exchange: str, pair: str, strategy: str | None) -> TradingState:
        """The strictest of the limits that apply there."""
        states = self._states
        found = [states[scope] for scope in scopes_of(exchange, pair, strategy) if scope in states]
        return max(found, key=SEVERITY.__getitem__, default=TradingState.ACTIVE)

    def why_of(self, exchange: str, pair: str, strategy: str | None) -> str:
        """The reasons that apply there, in words."""
        return self._words(scopes_of(exchange, pair, strategy))

    def scope_state(self, scope: str) -> TradingState:
        """The strictest limit of a scope itself."""
        return self._states.get(scope, TradingState.ACTIVE)

    def limits(self, scope: str | None = None) -> Iterator[TradingLimit]:
        """Those that are in force: all, or those of a scope itself."""
        for name in list(self._limits) if scope is None else [scope]:
            yield from list(self._limits.get(name, {}).values())

    def find(self, scope: str, name: str) -> TradingLimit | None:
        return self._limits.get(scope, {}).get(name)

    def is_kept(self, limit: TradingLimit) -> bool:
        """Whether it survives a restart, and only a person lifts it."""
        return (limit.scope, limit.name) in self._kept

    # --- changing

    def limit(
        self, name: str, state: TradingState, why: str, scope: str = EVERYTHING, *, kept: bool = False, by: str = ""
    ) -> bool:
        """Limit trading for a reason of this name, in place of an earlier one; False where there are too many."""
        before = self.find(scope, name)
        if before is None and scope and self._scoped() >= SCOPED_MAX:
            return False
        now_ns = self.clock.now_ns()
        since_ns = before.since_ns if before is not None and before.state == state.value else now_ns
        limit = TradingLimit(
            name=name,
            scope=scope,
            state=state.value,  # type: ignore[arg-type]  # never ACTIVE
            why=why,
            by=by,
            since_ns=since_ns,
        )
        if limit == before and kept is self.is_kept(limit):
            return True
        self._limits.setdefault(scope, {})[name] = limit
        self._keep(limit, kept)
        self._changed(scope, name, why, by, since_ns)
        self.bus.publish(LimitChanged(limit, by))
        return True

    def lift(self, scope: str, name: str | None = None, *, by: str = "") -> list[TradingLimit]:
        """End the limit of this name, or without one all that are kept in the scope; returns those that held."""
        lifted = [limit for limit in self.limits(scope) if limit.name == name or (name is None and self.is_kept(limit))]
        for limit in lifted:
            self._keep(limit, False)
            del self._limits[scope][limit.name]
        if not lifted:
            return lifted
        if not self._limits[scope]:
            del self._limits[scope]
        names = ", ".join(limit.name for limit in lifted)
        self._changed(scope, names, f"lifted: {names}", by, self.clock.now_ns())
        for limit in lifted:
            self.bus.publish(LimitChanged(limit, by, lifted=True))
        return lifted

    def _keep(self, limit: TradingLimit, kept: bool) -> None:
        key = limit.scope, limit.name
        if kept:
            self._kept.add(key)
            self.outbox.put("risk", limit_key(*key), limit)
        elif key in self._kept:
            self._kept.discard(key)
            self.outbox.delete("risk", limit_key(*key))

    def _scoped(self) -> int:
        return sum(len(limits) for scope, limits in self._limits.items() if scope)

    def _changed(self, scope: str, name: str, why: str, by: str, since_ns: int) -> None:
        before = self.scope_state(scope)
        self._decide(scope)
        state = self.scope_state(scope)
        if state is not before:
            changed = StateChanged(scope, before.value, state.value, name, why, by, since_ns // MS_NS)
            self.outbox.event("risk", "TradingStateChanged", changed)

    def _decide(self, scope: str) -> None:
        limits, conditions = self._limits.get(scope), self.kernel.conditions
        # Whoever asks whether orders are taken is told no only where everything is limited.
        condition = "part_limited" if scope else "trading_limited"
        if limits:
            states = [TradingState(limit.state) for limit in limits.values()]
            self._states[scope] = max(states, key=SEVERITY.__getitem__)
            conditions.begin(condition, self._words((scope,)), scope)
        else:
            self._states.pop(scope, None)
            conditions.end(condition, scope)
        self.restricted = bool(self._states)
        if not scope:
            self.state, self.why = self.scope_state(scope), self._words((scope,))

    def _words(self, scopes: Iterable[str]) -> str:
        limits = [limit for scope in scopes for limit in self.limits(scope)]
        words = [
            f"{limit.state}{f' ({limit.scope})' if limit.scope else ''}: {limit.why}" for limit in limits[:WHY_MAX]
        ]
        if len(limits) > WHY_MAX:
            words.append(f"and {len(limits) - WHY_MAX} more")
        return "; ".join(words) or TradingState.ACTIVE.value

    # --- a person's word

    def on_command(self, request: SetTradingState) -> None:
        refusal = self._scope_refusal(request.scope)
        if refusal is None and request.state == "ACTIVE":
            refusal = self._lift_all(request)
        elif refusal is None:
            refusal = self._set(request)
        if refusal is not None:
            request.reply(refusal)
        else:
            self.outbox.effect(request.reply, self.scope_state(request.scope))

    def _set(self, request: SetTradingState) -> Refusal | None:
        if not request.reason.strip():
            return _wrong("reason", "REQUIRED", f"say why trading is to be {request.state}")
        state = TradingState(request.state)
        before = self.find(request.scope, OPERATOR)
        if before is not None and before.state == request.state and before.why == request.reason:
            return None  # a repeat, whoever it is of
        if self.limit(OPERATOR, state, request.reason, request.scope, kept=True, by=request.by):
            return None
        detail = f"{SCOPED_MAX} limits of exchanges, pairs and strategies hold already; lift those that are over"
        return Refusal(code="TOO_MANY_LIMITS", detail=detail, status=409)

    def _lift_all(self, request: SetTradingState) -> Refusal | None:
        """Not half: where something holds that nobody can lift, nothing is lifted, as trading would stay limited."""
        left = [limit for limit in self.limits(request.scope) if not self.is_kept(limit)]
        if not left:
            self.lift(request.scope, by=request.by)
            return None
        words = "; ".join(f"{limit.state} by {limit.name}: {limit.why}" for limit in left)
        detail = f"nothing was lifted, as trading would stay limited: {words}. It ends by itself, or with a restart"
        return Refusal(code="STILL_LIMITED", detail=detail, status=409)

    def _scope_refusal(self, scope: str) -> Refusal | None:
        """What is wrong with a scope; None where it may have limits. Strategies may come later, so any name will do."""
        if not scope:
            return None
        kind, _, name = scope.partition(":")
        if kind not in ("exchange", "pair", "strategy") or not name.strip():
            right = "nothing for everything, exchange:NAME, pair:BASE_QUOTE or strategy:NAME"
            return _wrong("scope", "INVALID_SCOPE", f"{scope[:100]!r} is no scope; expected {right}")
        known = self._known.get(kind)
        if known is None or name in known:
            return None
        near = get_close_matches(name, known, n=1, cutoff=0.5) or sorted(known)[:5]
        code = "INVALID_EXCHANGE" if kind == "exchange" else "INVALID_PAIR"
        return _wrong("scope", code, f"{name[:100]!r} is not traded here; nearest: {', '.join(near)}")


def _wrong(field: str, code: str, detail: str) -> Refusal:
    error: dict[str, Any] = {"field": field, "code": code, "detail": detail}
    return Refusal(code=code, detail=f"{field}: {detail}", errors=(error,))
