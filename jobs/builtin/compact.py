"""`eagleray job run compact`: many small files become few large ones, sorted, while the stream goes on committing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.compaction import compact
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.near_names import instead


@dataclass(frozen=True)
class CompactOptions:
    """Rewrite small files of tables into files of about lake.file_bytes_max, sorted by the table's order."""

    tables: tuple[str, ...] = field(default=(), metadata={"help": "Tables as NAMESPACE.TABLE; default: all."})
    threads: int | None = field(default=None, metadata={"help": "Files written at once; default: one per core."})


@dataclass(frozen=True)
class CompactReport:
    """What became of the files. `refused`: commits that another one made void, and that were tried anew."""

    tables: tuple[str, ...]
    files_before: int
    files_after: int
    bytes: int
    refused: int


def run(config: Config, options: CompactOptions) -> CompactReport:
    """Compact; raises ConfigError for a table that is not there."""
    lake = Lake.open(config)
    changed: list[str] = []
    before = after = size = refused = 0
    for table in chosen(lake, options.tables):
        done = compact(lake, table, config.lake.file_bytes_max, options.threads or os.cpu_count() or 1)
        if done.snapshots:
            changed.append(table)
        before, after = before + done.files_before, after + done.files_after
        size, refused = size + done.bytes, refused + done.refused
    return CompactReport(tuple(changed), before, after, size, refused)


def chosen(lake: Lake, names: Iterable[str]) -> list[str]:
    """The tables of these names, or all; raises ConfigError for one that is not there."""
    there = lake.tables()
    wanted = list(dict.fromkeys(names)) or there
    for name in wanted:
        if name not in there:
            raise ConfigError("--tables", f"there is no table {name!r}{instead(name, there, 'none yet')}")
    return wanted
