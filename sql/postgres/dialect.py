"""Postgres' SQL as DuckDB reads it, where the two differ and clients do not let it be.

Called by `prepare`, in the child. First on tokens, what DuckDB's parser does not take or would understand differently:
parameters become constants, session functions their values. Then on the syntax tree, at the places that it names:
names of tables and casts. What a rewritten text says is still judged whole by the guard. Positions are kept, so that
an error points into what the client wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from eagleray.cluster.errors import QueryRejected
from eagleray.sql.engine import literal
from eagleray.sql.guard import UNSUPPORTED
from eagleray.sql.tokens import Edit, Edited, Token, tokens

DATABASE = "lake"
INFORMATION = "information_schema_"
"""What `information_schema` is called inside: DuckDB has one of that name, which knows nothing of the lake."""

_RENAMED = {
    "json_build_object": "json_object",
    "jsonb_build_object": "json_object",
    "json_build_array": "json_array",
    "jsonb_build_array": "json_array",
    "json_agg": "json_group_array",
    "jsonb_agg": "json_group_array",
    "json_object_agg": "json_group_object",
    "jsonb_object_agg": "json_group_object",
    "to_jsonb": "to_json",
    "jsonb_array_length": "json_array_length",
    "jsonb_typeof": "json_type",
    "json_typeof": "json_type",
    "char_length": "length",
}
_TIMED = frozenset({"timestamp", "timestamptz", "time", "timetz"})
_BARE = frozenset({"current_user", "session_user", "current_role", "current_catalog", "current_schema"})
_PATTERN = re.compile(
    "HH24|HH12|HH|MI|SS|US|MS|YYYY|IYYY|YY|MONTH|Month|MON|Mon|MM|DDD|DD|DAY|Day|DY|Dy|ID|IW|WW|AM|PM|am|pm|TZ|Q"
    "|[A-Za-z]"
)
_STRFTIME = {
    "HH24": "%H", "HH12": "%I", "HH": "%I", "MI": "%M", "SS": "%S", "US": "%f", "MS": "%g", "YYYY": "%Y", "IYYY": "%G",
    "YY": "%y", "MONTH": "%B", "Month": "%B", "MON": "%b", "Mon": "%b", "MM": "%m", "DDD": "%j", "DD": "%d",
    "DAY": "%A", "Day": "%A", "DY": "%a", "Dy": "%a", "ID": "%u", "IW": "%V", "AM": "%p", "PM": "%p",
    "am": "%p", "pm": "%p",
    "TZ": "%Z", "T": "T",
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What a statement may ask of its session."""

    user: str
    backend: int
    version: str
    search_path: tuple[str, ...]
    settings: Mapping[str, str]

    @property
    def schema(self) -> str:
        """Where unqualified names are looked for first."""
        return self.search_path[0] if self.search_path else "public"


def rewritten(text: str, facts: Facts, constants: Callable[[int], str]) -> Edited:
    """`text` on tokens; `constants` writes the value of parameter n. Raises QueryRejected."""
    return Edited(text, _Tokens(text, facts, constants).edits())


