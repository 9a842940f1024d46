"""A signal as it is kept and told, what its order is called, and what a signal says that cannot be.

Always true here: nothing is read but the arguments.
"""

import hashlib
from decimal import Decimal
from typing import Final

import msgspec

from ..core.kernel.clock import MS_NS, SECOND_NS
from ..core.model.exact import plain
from ..core.model.messages import ExecuteSignal, Refusal
from ..core.model.records import Order, Signal, SignalAction, SignalStatus, Sizing

FUTURE_MAX_NS: Final = 5 * SECOND_NS  # how far the caller's clock may be ahead
NAME_VERBATIM_MAX: Final = 40  # characters of a signal's id that its order's name holds as they are


class SignalUpdate(msgspec.Struct, frozen=True, rename="camel"):
    """What an event on the channel `signals` says of its signal."""

    signal_id: str
    client_signal_id: str | None
    status: SignalStatus
    pair: str
    signal: SignalAction
    exchange: str | None
    source: str | None
    strategy: str | None
    confidence: Decimal | None
    order_ids: tuple[str, ...]
    position_sizing: Sizing | None
    code: str | None
    reason: str | None
    timestamp: int  # ms


def recorded(asked: ExecuteSignal, signal_id: str, created_ns: int) -> Signal:
    """A signal as it came in."""
    return Signal(
        signal_id=signal_id,
        client_signal_id=asked.client_signal_id,
        fingerprint=asked.fingerprint,
        pair=asked.pair,
        action=asked.action,
        exchange=asked.exchange,
        confidence=asked.confidence,
        source=asked.source,
        strategy=asked.strategy,
        entry_price=asked.entry_price,
        stop_loss=asked.stop_loss,
        take_profit=asked.take_profit,
        method=asked.method,
        max_risk=asked.max_risk,
        metadata=asked.metadata,
        created_ns=created_ns,
    )


def signal_of_order(asked: ExecuteSignal, order: Order) -> Signal:
    """What is still known of a signal that has left memory: its order, and the repeat itself."""
    signal = recorded(asked, order.signal_id or "", order.created_ns)
    signal.order_ids = tuple(o for o in (order.order_id, order.stop_loss_id, order.take_profit_id) if o is not None)
    signal.exchange, signal.status = order.exchange, "executed"
    if order.risk is not None and not order.risk.passed:
        signal.status, signal.code, signal.reason = "rejected", order.code, order.reason
    return signal


def signal_update(signal: Signal) -> SignalUpdate:
    return SignalUpdate(
        signal_id=signal.signal_id,
        client_signal_id=signal.client_signal_id,
        status=signal.status,
        pair=signal.pair,
        signal=signal.action,
        exchange=signal.exchange,
        source=signal.source,
        strategy=signal.strategy,
        confidence=signal.confidence,
        order_ids=signal.order_ids,
        position_sizing=signal.sizing,
        code=signal.code,
        reason=signal.reason,
        timestamp=signal.updated_ns // MS_NS,
    )


def refusal_of(signal: Signal, order: Order | None) -> Refusal:
    """The answer to a repeat of a signal that was rejected."""
    return Refusal(
        code=signal.code or "REJECTED", detail=signal.reason or "", order=order, signal_id=signal.signal_id or None
    )


def order_name(client_signal_id: str, suffix: str = "") -> str:
    """The client order id of a signal's order: `signal:{id}`, with a digest in place of an id that is too long for it.

    `suffix`: of the second and further sales, where a position is held at several exchanges.
    """
    name = client_signal_id
    if len(name) > NAME_VERBATIM_MAX:
        name = hashlib.blake2b(name.encode(), digest_size=NAME_VERBATIM_MAX // 2).hexdigest()
    return f"signal:{name}:{suffix}" if suffix else f"signal:{name}"


# --- what a signal says of itself ----------------------------------------------------------------------------------


def untimely(asked: ExecuteSignal, now_ns: int, max_age_ns: int) -> Refusal | None:
    """Why a signal is not of this moment."""
    at_ns, expires_ns = asked.timestamp_ns, asked.expires_ns
    if expires_ns is not None and expires_ns <= now_ns:
        late = (now_ns - expires_ns) // MS_NS
        return Refusal(code="SIGNAL_EXPIRED", detail=f"it expired {late} ms ago (expiresAt {expires_ns // MS_NS})")
    if at_ns is None:
        return None
    if max_age_ns and now_ns - at_ns > max_age_ns:
        detail = f"it is {(now_ns - at_ns) // MS_NS} ms old, at most {max_age_ns // MS_NS} are allowed (SIGNAL_MAX_AGE)"
        return Refusal(code="SIGNAL_EXPIRED", detail=detail)
    if at_ns - now_ns > FUTURE_MAX_NS:
        detail = (
            f"its timestamp is {(at_ns - now_ns) // MS_NS} ms ahead of this service's clock ({now_ns // MS_NS}); "
            f"at most {FUTURE_MAX_NS // MS_NS} are allowed"
        )
        return Refusal(code="SIGNAL_FROM_FUTURE", detail=detail)
    return None


def contradiction(asked: ExecuteSignal) -> Refusal | None:
    """What of a signal's own prices cannot be: a buy has stop < entry < target, a sell the reverse."""
    buy = asked.action == "BUY"
    entry, stop, target = asked.entry_price, asked.stop_loss, asked.take_profit
    what = "a buy" if buy else f"a {asked.action.lower()}"
    if stop is not None and stop == entry:
        detail = f"stopLoss {plain(stop)} is the entry price: there is no distance to size with"
        return Refusal(code="ZERO_STOP_DISTANCE", detail=detail)
    below, above = ("below", "above") if buy else ("above", "below")
    pairs = (
        ("stopLoss", stop, "entryPrice", entry, below),
        ("takeProfit", target, "entryPrice", entry, above),
        ("stopLoss", stop, "takeProfit", target, below),
    )
    for name, value, other, bound, side in pairs:
        if value is None or bound is None or (value < bound if side == "below" else value > bound):
            continue
        detail = f"{name} {plain(value)} of {what} must be {side} its {other} {plain(bound)}"
        return Refusal(code="CONTRADICTORY_SIGNAL", detail=detail)
    return None
