"""Puts the run's period into SQL: `$start`, `$end` (TIMESTAMPTZ) and `$date` (DATE) become constants, and variables.

Text is replaced before anything is planned, so that partitions are pruned by the constants. What only looks like a
parameter stays: inside strings, quoted identifiers, comments, dollar-quoted strings and names with a `$` in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from eagleray.cluster.errors import QueryRejected
from eagleray.jobs.period import Period
from eagleray.sql.tokens import SPACES, comment_end

PARAMETERS: Mapping[str, Callable[[Period], str]] = {
    "start": lambda period: _instant(period.start),
    "end": lambda period: _instant(period.end),
    "date": lambda period: f"DATE '{period.day.isoformat()}'",
}
"""How each parameter is written as a constant."""

_WORD = r"[^\W\d]\w*"
_TOKEN = re.compile(
    rf"""
      (?P<skip>
        [eE]'(?:[^'\\]|\\.|'')*'          # a string with backslash escapes
      | '(?:[^']|'')*'
      | "(?:[^"]|"")*"
      | --[^\r\n]*
      | \$(?P<tag>(?:{_WORD})?)\$.*?\$(?P=tag)\$   # $$ text $$, $tag$ text $tag$
      | [^\x00-/:-@\[-^`{{-\x7f{SPACES}](?:[^\x00-/:-@\[-^`{{-\x7f{SPACES}]|\$)*   # a name or a number, also with a `$`
      )
    | (?P<comment>/\*)
    | \$(?P<name>\w+)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Substituted:
    """A statement with its constants. `moves` are the places at which it differs: line, column, how much longer."""

    text: str
    moves: tuple[tuple[int, int, int], ...] = ()

    def column(self, line: int, column: int) -> int:
        """The column in the statement as it was written; all counted from 1."""
        here = [(at, longer) for on, at, longer in self.moves if on == line and at < column]
        written = column
        for at, longer in here:
            written -= min(longer, column - at)
        return written


def substitute(text: str, period: Period, variables: Iterable[tuple[str, str]] = ()) -> Substituted:
    """`text` with the period's constants and those of `variables`; raises QueryRejected for an unknown parameter."""
    constants = {**dict(variables), **{name: make(period) for name, make in PARAMETERS.items()}}
    return _replaced(text, constants.__getitem__, constants)


def blanked(text: str, variables: Iterable[str] = ()) -> str:
    """`text` with NULL for every parameter and all else in its place: to be parsed, not run. Raises as `substitute`."""
    return _replaced(text, lambda name: "NULL".ljust(len(name) + 1), {*PARAMETERS, *variables}).text


def used(text: str, variables: Iterable[str] = ()) -> frozenset[str]:
    """The parameters and variables that `text` names, in lower case. Raises as `substitute`."""
    found: set[str] = set()

    def note(name: str) -> str:
        found.add(name)
        return "NULL"

    _replaced(text, note, {*PARAMETERS, *variables})
    return frozenset(found)


def _replaced(text: str, value: Callable[[str], str], names: Collection[str]) -> Substituted:
    parts: list[str] = []
    moves: list[tuple[int, int, int]] = []
    done = at = 0
    while match := _TOKEN.search(text, at):
        at = match.end()
        if match["comment"]:
            at = comment_end(text, at)
        elif name := match["name"]:
            line, column = _place(text, match.start())
            if name.lower() not in names:
                known = ", ".join(f"${known}" for known in (*PARAMETERS, *sorted(set(names) - PARAMETERS.keys())))
                raise QueryRejected(f"unknown parameter ${name}; expected {known} (line {line}, column {column})")
            constant = value(name.lower())
            parts += text[done : match.start()], constant
            longer_before = sum(longer for on, _, longer in moves if on == line)
            moves.append((line, column + longer_before, len(constant) - len(name) - 1))
            done = at
    return Substituted("".join([*parts, text[done:]]), tuple(moves))


def _place(text: str, at: int) -> tuple[int, int]:
    before = text[:at]
    return before.count("\n") + 1, at - before.rfind("\n")


def _instant(at: datetime) -> str:
    return f"TIMESTAMPTZ '{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00'"
