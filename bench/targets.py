"""What the pytest-benchmark files must reach: names of tests, in the words of the table, with unit, target and floor.

Always true here: a test that is not named is shown too, beside `<its name>_floor` where that exists, with the target
that it states itself as `extra_info["bound_us"]`.
"""

from __future__ import annotations

from typing import NamedTuple

from table import Target


class Wanted(NamedTuple):
    """One test: `name` is its name with parameters, `floor` the name of the test that is its floor."""

    name: str
    unit: str
    target: Target
    shown: str
    floor: str = ""  # `<name>_floor` with the same parameters, or without, where it is empty


_STATUS = Target("p99", "<=", 100)
_STATUS_FLOOR = "test_service_request_floor[order_status_update]"
_DIFF_FLOOR = "test_floor_diff_without_levels"

# Measured elsewhere in the same run: here it would only cost time.
LEFT_OUT = ("test_capture",)

WANTED = (
    Wanted("test_bus_publish[1]", "ns", Target("p50", "<=", 200), "bus publish to 1 handler"),
    Wanted("test_bus_publish[10]", "ns", Target("p50", "<=", 600), "bus publish to 10 handlers"),
    Wanted("test_diff_frame_to_book[20]", "us", Target("p50", "<=", 3), "frame to book, 20 levels", _DIFF_FLOOR),
    Wanted("test_diff_frame_to_book[2000]", "us", Target("p50", "<=", 60), "frame to book, 2,000 levels", _DIFF_FLOOR),
    Wanted("test_walk[1000]", "us", Target("p50", "<=", 3), "walk of 1,000 levels"),
    Wanted("test_value_10000_positions", "us", Target("p50", "<=", 1_000), "value 10,000 positions, kernel"),
    Wanted(
        "test_execution_report_to_feed",
        "us",
        Target("p50", "<=", 60),
        "executionReport bytes to portfolio and WebSocket event",
    ),
    Wanted("test_local_checks_of_an_entry", "us", Target("p50", "<=", 30), "local checks of an entry, 1,000 positions"),
    Wanted("test_order_frame_encode[session]", "us", Target("p50", "<=", 3), "order frame encode, session logged on"),
    Wanted("test_order_status_update_by_cancel", "ms", _STATUS, "order status update, DELETE to GET", _STATUS_FLOOR),
    Wanted("test_order_status_update_by_amend", "ms", _STATUS, "order status update, PATCH to GET", _STATUS_FLOOR),
    Wanted("test_order_status_update_by_fill", "ms", _STATUS, "order status update, POST to filled", _STATUS_FLOOR),
    Wanted(
        "test_portfolio_valuation",
        "ms",
        Target("p99", "<=", 200),
        "portfolio valuation, POST refresh",
        "test_service_request_floor[portfolio_valuation]",
    ),
)
BY_NAME = {wanted.name: wanted for wanted in WANTED}
