"""SQL jobs by DuckDB: right types, bounded memory, pruned files, one snapshot, errors that say where."""

from __future__ import annotations

import pickle
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cluster.errors import JobFailed
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.lake.scan import ScanPlan
from eagleray.jobs.engines.execute import execute
from eagleray.jobs.engines.table_types import table_schema
from eagleray.jobs.model import Limits
from eagleray.sql.tables import Declared
from tests.jobs_project import DAY, produce, sql_job
from tests.lake_tables import TIME, event_rows, make_lake, make_stream
from tests.sql_lake import land

MIB = 1 << 20


def test_the_period_is_in_the_statement(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3, first=-43_201), event_rows(2))
    job = sql_job("SELECT n, $date AS day FROM s.events WHERE time >= $start AND time < $end ORDER BY n")
    rows = produce(lake.config, job, tmp_path)
    assert rows["n"].to_pylist() == [-43_200, -43_199, 0, 1]
    assert rows.schema.field("day").type == pa.date32()


def test_a_statement_may_have_any_size(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3))
    wanted = ", ".join(f"'user-{number}'" for number in range(20_000))
    job = sql_job(f"SELECT n FROM s.events WHERE user IN ({wanted}) ORDER BY n")
    assert len(wanted) > 200_000
    assert produce(lake.config, job, tmp_path)["n"].to_pylist() == [0, 1, 2]


def test_results_have_the_types_of_tables(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3))
    text = """
        SELECT sum(n) AS total, count(*) AS c, 1::UTINYINT AS small, 1::UBIGINT AS large, 'a'::ENUM('a', 'b') AS e,
            TIMESTAMP_NS '2015-09-12 00:00:00.123456789' AS ns, TIMESTAMP_S '2015-09-12 00:00:00' AS s, max(time) AS t,
            1.5::DECIMAL(9, 2) AS d, [1::SMALLINT] AS l, {'x': 1::HUGEINT::BIGINT} AS st,
            'x'::BLOB AS b
        FROM s.events"""
    rows = produce(lake.config, sql_job(text), tmp_path)
    kinds = dict(zip(rows.schema.names, rows.schema.types, strict=True))
    assert kinds == {
        "total": pa.int64(), "c": pa.int64(), "small": pa.int32(), "large": pa.int64(), "e": pa.string(),
        "ns": pa.timestamp("us"), "s": pa.timestamp("us"), "t": TIME, "d": pa.decimal128(9, 2),
        "l": pa.list_(pa.int32()), "st": pa.struct([("x", pa.int64())]), "b": pa.binary(),
    }  # fmt: skip
    (row,) = rows.to_pylist()
    assert (row["total"], row["d"], row["ns"].microsecond, row["e"]) == (3, Decimal("1.50"), 123456, "a")


@pytest.mark.parametrize(
    ("statement", "message", "line", "again"),
    [
        ("SELECT n,\n nope FROM s.events", 'Referenced column "nope" not found', 8, False),
        ("SELECT $start AS a, nope FROM s.events", "(column 21)", 7, False),
        ("SELECT n + user FROM s.events", "", 7, False),
        ("SELECT n\nFROM s.events\nWHERE user::INT > 0", "Could not convert string 'user-0'", 9, False),
        ("SELECT n, n FROM s.events", "two columns 'n'", 7, False),
        ("SELECT INTERVAL 1 DAY AS i FROM s.events", "the column i is", 7, False),
        ("SELECT 1::HUGEINT * 9223372036854775807 * 2 AS h", "the column h: ", 7, False),
        ("SELECT * FROM s.events WHERE n IN (SELECT x FROM other.thing)", "other.thing", 7, False),
        ("DELETE FROM s.events", "DELETE is not allowed", 7, False),
        ("SELECT count(*) FROM range(100000000000) a, range(10) b WHERE a.range * 3 = b.range", "time limit", 7, True),
    ],
)
def test_an_error_says_job_engine_file_line_and_snapshot(
    tmp_path: Path, statement: str, message: str, line: int, again: bool
) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3))
    job = sql_job(statement, line=7, file=tmp_path / "a.sql", limits=Limits(timeout_us=3_000_000))
    with pytest.raises(JobFailed) as failed:
        produce(lake.config, job, tmp_path)
    error = failed.value
    snapshot = open_snapshots(lake.config).pin(["s.events"])["s.events"].snapshot_id
    assert message in error.message
    assert (error.job, error.engine, error.file, error.line) == ("a", "duckdb", str(tmp_path / "a.sql"), line)
    assert error.snapshots == {"s.events": snapshot} and error.retryable == again
    assert f"{tmp_path}/a.sql:{line}: " in str(error) and f"s.events at snapshot {snapshot}" in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.retryable, copy.snapshots) == (str(error), again, error.snapshots)


def test_an_input_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"s\.events"):
        produce(make_lake(tmp_path / "x", make_stream(name="t")).config, sql_job("SELECT * FROM s.events"), tmp_path)


def test_a_sort_beyond_memory_spills_and_streams(tmp_path: Path) -> None:
    config = make_lake(tmp_path).config
    text = "SELECT hash(range) AS h, repeat('x', 100) AS x FROM range(3000000) ORDER BY h::BIGINT % 1000003, h"
    job = sql_job(text.replace("hash(range) AS h", "(hash(range) >> 1)::BIGINT AS h"), limits=Limits(400 * MIB))
    with execute(config, job, DAY, {}, tmp_path) as produced:
        rows = sum(batch.num_rows for batch in produced.reader)
    assert rows == 3_000_000


def test_too_little_memory_says_what_to_raise(tmp_path: Path) -> None:
    config = make_lake(tmp_path).config
    job = sql_job("SELECT list(range) AS l FROM range(60000000)", limits=Limits(64 * MIB))
    with pytest.raises(JobFailed, match=r"16 MiB of memory .*\(memory\)") as failed:
        produce(config, job, tmp_path)
    assert failed.value.retryable


def test_only_files_that_can_matter_are_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["day(time)"]}))
    land(lake, *(event_rows(5, first=day * 86_400) for day in range(-2, 3)))
    plans: list[ScanPlan] = []
    attach = Declared.attach

    def seen(self: Declared, connection: object, plan: ScanPlan) -> object:
        plans.append(plan)
        return attach(self, connection, plan)

    monkeypatch.setattr(Declared, "attach", seen)
    job = sql_job("SELECT count(*) AS c FROM s.events WHERE time >= $start AND time < $end")
    assert produce(lake.config, job, tmp_path).to_pylist() == [{"c": 5}]
    assert [len(plan.files) for plan in plans] == [1]


def test_a_run_reads_what_was_pinned_whatever_is_committed_meanwhile(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, event_rows(3))
    pinned = open_snapshots(lake.config).pin(["s.events"])
    land(lake, event_rows(4, 3))
    with execute(lake.config, sql_job("SELECT count(*) AS c FROM s.events"), DAY, pinned, tmp_path) as produced:
        assert produced.reader.read_all().to_pylist() == [{"c": 3}]


def test_what_no_table_can_hold_is_named() -> None:
    for kind in (pa.duration("s"), pa.decimal256(50, 2), pa.list_(pa.month_day_nano_interval())):
        with pytest.raises(Exception, match="the column x is"):
            table_schema(pa.schema([("x", kind)]))
