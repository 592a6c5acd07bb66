"""/readyz names a log that is damaged and a clock that is ahead, and no longer does once they are mended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eagleray.actors.edge.refusal import Refusal, refusal_of
from eagleray.actors.edge.status import Status
from eagleray.actors.messages import EdgeNews
from eagleray.actors.peer import LocalPeer
from eagleray.actors.ray_backend import RayBackend
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.errors import ClockAhead, LogCorrupt
from eagleray.cluster.log.ingest_clock import SLACK_US, IngestClock
from tests.stream_project import TEXT, StreamProject

HOUR_US = 3_600_000_000


def readyz(project: StreamProject, backend: RayBackend) -> str:
    """What /readyz names; empty: 200. The edge hears of the workers' problems as the controller tells it."""
    validate = LocalPeer("validate-0", project.validate)
    problems = {**project.validate.problems(), **project.committer.problems()}
    backend.attend(EdgeNews((0, 0), 0, [(validate, "1")], None, [], {}, problems))
    status = Status(project.config, cast(Any, backend), cast(Any, SimpleNamespace(ring=None)), dict, dict)

    async def ask() -> str:
        try:
            return "" if (await status.readyz(cast(Any, None))).status == 200 else "?"
        except Refusal as refusal:
            assert refusal.status == 503
            return str(refusal.detail)

    return asyncio.run(ask())


@pytest.mark.parametrize("sent", [True, False], ids=["an event is sent", "no event is sent"])
def test_a_stream_whose_log_is_overwritten_is_named_and_refused_as_corrupt(tmp_path: Path, sent: bool) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    project.up()
    project.accept({"t": "2026-01-01T12:00:00Z", "v": "a"})
    project.drain()
    backend = RayBackend(project.config, LocalPeer("controller", object()))
    assert readyz(project, backend) == ""
    (tmp_path / "data/log/s/records.db").write_bytes(b"not a database, by any means" * 1000)
    if sent:
        with pytest.raises(LogCorrupt) as caught:
            project.send({"t": "2026-01-01T12:00:01Z", "v": "b"})
        refusal = refusal_of(caught.value)
        assert (refusal.status, refusal.code) == (503, "log_corrupt")
    else:
        asyncio.run(project.committer.write_round())
    said = readyz(project, backend)
    assert "log" in said and "s" in said and str(tmp_path) not in said, said
    assert asyncio.run(project.committer.status())["partitions"][0]["stream"] == "s"  # a damaged stream does not vanish
    project.kill()


def test_a_clock_that_is_ahead_is_named_until_it_is_right_again(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    project.up()
    clock = ManualClock(1_767_312_000_000_000)
    backend = RayBackend(project.config, LocalPeer("controller", object()))
    backend._times = IngestClock(clock)
    assert readyz(project, backend) == ""
    clock.step(HOUR_US)
    assert "clock: " in readyz(project, backend) and "ahead" in readyz(project, backend)
    clock.step(SLACK_US - HOUR_US)
    assert readyz(project, backend) == ""
    assert refusal_of(ClockAhead("x")).code == "clock_ahead"
    project.kill()
