"""The profiles of property tests: `ci` by default, `nightly` with `pytest --hypothesis-profile=nightly`.

Neither has a deadline: how long an example takes depends on what else the machine does. `--columnar FILE` tests another
build of the library in C: `make sanitize` builds one that watches itself.

Temporary directories are in memory where there is room: each of thousands of commits waits for the disk otherwise, and
no test pulls the plug. PYTEST_DEBUG_TEMPROOT says where else.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from eagleray.cluster.events import fast_path

MEMORY_DISK = Path("/dev/shm")
MEMORY_DISK_BYTES_MIN = 6 << 30  # of which a run of everything takes less than half
SLOW_ON_A_BUSY_MACHINE = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)

# The same examples in every run by day, so that a run is red only by a change; the night draws others.
settings.register_profile(
    "ci", derandomize=True, deadline=None, print_blob=True, suppress_health_check=SLOW_ON_A_BUSY_MACHINE
)
settings.register_profile("nightly", settings.get_profile("ci"), derandomize=False, max_examples=2_000)
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--columnar", type=Path, help="test this build of cluster/events/columnar.c")


def pytest_configure(config: pytest.Config) -> None:
    if file := config.getoption("--columnar"):
        if fast_path.load(file) is None:
            raise pytest.UsageError(f"--columnar: {file} is no build of this columnar.c")
        fast_path.library = partial(fast_path.load, file)
    if MEMORY_DISK.is_dir() and shutil.disk_usage(MEMORY_DISK).free >= MEMORY_DISK_BYTES_MIN:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY_DISK))
