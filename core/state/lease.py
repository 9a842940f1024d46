"""Who may write: how sure the writer is of it, when a standby may take over, and what proves that a writer is dead.

Always true here: no decision rests on the time of two machines. The writer moves a number in Redis at least every
BEAT_NS and a half, and trusts its lease for SURE_NS from when it sent what Redis then took; a standby counts answers of
Redis in which nothing has moved, POLL_S apart, which takes STILL_POLLS * POLL_S, longer than SURE_NS. A Redis that does
not answer proves nothing.
"""

import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec

BEAT_NS: Final = 500_000_000  # between two looks of the writer whether it must show that it lives
SURE_NS: Final = 2_000_000_000  # for so long after it the writer may send what was committed
POLL_S: Final = 0.25  # between an answer and the standby's next question
STILL_POLLS: Final = 12  # answers without a change after which a writer counts as dead: 3 s
# After a time without answers: the writer may need BACKOFF_MAX_S of store.py until it is connected again.
STILL_POLLS_AFTER_OUTAGE: Final = 20
# A writer that has not shown yet that it lives is loading, which nothing interrupts: 30 s.
STILL_POLLS_LOADING: Final = 120

LOADING: Final = b"0"  # the heartbeat from taking the lease to the first beat
RELEASED: Final = b"released"  # the heartbeat after a clean stop

# KEYS: lease, heartbeat, meta. ARGV: token, what the heartbeat becomes ("": one more), the number of a commit that was
# acknowledged: a Redis that came back with less is told of at once, not when something is committed next.
BEAT: Final = b"""
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  if not held then return redis.error_reply('LOST the lease') end
  return redis.error_reply('FENCED ' .. held)
end
local applied = redis.call('HGET', KEYS[3], 'number') or '0'
if tonumber(applied) < tonumber(ARGV[3]) then return redis.error_reply('GAP ' .. applied) end
if ARGV[2] == '' then return redis.call('INCR', KEYS[2]) end
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""


class Lease:
    """How sure this process is that it is still the writer. `now_ns` must count while a process or a machine sleeps,
    and never go back."""

    __slots__ = ("_confirmed_ns", "_over", "now_ns")

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.now_ns = now_ns
        self._confirmed_ns = now_ns()
        self._over = False

    @property
    def age_ns(self) -> int:
        """How long ago what Redis took last was sent."""
        return self.now_ns() - self._confirmed_ns

    def confirm(self, sent_ns: int) -> None:
        """Redis has taken a command of the writer, and something moved by it, that was sent at `sent_ns`."""
        if sent_ns > self._confirmed_ns:
            self._confirmed_ns = sent_ns

    def lose(self) -> None:
        """Another process is the writer; that is for good."""
        self._over = True

    def sure(self) -> bool:
        """Whether nobody else can have become the writer."""
        return self.now_ns() - self._confirmed_ns < SURE_NS and not self._over


class Seen(msgspec.Struct, frozen=True):
    """What Redis says of the writer at a moment; each is b"" where there is none."""

    lease: bytes  # journal id:epoch
    heartbeat: bytes
    number: bytes  # of the last commit
    holder: bytes  # a `Holder` as JSON

    @property
    def journal_id(self) -> bytes:
        return self.lease.partition(b":")[0]


class Finding(Enum):
    """What a standby makes of what it saw."""

    FREE = "nobody is the writer"
    ALIVE = "the writer lives, or may"
    DEAD = "the writer is dead"
    GONE = "the state is gone, or is another one"


class Watch:
    """What a standby has seen of one state. Sees nothing by itself: it is told each answer, and each that stayed away.

    `dead` tells whether a holder is proven to be dead.
    """

    def __init__(self, dead: Callable[[bytes], bool]) -> None:
        self._dead = dead
        self._seen: Seen | None = None
        self._still = 0  # answers in a row that were as the one before
        self._outage = False  # whether answers stayed away since anything moved
        self._journal_id = b""  # of the state that is watched
        self.moved = False  # whether the writer was seen at work

    def answered(self, seen: Seen) -> Finding:
        before, self._seen = self._seen, seen
        if self._journal_id and seen.journal_id != self._journal_id:
            self._still = 0
            return Finding.GONE
        self._journal_id = seen.journal_id
        if not seen.lease or seen.heartbeat in (b"", RELEASED):
            return Finding.FREE
        if self._dead(seen.holder):
            return Finding.DEAD
        if seen != before:
            self.moved = before is not None
            self._outage = self._outage and not self.moved
            self._still = 0
            return Finding.ALIVE
        self._still += 1
        return Finding.DEAD if self._still >= self._polls(seen) else Finding.ALIVE

    def unanswered(self) -> None:
        """Redis did not answer, or took nothing: count anew."""
        self._seen, self._still, self._outage = None, 0, True

    def _polls(self, seen: Seen) -> int:
        if seen.heartbeat == LOADING:
            return STILL_POLLS_LOADING
        return STILL_POLLS_AFTER_OUTAGE if self._outage else STILL_POLLS


class Holder(msgspec.Struct, frozen=True):
    """A process, so that another one of the same machine can tell that it has ended."""

    host: str  # for people
    boot: str  # of the kernel, new at each start of the machine
    space: str  # the namespace in which `pid` means something
    pid: int
    born: int  # in ticks since the boot: an id may be given again


def this_process() -> bytes:
    """Who holds the lease, as it is written beside it; b"" on a system that does not tell."""
    holder = _holder(os.getpid())
    return msgspec.json.encode(holder) if holder is not None else b""


def proven_dead(raw: bytes) -> bool:
    """Whether that process ran under this kernel, where this one can see it, and has ended."""
    here = _holder(os.getpid())
    try:
        there = msgspec.json.decode(raw, type=Holder)
    except msgspec.DecodeError:  # nobody wrote one, or another version did
        return False
    if here is None or (there.boot, there.space) != (here.boot, here.space):
        return False
    try:
        os.kill(there.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, which /proc may hide
    born = _born(there.pid)
    return born is not None and born != there.born


def shown(raw: bytes) -> str:
    """The holder in words."""
    try:
        holder = msgspec.json.decode(raw, type=Holder)
    except msgspec.DecodeError:
        return "another process"
    return f"process {holder.pid} on {holder.host}"


def _holder(pid: int) -> Holder | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return None
    born = _born(pid)
    return Holder(os.uname().nodename, boot, space, pid, born) if born else None


def _born(pid: int) -> int | None:
    """When a process began, in ticks since the boot; 0 where only its exit code is left, None where it is not told."""
    try:
        # "pid (name) state ppid ...": the name may hold anything, so look behind its end; field 22 is the start.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
