"""The file `.env`: one `NAME=value` a line.

    # a comment; blank lines are skipped, a leading `export ` is too
    PORT=3004                 spaces around name and value are dropped; ` #` starts a comment
    A='a # b $HOME'           single quotes: exactly what is inside
    B="two\\nlines, a \\" "     double quotes: \\n \\t \\" \\\\ mean what they mean in Python

There is no interpolation (`$HOME` is five characters), no continuation line, and a name stands once. A problem is told
by its line, never with the value: it may be a secret.
"""

import os
import re
from pathlib import Path

NAME = ".env"
BYTES_MAX = 64 * 1024

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(?:'([^']*)'|"((?:[^"\\]|\\[nt"\\])*)")\s*(?:#.*)?""")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


def parse_env(text: str) -> tuple[dict[str, str], list[str]]:
    """Names and values of a `.env` text, and a line for each problem."""
    values: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(f"{NAME} line {number}: expected NAME=value")
            continue
        name, rest = match.groups()
        if name in values:
            problems.append(f"{NAME} line {number}: {name} stands twice; keep one")
        elif rest[:1] in ("'", '"'):
            quoted = _QUOTED.fullmatch(rest)
            if quoted is None:
                problems.append(f"{NAME} line {number}: {name}: the quotes do not close, or more follows them")
            elif quoted[1] is not None:
                values[name] = quoted[1]
            else:
                values[name] = re.sub(r"\\(.)", lambda found: _ESCAPES[found[1]], quoted[2])
        else:
            values[name] = re.split(r"(?:^|\s+)#", rest, maxsplit=1)[0].rstrip()
    return values, problems


def read_env_file(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Names and values of a file, a line for each problem, and the file's mode; nothing where there is no file."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            raw = file.read(BYTES_MAX + 1)
        if len(raw) > BYTES_MAX:
            return {}, [f"{NAME} is larger than {BYTES_MAX} bytes"], mode
        return *parse_env(raw.decode()), mode
    except FileNotFoundError:
        return {}, [], 0
    except UnicodeDecodeError:
        return {}, [f"{NAME} is not UTF-8 text"], 0
    except OSError as error:
        return {}, [f"{NAME} cannot be read: {error.strerror}"], 0
