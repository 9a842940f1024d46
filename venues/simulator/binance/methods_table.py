"""Every method there is, by its name at the WebSocket API and by its verb and path at REST."""

from __future__ import annotations

from . import methods_account, methods_general, methods_lists, methods_market, methods_orders, methods_session
from .methods import Method

REST_PREFIX = "/api/v3"

METHODS: tuple[Method, ...] = (
    *methods_general.METHODS,
    *methods_market.METHODS,
    *methods_orders.METHODS,
    *methods_lists.METHODS,
    *methods_account.METHODS,
    *methods_session.METHODS,
)

BY_NAME: dict[str, Method] = {method.name: method for method in METHODS}
# A name may say the version of the API that it means.
BY_NAME.update({f"v3/{name}": method for name, method in list(BY_NAME.items())})

BY_PATH: dict[str, dict[str, Method]] = {}
for _method in METHODS:
    for _verb, _path in _method.http:
        BY_PATH.setdefault(REST_PREFIX + _path, {})[_verb] = _method
