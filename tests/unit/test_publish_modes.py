"""Each mode puts a result into its table so that the same again changes nothing, whatever else happens in between."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.errors import ChecksFailed, CommitFailed, ConfigError
from eagleray.cluster.lake.compaction import compact
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.lake.table_layout import PartitionField, parse_layout
from eagleray.jobs.model import Mode, Schedule
from eagleray.jobs.period import Period, daily
from eagleray.jobs.publish.partitions import Owner
from eagleray.jobs.publish.positions import incremental_positions
from eagleray.jobs.publish.publish import publish
from eagleray.jobs.publish.run_mark import RunMark
from eagleray.jobs.schedule.ticks import periods_of_day
from tests.examples import examples
from tests.published import DAY, NEXT_DAY, OUTPUT, content, make_job, open_lake, rows, run

D, E = date(2015, 9, 12), date(2015, 9, 13)


def test_same_run_is_published_once(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("full")
    first = run(lake, job, rows((D, "a", 1)))
    again = run(lake, job, rows((D, "other", 1)))
    assert (again.snapshot_id, again.rows, again.already) == (first.snapshot_id, 1, True)
    assert content(lake) == [(D, "a", 1)]


def test_full_replaces_everything(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("full", sort_by=("k desc",))
    run(lake, job, rows((D, "a", 1), (E, "b", 2)))
    run(lake, job, rows((D, "c", 3)), "r2")
    assert content(lake) == [(D, "c", 3)]
    run(lake, job, rows(), "r3")
    assert content(lake) == []


def test_overwrite_replaces_partitions_of_the_result_and_of_the_period(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("overwrite_partitions", partition_by=("day",))
    run(lake, job, rows((D, "a", 1), (E, "x", 1)))
    run(lake, job, rows((D, "b", 1)), "r2")
    assert content(lake) == [(D, "b", 1), (E, "x", 1)]
    run(lake, job, rows(), "r3")  # the period's own partition, though nothing came
    assert content(lake) == [(E, "x", 1)]


def test_overwrite_after_the_partitioning_changed_moves_what_stays(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    run(lake, make_job("overwrite_partitions", partition_by=("k",)), rows((D, "a", 1), (E, "x", 1)))
    run(lake, make_job("overwrite_partitions", partition_by=("day",)), rows((D, "b", 2)), "r2")
    assert content(lake) == [(D, "b", 2), (E, "x", 1)]
    assert {file.spec_id for file in lake.pin(OUTPUT).plan().data_files} == {lake.pin(OUTPUT).spec_id}


def test_append_replaces_what_the_same_period_appended(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path, file_bytes_max=1 << 20), make_job("append")
    run(lake, job, rows((D, "a", 1)))
    run(lake, job, rows((E, "b", 1)), "r2", NEXT_DAY)
    for number in range(3, 8):  # compaction mixes periods in one file
        run(lake, job, rows((E, f"b{number}", 1)), f"r{number}", daily(date(2015, 9, 20 + number)))
    compact(lake, OUTPUT, 1 << 20, 1)
    assert len(lake.pin(OUTPUT).plan().files) == 1
    run(lake, job, rows((D, "c", 1)), "again")
    found = content(lake, ("k", "_run", "_run_number"))
    assert ("c", "2015-09-12", 8) in found
    assert sorted(k for k, _, _ in found) == ["b", "b3", "b4", "b5", "b6", "b7", "c"]
    assert ("b", "2015-09-13", 2) in found


def appended(lake: Lake, schedule: str | None, day: date, hour: int | None = None) -> list[str]:
    """The values after a run for a day, or for an hour of it: `v` of each row says which hours it is of."""
    job = make_job("append", schedule=Schedule(schedule) if schedule else None)
    period = daily(day) if hour is None else periods_of_day(job.schedule, day, "UTC")[hour]
    hours = range(24) if hour is None else [hour]
    run(lake, job, rows(*((day, f"{period.label}", at) for at in hours)), f"{schedule}{day}{hour}", period)
    return [f"{d.day}:{v}" for d, _, v in content(lake)]


def test_a_changed_schedule_doubles_nothing(tmp_path: Path) -> None:
    lake, hourly = open_lake(tmp_path), "0 * * * *"
    for hour in (3, 4):
        appended(lake, hourly, D, hour)
    appended(lake, hourly, E, 3)
    assert sorted(appended(lake, None, D)) == sorted(["13:3", *(f"12:{hour}" for hour in range(24))])
    assert len(appended(lake, None, D)) == 25  # again
    with pytest.raises(ConfigError, match=r"rows of 2015-09-12 00:00 to 2015-09-13 00:00 UTC, .*-12T05"):
        appended(lake, hourly, D, 5)
    assert len(appended(lake, hourly, E, 5)) == 26
    assert len(appended(lake, hourly, E, 3)) == 26
    assert len(appended(lake, "0 3 * * *", date(2015, 9, 14))) == 50


def test_run_number_is_given_by_the_commit_and_not_by_the_writing(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("append")
    run(lake, job, rows((D, "first", 1)))

    class Slow:
        """A result in whose midst another run publishes."""

        def __iter__(self):  # type: ignore[no-untyped-def]
            yield from rows((E, "slow", 1)).to_batches()
            run(lake, job, rows((E, "quick", 1)), "quick", daily(date(2015, 9, 14)))

    slow = pa.RecordBatchReader.from_batches(rows().schema, iter(Slow()))
    publish(lake, job, NEXT_DAY, slow, RunMark("slow", "daily", NEXT_DAY.label, 1, {}), {})
    assert content(lake, ("k", "_run_number")) == [("first", 1), ("quick", 2), ("slow", 3)]


def test_merge_replaces_rows_by_key_and_null_is_a_key(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("merge", key=("k", "day"))
    run(lake, job, rows((D, "a", 1), (D, "b", 1), (D, None, 0), (None, "b", 5)))
    for run_id in ("r2", "r3"):
        run(lake, job, rows((D, "b", 2), (D, "c", 2), (D, None, 3)), run_id)
        assert content(lake) == sorted([(D, "a", 1), (D, "b", 2), (D, "c", 2), (D, None, 3), (None, "b", 5)], key=repr)


def test_merge_leaves_files_without_a_match_alone(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("merge", key=("k",))
    run(lake, job, rows((D, "a", 1), (D, "c", 1)))
    run(lake, job, rows((D, "x", 1), (D, "z", 1)), "r2")
    before = {file.file_path for file in lake.pin(OUTPUT).plan().data_files}
    run(lake, job, rows((D, "y", 1)), "r3")
    assert before <= {file.file_path for file in lake.pin(OUTPUT).plan().data_files}
    run(lake, job, rows((D, "x", 2)), "r4")
    assert len(before & {file.file_path for file in lake.pin(OUTPUT).plan().data_files}) == 1
    assert content(lake, ("k", "v")) == [("a", 1), ("c", 1), ("x", 2), ("y", 1), ("z", 1)]


def test_key_that_the_result_has_twice_is_refused(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("merge", key=("k",))
    with pytest.raises(ChecksFailed, match="once in the result") as failed:
        run(lake, job, rows((D, "a", 1), (D, "a", 2)))
    assert failed.value.failures[0][1:] == (1, [{"k": "a", "rows": 2}])
    assert content(lake) == []


def test_positions_belong_to_the_table_whatever_the_job_is_called(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("incremental")
    run(lake, job, rows((D, "a", 1)), "r1", positions={"s.events": {"p0": 3}})
    renamed = replace(job, name="edits")
    assert incremental_positions(lake, renamed) == {"s.events": {"p0": 3}}
    run(lake, renamed, rows((D, "b", 1)), "r2", positions={"s.events": {"p0": 5}}, since={"s.events": {"p0": 3}})
    assert incremental_positions(lake, job) == {"s.events": {"p0": 5}}


@pytest.mark.parametrize(("names", "found"), [(["daily"], 0), (["old"], 0), (["a", "daily"], 1), (["a", "b"], None)])
def test_positions_of_earlier_versions_are_found(tmp_path: Path, names: list[str], found: int | None) -> None:
    lake, job = open_lake(tmp_path), make_job("incremental")
    lake.ensure_output(OUTPUT, rows().schema)
    written = {f"eagleray.positions.{name}": json.dumps({"s.events": {"p0": at}}) for at, name in enumerate(names)}
    lake.replace(OUTPUT, Change(properties=written))
    if found is None:
        with pytest.raises(ConfigError, match=r"has positions of a, b; give the job the name"):
            incremental_positions(lake, job)
    else:
        assert incremental_positions(lake, job) == {"s.events": {"p0": found}}


def test_incremental_moves_positions_with_its_rows_and_refuses_what_was_read_twice(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("incremental")
    assert incremental_positions(lake, job) is None
    three, five = {"s.events": {"p0": 3}}, {"s.events": {"p0": 5}}
    run(lake, job, rows((D, "a", 1)), "r1", positions=three)
    assert incremental_positions(lake, job) == three
    snapshot = lake.pin(OUTPUT).snapshot_id
    assert run(lake, job, rows(), "r2", positions=three, since=three).snapshot_id == snapshot
    run(lake, job, rows((D, "b", 1)), "r3", positions=five, since=three)
    with pytest.raises(CommitFailed, match="another run of daily"):
        run(lake, job, rows((D, "b", 1)), "r4", positions=five, since=three)
    run(lake, job, rows(), "r5", positions={"s.events": {"p0": 9}}, since=five)  # nothing of what arrived passed
    assert incremental_positions(lake, job) == {"s.events": {"p0": 9}}
    assert content(lake, ("k", "_run", "_run_number")) == [("a", "r1", 1), ("b", "r3", 2)]


def test_incremental_with_a_key_merges(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("incremental", key=("k",))
    run(lake, job, rows((D, "a", 1), (D, "b", 1)), "r1", positions={"s": {"p0": 1}})
    run(lake, job, rows((D, "b", 2)), "r2", positions={"s": {"p0": 2}}, since={"s": {"p0": 1}})
    assert content(lake, ("k", "v", "_run_number")) == [("a", 1, 1), ("b", 2, 2)]


def test_result_with_more_columns_widens_the_table(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("merge", key=("k",))
    run(lake, job, rows(("a",), names=("k",)))
    run(lake, job, rows((D, "b", 1)), "r2")
    assert content(lake) == [(None, "a", None), (D, "b", 1)]
    with pytest.raises(ConfigError, match="column k is string in the table and long now"):
        run(lake, job, pa.table({"k": [1]}), "r3")


def test_what_does_not_fit_the_table_names_the_jobs_file(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("full")
    for wrong in (
        replace(job, partition_by=("day(time)", "hour(time)"), mode="append"),  # Iceberg has only one of them
        replace(job, partition_by=("day(k)",)),
        replace(job, sort_by=("nope",)),
        replace(job, key=("nope",), mode="merge"),
        replace(job, mode="append", source=replace(job.source, line=7)),
    ):
        result = rows((D, "a", 1)).append_column("time", pa.array([0], pa.timestamp("us", "UTC")))
        if wrong.source.line == 7:
            result = result.append_column("_run", pa.array(["x"]))
        with pytest.raises(ConfigError) as error:
            run(lake, wrong, result)
        assert error.value.where.startswith(f"jobs/daily.sql:{wrong.source.line}")
    run(lake, job, rows((D, "a", 1)))
    with pytest.raises(
        ConfigError, match=r"^jobs/daily\.sql:1: a job's output: table reports\.daily: column k is string"
    ):
        run(lake, make_job("merge", key=("k",)), pa.table({"k": [1]}), "r2")


def test_failure_in_the_midst_of_the_rows_leaves_no_file_and_no_table(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield from rows((D, "a", 1)).to_batches()
        raise RuntimeError("the engine died")

    lake, job = open_lake(tmp_path), make_job("full")
    reader = pa.RecordBatchReader.from_batches(rows().schema, broken())
    with pytest.raises(RuntimeError, match="engine died"):
        publish(lake, job, DAY, reader, RunMark("r", "daily", "x", 1, {}), {})
    assert not list((tmp_path / "data" / "lake").rglob("*.parquet"))


Row = tuple[date, str, int]
MODES: dict[Mode, dict[str, tuple[str, ...]]] = {
    "full": {},
    "overwrite_partitions": {"partition_by": ("day",)},
    "append": {},
    "merge": {"key": ("k",)},
}


@examples(8)
@given(
    mode=st.sampled_from(sorted(MODES)),
    results=st.lists(
        st.lists(st.tuples(st.sampled_from([D, E]), st.sampled_from("abcde"), st.integers(0, 9)), max_size=4),
        min_size=1,
        max_size=4,
    ),
)
def test_every_mode_equals_its_meaning(
    tmp_path_factory: pytest.TempPathFactory, mode: Mode, results: list[list[Row]]
) -> None:
    lake, job = open_lake(tmp_path_factory.mktemp("lake")), make_job(mode, **MODES[mode])
    expected: list[tuple[str, Row]] = []
    for number, found in enumerate(results):
        result = list({row[1]: row for row in found}.values()) if mode == "merge" else found
        period = (DAY, NEXT_DAY)[number % 2]
        for attempt in ("first", "again"):
            run(lake, job, rows(*result), f"{number}-{attempt}", period)
        expected = [one for one in expected if _stays(mode, one, period, result)]
        expected += [(period.label, row) for row in result]
        assert content(lake) == sorted((row for _, row in expected), key=repr)


def _stays(mode: Mode, one: tuple[str, Row], period: Period, result: list[Row]) -> bool:
    """Whether a row that an earlier run left is still there after `result`."""
    label, (day, key, _) = one
    if mode == "append":
        return label != period.label
    if mode == "merge":
        return key not in {row[1] for row in result}
    return mode == "overwrite_partitions" and day not in {period.day, *(row[0] for row in result)}


def _fields(*texts: str) -> tuple[PartitionField, ...]:
    columns = pa.schema([("time", pa.timestamp("us", "UTC")), ("day", pa.date32()), ("label", pa.string())])
    return parse_layout("t", columns, texts, ()).partition_by


def _owner(period: Period, *texts: str) -> Owner:
    kinds = {"time": pa.timestamp("us", "UTC"), "day": pa.date32(), "label": pa.string()}
    fields = _fields(*texts)
    return Owner(fields, {field.name: kinds[field.path.column] for field in fields}, period)


def test_period_owns_the_partitions_that_lie_wholly_within_it() -> None:
    number = (D - date(1970, 1, 1)).days
    assert [_owner(DAY, "day(time)").owns([number + step]) for step in (-1, 0, 1)] == [False, True, False]
    assert [_owner(DAY, "hour(time)").owns([number * 24 + hour]) for hour in (-1, 0, 23, 24)] == [
        False,
        True,
        True,
        False,
    ]
    assert _owner(DAY, "day(time)", "label").owns([number, "x"])
    assert not _owner(DAY, "label").owns(["x"])
    assert _owner(DAY, "label").owns(["2015-09-12"])
    assert not _owner(DAY, "month(day)").owns([548])
    assert not _owner(DAY, "day").owns([None])
    berlin = daily(D, "Europe/Berlin")
    assert _owner(berlin, "day").owns([number])
    assert not _owner(berlin, "day(time)").owns([number])  # 22:00 to 22:00 covers no day of UTC
    assert _owner(daily(date(2015, 10, 25), "Europe/Berlin"), "day").owns([number + 43])  # 25 hours
    month = Period(datetime(2015, 9, 1, tzinfo=UTC), datetime(2015, 10, 1, tzinfo=UTC), date(2015, 9, 1), "2015-09")
    assert _owner(month, "month(time)").owns([548])
    assert _owner(month, "day").owns([number])
