"""overwrite_partitions replaces whole partitions, so every partition must be of one period alone, or is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cluster.errors import ConfigError
from eagleray.jobs.alignment import reaching_beyond
from eagleray.jobs.model import Schedule
from eagleray.jobs.period import daily
from eagleray.jobs.project.load import load_project
from eagleray.jobs.schedule.ticks import periods_of_day
from tests.jobs_project import make_project, sql_file
from tests.published import content, make_job, open_lake, run

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
        assert load_project(config).jobs["a"].partition_by == (field,)
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
