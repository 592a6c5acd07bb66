"""A changed configuration is taken over worker by worker under load; what two versions cannot share is refused."""

from __future__ import annotations

import json

import pytest

from tests.cluster.cluster import Cluster
from tests.faults.trial import Trial

pytestmark = [pytest.mark.platform, pytest.mark.faults, pytest.mark.timeout(900)]

PROGRESS_S = 300.0  # for everything to move again on a machine that others use too


def lives(cluster: Cluster) -> set[tuple[str, int]]:
    """Names and processes of the workers."""
    rows = cluster.platform.get("/v1/status")["processes"]
    return {(row["node"], row["pid"]) for row in rows if row["pool"] != "controller" and "node" in row}


def test_a_changed_setting_reaches_every_worker_and_acks_go_on(cluster: Cluster, trial: Trial) -> None:
    before, acked = lives(cluster), trial.acked()
    cluster.environ["EAGLERAY__EDGE__EVENTS_MAX"] = "90000"
    cluster.eagleray("rollout", "--timeout-s", "500")
    assert not lives(cluster) & before
    assert trial.acked() > acked + 20
    trial.assert_progress(PROGRESS_S)


def test_what_two_versions_cannot_share_is_refused_and_nothing_changes(cluster: Cluster, trial: Trial) -> None:
    before = lives(cluster)
    file = cluster.platform.directory / "orders.schema.json"
    text = file.read_text()
    schema = json.loads(text)
    schema["properties"]["note"] = {"type": "string"}
    file.write_text(json.dumps(schema))
    try:
        refused = cluster.eagleray("rollout", check=False)
    finally:
        file.write_text(text)
    assert refused.returncode == 2 and "cannot change under load" in refused.stderr
    assert lives(cluster) == before
