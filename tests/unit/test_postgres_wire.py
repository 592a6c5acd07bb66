"""SQL over Postgres' protocol: clients as they are, against a real lake, in the test's own process."""

from __future__ import annotations

import asyncio
import datetime
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors

from eagleray.cluster.api_keys import KeyStore
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.sql.postgres.server import PostgresServer
from tests.certificates import make
from tests.lake_tables import event_rows
from tests.postgres_door import Door
from tests.sql_lake import land

ENDLESS = "SELECT count(*) FROM range(100000000) a, range(1000000) b WHERE a.range * b.range % 1000003 = 5"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    made = Door(tmp_path_factory.mktemp("wire"))
    yield made
    made.server.stop()


@pytest.fixture
def ann(door: Door) -> Iterator[psycopg.Connection[Any]]:
    with door.connect() as connection:
        yield connection


def state(connection: psycopg.Connection[Any], text: str, *parameters: Any) -> tuple[str | None, str | None]:
    """SQLSTATE and position of the error that a statement comes to."""
    with pytest.raises(psycopg.Error) as found:
        connection.execute(text, parameters or None)
    return found.value.sqlstate, found.value.diag.statement_position


TYPES = """SELECT true AS b, 7::smallint AS s, -7::bigint AS i, 1.5::double precision AS d,
 'nan'::double precision AS nan, 12.34::decimal(12,2) AS n, -0.00000001::decimal(12,8) AS small,
 date '2026-01-02' AS dt,
 timestamptz '2026-01-02 03:04:05.6+00' AS tz, timestamp '1999-12-31 23:59:59' AS ts, time '03:04:05.5' AS t,
 'xé'::text AS x, '{"a": [1]}'::json AS j, ARRAY[1, NULL, 3] AS l, ARRAY['a b', 'q"x', ''] AS ls, NULL AS nothing,
 'ab'::blob AS bin, 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'::uuid AS u, interval '3 days 2.5 seconds' AS iv"""
VALUES = {
    "b": True, "s": 7, "i": -7, "d": 1.5, "n": Decimal("12.34"), "small": Decimal("-0.00000001"),
    "dt": datetime.date(2026, 1, 2), "tz": datetime.datetime(2026, 1, 2, 3, 4, 5, 600000, datetime.UTC),
    "ts": datetime.datetime(1999, 12, 31, 23, 59, 59), "t": datetime.time(3, 4, 5, 500000), "x": "xé",  # noqa: DTZ001
    "l": [1, None, 3], "ls": ["a b", 'q"x', ""], "nothing": None, "bin": b"ab",
    "u": UUID("f81d4fae-7dec-11d0-a765-00a0c91e6bf6"), "iv": datetime.timedelta(days=3, seconds=2.5),
}  # fmt: skip


@pytest.mark.parametrize("binary", [False, True])
def test_every_type_arrives_as_text_and_in_binary(ann: psycopg.Connection[Any], binary: bool) -> None:
    cursor = ann.cursor(binary=binary, row_factory=psycopg.rows.dict_row)
    row = cursor.execute(TYPES).fetchone()
    assert row is not None
    assert row.pop("nan") != row.pop("nan", 0.0)
    assert row.pop("j") == {"a": [1]}
    assert row == VALUES


def test_parameters_arrive_as_text_and_in_binary(ann: psycopg.Connection[Any]) -> None:
    text = 'SELECT n, "user" FROM s.events WHERE n > %s AND "user" = %b ORDER BY n'
    row = ann.execute(text, (17, "user-3")).fetchone()
    assert row == (18, "user-3")
    sent = (5, 2**40, 1.5, Decimal("3.25"), datetime.date(2026, 1, 5), True, b"\x00\xff", [1, 2], None)
    for form in ("%s", "%b"):
        found = ann.execute(f"SELECT {', '.join([form] * len(sent))}", sent).fetchone()
        assert found == sent
        assert ann.execute(f"SELECT {form}::text[]", (["a", 'b"'],)).fetchone() == (["a", 'b"'],)
    since = datetime.datetime(2015, 9, 12, 12, 0, 30, tzinfo=datetime.UTC)
    assert ann.execute("SELECT count(*) FROM s.events WHERE time >= %b", (since,)).fetchone() == (10,)


