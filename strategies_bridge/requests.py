"""What a strategy may ask for, checked while its hook still runs: what comes out is as sound as what REST lets in.

Always true here: a mistake that a look at the arguments shows raises ValueError or TypeError, names the argument and
says what would be right. What depends on the market, on money or on limits is left to the core, which refuses it.
"""

import difflib
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Final, get_args

from ..core.model.exact import DECIMALS_MAX, NUMBER, PRICE_MAX, QUANTITY_MAX, plain
from ..core.model.instruments import Instrument
from ..core.model.messages import ExecuteSignal, Reply, SubmitOrder
from ..core.model.records import OrderType, Side, SignalAction, SignalData, SizingMethod

TIMEOUT_S_MAX: Final = 30 * 24 * 3600
SECOND_NS: Final = 1_000_000_000
TIFS: Final = ("GTC", "IOC", "FOK")
SIDES, TYPES, ACTIONS = get_args(Side), get_args(OrderType), get_args(SignalAction)
# As an author may write a method, which is as REST takes it -> as it is.
METHODS: Final[Mapping[str, SizingMethod]] = {
    "fixed_fraction": "fixed_fraction",
    "fixed_fractional": "fixed_fraction",
    "volatility_adjusted": "volatility_adjusted",
    "kelly": "kelly_criterion",
    "kelly_criterion": "kelly_criterion",
}


def exact(name: str, value: object, most: int, *, zero: bool = False) -> Decimal:
    """A positive Decimal (`zero`: or 0) of what an author gave for a price or a quantity."""
    if isinstance(value, Decimal):
        number = Decimal(value)  # plain, where it is of a class of his own
    elif isinstance(value, int) and not isinstance(value, bool):
        number = Decimal(value)
    elif isinstance(value, str):
        if NUMBER.fullmatch(value) is None:
            raise ValueError(f"{name} is {value[:40]!r}, expected a decimal number such as 0.0245")
        number = Decimal(value)
    elif isinstance(value, float):
        raise TypeError(
            f"{name} is the float {value!r}, which is not exact: give a Decimal, text or a whole number; "
            f"round_price and round_quantity make one"
        )
    else:
        raise TypeError(f"{name} is {type(value).__name__}, expected a Decimal, text or a whole number")
    if not number.is_finite() or not 0 <= number <= most or not (number or zero):
        least = "0" if zero else "more than 0"
        raise ValueError(f"{name} is {value}, expected {least} and at most {most}")
    exponent = number.normalize().as_tuple().exponent
    if isinstance(exponent, int) and -exponent > DECIMALS_MAX:
        raise ValueError(f"{name} is {value}: more than {DECIMALS_MAX} decimals")
    return number


def optional(name: str, value: object, most: int) -> Decimal | None:
    return None if value is None else exact(name, value, most)


def one_of(name: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        near = difflib.get_close_matches(str(value)[:40], words, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name} is {value!r}, expected {', '.join(words[:-1])} or {words[-1]}{hint}")


def on_grid(value: object, step: Decimal, *, up: bool) -> Decimal:
    """The nearest multiple of a step at or below (`up`: at or above) any number."""
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)  # type: ignore[arg-type]
    if not number.is_finite():
        raise ValueError(f"{value} cannot be rounded to a multiple of {plain(step)}")
    return (number / step).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR) * step


def order_request(
    instrument: Instrument, client_id: str, strategy: str, reply: Reply, given: Mapping[str, Any]
) -> SubmitOrder:
    """The command for `Strategy.submit(**given)`; `instrument` is of the pair that was chosen."""
    side, kind, tif = given["side"], given["type"], given["tif"]
    one_of("side", side, SIDES)
    one_of("type", kind, TYPES)
    if tif is not None:
        one_of("tif", tif, TIFS)
    quantity = exact("quantity", given["quantity"], QUANTITY_MAX)
    price = optional("price", given["price"], PRICE_MAX)
    stop_price = optional("stop_price", given["stop_price"], PRICE_MAX)
    stop_loss = optional("stop_loss", given["stop_loss"], PRICE_MAX)
    take_profit = optional("take_profit", given["take_profit"], PRICE_MAX)
    held = kind in ("stop_loss", "take_profit")
    if kind == "limit" and price is None:
        raise ValueError("price is missing: a limit order needs one")
    if held is (stop_price is None):
        need = "needs a stop_price" if held else "has no stop_price; stop_loss is what protects it"
        raise ValueError(f"stop_price: a {kind} order {need}")
    if held and (stop_loss is not None or take_profit is not None):
        raise ValueError(f"stop_loss, take_profit: a {kind} order is an exit itself")
    if given["post_only"] and (kind != "limit" or tif in ("IOC", "FOK")):
        raise ValueError("post_only: only a limit order that may rest can be")
    _check_exits(side, price if kind == "limit" else None, stop_loss, take_profit)
    return SubmitOrder(
        pair=instrument.pair,
        side=side,
        type=kind,
        quantity=quantity,
        price=price,
        stop_price=stop_price,
        stop_loss=stop_loss,
        take_profit=take_profit,
        tif=tif,
        post_only=bool(given["post_only"]),
        exchange=given["exchange"],
        timeout_ns=_timeout_ns(given["timeout_s"]),
        client_order_id=client_id,
        signal_data=SignalData(source="strategy", strategy=strategy),
        reply=reply,
    )


def _check_exits(side: str, price: Decimal | None, stop: Decimal | None, target: Decimal | None) -> None:
    if stop is None and target is None:
        return
    if side == "sell":
        raise ValueError("stop_loss, take_profit: they protect what is bought; a sell has none")
    if price is not None and ((stop is not None and stop >= price) or (target is not None and target <= price)):
        raise ValueError("a buy needs stop_loss < price < take_profit")
    if stop is not None and target is not None and stop >= target:
        raise ValueError("a buy needs stop_loss < take_profit")


def _timeout_ns(seconds: object) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= TIMEOUT_S_MAX:
        raise ValueError(f"timeout_s is {seconds!r}, expected seconds from 0 to {TIMEOUT_S_MAX}")
    return int(seconds * SECOND_NS)


def signal_request(pair: str, client_id: str, strategy: str, reply: Reply, given: Mapping[str, Any]) -> ExecuteSignal:
    """The command for `Strategy.signal(**given)`."""
    one_of("action", given["action"], ACTIONS)
    if given["method"] is not None:
        one_of("method", given["method"], tuple(METHODS))
    confidence = given["confidence"]
    return ExecuteSignal(
        pair=pair,
        action=given["action"],
        reply=reply,
        confidence=None if confidence is None else exact("confidence", confidence, 1, zero=True),
        source="strategy",
        strategy=strategy,
        entry_price=optional("entry_price", given["entry_price"], PRICE_MAX),
        stop_loss=optional("stop_loss", given["stop_loss"], PRICE_MAX),
        take_profit=optional("take_profit", given["take_profit"], PRICE_MAX),
        method=None if given["method"] is None else METHODS[given["method"]],
        max_risk=optional("max_risk", given["max_risk"], 1),
        exchange=given["exchange"],
        client_signal_id=client_id,
        fingerprint=client_id,
    )
