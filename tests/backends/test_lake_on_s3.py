"""The lake's promises on an S3 warehouse with a Postgres catalog: the same as on a local disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray import table
from eagleray.cluster.clock import ManualClock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed, ConfigError
from eagleray.cluster.lake.catalog import open_catalog
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.jobs.builtin import compact, orphans
from eagleray.jobs.model import Limits
from eagleray.jobs.publish.row_deletes import take_rows
from eagleray.jobs.publish.scratch_duckdb import desk
from eagleray.sql.query import Sql
from tests.backends.conftest import lake_config
from tests.jobs_project import function_job, produce, sql_job
from tests.lake_tables import (
    EVENTS,
    SCHEMA,
    answer_lost,
    catalog_commits,
    event_rows,
    fight,
    make_stream,
    numbers,
)
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.sql_lake import land, rows

DAY_US = 86_400_000_000


def opened(config: Config, **settings: Any) -> Lake:
    lake = Lake.open(config)
    lake.ensure({"s": make_stream(**settings)})
    return lake


def test_what_was_committed_is_read_by_sql_and_by_the_library(config: Config) -> None:
    lake = opened(config, lake={"partition_by": ["user"]})
    land(lake, *(event_rows(10, step) for step in range(0, 50, 10)))
    assert numbers(lake) == list(range(50))
    with Sql(config) as sql:
        assert rows(sql, "SELECT count(*) AS c, sum(n) AS s FROM s.events") == [{"c": 50, "s": sum(range(50))}]
        found = rows(sql, "SELECT n FROM s.events WHERE \"user\" = 'user-3' AND n > 20 ORDER BY n")
        assert [row["n"] for row in found] == [23, 28, 33, 38, 43, 48]


def test_a_query_fetches_the_columns_and_row_groups_that_it_needs(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = opened(config)
    noise = [os.urandom(40).hex() for _ in range(2000)]
    wide = event_rows(300_000).set_column(1, "user", pa.array([noise[i % 2000] + str(i) for i in range(300_000)]))
    land(lake, wide)
    (file,) = lake.pin(EVENTS).plan().data_files
    fetched: list[int] = []
    store = type(lake.load(EVENTS).io.store)  # type: ignore[attr-defined]
    get = store.get

    def counted(self: Any, location: str, start: int = 0, length: int | None = None) -> bytes:
        if location.endswith(".parquet"):
            fetched.append(length or 0)
        return get(self, location, start, length)  # type: ignore[no-any-return]

    monkeypatch.setattr(store, "get", counted)
    with Sql(config) as sql:
        assert rows(sql, "SELECT sum(n) AS s FROM s.events WHERE n < 1000") == [{"s": sum(range(1000))}]
        cold = sum(fetched)
        assert 0 < cold < file.file_size_in_bytes / 5
        rows(sql, "SELECT sum(n) AS s FROM s.events WHERE n < 1000")
        assert sum(fetched) == cold


def test_of_committers_that_fight_for_one_table_each_step_has_one_winner(config: Config) -> None:
    lake = opened(config)
    steps = 12
    assert fight(config, steps, processes=3) >= steps  # a committer that finds its step in the table counts it too
    assert numbers(lake) == list(range(steps))
    assert lake.snapshot_count(EVENTS) == steps


def test_an_answer_that_was_lost_is_resolved_by_reading_back(config: Config) -> None:
    lake = opened(config)
    lost = answer_lost(ConnectionError("the server closed the connection unexpectedly"))
    with catalog_commits(lake, lost):
        assert lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 3})
    assert numbers(lake) == [0, 1, 2]
    assert lake.snapshot_count(EVENTS) == 1
    with pytest.raises(CommitFailed):
        lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 2})


def test_every_table_of_a_query_is_as_of_one_instant(config: Config) -> None:
    lake = opened(config)
    lake.ensure_output("s.copy", pa.schema([("n", pa.int64())]))
    snapshots = open_snapshots(config)
    land(lake, event_rows(1))
    before = snapshots.pin(["s.events", "s.copy"])
    land(lake, event_rows(1, 1))
    land(lake, pa.table({"n": [1]}), table="s.copy")
    after = snapshots.pin(["s.events", "s.copy", "s.absent"])
    assert (before["s.events"].progress, before["s.copy"].snapshot_id) == ({"p0": 1}, None)
    assert after["s.events"].progress == {"p0": 2}
    assert after["s.copy"].snapshot_id is not None
    assert sorted(after) == ["s.copy", "s.events"]


def test_compaction_expiry_and_orphans_work_in_the_bucket(config: Config, s3: S3Server) -> None:
    lake = opened(config)
    land(lake, *(event_rows(5, step) for step in range(0, 40, 5)))
    report = compact.run(lake.config, compact.CompactOptions((EVENTS,)))
    assert (report.files_before, report.files_after) == (8, 1)
    assert numbers(lake) == list(range(40))
    left = lake.write(EVENTS, event_rows(3))  # by a writer that was killed
    land(lake, event_rows(1, 40))
    later = ManualClock(SystemClock().now_us() + 40 * DAY_US)
    found = orphans.run(config, orphans.OrphansOptions(), later)
    assert found.files == 1
    io = lake.load(EVENTS).io
    assert not io.new_input(left[0].file_path).exists()
    assert numbers(lake) == list(range(41))


def test_rows_are_taken_out_of_the_files_that_hold_them(config: Config) -> None:
    lake = opened(config)
    land(lake, *(event_rows(10, step) for step in range(0, 30, 10)))
    pinned = lake.pin(EVENTS)
    with desk(config, Limits()) as on:
        taken = take_rows(lake, EVENTS, pinned, pinned.plan(), on, "t.n BETWEEN 8 AND 12")
    assert (len(taken.removed), taken.rows) == (2, 5)
    assert sum(file.record_count for file in taken.added) == 15


def test_a_catalog_that_does_not_answer_is_said_in_one_sentence(
    tmp_path: Path, s3: S3Server, postgres: PostgresServer, keys: None
) -> None:
    away = {"type": "sql", "uri": "postgresql://eagleray:hush@127.0.0.1:1/none"}
    with pytest.raises(ConfigError, match=r"lake\.catalog") as error:
        open_catalog(lake_config(tmp_path, s3, postgres, catalog=away))
    assert "hush" not in str(error.value)
    assert "refused" in str(error.value)
    with Sql(lake_config(tmp_path, s3, postgres, catalog=away)) as sql:
        with pytest.raises(Exception, match="catalog cannot be read") as failed:
            rows(sql, "SELECT 1 FROM s.events")
    assert "hush" not in str(failed.value)


def test_the_schema_of_a_table_may_change_between_files(config: Config) -> None:
    lake = opened(config)
    land(lake, event_rows(2))
    lake = Lake.open(config)
    lake.ensure({"s": make_stream(SCHEMA.append(pa.field("more", pa.string())))})
    land(lake, event_rows(2, 2, more=["a", "b"]))
    with Sql(config) as sql:
        found = rows(sql, "SELECT n, more FROM s.events ORDER BY n")
    assert [row["more"] for row in found] == [None, None, "a", "b"]


@pytest.mark.parametrize("engine", ["duckdb", "daft"])
def test_every_engine_reads_the_bucket_with_the_same_keys(
    config: Config, engine: Any, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(engine)
    lake = opened(config)
    land(lake, event_rows(20), event_rows(20, 20))
    for name in s3.keys:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    key, secret = s3.keys["AWS_ACCESS_KEY_ID"], s3.keys["AWS_SECRET_ACCESS_KEY"]
    (tmp_path / "keys").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    own = config.lake.s3.model_copy(update={"credentials_file": str(tmp_path / "keys")})
    config = config.model_copy(update={"lake": config.lake.model_copy(update={"s3": own})})
    job = sql_job('SELECT "user", sum(n) AS s FROM s.events WHERE n >= 10 GROUP BY "user"', engine=engine)
    found = produce(config, job, tmp_path)
    assert sorted(found["s"].to_pylist()) == sorted(sum(n for n in range(10, 40) if n % 5 == u) for u in range(5))


def test_a_function_reads_and_writes_in_the_bucket(config: Config, tmp_path: Path) -> None:
    lake = opened(config)
    land(lake, event_rows(20))

    def doubled(events: pa.Table = table("s.events")) -> pa.Table:  # type: ignore[assignment]
        return pa.table({"n": [2 * n for n in events["n"].to_pylist()]})

    assert sorted(produce(config, function_job(doubled), tmp_path)["n"].to_pylist()) == list(range(0, 40, 2))


def test_queries_leave_no_file_open(config: Config) -> None:
    lake = opened(config)
    land(lake, event_rows(20), event_rows(20, 20))
    counts = []
    with Sql(config) as sql:
        for _ in range(4):
            assert rows(sql, "SELECT sum(n) AS s FROM s.events WHERE n > 1") == [{"s": sum(range(2, 40))}]
            counts.append(sum(link.endswith(".part") for link in _open_files()))
    assert counts == [0, 0, 0, 0]


def _open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except OSError:
            continue
    return found
