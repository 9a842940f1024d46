"""Committed events as lines of the log files, with the grep words of the manual."""

from collections.abc import Sequence

from ..core.kernel.outbox import Event
from .logfiles import LogFiles

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
}
FAILED = frozenset({"OrderRejected", "OrderUnknown", "OrderRetried", "OrderCancelRefused", "OrderAmendRefused"})


class EventLog:
    """A listener of the kernel's feed."""

    def __init__(self, files: LogFiles) -> None:
        self.files = files

    def committed(self, events: Sequence[Event]) -> None:
        files = self.files
        for event in events:
            channel = event.channel
            if channel == "orders":
                files.orders(ORDER_WORDS.get(event.kind, event.kind), event.data)
                if event.kind == "OrderFilled":
                    files.trades("FILLED", event.data)
                elif event.kind in FAILED:
                    files.error("ORDER_FAILED", event.data)
            elif channel == "trades":
                files.trades("EXECUTED", event.data)
            elif channel == "positions":
                files.portfolio(event.kind, event.data)
            else:
                files.execution("info", event.kind, event=event.seq)
