"""Which order at the venue is which of ours, whatever it is called there by now.

Always true here: an order is known by the venue's own id, which nobody can change, as soon as one report or answer has
told it; another program that amends an order gives it another client id. Open orders are kept, and the last ones that
ended, whose reports may be late.
"""

from collections.abc import Callable

from .codec import ENDED, ExecutionReport
from .codec_replies import KnownOrder
from .codec_reports import order_id_of
from .errands import remember

Key = tuple[str, int]  # symbol, the venue's id


class Names:
    """The client ids that orders of ours were sent with. `ours` tells those of this node."""

    def __init__(self, ours: Callable[[str], bool]) -> None:
        self.ours = ours
        self._open: dict[Key, str] = {}
        self._ids: dict[str, int] = {}  # the same the other way round
        self._ended: dict[Key, str] = {}

    def find(self, symbol: str, order_id: int) -> str | None:
        key = symbol, order_id
        return self._open.get(key) or self._ended.get(key)

    def id_of(self, client_id: str) -> int | None:
        """The venue's id of an open order."""
        return self._ids.get(client_id)

    def of_report(self, report: ExecutionReport) -> str | None:
        """What the order of a report was sent with; None: it is somebody else's."""
        key = report.symbol, report.order_id
        client_id = self._open.get(key) or (self._ended.get(key) if self._ended else None)
        if client_id is None or (report.kind == "NEW" and report.client_id != client_id):
            # Not told of before, or a venue that began to count anew.
            client_id = order_id_of(report)
            if not self.ours(client_id):
                return None
        self._note(key, client_id, ended=report.status in ENDED)
        return client_id

    def note_found(self, order: KnownOrder, client_id: str) -> None:
        """An order of ours as the venue answered."""
        self._note((order.symbol, order.order_id), client_id, ended=order.status in ENDED)

    def note_asked(self, symbol: str, order_id: int, client_id: str) -> None:
        """An order that may be open: it was the last time that it was heard of."""
        if (symbol, order_id) not in self._ended:
            self._note((symbol, order_id), client_id, ended=False)

    def _note(self, key: Key, client_id: str, *, ended: bool) -> None:
        if ended:
            self._open.pop(key, None)
            self._ids.pop(client_id, None)
            remember(self._ended, key, client_id)
        elif self._open.get(key) != client_id:
            remember(self._open, key, client_id)
            remember(self._ids, client_id, key[1])
