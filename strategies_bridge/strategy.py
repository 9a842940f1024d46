"""What the author of a strategy imports: the class to derive from. `STRATEGIES.md` has one to begin with.

Always true here:
- Hooks run one after another in the service's only thread, inside the input that they are about: nothing changes while
  one runs, and whatever it takes keeps every other part of the service waiting. A hook never waits for anything.
- What a hook asks for (orders, cancels, signals, log lines) happens when it has returned; where it raises instead,
  nothing of it happens, and the strategy is stopped.
- Prices and quantities are `Decimal`: text and whole numbers are taken too, floats are refused, because 0.1 is none.
  `round_price` and `round_quantity` make what the exchange takes of any number.
- Coins are bought and then sold: a strategy sells what it holds itself, and there are no short positions.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, Protocol

from ..core.model.records import OrderType, Side, SignalAction
from .parameters import Parameters, ParameterWrong
from .views import BookView, Holding, OwnFill, OwnOrder, SignalAnswer, TradeView

__all__ = [
    "BookView",
    "Holding",
    "Number",
    "OwnFill",
    "OwnOrder",
    "ParameterWrong",
    "Parameters",
    "SignalAnswer",
    "Strategy",
    "TradeView",
]

Number = Decimal | int | str  # of a price or a quantity: exact
Rough = Decimal | int | float | str  # what is rounded anyway
Method = Literal["fixed_fraction", "fixed_fractional", "volatility_adjusted", "kelly", "kelly_criterion"]


class Host(Protocol):
    """What runs a strategy: `running.Running`."""

    state: dict[str, Any]

    @property
    def now_ns(self) -> int: ...

    @property
    def equity(self) -> Decimal: ...

    @property
    def open_orders(self) -> list[OwnOrder]: ...

    def submit(self, **order: Any) -> str: ...

    def signal(self, **signal: Any) -> str: ...

    def cancel(self, client_id: str) -> None: ...

    def cancel_all(self, pair: str | None) -> None: ...

    def timer(self, name: str, every_s: float | None, after_s: float | None) -> None: ...

    def cancel_timer(self, name: str) -> None: ...

    def log(self, text: str, facts: Mapping[str, object]) -> None: ...

    def keep(self) -> None: ...

    def book(self, pair: str | None, exchange: str | None) -> BookView | None: ...

    def position(self, pair: str | None, exchange: str | None) -> Holding: ...

    def round_price(self, pair: str | None, value: Rough, up: bool, exchange: str | None) -> Decimal: ...

    def round_quantity(self, pair: str | None, value: Rough, exchange: str | None) -> Decimal: ...


class Strategy:
    """A strategy in this process. Derive from it, say which pairs, and write the hooks that are wanted.

    Each instance has a name of its own: `name`, or the parameter `name`. Its orders carry that name, its coins are kept
    apart from those of others under it, and so is its state. `pairs` and `exchange` are the class's, or parameters.
    """

    name: str = ""  # empty: made of the class's name
    pairs: Sequence[str] = ()  # which books and trades it sees, and may trade
    exchange: str | None = None  # None: each that lists a pair; an order goes to the best of them
    cancel_on_stop = True  # whether its entries are cancelled when it stops, and none of before are left at its start

    def __init__(self, parameters: Parameters) -> None:
        """Read what is given (`self.parameters`); raises ParameterWrong. Nothing can be traded or asked for yet."""
        self.parameters = parameters
        self.name = parameters.text("name", type(self).name or _snake(type(self).__name__))
        self.pairs = parameters.names("pairs", tuple(type(self).pairs))
        self.exchange = parameters.text("exchange", type(self).exchange or "") or None

    # --- hooks

    def on_start(self) -> None:
        """Everything is recovered, `state` is as it was kept, and orders are taken."""

    def on_stop(self) -> None:
        """The last call: the service ends, or somebody stops the strategy. Not after a fault of its own.

        Sells and cancels that it asks for are carried out; buys are left out, with a line in the log."""

    def on_book(self, book: BookView) -> None:
        """A book of `pairs` changed. Not called for one that is stale, crossed or has an empty side."""

    def on_trade(self, trade: TradeView) -> None:
        """Somebody traded one of `pairs`."""

    def on_fill(self, fill: OwnFill, order: OwnOrder) -> None:
        """One of its orders traded, exits included; `position` and `equity` have it already."""

    def on_order(self, order: OwnOrder) -> None:
        """One of its orders has ended, exits included, or was refused (`status` and `code` tell)."""

    def on_signal(self, answer: SignalAnswer) -> None:
        """What became of a `signal`."""

    def on_timer(self, name: str) -> None:
        """A timer is due."""

    # --- doing

    def submit(
        self,
        *,
        side: Side,
        type: OrderType,  # noqa: A002 - the name that the API has for it
        quantity: Number,
        pair: str | None = None,
        price: Number | None = None,
        stop_price: Number | None = None,
        stop_loss: Number | None = None,
        take_profit: Number | None = None,
        tif: Literal["GTC", "IOC", "FOK"] | None = None,
        post_only: bool = False,
        exchange: str | None = None,
        timeout_s: float | None = None,
    ) -> str:
        """Submit an order; returns its client id at once, what becomes of it comes to `on_order` and `on_fill`.

        `pair` may be left out where there is only one. `timeout_s`: cancel it when it has been open for so long, 0 for
        never, None for the setting. Raises ValueError or TypeError for what could never be an order. A sell of more
        than it holds itself, less what its open sells offer, is refused with INSUFFICIENT_BALANCE.
        """
        return self._host.submit(
            pair=pair,
            side=side,
            type=type,
            quantity=quantity,
            price=price,
            stop_price=stop_price,
            stop_loss=stop_loss,
            take_profit=take_profit,
            tif=tif,
            post_only=post_only,
            exchange=exchange,
            timeout_s=timeout_s,
        )

    def signal(
        self,
        action: SignalAction,
        *,
        pair: str | None = None,
        confidence: Number | None = None,
        entry_price: Number | None = None,
        stop_loss: Number | None = None,
        take_profit: Number | None = None,
        method: Method | None = None,
        max_risk: Number | None = None,
        exchange: str | None = None,
    ) -> str:
        """Execute a signal as POST /api/signals/execute does, which sizes the order; returns its client id.

        `max_risk` is a share of equity: "0.01". What becomes of it comes to `on_signal`.
        """
        return self._host.signal(
            action=action,
            pair=pair,
            confidence=confidence,
            entry_price=entry_price,
            stop_loss=stop_loss,
            take_profit=take_profit,
            method=method,
            max_risk=max_risk,
            exchange=exchange,
        )

    def cancel(self, order: str | OwnOrder) -> None:
        """Cancel an order, by what `submit` returned or by what a hook was given. Nothing where it has ended."""
        self._host.cancel(order if isinstance(order, str) else order.client_id)

    def cancel_all(self, pair: str | None = None) -> None:
        """Cancel its open orders (of a pair), all but the stops and targets that protect what it holds."""
        self._host.cancel_all(pair)

    def timer(self, name: str, *, every: float | None = None, after: float | None = None) -> None:
        """Call `on_timer(name)` each `every` seconds, or once `after` seconds. Replaces the timer of that name."""
        self._host.timer(name, every, after)

    def cancel_timer(self, name: str) -> None:
        self._host.cancel_timer(name)

    def log(self, text: str, **facts: object) -> None:
        """A line in the service's execution log: 500 characters, and facts of at most 4 KiB as JSON."""
        self._host.log(text, facts)

    def keep(self) -> None:
        """Keep `state` as it is when the hook returns. Needed in `on_book`, `on_trade` and `on_signal` only; the other
        hooks keep what changed."""
        self._host.keep()

    # --- looking

    @property
    def state(self) -> dict[str, Any]:
        """What is kept over a restart: anything that JSON holds, 64 KiB at most. A Decimal comes back as text."""
        return self._host.state

    @property
    def now_ns(self) -> int:
        """UTC nanoseconds."""
        return self._host.now_ns

    @property
    def equity(self) -> Decimal:
        """What the whole account is worth, in base currency; other strategies' coins included."""
        return self._host.equity

    @property
    def open_orders(self) -> list[OwnOrder]:
        """Orders that it submitted and that have not ended, the oldest first; not the exits of those."""
        return self._host.open_orders

    def position(self, pair: str | None = None, exchange: str | None = None) -> Holding:
        """What it holds of a pair, by its own sub-ledger; at all exchanges together unless one is named."""
        return self._host.position(pair, exchange)

    def book(self, pair: str | None = None, exchange: str | None = None) -> BookView | None:
        """The book of a pair as it is now; None where it may not be traded on."""
        return self._host.book(pair, exchange)

    def round_price(
        self, value: Rough, pair: str | None = None, *, up: bool = False, exchange: str | None = None
    ) -> Decimal:
        """The nearest price that the exchange takes at or below `value`, or with `up` at or above it."""
        return self._host.round_price(pair, value, up, exchange)

    def round_quantity(self, value: Rough, pair: str | None = None, *, exchange: str | None = None) -> Decimal:
        """The greatest quantity on the exchange's grid that is not above `value`; it may be too small for an order."""
        return self._host.round_quantity(pair, value, exchange)

    # --- inside

    __host: Host | None = None

    @property
    def _host(self) -> Host:
        if self.__host is None:
            raise RuntimeError("a strategy can ask and act from on_start on, not in __init__")
        return self.__host

    def attach(self, host: Host) -> None:
        """For what runs it."""
        self.__host = host


def _snake(name: str) -> str:
    """MarketMaker -> market_maker."""
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
