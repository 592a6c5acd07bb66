"""One platform for all integration tests: starting Ray takes longer than most of them."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running_platform import RunningPlatform, running
from tests.servers.otlp import Received, receiver

PROJECT = Path(__file__).parent / "project"


@pytest.fixture(scope="session")
def otlp() -> Iterator[Received]:
    """What the platform sends by OTLP."""
    with receiver() as received:
        yield received


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, otlp: Received) -> Iterator[RunningPlatform]:
    """A running platform with every stream of tests/integration/project; each test has a stream of its own.

    It traces what a client's `traceparent` asks for, and nothing else.
    """
    environ = {
        "OTEL_SDK_DISABLED": "false",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp.http_port}",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    with running(RunningPlatform(tmp_path_factory.mktemp("platform"), PROJECT, environ)) as started:
        yield started
        assert started.stop() == 0


@pytest.fixture(scope="session")
def input_file() -> Callable[[str], Path]:
    """Finds a file of the shared test data."""
    root = Path(os.environ.get("EAGLERAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")

    def find(name: str) -> Path:
        if not (root / name).exists():
            pytest.skip(f"no {name} in {root}; set EAGLERAY_TEST_DATA to a directory that has it")
        return root / name

    return find


@pytest.fixture(scope="session")
def input_lines(input_file: Callable[[str], Path]) -> Callable[[str], list[bytes]]:
    """Reads the lines of a file of the shared test data, unpacked where its name ends in .gz."""

    def read(name: str) -> list[bytes]:
        data = input_file(name).read_bytes()
        return (gzip.decompress(data) if name.endswith(".gz") else data).splitlines()

    return read
