"""Text that an author's code made, before it goes anywhere: events, health, logs, somebody's terminal.

Always true here: what comes out can be encoded as UTF-8, is printable and bounded, whatever came in. An exception's
text can hold anything, a lone surrogate or a line break too, and must not be what stops the trading of others.
"""

from typing import Final

from .watchdog import ours

TEXT_MAX: Final = 500
TRACE_MAX: Final = 16 << 10
LINES_MAX: Final = 2_000  # of what is said of a strategy that cannot be started


def shown(text: str, most: int = TEXT_MAX) -> str:
    """On one line; what cannot be printed is shown escaped, and what is beyond `most` characters is left out."""
    return "".join([_printable(c) for c in text[:most]])[:most]


def shown_lines(text: str, most: int = TRACE_MAX) -> str:
    """As `shown`, with its lines kept; of a longer text its beginning and its end."""
    if len(text) > most:
        text = f"{text[: most // 2]}\n...\n{text[-most // 2 :]}"
    return "\n".join(shown(line, most) for line in text.split("\n"))


def error_text(error: BaseException) -> str:
    """What was raised, what it says, and the line of the author's code where that was."""
    kind = type(error).__name__
    try:
        said = str(error)
    except BaseException as another:  # an author's __str__
        said = f"its text cannot be shown: {type(another).__name__}"
    where = _place(error)
    return shown(f"{kind}: {said}" if said else kind) + (shown(f" ({where})", 200) if where else "")


def _place(error: BaseException) -> str:
    """`file.py:line` of the innermost code that is not ours; empty where there is none."""
    found, at = "", error.__traceback__
    while at is not None:
        if not ours(at.tb_frame):
            found = f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}"
        at = at.tb_next
    return found


def _printable(c: str) -> str:
    return c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
