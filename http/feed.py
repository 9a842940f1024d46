"""The WebSocket feed: committed events to whoever subscribed, with resume from the journal.

Theory of operation. The kernel hands over each commit's events; every client has one bounded queue, filled here and
emptied by a task that writes to its socket. Channels are of two kinds. Events (orders, trades, positions) are
journaled: each has a seq, is sent once and in order, and can be resumed. Pictures (portfolio, health, book:PAIR) are
the state as it is, made a few times a second while somebody looks; only the newest waits for a client.

    {"op":"subscribe","channels":["orders","book:RVN_USDT"],"resume":{"epoch":"..","seq":123}}
    {"channel":"orders","seq":131,"type":"OrderFilled","data":{...}}

Always true here: what a client is sent is committed; between its `resume.seq` and now a client misses no event of its
channels and gets none twice, or is told `gap` and gets snapshots. A client that does not keep up first loses queued
`positions` events for one snapshot of them, then its connection (4408), and never slows anybody else.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from ..core.kernel.kernel import Kernel
from ..core.kernel.outbox import Event, encode_document
from ..core.model.errors import StoreError
from ..core.setting_values import ApiKey
from .auth import find_key
from .context import JournalSource
from .schema import nearest
from .wire import Call

CLIENTS_MAX = 200
CHANNELS_MAX = 64  # of one client
MESSAGE_MAX = 16 * 1024  # bytes of one message from a client
KEY_TRIES_MAX = 3
AUTH_WAIT_S = 10.0  # until a client has sent its key
QUEUE_MAX = 10_000  # frames that wait for one client; beyond it the client is dropped
QUEUE_BYTES_MAX = 8 * 1024 * 1024
COALESCE_AT = 1_000  # frames; from here on state-like events become one snapshot
RESUME_ENTRIES = 200  # journal entries read at a time
HEARTBEAT_S = 5.0
CLOSE_WAIT_S = 5.0

SLOW, UNAUTHORIZED, GOING_AWAY, TRY_LATER, TOO_LARGE = 4408, 4401, 1001, 1013, 1009

EVENT_CHANNELS = ("orders", "trades", "positions", "signals", "risk")
STATE_LIKE = frozenset(("positions",))
BOOK = "book:"
# How often each picture is made, seconds.
PICTURE_EVERY_S = {"portfolio": 5.0, "health": 5.0, BOOK: 0.25}


class Resume(msgspec.Struct, frozen=True):
    """Where a client was: the last seq that it has seen, in which journal."""

    epoch: str
    seq: int


class Request(msgspec.Struct, frozen=True):
    """A message from a client."""

    op: str
    key: str | None = None
    channels: list[str] | None = None
    resume: Resume | None = None


class Head(msgspec.Struct, frozen=True, gc=False):
    """What is needed of a journaled event to pass it on."""

    channel: str
    seq: int


Snapshot = Callable[[str], Any]  # channel -> document of its state now
OPS = ("auth", "subscribe", "unsubscribe", "list", "ping")

_decode = msgspec.json.Decoder(Request).decode
_heads = msgspec.json.Decoder(list[Head]).decode
_frames = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Client:
    """One connection."""

    def __init__(self, scopes: frozenset[str], name: str) -> None:
        # for the life of the connection
        self.scopes = scopes
        self.name = name
        self.key_tries = 0
        # what it wants
        self.channels: dict[str, None] = {}  # in the order of subscription
        self.held: dict[str, list[Event]] = {}  # of channels that wait for the journal or for a snapshot
        # what waits for it
        self.queue: deque[tuple[str, str]] = deque()  # (channel, text)
        self.queue_bytes = 0
        self.pictures: dict[str, str] = {}  # the newest of each
        self.stale: set[str] = set()  # state-like channels whose events were taken out of the queue
        self.wake = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self.close_code: int | None = None
        self.sender: asyncio.Task[None] | None = None

    def put(self, channel: str, text: str) -> None:
        """Queue a frame; at the bounds coalesce, then give the client up."""
        if self.close_code is not None:
            return
        queue = self.queue
        queue.append((channel, text))
        self.queue_bytes += len(text)
        self.wake.set()
        if len(queue) > COALESCE_AT:
            self.room.clear()
            if len(queue) % COALESCE_AT == 1:
                self.coalesce()
            if len(queue) > QUEUE_MAX or self.queue_bytes > QUEUE_BYTES_MAX:
                self.close(SLOW)

    def coalesce(self) -> None:
        """Take state-like events out of the queue; a snapshot of their channels will stand for them."""
        stale = {channel for channel, _ in self.queue if channel in STATE_LIKE}
        if stale:
            self.stale |= stale
            self.queue = deque(item for item in self.queue if item[0] not in stale)
            self.queue_bytes = sum(len(text) for _, text in self.queue)

    def take(self) -> str | None:
        """The next frame to send."""
        if self.queue:
            _, text = self.queue.popleft()
            self.queue_bytes -= len(text)
            if len(self.queue) <= COALESCE_AT // 2:
                self.room.set()
            return text
        if self.pictures:
            channel = next(iter(self.pictures))
            return self.pictures.pop(channel)
        return None

    def hold(self, events: Iterable[Event]) -> None:
        """Keep back what must follow the journal or a snapshot."""
        for event in events:
            held = self.held.get(event.channel)
            if held is not None:
                held.append(event)
                if len(held) > QUEUE_MAX:
                    self.close(SLOW)

    def close(self, code: int) -> None:
        """Hang up with this code once what waits is sent; a slow client's queue is dropped instead."""
        if self.close_code is not None:
            return
        self.close_code = code
        if code == SLOW:
            self.queue.clear()
            self.pictures.clear()
            if self.sender is not None:
                self.sender.cancel()
        self.wake.set()
        self.room.set()