def test_columns_have_the_names_that_postgres_gives_them(ann: psycopg.Connection[Any]) -> None:
    cursor = ann.execute("SELECT count(*), sum(n), max(n) AS top, 1, n::text, current_user, CASE WHEN true THEN 1 END"
                         " FROM s.events GROUP BY n LIMIT 1")  # fmt: skip
    assert [column.name for column in cursor.description or ()] == [
        "count", "sum", "top", "?column?", "n", "current_user", "case",
    ]  # fmt: skip


def test_errors_have_sqlstate_and_position(ann: psycopg.Connection[Any]) -> None:
    assert state(ann, "SELEC 1") == ("42601", "1")
    assert state(ann, "SELECT nope FROM s.events") == ("42703", "8")
    assert state(ann, "SELECT n, nope(1) FROM s.events") == ("42883", "11")
    assert state(ann, "SELECT 1 FROM nope.nope")[0] == "42P01"
    assert state(ann, "SELECT pg_catalog.current_schema(), 'x'::int FROM s.events")[0] == "22P02"
    assert state(ann, "CREATE TABLE x(i int)")[0] == "25006"
    assert state(ann, "INSERT INTO s.events VALUES (1)")[0] == "25006"
    assert state(ann, "SELECT * FROM read_csv('/etc/passwd')")[0] == "42883"
    assert state(ann, "COPY s.events TO STDOUT")[0] == "0A000"
    assert state(ann, "SELECT %s::int", "x")[0] == "22P02"
    assert state(ann, "SHOW nope")[0] == "42704"
    assert ann.execute("SELECT 1").fetchone() == (1,)


def test_a_key_reads_what_its_scopes_open_and_sees_nothing_else(door: Door) -> None:
    with door.connect("bob") as bob:
        assert state(bob, "SELECT * FROM s.events")[0] == "42501"
        assert state(bob, 'SELECT * FROM "lake"."s"."events"')[0] == "42501"
        assert state(bob, "SET search_path = s; SELECT * FROM events")[0] == "42501"
        tables = bob.execute("SELECT DISTINCT table_schema FROM information_schema.tables").fetchall()
        assert tables == [("other",)]
        assert bob.execute("SELECT count(*) FROM pg_class WHERE relname = 'dead_letters'").fetchone() == (0,)
        assert bob.execute("SELECT current_user, session_user").fetchone() == ("bob", "bob")
    with door.connect("root") as root:
        assert root.execute("SELECT count(*) FROM s.dead_letters").fetchone() == (0,)


def test_who_is_not_known_is_refused(door: Door) -> None:
    for words in ({"password": "er_wrong"}, {"user": "nobody", "password": door.keys["ann"]}):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(**{**door.words(), **words})
    with pytest.raises(psycopg.OperationalError, match='database "nope" does not exist'):
        door.connect(dbname="nope")


def test_a_key_from_before_verifiers_is_told_to_be_made_anew(door: Door) -> None:
    import sqlite3

    key = KeyStore(door.config.keys_file, SystemClock()).create("old", ["read"])
    with closing(sqlite3.connect(door.config.keys_file)) as database, database:
        database.execute("UPDATE keys SET scram = NULL WHERE name = 'old'")
    sleep(0.3)  # the server looks at the file that often
    with pytest.raises(psycopg.OperationalError, match="make a new one with `eagleray keys create`"):
        psycopg.connect(**{**door.words(), "user": "old", "password": key})


def test_a_revoked_key_ends_its_session(door: Door) -> None:
    store = KeyStore(door.config.keys_file, SystemClock())
    door.keys["gone"] = store.create("gone", ["read"])
    sleep(0.3)
    with door.connect("gone") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        store.revoke("gone")
        sleep(0.3)
        with pytest.raises(psycopg.OperationalError, match="revoked"):
            connection.execute("SELECT 1")


