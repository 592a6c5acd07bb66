"""A platform on three nodes, under load: where everything is, and that nodes come and go without a loss or a double.

The checker compares what was acked with the tables in the end (test_z_verdict). Times are limits for hopeless waits;
what was measured is in docs/cluster.md.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.faults.trial import Trial
from tests.running_platform import eventually

pytestmark = [pytest.mark.platform, pytest.mark.faults, pytest.mark.timeout(900)]

PROGRESS_S = 300.0  # for everything to move again on a machine that others use too
CUT_S = 180.0


def workers(cluster: Cluster, ip: str) -> list[str]:
    """Names of the workers that answer on the node."""
    found: list[str] = cluster.platform.nodes()[ip]["workers"]
    return found


def owners(cluster: Cluster) -> set[str]:
    """Nodes of the window and writer workers that are alive."""
    rows: list[dict[str, Any]] = cluster.platform.get("/v1/status")["processes"]
    return {row["node"] for row in rows if row["pool"] in ("window", "writer") and row["alive"] and "node" in row}


def assert_moves(trial: Trial) -> None:
    """Every partition is reported, and acks, events and windows move."""
    eventually(lambda: _all_reported(trial), PROGRESS_S)
    trial.assert_progress(PROGRESS_S)


def _all_reported(trial: Trial) -> bool:
    rows = trial.platform.get("/v1/status")["partitions"]
    return len(rows) == 6 and all(row.get("window") and row.get("writer") for row in rows)


def test_every_node_has_an_edge_with_its_validators_and_the_rest_is_spread(cluster: Cluster, trial: Trial) -> None:
    assert_moves(trial)
    nodes = cluster.platform.nodes()
    assert cluster.head.ip in nodes and not nodes[cluster.head.ip]["workers"]
    for node in cluster.workers:
        row = nodes[node.ip]
        assert row["url"] == f"http://{node.ip}:8080"
        pools = [name.partition("-")[0] for name in row["workers"]]
        assert pools.count("edge") == pools.count("validate") == 1
        assert max(pools.count("window"), pools.count("writer")) <= 1


def test_project_files_are_on_no_node_but_the_heads_and_came_with_ray(cluster: Cluster) -> None:
    for node in cluster.workers:
        files = [
            entry
            for entry in (
                cluster.platform.directory / "orders.schema.json",
                cluster.platform.directory / "eagleray.yaml",
            )
        ]
        assert not any(_is_there(node.first, str(file)) for file in files)


def _is_there(pid: int, file: str) -> bool:
    return Path(f"/proc/{pid}/root{file}").exists()


def test_a_second_deploy_of_the_same_finds_it_and_another_is_refused(cluster: Cluster) -> None:
    assert "ready http://" in cluster.eagleray("deploy").stdout
    cluster.environ["EAGLERAY__LAKE__COMMIT_INTERVAL_S"] = "3"
    try:
        refused = cluster.eagleray("deploy", check=False)
    finally:
        del cluster.environ["EAGLERAY__LAKE__COMMIT_INTERVAL_S"]
    assert refused.returncode == 1 and "another configuration" in refused.stderr


def test_a_drained_node_is_empty_and_takes_workers_again_when_it_is_back(cluster: Cluster, trial: Trial) -> None:
    node = cluster.workers[2]
    cluster.eagleray("drain", node.ip)
    assert workers(cluster, node.ip) == []
    assert_moves(trial)
    assert node.ip not in owners(cluster)
    cluster.eagleray("drain", node.ip, "--back")
    eventually(lambda: cluster.platform.nodes().get(node.ip, {}).get("url"), PROGRESS_S)


def test_a_node_without_power_loses_nothing_and_others_take_over(cluster: Cluster, trial: Trial) -> None:
    node = cluster.workers[0]
    node.power_off()
    began = time.monotonic()
    eventually(lambda: node.ip not in cluster.platform.nodes(), PROGRESS_S)
    assert_moves(trial)
    print(f"everything moved {time.monotonic() - began:.1f} s after the power went")
    assert node.ip not in owners(cluster)
    cluster.launch(node)
    node.wait()
    eventually(lambda: cluster.platform.nodes().get(node.ip, {}).get("url"), PROGRESS_S)
    assert_moves(trial)


def test_a_node_that_is_cut_off_is_replaced_while_the_cut_lasts_and_ends_when_it_heals(
    cluster: Cluster, trial: Trial
) -> None:
    node = cluster.workers[1]
    began = time.monotonic()
    node.cut()
    try:
        eventually(lambda: node.ip not in cluster.platform.nodes(), PROGRESS_S)
        assert_moves(trial)  # the takeover is seen while the cut lasts
        print(f"everything moved {time.monotonic() - began:.1f} s after the cut")
        time.sleep(max(0.0, CUT_S - (time.monotonic() - began)))
        assert_moves(trial)
    finally:
        node.heal()
    node.wait_dead()
    cluster.launch(node)
    node.wait()
    eventually(lambda: cluster.platform.nodes().get(node.ip, {}).get("url"), PROGRESS_S)


def test_a_raylet_that_is_stopped_for_longer_than_its_health_check_is_replaced(cluster: Cluster, trial: Trial) -> None:
    node = cluster.workers[2]
    node.signal("raylet/raylet ", signal.SIGSTOP)
    eventually(lambda: node.ip not in cluster.platform.nodes(), PROGRESS_S)
    assert_moves(trial)
    node.signal("raylet/raylet ", signal.SIGCONT)
    node.wait_dead()
    cluster.launch(node)
    node.wait()
    eventually(lambda: cluster.platform.nodes().get(node.ip, {}).get("url"), PROGRESS_S)
