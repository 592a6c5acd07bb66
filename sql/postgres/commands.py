"""Statements that are no queries: transactions, settings, cursors. Recognised by their first word, run by the session.

A transaction is one set of snapshots, taken by its first query; nothing is written, so COMMIT and ROLLBACK differ in
name alone. What is neither here nor a query is refused by the guard, in the SQL process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from eagleray.sql.postgres.portals import Portal, Sink
from eagleray.sql.postgres.runner import SqlError
from eagleray.sql.postgres.settings import Settings
from eagleray.sql.postgres.types import TEXT, Column
from eagleray.sql.postgres.wire import data_row
from eagleray.sql.tokens import Token, significant

_SYNTAX, _UNSUPPORTED, _NO_TRANSACTION = "42601", "0A000", "25P01"


class State(Protocol):
    """The session, as commands change it."""

    settings: Settings
    portals: dict[str, Portal]
    savepoints: list[str]

    @property
    def in_transaction(self) -> bool:
        """Whether BEGIN was said."""
        ...

    def begin(self) -> None:
        """Begin a transaction block."""
        ...

    def end(self) -> bool:
        """End it; False where it had failed."""
        ...

    def recover(self) -> None:
        """A failed transaction goes on from a savepoint."""
        ...

    def notice(self, sqlstate: str, message: str) -> None:
        """Tell the client something that is no error."""
        ...

    def changed(self, setting: str) -> None:
        """Tell the client the value of a setting."""
        ...

    def fetch(self, portal: Portal, rows_max: int, formats: tuple[bool, ...], take: Sink) -> int:
        """Rows of a portal."""
        ...

    def columns(self, portal: Portal) -> tuple[Column, ...]:
        """Columns of a portal, which runs from now on."""
        ...

    def forget_statements(self, name: str | None) -> None:
        """Forget a prepared statement; None: all."""
        ...


@dataclass(frozen=True)
class Command:
    """A statement of this module: `words` are its tokens without space."""

    text: str
    words: Sequence[Token]

    def word(self, at: int) -> str:
        """A token as it is compared: a keyword in lower case; empty behind the end."""
        return (self.words[at].name or self.words[at].text) if at < len(self.words) else ""

    @property
    def tag(self) -> str:
        """The statement's name, as CommandComplete has it."""
        return self.word(0).upper()


def recognised(text: str) -> Command | None:
    """`text` as a command; None: it is a query, or nothing that is known."""
    words = significant(text)
    command = Command(text, words)
    first = command.word(0) if words and words[0].kind == "word" else ""
    if first == "show":
        return None if command.word(1) in ("tables", "") else command
    return command if first in _RUN else None


def allowed_in_failed(command: Command | None) -> bool:
    """Whether a failed transaction takes it."""
    return command is not None and command.word(0) in ("commit", "end", "rollback", "abort")


def columns_of(command: Command, state: State) -> tuple[Column, ...] | None:
    """The columns of a command's rows; None: it has none."""
    match command.word(0):
        case "show":
            if command.word(1) == "all":
                return (Column("name", TEXT), Column("setting", TEXT), Column("description", TEXT))
            return (Column(_setting(command, 1)[0], TEXT),)
        case "fetch":
            return state.columns(_cursor(command, state))
    return None


def run(command: Command, state: State, portal: Portal, take: Sink) -> str:
    """Run it; the text of CommandComplete. `portal` has its parameters and formats. Raises SqlError."""
    return _RUN[command.word(0)](command, state, portal, take)


def _begin(command: Command, state: State, portal: Portal, take: Sink) -> str:
    _check_mode(command)
    if state.in_transaction:
        state.notice("25001", "there is already a transaction in progress")
    else:
        state.begin()
    return "START TRANSACTION" if command.word(0) == "start" else "BEGIN"


def _check_mode(command: Command) -> None:
    words = [token.name for token in command.words]
    if ("read", "write") in pairwise(words):
        raise SqlError("cannot set transaction read-write mode: the lake is read-only here", _UNSUPPORTED)


