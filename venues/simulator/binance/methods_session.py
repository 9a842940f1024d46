"""Methods of a WebSocket API connection itself: who is logged on, and whose events it carries.

Always true here: only an Ed25519 key logs on; a logon stays until the logout, the next logon, or until the key is no
longer valid. Subscriptions belong to the connection.
"""

from __future__ import annotations

from typing import Any

from . import errors, params
from .accounts_keys import ED25519, Key
from .methods import USER_DATA, USER_STREAM, Call, Method, UserStreams, named


def logon(call: Call) -> Any:
    """session.logon: signed over apiKey and timestamp, by an Ed25519 key."""
    key = _signed_by(call)
    if key.kind != ED25519:
        raise errors.key_kind_not_supported(key.kind)
    call.session.log_on(key, call.now_us)
    return _status(call)


def status(call: Call) -> Any:
    """session.status"""
    return _status(call)


def logout(call: Call) -> Any:
    """session.logout; what the connection was subscribed to ends too."""
    if call.session.key is not None:
        _streams(call).unsubscribe(call.session, None)
        call.session.log_out()
    return _status(call)


def subscribe(call: Call) -> Any:
    """userDataStream.subscribe: the events of the account that is logged on."""
    key = call.session.key
    if key is None:
        raise errors.not_authorized()
    return {"subscriptionId": _streams(call).subscribe(key.account, call.session)}


def subscribe_signature(call: Call) -> Any:
    """userDataStream.subscribe.signature: the events of the account whose key signed."""
    return {"subscriptionId": _streams(call).subscribe(_signed_by(call).account, call.session)}


def unsubscribe(call: Call) -> Any:
    """userDataStream.unsubscribe: one subscription, or all."""
    subscription_id = params.integer(call.params, "subscriptionId")
    if not _streams(call).unsubscribe(call.session, subscription_id) and subscription_id is not None:
        raise errors.invalid("subscriptionId")
    return {}


def subscriptions(call: Call) -> Any:
    """session.subscriptions"""
    return [{"subscriptionId": number} for number in _streams(call).subscriptions(call.session)]


def _signed_by(call: Call) -> Key:
    """The key of a request that has to be signed itself, whoever is logged on."""
    if not call.params.get("signature"):
        raise errors.missing("signature")
    if call.key is None:
        raise errors.not_authorized()
    return call.key


def _streams(call: Call) -> UserStreams:
    streams = call.api.streams
    if streams is None:
        raise errors.not_supported()
    return streams


def _status(call: Call) -> dict[str, Any]:
    session, per_unit = call.session, 1000 // call.scale
    key = session.key
    return {
        "apiKey": None if key is None else key.api_key,
        "authorizedSince": None if key is None else session.authorized_us // per_unit,
        "connectedSince": session.connected_us // per_unit,
        "returnRateLimits": session.return_rate_limits,
        "serverTime": call.server_time,
        "userDataStream": bool(call.api.streams and call.api.streams.subscriptions(session)),
    }


METHODS = (
    Method(name="session.logon", run=logon, weight=2, security=USER_DATA),
    Method(name="session.status", run=status, weight=2),
    Method(name="session.logout", run=logout, weight=2),
    Method(name="session.subscriptions", run=subscriptions, weight=2),
    Method(name="userDataStream.subscribe", run=subscribe, weight=2, security=USER_STREAM),
    Method(name="userDataStream.subscribe.signature", run=subscribe_signature, weight=2, security=USER_DATA),
    Method(name="userDataStream.unsubscribe", run=unsubscribe, weight=2, params=named("subscriptionId")),
)
