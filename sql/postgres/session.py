"""One client's session, from the login to its end: the messages of Postgres' protocol, in the order in which they come.

Runs in a thread of its own, started by `server`. States of a session, as ReadyForQuery tells them:

| state | means | goes to |
|---|---|---|
| `I` idle | each statement is a transaction of its own | `T` by BEGIN |
| `T` in a transaction | queries read the snapshots that its first found | `E` by an error, `I` by COMMIT, ROLLBACK |
| `E` failed | nothing but COMMIT, ROLLBACK and ROLLBACK TO is taken | `I`, `T` by ROLLBACK TO |

Rules:
1. After an error of the extended protocol everything is passed over up to the next Sync.
2. An error leaves at once: clients that have sent Flush wait for it.
3. Portals end with their transaction, outside of one with Sync; cursors are portals.
4. A key that is revoked ends its sessions at their next statement.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Callable, Mapping, Sequence

from eagleray.cluster.api_keys import ApiKey
from eagleray.cluster.config import Config
from eagleray.cluster.errors import QueryError
from eagleray.cluster.lake.pin import Instant
from eagleray.cluster.sections import PostgresConfig
from eagleray.cluster.telemetry import tracing
from eagleray.sql.guard import TEXT_CHARS_MAX
from eagleray.sql.postgres.commands import Command, allowed_in_failed, columns_of, recognised
from eagleray.sql.postgres.commands import run as run_command
from eagleray.sql.postgres.dialect import Facts
from eagleray.sql.postgres.portals import Portal, Sink, Statement
from eagleray.sql.postgres.requests import Describe, Described, Opened, Query
from eagleray.sql.postgres.runner import Bell, Runner, SqlError
from eagleray.sql.postgres.settings import REPORTED, VERSION, Settings
from eagleray.sql.postgres.types import Column, Value
from eagleray.sql.postgres.wire import Body, ProtocolError, Wire, fields, row_description, text
from eagleray.sql.tokens import statements
from eagleray.sql.worker import SqlWorker

logger = logging.getLogger(__name__)

STATEMENTS_MAX = 1000  # prepared ones of a session
_TRACEPARENT = re.compile(r"/\*[^*]*\btraceparent='([0-9a-f-]+)'")  # as SQLCommenter writes it
_VERSION = f"PostgreSQL {VERSION} (Eagleray, SQL by DuckDB)"


class SessionEnded(Exception):
    """The session ends with a last word to the client."""

    def __init__(self, sqlstate: str, message: str) -> None:
        """As an error has it."""
        super().__init__(message)
        self.sqlstate = sqlstate


class Session:
    """A client that is known."""

    def __init__(
        self,
        wire: Wire,
        key: ApiKey,
        backend: int,
        worker: SqlWorker,
        config: Config,
        bell: Bell,
        valid: Callable[[], bool],
        coin: tracing.Coin | None = None,
    ) -> None:
        """`backend` is the number that it is cancelled by; `valid` says whether the key still is.

        `coin` decides which statements are traced; None: none is.
        """
        assert config.sql.postgres is not None
        self.settings = Settings(key.name)
        self.portals: dict[str, Portal] = {}
        self.savepoints: list[str] = []
        self._wire = wire
        self._key = key
        self._backend = backend
        self._worker = worker
        self._limits: PostgresConfig = config.sql.postgres
        self._timeout_s = config.edge.query_timeout_s
        self._bell = bell
        self._valid = valid
        self._coin = coin
        self._statements: dict[str, Statement] = {}
        self._state = b"I"
        self._instant: Instant | None = None  # the transaction's snapshots, once a query has found them
        self._skipping = False  # rule 1

    def run(self) -> None:
        """Until the client leaves, or has to; raises Closed, ProtocolError, SessionEnded."""
        self._ready()
        try:
            while True:
                letter, body = self._next()
                if letter == b"X":
                    return
                self._handle(letter, body)
        finally:
            self._close_portals()

    def _next(self) -> tuple[bytes, bytes]:
        holds = self._state != b"I" or any(portal.holds for portal in self.portals.values())
        try:
            return self._wire.next(self._limits.cursor_timeout_s if holds else self._limits.idle_timeout_s)
        except TimeoutError:
            what = "idle-in-transaction" if holds else "idle-session"
            raise SessionEnded("25P03" if holds else "57P05", f"terminating connection due to {what} timeout") from None

    def _handle(self, letter: bytes, body: bytes) -> None:
        if letter == b"S":
            self._skipping = False
            if self._state == b"I":
                self._close_portals()  # rule 3
            self._ready()
            return
        if self._skipping and letter != b"Q":
            return
        handle = _HANDLERS.get(letter)
        if handle is None:
            raise ProtocolError(f"unknown message {letter!r}")
        try:
            handle(self, Body(body))
        except QueryError as error:
            self._failed(error)
            self._skipping = letter != b"Q"
        if letter == b"Q":
            if self._state == b"I":
                self._close_portals()
            self._ready()

    def _failed(self, error: QueryError) -> None:
        self._wire.write(b"E", error_body("ERROR", error.sqlstate, str(error), getattr(error, "position", None)))
        self._wire.flush()  # rule 2
        if self._state == b"T":
            self._state = b"E"
            self._close_portals()

    def _ready(self) -> None:
        self._wire.write(b"Z", self._state)
        self._wire.flush()

    # The simple protocol

    def _simple(self, body: Body) -> None:
        found = statements(self._checked(body.text()))
        if not found:
            self._wire.write(b"I")
        for one, start in found:
            try:
                self._simple_one(one)
            except SqlError as error:
                error.position = error.position + start if error.position is not None else None
                raise

    def _simple_one(self, one: str) -> None:
        command = self._admitted(one)
        portal = Portal(one)
        try:
            columns = columns_of(command, self) if command else portal.open(self)
            if columns is not None:
                formats = self._cursor_formats(command)
                self._wire.write(b"T", row_description(columns, formats))
            self._execute(command, portal, 0)
        finally:
            portal.close()

    def _cursor_formats(self, command: Command | None) -> tuple[bool, ...]:
        """A cursor that was declared BINARY sends so, also here."""
        if command is None or command.word(0) != "fetch":
            return ()
        cursor = self.portals.get(command.words[-1].name)
        return cursor.formats if cursor else ()

    def _checked(self, sql: str) -> str:
        if len(sql) > TEXT_CHARS_MAX:
            raise SqlError(f"the query has {len(sql)} characters; at most {TEXT_CHARS_MAX} are allowed", "54000")
        return sql

    def _admitted(self, one: str) -> Command | None:
        """The command that a statement is, if it is one; raises where the session takes no statements now."""
        if not self._valid():
            raise SessionEnded("57P01", f"the key {self._key.name!r} was revoked")  # rule 4
        command = recognised(one)
        if self._state == b"E" and not allowed_in_failed(command):
            raise SqlError("current transaction is aborted, commands ignored until end of transaction block", "25P02")
        return command

    def _execute(self, command: Command | None, portal: Portal, rows_max: int) -> None:
        """Run it, or read on; rows and how it ended are written."""
        if command is not None:
            tag = run_command(command, self, portal, self._wire.raw)
        else:
            rows = portal.fetch(self, rows_max, portal.formats, self._wire.raw)
            if not portal.complete:
                self._wire.write(b"s")
                return
            tag = f"SELECT {rows}"
        self._wire.write(b"C", text(tag))

    # The extended protocol

    def _parse(self, body: Body) -> None:
        name, sql = body.text(), self._checked(body.text())
        oids = tuple(body.int32() & 0xFFFFFFFF for _ in range(body.int16()))
        found = statements(sql)
        if len(found) > 1:
            raise SqlError("cannot insert multiple commands into a prepared statement", "42601")
        if name and name in self._statements:
            raise SqlError(f'prepared statement "{name}" already exists', "42P05")
        if len(self._statements) >= STATEMENTS_MAX:
            raise SqlError(f"at most {STATEMENTS_MAX} statements can be prepared; close some", "53400")
        self._statements[name] = Statement(sql if found else "", oids)
        self._wire.write(b"1")

    def _bind(self, body: Body) -> None:
        name, statement = body.text(), self._statement(body.text())
        formats = [bool(body.int16()) for _ in range(body.int16())]
        data = [body.value() for _ in range(body.int16())]
        results = tuple(bool(body.int16()) for _ in range(body.int16()))
        if len(formats) not in (0, 1, len(data)):
            raise SqlError(f"bind message has {len(formats)} parameter formats but {len(data)} parameters", "08P01")
        known = statement.described
        oids = known.oids if known else statement.oids
        if known and len(data) != len(known.oids):
            raise SqlError(f"bind message supplies {len(data)} parameters, but {len(known.oids)} are required", "08P01")
        values = tuple(
            Value(oids[at] if at < len(oids) else 0, bool(formats) and formats[at if len(formats) > 1 else 0], one)
            for at, one in enumerate(data)
        )
        if name and name in self.portals:
            raise SqlError(f'cursor "{name}" already exists', "42P03")
        self._drop(name)
        expected = tuple(column.oid for column in known.columns) if known else None
        self.portals[name] = Portal(statement.text, values, results, expected)
        self._wire.write(b"2")

    def _describe(self, body: Body) -> None:
        kind, name = body.take(1), body.text()
        if kind == b"S":
            self._describe_statement(self._statement(name))
            return
        portal = self._portal(name)
        command = self._admitted(portal.text)
        columns = None
        if command is not None:
            columns = columns_of(command, self)
        elif portal.text:
            columns = portal.open(self)
        self._columns_or_none(columns, portal.formats)

    def _describe_statement(self, statement: Statement) -> None:
        command = self._admitted(statement.text)
        if not statement.text:
            described = Described((), ())
        elif command is not None:
            columns = columns_of(command, self) if command.word(0) != "declare" else None
            described = Described(statement.oids, columns or ())
        else:
            described = statement.described = statement.described or self._ask_description(statement)
        oids = described.oids
        self._wire.write(b"t", struct.pack(f"!h{len(oids)}I", len(oids), *oids))
        self._columns_or_none(described.columns or None, ())

    def _ask_description(self, statement: Statement) -> Described:
        with self.traced("describe", statement.text):
            runner = self.runner()
            try:
                query = self.query(statement.text, statement.oids)
                described: Described = runner.ask(Describe(query), query.timeout_s)
                return described
            finally:
                runner.release()

    def _columns_or_none(self, columns: Sequence[Column] | None, formats: Sequence[bool]) -> None:
        if columns:
            self._wire.write(b"T", row_description(columns, formats))
        else:
            self._wire.write(b"n")

    def _run_portal(self, body: Body) -> None:
        portal, rows_max = self._portal(body.text()), body.int32()
        command = self._admitted(portal.text)
        if not portal.text:
            self._wire.write(b"I")
        else:
            self._execute(command, portal, max(0, rows_max))

    def _close(self, body: Body) -> None:
        kind, name = body.take(1), body.text()
        if kind == b"S":
            self._statements.pop(name, None)
        else:
            self._drop(name)
        self._wire.write(b"3")

    def _flush(self, body: Body) -> None:
        self._wire.flush()

    def _function(self, body: Body) -> None:
        raise SqlError("the function call protocol is not supported: use SELECT", "0A000")

    def _pass(self, body: Body) -> None:
        """Data of a COPY that was refused."""

    def _statement(self, name: str) -> Statement:
        if name not in self._statements:
            raise SqlError(f'prepared statement "{name}" does not exist', "26000")
        return self._statements[name]

    def _portal(self, name: str) -> Portal:
        if name not in self.portals:
            raise SqlError(f'portal "{name}" does not exist', "34000")
        return self.portals[name]

    def _drop(self, name: str) -> None:
        if portal := self.portals.pop(name, None):
            portal.close()

    def _close_portals(self) -> None:
        for name in list(self.portals):
            self._drop(name)

    # What portals and commands ask of the session

    def runner(self) -> Runner:
        """A SQL process; raises SqlError."""
        return Runner(self._worker, self._wire.fileno(), self._bell, self.timeout_s)

    def traced(self, name: str, sql: str) -> tracing.Spans:
        """The span of a statement, where it is sampled: below the `traceparent` in its comment, if it has one."""
        if self._coin is None:
            return tracing.NONE
        found = _TRACEPARENT.search(sql) if "traceparent" in sql else None
        parent = self._coin.toss(found[1] if found else None)
        return tracing.NONE if parent is None else tracing.request(name, parent, wire="postgres")

    @property
    def timeout_s(self) -> float:
        """`statement_timeout`, but no more than `edge.query_timeout_s`."""
        return min(self.settings.timeout_s or self._timeout_s, self._timeout_s)

    def query(self, sql: str, oids: Sequence[int]) -> Query:
        """A question in this session's name."""
        facts = Facts(self._key.name, self._backend, _VERSION, self.settings.search_path, self.settings.all())
        begins = self._state == b"T" and self._instant is None
        return Query(sql, facts, self._key.tables, self.timeout_s, tuple(oids), self._instant, begins)

    def pinned(self, answer: Opened) -> None:
        """The first query of a transaction has found its snapshots."""
        if answer.instant is not None:
            self._instant = answer.instant

    @property
    def in_transaction(self) -> bool:
        """Whether BEGIN was said."""
        return self._state != b"I"

    def begin(self) -> None:
        """Begin a transaction block."""
        self._state, self._instant = b"T", None

    def end(self) -> bool:
        """End it, with its portals; False where it had failed."""
        fine = self._state != b"E"
        self._state, self._instant = b"I", None
        self.savepoints.clear()
        return fine

    def recover(self) -> None:
        """Go on from a savepoint."""
        self._state = b"T"

    def notice(self, sqlstate: str, message: str) -> None:
        """A warning for the client."""
        self._wire.write(b"N", error_body("WARNING", sqlstate, message, None))

    def changed(self, setting: str) -> None:
        """Tell the client the value of a setting that it follows."""
        for name in REPORTED:
            if name.lower() == setting.lower():
                self._wire.write(b"S", text(name) + text(self.settings.get(name) or ""))

    def fetch(self, portal: Portal, rows_max: int, formats: tuple[bool, ...], take: Sink) -> int:
        """Rows of a portal."""
        return portal.fetch(self, rows_max, formats, take)

    def columns(self, portal: Portal) -> tuple[Column, ...]:
        """Columns of a portal, which runs from now on."""
        return portal.open(self)

    def forget_statements(self, name: str | None) -> None:
        """Forget a prepared statement; None: all."""
        if name is None:
            self._statements.clear()
        elif self._statements.pop(name, None) is None:
            raise SqlError(f'prepared statement "{name}" does not exist', "26000")


_HANDLERS: Mapping[bytes, Callable[[Session, Body], None]] = {
    b"Q": Session._simple,
    b"P": Session._parse,
    b"B": Session._bind,
    b"D": Session._describe,
    b"E": Session._run_portal,
    b"C": Session._close,
    b"H": Session._flush,
    b"F": Session._function,
    b"d": Session._pass,
    b"c": Session._pass,
    b"f": Session._pass,
}


def error_body(severity: str, sqlstate: str, message: str, position: int | None) -> bytes:
    """The body of ErrorResponse or NoticeResponse."""
    found = {"S": severity, "V": severity, "C": sqlstate, "M": message}
    if position is not None:
        found["P"] = str(position)
    return fields(found)