class _Tokens:
    """The tokens of a statement, and what each becomes."""

    def __init__(self, text: str, facts: Facts, constants: Callable[[int], str]) -> None:
        self._all: Sequence[Token] = [token for token in tokens(text) if token.kind != "space"]
        self._facts = facts
        self._constants = constants
        self._selecting: list[bool] = [False]  # by depth of parentheses: within a list of columns

    def edits(self) -> Iterator[Edit]:
        at = 0
        while at < len(self._all):
            token = self._all[at]
            self._track(token)
            found = self._edit(at, token)
            if found is None:
                at += 1
                continue
            edit, at = found
            yield edit

    def _track(self, token: Token) -> None:
        if token.text in ("(", "["):
            self._selecting.append(False)
        elif token.text in (")", "]") and len(self._selecting) > 1:
            self._selecting.pop()
        elif token.kind == "word" and token.name in ("select", "from"):
            self._selecting[-1] = token.name == "select"

    def _text(self, at: int) -> str:
        return self._all[at].text if 0 <= at < len(self._all) else ""

    def _name(self, at: int) -> str:
        return self._all[at].name if 0 <= at < len(self._all) else ""

    def _edit(self, at: int, token: Token) -> tuple[Edit, int] | None:
        """What the tokens from `at` on become, and the first that is not among them; None: `token` stays."""
        if token.kind == "parameter":
            return Edit(token.start, token.end, self._constants(int(token.text[1:]))), at + 1
        if token.kind not in ("word", "quoted") or (self._text(at - 1) == "." and self._name(at - 2) != "pg_catalog"):
            return None
        if self._text(at + 1) == ".":
            return self._qualified(at, token)
        return self._word(at, token)

    def _qualified(self, at: int, token: Token) -> tuple[Edit, int] | None:
        if token.name == "pg_catalog":
            return Edit(token.start, self._all[at + 1].end, ""), at + 2  # the word behind it is looked at as well
        if token.name == "information_schema":
            if self._name(at + 2) == "_pg_expandarray" and (end := self._closing(at + 3)):
                return Edit(token.start, self._all[end].end, "{'x': 0, 'n': 0}"), end + 1  # of an index: there are none
            return Edit(token.start, token.end, INFORMATION), at + 1
        parts = 1
        while self._text(at + 2 * parts - 1) == "." and self._name(at + 2 * parts):
            parts += 1
        if token.name == DATABASE and parts > 3:
            return Edit(token.start, self._all[at + 1].end, ""), at + 2
        return None

    def _word(self, at: int, token: Token) -> tuple[Edit, int] | None:
        name = token.name
        if name == "operator" and self._text(at + 1) == "(":
            end = self._closing(at + 1)
            signs = "".join(
                self._text(i) for i in range(at + 2, end or at) if self._name(i) == "" != self._text(i) != "."
            )
            return (Edit(token.start, self._all[end].end, f" {signs} "), end + 1) if end else None
        if name == "collate":
            last = at + 3 if self._name(at + 1) == "pg_catalog" else at + 1
            dropped = self._name(last) in ("default", "C", "c", "POSIX", "ucs_basic")
            return (Edit(token.start, self._all[last].end, ""), last + 1) if dropped else None
        if (
            name in _TIMED
            and self._text(at + 1) == "("
            and self._text(at + 3) == ")"
            and self._text(at - 1) in ("::", "AS", "as")
        ):
            return Edit(token.end, self._all[at + 3].end, ""), at + 4
        if self._text(at + 1) == "(":
            return self._call(at, token)
        value = self._session(name, []) if name in _BARE and token.kind == "word" else None
        return (Edit(token.start, token.end, self._named(at, at + 1, value, name)), at + 1) if value else None

    def _call(self, at: int, token: Token) -> tuple[Edit, int] | None:
        name, end = token.name, self._closing(at + 1)
        if end is None:
            return None
        if name in ("to_date", "to_timestamp", "to_char"):
            return self._formatted(at, name, end)
        arguments = [self._all[i].value or self._name(i) for i in range(at + 2, end) if self._text(i) != ","]
        value = self._session(name, arguments)
        if value is not None:
            return Edit(token.start, self._all[end].end, self._named(at, end + 1, value, name)), end + 1
        if name in _RENAMED:
            return Edit(token.start, token.end, _RENAMED[name]), at + 1
        return None

    def _formatted(self, at: int, name: str, end: int) -> tuple[Edit, int] | None:
        """`to_date(x, 'YYYY-MM-DD')` and its like; the format has to be a constant."""
        pattern = self._all[end - 1].value
        if pattern is None or self._text(end - 2) != ",":
            return None
        inner = _between(self._all[at + 2 : end - 2])
        start = self._all[at + 2].start
        body = Edited(inner, (Edit(e.start - start, e.end - start, e.text) for e in self._inner(at + 2, end - 2))).text
        written = literal(_strftime(pattern))
        call = {
            "to_date": f"CAST(strptime({body}, {written}) AS DATE)",
            "to_timestamp": f"CAST(strptime({body}, {written}) AS TIMESTAMPTZ)",
            "to_char": f"strftime({body}, {written})",
        }[name]
        return Edit(self._all[at].start, self._all[end].end, self._named(at, end + 1, call, name)), end + 1

    def _inner(self, at: int, end: int) -> Iterator[Edit]:
        while at < end:
            found = self._edit(at, self._all[at])
            if found:
                yield found[0]
            at = found[1] if found else at + 1

    def _closing(self, opening: int) -> int | None:
        """The token that closes the parenthesis at `opening`."""
        if self._text(opening) != "(":
            return None
        depth = 0
        for at in range(opening, len(self._all)):
            depth += {"(": 1, ")": -1}.get(self._text(at), 0)
            if depth == 0:
                return at
        return None

    def _named(self, at: int, end: int, value: str, name: str) -> str:
        """`value`, with the name that Postgres gives the column where it is one on its own."""
        alone = self._text(at - 1).lower() in ("select", ",", "distinct") or self._text(at - 2) == "pg_catalog"
        if self._selecting[-1] and alone and self._text(end).lower() in (",", "from", "", "limit", "where"):
            return f'{value} AS "{name}"'
        return value

    def _session(self, name: str, arguments: Sequence[str]) -> str | None:
        """The value of a function of the session; None: it is none."""
        facts = self._facts
        match name, len(arguments):
            case (("current_database" | "current_catalog"), 0):
                return literal(DATABASE)
            case "current_schema", 0:
                return literal(facts.schema)
            case "current_schemas", 1:
                shown = (("pg_catalog",) if arguments[0] == "true" else ()) + facts.search_path
                return f"CAST([{', '.join(map(literal, shown))}] AS VARCHAR[])"
            case (("current_user" | "session_user" | "current_role"), 0):
                return literal(facts.user)
            case "version", 0:
                return literal(facts.version)
            case "pg_backend_pid", 0:
                return str(facts.backend)
            case "current_setting", (1 | 2):
                return literal(facts.settings.get(arguments[0].lower(), ""))
            case "set_config", 3:
                return literal(arguments[1])
            case (("pg_is_in_recovery" | "pg_is_wal_replay_paused"), 0):
                return "false"
        return None


def _between(found: Sequence[Token]) -> str:
    """The text of tokens that follow one another, with the space between them."""
    if not found:
        return ""
    written, at = [], found[0].start
    for token in found:
        written.append(" " * (token.start - at) + token.text)
        at = token.end
    return "".join(written)


def _strftime(pattern: str) -> str:
    """A format of `to_char` as `strftime` has it; raises QueryRejected for what it cannot say."""

    def one(match: re.Match[str]) -> str:
        if match[0] not in _STRFTIME:
            raise QueryRejected(f"the format {pattern!r} has {match[0]!r}, which is not supported", UNSUPPORTED)
        return _STRFTIME[match[0]]

    parts = re.split(r'"([^"]*)"', pattern.replace("FM", ""))  # every other one is quoted
    return "".join(part if index % 2 else _PATTERN.sub(one, part) for index, part in enumerate(parts))
