"""`eagleray job run expire`: forgets old snapshots, and deletes data files and metadata that only they used."""

from __future__ import annotations

from dataclasses import dataclass, field

from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.expire import Retention
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.builtin.compact import chosen

AGE_US = 5 * 86_400_000_000
ATTEMPTS_MAX = 5  # a stream commits every few seconds, and whoever comes first wins


@dataclass(frozen=True)
class ExpireOptions:
    """Forget snapshots that are older than an age, and delete the files that only they used."""

    tables: tuple[str, ...] = field(default=(), metadata={"help": "Tables as NAMESPACE.TABLE; default: all."})
    older_than_us: int = field(default=AGE_US, metadata={"help": "Keep snapshots younger than this; default: 5d."})
    keep: int = field(default=1, metadata={"help": "Keep at least this many of the newest; default: 1."})


@dataclass(frozen=True)
class ExpireReport:
    """What went."""

    snapshots: int
    files: int
    bytes: int


def run(config: Config, options: ExpireOptions, clock: Clock | None = None) -> ExpireReport:
    """Expire; raises ConfigError for a table that is not there. Replaced files stay for lake.replaced_files_kept."""
    if options.keep < 1:
        raise ConfigError("--keep", "expected at least 1: a table needs a snapshot")
    lake = Lake.open(config, clock or SystemClock())
    retention = Retention(options.keep, options.older_than_us, config.lake.replaced_files_kept)
    found = [expire_until_done(lake, table, retention) for table in chosen(lake, options.tables)]
    return ExpireReport(sum(r.snapshots for r in found), sum(r.files for r in found), sum(r.bytes for r in found))


def expire_until_done(lake: Lake, table: str, retention: Retention) -> ExpireReport:
    """Expire one table, again where a commit came first."""
    snapshots = files = size = 0
    for _ in range(ATTEMPTS_MAX):
        done = lake.expire(table, retention)
        snapshots, files, size = snapshots + done.snapshots, files + done.files, size + done.bytes
        if not lake.expirable(table, retention):
            break
    return ExpireReport(snapshots, files, size)
