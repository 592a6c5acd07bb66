"""overwrite_partitions replaces whole partitions, so every partition must be of one period alone, or is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from eagleray.cluster.errors import ConfigError, JobFailed
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.table_layout import parse_layout
from eagleray.jobs.alignment import reaching_beyond
from eagleray.jobs.model import Schedule
from eagleray.jobs.period import daily
from eagleray.jobs.project.declare import table
from eagleray.jobs.project.load import load_project
from eagleray.jobs.publish.partitions import Owner
from eagleray.jobs.schedule.ticks import periods_of_day
from tests.jobs_project import function_job, make_project, produce, sql_file, sql_job
from tests.published import OUTPUT, content, make_job, open_lake, run

HOURLY, DAILY, MONTHLY, WEEKLY = "0 * * * *", "0 2 * * *", "0 4 1 * *", "0 4 * * 1"
SAME, OTHER = None, "replace each other's rows"
CASES = [
    (DAILY, "UTC", "day(time)", "time", SAME),
    (DAILY, "Europe/Berlin", "day(time)", "time", OTHER),
    (DAILY, "Europe/London", "day(time)", "time", OTHER),  # in winter they would be the same
    (None, "Europe/Berlin", "day(time)", "time", OTHER),
    (DAILY, "Europe/Berlin", "hour(time)", "time", SAME),
    (DAILY, "Asia/Kolkata", "hour(time)", "time", OTHER),
    (HOURLY, "UTC", "day(time)", "time", OTHER),
    (HOURLY, "UTC", "hour(time)", "time", SAME),
    ("*/30 * * * *", "UTC", "hour(time)", "time", OTHER),
    (HOURLY, "Australia/Lord_Howe", "hour(time)", "time", OTHER),  # half an hour off, in the south's winter alone
    (DAILY, "UTC", "month(time)", "time", OTHER),
    (MONTHLY, "UTC", "month(time)", "time", SAME),
    (MONTHLY, "Europe/Berlin", "month(day)", "day", SAME),  # `day` may be a date
    (WEEKLY, "UTC", "month(day)", "day", OTHER),
    (WEEKLY, "UTC", "day(time)", "time", SAME),
    (DAILY, "Europe/Berlin", "day(day)", "$date AS day", SAME),
    (DAILY, "Europe/Berlin", "day(day)", "CAST(time AS DATE) AS day", SAME),
    (HOURLY, "UTC", "day(day)", "$date AS day", OTHER),
    (DAILY, "Europe/Berlin", "day", "day", SAME),
    (DAILY, "Europe/Berlin", "bucket(4, user)", "user", SAME),
    (DAILY, "UTC", "bucket(4, user)", "$date AS day, user", "every partition holds rows of all periods"),
    (DAILY, "UTC", "truncate(7, day)", "strftime($date, '%Y-%m-%d') AS day", "every partition holds rows of all"),
    (DAILY, "Europe/Berlin", "day', 'bucket(4, user)", "$date AS day, user", SAME),
    (DAILY, "Europe/Berlin", "month(day)', 'day", "$date AS day", SAME),
]


@pytest.mark.parametrize(("cron", "zone", "field", "column", "problem"), CASES)
def test_partitions_that_several_periods_share_are_refused(
    tmp_path: Path, cron: str | None, zone: str, field: str, column: str, problem: str | None
) -> None:
    statement = f"SELECT {column} FROM s.events"
    header = {"mode": "overwrite_partitions", "partition_by": f"['{field}']"}
    if cron:
        header |= {"schedule": f"'{cron}'"}
    text = sql_file(statement, **header)
    config = make_project(tmp_path, {"a.sql": text}, jobs={"timezone": zone})
    if problem is None:
        assert load_project(config).jobs["a"].partition_by == tuple(field.split("', '"))
    else:
        with pytest.raises(ConfigError, match=rf"a\.sql:4: partition_by\.0: .*{problem}"):
            load_project(config)


def hours(day: date, zone: str) -> pa.Table:
    period = daily(day, zone)
    count = round((period.end - period.start) / timedelta(hours=1))
    times = [period.start + timedelta(hours=number) for number in range(count)]
    return pa.table({"time": pa.array(times, pa.timestamp("us", "UTC")), "n": list(range(count))})


def test_a_run_that_would_replace_rows_of_others_is_refused_before_it_writes(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    berlin = make_job("overwrite_partitions", partition_by=("day(time)",))
    with pytest.raises(ConfigError, match=r"no whole number of partitions by day\(time\)"):
        run(lake, berlin, hours(date(2015, 9, 12), "Europe/Berlin"), period=daily(date(2015, 9, 12), "Europe/Berlin"))
    assert lake.tables() == []
    by_date = make_job("overwrite_partitions", partition_by=("day",))
    (hour, *_) = periods_of_day(Schedule(HOURLY), date(2015, 9, 12), "UTC")
    with pytest.raises(ConfigError, match="no whole number of partitions by day"):
        run(lake, by_date, pa.table({"day": [date(2015, 9, 12)]}), period=hour)


def test_neighbouring_days_keep_all_their_rows(tmp_path: Path) -> None:
    lake, job = open_lake(tmp_path), make_job("overwrite_partitions", partition_by=("hour(time)",))
    for day in (12, 13, 12):
        at = date(2015, 9, day)
        run(lake, job, hours(at, "Europe/Berlin"), f"r{day}{at}", daily(at, "Europe/Berlin"))
    assert len(content(lake, ("time", "n"))) == 48


def test_a_period_of_summer_time_is_found_in_winter() -> None:
    found = reaching_beyond(Schedule(DAILY, "Europe/London"), "UTC", "day", dates=False)
    assert found is not None and found.start == datetime(2024, 3, 31, tzinfo=UTC)


def events_of_october(directory: Path) -> tuple[Lake, pa.Table]:
    """A table of an event each hour around the end of summer time in Berlin: its days of then, one of 25 hours."""
    lake = open_lake(directory)
    every = pa.concat_tables(hours(date(2026, 10, day), "Europe/Berlin") for day in range(23, 28))
    run(lake, replace(make_job("full"), output="s.events"), every)
    return lake, every


def statement(day: str) -> str:
    return f"SELECT {day} AS day, time FROM s.events WHERE time >= $start AND time < $end"


@pytest.mark.parametrize("day", ["$date", "CAST(time AT TIME ZONE 'Europe/Berlin' AS DATE)"])
def test_days_of_23_and_25_hours_keep_their_rows(tmp_path: Path, day: str) -> None:
    lake, every = events_of_october(tmp_path)
    job = make_job("overwrite_partitions", partition_by=("month(day)", "day"))
    text = sql_job(statement(day), mode="overwrite_partitions", schedule=Schedule(DAILY, "Europe/Berlin"))
    for attempt in ("first", "again"):
        for number in range(23, 28):
            period = daily(date(2026, 10, number), "Europe/Berlin")
            run(lake, job, produce(lake.config, text, tmp_path, period), f"{attempt}{number}", period)
    assert len(content(lake, ("day", "time"))) == every.num_rows == 121


@pytest.mark.parametrize(
    "text",
    [
        statement("CAST(time AS DATE)"),
        statement("CAST($start AS DATE)"),
        statement("date_trunc('day', time)"),
        statement("CAST(CAST(time AS TIMESTAMP) AS DATE)"),
        "SELECT $date AS day, time FROM s.events WHERE time >= $date AND time < $end",
        "SELECT * FROM (SELECT time::date AS day, time FROM s.events) WHERE day = $date",
    ],
)
@pytest.mark.parametrize("engine", ["duckdb", "daft"])
def test_days_of_utc_are_not_taken_for_those_of_the_job(tmp_path: Path, text: str, engine: Any) -> None:
    lake, _ = events_of_october(tmp_path)
    schedule = Schedule(DAILY, "Europe/Berlin")
    job = sql_job(text, mode="overwrite_partitions", schedule=schedule, engine=engine, line=7)
    with pytest.raises(
        JobFailed, match=r"(?s)a\.sql:7.*days of UTC, and the job's are those of Europe/Berlin.*column"
    ) as e:
        produce(lake.config, job, tmp_path, daily(date(2026, 10, 25), "Europe/Berlin"))
    assert not e.value.retryable
    for other in (replace(job, schedule=Schedule(DAILY)), replace(job, mode="full")):  # of UTC, or nothing is replaced
        produce(lake.config, other, tmp_path, daily(date(2026, 10, 25)))


def reading(where: str) -> Any:
    """A function that reads `s.events` so, and dates its rows by UTC."""

    def made(events):  # type: ignore[no-untyped-def]
        return pa.table({"time": events["time"], "day": pc.cast(events["time"], pa.date32())})

    made.__annotations__["events"], made.__defaults__ = pa.Table, (table("s.events", where=where),)
    return made


WITHIN, LOOKING_BACK = "time >= $start AND time < $end", "time >= $start - INTERVAL 1 DAY AND time < $end"


def test_functions_do_not_take_days_of_utc_for_their_own(tmp_path: Path) -> None:
    lake, _ = events_of_october(tmp_path)
    berlin, by_day = Schedule(DAILY, "Europe/Berlin"), {"mode": "overwrite_partitions", "partition_by": ("day",)}
    job = function_job(reading("CAST(time AS DATE) = $date"), schedule=berlin, **by_day)
    with pytest.raises(JobFailed, match="days of UTC"):
        produce(lake.config, job, tmp_path, daily(date(2026, 10, 25), "Europe/Berlin"))
    found: dict[str, str] = {}
    for zone, day in (("Europe/Berlin", 24), ("America/New_York", 25)):
        period = daily(date(2026, 10, day), zone)
        for where in (WITHIN, LOOKING_BACK):
            job = replace(function_job(reading(where), **by_day), output=OUTPUT)
            rows = produce(lake.config, replace(job, mode="full"), tmp_path, period)
            try:
                run(lake, job, rows, f"{zone}{where}", period)
                found[f"{zone} {where}"] = "published"
            except ConfigError as error:
                found[f"{zone} {where}"] = error.problem.partition(", which")[0].rpartition(" ")[2]
    assert found == {
        f"Europe/Berlin {WITHIN}": "2026-10-23",
        f"Europe/Berlin {LOOKING_BACK}": "published",
        f"America/New_York {WITHIN}": "2026-10-26",
        f"America/New_York {LOOKING_BACK}": "published",
    }


def test_one_field_of_a_column_that_cuts_within_the_period_is_enough() -> None:
    columns = pa.schema([("day", pa.date32()), ("other", pa.date32())])

    def owner(*texts: str) -> Owner:
        fields = parse_layout("t", columns, texts, ()).partition_by
        return Owner(fields, {field.name: pa.date32() for field in fields}, daily(date(2015, 9, 12)))

    assert owner("month(day)", "day").reaching_beyond() is None
    assert owner("month(day)", "bucket(3, day)").reaching_beyond() == "month(day)"
    assert owner("month(other)", "day").reaching_beyond() == "month(other)"
    number = (date(2015, 9, 12) - date(1970, 1, 1)).days
    found = [owner("month(day)", "day").owns([548, number + step]) for step in (-1, 0, 1)]
    assert found == [False, True, False]
    assert not owner("month(other)", "day").owns([548, number])


@pytest.mark.parametrize("by", ["day", "day(time)", "month(day)"])
def test_rows_without_a_time_are_of_no_period(tmp_path: Path, by: str) -> None:
    lake, first = open_lake(tmp_path), date(2026, 10, 1)
    month = Schedule(MONTHLY)
    (period,) = periods_of_day(month, first, "UTC")
    rows = pa.table(
        {"day": pa.array([first, None], pa.date32()), "time": pa.array([period.start, None], pa.timestamp("us", "UTC"))}
    )
    job = make_job("overwrite_partitions", partition_by=(by,), schedule=month)
    of_all = replace(job, source=replace(job.source, sql="SELECT * FROM s.events"))
    run(lake, of_all, rows, "all", period)  # every run has the rows of all periods
    of_one = replace(job, source=replace(job.source, sql="SELECT * FROM s.events WHERE at >= $start AND at < $end"))
    with pytest.raises(ConfigError, match=r"daily\.sql:1: daily: the result for 2026-10-01 has rows whose \w+ is null"):
        run(lake, of_one, rows, "one", period)
    run(lake, of_one, rows.slice(0, 1), "filled", period)
    assert len(content(lake, ("day",))) == 2