def test_a_transaction_reads_one_snapshot(door: Door) -> None:
    text = "SELECT count(*) FROM s.events"
    with door.connect() as reader:
        with reader.transaction():
            before = reader.execute(text).fetchone()
            assert reader.execute("SELECT count(*) FROM other.events").fetchone() == (0,)
            land(door.lake, event_rows(5, 1000))
            assert reader.execute(text).fetchone() == before
        after = reader.execute(text).fetchone()
        assert before and after and after[0] == before[0] + 5


def test_a_failed_transaction_takes_nothing_until_its_end(ann: psycopg.Connection[Any]) -> None:
    ann.execute("BEGIN")
    ann.execute("SAVEPOINT a")
    assert state(ann, "SELECT nope")[0] == "42703"
    assert state(ann, "SELECT 1")[0] == "25P02"
    ann.execute("ROLLBACK TO SAVEPOINT a")
    assert ann.execute("SELECT 1").fetchone() == (1,)
    assert state(ann, "SELECT nope")[0] == "42703"
    assert ann.execute("COMMIT").statusmessage == "ROLLBACK"
    assert ann.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_cursors_hand_out_a_result_in_pieces(ann: psycopg.Connection[Any]) -> None:
    with ann.transaction(), ann.cursor(name="c", binary=True) as cursor:
        cursor.itersize = 30_000
        cursor.execute("SELECT i, 'x' || i FROM generate_series(1, %s) AS t(i)", (100_000,))
        assert cursor.fetchone() == (1, "x1")
        cursor.scroll(9)
        assert cursor.fetchone() == (11, "x11")
        assert ann.execute("SELECT 5").fetchone() == (5,)  # beside it
        assert sum(1 for _ in cursor) == 100_000 - 11
    assert state(ann, "FETCH 1 FROM c")[0] == "34000"
    assert state(ann, "DECLARE d CURSOR FOR SELECT 1")[0] == "25P01"


def test_a_cancelled_query_ends_and_its_process_is_free(door: Door) -> None:
    with door.connect() as connection:
        threading.Timer(0.5, connection.cancel_safe).start()
        with pytest.raises(errors.QueryCanceled, match="user request"):
            connection.execute(ENDLESS)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_query_ends_with_its_client(door: Door) -> None:
    connection = door.connect()
    raw = connection.pgconn
    raw.send_query(ENDLESS.encode())
    sleep(0.5)
    busy = taken(door)
    connection.close()
    deadline = monotonic() + 20
    while taken(door) >= busy and monotonic() < deadline:
        sleep(0.05)
    assert taken(door) < busy


def taken(door: Door) -> int:
    """Processes that are at work for somebody."""
    assert door.config.sql.postgres is not None
    return door.config.sql.postgres.queries_max - door.server._worker._slots.qsize()


def test_a_statement_has_the_time_that_the_session_gives_it(ann: psycopg.Connection[Any]) -> None:
    ann.execute("SET statement_timeout = '300ms'")
    assert ann.execute("SHOW statement_timeout").fetchone() == ("300",)
    with pytest.raises(errors.QueryCanceled):
        ann.execute(ENDLESS)
    ann.execute("RESET ALL")


def test_settings_say_what_is_true(ann: psycopg.Connection[Any]) -> None:
    assert ann.execute("SHOW transaction_isolation").fetchone() == ("repeatable read",)
    assert ann.execute("SHOW TIME ZONE").fetchone() == ("UTC",)
    ann.execute("SET TIME ZONE 'UTC'")
    assert state(ann, "SET TIME ZONE 'Europe/Berlin'")[0] == "0A000"
    assert state(ann, "SET client_encoding = 'LATIN1'")[0] == "0A000"
    assert state(ann, "BEGIN READ WRITE")[0] == "0A000"
    ann.execute("SET search_path = s, public")
    assert ann.execute("SELECT count(*) > 0, current_schema() FROM events").fetchone() == (True, "s")
    ann.execute("DISCARD ALL")
    assert state(ann, "SELECT count(*) FROM events")[0] == "42P01"


