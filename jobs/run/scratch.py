"""Directories for what engines spill to disk. What a killed process left is removed by the next run."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from eagleray.cluster.config import Config
from eagleray.jobs.run.process_identity import surely_dead, this_process

_OWNER = "owner"


def make_scratch(config: Config) -> Path:
    """A directory of this process under `jobs_dir`; the caller removes it."""
    root = config.jobs_dir / "tmp"
    root.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="run-", dir=root))
    (made / _OWNER).write_text(this_process())
    return made


def sweep(config: Config) -> None:
    """Remove the directories of processes that are gone."""
    for directory in (config.jobs_dir / "tmp").glob("run-*"):
        try:
            left = surely_dead((directory / _OWNER).read_text())
        except (OSError, ValueError):  # being made, or being removed
            continue
        if left:
            shutil.rmtree(directory, ignore_errors=True)
