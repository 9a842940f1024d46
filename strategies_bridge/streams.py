"""Strategies in other processes: commands come in by one Redis Stream, answers leave by another.

    tbx:{node}:commands   id, type, body, and source and expires where given; consumer group `tbx`
    tbx:{node}:answers    id, entry (of the command), status (as over HTTP), body (JSON as over HTTP)

Always true here: an answer, the acknowledgement of its command and the command's removal are one script, so that an
entry is either pending or answered, and answered once; both scripts are refused to a process that is not the writer.
Commands enter the core in the order of the stream. What was taken and not answered is delivered again after a crash,
and whoever carries it out tells by its id what has been done (`again`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from ..core.model.errors import StoreError, StoreFenced, StoreUnavailable
from ..core.state.address import Address
from ..core.state.resp import Argument, Connection, ReplyError, refusal

GROUP = CONSUMER = "tbx"  # one consumer: there is one writer, and the next one goes on with what this one had taken
# Commands that are under way at one time; the rest waits in the stream.
IN_FLIGHT_MAX = 100
# Answers that are kept; Redis trims to whole nodes, so a few more stay.
ANSWERS_MAX = 10_000
# Of a field's value and of an entry's fields and values, so much is read: enough to see that it is too much.
VALUE_BYTES_MAX = 64 * 1024 + 1
PARTS_MAX = 32
BLOCK_MS = 1_000
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.05, 2.0
STOP_S = 5.0  # for what is under way when the service stops; what takes longer is delivered again

# KEYS: lease, commands. ARGV: token, group, consumer, count, after which id (> for new ones), the two bounds above.
TAKE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED') end
local found = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[4], 'STREAMS', KEYS[2], ARGV[5])
if not found then return {} end
local most, parts = tonumber(ARGV[6]), tonumber(ARGV[7])
for _, entry in ipairs(found[1][2]) do
  if entry[2] then
    local short = {}
    for i = 1, math.min(#entry[2], parts) do short[i] = string.sub(entry[2][i], 1, most) end
    entry[2] = short
  end
end
return found[1][2]
"""

# KEYS: lease, commands, answers. ARGV: token, group, how many answers are kept, then (entry, id, status, body) of each.
ANSWER = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED') end
local kind = redis.call('TYPE', KEYS[3]).ok
if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply(KEYS[3] .. ' is a ' .. kind .. ', no stream') end
for i = 4, #ARGV, 4 do
  if redis.call('XACK', KEYS[2], ARGV[2], ARGV[i]) == 1 then
    redis.call('XDEL', KEYS[2], ARGV[i])
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'id', ARGV[i + 1], 'entry', ARGV[i], 'status',
      ARGV[i + 2], 'body', ARGV[i + 3])
  end
end
return 1
"""


class Delivery(msgspec.Struct, frozen=True):
    """One entry of the stream as it stands there, cut to the bounds."""

    entry_id: str
    fields: dict[bytes, bytes]
    again: bool  # it was delivered before, and what came of it is not known
    twice: tuple[str, ...] = ()  # names of fields that stand more than once

    @property
    def id(self) -> str:
        """The sender's name for it; empty where there is none, or more than one."""
        return "" if "id" in self.twice else self.fields.get(b"id", b"").decode(errors="replace")[:64]


class Outcome(msgspec.Struct, frozen=True):
    """What a command is answered."""

    status: int  # as over HTTP
    body: bytes


# Carries out one command. Calls the second argument once the command has entered the core, or will not; returns None
# where what came of it cannot be known yet, so that it has to be delivered again. Never raises.
CarryOut = Callable[[Delivery, Callable[[], None]], Awaitable[Outcome | None]]
OnState = Callable[[bool, str], None]


