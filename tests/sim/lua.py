"""The part of Lua that scripts in Redis are written in, translated to Python: a script's text becomes a function.

Always true here: each statement becomes a line of Python, of which is known where it was, so an error names the line
that Lua would. What is not of this part (closures, tables by name, loops over tables) is refused with SyntaxError when
it is translated.

    local held = redis.call('GET', KEYS[1])        held = _call((b'GET', KEYS[0]))
    if held ~= ARGV[1] then                        if held != ARGV[0]:

Values: strings are bytes, tables are lists from 1 on, nil is None, Redis' own nil False. 0 and '' are true.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

TOKEN = re.compile(
    rb"""(?P<space>[ \t\r]+|--[^\n]*)|(?P<line>\n)|(?P<name>[A-Za-z_]\w*)|(?P<number>\d+(?:\.\d+)?)"""
    rb"""|(?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(?P<sign>\.\.|==|~=|<=|>=|[-+*/%#<>=(){}\[\],.;])"""
)
WORDS = frozenset(
    b"and do else elseif end false for function if in local nil not or repeat return then true until while".split()
)
# Operators by how closely they bind; `..` is bound from the right, which makes no difference to its result.
LEVELS = ((b"or",), (b"and",), (b"<", b">", b"<=", b">=", b"~=", b"=="), (b"..",), (b"+", b"-"), (b"*", b"/", b"%"))
ARITHMETIC = {b"+": "_add", b"-": "_sub", b"*": "_mul", b"/": "_div", b"%": "_mod"}


class LuaError(Exception):
    """A script was ended; `text` is as the error reply has it, without the line."""

    def __init__(self, text: bytes, *, of_redis: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.of_redis = of_redis  # a command was refused before it ran


class Number(str):
    """An expression in Python that is a number for certain."""


class Bool(str):
    """... that is True or False."""


class Answer(bytes):
    """What redis.error_reply or redis.status_reply makes: a reply as it is, without its line end."""


Function = Callable[[Callable[[tuple[Any, ...]], Any], list[bytes], list[bytes]], Any]


def translate(script: bytes) -> Function:
    """`function(call, keys, argv)`; `call` is redis.call with its arguments. Raises LuaError, SyntaxError."""
    # A variable counts as a number where it is given nothing else; taking that for granted first, then looking again.
    others: set[bytes] = set()
    while True:
        translator = _Translator(script, others)
        if translator.others == others:
            break
        others = translator.others
    body = "".join(f"{text}\n" for _, text in translator.lines)
    room: dict[str, Any] = HELPERS | {"_lines": [0, 0, *(line for line, _ in translator.lines), 0]}
    exec(compile(f"def script(_call, KEYS, ARGV):\n{body} return None\n", "script", "exec"), room)
    function: Function = room["script"]
    return function


def line_of(error: BaseException) -> int:
    """The line of the script in which an error came about."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "script":
            line = trace.tb_frame.f_globals["_lines"][trace.tb_lineno]
        trace = trace.tb_next
    return line


class _Translator:
    """Reads tokens, writes lines. A block is `if`/`while` with its statements one space deeper."""

    def __init__(self, script: bytes, others: set[bytes]) -> None:
        """`others` are variables that are not always numbers."""
        self.others = set(others)
        self.tokens: list[tuple[str, bytes, int]] = []
        line = 1
        position = 0
        while position < len(script):
            match = TOKEN.match(script, position)
            if match is None:
                raise SyntaxError(f"line {line}: {script[position : position + 20]!r} is not of this part of Lua")
            kind, position = str(match.lastgroup), match.end()
            if kind == "line":
                line += 1
            elif kind != "space":
                self.tokens.append((kind, match.group(), line))
        self.tokens.append(("end", b"", line))
        self.at = 0
        self.names = {b"KEYS", b"ARGV"}
        self.temporary = 0
        self.lines: list[tuple[int, str]] = []  # of Python, with the line of the script
        self._block(1, ())
        if self.kind != "end":
            raise SyntaxError(f"line {self.line}: {self.word!r} is not expected")

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def word(self) -> bytes:
        return self.tokens[self.at][1]

    @property
    def line(self) -> int:
        return self.tokens[self.at][2]

    def _take(self, *expected: bytes) -> bytes:
        word = self.word
        if expected and word not in expected:
            raise SyntaxError(f"line {self.line}: {word!r} where {expected} was expected")
        self.at += 1
        return word

    def _if(self, word: bytes) -> bool:
        if self.word == word and self.kind != "string":
            self.at += 1
            return True
        return False

    # --- statements

    def _write(self, line: int, depth: int, text: str) -> None:
        self.lines.append((line, " " * depth + text))

    def _block(self, depth: int, ends: tuple[bytes, ...]) -> None:
        while self.kind != "end" and not (self.kind == "name" and self.word in ends):
            self._statement(depth)
            self._if(b";")

    def _statement(self, depth: int) -> None:
        line, word = self.line, self.word
        if self._if(b"local"):
            self._assign(line, depth, local=True)
        elif self._if(b"if"):
            self._branches(line, depth)
        elif self._if(b"while"):
            self._write(line, depth, f"while {self._condition()}:")
            self._take(b"do")
            self._inner(depth, (b"end",))
            self._take(b"end")
        elif self._if(b"return"):
            ended = self.kind == "end" or self.word in (b"end", b"else", b"elseif", b";")
            self._write(line, depth, "return" if ended else f"return {self._expression()}")
        elif self.kind == "name" and word not in WORDS and self.tokens[self.at + 1][1] in (b"=", b","):
            self._assign(line, depth, local=False)
        else:
            self._write(line, depth, self._expression())

    def _branches(self, line: int, depth: int) -> None:
        self._write(line, depth, f"if {self._condition()}:")
        self._take(b"then")
        self._inner(depth, (b"end", b"else", b"elseif"))
        while self.word == b"elseif":
            line = self.line
            self._take()
            self._write(line, depth, f"elif {self._condition()}:")
            self._take(b"then")
            self._inner(depth, (b"end", b"else", b"elseif"))
        line = self.line
        if self._if(b"else"):
            self._write(line, depth, "else:")
            self._inner(depth, (b"end",))
        self._take(b"end")

    def _inner(self, depth: int, ends: tuple[bytes, ...]) -> None:
        if self.word in ends:
            self._write(self.line, depth + 1, "pass")
        self._block(depth + 1, ends)

    def _assign(self, line: int, depth: int, *, local: bool) -> None:
        names = [self._take()]
        while self._if(b","):
            names.append(self._take())
        values = ["None"] * len(names)
        if not local or self.word == b"=":
            self._take(b"=")
            values = [self._expression()]
            while self._if(b","):
                values.append(self._expression())
        if len(values) != len(names):
            raise SyntaxError(f"line {line}: {len(names)} names and {len(values)} values")
        if not local and not self.names.issuperset(names):
            raise SyntaxError(f"line {line}: Redis allows no global variables")
        self.names.update(names)
        self.others.update(name for name, value in zip(names, values, strict=True) if not isinstance(value, Number))
        self._write(line, depth, f"{', '.join(map(_name, names))} = {', '.join(values)}")

    # --- expressions

    def _condition(self) -> str:
        return _truth(self._expression())

    def _expression(self, level: int = 0) -> str:
        if level == len(LEVELS):
            return self._unary()
        left = self._expression(level + 1)
        while self.kind in ("name", "sign") and self.word in LEVELS[level]:
            sign = self._take()
            left = self._joined(sign, left, self._expression(level + 1))
        return left

    def _joined(self, sign: bytes, left: str, right: str) -> str:
        if sign in (b"and", b"or") and isinstance(left, Bool) and isinstance(right, Bool):
            return Bool(f"({left} {sign.decode()} {right})")
        if sign in (b"and", b"or"):
            self.temporary += 1
            kept = f"_{self.temporary}"
            chosen = f"{right} if _true({kept} := {left}) else {kept}"
            return f"({chosen})" if sign == b"and" else f"({kept} if _true({kept} := {left}) else {right})"
        if sign in (b"==", b"~="):
            return _equal(sign, left, right)
        if sign in (b"<", b"<=", b">", b">="):
            return _compared(sign.decode(), left, right)
        if sign == b"..":
            return f"_concat({left}, {right}, {_called(left)!r}, {_called(right)!r})"
        if isinstance(left, Number) and isinstance(right, Number):
            return Number(f"({left} {sign.decode()} {right})")
        return Number(f"{ARITHMETIC[sign]}({left}, {right}, {_called(left)!r}, {_called(right)!r})")

    def _unary(self) -> str:
        if self._if(b"not"):
            return Bool(f"(not {_truth(self._unary())})")
        if self._if(b"#"):
            return Number(f"len({self._unary()})")
        if self._if(b"-"):
            return f"(-{self._unary()})"
        return self._primary()

    def _primary(self) -> str:
        kind, word = self.kind, self._take()
        if kind == "number":
            return Number(word.decode())
        if kind == "string":
            return repr(_text(word))
        if word == b"(":
            inner = self._expression()
            self._take(b")")
            return type(inner)(f"({inner})")
        if word == b"{":
            return f"[{', '.join(self._list(b'}'))}]"
        if word in (b"nil", b"true", b"false"):
            return {b"nil": "None", b"true": "True", b"false": "False"}[word]
        if kind != "name" or word in WORDS:
            raise SyntaxError(f"line {self.line}: {word!r} is not of this part of Lua")
        if word in self.names:
            number = word not in self.others and word not in (b"KEYS", b"ARGV")
            return Number(_name(word)) if number else self._indexed(_name(word))
        return self._indexed(self._function(word))

    def _indexed(self, value: str) -> str:
        while self._if(b"["):
            index = self._expression()
            self._take(b"]")
            # Arguments are taken without a call: each commit does so some twenty times.
            if value in ("KEYS", "ARGV") and index.isdigit() and index != "0":
                value = f"({value}[{int(index) - 1}] if len({value}) >= {index} else None)"
            elif value in ("KEYS", "ARGV") and isinstance(index, Number):
                self.temporary += 1
                at = f"_{self.temporary}"
                value = f"({value}[{at} - 1] if 0 < ({at} := {index}) <= len({value}) else None)"
            else:
                value = f"_at({value}, {index})"
        return value

    def _function(self, word: bytes) -> str:
        while self._if(b"."):
            word += b"." + self._take()
        if word not in FUNCTIONS:
            raise SyntaxError(f"line {self.line}: {word!r} is not of this part of Lua")
        self._take(b"(")
        arguments = ", ".join(self._list(b")"))
        # A tuple of one has its comma.
        return f"_call(({arguments},))" if word == b"redis.call" else f"{FUNCTIONS[word]}({arguments})"

    def _list(self, closing: bytes) -> list[str]:
        found: list[str] = []
        while not self._if(closing):
            found.append(self._expression())
            if self.word != closing:
                self._take(b",")
        return [f"*{one}" if one.startswith("_unpack(") else one for one in found]


def _name(word: bytes) -> str:
    """Of a variable in Python: none of its own words."""
    return word.decode() if word in (b"KEYS", b"ARGV") else f"{word.decode()}_"


def _equal(sign: bytes, left: str, right: str) -> Bool:
    # In Python 1 is True; where one side is a string it makes no difference.
    if any(one.startswith(("b'", 'b"', "(ARGV[", "(KEYS[", "None")) for one in (left, right)):
        return Bool(f"({left} {'==' if sign == b'==' else '!='} {right})")
    return Bool(f"({'' if sign == b'==' else 'not '}_same({left}, {right}))")


def _compared(sign: str, left: str, right: str) -> str:
    if isinstance(left, Number) and isinstance(right, Number):
        return Bool(f"({left} {sign} {right})")
    if sign in (">", ">="):  # as Lua does it
        sign, left, right = sign.replace(">", "<"), right, left
    return Bool(f"_{'lt' if sign == '<' else 'le'}({left}, {right})")


def _called(expression: str) -> bytes:
    """What Lua calls an operand when it complains about it."""
    if expression.startswith(("_at(", "(KEYS[", "(ARGV[")):
        return b"field '?' "
    return b"local '%b' " % expression[:-1].encode() if re.fullmatch(r"\w+_", expression) else b""


def _truth(expression: str) -> str:
    """A condition."""
    return expression if isinstance(expression, Bool) else f"_true({expression})"


def _text(word: bytes) -> bytes:
    inner = word[1:-1]
    if b"\\" in inner:
        raise SyntaxError(f"{word!r}: no escapes in this part of Lua")
    return inner


# --- what a translated script calls


def _true(value: Any) -> bool:
    return value is not None and value is not False


def _type(value: Any) -> bytes:
    if value is None:
        return b"nil"
    if isinstance(value, bool):
        return b"boolean"
    return b"string" if isinstance(value, bytes) else b"table" if isinstance(value, list) else b"number"


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _at(table: Any, index: Any) -> Any:
    if type(table) is not list:
        raise LuaError(b"attempt to index a %b value" % _type(table))
    return table[index - 1] if type(index) is int and 0 < index <= len(table) else None


def _tonumber(value: Any) -> Any:
    if type(value) is int or type(value) is float:
        return value
    if type(value) is not bytes:
        return None
    try:
        return int(value)
    except ValueError:
        pass  # not a whole one
    try:
        return float(value)
    except ValueError:
        return None


def _shown(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, bool):
        return b"nil" if value is None else b"true" if value else b"false"
    return b"%d" % value if value == int(value) and abs(value) < 1e14 else b"%.14g" % value


def _concat(left: Any, right: Any, left_name: bytes, right_name: bytes) -> bytes:
    for value, name in ((right, right_name), (left, left_name)):
        if type(value) not in (bytes, int, float):
            raise LuaError(b"attempt to concatenate %b" % _operand(value, name))
    return _shown(left) + _shown(right)


def _operand(value: Any, name: bytes) -> bytes:
    return b"%b(a %b value)" % (name, _type(value)) if name else b"a %b value" % _type(value)


def _arithmetic(operate: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def arithmetic(left: Any, right: Any, left_name: bytes, right_name: bytes) -> Any:
        if type(left) is int and type(right) is int:
            return operate(left, right)
        first, second = _tonumber(left), _tonumber(right)
        if first is None or second is None:
            operand = _operand(left, left_name) if first is None else _operand(right, right_name)
            raise LuaError(b"attempt to perform arithmetic on %b" % operand)
        return operate(first, second)

    return arithmetic


def _ordered(left: Any, right: Any) -> bool:
    """Whether the two can be ordered."""
    one, two = _type(left), _type(right)
    if one != two:
        raise LuaError(b"attempt to compare %b with %b" % (one, two))
    if one not in (b"number", b"string"):
        raise LuaError(b"attempt to compare two %b values" % one)
    return True


def _lt(left: Any, right: Any) -> bool:
    result: bool = _ordered(left, right) and left < right
    return result


def _le(left: Any, right: Any) -> bool:
    result: bool = _ordered(left, right) and left <= right
    return result


def _unpack(table: list[Any], first: int = 1, last: int | None = None) -> list[Any]:
    end = len(table) if last is None else last
    some = table[first - 1 : end]
    return some if end <= len(table) else some + [None] * (end - len(table))


FUNCTIONS = {
    b"redis.call": "_call",
    b"redis.error_reply": "_error_reply",
    b"redis.status_reply": "_status_reply",
    b"tonumber": "_tonumber",
    b"tostring": "_shown",
    b"unpack": "_unpack",
}
HELPERS: dict[str, Any] = {
    "_add": _arithmetic(lambda left, right: left + right),
    "_at": _at,
    "_concat": _concat,
    "_div": _arithmetic(lambda left, right: left / right),
    "_error_reply": lambda text: Answer(b"-" + text),
    "_le": _le,
    "_lt": _lt,
    "_mod": _arithmetic(lambda left, right: left % right),
    "_mul": _arithmetic(lambda left, right: left * right),
    "_same": _same,
    "_shown": _shown,
    "_status_reply": lambda text: Answer(b"+" + text),
    "_sub": _arithmetic(lambda left, right: left - right),
    "_tonumber": _tonumber,
    "_true": _true,
    "_unpack": _unpack,
}
