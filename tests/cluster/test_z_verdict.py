"""After everything that the other modules did: what was acked is in the tables once, and the platform ends whole."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster
from tests.faults.trial import Trial

pytestmark = [pytest.mark.platform, pytest.mark.faults, pytest.mark.timeout(900)]


def test_what_was_acked_is_there_once(trial: Trial) -> None:
    trial.end()
    trial.close_windows()
    trial.assert_safe(300)


def test_undeploy_commits_everything_and_leaves_nothing(cluster: Cluster, trial: Trial) -> None:
    cluster.eagleray("undeploy", "--timeout-s", "120")
    assert trial.verdict() == ""
    again = cluster.eagleray("undeploy", check=False)
    assert again.returncode == 1 and "no platform runs in this cluster" in again.stderr
