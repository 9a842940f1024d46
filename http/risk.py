"""What limits trading, over HTTP: the limits and how much of each is used, the trading state, the dead-man timer, the
drill.

Always true here: what an answer says is committed. The state is changed, and a drill run, with the scope admin only;
whoever trades may arm the timer.
"""

from typing import Any

import msgspec
from starlette.types import Receive

from ..core.kernel.clock import MS_NS, SECOND_NS
from ..core.kernel.outbox import encode_document
from ..core.model.messages import RunDrill, SetDeadMan, SetTradingState
from ..core.risk.deadman import TIMEOUT_MAX_NS, shown
from ..core.risk.overview import Overview, RiskServiceView, RiskView
from .commands import Commands
from .context import Api
from .orders import NO_KEY
from .problems import Problem
from .schema import Fields, document, one_of, pair_error, query
from .wire import Answer, Call, read_body

STATES = ("ACTIVE", "REDUCING", "HALTED", "FLATTEN")
STATE_FIELDS = frozenset(("state", "scope", "reason"))
DEADMAN_FIELDS = frozenset(("timeout",))
DRILL_FIELDS = frozenset(("pair",))


class DeadManState(msgspec.Struct, frozen=True):
    """The answer to POST /api/risk/deadman."""

    timestamp: int
    armed: bool
    timeout: float  # seconds; 0 where it is not armed
    deadline: int | None  # ms: renew before


class RiskEndpoints:
    """Everything under /api/risk."""

    def __init__(self, api: Api, commands: Commands) -> None:
        self.api = api
        self.commands = commands

    @property
    def overview(self) -> Overview:
        if self.api.risk is None:
            raise Problem(503, "NOT_READY", "the risk management is not up yet")
        return self.api.risk

    def document(self) -> RiskView:
        view = self.overview.view()
        service = self.api.services().get("risk")
        if service is None:
            return view
        return msgspec.structs.replace(view, risk_service=RiskServiceView(service.status, service.last_check))

    async def risk(self, call: Call, _: Receive) -> Answer:
        """GET /api/risk: what limits trading, how much of each limit is used, and what stands ready"""
        query(call.scope["query_string"]).done()
        return await self._answer()

    async def set_state(self, call: Call, receive: Receive) -> Answer:
        """POST /api/risk/state: ACTIVE lifts what a person may lift; REDUCING, HALTED and FLATTEN limit a scope"""
        fields = Fields(document(await read_body(receive, call)), STATE_FIELDS)
        state: Any = fields.choice("state", STATES, str.upper)
        if fields.doc.get("state") is None:
            fields.missing("state", f"is required, {one_of(STATES)}")
        scope = fields.text("scope") if fields.doc.get("scope") != "" else None
        reason = fields.text("reason")
        if fields.doc.get("reason") is None and state in STATES[1:]:
            fields.missing("reason", f"is required: why trading is to be {state}")
        fields.done()
        by = call.key_name or NO_KEY
        await self.commands.carry_out(
            lambda reply: SetTradingState(state=state, scope=scope or "", reason=reason or "", by=by, reply=reply)
        )
        return await self._answer()

    async def deadman(self, call: Call, receive: Receive) -> Answer:
        """POST /api/risk/deadman: arm or renew the timer for so many seconds; 0 disarms it"""
        fields = Fields(document(await read_body(receive, call)), DEADMAN_FIELDS)
        seconds = fields.whole("timeout", 0, TIMEOUT_MAX_NS // SECOND_NS, "seconds")
        if fields.doc.get("timeout") is None:
            fields.missing("timeout", "is required: seconds, or 0 to disarm")
        fields.done()
        by = call.key_name or NO_KEY
        timer = await self.commands.carry_out(
            lambda reply: SetDeadMan(timeout_ns=(seconds or 0) * SECOND_NS, by=by, reply=reply)
        )
        view = shown(timer) if timer is not None else None
        now_ms = self.api.kernel.clock.now_ns() // MS_NS
        if view is None:
            return Answer(encode_document(DeadManState(now_ms, False, 0.0, None)))
        return Answer(encode_document(DeadManState(now_ms, True, view.timeout, view.deadline)))

    async def drill(self, call: Call, receive: Receive) -> Answer:
        """POST /api/risk/drill: prove on paper that FLATTEN works, and how long it takes; at most ten seconds"""
        body = await read_body(receive, call)
        fields = Fields(document(body) if body else {}, DRILL_FIELDS)
        pair = fields.doc.get("pair")
        if pair is not None:
            wrong = pair_error(pair, self.api.pairs())
            if wrong is not None:
                fields.wrong("pair", "INVALID_PAIR", wrong)
        fields.done()
        by = call.key_name or NO_KEY
        report = await self.commands.carry_out(lambda reply: RunDrill(pair=pair, by=by, reply=reply))
        return Answer(encode_document(report))

    async def _answer(self) -> Answer:
        body = encode_document(self.document())
        await self.commands.committed()
        return Answer(body)
