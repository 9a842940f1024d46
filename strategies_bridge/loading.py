"""From `module:Class?key=value` to a strategy that may run.

Always true here: whatever is wrong with a strategy is told at the start, all of it at once, by the name that was given
for it; nothing is loaded that was not named.
"""

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Final
from urllib.parse import unquote

from ..core.model.errors import SettingsError
from ..core.model.instruments import Instrument
from .parameters import Parameters, ParameterWrong
from .strategy import Strategy
from .texts import LINES_MAX, error_text, shown
from .trading_loop import STRATEGY as LOOP
from .watchdog import StrategyStuck, call_within

GROUP: Final = "tbx.strategies"  # of entry points
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
PAIRS_MAX = 1_000
SECOND_NS = 1_000_000_000
CONSTRUCTION_NS = 10 * SECOND_NS  # for the __init__ of a strategy, at the start of the service
IMPORT_NS = 60 * SECOND_NS  # for its module, and what that imports
HOOKS: Final = tuple(name for name in vars(Strategy) if name.startswith("on_"))
RESERVED: Final = frozenset(("drill", LOOP))  # what the service itself trades under


class Planned:
    """A strategy that shall run: its class, what it is told, and the first instance."""

    def __init__(self, spec: str) -> None:
        """Raises SettingsError."""
        self.spec = spec
        named, _, query = spec.partition("?")
        self.parameters = _parameters(spec, query)
        self.cls = _class(spec, named)
        self.first = self.make()
        self.name = self.first.name

    def make(self, limit_ns: int | None = None) -> Strategy:
        """A new instance; raises SettingsError where its parameters, or its code, do not let it be made, or do not come
        back within the limit (None: CONSTRUCTION_NS)."""
        parameters = Parameters(self.parameters)
        try:
            strategy = call_within(limit_ns or CONSTRUCTION_NS, self.cls, parameters)
            name, pairs = strategy.name, strategy.pairs
            exchange: object = strategy.exchange
        except ParameterWrong as error:
            raise SettingsError(f"strategy {self.spec}: {error}") from error
        except StrategyStuck as error:
            raise SettingsError(f"strategy {self.spec}: __init__ does not come back: {error}") from error
        except BaseException as error:
            raise SettingsError(f"strategy {self.spec}: {error_text(error)}") from error
        problems = parameters.unread()
        problems += [
            f"{hook} is async: hooks are plain functions" for hook in HOOKS if _is_async(getattr(strategy, hook))
        ]
        if not isinstance(name, str) or NAME.fullmatch(name) is None or name in RESERVED:
            problems.append(f"name {name!r}: expected 1 to 32 of a-z, 0-9, _ and -, and not {', '.join(RESERVED)}")
        if not pairs or len(pairs) > PAIRS_MAX:
            problems.append(f"pairs: expected 1 to {PAIRS_MAX:,}, such as ?pairs=BTC_USDT,ETH_USDT")
        if exchange is not None and not isinstance(exchange, str):
            problems.append(f"exchange {exchange!r}: expected the name of one")
        if problems:
            raise SettingsError([f"strategy {self.spec}: {problem}" for problem in problems])
        return strategy


def plan(specs: Iterable[str]) -> list[Planned]:
    """All that were named; raises SettingsError with everything that is wrong with any of them."""
    found: list[Planned] = []
    problems: list[str] = []
    for spec in specs:
        try:
            planned = Planned(spec)
        except SettingsError as error:
            problems += [shown(problem, LINES_MAX) for problem in error.problems]
            continue
        same = next((other for other in found if other.name == planned.name), None)
        if same is not None:
            line = f"strategy {spec}: {same.spec} is named {same.name} too; give one a ?name="
            problems.append(shown(line, LINES_MAX))
        found.append(planned)
    if problems:
        raise SettingsError(problems)
    return found


def listed_problems(planned: Planned, instruments: Mapping[tuple[str, str], Instrument]) -> list[str]:
    """A line for each pair or exchange of a strategy that is not traded here."""
    strategy, problems = planned.first, []
    exchanges = sorted({exchange for exchange, _ in instruments})
    if strategy.exchange is not None and strategy.exchange not in exchanges:
        problems.append(f"exchange {strategy.exchange!r} is none of {', '.join(exchanges)}")
    pairs = {pair for exchange, pair in instruments if strategy.exchange in (None, exchange)}
    for pair in () if problems else strategy.pairs:
        if pair not in pairs:
            near = difflib.get_close_matches(str(pair), pairs, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(
                f"pair {pair} is not traded {f'at {strategy.exchange}' if strategy.exchange else 'here'}{hint}"
            )
    return [shown(f"strategy {planned.spec}: {problem}", LINES_MAX) for problem in problems]


def _parameters(spec: str, query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise SettingsError(f"strategy {spec}: {part!r}: expected key=value, and & between them")
        if key in found:
            raise SettingsError(f"strategy {spec}: {key} is given twice")
        found[key] = unquote(value)
    return found


def _class(spec: str, named: str) -> type[Strategy]:
    """Import what was named; raises SettingsError."""
    module, colon, name = named.partition(":")
    if not colon:
        found = _entry_point(spec, named)
    else:
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.append(os.getcwd())  # behind all others: a file here must not take the place of a package
        try:
            found = getattr(call_within(IMPORT_NS, importlib.import_module, module), name, None)
        except BaseException as error:  # whatever an author's module raises
            raise SettingsError(f"strategy {spec}: cannot import {module}: {error_text(error)}") from error
        if found is None:
            raise SettingsError(f"strategy {spec}: {module} has no {name}{_nearest(name, vars(sys.modules[module]))}")
    if not isinstance(found, type) or not issubclass(found, Strategy):
        raise SettingsError(f"strategy {spec}: {named} is no class derived from {Strategy.__module__}.Strategy")
    return found


def _is_async(hook: object) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.isasyncgenfunction(hook)


def _entry_point(spec: str, name: str) -> object:
    there = metadata.entry_points(group=GROUP)
    found = [point for point in there if point.name == name]
    if not found:
        known = sorted({point.name for point in there})
        known_text = f"there are {', '.join(known)}" if known else "there are none"
        raise SettingsError(
            f"strategy {spec}: no entry point {name!r} in group {GROUP}: {known_text}; or give module:Class"
        )
    try:
        loaded: object = call_within(IMPORT_NS, found[0].load)
    except BaseException as error:
        raise SettingsError(f"strategy {spec}: cannot load it: {error_text(error)}") from error
    return loaded


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near: Sequence[str] = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
