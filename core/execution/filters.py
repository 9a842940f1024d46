"""What a venue takes: the figures of an order against the filters of its instrument.

Always true here: nothing is rounded in silence. What does not fit is named with the nearest value that would fit, and
every wrong field of a request at once. What fits costs a few comparisons of integers.

| Binance's filter      | sees                                             | here                       |
|-----------------------|--------------------------------------------------|----------------------------|
| PRICE_FILTER          | price, stopPrice                                 | `ticks`                    |
| LOT_SIZE              | quantity of each order                           | `lots`                     |
| MARKET_LOT_SIZE       | quantity of an order of type MARKET: a held exit | `check_market_lots`        |
| PERCENT_PRICE_BY_SIDE | price, against the average of the last minutes   | `check_band`, `guard`      |
| NOTIONAL              | price x quantity                                 | `check_cost`               |
| MAX_NUM_ORDERS        | orders of the account on the book of the pair    | `check_count`              |
| MAX_NUM_ORDER_AMENDS  | amends of one order                              | `orders/amending.py`       |
| MAX_POSITION          | base held and being bought                       | `check_position`           |

A market order leaves as a limit order at its guard price, so it is seen as one; only an exit without a price leaves as
MARKET. MAX_NUM_ALGO_ORDERS and MAX_NUM_ORDER_LISTS count stops that the venue holds: `orders/native_exits.py`.
"""

from decimal import ROUND_FLOOR, Decimal

from ..market.data import Feed
from ..model.exact import plain
from ..model.instruments import Instrument, OffGrid, steps
from ..model.messages import Refusal
from ..model.records import Side

NO_LIMIT = 1 << 200  # above every price, quantity and product of the two

Ratio = tuple[int, int]  # a multiplier as numerator and denominator


class Wrong(list[dict[str, str]]):
    """Collects what is wrong with a request, field by field."""

    __slots__ = ()

    def add(self, field: str, code: str, detail: str) -> None:
        self.append({"field": field, "code": code, "detail": detail})

    def refusal(self) -> Refusal:
        return Refusal(code=self[0]["code"], detail=self[0]["detail"], errors=tuple(self))


