"""Every event that the journal can hold, by the channel of the feed that carries it.

Always true here: an event that is not named here is not read back from the journal: a start refuses it as written by
no version that is known. A test finds each one that the code makes.
"""

from collections.abc import Mapping
from typing import Final

TYPES: Final[Mapping[str, frozenset[str]]] = {
    "orders": frozenset(
        (
            *("OrderPending", "OrderSubmitted", "OrderUnknown", "OrderAccepted", "OrderPartiallyFilled"),
            *("OrderFilled", "OrderCancelled", "OrderRejected", "OrderExpired", "OrderAmended", "OrderSized"),
            *("OrderAmendRequested", "OrderCancelRequested", "OrderAmendRefused", "OrderCancelRefused"),
            *("OrderTriggered", "OrderRetried", "OrderContradicted", "OrderResolved", "OrderAdopted"),
        )
    ),
    "trades": frozenset(("TradeExecuted",)),
    "positions": frozenset(("PositionOpened", "PositionChanged", "PositionClosed")),
    "portfolio": frozenset(("Deposited", "BalanceCorrected", "FeeValued", "FeeUnpriced")),
    "signals": frozenset(
        ("SignalExecuted", "SignalHeld", "SignalRejected", "DecisionMade", "StrategyStarted", "StrategyStopped")
    ),
    "risk": frozenset(("TradingStateChanged", "DeadManArmed", "DeadManDisarmed", "DeadManFired", "DrillDone")),
    "health": frozenset(
        (
            *("VenueConnected", "VenueDisconnected", "OddReport", "VenueContradiction"),
            *("ResolvedOrderMoved", "Reconciled"),
            *("ConditionBegan", "ConditionChanged", "ConditionEnded"),
        )
    ),
}
