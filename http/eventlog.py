"""Committed events as lines of the log files, with the grep words of the manual."""

from collections.abc import Sequence

from ..core.kernel.outbox import Event
from .logfiles import LogFiles, Route

# Event -> word in orders.log.
ORDER_WORDS = {
    "OrderPending": "PENDING",
    "OrderSubmitted": "SUBMITTED",
    "OrderAccepted": "OPEN",
    "OrderUnknown": "UNKNOWN",
    "OrderPartiallyFilled": "PARTIAL",
    "OrderFilled": "FILLED",
    "OrderCancelRequested": "CANCEL_REQUESTED",
    "OrderCancelRefused": "CANCEL_REFUSED",
    "OrderCancelled": "CANCELLED",
    "OrderRejected": "REJECTED",
    "OrderExpired": "EXPIRED",
    "OrderAmendRequested": "AMEND_REQUESTED",
    "OrderAmendRefused": "AMEND_REFUSED",
    "OrderAmended": "AMENDED",
    "OrderTriggered": "TRIGGERED",
    "OrderSized": "SIZED",
    "OrderRetried": "RETRIED",
    "OrderContradicted": "CONTRADICTED",
    "OrderAdopted": "ADOPTED",
    "OrderResolved": "RESOLVED",
}
# Events of the health channel that are about an exchange -> word and level in exchange.log.
EXCHANGE_WORDS = {
    "VenueConnected": ("CONNECTED", "info"),
    "VenueDisconnected": ("DISCONNECTED", "warn"),
    "VenueContradiction": ("CONTRADICTION", "error"),
    "OddReport": ("ODD_REPORT", "warn"),
    "Reconciled": ("RECONCILED", "info"),
    "ResolvedOrderMoved": ("RESOLVED_ORDER_MOVED", "error"),
}
# What is not as it should be -> word and level in execution.log, with the name of the mode and why.
CONDITION_WORDS = {
    "ConditionBegan": ("CONDITION_BEGAN", "warn"),
    "ConditionChanged": ("CONDITION_CHANGED", "warn"),
    "ConditionEnded": ("CONDITION_ENDED", "info"),
}
SIGNAL_WORDS = {
    "SignalExecuted": ("SIGNAL_EXECUTED", "info"),
    "SignalHeld": ("SIGNAL_HELD", "info"),
    "SignalRejected": ("SIGNAL_REJECTED", "warn"),
    "DecisionMade": ("DECISION", "info"),
}
FAILED = frozenset({"OrderRejected", "OrderUnknown", "OrderContradicted", "OrderCancelRefused", "OrderAmendRefused"})


class EventLog:
    """A listener of the kernel's feed."""

    def __init__(self, files: LogFiles) -> None:
        self.files = files
        self._routes: dict[tuple[str, str], tuple[Route, ...]] = {}

    def committed(self, events: Sequence[Event]) -> None:
        known = self._routes
        lines = []
        for event in events:
            routes = known.get((event.channel, event.kind))
            if routes is None:
                routes = known[event.channel, event.kind] = self._routes_of(event)
            lines.append((routes, event.data))
        self.files.append(lines)

    def _routes_of(self, event: Event) -> tuple[Route, ...]:
        """Which lines an event of this kind makes."""
        route, kind = self.files.route, event.kind
        if event.channel == "orders":
            routes = [route("orders", ORDER_WORDS.get(kind, kind))]
            if kind == "OrderFilled":
                routes.append(route("trades", "FILLED"))
            elif kind in FAILED:
                routes += [route("errors", "ORDER_FAILED", "error"), route("execution", "ORDER_FAILED", "error")]
            return tuple(routes)
        if event.channel == "trades":
            return (route("trades", "EXECUTED"),)
        if event.channel == "health" and kind in EXCHANGE_WORDS:
            return (route("exchange", *EXCHANGE_WORDS[kind]),)
        if event.channel == "health" and kind in CONDITION_WORDS:
            return (route("execution", *CONDITION_WORDS[kind]),)
        if event.channel == "signals" and kind in SIGNAL_WORDS:
            return (route("execution", *SIGNAL_WORDS[kind]),)
        if event.channel == "positions":
            return (route("portfolio", kind),)
        return (route("execution", kind),)
