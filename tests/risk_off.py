"""Settings that leave orders as they are asked for, for tests of something else than the risk limits."""

from __future__ import annotations

NO_RISK_LIMITS = {
    "RISK_SERVICE_URL": "none",
    "MAX_POSITION_SIZE": "1",
    "MAX_DAILY_LOSS": "1",
    "MAX_DRAWDOWN": "1",
    "MAX_RISK_PER_TRADE": "1",
    "MAX_DAILY_RISK": "1",
    "MAX_CORRELATED_EXPOSURE": "1",
    "ORDER_RATE_LIMIT": "0",
    "PRICE_COLLAR_PERCENT": "100",
    "STOP_LOSS_ENABLED": "false",
}
# The same, with the limits that were there before there were others.
OLD_RISK_LIMITS = {
    name: value for name, value in NO_RISK_LIMITS.items() if name not in ("MAX_POSITION_SIZE", "MAX_DAILY_LOSS")
}
