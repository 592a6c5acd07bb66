"""The head of Ray ends under load and comes back, with what it left in Redis: events are acked all the while."""

from __future__ import annotations

import time

import pytest

from tests.cluster.cluster import Cluster
from tests.faults.trial import Trial
from tests.running_platform import eventually

pytestmark = [pytest.mark.platform, pytest.mark.faults, pytest.mark.timeout(900)]

AWAY_S = 60.0
PROGRESS_S = 300.0  # for everything to move again on a machine that others use too


def test_a_head_that_is_away_for_a_minute_stops_no_ack_and_the_platform_goes_on_with_it(
    cluster: Cluster, trial: Trial
) -> None:
    if not cluster.keeps_head:
        pytest.skip("no redis-server here (Debian: apt-get install redis-server)")
    workers = set(cluster.platform.pids("writer"))
    cluster.head.power_off()
    deadline = time.monotonic() + AWAY_S
    while time.monotonic() < deadline:
        acked = trial.acked()
        eventually(lambda: trial.acked() > acked + 5, 30)  # noqa: B023
        time.sleep(5)
    cluster.launch_head()
    cluster.head.wait()
    eventually(lambda: set(cluster.platform.pids("writer")) == workers, PROGRESS_S)  # the same processes: nothing ended
    trial.assert_progress(PROGRESS_S)
