"""What the guard lets through, and what it refuses: the hostile list runs against guard and engine together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from eagleray.cluster.errors import QueryFailed, QueryRejected
from eagleray.sql.engine import Deadline, Limits, connect, lock, run
from eagleray.sql.guard import TEXT_CHARS_MAX, Guard
from eagleray.sql.query import Sql
from tests.lake_tables import EVENTS, event_rows, make_lake

SECRET = "the lake must not read this"

HOSTILE = [
    # data definition and manipulation
    "CREATE TABLE t (a int)",
    "CREATE OR REPLACE VIEW s.events AS SELECT 1",
    "CREATE SCHEMA x",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE MACRO f(x) AS x + 1",
    "CREATE SEQUENCE q",
    "CREATE TYPE mood AS ENUM ('a')",
    "CREATE SECRET s (TYPE s3)",
    "CREATE INDEX i ON s.events (n)",
    "DROP TABLE s.events",
    "DROP VIEW s.events",
    "ALTER TABLE s.events ADD COLUMN x int",
    "TRUNCATE s.events",
    "INSERT INTO s.events VALUES (1)",
    "UPDATE s.events SET n = 1",
    "DELETE FROM s.events",
    "MERGE INTO s.events USING s.late ON true WHEN MATCHED THEN DELETE",
    "SELECT 1 INTO t",
    "WITH x AS (INSERT INTO s.events VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM s.events RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE s.events SET n = 1 RETURNING *) SELECT * FROM x",
    "COMMENT ON TABLE s.events IS 'x'",
    # settings, extensions, databases, transactions
    "SET memory_limit = '100GB'",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "SET VARIABLE x = 1",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FORCE INSTALL spatial FROM community",
    "ATTACH '{secret}' AS x",
    "DETACH memory",
    "USE memory",
    "BEGIN TRANSACTION",
    "COMMIT",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "EXPORT DATABASE '{dir}/out'",
    "IMPORT DATABASE '{dir}'",
    # writing and reading files
    "COPY (SELECT 1) TO '{dir}/out.csv'",
    "COPY s.events FROM '{secret}'",
    "COPY FROM DATABASE memory TO x",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM '{dir}/*.csv'",
    'SELECT * FROM "{secret}"',
    "FROM '{secret}'",
    "TABLE '{secret}'",
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_csv_auto('{secret}')",
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM READ_TEXT('{secret}')",
    "SELECT * FROM system.main.read_text('{secret}')",
    "SELECT * FROM \"read_text\"('{secret}')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_ndjson_objects('{secret}')",
    "SELECT * FROM read_parquet('{secret}')",
    "SELECT * FROM parquet_metadata('{secret}')",
    "SELECT * FROM read_duckdb('{secret}')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM glob('{dir}/*')",
    "SELECT * FROM iceberg_scan('{dir}')",
    "SELECT * FROM sqlite_scan('{secret}', 'api_keys')",
    "SELECT (SELECT content FROM read_text('{secret}'))",
    "SELECT * FROM s.events WHERE EXISTS (FROM read_text('{secret}'))",
    "SELECT * FROM s.events, LATERAL (SELECT * FROM read_text('{secret}'))",
    "WITH x AS (FROM read_text('{secret}')) SELECT * FROM x",
    "SELECT 1 UNION ALL SELECT content FROM read_text('{secret}')",
    "SELECT n FROM s.events ORDER BY (SELECT content FROM read_text('{secret}'))",
    "SELECT n FROM s.events LIMIT (SELECT 1 FROM read_text('{secret}'))",
    "DESCRIBE SELECT * FROM read_text('{secret}')",
    "SUMMARIZE SELECT * FROM read_text('{secret}')",
    "EXPLAIN SELECT * FROM read_text('{secret}')",
    "EXPLAIN ANALYZE SELECT 1",
    "FROM (PIVOT (FROM read_text('{secret}')) ON filename IN ('x') USING count(*))",
    "SELECT * FROM read_text(/* x */ '{secret}') -- y",
    "SELECT * FROM\u00a0read_text('{secret}')",
    "\ufeffSELECT * FROM read_text('{secret}')",
    "SELECT * FROM ｒｅａｄ_ｔｅｘｔ('{secret}')",
    # network
    "SELECT * FROM 'http://127.0.0.1:1/x.parquet'",
    "SELECT * FROM read_csv('https://example.com/x.csv')",
    "SELECT * FROM 's3://bucket/key.parquet'",
    # SQL from text, catalogs, settings and state
    "SELECT * FROM query('SELECT 42')",
    "SELECT * FROM query_table('events')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 42'))",
    "SELECT json_serialize_plan('SELECT 42')",
    "EXECUTE p",
    "PREPARE p AS SELECT 1",
    "SELECT $1",
    "SELECT ?",
    "SELECT getenv('HOME')",
    "SELECT current_setting('temp_directory')",
    "SELECT getvariable('x')",
    "SELECT current_query()",
    "SELECT pg_sleep(1)",
    "SELECT sleep_ms(1000)",
    "SELECT nextval('q')",
    "SELECT write_log('x')",
    "SELECT stats(n) FROM s.events",
    "SELECT x.getenv() FROM (SELECT 'HOME' AS x)",
    "SELECT list_transform(['HOME'], lambda x: getenv(x))",
    "SELECT count(*) FILTER (WHERE getenv('HOME') = '') FROM s.events",
    "SELECT sum(n) OVER (ORDER BY current_setting('threads')) FROM s.events",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_functions()",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM duckdb_tables",
    "WITH duckdb_tables AS (FROM duckdb_tables) FROM duckdb_tables",
    "SELECT * FROM (WITH duckdb_tables AS (SELECT 1) FROM duckdb_tables) a, duckdb_tables b",
    "WITH a AS (FROM duckdb_tables), duckdb_tables AS (SELECT 1) FROM a",
    "SHOW DATABASES",
    "SHOW ALL TABLES",
    "SELECT * FROM (SHOW ALL TABLES)",
    "SELECT * FROM memory.s.events",
    "SELECT * FROM s.events AT (VERSION => 1)",
    # more than one statement, or none
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE s.events",
    "SELECT 1; -- \n COPY (SELECT 1) TO '{dir}/out.csv'",
    "/* SELECT 1 */ DROP TABLE s.events",
    "",
    " ; ",
    "-- SELECT 1",
    "SELECT 1 /*",
    "SELECT '\x00'; DROP TABLE s.events",
    "SELECT \ud800",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    "SELECT 1" + " + 1" * 5000,
    "SELECT '" + "x" * TEXT_CHARS_MAX + "'",
]

ALLOWED = [
    "SELECT user, count(*) FROM s.events WHERE n > 3 GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 10",
    "FROM s.events",
    'SELECT e."user" FROM "s"."events" e',
    "SELECT * FROM S.Events",
    "VALUES (1, 'a'), (2, 'b')",
    "WITH a AS (FROM s.events), b AS (SELECT n FROM a) SELECT * FROM b, a",
    "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r WHERE x < 5) FROM r",
    "SELECT n FROM s.events UNION SELECT _row FROM s.late EXCEPT SELECT 1",
    "SELECT * EXCLUDE (n) REPLACE (upper(user) AS user), COLUMNS('t.*') FROM s.events",
    "SELECT date_trunc('hour', time) AS h, quantile_cont(n, 0.5), approx_count_distinct(user) FROM s.events GROUP BY h",
    "SELECT row_number() OVER (PARTITION BY user ORDER BY n), lag(n) OVER w FROM s.events WINDOW w AS (ORDER BY n)",
    "SELECT list_filter([1, 2], lambda x: x > 1), [x * 2 for x in [1, 2]], {'a': 1}.a, map {'a': 1}['a']",
    "SELECT CASE WHEN user LIKE 'u%' THEN 1 END, coalesce(user, ''), n IN (1, 2), n BETWEEN 1 AND 2 FROM s.events",
    "SELECT time AT TIME ZONE 'Europe/Berlin', time::date, extract(hour FROM time) FROM s.events",
    "SELECT time + INTERVAL 1 DAY, time - INTERVAL '2 hours', age(time) FROM s.events",
    "SELECT _extra->>'$.a', json_extract_string(_extra, '$.b') FROM s.events",
    "SELECT * FROM range(3), generate_series(1, 2), unnest([1])",
    "SELECT * FROM s.events a JOIN s.events b USING (n) LEFT JOIN s.late l ON true",
    "SELECT (SELECT max(n) FROM s.events), EXISTS (FROM s.events), n = ANY (SELECT n FROM s.events) FROM s.events",
    "SELECT * FROM (PIVOT s.events ON user IN ('user-1') USING count(*))",
    "SELECT count(*) FROM s.events TABLESAMPLE 50%",
    "SELECT now() > time, current_date, random() < 2 FROM s.events",
    "DESCRIBE s.events",
    "SUMMARIZE s.events",
    "SHOW TABLES",
    "EXPLAIN SELECT * FROM s.events WHERE n = 1",
    "SELECT 1;",
    "-- comment\nSELECT 'DROP TABLE x; --' /* ; */",
]


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sql]:
    directory = tmp_path_factory.mktemp("lake")
    lake = make_lake(directory)
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(10)), {"p0": 0}, {"p0": 1})
    with Sql(lake.config) as opened:
        yield opened


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:60])
def test_nothing_but_reading_the_lake_is_allowed(sql: Sql, tmp_path: Path, text: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text(SECRET)
    with pytest.raises(QueryRejected) as refusal:
        sql.query(text.replace("{secret}", str(secret)).replace("{dir}", str(tmp_path)), timeout_s=20)
    assert SECRET not in str(refusal.value)
    assert os.listdir(tmp_path) == ["secret.csv"]


@pytest.mark.parametrize("text", ALLOWED, ids=lambda text: repr(text)[:60])
def test_what_analysts_write_is_answered_as_by_duckdb_alone(sql: Sql, text: str) -> None:
    found = sql.query(text, timeout_s=20).table
    if text.startswith(("SHOW", "EXPLAIN", "DESCRIBE", "SUMMARIZE")):  # say where tables are, which differs
        assert found.num_rows
        return
    with duckdb.connect() as alone:
        alone.execute("SET TimeZone = 'UTC'; CREATE SCHEMA s")
        for name in ("events", "late"):
            rows = sql.query(f"FROM s.{name}", timeout_s=20).table
            alone.register("rows", rows)
            alone.execute(f"CREATE TABLE s.{name} AS FROM rows")
        expected = alone.sql(text).to_arrow_table()
    assert found.column_names == expected.column_names
    if not any(word in text for word in ("random", "now()", "age(", "TABLESAMPLE", "current_date")):
        assert sorted(map(repr, found.to_pylist())) == sorted(map(repr, expected.to_pylist()))


@pytest.mark.parametrize("text", [text for text in HOSTILE if "{secret}" in text or "{dir}" in text])
def test_the_locked_engine_alone_reaches_no_file(tmp_path: Path, text: str) -> None:
    """The second wall: what if the guard let these pass?"""
    secret = tmp_path / "secret.csv"
    secret.write_text(SECRET)
    limits = Limits(256 << 20)
    connection = connect(limits, str(tmp_path / "temp"))
    lock(connection)
    found = ""
    try:
        text = text.replace("{secret}", str(secret)).replace("{dir}", str(tmp_path))
        found = str(run(connection, text, limits, Deadline(20)).table.to_pylist())
    except (QueryRejected, QueryFailed) as error:
        found = str(error)
    finally:
        connection.close()
    assert SECRET not in found
    assert os.listdir(tmp_path) == ["secret.csv"]


def test_the_locked_engine_keeps_its_settings(tmp_path: Path) -> None:
    limits = Limits(256 << 20)
    connection = connect(limits, str(tmp_path / "temp"))
    lock(connection)
    for text in (
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "RESET allowed_paths",
        "LOAD httpfs",
    ):
        with pytest.raises((QueryRejected, QueryFailed)):
            run(connection, text, limits, Deadline(20))
    connection.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT\n  n FRO s.events", "(line 2, column 9)"),
        ("SELECT 'ü', getenv('x')", "(line 1, column 13)"),
        ("SELECT * FROM s.event", "table s.event does not exist (line 1, column 15); did you mean s.events"),
        ("SELECT * FROM events", "did you mean s.events?"),
        ("SELECT usr FROM s.events", '"usr"'),
        ("EXPLAIN SELECT nix FROM s.events", "(line 1, column 16)"),
        ("SELECT usr FROM s.events", "s.events has time, user, n, _ingested_at"),
        ("SELECT user + time FROM s.events", "explicit type casts"),
        ("PIVOT s.events ON user USING count(*)", "inside a SELECT"),
        ("SET threads = 1", "SET is not allowed"),
    ],
)
def test_a_refusal_says_what_and_where(sql: Sql, text: str, message: str) -> None:
    with pytest.raises(QueryRejected) as refusal:
        sql.query(text, timeout_s=20)
    assert message in str(refusal.value)


def test_names_of_with_are_tables_only_where_they_are_in_scope() -> None:
    guard = Guard()
    text = "WITH a AS (FROM a) SELECT * FROM a, (WITH b AS (FROM a) FROM b), b, c.d"
    assert sorted(table.names for table in guard.approve(text).tables) == [("a",), ("b",), ("c", "d")]
    guard.close()
