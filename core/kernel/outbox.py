"""Records | effects: what one commit makes durable, and what may leave the process after it.

Always true here: an effect leaves only after every record and event that was put before it is committed. A record that
is put twice before a commit is written once, as it then is; an event is encoded when it happens.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from ..state.batch import Batch

Effect = tuple[Callable[..., object], tuple[Any, ...]]

# Money in the journal and on the feed are JSON numbers printed from exact decimals; in the tables it is decimal text.
encode_document = msgspec.json.Encoder(decimal_format="number").encode
encode_record = msgspec.json.Encoder().encode


def _always() -> bool:
    return True


def _release(effects: list[Effect]) -> None:
    for action, args in effects:
        action(*args)


class Event(msgspec.Struct, frozen=True, gc=False):
    """A committed event as the feed sends it and the journal keeps it."""

    seq: int
    channel: str
    kind: str
    data: bytes  # JSON object
    frame: bytes  # {"seq":..,"channel":..,"type":..,"data":{..}}


class Outbox:
    """Collects what the actors leave behind; the kernel takes it as one batch."""

    # Events that may wait for a store that is away; beyond it the oldest are dropped and a gap is reported. Records are
    # bounded by the state itself, since each key waits once.
    EVENTS_MAX = 200_000

    def __init__(self, seq: int = 0, number: int = 0, *, release_at_once: bool = False) -> None:
        self.seq = seq
        self.number = number
        self.release_at_once = release_at_once  # DURABILITY=behind: venue frames do not wait for the commit
        self._records: dict[tuple[str, str], Any] = {}
        self._events: list[Event] = []
        self._appends: list[tuple[str, bytes]] = []
        self._effects: list[Effect] = []
        self.release: Callable[[list[Effect]], None] = _release  # set by the kernel, which tells of what fails
        self.events_dropped = 0
        self.sure: Callable[[], bool] = _always  # whether this process is the writer still; set by the kernel
        self._held_back = 0  # frames to a venue that had to wait although they leave at once as a rule
        self.on_dropped: Callable[[int], object] | None = None  # told of how many so far

    def put(self, table: str, key: str, record: Any) -> None:
        """Write the record, as it is at the next commit, to `tbx:{node}:{table}` under `key`."""
        self._records[table, key] = record

    def delete(self, table: str, key: str) -> None:
        self._records[table, key] = None

    def append(self, stream: str, record: Any) -> None:
        """Add a sample to a stream."""
        self._appends.append((stream, encode_record(record)))

    def event(self, channel: str, kind: str, data: Any) -> int:
        """An event for the journal and the feed; returns its seq."""
        self.seq = seq = self.seq + 1
        body = encode_document(data)
        frame = b'{"seq":%d,"channel":"%b","type":"%b","data":%b}' % (seq, channel.encode(), kind.encode(), body)
        events = self._events
        events.append(Event(seq, channel, kind, body, frame))
        if len(events) > self.EVENTS_MAX:
            half = self.EVENTS_MAX // 2
            del self._events[:half]
            self.events_dropped += half
            if self.on_dropped is not None:
                self.on_dropped(self.events_dropped)
        return seq

    def effect(self, action: Callable[..., object], *args: Any) -> None:
        """Call `action(*args)` once everything up to here is committed."""
        self._effects.append((action, args))

    def send(self, action: Callable[..., object], *args: Any) -> None:
        """Like `effect`, for frames to a venue: with DURABILITY=behind they leave at once.

        Not where another process may be the writer by now: then they, and those behind them, wait for a commit."""
        if not self.release_at_once:
            self._effects.append((action, args))
        elif not self._held_back and self.sure():
            self.release([(action, args)])
        else:
            self._held_back += 1
            self._effects.append((self._send_late, (action, args)))

    def _send_late(self, action: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._held_back -= 1
        action(*args)

    @property
    def pending(self) -> bool:
        return bool(self._records or self._events or self._effects or self._appends)

    def take(self) -> "Parcel":
        """Everything collected so far, as one batch, and the effects that wait for it."""
        self.number += 1
        puts: list[tuple[str, str, bytes]] = []
        deletes: list[tuple[str, str]] = []
        for (table, key), record in self._records.items():
            if record is None:
                deletes.append((table, key))
            else:
                puts.append((table, key, encode_record(record)))
        events, effects = self._events, self._effects
        batch = Batch(
            number=self.number,
            seq=self.seq,
            events=[event.frame for event in events],
            puts=puts,
            deletes=deletes,
            appends=self._appends,
        )
        self._records, self._events, self._effects, self._appends = {}, [], [], []
        return Parcel(batch, events, effects)


class Parcel(msgspec.Struct, frozen=True):
    """A batch on its way to the store, with what it sets free."""

    batch: Batch
    events: list[Event]
    effects: list[Effect]
