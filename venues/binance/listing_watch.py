"""What became of the traded pairs since the start: whether trading goes on, and whether their filters are others.

Always true here: a pair's trading state changes only where the exchange says so in words that are understood; filters
stay those of the start, as books and orders are counted in their ticks and lots, and a change is told once. Questions
are small and spread, so that reading an answer keeps no frame waiting. Source: `GET /api/v3/exchangeInfo?symbols=[..]`
in rest-api.md of binance-spot-api-docs.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from ...core.kernel.clock import SECOND_NS, Clock, Timer
from ...core.model.errors import Nonsense, Refused, VenueError
from ...core.model.instruments import Instrument
from ..limits import Budgets
from ..rest import WEIGHT, Get
from .instruments import Listing, read_exchange_info

EXCHANGE_INFO_WEIGHT: Final = 20
INVALID_SYMBOL: Final = '"code":-1121,'

EVERY_NS: Final = 3_600 * SECOND_NS  # between two rounds
SYMBOLS_AT_ONCE: Final = 20  # in one question
STEP_NS: Final = SECOND_NS  # between two questions of a round
RETRY_NS: Final = 300 * SECOND_NS  # after a question that got no answer; and from the start to the first round
NOT_FILTERS: Final = frozenset({"trading", "maker_fee", "taker_fee", "fee_in"})


def exchange_info_path(symbols: Iterable[str]) -> str:
    """The request for these symbols; for none of them, that for all."""
    names = sorted(symbols)
    return "/api/v3/exchangeInfo" + ("?symbols=" + quote(msgspec.json.encode(names).decode()) if names else "")


class ListingWatch:
    """Asks about `instruments` once an hour."""

    def __init__(
        self,
        clock: Clock,
        get: Get,
        budgets: Budgets,
        instruments: Iterable[Instrument],
        *,
        on_trading: Callable[[str, bool], None],
        on_trouble: Callable[[str], None],
        now_ns: Callable[[], int],
    ) -> None:
        """`on_trading` is told the pair and whether it trades, when that changes; `on_trouble` gets a line for the log.
        `now_ns` is the venue's time, by which the budgets count."""
        self.rounds = 0
        self._clock = clock
        self._get = get
        self._budgets = budgets
        self._on_trading = on_trading
        self._on_trouble = on_trouble
        self._now_ns = now_ns
        self._instruments = {i.symbol: i for i in instruments}
        self._trading = {i.symbol: i.trading for i in self._instruments.values()}
        self._told: dict[str, Instrument | str] = {}  # what was said last of a symbol's filters
        self._questions: deque[tuple[str, ...]] = deque()  # of this round, not answered yet; the first is next
        self._timer: Timer | None = None
        self._running = False

    def start(self) -> None:
        self._running = True
        self._timer = self._clock.call_in(RETRY_NS, self._begin)  # what was listed then may have been kept for long

    def stop(self) -> None:
        """An answer that is on its way changes nothing any more."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- asking

    def _begin(self) -> None:
        self.rounds += 1
        names = list(self._instruments)
        self._questions.extend(tuple(names[i : i + SYMBOLS_AT_ONCE]) for i in range(0, len(names), SYMBOLS_AT_ONCE))
        self._ask()

    def _ask(self) -> None:
        if not self._questions:
            self._timer = self._clock.call_in(EVERY_NS, self._begin)
            return
        wait_ns = self._budgets.take(WEIGHT, EXCHANGE_INFO_WEIGHT, self._now_ns())
        if wait_ns:
            self._timer = self._clock.call_in(wait_ns, self._ask)
            return
        self._timer = None
        self._get(exchange_info_path(self._questions[0]), EXCHANGE_INFO_WEIGHT, self._answered)

    def _answered(self, answer: bytes | VenueError) -> None:
        if not self._running:
            return
        wait_ns = STEP_NS
        if isinstance(answer, VenueError) and not _unknown_symbol(answer):
            self._on_trouble(f"whether all pairs still trade could not be asked for: {answer}")
            wait_ns = RETRY_NS  # and then the same again
        else:
            self._take(self._questions.popleft(), answer)
        self._timer = self._clock.call_in(wait_ns, self._ask)

    # --- answers

    def _take(self, symbols: Sequence[str], answer: bytes | VenueError) -> None:
        if not isinstance(answer, bytes):  # it does not say which of them it does not list
            if len(symbols) > 1:
                self._questions.extendleft((symbol,) for symbol in reversed(symbols))
            else:
                self._set(symbols[0], False, "is not listed any more")
            return
        try:
            listing = read_exchange_info(answer)
        except Nonsense as error:
            self._on_trouble(f"whether all pairs still trade cannot be understood: {error}")
            return
        found = {instrument.symbol: instrument for instrument in listing.instruments}
        for symbol in symbols:
            self._compare(self._instruments[symbol], found.get(symbol), listing)

    def _compare(self, ours: Instrument, theirs: Instrument | None, listing: Listing) -> None:
        if theirs is None:
            why = listing.left_out.get(ours.pair, "the answer does not name it")
            self._tell_once(ours, why, f"goes on as it was, though its listing cannot be understood any more: {why}")
            return
        self._set(ours.symbol, theirs.trading, "trades again" if theirs.trading else "is not open for trading")
        changed = [
            name
            for name in Instrument.__struct_fields__
            if name not in NOT_FILTERS and getattr(ours, name) != getattr(theirs, name)
        ]
        if changed:
            words = ", ".join(f"{name} {getattr(ours, name)} -> {getattr(theirs, name)}" for name in changed)
            what = f"has other filters at the exchange, which apply here from the next start: {words}"
            self._tell_once(ours, msgspec.structs.replace(theirs, trading=True), what)

    def _set(self, symbol: str, trading: bool, what: str) -> None:
        if self._trading[symbol] is not trading:
            self._trading[symbol] = trading
            pair = self._instruments[symbol].pair
            self._on_trouble(f"{pair} {what}" + ("" if trading else ": orders are refused"))
            self._on_trading(pair, trading)

    def _tell_once(self, ours: Instrument, state: Instrument | str, what: str) -> None:
        if self._told.get(ours.symbol) != state:
            self._told[ours.symbol] = state
            self._on_trouble(f"{ours.pair} {what}")


def _unknown_symbol(answer: VenueError) -> bool:
    return isinstance(answer, Refused) and INVALID_SYMBOL in str(answer)
