"""Counts of what goes wrong with frames, said seldom: a stream that is broken brings hundreds a second."""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Troubles(Counter[Key], Generic[Key]):
    """How often each kind of trouble was there."""

    def note(self, kind: Key, what: str, tell: Callable[[str], None] | None) -> None:
        """Count it, and tell it the 1st, 10th, 100th, ... time."""
        self[kind] = count = self[kind] + 1
        if tell is not None and str(count).strip("0") == "1":
            tell(what if count == 1 else f"{what} ({count} times)")
