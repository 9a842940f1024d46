"""What a process does while another one of its node is the writer: it waits, says so, and is ready to take over.

Always true here: a standby has read nothing of the state, and nothing that it does reaches an exchange. Its port
answers /livez, /readyz (503) and /api/health; all else is 503 STANDBY. After `become` the same socket, and every
connection on it, belongs to the service.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.kernel.clock import MS_NS
from ..core.kernel.outbox import encode_document
from ..core.settings import Settings
from .app import Handler, MethodRoute
from .context import ErrorLog, Readiness
from .gate import Gate
from .health import SERVICE, EngineHealth, Health, uptime
from .problems import Problem
from .wire import Answer, Call

ROLE: Final = "standby"
RETRY_AFTER_S: Final = 1
REMIND_S: Final = 60.0  # how often why it waits is said anew


class Standby:
    """`serve(app)` begins to answer on the port, `say` speaks to the person who started the process."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        stopping: asyncio.Event,
        log: ErrorLog,
        *,
        serve: Callable[[ASGIApp], None],
        say: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.stopping = stopping
        self.log = log
        self.serve = serve
        self.say = say
        self.why = ""  # it waits
        self._said_s = 0.0
        self._started_ns = time.time_ns()
        self._after: ASGIApp | None = None  # the service
        self._gate = self._make_gate()

    @property
    def waited(self) -> bool:
        """Whether the port answers already."""
        return bool(self.why)

    async def wait(self, why: str, seconds: float) -> bool:
        """Wait a little, as a standby; False when the process is told to stop."""
        if not self.waited:
            self.serve(self)
        if why != self.why or self.loop.time() - self._said_s > REMIND_S:
            self.why, self._said_s = why, self.loop.time()
            self.say(f"{why}; waiting as standby")
            self.log.execution("info", "STANDBY", detail=why)
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return True
        return False

    def become(self, app: ASGIApp) -> None:
        """From now on the service answers."""
        self._after = app

    # --- on the port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._after or self._gate)(scope, receive, send)

    def _make_gate(self) -> Gate:
        endpoints: tuple[tuple[str, Callable[[Call, Receive], Awaitable[Answer]], str | None], ...] = (
            ("/livez", self.live, None),
            ("/readyz", self.ready, None),
            ("/api/health", self.health, "read"),
        )
        routes = [MethodRoute(path, Handler(endpoint, scope), methods=["GET"]) for path, endpoint, scope in endpoints]
        settings = self.settings
        return Gate(
            Router(routes, redirect_slashes=False, default=self._refuse),
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.allowed_origins,
            api_keys=settings.api_keys,
            rate_limit_per_second=settings.rate_limit_per_second,
            now_s=self.loop.time,
            on_error=self._report,
        )

    async def live(self, _call: Call, _: Receive) -> Answer:
        """GET /livez"""
        return Answer(b'{"status":"ok"}')

    async def ready(self, _call: Call, _: Receive) -> Answer:
        """GET /readyz: never"""
        return Answer(encode_document(self._readiness()), 503)

    async def health(self, _call: Call, _: Receive) -> Answer:
        """GET /api/health"""
        now_ns = time.time_ns()
        document = Health(
            status=ROLE,
            service=SERVICE,
            timestamp=now_ns // MS_NS,
            uptime=uptime(now_ns - self._started_ns),
            mode="live" if self.settings.live else "paper",
            exchanges={},
            services={},
            execution_engine=EngineHealth(ROLE, 0, 100.0, "0ms", self.why),
            readiness=self._readiness(),
            conditions=[],
            role=ROLE,
        )
        return Answer(encode_document(document))

    def _readiness(self) -> Readiness:
        return Readiness(False, {"writer": False}, f"{ROLE}: {self.why}")

    async def _refuse(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        headers = [(b"retry-after", b"%d" % RETRY_AFTER_S)]
        raise Problem(503, "STANDBY", f"this process is a standby: {self.why}; ask the writer", headers=headers)

    def _report(self, path: str, error: Exception) -> None:
        self.log.execution("error", "REQUEST_FAILED", path=path, error=repr(error))
