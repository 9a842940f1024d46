"""What a strategy is told at its start: `?key=value&key=value` behind its name, read by type.

Always true here: a value is what was asked for, or `ParameterWrong` names the parameter, what was wrong and what would
be right. A parameter that nobody reads is wrong too: it would be a misspelt one that changes nothing.
"""

import difflib
from collections.abc import Iterator, Mapping
from decimal import Decimal

from ..core.model.exact import plain
from ..core.model.instruments import decimal_of

Number = Decimal | int | str
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
WHOLE_DIGITS_MAX = 18


class ParameterWrong(ValueError):
    """A parameter is missing or cannot be; `str()` names it and says what is expected."""


class Parameters(Mapping[str, str]):
    """The parameters of one strategy, as text; the methods read one each, and remember that it was read.

    Where a parameter is not given its default holds; without a default it is missing.
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._given = dict(given or {})
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self._read.add(name)
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    # --- by type

    def text(self, name: str, default: str | None = None) -> str:
        self._read.add(name)
        value = self._given.get(name, default)
        if value is None:
            raise ParameterWrong(f"parameter {name} is missing")
        return value

    def decimal(
        self, name: str, default: Number | None = None, *, least: Number | None = None, most: Number | None = None
    ) -> Decimal:
        """A number from `least` to `most`."""
        text = self.text(name, None if default is None else str(default))
        try:
            value = decimal_of(text)
        except ValueError:
            raise ParameterWrong(f"{name}={text}: expected a number{_range(least, most)}") from None
        self._within(name, text, value, least, most)
        return value

    def whole(self, name: str, default: int | None = None, *, least: int | None = None, most: int | None = None) -> int:
        """A whole number from `least` to `most`."""
        text = self.text(name, None if default is None else str(default))
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal()) or len(digits) > WHOLE_DIGITS_MAX:
            raise ParameterWrong(f"{name}={text}: expected a whole number{_range(least, most)}")
        self._within(name, text, Decimal(int(text)), least, most)
        return int(text)

    def flag(self, name: str, default: bool | None = None) -> bool:
        text = self.text(name, None if default is None else str(default))
        if text.lower() not in FLAGS:
            raise ParameterWrong(f"{name}={text}: expected true or false")
        return FLAGS[text.lower()]

    def names(self, name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Words separated by commas."""
        return tuple(word for word in (part.strip() for part in self.text(name, ",".join(default)).split(",")) if word)

    @staticmethod
    def _within(name: str, text: str, value: Decimal, least: Number | None, most: Number | None) -> None:
        below = least is not None and value < Decimal(least)
        if below or (most is not None and value > Decimal(most)):
            raise ParameterWrong(f"{name}={text}: expected a number{_range(least, most)}")

    # --- what is left

    def unread(self) -> list[str]:
        """A line for each parameter that nobody has read."""
        lines = []
        for name in self._given.keys() - self._read:
            near = difflib.get_close_matches(name, self._read, n=1, cutoff=0.6)
            known = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(self._read))}"
            lines.append(f"there is no parameter {name}{known}")
        return sorted(lines)


def _range(least: Number | None, most: Number | None) -> str:
    low, high = (None if bound is None else plain(Decimal(bound)) for bound in (least, most))
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return f" of at most {high}" if high is not None else ""
