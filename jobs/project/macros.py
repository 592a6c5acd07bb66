"""Macros that several SQL jobs share: `include` in a header names files of `CREATE MACRO`, expanded in the text.

    CREATE MACRO net(amount, rate := 0.19) AS amount / (1 + rate);
    CREATE MACRO active(since) AS TABLE SELECT * FROM dim.customers WHERE seen >= since;

Expanded before anything reads the statement, so that inputs, engines and limits know nothing of them. A body is put in
on one line: lines of the statement stay the file's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eagleray.cluster.errors import QueryRejected
from eagleray.sql.guard import nodes
from eagleray.sql.tokens import Token, statements, tokens

EXPANSIONS_MAX = 200  # of one statement: above, a macro calls itself
_CREATE = re.compile(r"\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:MACRO|FUNCTION)\s+(\w+)\s*\(", re.IGNORECASE)
_BODY = re.compile(r"\s*AS\s+(TABLE\s+)?(.+)", re.IGNORECASE | re.DOTALL)
_NAMED = re.compile(r"(\w+)\s*(?::=|=>)\s*(.+)", re.DOTALL)


@dataclass(frozen=True)
class Macro:
    """A macro: its parameters, the values that some have by default, and its body, on one line."""

    name: str
    parameters: tuple[str, ...]
    body: str
    table: bool
    defaults: Mapping[str, str] = field(default_factory=dict)

    @property
    def signature(self) -> str:
        """How it is called, such as `net(amount, rate := 0.19)`."""
        each = (f"{one} := {self.defaults[one]}" if one in self.defaults else one for one in self.parameters)
        return f"{self.name}({', '.join(each)})"


def read_macros(file: Path) -> dict[str, Macro]:
    """The macros of a file, by name; raises ValueError for anything else in it, OSError."""
    found: dict[str, Macro] = {}
    for statement in _statements(file.read_bytes().decode("utf-8-sig")):
        macro = _macro(statement)
        if macro is None:
            raise ValueError(f"{file}: expected CREATE MACRO name(arguments) AS ..., found {statement.strip()[:60]!r}")
        found[macro.name] = macro
    return found


def _macro(statement: str) -> Macro | None:
    """The macro that a statement makes; None where it is another. Raises ValueError for a parameter that is none."""
    if (begin := _CREATE.match(statement)) is None:
        return None
    listed, end = _arguments(statement[begin.end() :])
    if (body := _BODY.fullmatch(statement[begin.end() + end :])) is None:
        return None
    name, parameters, defaults = begin[1].lower(), [], {}
    for one in listed:
        named = _NAMED.fullmatch(one)
        if not named and not re.fullmatch(r"\w+", one):
            raise ValueError(f"the macro {name} has a parameter {one!r}; expected a name, or a name := its default")
        parameters.append((named[1] if named else one).lower())
        if named:
            defaults[parameters[-1]] = _one_line(named[2])
    return Macro(name, tuple(parameters), _one_line(body[2]), bool(body[1]), defaults)


def _statements(text: str) -> Iterator[str]:
    """Statements without comments, ended by a semicolon or the end."""
    for statement, _ in statements(text):
        yield "".join(_plain(token) for token in tokens(statement))


def _plain(token: Token) -> str:
    """A token without comments: what is left of space with one in it is a blank."""
    return " " if token.kind == "space" and token.text.strip() else token.text


def _one_line(body: str) -> str:
    """The body without comments; texts that go over lines are written with escapes, so that they say what they did."""
    return "".join(" " if one.kind == "space" else _escaped(one) for one in tokens(body)).strip()


def _escaped(token: Token) -> str:
    text = token.text
    if token.kind != "string" or "\n" not in text:
        return text
    if text[0] in "eE":
        return text.replace("\n", r"\n")
    fence = text[: text.index("$", 1) + 1] if text[0] == "$" else ""
    held = text[len(fence) : -len(fence)].replace("'", "''") if fence else text[1:-1]
    return "E'" + held.replace("\\", r"\\").replace("\n", r"\n") + "'"


def expanded(text: str, macros: Mapping[str, Macro], parse: Callable[[str], dict[str, Any]]) -> str:
    """`text` with every call of a macro replaced by its body; `parse` gives the syntax tree of a statement.

    Raises QueryRejected for arguments that do not fit, and for macros that call themselves.
    """
    for _ in range(EXPANSIONS_MAX):
        calls = [call for node in nodes(parse(text)) if (call := _call(node, macros)) is not None]
        if not calls:
            return text
        start, macro = max(calls, key=lambda call: call[0])  # the innermost, or one that holds no other
        data = text.encode()
        opening = data.index(b"(", start) + 1
        arguments, end = _arguments(data[opening:].decode())
        body = _filled(macro.body, _values(macro, arguments))
        rest = data[opening:].decode()[end:]
        lines = text.count("\n") - sum(part.count("\n") for part in (data[:start].decode(), body, rest))
        text = f"{data[:start].decode()}({body}){chr(10) * lines}{rest}"  # as many as the call has taken
    raise QueryRejected("the macros call one another without end")


def _values(macro: Macro, arguments: Sequence[str]) -> dict[str, str]:
    """What each parameter is in a call: by place, by name (`rate := 0.07`), or by default; raises QueryRejected."""
    values, called = dict[str, str](), f"the macro {macro.signature}"
    for place, argument in enumerate(arguments):
        named = _NAMED.fullmatch(argument)
        if named is None and place >= len(macro.parameters):
            raise QueryRejected(f"{called} takes at most {len(macro.parameters)} arguments, found {len(arguments)}")
        name, value = (named[1].lower(), named[2]) if named else (macro.parameters[place], argument)
        if name not in macro.parameters:
            raise QueryRejected(f"{called} has no parameter {name}")
        if name in values:
            raise QueryRejected(f"{called} is given {name} twice")
        values[name] = value
    if missing := [name for name in macro.parameters if name not in values and name not in macro.defaults]:
        raise QueryRejected(f"{called} is called without {', '.join(missing)}")
    return {**macro.defaults, **values}


def _call(node: dict[str, Any], macros: Mapping[str, Macro]) -> tuple[int, Macro] | None:
    kind = node.get("type")
    about = node.get("function") if kind == "TABLE_FUNCTION" else node if kind == "FUNCTION" else None
    macro = macros.get(str((about or {}).get("function_name")).lower())
    if macro is None or macro.table != (kind == "TABLE_FUNCTION"):
        return None
    return node["query_location"], macro


def _arguments(text: str) -> tuple[list[str], int]:
    """The arguments of a call, whose parenthesis is open, and where what follows it begins."""
    depth, parts, found = 1, [""], 0
    for token in tokens(text):
        sign = token.text if token.kind == "sign" else ""
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(sign, 0)
        if depth == 0:
            found = token.end
            break
        if sign == "," and depth == 1:
            parts.append("")
        else:
            parts[-1] += " " if token.kind == "space" else token.text
    given = [part.strip() for part in parts]
    return ([] if given == [""] else given), found


def _filled(body: str, values: Mapping[str, str]) -> str:
    """The body with arguments for its parameters; a name behind a dot is a column's."""
    written = []
    before = ""
    for token in tokens(body):
        name = token.text.lower() if token.kind == "word" else ""
        written.append(f"({values[name]})" if name in values and before != "." else token.text)
        before = token.text if token.kind != "space" else before
    return "".join(written)
