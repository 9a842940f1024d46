"""What an order would do, without doing it: the same plan and the same checks that a real one goes through, the risk
service's word with them."""

import asyncio
from decimal import ROUND_HALF_EVEN, Decimal

from ..core.execution.engine import ExecutionEngine, Plan
from ..core.kernel.clock import Clock
from ..core.model.exact import ZERO, tidy
from ..core.model.messages import Refusal, SubmitOrder
from ..core.model.order_views import ExpectedFill, OrderPreview, Slice, VenueScoreView, number
from ..core.model.records import RiskValidation
from ..core.risk.advice import Advising, RiskAnswer, question
from ..core.risk.checks import Checks

AVERAGE_STEP = Decimal("1e-12")


class Previewer:
    """Plans and checks a request; touches no order, no balance and no venue."""

    def __init__(self, engine: ExecutionEngine, checks: Checks, advising: Advising, clock: Clock) -> None:
        self.engine = engine
        self.checks = checks
        self.advising = advising
        self.clock = clock

    async def __call__(self, request: SubmitOrder) -> OrderPreview | Refusal:
        """A refusal is for a request that could not even be planned: an unknown pair, a price off the grid."""
        plan = self.engine.plan(request, self.clock.now_ns())
        if isinstance(plan, Refusal):
            return plan
        risk, code = self.checks.run(request, plan, plan.need(request.side))
        if code is None and self.advising.wanted(request):
            request = self.advising.advised(request, plan, await self._ask(request, plan))
            plan = self.engine.plan(request, self.clock.now_ns())
            if isinstance(plan, Refusal):
                return plan
            risk, code = self.checks.run(request, plan, plan.need(request.side))
        detail = risk.refusal if code is not None else None
        if code is None and plan.unfillable is not None:
            code, detail = "FOK_UNFILLABLE", plan.unfillable
        return self._document(request, plan, risk, code, detail)

    async def _ask(self, request: SubmitOrder, plan: Plan) -> RiskAnswer:
        answered: asyncio.Future[RiskAnswer] = asyncio.get_running_loop().create_future()

        def done(answer: RiskAnswer) -> None:
            if not answered.done():  # the caller may have gone
                answered.set_result(answer)

        assert self.advising.ask is not None
        self.advising.ask(question(request, plan), done)
        return await answered

    def _document(
        self, request: SubmitOrder, plan: Plan, risk: RiskValidation, code: str | None, detail: str | None
    ) -> OrderPreview:
        instrument, cost, fees = plan.instrument, plan.estimated_cost, plan.estimated_fees
        return OrderPreview(
            accepted=code is None,
            pair=instrument.pair,
            side=request.side,
            type=request.type,
            exchange=instrument.exchange,
            quantity=number(plan.qty_lots, instrument.lot),
            risk_validation=risk,
            code=code,
            detail=detail,
            expected_fill=expected_fill(plan),
            estimated_cost=None if cost is None else tidy(cost),
            estimated_fees=None if fees is None else tidy(fees),
            venues=tuple(
                VenueScoreView(s.exchange, s.score, s.liquidity, s.fee, s.reliability, s.speed) for s in plan.scores
            ),
            warnings=plan.warnings,
        )


def expected_fill(plan: Plan) -> ExpectedFill | None:
    """The walk through the book as it is now; None for an order that waits for its trigger."""
    walk, instrument = plan.walk, plan.instrument
    if walk is None:
        return None
    if not walk.filled_lots:
        return ExpectedFill(ZERO, None, None, None)
    quantity = number(walk.filled_lots, instrument.lot)
    average = tidy((walk.cost * instrument.tick / walk.filled_lots).quantize(AVERAGE_STEP, ROUND_HALF_EVEN))
    worst = number(walk.worst_ticks, instrument.tick) if walk.worst_ticks is not None else None
    slippage = None if walk.slippage_mid_bps is None else round(walk.slippage_mid_bps, 4)
    return ExpectedFill(quantity, average, worst, slippage, (Slice(instrument.exchange, average, quantity),))
