"""What is asked of the risk service about an entry, and what its answer makes of the order.

Always true here: the service can make an order smaller or refuse it, never larger; it is asked about entries only, so
that nothing which protects or reduces ever waits for it.
"""

from collections.abc import Callable
from decimal import Decimal
from functools import partial

import msgspec

from ..execution.engine import Plan
from ..kernel.kernel import Kernel
from ..model.exact import plain, tidy
from ..model.messages import Advice, Refusal, SubmitOrder
from ..model.records import Side

SHOWN_MAX = 40  # characters of a number in a reason


class RiskQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that the risk service is asked about. Prices are in quote, the quantity in base."""

    pair: str
    side: Side
    quantity: Decimal
    entry_price: Decimal | None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    confidence: Decimal | None = None


class RiskAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The largest quantity that the service recommends, or why there is no answer."""

    recommended: Decimal | None = None
    failure: str = ""
    approved: bool = True  # False: it says no; a smaller size that it recommends may go out all the same
    reason: str = ""  # of a no, in its words


# Ask, and call back exactly once, later, on the loop. Whoever is asked keeps the time limit.
AskRisk = Callable[[RiskQuestion, Callable[[RiskAnswer], None]], None]


def _never() -> bool:
    return False


class Advising:
    """Asks about entries and submits them again with what was said. The service's client is set by who connects it."""

    def __init__(self, kernel: Kernel, *, refuse_oversize: bool) -> None:
        self.kernel = kernel
        self.refuse_oversize = refuse_oversize
        self.ask: AskRisk | None = None
        self.relied_on: Callable[[], bool] = _never  # whether an order that it says nothing about is halved
        self._asked: dict[str, str] = {}  # requests with an id of their own, on their way: id -> fingerprint

    def wanted(self, request: SubmitOrder) -> bool:
        """Whether the service has to be asked about an order: entries, once, unless the caller wants none of it."""
        return (
            self.ask is not None
            and request.side == "buy"
            and request.role == "entry"
            and request.risk_check
            and request.advice is None
            and self.relied_on()
        )

    def is_asked(self, client_order_id: str) -> bool:
        """Whether the order with this id waits for the service's word."""
        return client_order_id in self._asked

    def pending(self, request: SubmitOrder) -> Refusal | None:
        """Of a request whose id is that of one on its way."""
        if not self._asked or request.advice is not None or request.client_order_id is None:
            return None
        name, known = request.client_order_id, self._asked.get(request.client_order_id)
        if known is None:
            return None
        if known != request.fingerprint:
            detail = f"{name!r} is used for another order, which is being checked; use a new id for a new order"
            return Refusal(code="IDEMPOTENCY_MISMATCH", detail=detail)
        detail = f"the first request with {name!r} is still in progress"
        return Refusal(code="IDEMPOTENCY_IN_PROGRESS", detail=detail, status=409, retry_after_s=1)

    def submit(self, request: SubmitOrder, plan: Plan) -> None:
        """Ask, and submit the request again when there is an answer or none is to come."""
        assert self.ask is not None
        if request.client_order_id is not None:
            self._asked[request.client_order_id] = request.fingerprint
        self.ask(question(request, plan), partial(self._answered, request, plan))

    def _answered(self, request: SubmitOrder, plan: Plan, answer: RiskAnswer) -> None:
        self.kernel.run(self._submit_again, request, plan, answer)

    def _submit_again(self, request: SubmitOrder, plan: Plan, answer: RiskAnswer) -> None:
        if request.client_order_id is not None:
            self._asked.pop(request.client_order_id, None)
        if request.refit is not None:
            request = msgspec.structs.replace(request, quantity=min(request.quantity, request.refit()))
        self.kernel.input(self.advised(request, plan, answer))

    def advised(self, request: SubmitOrder, plan: Plan, answer: RiskAnswer) -> SubmitOrder:
        """The request as the answer leaves it: whole, smaller, or with the word that it is refused."""
        instrument, requested = plan.instrument, request.quantity
        recommended = answer.recommended
        most = min(plan.qty_lots, instrument.floor_lots(requested))
        if not answer.approved and (recommended is None or recommended >= requested):
            lots, outcome = most, "refused"
            reason = f"the risk service refuses the order: {answer.reason or 'it gave no reason'}"
        elif recommended is None:
            lots = most // 2
            reason = f"the risk service is unavailable ({answer.failure}): half of the quantity, as a precaution"
            outcome = "unavailable"
        elif recommended >= requested:
            return msgspec.structs.replace(
                request, advice=Advice(outcome="approved", requested=requested, recommended=tidy(recommended))
            )
        else:
            lots = min(instrument.floor_lots(recommended), most)
            reason = f"the risk service recommends {_shown(recommended)} {instrument.base} at most"
            outcome = "refused" if self.refuse_oversize else "adjusted"
        if outcome != "refused" and lots < instrument.min_lots:
            least = plain(instrument.quantity(instrument.min_lots))
            reason += f"; that is under the least quantity of {least}"
            outcome = "refused"
        quantity = requested if outcome == "refused" else instrument.quantity(lots)
        advice = Advice(
            outcome=outcome,  # type: ignore[arg-type]
            requested=requested,
            recommended=None if recommended is None else tidy(recommended),
            reason=reason,
        )
        return msgspec.structs.replace(request, quantity=quantity, advice=advice)


def _shown(recommended: Decimal) -> str:
    """As it was said; shortly where that would take hundreds of digits."""
    text = plain(recommended)
    return text if len(text) <= SHOWN_MAX else f"{recommended:.6g}"


def question(request: SubmitOrder, plan: Plan) -> RiskQuestion:
    """What the service is asked about an order, as it is planned now."""
    instrument, signal = plan.instrument, request.signal_data
    stop, target = plan.exit_stop_ticks, plan.exit_target_ticks
    return RiskQuestion(
        pair=request.pair,
        side=request.side,
        quantity=request.quantity,
        entry_price=plan.reference_price,
        stop_loss=None if stop is None else instrument.price(stop),
        take_profit=None if target is None else instrument.price(target),
        confidence=signal.confidence if signal is not None else None,
    )
