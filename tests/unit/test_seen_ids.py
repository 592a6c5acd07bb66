"""An id is judged alike whether saved ids are there, lost, torn or another log's: what is stored decides."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eagleray.actors.window.worker import WindowWorker
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.lake.window_history import record
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.state.files import OWNER
from tests.acking_project import AckingProject

NOW_US = 1_767_312_000_000_000
HORIZON_US = 3_600_000_000
REPEATS = 12
STEP_US = HORIZON_US * 6 // 10


def state(project: AckingProject) -> Path:
    return project.config.state_dir


def nothing(project: AckingProject) -> None:
    """Saved ids stay."""


def state_deleted(project: AckingProject) -> None:
    shutil.rmtree(state(project), ignore_errors=True)


def manifest_torn(project: AckingProject) -> None:
    for manifest in state(project).rglob(OWNER):
        manifest.write_bytes(manifest.read_bytes()[:-30])


def manifest_altered(project: AckingProject) -> None:
    for manifest in state(project).rglob(OWNER):
        manifest.write_text(manifest.read_text().replace('complete\\": 5', 'complete\\": 4'))


def journal_torn(project: AckingProject) -> None:
    for journal in state(project).rglob("*.journal"):
        journal.write_bytes(bytes(journal.stat().st_size))


def log_trimmed_too(project: AckingProject) -> None:
    state_deleted(project)
    with closing(open_log(project.bound, project.clock)) as log:
        for stream in project.streams:
            log.trim(stream, 0, log.bounds(stream, 0).end, 1 << 62)


def log_lost_too(project: AckingProject) -> None:
    state_deleted(project)
    shutil.rmtree(project.config.log_dir)
    for stream in project.streams:
        project.recover(stream)


def log_lost_alone(project: AckingProject) -> None:
    shutil.rmtree(project.config.log_dir)
    for stream in project.streams:
        project.recover(stream)


LOSSES = [
    nothing,
    state_deleted,
    manifest_torn,
    manifest_altered,
    journal_torn,
    log_trimmed_too,
    log_lost_too,
    log_lost_alone,
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_an_id_that_repeats_every_six_tenths_of_the_horizon_is_judged_as_if_nothing_was_lost(
    tmp_path: Path, loss: Callable[[AckingProject], None]
) -> None:
    clock = ManualClock(NOW_US)
    project = AckingProject(tmp_path / "p", clock)
    project.up()
    for number in range(REPEATS):
        project.send(number, id="same")
        clock.advance(STEP_US)
        if number == 4:
            project.store()
            project.down()
            loss(project)
            project.up()
    project.store()
    assert project.numbers() == [0, 2, 4, 6, 8, 10]
    project.down()


@pytest.mark.parametrize("loss", [nothing, state_deleted, journal_torn], ids=lambda loss: loss.__name__)
def test_ids_by_idempotency_key_are_read_from_the_log(tmp_path: Path, loss: Callable[[AckingProject], None]) -> None:
    clock = ManualClock(NOW_US)
    project = AckingProject(tmp_path / "p", clock)
    project.up()
    for number in range(8):
        project.send(number, stream="free", key="same")
        project.send(100 + number, stream="free")  # has no id at all
        clock.advance(STEP_US)
        if number == 3:
            project.store()
            project.down()
            loss(project)
            project.up()
    project.store()
    assert project.numbers("free") == [0, 2, 4, 6, *range(100, 108)]
    project.down()


def ids_deleted(project: AckingProject) -> None:
    for directory in list(state(project).rglob("ids")):
        shutil.rmtree(directory)


@pytest.mark.parametrize("stored", [5, 3], ids=["events as far", "events behind"])
@pytest.mark.parametrize("loss", [nothing, ids_deleted, journal_torn], ids=lambda loss: loss.__name__)
def test_windows_count_an_id_as_if_nothing_was_lost(
    tmp_path: Path, loss: Callable[[AckingProject], None], stored: int
) -> None:
    clock = ManualClock(NOW_US)
    count = {"w": {"tumble": "1h", "group_by": [], "aggregate": {"n": "count()"}}}
    project = AckingProject(tmp_path / "p", clock, windows=count)
    project.up()
    record(project.lake, open_log(project.bound, clock), project.streams)
    counted = 0.0

    def count_on() -> float:
        worker = WindowWorker(project.bound, clock, open_log(project.bound, clock), project.lake, background=False)
        worker.collect([("s", 0)], {table: project.lake.progress(table) for table in project.lake.tables()})
        while worker.turn():
            pass
        worker.stop()
        return worker.stats().get("window_events_total{stream=s}", 0.0)

    for number in range(REPEATS):
        project.send(number, id="same")
        clock.advance(STEP_US)
        if number + 1 == stored:
            project.store()
        if number == 4:
            counted += count_on()
            loss(project)
    assert counted + count_on() == 6
    project.down()


def test_saved_ids_of_another_log_do_not_count(tmp_path: Path) -> None:
    clock = ManualClock(NOW_US)
    project, other = AckingProject(tmp_path / "p", clock), AckingProject(tmp_path / "q", clock)
    for each in (project, other):
        each.up()
    project.send(1, id="mine")
    other.send(1, id="theirs")
    for each in (project, other):
        each.store()
        each.down()
    shutil.rmtree(state(project))
    shutil.copytree(state(other), state(project))
    project.up()
    project.send(2, id="theirs")
    project.send(3, id="mine")
    project.store()
    assert project.numbers() == [1, 2]
    project.down()


def test_a_longer_horizon_counts_at_once(tmp_path: Path) -> None:
    clock = ManualClock(NOW_US)
    project = AckingProject(tmp_path / "p", clock)
    project.up()
    project.send(0, id="old")
    project.store()
    clock.advance(2 * HORIZON_US)
    for number in range(1, 4):
        project.send(number)
    project.store()
    project.down()
    longer = AckingProject(tmp_path / "p", clock, dedup_horizon="5h")
    longer.up()
    longer.send(9, id="old")
    longer.store()
    assert longer.numbers() == [0, 1, 2, 3]
    longer.down()


def test_what_was_forgotten_is_still_seen(tmp_path: Path) -> None:
    from eagleray.jobs.builtin.forget import ForgetOptions, run

    clock = ManualClock(NOW_US)
    project = AckingProject(tmp_path / "p", clock)
    project.up()
    project.send(1, id="person")
    project.send(2, stream="free", key="person")
    project.send(3)
    project.store()
    for stream, number in (("s", "1"), ("free", "2")):
        run(project.config, ForgetOptions(stream, "n", number), clock)
    assert (project.numbers(), project.numbers("free")) == ([3], [])
    project.down()
    state_deleted(project)
    project.up()
    clock.advance(STEP_US)
    project.send(4, id="person")
    project.send(5, stream="free", key="person")
    project.store()
    assert (project.numbers(), project.numbers("free")) == ([3], [])
    clock.advance(STEP_US)
    project.send(6, id="person")
    project.store()
    assert project.numbers() == [3, 6]
    assert project.lake.read("s.forgotten").column_names == ["_id", "_ingested_at", "_partition", "_offset", "_row"]
    project.down()
