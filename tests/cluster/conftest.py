"""Three worker nodes and a head on this machine, with a platform deployed on them: one for the whole directory.

Tests share it and go from one to the next in the order of their files' names; each that takes a node away brings one
back. Directories are on disk: each node has a /dev/shm of its own, so nothing in this machine's is seen there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.faults.trial import Trial
from tests.servers import kafka, postgres, ray_nodes


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Nodes, servers, and the platform deployed; skipped, with the reason, where that cannot be made here."""
    for library in ("aiokafka", "psycopg", "boto3"):
        pytest.importorskip(library)
    for why in (ray_nodes.missing(), kafka.missing(), postgres.missing()):
        if why:
            pytest.skip(why)
    directory = Path(tempfile.mkdtemp(prefix="eagleray-cluster-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        with ExitStack() as stack:
            made = Cluster(directory, stack)
            assert made.eagleray("deploy").stdout.startswith("ready http://10.66.")
            made.know_edges(len(made.workers))
            yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def trial(cluster: Cluster) -> Iterator[Trial]:
    """Load from the first test to `test_z_verdict`: the tables hold what all of them did."""
    trial = cluster.trial("load")
    trial.begin()
    yield trial
    if trial.load:
        trial.load.kill()
        trial.load.wait()