class Terms:
    """What orders need of an instrument, worked out once."""

    __slots__ = (
        "bands",
        "feed",
        "half_tick",
        "instrument",
        "lot",
        "maker_fee",
        "market_cost",
        "market_lots",
        "max_cost",
        "max_lots",
        "max_open_orders",
        "max_position",
        "max_ticks",
        "min_cost",
        "min_lots",
        "min_ticks",
        "paper_wallet",
        "taker_fee",
        "tick",
        "trading",
        "unit",
        "wallet",
    )

    def __init__(self, instrument: Instrument, feed: Feed, wallet: str, paper_wallet: str) -> None:
        self.instrument = instrument
        self.feed = feed
        self.wallet, self.paper_wallet = wallet, paper_wallet
        self.tick, self.lot = instrument.tick, instrument.lot
        self.half_tick = instrument.tick / 2
        self.unit = instrument.tick * instrument.lot  # quote currency of one tick x lot
        self.taker_fee, self.maker_fee = instrument.taker_fee, instrument.maker_fee
        # inclusive ranges
        self.min_ticks, self.max_ticks = max(1, instrument.min_price_ticks), instrument.max_price_ticks or NO_LIMIT
        self.min_lots, self.max_lots = instrument.min_lots, instrument.max_lots
        self.min_cost, self.max_cost = self._costs(True, True)  # in ticks x lots
        self.market_cost = self._costs(instrument.min_notional_market, instrument.max_notional_market)
        self.market_lots = instrument.market_range
        self.bands: dict[Side, tuple[Ratio | None, Ratio | None]] | None = None
        buy = _ratio(instrument.buy_price_min), _ratio(instrument.buy_price_max)
        sell = _ratio(instrument.sell_price_min), _ratio(instrument.sell_price_max)
        if any(buy + sell):
            self.bands = {"buy": buy, "sell": sell}
        self.max_open_orders = instrument.max_open_orders
        self.max_position = instrument.max_position
        self.trading = instrument.trading  # now; the instrument says how it was at the start

    def _costs(self, least: bool, most: bool) -> tuple[int, int]:
        instrument, low, high = self.instrument, 0, NO_LIMIT
        if least:
            whole, rest = divmod(instrument.min_notional, self.unit)
            low = int(whole) + (rest > 0)
        if most and instrument.max_notional is not None:
            high = int(instrument.max_notional // self.unit)
        return low, high

    # --- one figure

    def lots(self, quantity: Decimal, wrong: Wrong) -> int:
        """Whole lots within the range of a quantity; 0 where it is wrong."""
        try:
            lots = steps("quantity", quantity, self.lot)
        except OffGrid:
            below = int((quantity / self.lot).to_integral_value(ROUND_FLOOR))
            near = [min(max(n, self.min_lots), self.max_lots) * self.lot for n in (below, below + 1)]
            wrong.add("quantity", "QUANTITY_STEP", str(OffGrid("quantity", quantity, self.lot, _distinct(near))))
            return 0
        if self.min_lots <= lots <= self.max_lots:
            return lots
        pair = self.instrument.pair
        if lots < self.min_lots:
            least = plain(self.min_lots * self.lot)
            wrong.add("quantity", "BELOW_MIN_QUANTITY", f"the least quantity of {pair} is {least}")
        else:
            most = plain(self.max_lots * self.lot)
            wrong.add("quantity", "ABOVE_MAX_QUANTITY", f"the greatest quantity of {pair} is {most}")
        return 0

    def ticks(self, field: str, price: Decimal, wrong: Wrong) -> int:
        """Whole ticks within the range of a price; 0 where it is wrong."""
        try:
            ticks = steps("price", price, self.tick)
        except OffGrid:
            below = int((price / self.tick).to_integral_value(ROUND_FLOOR))
            near = [min(max(n, self.min_ticks), self.max_ticks) * self.tick for n in (below, below + 1)]
            wrong.add(field, "PRICE_STEP", str(OffGrid("price", price, self.tick, _distinct(near))))
            return 0
        if self.min_ticks <= ticks <= self.max_ticks:
            return ticks
        word, bound = ("least", self.min_ticks) if ticks < self.min_ticks else ("greatest", self.max_ticks)
        wrong.add(field, "PRICE_RANGE", f"the {word} price of {self.instrument.pair} is {plain(bound * self.tick)}")
        return 0

    def check_market_lots(self, field: str, lots: int, wrong: Wrong, *, steps_too: bool = True) -> None:
        """Of what leaves without a price: a held sale, or the exits of an entry (whose steps follow its fills)."""
        least, most, step = self.market_lots
        if least <= lots <= most and not (steps_too and lots % step):
            return
        fits = min(max(lots // step * step, least), most)
        detail = (
            f"it leaves at the market without a price, for which {self.instrument.exchange} takes from "
            f"{plain(least * self.lot)} to {plain(most * self.lot)} in steps of {plain(step * self.lot)}; "
            f"nearest valid quantity: {plain(fits * self.lot)}"
        )
        wrong.add(field, "MARKET_QUANTITY", detail)

    # --- the price against the market

    def band(self, side: Side, twice_average: int) -> tuple[int, int]:
        """The least and the greatest ticks that the venue takes at an average price, given as twice its ticks.

        The venue's average is of its own trades of the last minutes, which nobody tells us: the mid stands for it here,
        and the venue decides in the end.
        """
        least, most = self.min_ticks, self.max_ticks
        if self.bands is not None and twice_average:
            low, high = self.bands[side]
            if low is not None:
                least = max(least, -(-twice_average * low[0] // (2 * low[1])))
            if high is not None:
                most = min(most, twice_average * high[0] // (2 * high[1]))
        return least, most

    def check_band(self, field: str, ticks: int, side: Side, twice_average: int, wrong: Wrong) -> None:
        """Whether a price, within the instrument's range already, is near enough to the market."""
        least, most = self.band(side, twice_average)
        if least <= ticks <= most:
            return
        fits, word = (least, "below") if ticks < least else (most, "above")
        average = plain(twice_average * self.half_tick)
        detail = (
            f"{plain(ticks * self.tick)} is too far {word} the average price of about {average} for a {side}; "
            f"nearest valid price: about {plain(fits * self.tick)}"
        )
        wrong.add(field, "PRICE_BAND", detail)

    # --- price x quantity

    def check_cost(
        self, field: str, ticks: int, lots: int, wrong: Wrong, *, filled: int = 0, at_market: bool = False
    ) -> None:
        """The value of what is not filled, as the venue computes it; `at_market`: it leaves without a price, and
        `ticks` is where the market is expected then."""
        least, most = self.market_cost if at_market else (self.min_cost, self.max_cost)
        cost = ticks * (lots - filled)
        if least <= cost <= most:
            return
        instrument, price = self.instrument, plain(ticks * self.tick)
        value = f"{plain(cost * self.unit)} {instrument.quote}"
        if cost < least:
            fits = (filled + max(-(-least // ticks), self.min_lots)) * self.lot
            detail = (
                f"{value} is below the least order value of {plain(instrument.min_notional)}; "
                f"at {price} the least quantity is {plain(fits)}"
            )
            wrong.add(field, "BELOW_MIN_NOTIONAL", detail)
        else:
            assert instrument.max_notional is not None, "NO_LIMIT is above every value"
            fits = (filled + most // ticks) * self.lot
            detail = (
                f"{value} is above the greatest order value of {plain(instrument.max_notional)}; "
                f"at {price} the greatest quantity is {plain(fits)}"
            )
            wrong.add(field, "ABOVE_MAX_NOTIONAL", detail)

    # --- the account

    def check_count(self, count: int, wrong: Wrong) -> None:
        """Of an order that is to be sent, when `count` of the account are at the venue or on their way."""
        if count >= self.max_open_orders > 0:
            instrument = self.instrument
            detail = (
                f"{count} orders of {instrument.pair} are open at {instrument.exchange}, which takes "
                f"{self.max_open_orders} at once: cancel one, or wait until one has ended"
            )
            wrong.add("pair", "TOO_MANY_OPEN_ORDERS", detail)

    def check_position(self, lots: int, holding: Decimal, wrong: Wrong) -> None:
        """Of a buy of so many lots more, when `holding` is in the account and being bought."""
        most = self.max_position
        if most is None or holding + lots * self.lot <= most:
            return
        instrument = self.instrument
        fits = max(0, instrument.floor_lots(most - holding)) * self.lot
        detail = (
            f"{instrument.exchange} lets an account hold {plain(most)} {instrument.base}, and {plain(holding)} is held "
            f"or being bought; {plain(fits)} more can be bought"
        )
        wrong.add("quantity", "ABOVE_MAX_POSITION", detail)


def _ratio(multiplier: Decimal | None) -> Ratio | None:
    return None if multiplier is None else multiplier.as_integer_ratio()


def _distinct(values: list[Decimal]) -> tuple[Decimal, ...]:
    return tuple(dict.fromkeys(values))
