"""Scripts as Redis runs them: by the hash of their text, with the errors that it makes of what goes wrong in them.

Always true here: a script is translated from its own text (`lua.py`), whatever it is; like Redis, one that fails half
way leaves what it had written.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import hiredis

from .lua import Answer, Function, LuaError, line_of, translate
from .redis_data import COMMANDS, NIL, WRITES, Command, Database, Refused, array, bulk, error, number

PLAIN = {bytes}


class Script:
    """One script's text, and what it was translated to."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.sha = sha_of(text)
        self.function: Function = translate(text)

    def run(self, database: Database, keys: list[bytes], arguments: list[bytes]) -> bytes:
        """The reply."""
        try:
            value = self.function(Calls(database), keys, arguments)
        except LuaError as raised:
            line = line_of(raised)
            where = b"" if type(raised) is Failed else b"user_script:%d: " % line
            if raised.of_redis:
                where = b"@user_script: %d: " % line
            why = b"@user_script:%d: %b%b" % (line, where, raised.text)
            return error(b"ERR Error running script (call to f_%b): %b" % (self.sha, why))
        return reply_of(value)


class Failed(LuaError):
    """A command in a script failed, or was refused."""


@cache
def sha_of(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


@cache
def script_of(text: bytes) -> Script:
    """Translated once for all servers."""
    return Script(text)


class Calls:
    """redis.call for one run of a script."""

    __slots__ = ("database", "written")

    def __init__(self, database: Database) -> None:
        self.database = database
        self.written = False

    def __call__(self, given: tuple[Any, ...]) -> Any:
        database, name = self.database, given[0]
        write = WRITES.get(name)
        if write is not None:
            plain = set(map(type, given)) == PLAIN
            return self._write(list(given) if plain else [_argument(one) for one in given], *write)
        try:
            # The two that each commit begins with, without a reply in between.
            if name == b"GET":
                return _known(database.string(given[1]))
            if name == b"HMGET":
                table = database.hash(given[1]) or {}
                return [_known(table.get(field)) for field in given[2:]]
            if name not in COMMANDS:
                raise Failed(b"Unknown Redis command called from Lua script", of_redis=True)
            return value_of(database.run([_argument(one) for one in given]))
        except Refused as refused:
            raise Failed(refused.text) from None

    def _write(self, arguments: list[bytes], least: int, function: Command) -> Any:
        database = self.database
        if len(arguments) - 1 < least:
            raise Failed(b"Wrong number of args calling Redis command From Lua script", of_redis=True)
        if database.troubled:
            try:
                database.refuse(arguments[0], written=self.written)
            except Refused as refused:
                raise Failed(b"-" + refused.text, of_redis=True) from None
        self.written = True
        try:
            reply = function(database, arguments)
        except Refused as refused:
            raise Failed(refused.text) from None
        return int(reply[1:-2]) if reply[:1] == b":" else value_of(reply)


def _argument(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    if type(value) is int:
        return b"%d" % value
    raise Failed(b"Lua redis() command arguments must be strings or integers", of_redis=True)


def _known(value: bytes | None) -> bytes | bool:
    return False if value is None else value


def value_of(reply: bytes) -> Any:
    """What a script sees of a reply."""
    reader = hiredis.Reader()
    reader.feed(reply)
    return _seen(reader.gets())


def _seen(value: Any) -> Any:
    if value is None:
        return False
    return [_seen(one) for one in value] if isinstance(value, list) else value


def reply_of(value: Any) -> bytes:
    """What the client sees of a script's result."""
    kind = type(value)
    if kind is int or kind is float:
        return number(int(value))
    if kind is bytes:
        return bulk(value)
    if kind is Answer:
        return b"%b\r\n" % value
    if value is True:
        return number(1)
    if kind is list:
        return array([reply_of(one) for one in value[: value.index(None) if None in value else None]])
    return NIL
