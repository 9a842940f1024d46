"""What was asked and answered about an order whose outcome is in doubt, kept on the order. Pure.

Always true here: the first line stays, it says how the doubt began; of the others the last LAST_MAX are kept; what is
the same as the line before it is counted and not repeated.
"""

from typing import Final

import msgspec

from ..model.records import Evidence, Order

LAST_MAX: Final = 20
TEXT_MAX: Final = 300  # characters of a question or an answer


def note(order: Order, question: str, answer: str, now_ns: int) -> None:
    """Add a line; the caller puts the order on record."""
    lines, question, answer = order.evidence, question[:TEXT_MAX], answer[:TEXT_MAX]
    if lines and lines[-1].question == question and lines[-1].answer == answer:
        again = msgspec.structs.replace(lines[-1], last_ns=now_ns, count=lines[-1].count + 1)
        order.evidence = (*lines[:-1], again)
        return
    line = Evidence(now_ns, now_ns, question, answer)
    order.evidence = (*lines[:1], *lines[1:][1 - LAST_MAX :], line)
