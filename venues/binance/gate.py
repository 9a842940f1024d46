"""Whether orders can be sent now, and why not.

Always true here: `ready` only while a link is signed on, the account may trade, and neither the venue nor a refusal of
the key or the clock bars it; else `reason` says which of these it is.
"""

from collections.abc import Callable
from typing import Final

from ...core.kernel.clock import SECOND_NS, Clock, Timer
from .account import AccountDesk
from .connection import Connection, key_words
from .errors import KEY_REFUSED, RATE_LIMIT_EXCEEDED, TEMPORARY_UNAVAILABLE, KeyTrouble, Verdict

BLOCK_NS: Final = 30 * SECOND_NS  # no orders for so long after the key or the clock was refused for one
RECHECK_NS: Final = 60 * SECOND_NS  # until an account that may not trade is looked at again
MAY_NOT_TRADE: Final = "the account may not trade (canTrade is false)"


class Gate:
    """Looked at before each order; `judge` after anything that it depends on has changed."""

    def __init__(
        self,
        venue: str,
        clock: Clock,
        connection: Connection,
        account: AccountDesk,
        *,
        ask_rights: Callable[[], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        """`ask_rights` asks the venue what the account may do, and then judges."""
        self.venue = venue
        self.clock = clock
        self.connection = connection
        self.account = account
        self.ready = False
        self._ask_rights = ask_rights
        self._on_trouble = on_trouble
        self._bar = ""  # why the venue takes nothing from this address
        self._block = ""  # why it would take no orders now
        self._block_code = KEY_REFUSED
        self._unblock: Timer | None = None
        self._recheck: Timer | None = None  # of an account that may not trade

    @property
    def reason(self) -> str:
        """Why no order can be sent now; empty where one can."""
        if self.ready:
            return ""
        if self._bar:
            return self._bar
        connection = self.connection
        if connection.link is not None:
            return self._block or MAY_NOT_TRADE
        reason, now = connection.reason, connection.session.reason
        return f"{self.venue} is not connected: {reason}" + (f" ({now})" if now and now not in reason else "")

    @property
    def code(self) -> str:
        """Our code of an order that was not sent for `reason`."""
        if self._bar:
            return RATE_LIMIT_EXCEEDED
        if self.connection.link is None:
            return TEMPORARY_UNAVAILABLE
        return self._block_code if self._block else KEY_REFUSED

    def judge(self) -> None:
        connected, can_trade = self.connection.link is not None, self.account.can_trade
        self.ready = connected and can_trade and not self._bar and not self._block
        if connected and not can_trade and self._recheck is None:
            self._recheck = self.clock.call_in(RECHECK_NS, self._look_again)

    def bar(self, reason: str) -> None:
        """The venue takes nothing from this address; "" when that is over."""
        self._bar = reason
        self.judge()

    def block(self, verdict: Verdict) -> None:
        """The key, or our clock twice in a row, was refused for an order: the next ones would be refused too."""
        if isinstance(verdict, KeyTrouble):
            self._block, self._block_code = key_words(verdict), KEY_REFUSED
        else:
            self._block = f"the clock is off, and measuring it did not help: {verdict.reason}"
            self._block_code = TEMPORARY_UNAVAILABLE
        self._on_trouble(f"{self.venue} orders: {self._block}")
        if self._unblock is not None:
            self._unblock.cancel()
        self._unblock = self.clock.call_in(BLOCK_NS, self._try_again)
        self.judge()

    def stop(self) -> None:
        for timer in (self._unblock, self._recheck):
            if timer is not None:
                timer.cancel()
        self._unblock = self._recheck = None

    def _try_again(self) -> None:
        self._block, self._unblock = "", None
        self.judge()

    def _look_again(self) -> None:
        self._recheck = None
        self._ask_rights()
