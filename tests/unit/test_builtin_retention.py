"""What is older than its setting goes, exactly, from every table and store; what others go by stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from eagleray.cluster.clock import ManualClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.sections import StreamConfig
from eagleray.jobs.builtin import retention
from eagleray.jobs.builtin.rebuild import _check_kept
from eagleray.jobs.run.history import History
from eagleray.jobs.run.history_schema import attempts, checks, claims, nodes, runs
from eagleray.jobs.run.traces import forget_in_traces
from eagleray.jobs.schedule.timetable import timetable
from tests.lake_tables import NOON_US, TIME, event_rows, make_stream

DAY_US = 86_400_000_000
NOW_US = NOON_US + 100 * DAY_US
WINDOW = {"tumble": "1m", "aggregate": {"count": "count()"}}


def config_of(directory: Path, stream: dict[str, Any], jobs: dict[str, Any] | None = None) -> Config:
    settings = {"schema": "s.json", "time": "time", "windows": {"w": WINDOW}, "retention": stream}
    return Config.model_validate(
        {"data_dir": directory / "data", "streams": {"s": settings}, "jobs": {"retention": jobs or {}}}
    )


def lake_of(config: Config) -> Lake:
    lake = Lake.open(config)
    lake.ensure({"s": make_stream(windows={"w": WINDOW})})
    return lake


def aged(days: list[int], first: int) -> pa.Table:
    """Events that were ingested so many days ago."""
    at = pa.array([NOW_US - day * DAY_US for day in days], TIME)
    return event_rows(len(days), first, _ingested_at=at)


def test_rows_older_than_their_setting_go_and_no_other(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"events": "30d", "windows": "10d"})
    lake = lake_of(config)
    files = ([90, 60], [31, 29], [5, 1])  # one goes as a whole, one straddles the limit, one stays
    for step, days in enumerate(files):
        lake.commit("s.events", lake.write("s.events", aged(days, 2 * step)), {"p0": step}, {"p0": step + 1})
    ends = [NOW_US - day * DAY_US for day in (11, 9)]
    rows = {"window_start": pa.array(ends, TIME), "window_end": pa.array(ends, TIME), "count": [1, 2]}
    lake.commit("s.w", lake.write("s.w", pa.table(rows)), {"closed": -(2**62)}, {"closed": NOW_US})
    young = Path(lake.pin("s.events").plan().files[-1])
    report = retention.run(config, retention.RetentionOptions(), ManualClock(NOW_US))
    assert report.tables == ("s.events: 3", "s.w: 1")
    assert sorted(lake.read("s.events", ["n"])["n"].to_pylist()) == [3, 4, 5]
    assert lake.read("s.w", ["count"])["count"].to_pylist() == [2]
    assert lake.progress("s.events") == {"p0": 3} and lake.progress("s.w") == {"closed": NOW_US}
    assert str(young) in lake.pin("s.events").plan().files  # not rewritten
    again = retention.run(config, retention.RetentionOptions(), ManualClock(NOW_US))
    assert again.tables == ()


def test_windows_whose_events_are_gone_are_not_counted_again(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"events": "30d"})
    lake, stream = lake_of(config), make_stream(windows={"w": WINDOW})
    _check_kept(lake, stream, 0)
    lake.commit("s.events", lake.write("s.events", aged([31, 29], 0)), {"p0": 0}, {"p0": 1})
    retention.run(config, retention.RetentionOptions(), ManualClock(NOW_US))
    limit = NOW_US - 30 * DAY_US + stream.config.max_future
    _check_kept(lake, stream, limit)
    with pytest.raises(ConfigError, match=r"--start: events ingested before .* are gone \(retention\.events\)"):
        _check_kept(lake, stream, limit - 1)


@pytest.mark.parametrize(
    ("settings", "needs"),
    [({"dedup_horizon": "2d"}, "dedup_horizon"), ({"windows": {"w": {**WINDOW, "tumble": "2d"}}}, "longest window")],
)
def test_events_are_kept_for_as_long_as_others_need_them(settings: dict[str, Any], needs: str) -> None:
    base = {"schema": "s.json", "time": "time", "retention": {"events": "1d"}}
    StreamConfig.model_validate(base)
    with pytest.raises(ValidationError, match=rf"retention\.events is shorter than .*{needs}"):
        StreamConfig.model_validate({**base, **settings})


def test_settings_that_delete_run_daily_unless_the_timetable_says_when(tmp_path: Path) -> None:
    assert "retention" not in timetable(config_of(tmp_path, {}))
    config = config_of(tmp_path, {"late": "1d"})
    assert timetable(config)["retention"].schedule is not None
    entry = {"run": "retention", "schedule": "0 1 * * *"}
    own = config.model_copy(update={"jobs": config.jobs.model_validate({"timetable": [entry]})})
    assert [job.schedule.cron for job in timetable(own).values() if job.schedule] == ["0 1 * * *"]


def fill(config: Config) -> History:
    """Runs of a job: 90 days ago for a period of its own, 60 and 1 day ago for the same."""
    history = History.open(config, ManualClock(NOW_US))
    with history.engine.begin() as connection:
        for run, days, period in (("a", 90, "p1"), ("b", 60, "p2"), ("c", 1, "p2")):
            at = NOW_US - days * DAY_US
            about = {"kind": "run", "what": "x", "date": "", "owner": "o", "started_us": at, "seen_us": at}
            connection.execute(sa.insert(runs), {"id": run, "state": "succeeded", "ended_us": at, **about})
            node = {"run": run, "number": 0, "job": "j", "period": period, "output": "o.t", "fingerprint": "f"}
            connection.execute(
                sa.insert(nodes), {**node, "state": "succeeded", "reason": "for Grace Hopper", "attempts": 1}
            )
            attempt = {"run": run, "number": 0, "attempt": 1, "started_us": at, "message": f"no Grace Hopper in {run}"}
            connection.execute(sa.insert(attempts), attempt)
            sample = [{"user": "Grace Hopper"}, {"user": "Grace Hoppers", "of": ["Ada"]}]
            connection.execute(
                sa.insert(checks), {"run": run, "number": 0, "name": "c", "bad_rows": 2, "sample": sample}
            )
            claim = {"job": "j", "period": run, "tick_us": at, "claimed_us": at, "owner": "o", "state": "succeeded"}
            connection.execute(sa.insert(claims), claim)
    return history


def of(history: History, column: Any) -> list[Any]:
    with history.engine.connect() as connection:
        return sorted(connection.execute(sa.select(column)).scalars().all(), key=str)


def test_history_samples_and_logs_go_by_age_and_what_later_runs_need_stays(tmp_path: Path) -> None:
    config = config_of(tmp_path, {}, {"history": "30d", "samples": "30d", "logs": "30d"})
    history = fill(config)
    lake_of(config)
    for name in ("a", "c"):
        (config.jobs_dir / "logs" / name).mkdir(parents=True)
    (config.jobs_dir / "logs" / "a" / "j.log").write_text("printed")
    report = retention.run(config, retention.RetentionOptions(), ManualClock(NOW_US))
    assert report.runs == 1  # b: p2 has succeeded again since
    assert of(history, runs.c.id) == ["a", "c"] and of(history, nodes.c.run) == ["a", "c"]
    assert of(history, attempts.c.run) == ["c"] and of(history, checks.c.run) == ["c"]
    assert of(history, claims.c.period) == ["c"]
    assert report.logs == 0  # written just now
    far = ManualClock(NOW_US + 20_000 * DAY_US)
    assert retention.run(config, retention.RetentionOptions(), far).logs == 2
    assert of(history, runs.c.id) == ["a", "c"]
    history.close()


def test_a_person_is_forgotten_in_samples_messages_and_logs(tmp_path: Path) -> None:
    config = config_of(tmp_path, {})
    history = fill(config)
    log = config.jobs_dir / "logs" / "a" / "j.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b'{"user": "Grace Hopper"}\nGrace Hoppers \xff\n')
    traces = forget_in_traces(config, "Grace Hopper")
    assert traces.changed == {"samples of checks": 3, "messages of failures": 6, "logs of job runs": 1}
    assert log.read_bytes() == b'{"user": "[forgotten]"}\nGrace Hoppers \xff\n'
    assert of(history, attempts.c.message) == [f"no [forgotten] in {run}" for run in "abc"]
    assert of(history, checks.c.sample)[0] == [{"user": "Grace Hoppers", "of": ["Ada"]}]
    assert forget_in_traces(config, "Ada").left[0].startswith("messages and logs of job runs, where 'Ada' is too short")
    assert of(history, checks.c.sample) == [[], [], []]
    history.close()
