"""A platform on several Ray nodes of this machine, with the servers that all of them use. Made by `conftest`."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

from eagleray.cluster.owner_key import read_owner_key
from tests.faults.trial import Trial
from tests.running_platform import Answer, RunningPlatform, eventually
from tests.servers import redis
from tests.servers.kafka import Brokers, kafka_brokers
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.ray_nodes import RayNode, RayNodes
from tests.servers.s3 import BUCKET, S3Server, s3_server

PROJECT = Path(__file__).parent / "project"
COMMAND_TIMEOUT_S = 800.0  # of a command; a rollout replaces every worker on two cores
EAGLERAY = str(Path(sys.executable).parent / "eagleray")
REQUEST_S = 5.0  # of a request to one node, before the next is asked


class ClusterPlatform(RunningPlatform):
    """The platform as a user of the cluster sees it: at the first of the edges that answers."""

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        """Nothing is started."""
        super().__init__(directory, PROJECT)
        self.cluster = cluster
        self.urls: list[str] = []

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}, timeout_s: float = 0
    ) -> Answer:
        """As RunningPlatform.request, from the edges one after the other."""
        for last, url in enumerate(self.urls, 1):
            self.url = url
            try:
                answer = super().request(method, path, body, headers, timeout_s or REQUEST_S)
            except (OSError, http.client.HTTPException):
                if last == len(self.urls):
                    raise
            else:
                if answer[0] != 503 or last == len(self.urls):
                    return answer
        raise AssertionError("no edge is known")

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What /v1/status says of each node, by address."""
        return {row["node"]: row for row in self.get("/v1/status")["nodes"]}


class Cluster:
    """Nodes, servers and project. Workers are on nodes 2 and up: the head has no cores."""

    def __init__(self, directory: Path, stack: ExitStack, workers: int = 3) -> None:
        """Start servers and nodes; the platform is not started."""
        project = directory / "project"
        project.mkdir()
        keys = S3Server.keys
        self.nodes = RayNodes(directory, workers + 1, keys, [project])
        stack.callback(self.nodes.down)
        host = self.nodes.host
        self.head, self.workers = self.nodes.head, self.nodes.nodes[1:]
        self.keeps_head = not redis.missing()
        if self.keeps_head:
            self.redis = stack.enter_context(redis.redis_server(directory / "redis", host))
        self.launch_head()
        self.kafka: Brokers = stack.enter_context(kafka_brokers(directory / "kafka", host=host))
        self.postgres: PostgresServer = stack.enter_context(postgres_server(200, host))
        self.s3: S3Server = stack.enter_context(s3_server(directory / "s3", host))
        self.head.wait()
        for node in self.workers:
            self.launch(node)
        for node in self.workers:
            node.wait()
        self.warehouse, self.database = f"s3://{BUCKET}/{uuid4().hex}", self.postgres.new_database()
        self.environ = {
            **self.nodes.environ,
            "EAGLERAY__LOG__BACKEND": "kafka",
            "EAGLERAY__LOG__BROKERS": f"[{', '.join(self.kafka.addresses)}]",
            "EAGLERAY__LOG__KAFKA__REPLICATION": "1",
            "EAGLERAY__LOG__KAFKA__MIN_INSYNC_REPLICAS": "1",
            "EAGLERAY__LAKE__WAREHOUSE": self.warehouse,
            "EAGLERAY__LAKE__S3__ENDPOINT": self.s3.url,
            "EAGLERAY__LAKE__S3__REGION": "us-east-1",
            "EAGLERAY__LAKE__CATALOG__TYPE": "sql",
            "EAGLERAY__LAKE__CATALOG__URI": self.database,
            "EAGLERAY__STATE__BACKEND": "shared",
        }
        self.platform = ClusterPlatform(project, self)
        self.directory = directory

    def launch(self, node: RayNode) -> None:
        """Give a worker node power."""
        node.launch("--num-cpus=4", environ={"RAY_gcs_rpc_server_reconnect_timeout_s": "300"})

    def launch_head(self) -> None:
        """Give the head power; it has no cores, and leaves in Redis what the next head goes on with."""
        if not self.keeps_head:
            self.head.launch("--num-cpus=0")
            return
        kept = {"RAY_REDIS_ADDRESS": f"{self.redis.host}:{self.redis.port}", "RAY_external_storage_namespace": "tests"}
        self.head.launch("--num-cpus=0", f"--redis-password={redis.PASSWORD}", environ=kept)

    def eagleray(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command on the head, in the project's directory."""
        command = self.head.inside(self.platform.directory, EAGLERAY, *words)
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True,
            timeout=COMMAND_TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0 or not check, (words, done.stdout[-3000:], done.stderr[-3000:])
        return done

    def know_edges(self, count: int) -> None:
        """Until as many edges listen; from then on they are the platform's URLs."""
        platform = self.platform
        if key := read_owner_key(platform.data):
            platform.headers = {"X-API-Key": key}
        platform.urls = platform.urls or [f"http://{node.ip}:8080" for node in self.workers]
        eventually(lambda: len([row for row in platform.nodes().values() if row["url"]]) == count, 120)
        platform.urls = [row["url"] for row in platform.nodes().values() if row["url"]]

    def trial(self, name: str) -> Trial:
        """A trial of its own; its producers know every edge."""
        trial = Trial(self.platform, self.directory / "notes" / name)
        trial.urls = [f"http://{node.ip}:8080" for node in self.workers]
        trial.load_options = ["--key", self.platform.headers["X-API-Key"], "--timeout", "5"]
        trial.catalog = {
            "type": "sql",
            "uri": self.database.replace("postgresql:", "postgresql+psycopg:"),
            "warehouse": self.warehouse,
            "s3.endpoint": self.s3.url,
            "s3.region": "us-east-1",
            "s3.access-key-id": self.s3.keys["AWS_ACCESS_KEY_ID"],
            "s3.secret-access-key": self.s3.keys["AWS_SECRET_ACCESS_KEY"],
        }
        return trial
