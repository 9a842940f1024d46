"""Exact decimal arithmetic: the context that every sum of money is computed in.

Importing this module sets 60 digits of precision for this thread and for threads and tasks that start later. The
largest product that occurs (quantity up to 1e7 with 18 decimals, price up to 1e6 with 12 decimals, fee with 6) has 49
digits, so additions and products are exact; the only roundings are the ones that are written out with `quantize`, each
with its direction: other libraries in the process (ccxt) change the context's.
"""

import decimal
import re
from decimal import Decimal

DIGITS = 60
decimal.DefaultContext.prec = DIGITS
decimal.getcontext().prec = DIGITS

ZERO = Decimal(0)
ONE = Decimal(1)

# What callers may give, over HTTP, a stream or from a strategy. Decimal() alone also takes underscores, blanks around a
# number and the digits of every script.
NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?")
QUANTITY_MAX = 10_000_000
PRICE_MAX = 1_000_000
DECIMALS_MAX = 18  # the finest grid of any instrument; sums of such numbers are exact


def plain(value: Decimal) -> str:
    """Decimal text without exponent and without trailing zeros: 0.0245, 5000, 0."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def tidy(value: Decimal) -> Decimal:
    """The same number without trailing zeros and without a positive exponent, so that it prints plainly.

    Adding zero brings a positive exponent down to zero: 5E+3 becomes 5000.
    """
    return value.normalize() + ZERO
