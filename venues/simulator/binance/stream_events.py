"""Market stream payloads: what happened to a symbol, as Binance's bytes (web-socket-streams.md, 2026).

Always true here: prices and quantities are texts of eight decimals, times are milliseconds times `scale` (1000 for
microseconds). Nothing is kept but `LevelTexts`, a bounded store of price texts.

A diff as it leaves:

    {"e":"depthUpdate","E":1672515782136,"s":"BNBBTC","U":157,"u":160,"b":[["0.0024","10"]],"a":[["0.0026","100"]]}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from ..exchange.records import UNIT, Trade
from ..exchange.tape import DayStats
from .documents import fixed

PRICE_TEXTS_MAX = 8_192  # of a symbol; the store starts anew beyond


class LevelTexts:
    """Levels as JSON. Prices come back again and again, so the text up to the quantity is kept."""

    def __init__(self) -> None:
        self._openings: dict[int, str] = {}

    def text(self, levels: Iterable[tuple[int, int]]) -> str:
        """(price, quantity) pairs -> `["0.00240000","10.00000000"],...`"""
        openings = self._openings
        if len(openings) > PRICE_TEXTS_MAX:
            openings.clear()
        parts = []
        for price, qty in levels:
            opening = openings.get(price)
            if opening is None:
                opening = openings[price] = f'["{fixed(price)}","'
            parts.append(f'{opening}{qty // UNIT}.{qty % UNIT:08d}"]')
        return ",".join(parts)


class Changes(Struct):
    """What became of a book's levels from update `first` to `last`; quantity 0 is gone."""

    first: int
    last: int
    bids: dict[int, int]
    asks: dict[int, int]

    def add(self, later: Changes) -> None:
        """Takes in the changes that came next."""
        self.last = later.last
        self.bids.update(later.bids)
        self.asks.update(later.asks)


def depth_update(symbol: str, changes: Changes, texts: LevelTexts, now_ms: int, scale: int) -> bytes:
    return (
        f'{{"e":"depthUpdate","E":{now_ms * scale},"s":"{symbol}","U":{changes.first},"u":{changes.last},'
        f'"b":[{texts.text(sorted(changes.bids.items(), reverse=True))}],'
        f'"a":[{texts.text(sorted(changes.asks.items()))}]}}'
    ).encode()


def partial_depth(
    update_id: int, bids: Sequence[tuple[int, int]], asks: Sequence[tuple[int, int]], texts: LevelTexts
) -> bytes:
    return f'{{"lastUpdateId":{update_id},"bids":[{texts.text(bids)}],"asks":[{texts.text(asks)}]}}'.encode()


def book_ticker(symbol: str, update_id: int, bid: tuple[int, int], ask: tuple[int, int]) -> bytes:
    return (
        f'{{"u":{update_id},"s":"{symbol}","b":"{fixed(bid[0])}","B":"{fixed(bid[1])}",'
        f'"a":"{fixed(ask[0])}","A":"{fixed(ask[1])}"}}'
    ).encode()


def trade(deal: Trade, now_ms: int, scale: int) -> bytes:
    maker = "true" if deal.buyer_is_maker else "false"
    return (
        f'{{"e":"trade","E":{now_ms * scale},"s":"{deal.symbol}","t":{deal.trade_id},"p":"{fixed(deal.price)}",'
        f'"q":"{fixed(deal.qty)}","T":{deal.time_ms * scale},"m":{maker},"M":true}}'
    ).encode()


class Aggregate(Struct):
    """Trades of one taker order at one price."""

    number: int  # that of the first trade in it, as REST says
    symbol: str
    price: int
    qty: int
    first_id: int
    last_id: int
    time_ms: int
    buyer_is_maker: bool


def agg_trade(deal: Aggregate, now_ms: int, scale: int) -> bytes:
    maker = "true" if deal.buyer_is_maker else "false"
    return (
        f'{{"e":"aggTrade","E":{now_ms * scale},"s":"{deal.symbol}","a":{deal.number},"p":"{fixed(deal.price)}",'
        f'"q":"{fixed(deal.qty)}","f":{deal.first_id},"l":{deal.last_id},"T":{deal.time_ms * scale},'
        f'"m":{maker},"M":true}}'
    ).encode()


def mini_ticker(symbol: str, stats: DayStats, now_ms: int, scale: int) -> bytes:
    return (
        f'{{"e":"24hrMiniTicker","E":{now_ms * scale},"s":"{symbol}","c":"{fixed(stats.last)}",'
        f'"o":"{fixed(stats.open)}","h":"{fixed(stats.high)}","l":"{fixed(stats.low)}",'
        f'"v":"{fixed(stats.volume)}","q":"{fixed(stats.quote_volume)}"}}'
    ).encode()


def ticker(symbol: str, stats: DayStats, bid: tuple[int, int], ask: tuple[int, int], now_ms: int, scale: int) -> bytes:
    return (
        f'{{"e":"24hrTicker","E":{now_ms * scale},"s":"{symbol}",{_change(stats)}'
        f'"w":"{fixed(stats.weighted_average)}","x":"{fixed(stats.prev_close)}","c":"{fixed(stats.last)}",'
        f'"Q":"{fixed(stats.last_qty)}","b":"{fixed(bid[0])}","B":"{fixed(bid[1])}","a":"{fixed(ask[0])}",'
        f'"A":"{fixed(ask[1])}",{_window(stats, scale)}'
    ).encode()


def rolling_ticker(symbol: str, window: str, stats: DayStats, now_ms: int, scale: int) -> bytes:
    """<symbol>@ticker_1h and its kind; `window` is 1h, 4h or 1d."""
    return (
        f'{{"e":"{window}Ticker","E":{now_ms * scale},"s":"{symbol}",{_change(stats)}'
        f'"c":"{fixed(stats.last)}","w":"{fixed(stats.weighted_average)}",{_window(stats, scale)}'
    ).encode()


def _change(stats: DayStats) -> str:
    change = stats.last - stats.open if stats.open else 0
    thousandths = abs(change) * 100_000 // stats.open if stats.open else 0  # of a percent
    sign = "-" if change < 0 else ""
    return f'"p":"{fixed(change)}","P":"{sign}{thousandths // 1000}.{thousandths % 1000:03d}",'


def _window(stats: DayStats, scale: int) -> str:
    return (
        f'"o":"{fixed(stats.open)}","h":"{fixed(stats.high)}","l":"{fixed(stats.low)}","v":"{fixed(stats.volume)}",'
        f'"q":"{fixed(stats.quote_volume)}","O":{stats.open_ms * scale},"C":{stats.close_ms * scale},'
        f'"F":{stats.first_trade_id},"L":{stats.last_trade_id},"n":{stats.count}}}'
    )


def avg_price(symbol: str, mins: int, price: int, last_ms: int, now_ms: int, scale: int) -> bytes:
    return (
        f'{{"e":"avgPrice","E":{now_ms * scale},"s":"{symbol}","i":"{mins}m","w":"{fixed(price)}",'
        f'"T":{last_ms * scale}}}'
    ).encode()


def server_shutdown(now_ms: int, scale: int) -> bytes:
    return f'{{"e":"serverShutdown","E":{now_ms * scale}}}'.encode()