class CommandStream:
    """Reads commands for as long as this process is the writer. `on_state(up, why)` is told when commands are read and
    what was taken before is answered, and when that cannot go on for now; each once until it changes."""

    def __init__(self, address: Address, node: str, token: str, carry_out: CarryOut, on_state: OnState) -> None:
        """`token`: what the lease holds while this process is the writer."""
        self.address = address
        self.lease, self.commands, self.answers = (f"tbx:{node}:{name}" for name in ("lease", "commands", "answers"))
        self.token = token
        self.carry_out = carry_out
        self.on_state = on_state
        self.answered = 0
        self._session: _Session | None = None
        self._stopping = False
        self._told: tuple[bool, str] | None = None

    def tell(self, up: bool, why: str) -> None:
        """As `on_state`, once."""
        if self._told != (up, why):
            self._told = up, why
            self.on_state(up, why)

    async def run(self) -> None:
        """Until `stop`, or until another process is the writer."""
        loop = asyncio.get_running_loop()
        pause_s = BACKOFF_FIRST_S
        while not self._stopping:
            before = self.answered
            self._session = _Session(self, loop)
            try:
                await self._session.run()
            except StoreFenced as error:
                self.tell(False, str(error))
                return
            except StoreError as error:
                self.tell(False, str(error))
            finally:
                await self._session.end()
            if self.answered != before:
                pause_s = BACKOFF_FIRST_S
            if not self._stopping:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, BACKOFF_MAX_S)

    async def stop(self) -> None:
        """Take no more commands, and wait a bounded time for those under way; the rest stays pending."""
        self._stopping = True
        if self._session is not None:
            await self._session.finish(STOP_S)


