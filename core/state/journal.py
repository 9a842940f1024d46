"""Entries of the journal: one a commit, each the events of that commit in the order of their numbers.

    XADD tbx:{node}:journal {seq}-0 seq {seq} events [{"seq":..,"channel":..,"type":..,"data":{..}}, ..] v 1

Always true here: an entry's id is the number of its last event, and numbers rise by one within it. Between two entries
numbers may be missing (events that were dropped while the store was away); they never go back.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..model.event_types import TYPES

# Of the form above. Entries without `v` were written before there was one, and are of the first.
VERSION = 1

Entry = tuple[bytes, Sequence[bytes]]  # id; field, value, field, value, ...


class Head(msgspec.Struct, frozen=True, gc=False):
    """What every event has; its `data` is passed over."""

    seq: int
    channel: str
    type: str


_heads = msgspec.json.Decoder(list[Head]).decode


class Read(msgspec.Struct, frozen=True, gc=False):
    """An entry that was looked at: its events are `first` to `last`, or `fault` says why it cannot be read."""

    first: int
    last: int
    fault: str = ""


def read(entry: Entry) -> Read:
    """Look at one entry. Where it cannot be read, `first` and `last` are what its id says."""
    entry_id, flat = entry
    id_text = entry_id.decode(errors="replace")
    number, _, _ = id_text.partition("-")
    last = int(number) if number.isdecimal() else 0
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    fault, heads = "", []
    version = fields.get(b"v", b"1")
    if not version.isdigit() or not 1 <= int(version) <= VERSION:
        fault = f"is of version {_shown(version)}, this version of the service knows up to {VERSION}"
    elif b"events" not in fields:
        fault = f"is of an unknown form: fields {', '.join(map(_shown, fields)) or 'none'}, must be seq, events, v"
    else:
        try:
            heads = _heads(fields[b"events"])
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            fault = f"its events cannot be read: {error}"
        else:
            fault = _fault(id_text, last, heads, fields.get(b"seq", b""))
    return Read(heads[0].seq if heads and not fault else last, last, fault)


def _fault(id_text: str, last: int, heads: Sequence[Head], seq: bytes) -> str:
    if not heads:
        return "holds no event"
    if id_text != f"{last}-0" or heads[-1].seq != last or seq != b"%d" % last:
        return f"its last event is {heads[-1].seq} and its field seq {_shown(seq)}, must be both its id {id_text}"
    expected = last - len(heads) + 1
    for head in heads:
        if head.seq != expected:
            return f"event {head.seq} stands where {expected} must: its numbers are out of order"
        if head.type not in TYPES.get(head.channel, ()):
            return f"event {head.seq} is of the unknown type {head.type!r} on channel {head.channel!r}"
        expected += 1
    return ""


class Scan:
    """Entries looked at from the newest to the oldest, page after page; `faults` by id."""

    def __init__(self, newest: int) -> None:
        """`newest`: the number of the last committed event."""
        self.faults: dict[str, str] = {}
        self.count = 0
        self.events = 0
        self.newest = 0  # of the events seen
        self.before = "+"  # the entry that `add` saw last: where an older page ends
        self.gaps: list[tuple[int, int]] = []  # numbers first to last that no entry holds
        self.first = newest + 1  # of the events seen so far
        self._newest = newest

    def add(self, entries: Iterable[Entry]) -> None:
        """The next older entries, newest first."""
        for entry in entries:
            self.count += 1
            found = read(entry)
            self.events += found.last - found.first + 1
            self.before = entry[0].decode(errors="replace")
            fault = found.fault
            if not fault and found.last > self._newest:
                fault = f"is newer than the last committed event, {self._newest}"
            elif not fault and found.last >= self.first:
                fault = f"ends at event {found.last}, and the entry after it begins at {self.first}: out of order"
            if fault:
                self.faults[entry[0].decode(errors="replace")] = fault
                self.first = min(self.first, found.last or self.first)
                continue
            self.newest = max(self.newest, found.last)
            if found.last < self.first - 1 < self._newest:
                self.gaps.append((found.last + 1, self.first - 1))
            self.first = found.first


def fields_of(entry: Entry) -> Mapping[bytes, bytes]:
    """Field -> value of an entry."""
    flat = entry[1]
    return dict(zip(flat[::2], flat[1::2], strict=False))


def _shown(raw: bytes) -> str:
    return repr(raw[:40].decode(errors="replace"))
