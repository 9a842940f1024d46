"""Errors as RFC 9457 documents, `application/problem+json`, each with a stable `code` for programs.

Always true here: a problem is raised before anything was changed, unless its detail says otherwise; a document never
holds a secret, a stack trace or a part of a header.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from ..core.kernel.outbox import encode_document
from ..core.model.messages import Refusal
from ..core.model.order_views import OrderView, order_view
from ..core.model.records import RiskValidation


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field that is wrong, and what would be right."""

    field: str  # as the caller wrote it, signalData.source for one inside
    detail: str
    code: str | None = None


class ProblemDocument(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The body of every answer of 400 and above."""

    type: str  # a page that explains the code
    title: str
    status: int
    code: str
    detail: str
    instance: str  # the path that was asked for
    errors: tuple[FieldError, ...] = ()
    order_id: str | None = None  # of the order on record as rejected, or of the one that is in the way
    risk_validation: RiskValidation | None = None
    order: OrderView | None = None
    signal_id: str | None = None  # of the rejected signal on record


class Problem(Exception):
    """Ends a request with an error document."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
        refusal: Refusal | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = tuple(headers)
        self.refusal = refusal
        super().__init__(f"{status} {code}: {detail}")

    def document(self, instance: str) -> ProblemDocument:
        order = self.refusal.order if self.refusal is not None else None
        return ProblemDocument(
            type=f"/docs#{self.code}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            code=self.code,
            detail=self.detail,
            instance=instance,
            errors=self.errors,
            order_id=order.order_id if order is not None else None,
            risk_validation=self._risk(),
            order=order_view(order) if order is not None else None,
            signal_id=self.refusal.signal_id if self.refusal is not None else None,
        )

    def _risk(self) -> RiskValidation | None:
        refusal = self.refusal
        if refusal is None:
            return None
        return refusal.order.risk if refusal.order is not None else refusal.risk

    def encode(self, instance: str) -> bytes:
        return encode_document(self.document(instance))


def invalid(errors: Sequence[FieldError]) -> Problem:
    """422 for everything that is wrong with a body or a query; a single cause gives its own code."""
    codes = {error.code for error in errors}
    code = (codes.pop() if len(codes) == 1 else None) or "VALIDATION_FAILED"
    detail = "; ".join(f"{error.field}: {error.detail}" for error in errors)
    return Problem(422, code, detail, errors=errors)


def refused(refusal: Refusal) -> Problem:
    """The core's refusal of a command, as it stands."""
    headers = [(b"retry-after", b"%d" % refusal.retry_after_s)] if refusal.retry_after_s is not None else []
    errors = [_field_error(error) for error in refusal.errors]
    return Problem(refusal.status, refusal.code, refusal.detail, errors=errors, headers=headers, refusal=refusal)


def _field_error(error: dict[str, Any]) -> FieldError:
    return FieldError(error.get("field", ""), error.get("detail", ""), error.get("code"))


def not_found(code: str, detail: str) -> Problem:
    return Problem(404, code, detail)


def store_unavailable(detail: str) -> Problem:
    """The commit that would make an answer true cannot be made now."""
    return Problem(503, "STORE_UNAVAILABLE", detail, headers=[(b"retry-after", b"1")])


# What the page at /docs says about each code; the core's own codes come with their detail in the answer.
CODES = {
    "NOT_JSON": "The body is not JSON (UTF-8, no byte order mark, no NaN).",
    "BAD_REQUEST": "The request itself is malformed: a header that must stand once, or a length that is no number.",
    "UNAUTHORIZED": "API keys are set, and none or an unknown one was given (Authorization: Bearer, or X-API-Key).",
    "FORBIDDEN": "The key lacks the scope that the request needs.",
    "HOST_NOT_ALLOWED": "The Host header is none of ALLOWED_HOSTS.",
    "ORIGIN_NOT_ALLOWED": "The web page that sent the request is none of ALLOWED_ORIGINS.",
    "NOT_FOUND": "There is no such path.",
    "ORDER_NOT_FOUND": "No order has this id, in memory or in the archive.",
    "SIGNAL_NOT_FOUND": "No signal has this id; the last 10,000 are kept.",
    "SIGNAL_EXPIRED": "Its expiresAt is over, or its timestamp is older than SIGNAL_MAX_AGE.",
    "SIGNAL_FROM_FUTURE": "Its timestamp is more than 5 s ahead of this service's clock.",
    "CONTRADICTORY_SIGNAL": "Stop, entry and target do not follow one another, or the market is beyond one of them.",
    "ENTRY_PRICE_AWAY": "Its entryPrice is further from the market than PRICE_COLLAR_PERCENT.",
    "ZERO_STOP_DISTANCE": "The stop is at the entry price, so there is nothing to size with.",
    "TARGET_REQUIRED": "The sizing method needs a takeProfit.",
    "CONFIDENCE_REQUIRED": "Kelly needs a probability of winning: give a confidence.",
    "NO_EDGE": "By Kelly nothing is expected to be won: the probability is too small for these prices.",
    "NO_VOLATILITY": "The pair has not been watched long enough to size by its volatility.",
    "NO_EQUITY": "There is no equity to size with.",
    "NO_ROOM": "A limit leaves nothing to order; the detail names it.",
    "SIGNAL_WITHDRAWN": "A signal to sell the pair came while this one to buy it waited for the risk service.",
    "NOTHING_TO_SELL": "Nothing of the pair is held (by that strategy); on spot a sale opens no position.",
    "TOO_MANY_SIGNALS": "Too many signals wait for the risk service or an exchange; Retry-After says when to go on.",
    "POSITION_NOT_FOUND": "No open position has this id.",
    "STRATEGY_NOT_FOUND": "No strategy of this name runs, or ran, in this process.",
    "STRATEGY_STATE": "The strategy runs already, or is stopped already.",
    "STRATEGY_NOT_STARTED": "The strategy could not be made anew; the detail says what its code said.",
    "METHOD_NOT_ALLOWED": "The path is there, the method is not; Allow lists those that are.",
    "BODY_TOO_LARGE": "The body is over 64 KiB.",
    "NOT_JSON_CONTENT": "A body needs Content-Type: application/json.",
    "VALIDATION_FAILED": "Several fields are wrong; `errors` holds each with its own code.",
    "UNKNOWN_FIELD": "A field or a query parameter that does not exist.",
    "DUPLICATE_FIELD": "A field stands twice, so that it is not clear which is meant.",
    "REQUIRED": "A field is missing.",
    "WRONG_TYPE": "A field holds another type than it should.",
    "INVALID_VALUE": "A field holds none of the values that it may hold.",
    "INVALID_NUMBER": "Not a finite decimal number.",
    "OUT_OF_RANGE": "A number beyond what is allowed; nothing is clamped.",
    "TOO_PRECISE": "A number with more decimals than any instrument has.",
    "INVALID_PAIR": "Not a trading pair, or none that is traded here.",
    "INVALID_EXCHANGE": "None of the exchanges that are connected.",
    "IDEMPOTENCY_MISMATCH": "The clientOrderId was used for another order, or differs from the Idempotency-Key.",
    "IDEMPOTENCY_IN_PROGRESS": "The first request with this clientOrderId is not answered yet.",
    "COMMAND_EXPIRED": "A command of the stream was read after the time that its sender gave it; nothing was done.",
    "ORDER_ENDED": "The order has ended and takes no change.",
    "NOT_IN_DOUBT": "The order's outcome is known, so there is nothing to resolve; cancel it to end it.",
    "WAS_TAKEN": "The exchange had taken the order, so it cannot be resolved as not_taken.",
    "VENUE_HAS_IT": "Asked once more, the exchange has the order: it is what the exchange says, and was not resolved.",
    "ORDER_IN_FLIGHT": "The order is on its way to or from its venue; try again when it is open.",
    "INSUFFICIENT_BALANCE": "The wallet does not hold what the order would reserve; the order is on record, rejected.",
    "TRADING_LIMITED": "The trading state allows no such order: REDUCING: sales, FLATTEN: what closes, HALTED: none.",
    "STILL_LIMITED": "Something limits trading that nobody can lift: it ends by itself, or with a restart.",
    "INVALID_SCOPE": "A scope is empty for everything, exchange:NAME, pair:BASE_QUOTE or strategy:NAME.",
    "TOO_MANY_LIMITS": "As many parts of trading are limited as there may be; lift those that are over.",
    "DRILL_NAME_TAKEN": "A strategy called drill trades for real; a drill would sell what it holds.",
    "DRILL_RUNNING": "One drill at a time; the last one runs, or is being cleaned up.",
    "RISK_POSITION_SIZE": "The position would be a greater share of equity than MAX_POSITION_SIZE.",
    "RISK_DAILY_LOSS": "Today's loss is over MAX_DAILY_LOSS.",
    "RISK_PER_TRADE": "At its stop the entry would lose more than MAX_RISK_PER_TRADE of the equity.",
    "RISK_PER_DAY": "Today's realised loss and all stops together would come to more than MAX_DAILY_RISK.",
    "RISK_CORRELATED_EXPOSURE": "Too much would be held in currencies that move together: MAX_CORRELATED_EXPOSURE.",
    "RISK_SERVICE_REFUSED": "The risk service recommends less than was asked for, and less could not be sent instead.",
    "PRICE_COLLAR": "The price lies further beyond the mid than PRICE_COLLAR_PERCENT: a slip of the finger.",
    "ORDER_RATE": "More orders a second than ORDER_RATE_LIMIT from one strategy; none of it is on record.",
    "STOP_REQUIRED": "An entry needs a stop, and none could be attached, or the sizing method needs one.",
    "QUANTITY_STEP": "Not a whole number of the instrument's quantity steps; the nearest ones are named.",
    "PRICE_STEP": "Not a whole number of the instrument's price steps; the nearest ones are named.",
    "BELOW_MIN_QUANTITY": "Under the instrument's least quantity.",
    "ABOVE_MAX_QUANTITY": "Over the instrument's greatest quantity.",
    "BELOW_MIN_NOTIONAL": "Price times quantity is under what the exchange takes.",
    "ABOVE_MAX_NOTIONAL": "Price times quantity is over what the exchange takes.",
    "PRICE_RANGE": "Outside the prices that the exchange takes for the pair.",
    "PRICE_BAND": "Too far from the recent average price for the exchange; the nearest price that it takes is named.",
    "MARKET_QUANTITY": "More, less or finer than one order at the market may be.",
    "TOO_MANY_OPEN_ORDERS": "As many orders of the pair are open as the exchange allows.",
    "TOO_MANY_AMENDS": "The order was amended in place as often as the exchange allows; cancel it and place a new one.",
    "ABOVE_MAX_POSITION": "The account would hold more of the currency than the exchange allows.",
    "SLIPPAGE_TOO_HIGH": "The books would fill it worse than MAX_SLIPPAGE_PERCENT; onSlippage: reduce takes what fits.",
    "MARKET_CLOSED": "The pair is not open for trading at this exchange.",
    "VENUE_UNAVAILABLE": "The exchange takes no orders now: not connected, barred, or still being reconciled.",
    "CANCEL_REFUSED": "The exchange did not cancel the order; the detail has its words.",
    "NOT_CONNECTED": "The exchange cannot be reached, so nothing was sent; the order is as it was.",
    "NOT_SUPPORTED": "The exchange cannot do this to an order; it is as it was.",
    "AMEND_LOST": "The amendment did not reach the exchange; the order is as it was.",
    "NO_MARKET_DATA": "There is no current order book of the pair.",
    "POST_ONLY_WOULD_TAKE": "A post-only order would have traded at once.",
    "FOK_UNFILLABLE": "The books do not hold the whole quantity within the price, so nothing was sent.",
    "INVALID_STOP": "The stop lies on the wrong side of the price: it would trigger at once.",
    "INVALID_TAKE_PROFIT": "The target lies on the wrong side of the price: it would trigger at once.",
    "EXITS_ON_SELL": "Exits protect a position; on spot a sale opens none.",
    "STOP_WOULD_TRIGGER": "The market has reached the stop price already; a held order would not wait.",
    "EXIT_QUANTITY": "An exit's quantity follows the fills of its entry; it cannot be amended.",
    "QUANTITY_FILLED": "The new quantity is not above what is filled already; cancel instead.",
    "QUANTITY_RANGE": "Outside the quantities that the instrument or the position allows.",
    "NO_PRICE": "No limit price to amend, or nothing that prices the pair's quote currency to size a signal with.",
    "NO_STOP_PRICE": "Only a pending stop or target has a stop price to amend.",
    "INVALID_AMEND": "The venue cannot change the order so; it is as it was.",
    "UNKNOWN_ORDER": "The venue has no such open order; it may have just traded.",
    "BAD_MESSAGE": "A message on the feed that is no JSON object with an op.",
    "UNKNOWN_OP": "An op that the feed does not have.",
    "UNKNOWN_CHANNEL": "A channel that the feed does not have; list shows them.",
    "TOO_MANY_CHANNELS": "More channels than one connection may have.",
    "RATE_LIMITED": "Too many requests; Retry-After says when to go on.",
    "STORE_UNAVAILABLE": "Redis cannot be reached, so nothing can be promised; try again.",
    "STANDBY": "Another process of this node is the writer; this one waits for its end. Ask that one.",
    "OUTCOME_UNKNOWN": "The request was taken and is not confirmed; ask by clientOrderId before sending it again.",
    "NOT_READY": "The service is starting, or has stopped taking orders.",
    "INTERNAL": "A fault of the service; it is in execution-error.log.",
}