def test_what_postgres_says_differently_is_understood(ann: psycopg.Connection[Any]) -> None:
    for text, value in (
        ("SELECT to_char(timestamp '2026-03-04 05:06:07', 'YYYY-MM-DD HH24:MI:SS')", "2026-03-04 05:06:07"),
        ("SELECT to_date('2026-03-04', 'YYYY-MM-DD')", datetime.date(2026, 3, 4)),
        ("SELECT '{1,2}'::int[]", [1, 2]),
        ("SELECT 2 = ANY('{1,2}'::int[])", True),
        ("SELECT ('{\"a\": 1}'::jsonb ->> 'a')", "1"),
        ("SELECT 'abc' OPERATOR(pg_catalog.~) 'B'", False),
        ("SELECT 'abc' ~* 'B'", True),
        ("SELECT 'pg_class'::regclass::oid", 1259),
        ("SELECT count(*) > 0 FROM lake.s.events", True),
        ("SELECT now()::timestamptz(3) IS NOT NULL", True),
        ("SELECT 'a' COLLATE \"C\"", "a"),
        ("/* a comment; */ SELECT 'semi;colon' -- ; and another", "semi;colon"),
    ):  # fmt: skip
        assert ann.execute(text).fetchone() == (value,), text


def test_several_statements_come_in_one_message(ann: psycopg.Connection[Any]) -> None:
    with pytest.raises(errors.UndefinedColumn) as found:
        ann.execute("SELECT 1; SELECT nope; SELECT 3")
    assert found.value.diag.statement_position == "18"
    cursor = ann.execute("SELECT 1; SELECT 2 AS b")
    assert cursor.fetchone() == (1,)
    assert cursor.nextset() and cursor.fetchone() == (2,)


def test_sqlalchemy_reflects_tables_with_types_and_comments(door: Door) -> None:
    url = sa.URL.create("postgresql+psycopg", "ann", door.keys["ann"], "127.0.0.1", door.server.port, "lake")
    engine = sa.create_engine(url)
    try:
        found = sa.inspect(engine)
        assert set(found.get_table_names("s")) >= {"events", "late"}
        columns = {
            column["name"]: (str(column["type"]), column["comment"]) for column in found.get_columns("events", "s")
        }
        assert columns["n"][0] == "BIGINT"
        assert columns["_ingested_at"] == ("TIMESTAMP", "When the event was accepted (UTC).")
        assert found.get_table_comment("events", "s")["text"].startswith("Every accepted event")
        assert found.get_pk_constraint("events", "s")["constrained_columns"] == []
        events = sa.Table("events", sa.MetaData(), autoload_with=engine, schema="s")
        with engine.connect() as connection:
            query = (
                sa.select(events.c.user, sa.func.count())
                .where(events.c.n < 10)
                .group_by(events.c.user)
                .order_by("user")
            )
            assert connection.execute(query).fetchall()[0] == ("user-0", 2)
    finally:
        engine.dispose()


def test_asyncpg_learns_types_and_reads_in_binary(door: Door) -> None:
    asyncpg = pytest.importorskip("asyncpg")

    async def ask() -> None:
        words = door.words()
        words["database"] = words.pop("dbname")
        connection = await asyncpg.connect(**words)
        row = await connection.fetchrow(
            'SELECT n, "user" FROM s.events WHERE n > $1 AND "user" = $2 LIMIT 1', 17, "user-3"
        )
        assert tuple(row) == (18, "user-3")
        assert tuple(await connection.fetchrow("SELECT ARRAY[1,2]::int[], ARRAY['x']")) == ([1, 2], ["x"])
        async with connection.transaction():
            rows = [row[0] async for row in connection.cursor("SELECT i FROM range(25000) t(i)", prefetch=10_000)]
        assert rows == list(range(25_000))
        with pytest.raises(TimeoutError):
            await connection.fetch(ENDLESS, timeout=0.5)
        assert await connection.fetchval("SELECT 3") == 3
        await connection.reset()
        await connection.close()

    asyncio.run(ask())


