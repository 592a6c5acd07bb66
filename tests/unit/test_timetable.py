"""Commands of the timetable: what is wrong is said before anything runs, and what is due runs once, in a process."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from eagleray.cluster.clock import ManualClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.jobs.run import reports
from eagleray.jobs.run.history import History
from eagleray.jobs.run.history_schema import claims as rows
from eagleray.jobs.schedule import claims
from eagleray.jobs.schedule.claims import Claim
from eagleray.jobs.schedule.scheduler import Scheduler
from eagleray.jobs.schedule.timetable import Commands, timetable
from tests.running_platform import eventually

HOUR_US = 3_600_000_000
NOON_US = int(datetime(2026, 3, 27, 12, 30, tzinfo=UTC).timestamp() * 1e6)
HOURLY = {"run": "expire", "schedule": "0 * * * *"}


def configured(folder: Path, *entries: dict[str, Any]) -> Config:
    file = folder / "eagleray.yaml"
    file.write_text(yaml.safe_dump({"data_dir": "./data", "jobs": {"timetable": list(entries)}}))
    return load_config(file)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    opened = History.open(configured(tmp_path, HOURLY))
    yield opened
    opened.close()


def states(history: History) -> dict[str, str]:
    with history.engine.connect() as connection:
        found = connection.execute(sa.select(rows).where(rows.c.state != claims.SEEN)).all()
    return {row.period: row.state for row in found}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"schedule": "0 * * *"}, "jobs.timetable.0.schedule: expected five fields"),
        ({"timezone": "Mars"}, "jobs.timetable.0.timezone: unknown time zone 'Mars'"),
        (
            {"run": "daily_kinds"},
            "jobs.timetable.0.run: found 'daily_kinds'; expected --all --late, or one of compact,",
        ),
        (
            {"run": "compact --nosuch"},
            "jobs.timetable.0.run: eagleray job run compact: unrecognized arguments: --nosuch",
        ),
        ({"run": "rebuild"}, "the following arguments are required: --stream"),
        ({"run": "expire 'a"}, "No closing quotation"),
        ({"run": "expire --help"}, "asks for help; expected the options of a run"),
    ],
)
def test_what_could_never_run_is_refused(tmp_path: Path, entry: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        timetable(configured(tmp_path, {**HOURLY, **entry}))
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match="is there twice"):
        timetable(configured(tmp_path, HOURLY, HOURLY))


def test_a_command_runs_when_it_is_due_and_is_in_the_history(tmp_path: Path, history: History) -> None:
    clock = ManualClock(NOON_US)
    scheduler = Scheduler(configured(tmp_path, HOURLY), clock)
    try:
        eventually(lambda: "expire" in claims.newest(history.engine))
        clock.advance(HOUR_US)
        scheduler.look()
        eventually(lambda: "succeeded" in states(history).values(), timeout_s=60)
        assert list(states(history)) == ["2026-03-27T12:00Z"]
    finally:
        scheduler.close()
    (run,) = reports.newest_runs(history.engine, 5)
    assert (run["kind"], run["what"], run["state"]) == ("built-in", "expire", "succeeded")


def test_a_command_that_fails_says_where_it_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = configured(tmp_path, HOURLY)
    commands = Commands(config)
    assert commands.run("expire --nosuch", lambda: None) == 2
    assert "--nosuch" in commands.log_of("expire --nosuch").read_text()
    commands.close()
    assert commands.run("expire", lambda: None) is None


def test_a_command_that_goes_on_is_not_abandoned(history: History) -> None:
    one = Claim("expire", "p", 1)
    claims.take(history.engine, "other|1|x", [one], 1)
    claims.renew(history.engine, "other|1|x", one, history.clock.now_us())
    assert claims.adopt(history.engine, "me|2|y", history.clock.now_us()) == []
