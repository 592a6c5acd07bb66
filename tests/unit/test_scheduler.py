"""The scheduler over a project of files, with a clock of its own and real child processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from eagleray.cluster.clock import ManualClock, SystemClock
from eagleray.cluster.config import Config
from eagleray.jobs.model import Condition
from eagleray.jobs.notify.outbox import late_periods
from eagleray.jobs.period import daily
from eagleray.jobs.run import reports
from eagleray.jobs.run.history import History
from eagleray.jobs.run.history_schema import claims as rows
from eagleray.jobs.run.local import LocalWorkers
from eagleray.jobs.schedule import claims, pauses
from eagleray.jobs.schedule.claims import Claim
from eagleray.jobs.schedule.scheduler import Scheduler
from eagleray.jobs.schedule.sensors import there
from tests.job_work import do, done
from tests.lake_tables import event_rows, make_lake
from tests.running_platform import eventually
from tests.sql_lake import land
from tests.told import http_door

DAY_US = 86_400_000_000
MORNING_US = int(datetime(2026, 3, 27, 8, tzinfo=UTC).timestamp() * 1e6)
HEADER = (
    '/* eagleray\noutput: t.{name}\nmode: full\nschedule: "0 2 * * *"\nretries: 0\n{more}description: "{does}"\n*/\n'
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "jobs").mkdir()
    settings = {"file": tmp_path / "eagleray.yaml", "data_dir": tmp_path / "data", "jobs": {"concurrency": 2}}
    return Config.model_validate(settings)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(MORNING_US)


Declare = Callable[..., None]


@pytest.fixture
def declare(config: Config) -> Declare:
    def declare(name: str, does: str = "pass", reads: str = "", more: str = "") -> None:
        select = f"SELECT * FROM t.{reads}" if reads else "SELECT 1 AS a"
        text = HEADER.format(name=name, does=does, more=more) + select
        (config.jobs_folder / f"{name}.sql").write_text(text)

    return declare


Start = Callable[[], Scheduler]


@pytest.fixture
def start(config: Config, clock: ManualClock) -> Iterator[Start]:
    started: list[Scheduler] = []

    def start() -> Scheduler:
        started.append(Scheduler(config, clock, lambda: LocalWorkers(config, do)))
        return started[-1]

    yield start
    for one in started:
        one.close()
        eventually(lambda one=one: not one.running())
        one._history.close()


@pytest.fixture
def history(config: Config) -> Iterator[History]:
    opened = History.open(config)
    yield opened
    opened.close()


def seen(history: History, *jobs: str) -> None:
    eventually(lambda: claims.newest(history.engine).keys() >= set(jobs), every_s=0.05)


def tick(clock: ManualClock, *schedulers: Scheduler, days: int = 1) -> None:
    clock.advance(days * DAY_US)
    for one in schedulers:
        one.look()


def states(history: History) -> dict[tuple[str, str], str]:
    with history.engine.connect() as connection:
        found = connection.execute(sa.select(rows).where(rows.c.state != claims.SEEN)).all()
    return {(row.job, row.period): row.state for row in found}


def test_jobs_of_one_tick_run_as_a_graph(
    config: Config, clock: ManualClock, declare: Declare, start: Start, history: History
) -> None:
    declare("a")
    declare("b", reads="a")
    one = start()
    seen(history, "a", "b")
    assert states(history) == {}
    tick(clock, one)
    eventually(lambda: states(history) == {("a", "2026-03-27"): "succeeded", ("b", "2026-03-27"): "succeeded"})
    (run,) = reports.newest_runs(history.engine, 5)
    assert (run["kind"], run["counts"]) == ("schedule", {"succeeded": 2})
    assert done(config, "a") == done(config, "b") == ["2026-03-27 1"]
    ended = {f"job_runs_total{{job_name={job},state=succeeded}}": 1.0 for job in "ab"}
    ended |= {f"job_last_success_seconds{{job_name={job}}}": clock.now_us() / 1e6 for job in "ab"}
    ended |= {f"job_late_seconds{{job_name={job}}}": 0.0 for job in "ab"}
    ended |= {f"job_duration_seconds_count{{job_name={job}}}": 1 for job in "ab"}
    ended |= {f"job_duration_seconds_bucket{{job_name={job},le=300}}": 1 for job in "ab"}
    wanted = ended | {"jobs_running": 0}
    eventually(lambda: wanted.items() <= one.stats().items())


def test_two_schedulers_run_every_period_once(
    config: Config, clock: ManualClock, declare: Declare, start: Start, history: History
) -> None:
    declare("a")
    pair = start(), start()
    seen(history, "a")
    for day in (27, 28, 29):
        tick(clock, *pair)
        eventually(lambda day=day: states(history).get(("a", f"2026-03-{day}")) == "succeeded", every_s=0.05)
    assert done(config, "a") == [f"2026-03-{day} 1" for day in (27, 28, 29)]


def test_a_pause_is_caught_up_with_where_the_job_says_so(
    config: Config, clock: ManualClock, declare: Declare, start: Start, history: History
) -> None:
    declare("every", more="catch_up: true\n")
    declare("latest")
    first = start()
    seen(history, "every", "latest")
    first.close()
    clock.advance(3 * DAY_US)
    start()
    eventually(lambda: len(states(history)) == 4 and set(states(history).values()) == {"succeeded"})
    assert sorted(done(config, "every")) == [f"2026-03-{day} 1" for day in (27, 28, 29)]
    assert done(config, "latest") == ["2026-03-29 1"]


def test_a_job_waits_for_its_own_earlier_period(
    config: Config, clock: ManualClock, declare: Declare, start: Start, history: History
) -> None:
    gate = config.data_dir / "gate"
    declare("slow", f"while not Path('{gate}').exists(): time.sleep(0.02)", more="catch_up: true\n")
    one = start()
    seen(history, "slow")
    tick(clock, one)
    eventually(lambda: states(history) == {("slow", "2026-03-27"): "claimed"}, every_s=0.05)
    tick(clock, one)
    assert states(history) == {("slow", "2026-03-27"): "claimed"}
    gate.touch()
    eventually(lambda: states(history) == {("slow", f"2026-03-{day}"): "succeeded" for day in (27, 28)}, every_s=0.05)


def test_a_failed_job_skips_what_needs_it_in_a_later_tick(
    config: Config, clock: ManualClock, declare: Declare, start: Start, history: History
) -> None:
    declare("a", "fail(job, 'broken')")
    declare("b", reads="a")
    text = (config.jobs_folder / "b.sql").read_text().replace("0 2 * * *", "0 3 * * *")
    (config.jobs_folder / "b.sql").write_text(text)
    one = start()
    seen(history, "a", "b")
    clock.advance(18 * 3_600_000_000 + 60_000_000)  # 2:01
    one.look()
    eventually(lambda: states(history) == {("a", "2026-03-27"): "failed"}, every_s=0.05)
    clock.advance(3_600_000_000)
    one.look()
    eventually(lambda: states(history).get(("b", "2026-03-27")) == "skipped", every_s=0.05)
    assert done(config, "b") == []
    counted = {"job_runs_total{job_name=a,state=failed}": 1.0, "job_runs_total{job_name=b,state=skipped}": 1.0}
    wanted = counted | {"jobs_running": 0}
    eventually(lambda: wanted.items() <= one.stats().items())


def test_what_a_dead_scheduler_had_claimed_runs_and_what_it_had_finished_does_not(
    config: Config, clock: ManualClock, declare: Declare, start: Start, history: History
) -> None:
    declare("a")
    declare("gone")
    dead = f"{history.owner.split('|')[0]}|999999999|1"
    tick_us = int(datetime(2026, 3, 27, 2, tzinfo=UTC).timestamp() * 1e6)
    for job in ("a", "gone"):
        assert claims.take(history.engine, dead, [Claim(job, "2026-03-26", tick_us)], MORNING_US)
    (config.jobs_folder / "gone.sql").unlink()
    start()
    expected = {("a", "2026-03-26"): "succeeded", ("gone", "2026-03-26"): "skipped"}
    eventually(lambda: states(history) == expected, every_s=0.05)
    assert done(config, "a") == ["2026-03-26 1"]


def test_a_broken_file_does_not_stop_the_others(
    config: Config, clock: ManualClock, declare: Declare, start: Start, history: History
) -> None:
    declare("a")
    one = start()
    seen(history, "a")
    (config.jobs_folder / "broken.sql").write_text("no header")
    tick(clock, one)
    eventually(lambda: states(history) == {("a", "2026-03-27"): "succeeded"}, every_s=0.05)


def test_a_period_waits_for_what_it_was_told_to_and_is_late_when_that_takes_too_long(
    config: Config, clock: ManualClock, declare: Declare, start: Start, history: History
) -> None:
    with http_door() as door:
        waits = f"[{{file: 'in/$date.*', every: 50ms}}, {{url: '{door.url}/$start', every: 50ms}}]"
        declare("a", more=f"wait_for: {waits}\nsla: 7h\n")
        declare("b", more="sla: 7h\n")
        one = start()
        seen(history, "a", "b")
        tick(clock, one)
        eventually(lambda: states(history) == {("b", "2026-03-27"): "succeeded"}, every_s=0.05)
        assert late_periods(history.engine, "a") == []
        clock.advance(2 * 3600 * 1_000_000)
        eventually(lambda: one.look() or late_periods(history.engine, "a") != [], every_s=0.05)
        (late,) = late_periods(history.engine, "a")
        assert late.period == "2026-03-27" and late_periods(history.engine, "b") == []
        (config.file.parent / "in").mkdir()
        (config.file.parent / "in" / "2026-03-27.csv").touch()
        door.pages.add("/2026-03-27T00%3A00%3A00Z")
        eventually(lambda: one.look() or states(history).get(("a", "2026-03-27")) == "succeeded", every_s=0.05)


def test_a_paused_job_is_not_started_until_it_is_resumed(
    config: Config, clock: ManualClock, declare: Declare, start: Start, history: History
) -> None:
    declare("a")
    declare("b")
    one = start()
    seen(history, "a", "b")
    pauses.pause(history, ["a"])
    for day in (27, 28):
        tick(clock, one)
        eventually(lambda day=day: states(history).get(("b", f"2026-03-{day}")) == "succeeded", every_s=0.05)
    assert not {key for key in states(history) if key[0] == "a"} and set(pauses.paused(history.engine)) == {"a"}
    pauses.resume(history, ["a"])
    one.look()
    eventually(lambda: states(history).get(("a", "2026-03-28")) == "succeeded", every_s=0.05)
    assert done(config, "a") == ["2026-03-28 1"]


def test_a_table_is_there_when_it_was_committed_to_after_the_period(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    waits = Condition("table", "s.events")
    assert not there(lake.config, waits, daily(date(2026, 3, 27)))
    land(lake, event_rows(2))
    now = datetime.fromtimestamp(SystemClock().now_us() / 1e6, UTC)
    assert there(lake.config, waits, daily(now.date() - timedelta(days=1)))
    assert not there(lake.config, waits, daily(now.date() + timedelta(days=1)))
    assert not there(lake.config, Condition("table", "no.such"), daily(date(2026, 3, 27)))
