"""The life of an order: the grid below is the whole truth, and nothing else moves an order.

Theory of operation. An order is HELD while it waits here (an exit leg, a trigger). Its intent is committed and then
SENT. Every answer of the venue is one of the columns; whether a fill is PARTIAL or COMPLETE is decided before the grid
is asked. LOSE says that the outcome is not known: funds stay reserved until the venue proves one of the other columns.
SEND on an order that was sent before is its next attempt: a resend that is proven safe, an exit that goes on with
what is left, or an amended order that left the venue's book to come back anew. HOLD takes an exit that its venue
watched, and that has sold nothing, back to wait here. What is independent of this (a cancel or
an amend that was asked for) is a field of the order, not a state.

A fill may overtake a cancel or an expiry on the wire, so CANCELLED and EXPIRED still take fills, and become FILLED when
they turn out to be whole. An ended order never opens again, and nothing but fills touches it.
"""

from enum import Enum

from ..model.records import State

HELD, SENT, UNKNOWN, LIVE, PART = State.HELD, State.SENT, State.UNKNOWN, State.LIVE, State.PART
FILLED, CANCELLED, REJECTED, EXPIRED = State.FILLED, State.CANCELLED, State.REJECTED, State.EXPIRED


class Step(Enum):
    """What can happen to an order."""

    SEND = 0
    LOSE = 1
    ACCEPT = 2
    PARTIAL = 3
    COMPLETE = 4
    CANCEL = 5
    REJECT = 6
    EXPIRE = 7
    HOLD = 8

    __hash__ = object.__hash__  # as in State


# fmt: off
__ = None  # refused: the state stays as it was
GRID: dict[State, tuple[State | None, ...]] = {
    #           SEND   LOSE     ACCEPT  PARTIAL    COMPLETE  CANCEL     REJECT    EXPIRE   HOLD
    HELD:      (SENT,  __,      __,     __,        __,       CANCELLED, REJECTED, EXPIRED, __  ),
    SENT:      (SENT,  UNKNOWN, LIVE,   PART,      FILLED,   CANCELLED, REJECTED, EXPIRED, HELD),
    UNKNOWN:   (SENT,  UNKNOWN, LIVE,   PART,      FILLED,   CANCELLED, REJECTED, EXPIRED, HELD),
    LIVE:      (SENT,  __,      LIVE,   PART,      FILLED,   CANCELLED, __,       EXPIRED, HELD),
    PART:      (PART,  __,      PART,   PART,      FILLED,   CANCELLED, __,       EXPIRED, __  ),
    FILLED:    (__,    __,      __,     __,        __,       __,        __,       __,      __  ),
    CANCELLED: (__,    __,      __,     CANCELLED, FILLED,   __,        __,       __,      __  ),
    REJECTED:  (__,    __,      __,     __,        __,       __,        __,       __,      __  ),
    EXPIRED:   (__,    __,      __,     EXPIRED,   FILLED,   __,        __,       __,      __  ),
}
# fmt: on
_NEXT = {(state, step): row[step.value] for state, row in GRID.items() for step in Step}


def advance(state: State, step: Step) -> State | None:
    """The next state, or None when the step does not apply to an order in this state."""
    return _NEXT[state, step]


def picture() -> str:
    """The grid as the README of this folder shows it."""
    lines = ["| | " + " | ".join(step.name for step in Step) + " |", "|---" * (len(Step) + 1) + "|"]
    for state, row in GRID.items():
        cells = (" " if cell is None else cell.name for cell in row)
        lines.append(f"| **{state.name}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)
