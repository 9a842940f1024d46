"""Type -> handlers, run to completion, first in first out for what handlers publish.

Always true here: a message is handled by every subscriber before the next message begins, in the order of subscription;
a handler that raises is reported and does not keep the message from the others.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

Handler = Callable[[Any], None]
FaultHandler = Callable[[Handler, Any, Exception], None]


class Bus:
    """A synchronous message bus for one thread.

    `on_fault(handler, message, error)` is told of every handler that raises.
    """

    # What one input may set off; more is a loop between actors, and the rest is refused as a fault.
    CASCADE_MAX = 100_000

    def __init__(self, on_fault: FaultHandler) -> None:
        self._handlers: dict[type, tuple[Handler, ...]] = {}
        self._queue: deque[Any] = deque()
        self._running = False
        self._on_fault = on_fault

    def subscribe(self, message_type: type, handler: Handler) -> None:
        """Call `handler` with each message of exactly this type; subclasses are types of their own."""
        self._handlers[message_type] = (*self._handlers.get(message_type, ()), handler)

    def handlers(self, message_type: type) -> tuple[Handler, ...]:
        return self._handlers.get(message_type, ())

    def publish(self, message: Any) -> None:
        """Handle a message now or, from inside a handler, after those that were published before it."""
        if self._running:
            self._queue.append(message)
            return
        self._running = True
        rest = iter(self._handlers.get(message.__class__, ()))
        try:
            for handler in rest:
                handler(message)
        except Exception as error:
            self._on_fault(handler, message, error)
            self._finish(rest, message)
        if self._queue:
            self._drain()
        self._running = False

    def _drain(self) -> None:
        queue, handlers = self._queue, self._handlers
        for _ in range(self.CASCADE_MAX):
            if not queue:
                return
            message = queue.popleft()
            rest = iter(handlers.get(message.__class__, ()))
            try:
                for handler in rest:
                    handler(message)
            except Exception as error:
                self._on_fault(handler, message, error)
                self._finish(rest, message)
        dropped = len(queue)
        queue.clear()
        loop = RuntimeError(f"more than {self.CASCADE_MAX} messages from one input; {dropped} dropped")
        self._on_fault(self.publish, message, loop)

    def _finish(self, rest: Iterator[Handler], message: Any) -> None:
        """Give the message to the handlers behind one that raised."""
        for handler in rest:
            try:
                handler(message)
            except Exception as error:
                self._on_fault(handler, message, error)
