"""What a result changes in its table, by mode: which files go and which come. Nothing is committed here.

Every plan is made at one snapshot and holds only for it; `jobs.publish.publish` plans again where another commit came
first. The same result planned again gives the same rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from eagleray.cluster.errors import ChecksFailed, ConfigError
from eagleray.cluster.lake.alteration import Retyping
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.parquet_stream import values
from eagleray.cluster.lake.predicate import EVERYTHING, Compare
from eagleray.cluster.lake.replace import LakeFile
from eagleray.cluster.lake.scan import Pinned
from eagleray.jobs.engines.incremental import NUMBER_PROPERTY, NUMBERED_PROPERTY
from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.project.partition_rules import about_its_period, reads_its_period_alone
from eagleray.jobs.publish.append_eras import ERAS_PROPERTY, Era, eras, replaced, written
from eagleray.jobs.publish.history import versions
from eagleray.jobs.publish.partitions import Owner
from eagleray.jobs.publish.row_deletes import Taken, matches, take_rows, write_rows
from eagleray.jobs.publish.scratch_duckdb import desk
from eagleray.sql.engine import identifier, literal

RUN, RUN_NUMBER = "_run", "_run_number"
SAMPLE_ROWS = 20


@dataclass(frozen=True)
class Result:
    """A run's rows, written but not committed. `number`: their `_run_number`, if the mode has one."""

    job: Job
    period: Period
    files: Sequence[LakeFile]
    rows: int
    number: int | None = None
    retyping: Retyping | None = None  # other types than the table has, where all rows are replaced

    @property
    def bytes(self) -> int:
        """Of the files."""
        return sum(file.file_size_in_bytes for file in self.files)


@dataclass(frozen=True)
class Plan:
    """The change of one result at one snapshot."""

    result: Result
    removed: Sequence[LakeFile] = ()
    added: Sequence[LakeFile] = ()
    properties: dict[str, str] = field(default_factory=dict)


def numbered(job: Job) -> bool:
    """Whether rows say which run they came with: those of tables that jobs append to."""
    return job.mode in ("append", "incremental")


def next_number(pinned: Pinned) -> int:
    """The `_run_number` of the next run."""
    return int(pinned.properties.get(NUMBER_PROPERTY, "0")) + 1


def plan(lake: Lake, pinned: Pinned, result: Result) -> Plan:
    """What publishing `result` changes in the table as it is `pinned`; raises ChecksFailed for a key found twice."""
    job = result.job
    if job.mode == "full":
        planned = Plan(result, pinned.plan().data_files, result.files)
    elif job.mode == "overwrite_partitions":
        planned = _overwrite(lake, pinned, result)
    elif job.mode == "history":
        taken = versions(lake, pinned, job, result.period, result.files)
        planned = Plan(result, taken.removed, taken.added)
    elif job.mode == "merge":
        planned = _added(result, _merge(lake, pinned, result))
    else:
        result = _renumber(lake, pinned, result)
        if job.mode == "append":
            taken = _earlier(lake, pinned, result)
        else:
            taken = _merge(lake, pinned, result) if job.key else Taken()
        planned = _added(result, taken)
    properties = _numbers(pinned, result)
    if job.mode == "append" and result.files:
        properties[ERAS_PROPERTY] = written(_eras(lake, pinned, result))
    return replace(planned, properties=properties)


def _numbers(pinned: Pinned, result: Result) -> dict[str, str]:
    """The properties by which incremental jobs know how far the table is, where they change."""
    there, own = pinned.properties, numbered(result.job)
    wanted: dict[str, str] = {}
    if own and (result.files or NUMBER_PROPERTY not in there):
        wanted[NUMBER_PROPERTY] = str(result.number if result.files else 0)
    if (NUMBER_PROPERTY in there or own) and own == (there.get(NUMBERED_PROPERTY) == "no"):
        wanted[NUMBERED_PROPERTY] = "yes" if own else "no"
    return wanted


def _added(result: Result, taken: Taken) -> Plan:
    return Plan(result, taken.removed, [*taken.added, *result.files])


