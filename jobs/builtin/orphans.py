"""`eagleray job run orphans`: deletes files that no snapshot refers to, left behind by what was killed."""

from __future__ import annotations

from dataclasses import dataclass, field

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.orphans import remove_orphans
from eagleray.jobs.builtin.compact import chosen

GRACE_US = 3 * 86_400_000_000
GRACE_MIN_US = 3_600_000_000  # a shorter one could take the files of a job that is still writing


@dataclass(frozen=True)
class OrphansOptions:
    """Delete files below tables that nothing refers to and that are older than a grace."""

    tables: tuple[str, ...] = field(default=(), metadata={"help": "Tables as NAMESPACE.TABLE; default: all."})
    grace_us: int = field(default=GRACE_US, metadata={"help": "Younger files stay, at least 1h; default: 3d."})
    dry_run: bool = field(default=False, metadata={"help": "Only say what would go."})


@dataclass(frozen=True)
class OrphansReport:
    """What went, or with `dry_run` would have gone."""

    files: int
    bytes: int
    dry_run: bool


def run(config: Config, options: OrphansOptions, clock: Clock | None = None) -> OrphansReport:
    """Delete; raises ConfigError for a table that is not there or a grace that is too short."""
    if options.grace_us < GRACE_MIN_US:
        raise ConfigError("--grace", "expected at least 1h: files that are being written have no snapshot yet")
    lake = Lake.open(config)
    now_us = (clock or SystemClock()).now_us()
    found = [
        file
        for table in chosen(lake, options.tables)
        for file in remove_orphans(lake, table, options.grace_us, now_us, dry_run=options.dry_run)
    ]
    return OrphansReport(len(found), sum(file.bytes for file in found), options.dry_run)
