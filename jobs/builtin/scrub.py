"""`eagleray job run scrub`: reads every file of the lake and every record of the log, and names what is damaged."""

from __future__ import annotations

from dataclasses import dataclass, field

from eagleray.cluster.config import Config
from eagleray.cluster.errors import LakeDamaged
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.scrub import scrub_log, scrub_table
from eagleray.cluster.log.backends import open_log
from eagleray.jobs.builtin.compact import chosen

SHOWN_MAX = 20


@dataclass(frozen=True)
class ScrubOptions:
    """Read every data file and log record, and compare them with manifests and checksums."""

    tables: tuple[str, ...] = field(default=(), metadata={"help": "Tables as NAMESPACE.TABLE; default: all."})
    log: bool = field(default=True, metadata={"help": "Also the event log, and `events` against it; default: yes."})


@dataclass(frozen=True)
class ScrubReport:
    """What was read, and found whole."""

    tables: int
    files: int
    records: int
    bytes: int


def run(config: Config, options: ScrubOptions) -> ScrubReport:
    """Scrub; raises LakeDamaged that names what is damaged, ConfigError for a table that is not there."""
    lake = Lake.open(config)
    tables = chosen(lake, options.tables)
    found = [scrub_table(lake, table) for table in tables]
    files, size = sum(one.files for one in found), sum(one.bytes for one in found)
    records = 0
    if options.log and config.log.backend != "memory":
        log = open_log(config)
        try:
            read = [scrub_log(log, lake, stream) for stream in config.streams]
        finally:
            log.close()
        records, size = sum(one.files for one in read), size + sum(one.bytes for one in read)
        found += read
    if problems := [problem for one in found for problem in one.problems]:
        more = [f"and {len(problems) - SHOWN_MAX} more"] if len(problems) > SHOWN_MAX else []
        advice = "restore them from a backup (`eagleray restore`)"
        raise LakeDamaged("\n".join([f"{len(problems)} damaged; {advice}:", *problems[:SHOWN_MAX], *more]))
    return ScrubReport(len(tables), files, records, size)