def _overwrite(lake: Lake, pinned: Pinned, result: Result) -> Plan:
    """Replace the partitions that the result has rows in, and those of the period."""
    owner = Owner.of(pinned, result.job.partition_by, result.period)
    filled = {values(file.partition) for file in result.files}
    _check_partitions(result.job, owner, filled)

    def goes(file: LakeFile) -> bool:
        key = values(file.partition)
        return key in filled or owner.owns(key)

    every = pinned.plan()
    now = every.only(lambda file: file.spec_id == pinned.spec_id)
    earlier = every.only(lambda file: file.spec_id != pinned.spec_id)
    removed = [*filter(goes, now.data_files), *earlier.data_files]
    moved: list[LakeFile] = []
    if earlier.files:  # partitioned as the table was before: its rows are sorted into the partitions of now
        moved = write_rows(lake, result.job.output, earlier.batches([column.name for column in pinned.columns]))
    return Plan(result, removed, [*(file for file in moved if not goes(file)), *result.files])


def _check_partitions(job: Job, owner: Owner, filled: Collection[tuple[Any, ...]]) -> None:
    """Raise ConfigError where rows of a period are in a partition of others, all of whose rows would go for them.

    Where a function has taken days of UTC for its own (a statement is refused before, `jobs.engines.own_days`), and
    where rows have no time: each run of another period may have such.
    """
    where = f"{job.source.place}: {job.name}"
    if (column := next(filter(None, map(owner.of_no_time, filled)), None)) and about_its_period(job):
        problem = (
            f"the result for {owner.period.label} has rows whose {column} is null: they are of no period, and would"
            f" replace those of all others; leave them out, give them a value, or expected mode merge or append"
        )
        raise ConfigError(where, problem)
    if job.source.function is None or not reads_its_period_alone(job):
        return
    if day := next(filter(None, map(owner.in_utc_alone, filled)), None):
        problem = (
            f"the result for {owner.period.label} has rows of {day}, which is a day of it by UTC alone, so they would"
            " replace those of another period; expected dates by the job's time zone (`period.day`)"
        )
        raise ConfigError(where, problem)


def _merge(lake: Lake, pinned: Pinned, result: Result) -> Taken:
    """Take out the rows whose key is in the result."""
    job = result.job
    if not result.files:
        return Taken()
    with desk(lake.config, job.limits) as on:
        new = on.view("new", pinned, pinned.over(result.files))
        names = dict(zip((column.name for column in pinned.columns), new.names, strict=True))
        key = [names[column] for column in job.key]
        listed = ", ".join(map(identifier, key))
        twice = f"SELECT {listed}, count(*) AS rows FROM {new.sql_name} GROUP BY {listed} HAVING count(*) > 1"
        ((count,),) = on.rows(f"SELECT count(*) FROM ({twice})")
        if count:
            sample = on.dicts(f"{twice} ORDER BY ALL LIMIT {SAMPLE_ROWS}")
            check = f"each key ({', '.join(job.key)}) once in the result"
            raise ChecksFailed(job.name, job.output, [(check, count, sample)], kept=False)
        candidates = pinned.plan(pinned.like(result.files, job.key))
        return take_rows(lake, job.output, pinned, candidates, on, matches(key, new.sql_name))


def _earlier(lake: Lake, pinned: Pinned, result: Result) -> Taken:
    """Take out what earlier runs have appended for the same period, or a part of it."""
    label, job = result.period.label, result.job
    found = _eras(lake, pinned, result)
    candidates = pinned.plan(Compare(RUN, "=", label) if len(found) == 1 else EVERYTHING)
    if not candidates.files:
        return Taken()
    with desk(lake.config, job.limits) as on:
        condition: str | None = f"t.{RUN} = {literal(label)}"
        if len(found) > 1:
            there = on.view("runs", pinned, candidates)
            query = (
                f"SELECT {RUN}, min({RUN_NUMBER}), max({RUN_NUMBER}) FROM {there.sql_name} GROUP BY ALL ORDER BY ALL"
            )
            condition = replaced(found, (row for row in on.rows(query) if row[0] is not None), job, result.period)
        return Taken() if condition is None else take_rows(lake, job.output, pinned, candidates, on, condition)


def _eras(lake: Lake, pinned: Pinned, result: Result) -> list[Era]:
    return eras(pinned.properties, result.job, lake.config.jobs.timezone, result.number or 1)


def _renumber(lake: Lake, pinned: Pinned, result: Result) -> Result:
    """The result with the number that is next: another run may have taken its own since it was written."""
    number = next_number(pinned)
    if result.number == number or not result.files:
        return replace(result, number=number)
    columns = [column.name for column in pinned.columns]
    at = columns.index(RUN_NUMBER)
    batches = (
        batch.set_column(at, RUN_NUMBER, pa.repeat(number, batch.num_rows))
        for batch in pinned.over(result.files).batches(columns)
    )
    return replace(result, files=write_rows(lake, result.job.output, batches), number=number)