class Feed:
    """Every connected client. `kernel.feed` has its `committed` as a listener."""

    def __init__(
        self,
        kernel: Kernel,
        loop: asyncio.AbstractEventLoop,
        journal: JournalSource,
        epoch: str,
        *,
        pairs: Iterable[str],
        snapshot: Snapshot,
        api_keys: Sequence[ApiKey] = (),
        portfolio_every_s: float = PICTURE_EVERY_S["portfolio"],
    ) -> None:
        self.kernel = kernel
        self.loop = loop
        self.journal = journal
        self.epoch = epoch
        self.snapshot = snapshot
        self.every_s = PICTURE_EVERY_S | {"portfolio": portfolio_every_s}
        self.api_keys = api_keys
        self.channels = (*EVENT_CHANNELS, "portfolio", "health", *(BOOK + pair for pair in sorted(pairs)))
        self.clients: set[Client] = set()
        self._listeners: dict[str, list[Client]] = {}  # of channels that are sent live
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._heartbeat: asyncio.TimerHandle | None = None
        self._closing = False
        self.dropped_count = 0  # clients that were too slow
        self._events_dropped = kernel.outbox.events_dropped
        self._health_due = False
        kernel.conditions.on_change.append(self._health_changed)

    # --- events from the kernel

    def committed(self, events: list[Event]) -> None:
        """A commit is acknowledged: its events may be seen."""
        if not self.clients:
            return
        dropped = self.kernel.outbox.events_dropped
        if dropped != self._events_dropped:
            self._events_dropped = dropped
            self._tell_gap()
        for event in events:
            listeners = self._listeners.get(event.channel)
            if listeners:
                text = event.frame.decode()
                for client in listeners:
                    client.put(event.channel, text)
        for client in self.clients:
            if client.held:
                client.hold(events)

    def _tell_gap(self) -> None:
        """Events were dropped while the store was away: who listens gets the state instead."""
        for client in self.clients:
            names = [name for name in client.channels if name in EVENT_CHANNELS]
            if names:
                self._gap(client, names)

    def _gap(self, client: Client, names: list[str]) -> None:
        say(client, {"op": "gap", "epoch": self.epoch, "seq": self.kernel.committed_seq, "channels": names})
        self._snapshots(client, names)

    def _health_changed(self) -> None:
        """Who looks at health is shown it now, once for all that changes in this turn of the loop."""
        if not self._health_due and "health" in self._listeners:
            self._health_due = True
            self.loop.call_soon(self._show_health)

    def _show_health(self) -> None:
        self._health_due = False
        self._picture("health")

    def _every_s(self, channel: str) -> float | None:
        """How often a picture is made; None for a channel of events."""
        return self.every_s.get(BOOK if channel.startswith(BOOK) else channel)

    # --- a connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI endpoint of /ws; the gate has checked host and origin."""
        call: Call = scope["call"]
        await receive()
        await send({"type": "websocket.accept"})
        call.answered = True
        if len(self.clients) >= CLIENTS_MAX or self._closing:
            await send({"type": "websocket.close", "code": TRY_LATER, "reason": "too many clients"})
            return
        client = Client(call.scopes, call.key_name)
        self.clients.add(client)
        if self._heartbeat is None:
            self._heartbeat = self.loop.call_later(HEARTBEAT_S, self._beat)
        client.sender = self.loop.create_task(self._send(client, send))
        reader = self.loop.create_task(self._read(client, receive))
        impatient = self.loop.call_later(AUTH_WAIT_S, self._unauthenticated, client)
        try:
            await asyncio.wait([client.sender, reader], return_when=asyncio.FIRST_COMPLETED)
        finally:
            impatient.cancel()
            self._leave(client)
            for task in (client.sender, reader):
                task.cancel()
            await asyncio.gather(client.sender, reader, return_exceptions=True)
        if client.close_code is not None:
            await self._hang_up(client.close_code, send)
        _raise_fault(client.sender, reader)

    def _unauthenticated(self, client: Client) -> None:
        if "read" not in client.scopes:
            client.close(UNAUTHORIZED)

    async def _hang_up(self, code: int, send: Send) -> None:
        """Say why; a client that reads nothing at all is left to the server, which cuts it off."""
        reasons = {SLOW: "too slow; resume", UNAUTHORIZED: "no key", GOING_AWAY: "shutdown", TOO_LARGE: "too large"}
        message = {"type": "websocket.close", "code": code, "reason": reasons.get(code, "")}
        task = self.loop.create_task(_quietly(send(message)))
        await asyncio.wait([task], timeout=CLOSE_WAIT_S)
        task.cancel()

    async def _send(self, client: Client, send: Send) -> None:
        """Write what waits, in order. A slow socket blocks here, and only here."""
        while True:
            text = client.take()
            if text is not None:
                try:
                    await send({"type": "websocket.send", "text": text})
                except Exception as error:
                    if _hung_up(error):
                        return
                    raise
            elif client.stale:
                stale = [channel for channel in client.channels if channel in client.stale]
                client.stale.clear()
                self._snapshots(client, stale)
            elif client.close_code is not None:
                return
            else:
                await self._woken(client)

    async def _woken(self, client: Client) -> None:
        await client.wake.wait()
        client.wake.clear()

    async def _read(self, client: Client, receive: Receive) -> None:
        while client.close_code is None:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            raw = message.get("text")
            raw = message.get("bytes") or b"" if raw is None else raw
            if len(raw) > MESSAGE_MAX:
                client.close(TOO_LARGE)
                return
            await self._handle(client, raw)

    def _leave(self, client: Client) -> None:
        self.clients.discard(client)
        self.dropped_count += client.close_code == SLOW
        client.held.clear()
        for channel in client.channels:
            self._unlisten(client, channel)

    # --- requests

    async def _handle(self, client: Client, raw: str | bytes) -> None:
        try:
            request = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            say_error(client, "BAD_MESSAGE", f'expected {{"op":"...", ...}}: {error}')
            return
        op = request.op
        if op == "ping":
            say(client, {"op": "pong"})
        elif op == "auth":
            self._authenticate(client, request.key or "")
        elif op not in OPS:
            say_error(client, "UNKNOWN_OP", f"{op[:40]!r} is none of {', '.join(OPS)}{nearest(op, OPS)}")
        elif "read" not in client.scopes:
            say_error(client, "UNAUTHORIZED", 'send {"op":"auth","key":"..."} with a key of scope read first')
        elif op == "list":
            say(client, {"op": "list", "channels": self.channels, "subscribed": list(client.channels)})
        elif op == "unsubscribe":
            self._unsubscribe(client, request)
        else:
            await self._subscribe(client, request)

    def _authenticate(self, client: Client, key: str) -> None:
        known = find_key(self.api_keys, key.encode()) if self.api_keys else None
        if self.api_keys and known is None:
            client.key_tries += 1
            say_error(client, "UNAUTHORIZED", "the API key is not known")
            if client.key_tries >= KEY_TRIES_MAX:
                client.close(UNAUTHORIZED)
            return
        if known is not None:
            client.name, client.scopes = known.name, known.scopes
        say(client, {"op": "authenticated", "scopes": sorted(client.scopes)})

    def _named_channels(self, client: Client, request: Request) -> list[str] | None:
        """The channels of a request, each once; None, and the client is told, where one is not there."""
        names = list(dict.fromkeys(request.channels or ()))
        if not names:
            say_error(client, "REQUIRED", "channels: name at least one")
            return None
        for name in names:
            if name not in self.channels:
                detail = f"{name[:40]!r} is no channel{nearest(name, self.channels)}; list shows them"
                say_error(client, "UNKNOWN_CHANNEL", detail)
                return None
        if len(client.channels.keys() | set(names)) > CHANNELS_MAX:
            say_error(client, "TOO_MANY_CHANNELS", f"at most {CHANNELS_MAX} at a time")
            return None
        return names

    def _unsubscribe(self, client: Client, request: Request) -> None:
        names = self._named_channels(client, request)
        if names is None:
            return
        for name in names:
            if name in client.channels:
                del client.channels[name]
                client.held.pop(name, None)
                self._unlisten(client, name)
        say(client, {"op": "unsubscribed", "channels": names, "seq": self.kernel.committed_seq})

    async def _subscribe(self, client: Client, request: Request) -> None:
        names = self._named_channels(client, request)
        if names is None:
            return
        seq = self.kernel.committed_seq
        for name in names:  # a channel that is subscribed again begins anew
            self._unlisten(client, name)
            client.channels[name] = None
        say(client, {"op": "subscribed", "channels": list(client.channels), "epoch": self.epoch, "seq": seq})
        resume = request.resume
        events = [name for name in names if name in EVENT_CHANNELS]
        if resume is not None and events:
            await self._resume(client, events, resume)
        else:
            for name in events:
                self._listen(client, name)
        for name in names:
            if name not in EVENT_CHANNELS:
                self._listen(client, name)
                self._picture(name, client)

    async def _resume(self, client: Client, names: list[str], resume: Resume) -> None:
        """What was missed from the journal, then what came meanwhile, then live."""
        until = self.kernel.committed_seq
        held = self._hold(client, names)
        try:
            whole = resume.epoch == self.epoch and 0 <= resume.seq <= until
            if whole and resume.seq < until:
                whole = await self._replay(client, frozenset(names), resume.seq, until)
        except StoreError as error:
            say_error(client, "STORE_UNAVAILABLE", f"the journal cannot be read now: {error}; subscribe again")
            for name in names:
                client.held.pop(name, None)
                client.channels.pop(name, None)
            return
        if whole:
            self._go_live(client, held, until)
        else:
            self._gap(client, names)

    def _hold(self, client: Client, names: Iterable[str]) -> dict[str, list[Event]]:
        """From now on keep the events of these channels back."""
        held: dict[str, list[Event]] = {}
        for name in names:
            self._unlisten(client, name)
            held[name] = client.held[name] = []
        return held

    def _go_live(self, client: Client, held: dict[str, list[Event]], after: int) -> None:
        """Send what was kept back behind `after`, in order; from here on events are sent as they come."""
        mine = [name for name, events in held.items() if client.held.get(name) is events]  # not subscribed anew since
        events = [event for name in mine for event in client.held.pop(name) if event.seq > after]
        for event in sorted(events, key=lambda event: event.seq):
            client.put(event.channel, event.frame.decode())
        if client in self.clients:
            for name in mine:
                self._listen(client, name)

    async def _replay(self, client: Client, wanted: frozenset[str], after: int, until: int) -> bool:
        """Queue the journaled events behind `after` up to `until`; False where some are no longer held."""
        while after < until:
            entries = await self.journal.journal_since(after, RESUME_ENTRIES)
            if not entries:
                return False
            for _, array in entries:
                for head, frame in zip(_heads(array), _frames(array), strict=True):
                    if after < head.seq <= until and head.channel in wanted:
                        client.put(head.channel, bytes(frame).decode())
            after = entries[-1][0]
            await client.room.wait()
            if client.close_code is not None:
                return True
        return True

    # --- live channels

    def _listen(self, client: Client, channel: str) -> None:
        listeners = self._listeners.setdefault(channel, [])
        if client not in listeners:
            listeners.append(client)
        every_s = self._every_s(channel)
        if every_s is not None and channel not in self._timers:
            self._timers[channel] = self.loop.call_later(every_s, self._tick, channel)

    def _unlisten(self, client: Client, channel: str) -> None:
        listeners = self._listeners.get(channel)
        if listeners is None or client not in listeners:
            return
        listeners.remove(client)
        if not listeners:
            del self._listeners[channel]
            timer = self._timers.pop(channel, None)
            if timer is not None:
                timer.cancel()

    def _tick(self, channel: str) -> None:
        every_s = self._every_s(channel)
        assert every_s is not None, f"{channel} is not a picture"
        self._timers[channel] = self.loop.call_later(every_s, self._tick, channel)
        self._picture(channel)

    def _picture(self, channel: str, only: Client | None = None) -> None:
        """Show a picture to everybody who looks, or to one; it leaves once what it shows is committed.

        Health does not wait: that the store is away must be seen while it is away.
        """
        text = self._frame(channel)
        if channel == "health":
            self._show(channel, text, only)
            return
        self._when_committed(self._show, channel, text, only)

    def _show(self, channel: str, text: str, only: Client | None) -> None:
        for client in self._listeners.get(channel, ()):
            if only in (None, client) and client.close_code is None:
                client.pictures[channel] = text
                client.wake.set()

    def _snapshots(self, client: Client, names: list[str]) -> None:
        """A snapshot of each channel, once what it shows is committed, and then what came behind it."""
        held, seq = self._hold(client, names), self.kernel.outbox.seq
        frames = [self._frame(name) for name in names]
        self._when_committed(self._after_snapshots, client, held, seq, frames)

    def _after_snapshots(self, client: Client, held: dict[str, list[Event]], seq: int, frames: list[str]) -> None:
        for frame in frames:
            client.put("snapshot", frame)
        self._go_live(client, held, seq)

    def _frame(self, channel: str) -> str:
        """The state of a channel as it is now; its seq is that of the last event that it shows."""
        data = encode_document(self.snapshot(channel))
        frame = b'{"channel":"%b","seq":%d,"type":"Snapshot","data":%b}' % (
            channel.encode(),
            self.kernel.outbox.seq,
            data,
        )
        return frame.decode()

    def _when_committed(self, action: Callable[..., object], *args: Any) -> None:
        kernel = self.kernel
        if kernel.committed_seq >= kernel.outbox.seq:
            action(*args)
        else:
            kernel.outbox.effect(action, *args)
            kernel.flush_soon()

    # --- heartbeat and end

    def _beat(self) -> None:
        self._heartbeat = self.loop.call_later(HEARTBEAT_S, self._beat) if self.clients else None
        now_ms = self.kernel.clock.now_ns() // 1_000_000
        for client in self.clients:
            say(client, {"op": "heartbeat", "seq": self.kernel.committed_seq, "timestamp": now_ms})

    async def close(self) -> None:
        """Tell every client that the service goes, send what waits, hang up."""
        self._closing = True
        for timer in (*self._timers.values(), self._heartbeat):
            if timer is not None:
                timer.cancel()
        self._timers.clear()
        senders = [client.sender for client in self.clients if client.sender is not None]
        for client in list(self.clients):
            say(client, {"op": "shutdown"})
            client.close(GOING_AWAY)
        if senders:
            await asyncio.wait(senders, timeout=CLOSE_WAIT_S)


def say(client: Client, message: dict[str, Any]) -> None:
    client.put("", encode_document(message).decode())


def say_error(client: Client, code: str, detail: str) -> None:
    say(client, {"op": "error", "code": code, "detail": detail})


async def _quietly(sending: Any) -> None:
    try:
        await sending
    except Exception as error:
        if not _hung_up(error):
            raise


def _hung_up(error: Exception) -> bool:
    """Servers say by their own exceptions, all of them OSError by now or a RuntimeError, that the peer is gone."""
    return isinstance(error, OSError | RuntimeError)


def _raise_fault(*tasks: asyncio.Task[None]) -> None:
    """A task that raised is a fault of ours: let the gate log it."""
    for task in tasks:
        if task.done() and not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
