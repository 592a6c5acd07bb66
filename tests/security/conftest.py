"""One platform as `eagleray init` makes it, shared by the tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eagleray.cli.init import TEMPLATE
from tests.running_platform import RunningPlatform


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    running = RunningPlatform(tmp_path_factory.mktemp("security") / "project", TEMPLATE)
    try:
        yield running.start()
    finally:
        running.stop()
