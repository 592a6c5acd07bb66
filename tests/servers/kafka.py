"""Kafka brokers, each a controller as well: one, or three that elect leaders; in the clear, or by TLS and SASL."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.installed import maven_libraries
from tests.servers.process import LOOPBACK, Server, free_port

VERSION = "4.4.0"
POM = Path(__file__).parent / "kafka.pom.xml"
FORMAT_TIMEOUT_S = 120.0
HEAP = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # several share a small machine with the tests


def missing() -> str:
    """Why there can be no broker here; empty where there can."""
    return "" if shutil.which("java") and shutil.which("mvn") else "no java or mvn here"


def _java(*words: str) -> list[str]:
    libraries = maven_libraries(f"kafka-{VERSION}", POM)
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    return ["java", *HEAP, quiet, "-cp", f"{libraries}/*", *words]


def _identity() -> str:
    return base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")


class Brokers:
    """Brokers 1 to n in `directory`, on free ports that they keep when they are started again."""

    def __init__(
        self,
        directory: Path,
        count: int = 1,
        settings: Mapping[str, str] = {},
        users: Sequence[str] = (),
        host: str = LOOPBACK,
    ) -> None:
        """Formats their disks. `settings`: of the properties file; `users`: as `--add-scram` takes each."""
        directory.mkdir(parents=True, exist_ok=True)
        self.host = host
        self.ports = [free_port(host) for _ in range(count)]
        self.directory = directory
        controllers = [free_port(host) for _ in range(count)]
        disks = [_identity() for _ in range(count)]
        voters = ",".join(
            f"{n}@{host}:{port}:{disk}" for n, (port, disk) in enumerate(zip(controllers, disks, strict=True), 1)
        )
        cluster = _identity()
        self.servers: list[Server] = []
        for n, (port, controller) in enumerate(zip(self.ports, controllers, strict=True), 1):
            properties = {
                "process.roles": "broker,controller",
                "node.id": str(n),
                "controller.quorum.bootstrap.servers": ",".join(f"{host}:{one}" for one in controllers),
                "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}",
                "advertised.listeners": f"PLAINTEXT://{host}:{port}",
                "controller.listener.names": "CONTROLLER",
                "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
                "log.dirs": str(directory / f"disk-{n}"),
                "offsets.topic.replication.factor": str(min(3, count)),
                "offsets.topic.num.partitions": "1",
                "transaction.state.log.replication.factor": str(min(3, count)),
                "transaction.state.log.min.isr": "1",
                "share.coordinator.state.topic.replication.factor": str(min(3, count)),
                "share.coordinator.state.topic.min.isr": "1",
                "group.initial.rebalance.delay.ms": "0",
                **{name: text.format(port=port, controller=controller) for name, text in settings.items()},
            }
            file = directory / f"broker-{n}.properties"
            file.write_text("".join(f"{name}={text}\n" for name, text in properties.items()))
            words = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(file)]
            words += ["--initial-controllers", voters, *(word for user in users for word in ("--add-scram", user))]
            subprocess.run(_java(*words), check=True, capture_output=True, timeout=FORMAT_TIMEOUT_S)
            self.servers.append(Server(_java("kafka.Kafka", str(file)), port, directory / f"broker-{n}.log", host=host))

    @property
    def addresses(self) -> list[str]:
        """As `log.brokers`."""
        return [f"{self.host}:{port}" for port in self.ports]

    def start(self) -> None:
        """Start all of them; the first appends may still wait for leaders."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait()

    def kill(self) -> None:
        """End all of them at once."""
        for server in self.servers:
            server.kill()

    def stop(self) -> None:
        """SIGSTOP: they answer nothing, and their connections stay."""
        for server in self.servers:
            server.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        for server in self.servers:
            server.signal(signal.SIGCONT)


@contextmanager
def kafka_brokers(
    directory: Path,
    count: int = 1,
    settings: Mapping[str, str] = {},
    users: Sequence[str] = (),
    host: str = LOOPBACK,
) -> Iterator[Brokers]:
    """Running brokers; ended whatever happens inside."""
    brokers = Brokers(directory, count, settings, users, host)
    try:
        brokers.start()
        yield brokers
    finally:
        brokers.kill()