class _Session:
    """From one connection to its loss. Two connections: one that waits for entries, one for all else."""

    def __init__(self, stream: CommandStream, loop: asyncio.AbstractEventLoop) -> None:
        self.stream = stream
        self.loop = loop
        self.hand = Connection(loop, stream.address, self._lost)
        self.ear = Connection(loop, stream.address, self._lost)
        self.ended: asyncio.Future[None] = loop.create_future()
        self.under_way: dict[str, asyncio.Task[None]] = {}  # by the id of the entry
        self._of_id: dict[str, asyncio.Task[None]] = {}  # the newest under way of each sender's id
        self._last_entered: asyncio.Future[None] | None = None
        self._moved = asyncio.Event()  # something under way has ended
        self._out: list[Argument] = []  # answers that the next script takes
        self._sending = 0  # answers that Redis has not confirmed
        self._after = "0-0"  # the newest entry that was seen
        self._finishing = False

    # --- life

    async def run(self) -> None:
        """Raises StoreError when it cannot go on; returns when told to finish."""
        reader = self.loop.create_task(self._read())
        try:
            await asyncio.wait((reader, self.ended), return_when=asyncio.FIRST_COMPLETED)
            if self.ended.done():
                self.ended.result()
            else:
                reader.result()
        except ReplyError as error:
            raise self._meaning(error) from error
        finally:
            reader.cancel()
            await asyncio.wait((reader,))
            if not reader.cancelled():
                reader.exception()  # what ended it first is what is told

    async def finish(self, seconds: float) -> None:
        """Take nothing more; return when everything under way is answered, or after so many seconds."""
        self._finishing = True
        self._moved.set()
        until = self.loop.time() + seconds
        while self._unanswered() and not self.ended.done() and self.loop.time() < until:
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), until - self.loop.time())
            except TimeoutError:
                break
        if not self.ended.done():
            self.ended.set_result(None)

    async def end(self) -> None:
        """Nothing of this session goes on. What was entered is committed or not all the same."""
        tasks = list(self.under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if not self.ended.done():
            self.ended.set_result(None)  # what fails from here on is told to nobody
        elif not self.ended.cancelled():
            self.ended.exception()
        self.hand.abort()
        self.ear.abort()

    def _lost(self, _: Connection, reason: str) -> None:
        self._fail(StoreUnavailable(f"Redis at {self.stream.address} was lost: {reason}"))

    def _fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)
        self._moved.set()

    def _meaning(self, error: Exception) -> StoreError:
        if "FENCED" in str(error):
            return StoreFenced("another process is the writer")
        if "NOGROUP" in str(error):
            return StoreUnavailable(f"{self.stream.commands} was deleted")
        return refusal(self.stream.address, error)

    # --- in

    async def _read(self) -> None:
        stream = self.stream
        await self.hand.open()
        await self.ear.open()
        try:
            await self.hand.call("XGROUP", "CREATE", stream.commands, GROUP, "0", "MKSTREAM")
        except ReplyError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        after = "0"
        while entries := await self._take(after):  # what was taken before, and not answered
            after = entries[-1][0].decode()
            self._begin(entries, again=True)
        if not self._unanswered() and not self._finishing:
            self._well()
        while not self._finishing:
            if entries := await self._take(">"):
                self._begin(entries, again=False)
            else:
                await self.ear.call("XREAD", "COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS", stream.commands, self._after)

    def _well(self) -> None:
        """Said only when there is proof: what cannot be answered is taken again and again."""
        self.stream.tell(True, f"commands are read from {self.stream.commands}")

    async def _take(self, after: str) -> list[Any]:
        """The next entries, as many as there is room for."""
        while (room := IN_FLIGHT_MAX - self._unanswered()) <= 0 and not self._finishing:
            self._moved.clear()
            await self._moved.wait()
        if self._finishing:
            return []
        stream = self.stream
        arguments = (stream.token, GROUP, CONSUMER, room, after, VALUE_BYTES_MAX, PARTS_MAX)
        entries: list[Any] = await self.hand.call("EVAL", TAKE, 2, stream.lease, stream.commands, *arguments)
        return entries

    def _unanswered(self) -> int:
        """Taken, and Redis has not confirmed its answer."""
        return len(self.under_way) + self._sending + len(self._out) // 4

    def _begin(self, entries: Sequence[Any], *, again: bool) -> None:
        """Start a task for each: tasks begin in the order in which they are made, and so do the commands."""
        for entry_id, flat in entries:
            self._after = max(self._after, entry_id.decode(), key=_order_of)
            delivery = _delivery(entry_id.decode(), flat or (), again)
            entered: asyncio.Future[None] = self.loop.create_future()
            before, self._last_entered = self._last_entered, entered
            same = self._of_id.get(delivery.id)
            task = self.loop.create_task(self._one(delivery, before, entered, same))
            self.under_way[delivery.entry_id] = task
            if delivery.id:
                self._of_id[delivery.id] = task

    async def _one(
        self,
        delivery: Delivery,
        before: "asyncio.Future[None] | None",
        entered: "asyncio.Future[None]",
        same: "asyncio.Task[None] | None",
    ) -> None:
        def is_in() -> None:
            if not entered.done():
                entered.set_result(None)

        try:
            if before is not None and not before.done():
                await asyncio.wait((before,))
            if same is not None and not same.done():
                is_in()  # those behind need not wait for the first one's answer
                await asyncio.wait((same,))
            outcome = await self.stream.carry_out(delivery, is_in)
        finally:
            is_in()
            task = self.under_way.pop(delivery.entry_id, None)
            if self._of_id.get(delivery.id) is task:
                self._of_id.pop(delivery.id, None)
            self._moved.set()
        if outcome is None:
            self._fail(StoreUnavailable(f"what came of {delivery.entry_id} cannot be told yet"))
        else:
            self._answer(delivery, outcome)

    # --- out

    def _answer(self, delivery: Delivery, outcome: Outcome) -> None:
        if not self._out:
            self.loop.call_soon(self._send)
        self._out += (delivery.entry_id, delivery.id, outcome.status, outcome.body)

    def _send(self) -> None:
        """One script for the answers of one turn of the loop."""
        out, self._out = self._out, []
        count = len(out) // 4
        self._sending += count
        task = self.loop.create_task(self._send_these(out, count))
        task.add_done_callback(_looked_at)

    async def _send_these(self, out: list[Argument], count: int) -> None:
        stream = self.stream
        keys = (stream.lease, stream.commands, stream.answers)
        try:
            await self.hand.call("EVAL", ANSWER, 3, *keys, stream.token, GROUP, ANSWERS_MAX, *out)
        except ReplyError as error:
            self._fail(self._meaning(error))
        except StoreError as error:
            self._fail(error)
        else:
            stream.answered += count
            self._well()
        finally:
            self._sending -= count
            self._moved.set()


def _looked_at(task: "asyncio.Task[None]") -> None:
    """Every failure of it has ended the session already."""
    if not task.cancelled():
        task.exception()


def _delivery(entry_id: str, flat: Sequence[bytes], again: bool) -> Delivery:
    """Of an entry's names and values in turn."""
    names = flat[::2]
    fields = dict(zip(names, flat[1::2], strict=False))
    twice: tuple[str, ...] = ()
    if len(fields) != len(names):
        twice = tuple(name.decode(errors="replace") for name in fields if names.count(name) > 1)
    return Delivery(entry_id, fields, again, twice)


def _order_of(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)
