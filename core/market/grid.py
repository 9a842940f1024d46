"""The grid of prices or quantities as digits: what the kernels read and what market data is printed with."""

from decimal import Decimal
from typing import NamedTuple


class Grid(NamedTuple):
    """A step of `units` x 10^-`decimals`: 0.0005 is (4, 5), 10 is (0, 10)."""

    decimals: int
    units: int

    @classmethod
    def of(cls, step: Decimal) -> "Grid":
        """The grid of a positive step."""
        sign, digits, exponent = step.normalize().as_tuple()
        if sign or not isinstance(exponent, int) or not any(digits):
            raise ValueError(f"a grid needs a positive, finite step, not {step}")
        units = int("".join(map(str, digits)))
        return cls(max(0, -exponent), units * 10 ** max(0, exponent))

    def text(self, steps: int) -> str:
        """Decimal text of so many steps, with all decimals of the grid."""
        digits = steps * self.units
        if not self.decimals:
            return str(digits)
        text = str(digits).rjust(self.decimals + 1, "0")
        return f"{text[: -self.decimals]}.{text[-self.decimals :]}"
