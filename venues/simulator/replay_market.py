"""A recorded Binance capture as a live market: its frames, at the pace at which they were recorded.

Always true here: frames go out in the order of the file, none before its time. They are stamped with the clock's
time, so that freshness means what it means elsewhere. At the end nothing more comes, and the books go stale.
"""

import re
from collections.abc import Callable, Iterable
from decimal import Decimal

from ...core.kernel.clock import Clock, Timer
from ...core.market.book import SNAPSHOT, UNKNOWN_KIND, peek
from ...core.model.errors import SettingsError
from ...core.model.instruments import Instrument
from .market import FrameSink

EXCHANGE = "binance"
FEE = Decimal("0.001")
SURVEY_FRAMES_MAX = 20_000  # read ahead of the replay to find the symbols and their grids
BURST_MAX = 500  # frames handed over in one turn of the loop; the rest follow in the next

# Longest first, so that BTCFDUSD is BTC_FDUSD.
QUOTES = ("FDUSD", "USDT", "USDC", "TUSD", "BUSD", "DAI", "EUR", "TRY", "BRL", "BTC", "ETH", "BNB")
LEVEL = re.compile(rb'\["(\d+(?:\.\d+)?)","(\d+(?:\.\d+)?)"')


def pair_of(symbol: str) -> str:
    """BTCUSDT -> BTC_USDT; raises SettingsError for a symbol that ends in no quote currency we know."""
    for quote in QUOTES:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return f"{symbol.removesuffix(quote)}_{quote}"
    raise SettingsError(
        f"the capture holds symbol {symbol}, which ends in no known quote currency: {', '.join(QUOTES)}"
    )


def survey(frames: Iterable[tuple[int, bytes]]) -> list[Instrument]:
    """The instruments of a capture, with the coarsest power-of-ten grids on which all that was read lies."""
    symbols: dict[str, list[int]] = {}  # symbol -> decimals of prices and of quantities
    untagged: list[bytes] = []
    for i, (_, frame) in enumerate(frames):
        if i == SURVEY_FRAMES_MAX:
            break
        symbol, kind = _symbol(frame)
        if symbol:
            _widen(symbols.setdefault(symbol, [0, 0]), frame)
        elif kind == SNAPSHOT:
            untagged.append(frame)
    if not symbols:
        raise SettingsError(f"the first {SURVEY_FRAMES_MAX} frames of the capture name no symbol")
    if untagged and len(symbols) > 1:
        raise SettingsError(f"snapshots without a symbol in a capture of {len(symbols)} symbols: {', '.join(symbols)}")
    for frame in untagged:
        _widen(next(iter(symbols.values())), frame)
    return [_instrument(symbol, *decimals) for symbol, decimals in symbols.items()]


def _symbol(frame: bytes) -> tuple[str, int]:
    """The symbol that a frame names, by itself or by its stream, and the frame's kind."""
    _, kind, symbol, stream = peek(frame)
    if kind == UNKNOWN_KIND:
        return "", kind
    return (symbol or stream.partition(b"@")[0]).decode("ascii", "replace").upper(), kind


def _widen(decimals: list[int], frame: bytes) -> None:
    for level in LEVEL.findall(frame):
        for i, text in enumerate(level):
            decimals[i] = max(decimals[i], len(text.partition(b".")[2].rstrip(b"0")))


def _instrument(symbol: str, price_decimals: int, qty_decimals: int) -> Instrument:
    pair = pair_of(symbol)
    base, quote = pair.split("_")
    lot = Decimal(1).scaleb(-qty_decimals)
    return Instrument(
        exchange=EXCHANGE,
        pair=pair,
        symbol=symbol,
        base=base,
        quote=quote,
        tick=Decimal(1).scaleb(-price_decimals),
        lot=lot,
        max_lots=int(Decimal(100_000_000) / lot),
        min_notional=Decimal(5),
        maker_fee=FEE,
        taker_fee=FEE,
        fee_in="received",
    )


class ReplayMarket:
    """Feeds `sink(exchange, pair, frame, local_ns)` with recorded frames; `on_end(text)` is told when they end.

    `frames` yields (local_ns, frame) as recorded; `instruments` are those that `survey` found in it.
    """

    def __init__(
        self,
        clock: Clock,
        sink: FrameSink,
        frames: Iterable[tuple[int, bytes]],
        instruments: Iterable[Instrument],
        *,
        on_end: Callable[[str], None],
    ) -> None:
        self.clock = clock
        self.sink = sink
        self.instruments = list(instruments)
        self.frame_count = 0
        self.ended = False
        self._frames = iter(frames)
        self._pairs = {i.symbol: i.pair for i in self.instruments}
        self._on_end = on_end
        self._next: tuple[int, bytes] | None = None
        self._shift_ns = 0  # our clock less the recorder's
        self._timer: Timer | None = None

    def start(self) -> None:
        self._next = next(self._frames, None)
        if self._next is not None:
            self._shift_ns = self.clock.now_ns() - self._next[0]
        self._timer = self.clock.call_in(0, self._play)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resync(self, exchange: str, pair: str) -> None:
        """A recording cannot be asked: the book waits for a snapshot in what is still to come."""

    def _play(self) -> None:
        """Hand over what is due, then wait for the next frame."""
        now_ns = self.clock.now_ns()
        recorded_ns = 0
        for _ in range(BURST_MAX):
            if self._next is None:
                self._end()
                return
            recorded_ns = self._next[0]
            if recorded_ns + self._shift_ns > now_ns:
                break
            self._hand_over(self._next[1], now_ns)
            self._next = next(self._frames, None)
        self._timer = self.clock.call_in(max(0, recorded_ns + self._shift_ns - now_ns), self._play)

    def _hand_over(self, frame: bytes, now_ns: int) -> None:
        symbol, kind = _symbol(frame)
        pair = self._pairs.get(symbol)
        if pair is None and not symbol and kind == SNAPSHOT and len(self._pairs) == 1:
            pair = self.instruments[0].pair
        if pair is not None:
            self.frame_count += 1
            self.sink(EXCHANGE, pair, frame, now_ns)

    def _end(self) -> None:
        self.ended = True
        self._timer = None
        self._on_end(f"the capture ended after {self.frame_count} frames; its books go stale")
