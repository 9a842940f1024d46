"""GET requests to a venue's REST host: an answer's bytes, or a VenueError that says who is at fault.

Always true here: an answer has an end (`TIMEOUT_S`, `ANSWER_BYTES_MAX`). What its headers say about the budgets is
heard before the caller gets it; 429 and 418 stop the budgets for as long as the venue names. Who asked with `get` is
answered once, also when the asking itself broke.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

import httpx

from ..core.kernel.clock import SECOND_NS, Clock
from ..core.model.errors import Nonsense, Refused, Unreachable, VenueError
from .background import watch
from .limits import Budgets, read_headers, retry_after_ns, stop_of

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 << 20  # the whole exchangeInfo of Binance takes about 15 MB
CONNECTIONS_MAX: Final = 8
BODY_SHOWN: Final = 200  # characters of a refusal in an error
WEIGHT: Final = "REQUEST_WEIGHT"

Answer = Callable[[bytes | VenueError], None]
Get = Callable[[str, int, Answer], None]  # path with query, weight, and what is called once with the answer


class Rest:
    """One host. `fetch` for who can wait, `get` for who cannot."""

    def __init__(
        self,
        clock: Clock,
        base: str,
        budgets: Budgets,
        *,
        on_trouble: Callable[[str], None],
        now_ns: Callable[[], int] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`now_ns` is the venue's time, by which the budgets count; `clock`'s where nobody knows better. `on_trouble`
        hears what breaks where nobody waits."""
        self.base = base.rstrip("/")
        self.clock = clock
        self.now_ns = now_ns if now_ns is not None else clock.now_ns
        self.budgets = budgets
        self._on_trouble = on_trouble
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, path: str, weight: int, answer: Answer) -> None:
        """Begins a request on the running loop. The weight is the caller's to take; it is settled here."""
        task = asyncio.get_running_loop().create_task(self._get(path, weight, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        watch(task, f"the answer of {self._where(path)}", self._on_trouble)

    async def fetch(self, path: str, weight: int = 0) -> bytes:
        """The body of a 200. Raises Unreachable (no answer, 5xx, 429, 418), Refused (4xx), Nonsense (too long)."""
        try:
            status, headers, body = await self._request(path)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unreachable(f"{self._where(path)}: {str(error) or type(error).__name__}") from error
        finally:
            self.budgets.settle(WEIGHT, weight)
        self.budgets.observe_all(read_headers(headers), self.now_ns())
        if status == 200:
            return body
        shown = body[:BODY_SHOWN].decode("utf-8", "replace").strip()
        said = f"{self._where(path)}: HTTP {status}" + (f" {shown}" if shown.isprintable() and shown else "")
        if stop_ns := stop_of(status, retry_after_ns(headers.get("retry-after", ""))):
            self.budgets.stop(self.clock, stop_ns)
            raise Unreachable(f"{said}; no requests for {stop_ns // SECOND_NS} s")
        if status < 500:
            raise Refused(said)
        raise Unreachable(said)

    async def aclose(self) -> None:
        """Calls off what is on its way; those answers never come."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _get(self, path: str, weight: int, answer: Answer) -> None:
        outcome: bytes | VenueError
        try:
            outcome = await self.fetch(path, weight)
        except VenueError as error:
            outcome = error
        except Exception as error:  # a bug here: who asked must not wait for good
            self._on_trouble(f"{self._where(path)} broke: {error!r}")
            outcome = Unreachable(f"{self._where(path)}: {type(error).__name__} in the service")
        answer(outcome)

    async def _request(self, path: str) -> tuple[int, httpx.Headers, bytes]:
        if self._client is None:
            # The environment's proxies are left alone, as the WebSockets go past them too.
            self._client = httpx.AsyncClient(
                timeout=self._timeout_s,
                limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
                follow_redirects=False,
                trust_env=False,
                verify=ssl.create_default_context() if self.base.startswith("https:") else True,
            )
        parts, size = [], 0
        async with asyncio.timeout(self._timeout_s * 3), self._client.stream("GET", self.base + path) as response:
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > ANSWER_BYTES_MAX:
                    raise Nonsense(f"{self._where(path)}: an answer of more than {ANSWER_BYTES_MAX} bytes")
        return response.status_code, response.headers, b"".join(parts)

    def _where(self, path: str) -> str:
        return f"{self.base}{path.partition('?')[0]}"