def raw(door: Door, data: bytes) -> bytes:
    """What the server answers to bytes that are no client's, until it closes."""
    with socket.create_connection(("127.0.0.1", door.server.port), timeout=10) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionError):
            while part := sock.recv(4096):
                answer += part
        return answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 64,
        struct.pack("!ii", 2**31 - 1, 3 << 16),
        struct.pack("!ii", 8, 80877102),
        struct.pack("!iiii", 16, 80877102, 1, 2),
        struct.pack("!ii", 20, 3 << 16) + b"user\0ann",
        struct.pack("!ii", 9, 2 << 16) + b"\0",
        b"",
    ],
)
def test_what_is_no_protocol_ends_its_own_connection_alone(door: Door, data: bytes) -> None:
    raw(door, data)
    with door.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_with_a_certificate_nothing_but_tls_is_spoken(door: Door, tmp_path: Path) -> None:
    authority = make(tmp_path, "ca", ca=True)
    pair = make(tmp_path, "localhost", authority)
    edge = Config.model_validate({"edge": {"tls": {"cert": pair.cert, "key": pair.key}}}).edge
    server = PostgresServer(door.config.model_copy(update={"edge": edge}))
    try:
        words = door.words(port=server.port, host="localhost")
        with pytest.raises(psycopg.OperationalError, match="TLS"):
            psycopg.connect(**words, sslmode="disable")
        with psycopg.connect(**words, sslmode="verify-full", sslrootcert=str(authority.cert)) as connection:
            assert connection.pgconn.ssl_in_use
            assert connection.execute("SELECT count(*) > 0 FROM s.events").fetchone() == (True,)
            threading.Timer(0.5, connection.cancel_safe).start()
            with pytest.raises(errors.QueryCanceled):
                connection.execute(ENDLESS)
    finally:
        server.stop()


def test_connections_are_bounded_and_idle_ones_end(door: Door) -> None:
    few = {"port": 0, "connections_max": 1, "queries_max": 1, "idle_timeout_s": 1.5, "cursor_timeout_s": 0.5}
    sql = Config.model_validate({"sql": {"postgres": few}}).sql
    server = PostgresServer(door.config.model_copy(update={"sql": sql}))
    try:
        with door.connect(port=server.port) as first:
            with pytest.raises(psycopg.OperationalError, match="too many connections"):
                door.connect(port=server.port)
            first.execute("BEGIN")
            sleep(1)
            with pytest.raises(psycopg.Error, match="idle-in-transaction"):
                first.execute("SELECT 1")
    finally:
        server.stop()


def test_a_port_that_is_taken_is_named(door: Door) -> None:
    sql = Config.model_validate({"sql": {"postgres": {"port": door.server.port}}}).sql
    with pytest.raises(Exception, match=re.escape("sql.postgres.port: cannot listen on 127.0.0.1")):
        PostgresServer(door.config.model_copy(update={"sql": sql}))


def test_an_open_wire_needs_a_loopback_host() -> None:
    with pytest.raises(ValueError, match="needs a loopback host"):
        Config.model_validate({"edge": {"auth": "off"}, "sql": {"postgres": {"host": "0.0.0.0"}}})


def test_structs_are_sent_as_json(ann: psycopg.Connection[Any]) -> None:
    found = ann.execute("SELECT {'a': [1, 2], 'b': 'x'} AS s, [[1], [2]] AS nested, map {'k': 1} AS m").fetchone()
    assert found == ({"a": [1, 2], "b": "x"}, [[1], [2]], {"k": 1})


def test_rows_far_apart_in_time_keep_their_text(ann: psycopg.Connection[Any]) -> None:
    cursor = ann.execute("SELECT date 'infinity'::text, timestamp '0044-03-15 (BC) 01:02:03'::varchar IS NOT NULL")
    assert cursor.fetchone() == ("infinity", True)
    raw_values = ann.pgconn.exec_(b"SELECT date 'infinity', date '0044-03-15 (BC)', timestamptz '-infinity'")
    assert [raw_values.get_value(0, at) for at in range(3)] == [b"infinity", b"0044-03-15 BC", b"-infinity"]
