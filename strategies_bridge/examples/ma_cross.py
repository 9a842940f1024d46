"""A moving-average cross: buys when the fast average of a price rises above the slow one, sells when it falls below.

    tbx serve --strategy 'tbx.strategies_bridge.examples.ma_cross:MaCross?pairs=BTC_USDT,ETH_USDT&fast=12&slow=26'

It decides, and leaves the rest to the service: a signal is sized by what its stop may lose, checked against every
limit, and bought with the stop attached. The averages are kept, so that a restart goes on where it was; coins, orders
and the stop are the service's to remember.
"""

from decimal import Decimal

from ..strategy import OwnOrder, Parameters, ParameterWrong, SignalAnswer, Strategy


class MaCross(Strategy):
    """Exponential averages of mid prices, sampled by a timer. Floats do for these: no money is counted with them."""

    name = "ma_cross"
    pairs = ("BTC_USDT",)

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self.fast = parameters.whole("fast", 12, least=1, most=100_000)  # samples
        self.slow = parameters.whole("slow", 26, least=2, most=100_000)
        self.every_s = parameters.decimal("every", 1, least="0.01", most=86_400)  # seconds between samples
        self.stop = parameters.decimal("stop", "0.02", least="0.001", most="0.5")  # this share below the entry
        self.risk = parameters.decimal("risk", "0.005", least="0.0001", most=1)  # share of equity lost at the stop
        if self.fast >= self.slow:
            raise ParameterWrong(f"fast={self.fast}: expected less than slow, which is {self.slow}")
        self.asked: dict[str, str] = {}  # pair -> the signal that is not answered yet

    def on_start(self) -> None:
        self.timer("sample", every=float(self.every_s))

    def on_timer(self, name: str) -> None:  # noqa: ARG002 - there is only one
        for pair in self.pairs:
            book = self.book(pair)
            if book is not None:  # else nobody knows the price now: the averages wait
                self._sample(pair, book.mid)

    def _sample(self, pair: str, mid: Decimal) -> None:
        price = float(mid)
        kept = self.state.setdefault(pair, {"fast": price, "slow": price, "samples": 0})
        above = kept["fast"] > kept["slow"]
        kept["fast"] += (price - kept["fast"]) * 2 / (self.fast + 1)
        kept["slow"] += (price - kept["slow"]) * 2 / (self.slow + 1)
        kept["samples"] += 1
        crossed = above != (kept["fast"] > kept["slow"])
        if not crossed or kept["samples"] < self.slow or pair in self.asked:
            return
        if above and self.position(pair):
            self.asked[pair] = self.signal("CLOSE", pair=pair)
        elif not above and not self.position(pair):
            stop = self.round_price(mid * (1 - self.stop), pair)
            self.asked[pair] = self.signal("BUY", pair=pair, stop_loss=stop, max_risk=self.risk)

    def on_signal(self, answer: SignalAnswer) -> None:
        self.asked.pop(answer.pair, None)
        self.log(f"{answer.pair}: {answer.status}", code=answer.code, reason=answer.reason, orders=answer.order_ids)

    def on_order(self, order: OwnOrder) -> None:
        if order.role == "stop_loss" and order.status == "filled":
            self.log(f"{order.pair}: stopped out", quantity=order.filled, price=order.average_price)
