"""The list of events that the journal can hold names each one that the code makes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tbx.core.model.event_types import TYPES

from .test_tidy import OF_PACKAGES, TREES

KNOWN = frozenset().union(*TYPES.values())
# What tells the world of something, with the name as its second argument.
TELLING = ("event", "changed")


def texts(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def made() -> Iterator[tuple[str, str]]:
    for path in OF_PACKAGES:
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TELLING:
                yield from ((path.name, text) for text in texts(node.args[1] if len(node.args) > 1 else node.func))
            elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "kind" for t in node.targets):
                yield from ((path.name, text) for text in texts(node.value) if re.fullmatch(r"([A-Z][a-z]+)+", text))


def test_every_event_that_the_code_makes_is_on_the_list() -> None:
    found = list(made())
    assert len(found) > 20
    assert [(name, text) for name, text in found if text not in KNOWN] == []


def test_every_event_on_the_list_is_in_the_code() -> None:
    source = "".join(ast.unparse(TREES[path]) for path in OF_PACKAGES if path.name != "event_types.py")
    assert [text for text in sorted(KNOWN) if f"'{text}'" not in source and not text.endswith("Refused")] == []