def _commit(command: Command, state: State, portal: Portal, take: Sink) -> str:
    if command.word(1) == "prepared":
        raise SqlError("prepared transactions are not supported", _UNSUPPORTED)
    if not state.in_transaction:
        state.notice(_NO_TRANSACTION, "there is no transaction in progress")
    return "COMMIT" if state.end() else "ROLLBACK"


def _rollback(command: Command, state: State, portal: Portal, take: Sink) -> str:
    at = 2 if command.word(1) in ("work", "transaction") else 1
    if command.word(at) == "to":
        name = command.word(at + 2) if command.word(at + 1) == "savepoint" else command.word(at + 1)
        del state.savepoints[_savepoint(state, name) + 1 :]
        state.recover()
        return "ROLLBACK"
    if not state.in_transaction:
        state.notice(_NO_TRANSACTION, "there is no transaction in progress")
    state.end()
    return "ROLLBACK"


def _save(command: Command, state: State, portal: Portal, take: Sink) -> str:
    if not state.in_transaction:
        raise SqlError("SAVEPOINT can only be used in transaction blocks", _NO_TRANSACTION)
    state.savepoints.append(command.word(1))
    return "SAVEPOINT"


def _release(command: Command, state: State, portal: Portal, take: Sink) -> str:
    name = command.word(2) if command.word(1) == "savepoint" else command.word(1)
    del state.savepoints[_savepoint(state, name) :]
    return "RELEASE"


def _savepoint(state: State, name: str) -> int:
    if name not in state.savepoints:
        raise SqlError(f'savepoint "{name}" does not exist', "3B001")
    return len(state.savepoints) - 1 - state.savepoints[::-1].index(name)


def _setting(command: Command, at: int) -> tuple[str, int]:
    """The name of a setting from token `at` on, and the token behind it."""
    if command.word(at) == "time" and command.word(at + 1) == "zone":
        return "timezone", at + 2
    if command.word(at) == "transaction" and command.word(at + 1) == "isolation":
        return "transaction_isolation", at + 3
    if command.word(at) == "session" and command.word(at + 1) == "authorization":
        return "session_authorization", at + 2
    return command.word(at), at + 1


def _set(command: Command, state: State, portal: Portal, take: Sink) -> str:
    at = 2 if command.word(1) in ("session", "local") and command.word(2) not in ("authorization",) else 1
    if command.word(at) in ("transaction", "characteristics"):
        _check_mode(command)
        return "SET"
    if command.word(at) == "names":
        name, at = "client_encoding", at + 1
    else:
        name, at = _setting(command, at)
        at += command.word(at) in ("=", "to")
    state.settings.set(name, _value(command, at))
    state.changed(name)
    return "SET"


def _value(command: Command, at: int) -> str:
    """What a setting is set to: a word, a constant, or several with commas, quoted where they have to be."""
    values = [token for token in command.words[at:] if token.text != ","]
    if not values:
        raise SqlError("syntax error at end of input: expected a value", _SYNTAX)
    if len(values) == 1:
        return values[0].value if values[0].value is not None else values[0].text.strip('"')
    if values[0].text == "-":
        return "-" + values[1].text
    return ", ".join(f'"{token.value}"' if token.value is not None else token.text for token in values)


def _reset(command: Command, state: State, portal: Portal, take: Sink) -> str:
    name, _ = _setting(command, 1)
    state.settings.reset("" if name == "all" else name)
    return "RESET"


def _show(command: Command, state: State, portal: Portal, take: Sink) -> str:
    if command.word(1) == "all":
        rows = [(name, value, "") for name, value in sorted(state.settings.all().items())]
    else:
        name, _ = _setting(command, 1)
        value = state.settings.get(name)
        if value is None:
            raise SqlError(f'unrecognized configuration parameter "{name}"', "42704")
        rows = [(value,)]  # type: ignore[list-item]
    for row in rows:
        body = data_row(row)
        take(b"D" + (len(body) + 4).to_bytes(4, "big") + body)
    return "SHOW"


def _discard(command: Command, state: State, portal: Portal, take: Sink) -> str:
    if command.word(1) == "all":
        if state.in_transaction:
            raise SqlError("DISCARD ALL cannot run inside a transaction block", "25001")
        state.settings.reset()
        state.forget_statements(None)
        _close_all(state)
    return f"DISCARD {command.word(1).upper()}"


