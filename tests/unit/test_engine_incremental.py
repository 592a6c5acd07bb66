"""Incremental jobs see each row once: by offset in a stream's tables, by window, by run number in tables of jobs."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.errors import JobFailed
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.lake.scan import Pinned
from eagleray.jobs.engines.incremental import arrived, grows, position, positions
from eagleray.jobs.model import Job, Source
from eagleray.jobs.period import daily
from eagleray.jobs.publish.publish import publish
from eagleray.jobs.publish.run_mark import RunMark
from tests.examples import examples
from tests.jobs_project import produce, sql_job
from tests.lake_tables import EVENTS, NOON_US, TIME, event_rows, make_lake, make_stream

COUNT = "SELECT n FROM s.events ORDER BY n"
MINUTE_US = 60_000_000


def land_at(lake: Lake, begins: dict[int, int], counts: dict[int, int], first: int) -> dict[int, int]:
    """Commit rows of several log partitions, which begin at these offsets; returns where they end."""
    parts = []
    for partition, count in counts.items():
        offsets = pa.array(range(begins[partition], begins[partition] + count), pa.int64())
        where = {"_partition": pa.array([partition] * count, pa.int32()), "_offset": offsets}
        parts.append(event_rows(count, first, **where))
        first += count
    ends = {partition: begins[partition] + count for partition, count in counts.items()}
    named = [{f"p{p}": at for p, at in each.items()} for each in ({p: begins[p] for p in counts}, ends)]
    lake.commit(EVENTS, lake.write(EVENTS, pa.concat_tables(parts)), *named)
    return {**begins, **ends}


def pin(lake: Lake, table: str = EVENTS) -> Pinned:
    return open_snapshots(lake.config).pin([table])[table]


@examples(8)
@given(commits=st.lists(st.dictionaries(st.integers(0, 3), st.integers(1, 4), min_size=1), min_size=1, max_size=5))
def test_every_row_is_seen_once_whenever_a_run_comes(
    tmp_path_factory: pytest.TempPathFactory, commits: list[dict[int, int]]
) -> None:
    directory = tmp_path_factory.mktemp("lake")
    lake = make_lake(directory)
    ends, first, seen, since = dict.fromkeys(range(4), 0), 0, [], None
    for counts in commits:
        ends = land_at(lake, ends, counts, first)
        first += sum(counts.values())
        rows = produce(lake.config, sql_job(COUNT, mode="incremental"), directory, since=since)
        seen += rows["n"].to_pylist()
        since = json.loads(json.dumps(dict(positions({EVENTS: pin(lake)}))))
        assert seen == list(range(first))
    assert produce(lake.config, sql_job(COUNT, mode="incremental"), directory, since=since).num_rows == 0


def test_an_empty_stream_has_a_position(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    before = position(pin(lake))
    assert before == {}
    land_at(lake, {0: 0}, {0: 3}, 0)
    since = {EVENTS: before}
    assert produce(lake.config, sql_job(COUNT, mode="incremental"), tmp_path, since=since).num_rows == 3


def test_windows_are_seen_once_by_their_end(tmp_path: Path) -> None:
    windows = {"per_user": {"tumble": "1m", "group_by": ["user"], "aggregate": {"n": "count()"}}}
    lake = make_lake(tmp_path, make_stream(windows=windows))
    table = "s.per_user"

    def close(first: int, last: int, begins: int) -> None:
        starts = [NOON_US + minute * MINUTE_US for minute in range(first, last)]
        ends = [start + MINUTE_US for start in starts]
        rows = {"window_start": pa.array(starts, TIME), "window_end": pa.array(ends, TIME), "user": ["u"] * len(starts)}
        files = lake.write(table, pa.table({**rows, "n": list(range(first, last))}))
        lake.commit(table, files, {"closed": begins}, {"closed": ends[-1]})

    job = sql_job("SELECT n FROM s.per_user ORDER BY n", table, mode="incremental")
    assert position(pin(lake, table)) == {}
    close(0, 3, -(2**62))
    since = {table: position(pin(lake, table))}
    assert since == {table: {"window_end": NOON_US + 3 * MINUTE_US}}
    close(3, 5, NOON_US + 3 * MINUTE_US)
    assert produce(lake.config, job, tmp_path, since=since)["n"].to_pylist() == [3, 4]
    assert produce(lake.config, job, tmp_path)["n"].to_pylist() == [0, 1, 2, 3, 4]


def table_of_a_job(lake: Lake, name: str, rows: pa.Table) -> None:
    lake._catalog.create_namespace_if_not_exists(name.split(".")[0])
    table = lake._catalog.create_table_if_not_exists(name, rows.schema)
    table.append(rows)


def appended(lake: Lake, name: str, number: int, *, mode: Any = "append") -> None:
    """A run of a job with that mode; in `append`, all rows are of the run `number`."""
    job = Job("up", name, mode, Source(Path("jobs/up.sql"), 1, "SELECT 1"))
    rows = pa.table({"n": [number]} if mode == "append" else {"n": [number], "_run_number": [100 - number]})
    publish(lake, job, daily(date(2015, 9, number)), rows.to_reader(), RunMark(f"{mode}{number}", "up", "", 1, {}), {})


def test_tables_that_jobs_append_to_are_seen_by_run_number(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    for number in (1, 2, 5):
        appended(lake, "jobs.appended", number)
    pinned = pin(lake, "jobs.appended")
    assert position(pinned) == {"_run_number": 3}
    job = sql_job("SELECT n FROM jobs.appended ORDER BY n", "jobs.appended", mode="incremental")
    since = {"jobs.appended": {"_run_number": 1}}
    assert produce(lake.config, job, tmp_path, since=since)["n"].to_pylist() == [2, 5]


def test_a_run_number_that_a_result_brought_along_is_no_position(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    for number in (1, 2):
        appended(lake, "jobs.copied", number, mode="full")
    assert not grows(pin(lake, "jobs.copied"))
    appended(lake, "jobs.copied", 3)
    assert position(pin(lake, "jobs.copied")) == {"_run_number": 98}  # as the user's own says
    appended(lake, "jobs.copied", 4, mode="full")
    assert not grows(pin(lake, "jobs.copied"))


def test_other_inputs_are_read_whole_and_alone_refused(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land_at(lake, {0: 0}, {0: 3}, 0)
    copied = pin(lake).plan().batches(["n", "_partition", "_offset"])
    table_of_a_job(lake, "dim.names", pa.Table.from_batches(list(copied)))
    assert not grows(pin(lake, "dim.names"))
    with pytest.raises(ValueError, match=r"dim\.names is not appended to"):
        arrived(pin(lake, "dim.names"), None)
    joined = sql_job(
        "SELECT e.n FROM s.events e JOIN dim.names d USING (n) ORDER BY 1", EVENTS, "dim.names", mode="incremental"
    )
    assert produce(lake.config, joined, tmp_path, since={EVENTS: {"p0": 2}})["n"].to_pylist() == [2]
    alone = sql_job("SELECT n FROM dim.names", "dim.names", mode="incremental")
    with pytest.raises(JobFailed, match=r"none of dim\.names is appended to; expected a stream's table"):
        produce(lake.config, alone, tmp_path)


def test_files_that_were_read_are_not_opened_again(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    ends = land_at(lake, {0: 0, 1: 0}, {0: 3, 1: 3}, 0)
    since = position(pin(lake))
    land_at(lake, ends, {1: 2}, 6)
    assert len(pin(lake).plan().files) == 2
    assert pin(lake).plan(arrived(pin(lake), since)).rows == 2
