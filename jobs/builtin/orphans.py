"""`eagleray job run orphans`: deletes files that no snapshot refers to, left behind by what was killed."""

from __future__ import annotations

from dataclasses import dataclass, field

from eagleray.cluster.backup.hold import deleting
from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.orphans import remove_orphans
from eagleray.cluster.lake.staged_files import GRACE_MIN_US
from eagleray.jobs.builtin.compact import chosen

GRACE_US = 3 * 86_400_000_000


@dataclass(frozen=True)
class OrphansOptions:
    """Delete files below tables that nothing refers to and that are older than a grace."""

    tables: tuple[str, ...] = field(default=(), metadata={"help": "Tables as NAMESPACE.TABLE; default: all."})
    grace_us: int = field(
        default=GRACE_US, metadata={"help": "Keep files younger than this, at least 1h; default: 3d."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Only print what would be removed."})


@dataclass(frozen=True)
class OrphansReport:
    """What went, or with `dry_run` would have gone."""

    files: int
    bytes: int
    dry_run: bool


def run(config: Config, options: OrphansOptions, clock: Clock | None = None) -> OrphansReport:
    """Delete; raises ConfigError for a table that is not there or a grace that is too short.

    EaglerayError while a backup is taken.
    """
    if options.grace_us < GRACE_MIN_US:
        raise ConfigError("--grace", "expected at least 1h: files that are being written have no snapshot yet")
    lake = Lake.open(config)
    now_us = (clock or SystemClock()).now_us()
    with deleting(config.data_dir) as allowed:
        if not allowed:
            raise EaglerayError("a backup is being taken, and nothing is deleted meanwhile; run this again after it")
        found = [
            file
            for table in chosen(lake, options.tables)
            for file in remove_orphans(lake, table, options.grace_us, now_us, dry_run=options.dry_run)
        ]
    return OrphansReport(len(found), sum(file.bytes for file in found), options.dry_run)
