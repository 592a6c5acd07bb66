"""One platform for the fault tests, hostile input first, kills last (tests run in the order of their files' names)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running_platform import RunningPlatform, running

PROJECT = Path(__file__).parent / "project"


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A running platform over tests/faults/project."""
    with running(RunningPlatform(tmp_path_factory.mktemp("faults"), PROJECT)) as started:
        yield started
