"""Each alert is fired by its fault, told to a webhook, found by what its runbook says, and over when that is mended."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.observability.conftest import Seen
from tests.running_platform import eventually

BOARDS = sorted((Path(__file__).parents[2] / "deploy" / "dashboards").glob("*.json"))
PATIENCE_S = 180.0
WAITS_S = 1200
pytestmark = pytest.mark.timeout(WAITS_S)
ONLY_WHERE_IT_HAPPENS = {"Log: failed appends and reads"}


def fires(seen: Seen, name: str) -> None:
    eventually(lambda: seen.told.fires(name), PATIENCE_S)


def ends(seen: Seen, name: str) -> None:
    eventually(lambda: not seen.told.fires(name), PATIENCE_S)


def test_a_platform_that_works_alarms_nobody(seen: Seen) -> None:
    eventually(lambda: seen.prometheus.query("stream:eagleray_events:rate5m > 10"))
    eventually(lambda: seen.platform.count("clicks.events") > 100)
    late = {"EaglerayJobLate"}  # its job is made to be
    assert seen.prometheus.firing() <= late


def test_dead_letters_rise(seen: Seen) -> None:
    seen.trickle.bad = 5
    fires(seen, "EaglerayDeadLettersRise")
    assert seen.told.alerts["EaglerayDeadLettersRise"]["labels"]["stream"] == "clicks"
    listed = seen.eagleray("dead-letters", "list", "clicks")
    assert "json" in listed
    seen.trickle.bad = 0
    ends(seen, "EaglerayDeadLettersRise")


def test_nothing_is_committed(seen: Seen) -> None:
    catalog = sqlite3.connect(seen.platform.data / "catalog.db", isolation_level=None)
    catalog.execute("BEGIN EXCLUSIVE")
    try:
        fires(seen, "EaglerayNoCommit")
        assert "clicks" in seen.eagleray("status")
        log = seen.platform.data / "logs" / "committer-0.log"
        eventually(lambda: "locked" in log.read_text(), PATIENCE_S)
    finally:
        catalog.execute("ROLLBACK")
        catalog.close()
    ends(seen, "EaglerayNoCommit")


def test_a_lag_grows(seen: Seen) -> None:
    (worker,) = seen.platform.pids("window")
    os.kill(worker, signal.SIGSTOP)
    try:
        fires(seen, "EaglerayLagGrows")
        assert seen.told.alerts["EaglerayLagGrows"]["labels"]["consumer"] == "window"
        assert "window" in seen.eagleray("status")
    finally:
        os.kill(worker, signal.SIGCONT)
    ends(seen, "EaglerayLagGrows")


def test_a_disk_fills(seen: Seen) -> None:
    if not seen.own_disk:
        pytest.skip("a disk of its own cannot be mounted here")
    room = os.statvfs(seen.platform.data)
    filler = seen.platform.data / "cache.bin"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - (room.f_blocks * room.f_frsize) // 14)
    try:
        fires(seen, "EaglerayDiskFills")
        assert "disk" in seen.eagleray("doctor").lower()
    finally:
        filler.unlink()
    ends(seen, "EaglerayDiskFills")


def test_a_job_is_late(seen: Seen) -> None:
    fires(seen, "EaglerayJobLate")
    assert seen.told.alerts["EaglerayJobLate"]["labels"]["job_name"] == "slow"
    assert "slow" in seen.eagleray("job", "list")
    (seen.platform.directory / "jobs" / "slow.py").write_text(
        (seen.platform.directory / "jobs" / "slow.py").read_text().replace("sleep(45)", "sleep(0)")
    )
    ends(seen, "EaglerayJobLate")


def data(seen: Seen, expression: str) -> Callable[[], bool]:
    def is_there() -> bool:
        try:
            found = seen.prometheus.query(expression)
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from None  # ends the wait: it will not get better
        return any(not math.isnan(float(one["value"][1])) for one in found)

    return is_there


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_every_panel_has_data(seen: Seen, board: Path) -> None:
    seen.trickle.bad = 1  # rejections are shown as a rate
    for panel in json.loads(board.read_text())["panels"]:
        for target in panel["targets"]:
            if panel["title"] in ONLY_WHERE_IT_HAPPENS:
                seen.prometheus.query(target["expr"])  # it parses
            else:
                eventually(data(seen, target["expr"]), 60.0)