def _deallocate(command: Command, state: State, portal: Portal, take: Sink) -> str:
    at = 2 if command.word(1) == "prepare" else 1
    everything = command.word(at) == "all"
    state.forget_statements(None if everything else command.word(at))
    return "DEALLOCATE ALL" if everything else "DEALLOCATE"


def _close_all(state: State) -> None:
    for name in list(state.portals):
        state.portals.pop(name).close()


def _declare(command: Command, state: State, portal: Portal, take: Sink) -> str:
    name = command.word(1)
    heads = [token.name for token in command.words]
    start = heads.index("for") if "for" in heads else 0
    options = heads[2:start]
    if not start or "cursor" not in options:
        raise SqlError("expected DECLARE name CURSOR FOR query", _SYNTAX)
    if "hold" in options and "without" not in options:
        raise SqlError("cursors WITH HOLD are not supported: read it in its transaction", _UNSUPPORTED)
    if "scroll" in options and "no" not in options:
        raise SqlError("cursors that go backwards are not supported: expected NO SCROLL", _UNSUPPORTED)
    if not state.in_transaction:
        raise SqlError("DECLARE CURSOR can only be used in transaction blocks", _NO_TRANSACTION)
    if name in state.portals:
        raise SqlError(f'cursor "{name}" already exists', "42P03")
    # Positions in errors are the statement's: what stands before the query is blank.
    query = " " * command.words[start].end + command.text[command.words[start].end :]
    cursor = Portal(query, portal.values, (True,) if "binary" in options else ())
    state.columns(cursor)
    state.portals[name] = cursor
    return "DECLARE CURSOR"


def _cursor(command: Command, state: State) -> Portal:
    name = command.words[-1].name if command.words else ""
    if name not in state.portals:
        raise SqlError(f'cursor "{name}" does not exist', "34000")
    return state.portals[name]


def _count(command: Command) -> int:
    """How many rows FETCH or MOVE is about; 0: all. Raises SqlError for any other way than forward."""
    words = [token.text.lower() for token in command.words[1:-1] if token.name not in ("from", "in")]
    if words and words[0] == "forward":
        words.pop(0)
    match words:
        case [] | ["next"]:
            return 1
        case ["all"]:
            return 0
        case [number] if number.isdecimal():
            return int(number) or -1
    raise SqlError(f"cursors only go forward: {command.tag} {' '.join(words)}", _UNSUPPORTED)


def _fetch(command: Command, state: State, portal: Portal, take: Sink) -> str:
    count = _count(command)
    cursor = _cursor(command, state)
    formats = portal.formats or cursor.formats
    return f"FETCH {0 if count < 0 else state.fetch(cursor, count, formats, take)}"


def _move(command: Command, state: State, portal: Portal, take: Sink) -> str:
    count = _count(command)
    return f"MOVE {0 if count < 0 else state.fetch(_cursor(command, state), count, (), lambda rows: None)}"


def _close(command: Command, state: State, portal: Portal, take: Sink) -> str:
    if command.word(1) == "all":
        _close_all(state)
        return "CLOSE CURSOR ALL"
    _cursor(command, state)
    state.portals.pop(command.word(1)).close()
    return "CLOSE CURSOR"


def _nothing(command: Command, state: State, portal: Portal, take: Sink) -> str:
    return command.tag


def _refused(command: Command, state: State, portal: Portal, take: Sink) -> str:
    raise SqlError(f"{command.tag} is not supported: queries only read", _UNSUPPORTED)


_RUN: Mapping[str, Callable[[Command, State, Portal, Sink], str]] = {
    "begin": _begin, "start": _begin, "commit": _commit, "end": _commit, "rollback": _rollback, "abort": _rollback,
    "savepoint": _save, "release": _release, "set": _set, "reset": _reset, "show": _show, "discard": _discard,
    "deallocate": _deallocate, "declare": _declare, "fetch": _fetch, "move": _move, "close": _close,
    "unlisten": _nothing, "copy": _refused, "listen": _refused, "notify": _refused, "lock": _refused,
    "prepare": _refused, "execute": _refused,
}  # fmt: skip
