"""Faults on request: what the local exchange does wrong, how often, and to which requests.

Always true here:
- Chance comes from the generator that is handed in: the same seed and the same requests give the same faults.
- A fault never changes what the exchange holds, only what a client gets to know of it, and `late_taken` when.
  `..._before` faults keep a request from the exchange, `..._after` faults let it be carried out and spoil the answer.
- What is switched on can strike: methods that do not exist and settings that a fault does not read are refused.
- The texts in FAULTS are what `tbx exchange --help` and the README's table say.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import NamedTuple

from msgspec import Struct

from ....core.model.errors import SettingsError
from .methods_table import BY_NAME

SPEC_HELP = (
    "NAME[:KEY=VALUE,...] joined by semicolons. Keys: p = probability (1), n = how many times at most (no bound), "
    "ms, s = milliseconds or seconds, on = methods joined by + (order entry; `any` for every request)"
)

# name -> what happens
FAULTS = {
    "drop_before": "the connection is dropped before the request is carried out",
    "drop_after": "the request is carried out, and the connection is dropped before the reply",
    "mute_before": "the request is not carried out, and no reply ever comes",
    "mute_after": "the request is carried out, and no reply ever comes",
    "http5xx_before": "502, 503 or 504 (an HTML page on REST); the request is not carried out",
    "http5xx_after": "502, 503 or 504 (an HTML page on REST); the request is carried out",
    "unknown1006_before": "error -1006; the request is not carried out",
    "unknown1006_after": "error -1006; the request is carried out",
    "unknown1007_before": "error -1007; the request is not carried out",
    "unknown1007_after": "error -1007; the request is carried out",
    "late_taken": "error -1007, order.status says -2013, and `ms` later (1000) the order is taken all the same",
    "late_reports": "user data events come `ms` late (50)",
    "reorder_reports": "user data events come before the reply, and neighbours swapped",
    "limit429": "for `s` seconds (10) every request is answered with 429",
    "ban418": "for `s` seconds (60) every request and every new connection is answered with 418",
    "skew": "the exchange's clock is `ms` ahead (1500), or behind where negative",
    "shutdown": "`s` seconds (0) from now serverShutdown is sent, and `ms` later (1000) every connection is closed",
    "nonsense": "a garbage frame comes before a frame",
}
DEFAULT_MS = {"late_taken": 1000, "late_reports": 50, "skew": 1500, "shutdown": 1000}
DEFAULT_S = {"limit429": 10.0, "ban418": 60.0, "shutdown": 0.0}
DAY_MS = 86_400_000
SKEW_MS_MAX = 365 * DAY_MS  # either way
SECONDS_MAX = 3 * 86_400  # the longest ban there is

ANY = "any"
ORDER_ENTRY = frozenset(
    {
        "order.place",
        "order.cancel",
        "order.cancelReplace",
        "order.amend.keepPriority",
        "openOrders.cancelAll",
        "orderList.place",
        "orderList.place.oco",
        "orderList.place.oto",
        "orderList.place.otoco",
        "orderList.cancel",
    }
)
PLACING = frozenset(name for name in ORDER_ENTRY if name.startswith(("order.place", "orderList.place")))
ITEM = re.compile(r"^([a-z0-9_]+)(?::(.*))?$")
PAGES = {502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Time-out"}
# What a client must survive: not JSON, JSON cut short, JSON of another shape, fields of other types.
NONSENSE = (
    b"<html><body>nothing to see here</body></html>",
    b'{"id":1,"status":200,"result":{"symbol":"BTCUS',
    b"[[[[[[[[]]]]]]]]",
    b'{"subscriptionId":"x","event":{"e":"executionReport","E":"never","s":7,"i":"none","l":1e400}}',
    b'{"stream":5,"data":{"e":"depthUpdate","U":-1,"u":"soon","b":[[]],"a":{}}}',
    b'"\\ud800"',
    b"\x00\x01\x02",
    b"",
)


class Fault(Struct, kw_only=True):
    """One fault that is switched on. `fired` counts along."""

    name: str
    probability: float = 1.0
    count: int | None = None  # how many times at most
    ms: int = 0
    seconds: float = 0.0
    on: frozenset[str] = ORDER_ENTRY
    fired: int = 0

    def hits(self, method: str) -> bool:
        return ANY in self.on or method in self.on

    @property
    def spent(self) -> bool:
        return self.count is not None and self.fired >= self.count


class Verdict(NamedTuple):
    """What becomes of a request: whether it is carried out, and how its answer is spoilt."""

    taken: bool
    ending: str  # drop, mute, http5xx, unknown1006, unknown1007
    late_ms: int | None = None  # carried out so much later, where it is not taken now


class Spoilt(NamedTuple):
    """An answer in place of the true one."""

    status: int
    code: int
    msg: str
    page: bytes  # REST sends this HTML where it is not empty


# In the order in which they are tried.
REQUEST_FAULTS = {
    f"{ending}_{when}": Verdict(when == "after", ending)
    for ending in ("drop", "mute", "http5xx", "unknown1006", "unknown1007")
    for when in ("before", "after")
}


# What each fault reads of a spec.
KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(REQUEST_FAULTS, ("p", "n", "on")),
    "late_taken": ("p", "n", "ms", "on"),
    "late_reports": ("p", "n", "ms"),
    "reorder_reports": ("p", "n"),
    "limit429": ("s",),
    "ban418": ("s",),
    "skew": ("ms",),
    "shutdown": ("s", "ms"),
    "nonsense": ("p", "n"),
}


def near(word: str, known: Iterable[str]) -> str:
    """What may have been meant, for the end of an error: the names that look alike, or else the first of all."""
    names = list(known)
    alike = get_close_matches(word, names, cutoff=0.5)
    if alike:
        return f"did you mean {' or '.join(alike)}?"
    return f"there are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"


def parse(spec: str) -> list[Fault]:
    """`drop_after:p=0.01; late_reports:ms=80` -> faults. Raises SettingsError that says what would be right."""
    return [_fault(item.strip()) for item in spec.split(";") if item.strip()]


def _fault(item: str) -> Fault:
    match = ITEM.match(item)
    if match is None or match[1] not in FAULTS:
        raise SettingsError(f"unknown fault {item!r}: {SPEC_HELP}. Faults: {', '.join(FAULTS)}")
    name, settings = match[1], match[2] or ""
    fault = Fault(name=name, ms=DEFAULT_MS.get(name, 0), seconds=DEFAULT_S.get(name, 0.0))
    if name == "late_taken":
        fault.on = PLACING
    for setting in filter(None, (part.strip() for part in settings.split(","))):
        key, _, value = setting.partition("=")
        try:
            _set(fault, key.strip(), value.strip())
        except ValueError as error:
            raise SettingsError(f"fault {name}: {setting!r} is wrong ({error}); {SPEC_HELP}") from None
    return fault


def _set(fault: Fault, key: str, value: str) -> None:
    if key not in KEYS[fault.name]:
        raise ValueError(f"no such key {key!r}; {fault.name} reads {', '.join(KEYS[fault.name])}")
    if key == "p":
        fault.probability = float(value)
        if not 0.0 <= fault.probability <= 1.0:
            raise ValueError("a probability lies between 0 and 1")
    elif key == "n":
        fault.count = int(value)
        if fault.count < 1:
            raise ValueError("n is at least 1")
    elif key == "ms":
        fault.ms = int(value)
        least, most = (-SKEW_MS_MAX, SKEW_MS_MAX) if fault.name == "skew" else (0, DAY_MS)
        if not least <= fault.ms <= most:
            raise ValueError(f"{least} to {most} milliseconds")
    elif key == "s":
        fault.seconds = float(value)
        if not 0.0 <= fault.seconds <= SECONDS_MAX:
            raise ValueError(f"0 to {SECONDS_MAX} seconds, which are three days")
    else:
        fault.on = _methods(value, ORDER_ENTRY if fault.name == "late_taken" else BY_NAME.keys())


def _methods(value: str, known: Iterable[str]) -> frozenset[str]:
    """The methods of `on`, by their names at the WebSocket API. ValueError for one that is not known."""
    named = frozenset(name.strip().removeprefix("v3/") for name in value.split("+") if name.strip())
    if not named:
        raise ValueError("name a method such as order.place")
    names = sorted(name for name in known if not name.startswith("v3/"))
    for name in sorted(named - {ANY, *names}):
        raise ValueError(f"no method {name!r} to strike: {near(name, names)}")
    return named


class Faults:
    """Which faults are on. `now_ms` is the machine's time, without `skew`."""

    def __init__(self, rng: random.Random, now_ms: Callable[[], int]) -> None:
        self._rng = rng
        self._now_ms = now_ms
        self._on: dict[str, Fault] = {}
        self._banned_until_ms = 0
        self._limited_until_ms = 0
        # Read by every request, so that an exchange without faults pays one look at a flag.
        self.requests_armed = False
        self.frames_armed = False
        self.reports_armed = False
        self.skew_ms = 0

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._on.values())

    def get(self, name: str) -> Fault | None:
        return self._on.get(name)

    def set(self, spec: str) -> list[Fault]:
        """Switches faults on, each in place of one of the same name; those that are not named stay as they are."""
        faults = parse(spec)
        for fault in faults:
            self._on[fault.name] = fault
            if fault.name == "ban418":
                self._banned_until_ms = self._now_ms() + round(fault.seconds * 1000)
            elif fault.name == "limit429":
                self._limited_until_ms = self._now_ms() + round(fault.seconds * 1000)
        self._arm()
        return faults

    def clear(self, *names: str) -> None:
        """Switches faults off: those named, or all. Raises SettingsError for a name that is none."""
        for name in names:
            if name not in FAULTS:
                raise SettingsError(f"unknown fault {name!r}: {near(name, FAULTS)}")
        for name in names or tuple(self._on):
            self._on.pop(name, None)
        self._arm()

    def _arm(self) -> None:
        on = self._on
        self._banned_until_ms = self._banned_until_ms if "ban418" in on else 0
        self._limited_until_ms = self._limited_until_ms if "limit429" in on else 0
        self.requests_armed = bool({*REQUEST_FAULTS, "late_taken", "ban418", "limit429"} & on.keys())
        self.frames_armed = "nonsense" in on
        self.reports_armed = "late_reports" in on
        self.skew_ms = on["skew"].ms if "skew" in on else 0

    # --- asked by the server

    def verdict(self, method: str) -> Verdict | None:
        """What becomes of a request, by its method's name in the table; None: nothing unusual."""
        for name, verdict in REQUEST_FAULTS.items():
            fault = self._on.get(name)
            if fault is not None and fault.hits(method) and self._fires(fault):
                return verdict
        late = self._on.get("late_taken")
        if late is not None and method in ORDER_ENTRY and late.hits(method) and self._fires(late):
            return Verdict(taken=False, ending="unknown1007", late_ms=late.ms)
        return None

    def reorders(self) -> bool:
        fault = self._on.get("reorder_reports")
        return fault is not None and self._fires(fault)

    def report_delay_ms(self) -> int:
        """How much later the next user data events come."""
        fault = self._on.get("late_reports")
        return fault.ms if fault is not None and self._fires(fault) else 0

    def nonsense(self) -> bytes | None:
        """A garbage frame to send first, now and then."""
        fault = self._on.get("nonsense")
        return self._rng.choice(NONSENSE) if fault is not None and self._fires(fault) else None

    def refused_until_ms(self, *, connecting: bool = False) -> tuple[int, int]:
        """(418 or 429, until when), or (0, 0). Limits refuse requests, bans refuse connections too."""
        now_ms = self._now_ms()
        for name, status, until_ms in (
            ("ban418", 418, self._banned_until_ms),
            ("limit429", 429, 0 if connecting else self._limited_until_ms),
        ):
            if until_ms > now_ms:
                self._on[name].fired += 1
                return status, until_ms + self.skew_ms
        return 0, 0

    def spoilt(self, ending: str) -> Spoilt:
        """The answer that stands in for the true one."""
        if ending == "unknown1006":
            return Spoilt(
                500, -1006, "An unexpected response was received from the message bus. Execution status unknown.", b""
            )
        if ending == "unknown1007":
            text = "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
            return Spoilt(504, -1007, text, b"")
        status = self._rng.choice(tuple(PAGES))
        page = f"<html><head><title>{status} {PAGES[status]}</title></head><body>{PAGES[status]}</body></html>"
        return Spoilt(status, -1000, "An unknown error occurred while processing the request.", page.encode())

    def _fires(self, fault: Fault) -> bool:
        if fault.spent or (fault.probability < 1.0 and self._rng.random() >= fault.probability):
            return False
        fault.fired += 1
        return True
