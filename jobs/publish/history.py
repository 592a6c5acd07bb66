"""Mode `history`: every version of a row, with the time from which and until which it held (slowly changing, type 2).

The result of a run is how things are at the period's start. Of each key the table keeps the version that holds
(`valid_to` is null) and those that held: what changed is closed at the period's start and added anew, what is new is
added, what is the same stays, and so does a key that the result does not have. Called by `jobs.publish.modes`.

The same period again first takes back what it did, so it changes nothing; an earlier period is refused, for what came
after it builds on what was.
"""

from __future__ import annotations

from collections.abc import Sequence

from eagleray.cluster.errors import ChecksFailed, ConfigError
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import LakeFile
from eagleray.cluster.lake.scan import Pinned
from eagleray.jobs.model import Job
from eagleray.jobs.period import Period
from eagleray.jobs.publish.row_deletes import Taken, take_rows, write_rows
from eagleray.jobs.publish.scratch_duckdb import Desk, desk
from eagleray.sql.engine import identifier

VALID_FROM, VALID_TO = "valid_from", "valid_to"
SAMPLE_ROWS = 20


def versions(lake: Lake, pinned: Pinned, job: Job, period: Period, files: Sequence[LakeFile]) -> Taken:
    """The change that a result (`files`) makes for `period`: raises ChecksFailed for a key that it has twice.

    Raises ConfigError for a period before one that was run already.
    """
    with desk(lake.config, job.limits) as on:
        old = on.view("table", pinned, pinned.plan())
        new = on.view("new", pinned, pinned.over(files))
        names = dict(zip((column.name for column in pinned.columns), old.names, strict=True))
        key = [names[column] for column in job.key]
        _check(on, job, period, old.sql_name, new.sql_name, key)
        at = f"TIMESTAMPTZ '{period.start:%Y-%m-%d %H:%M:%S.%f}+00'"
        rest = [name for name in old.names if name not in (*key, VALID_FROM, VALID_TO)]
        columns = ", ".join(map(identifier, [*key, *rest, VALID_FROM]))
        # 1. the table without what an earlier run for this period did
        closed = f"coalesce({VALID_TO} = {at}, false)"
        on.table(
            "before",
            f"SELECT {columns}, CASE WHEN NOT {closed} THEN {VALID_TO} END AS {VALID_TO}, {closed} AS _reopened"
            f" FROM {old.sql_name} WHERE {VALID_FROM} <> {at}",
        )
        # 2. what differs from the version that holds
        same, alike = _equal(key), _equal(rest) or "true"
        holds = f"SELECT 1 FROM desk.before o WHERE o.{VALID_TO} IS NULL AND {same} AND {alike}"
        on.table("changed", f"SELECT n.* FROM {new.sql_name} n WHERE NOT EXISTS ({holds})")
        # 3. the rows that are written: versions that end now, that are open again, that begin now
        ends = f"(o.{VALID_TO} IS NULL AND EXISTS (SELECT 1 FROM desk.changed n WHERE {same}))"
        on.table(
            "written",
            f"SELECT {columns}, {at} AS {VALID_TO} FROM desk.before o WHERE {ends}"
            f" UNION ALL SELECT {columns}, {VALID_TO} FROM desk.before o WHERE _reopened AND NOT {ends}"
            f" UNION ALL SELECT {columns}, {VALID_TO} FROM desk.changed",
        )
        # 4. the rows that go, and the files that hold them
        goes = (
            f"t.{VALID_FROM} = {at} OR coalesce(t.{VALID_TO} = {at}, false) OR (t.{VALID_TO} IS NULL"
            f" AND EXISTS (SELECT 1 FROM desk.changed n WHERE {_equal(key, 't')}))"
        )
        taken = take_rows(lake, job.output, pinned, pinned.plan(), on, goes)
        listed = ", ".join(map(identifier, old.names))
        rows = on.batches(f"SELECT {listed} FROM desk.written", [column.name for column in pinned.columns])
        return Taken(taken.removed, [*taken.added, *write_rows(lake, job.output, rows)], taken.rows)


def _equal(columns: Sequence[str], side: str = "o") -> str:
    return " AND ".join(f"{side}.{identifier(c)} IS NOT DISTINCT FROM n.{identifier(c)}" for c in columns)


def _check(on: Desk, job: Job, period: Period, old: str, new: str, key: Sequence[str]) -> None:
    listed = ", ".join(map(identifier, key))
    twice = f"SELECT {listed}, count(*) AS rows FROM {new} GROUP BY {listed} HAVING count(*) > 1"
    ((count,),) = on.rows(f"SELECT count(*) FROM ({twice})")
    if count:
        check = f"each key ({', '.join(job.key)}) once in the result"
        sample = on.dicts(f"{twice} ORDER BY ALL LIMIT {SAMPLE_ROWS}")
        raise ChecksFailed(job.name, job.output, [(check, count, sample)], kept=False)
    at = f"TIMESTAMPTZ '{period.start:%Y-%m-%d %H:%M:%S.%f}+00'"
    newest = f"max(greatest({VALID_FROM}, {VALID_TO}))"
    ((latest, after),) = on.rows(f"SELECT CAST({newest} AS VARCHAR), coalesce({newest} > {at}, false) FROM {old}")
    if after:
        problem = (
            f"{job.output} has changes of {latest}, after the period {period.label}; run a history's periods in order"
        )
        raise ConfigError(f"{job.source.place}: {job.name}", problem)
