"""Bugs to find: each disables one guard of the real code for as long as its context lasts.

A simulation that has never failed proves nothing. `PLANTED` names each bug and what it does; a test asserts that each
is found within a few seeds, and that the same seeds pass without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from tbx.core.kernel.outbox import Outbox
from tbx.core.model.messages import CancelOrder, VenueEnded, VenueFilled
from tbx.core.model.records import Order, State
from tbx.core.orders.history import History
from tbx.core.orders.lifecycle import Step
from tbx.core.orders.manager import OrderManager
from tbx.core.orders.native_exits import NativeExits
from tbx.core.orders.recovery import Recovery
from tbx.core.orders.registry import Orders
from tbx.core.orders.reports import Reports
from tbx.core.state import store

from . import store as simulated


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Something of a class or a module is another one, made of the real one, until the end."""
    real = getattr(owner, name)
    setattr(owner, name, make(real))
    try:
        yield
    finally:
        setattr(owner, name, real)


def _resend(lose: Any) -> Any:
    def sent_again(self: Recovery, order: Order, *args: Any) -> Any:
        told = lose(self, order, *args)
        if order.state is State.UNKNOWN:
            self.manager.send(order, self.clock.now_ns())
        return told

    return sent_again


def _invent_end(lose: Any) -> Any:
    def ended(self: Recovery, order: Order, reason: str, now_ns: int) -> Any:
        told = lose(self, order, reason, now_ns)
        self.manager.end(order, Step.CANCEL, reason, "TIMEOUT", now_ns)
        return told

    return ended


def _forget_reservation(lose: Any) -> Any:
    def freed(self: Recovery, order: Order, *args: Any) -> Any:
        told = lose(self, order, *args)
        if order.state is State.UNKNOWN and order.reserved:
            self.manager.reserve(order, -order.reserved)
            self.outbox.put("orders", order.order_id, order)
        return told

    return freed


def _at_once(_: Any) -> Any:
    def released(self: Outbox, action: Callable[..., object], *args: Any) -> None:
        self.release([(action, args)])

    return released


def _any_writer(script: bytes) -> bytes:
    """The store's script, without its question whose lease it is."""
    asked = b"held ~= ARGV[1]"
    assert asked in script
    return script.replace(asked, b"not held")


def _sha(_: str) -> str:
    return hashlib.sha1(_any_writer(store.COMMIT), usedforsecurity=False).hexdigest()


def _not_when_ended(on_filled: Any) -> Any:
    def ignored(self: Reports, message: VenueFilled) -> None:
        order = self.orders.of_venue_client_id(message.client_id)
        if order is None or order.state is not State.CANCELLED:
            on_filled(self, message)

    return ignored


def _without_fills(on_ended: Any) -> Any:
    def ended(self: Reports, message: VenueEnded) -> None:
        on_ended(self, msgspec.structs.replace(message, filled_lots=None))

    return ended


def _answer_first(cancel: Any) -> Any:
    def answered(self: OrderManager, request: CancelOrder) -> None:
        order = self.orders.get(request.order_id)
        if order is None or order.ended:
            cancel(self, request)
            return
        self.answer(request.reply, order)
        self.request_cancel(order, request.reason)

    return answered


def _without_record(cover: Any) -> Any:
    def kept_in_memory(self: NativeExits, leg: Order) -> None:
        outbox = self.manager.outbox
        waits = ("orders", leg.order_id) in outbox._records
        cover(self, leg)
        if not waits:
            del outbox._records["orders", leg.order_id]

    return kept_in_memory


def _archive_at_once(trim: Any) -> Any:
    def written(self: History) -> None:
        with replaced(Outbox, "effect", _at_once):
            trim(self)

    return written


def _never(_: Any) -> Any:
    return lambda *args, **more: None


def _no(_: Any) -> Any:
    return lambda *args, **more: False


class Bug(NamedTuple):
    """One guard less."""

    what: str
    replaces: tuple[tuple[Any, str, Callable[[Any], Any]], ...]  # owner, name, what makes the new one of the real one
    first: int = 0  # the seed at which the search begins: a bug that needs rare circumstances is not far behind it


PLANTED: Mapping[str, Bug] = {
    "resend_on_timeout": Bug(
        "an order whose outcome is unknown is sent again at once", ((Recovery, "_lose", _resend),)
    ),
    "no_dedup_of_trades": Bug("a trade that is told twice is booked twice", ((Orders, "has_trade", _no),)),
    "effects_before_commit": Bug(
        "frames, answers and events leave before their commit",
        ((Outbox, "effect", _at_once), (Outbox, "send", _at_once)),
    ),
    "no_fencing": Bug(
        "the store takes what any process writes",
        (
            (store, "COMMIT_SHA", _sha),  # first: it is made of the script as it is
            (store, "COMMIT", _any_writer),
            (simulated, "COMMIT", _any_writer),
            (store, "BEAT", _any_writer),
        ),
    ),
    "reservation_forgotten": Bug(
        "nothing is set aside for an order whose outcome is unknown",
        ((Recovery, "_lose", _forget_reservation),),
    ),
    "invented_end": Bug("a timeout is taken for a cancel", ((Recovery, "_lose", _invent_end),)),
    "never_asked": Bug("nobody asks what became of an order", ((Recovery, "_doubt", _never),)),
    "fills_after_cancel_ignored": Bug(
        "a cancel counts before all fills are known, and a cancelled order takes no more",
        ((Reports, "on_ended", _without_fills), (Reports, "on_filled", _not_when_ended)),
    ),
    "reservation_in_memory_only": Bug(
        "the exit that is left at the venue sets coins aside, and that is not committed",
        ((NativeExits, "cover", _without_record),),
        first=15,
    ),
    "archived_before_commit": Bug(
        "orders leave for the archive before their end is committed",
        ((History, "trim", _archive_at_once),),
        first=15,
    ),
    "cancel_answered_early": Bug(
        "a cancel is answered before it is proven", ((OrderManager, "cancel", _answer_first),)
    ),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug of this name is in the code until the end."""
    undo = []
    try:
        for owner, method, make in PLANTED[name].replaces:
            context = replaced(owner, method, make)
            context.__enter__()
            undo.append(context)
        yield
    finally:
        for context in reversed(undo):
            context.__exit__(None, None, None)
