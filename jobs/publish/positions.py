"""How far an output says that its inputs were read, and whether that still holds for the inputs as they are.

Called by `jobs.run.attempt`, which reads on from there, and by `jobs.publish.publish`, which moves it with the rows.
Promise: no row of an input goes into an output without a key twice, and none is left out, whatever jobs and tables are
called. What is not known is refused.

1. A position is the output's, and holds while runs of mode incremental made its rows: one of another mode voids it.
2. Run numbers are those of one table. Of a table that was renamed they go on; of one that was made anew they do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from eagleray.cluster.errors import CommitFailed, ConfigError
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.scan import Pinned
from eagleray.jobs.engines.incremental import RUN_NUMBER, Position
from eagleray.jobs.model import Job
from eagleray.jobs.publish.run_mark import RunMark

POSITIONS = "eagleray.positions"
"""The property of an output that says how far its inputs were read; earlier versions added the job's name."""

TABLES = "eagleray.positions_of"
"""The property that says which tables these inputs were, by name."""

_VOID = "null"
Positions = Mapping[str, Position]


class Overtaken(CommitFailed):
    """Another run of an incremental job has published what this one read: run again, from where it ended."""


def incremental_positions(lake: Lake, job: Job) -> Positions | None:
    """How far the output of `job` has read its inputs, as it says itself; None where nothing has been read yet.

    Raises ConfigError for a table of an earlier version in which several jobs left a position.
    """
    text = _written(lake.properties(job.output), job)
    return json.loads(text) if text is not None else None


def holding(lake: Lake, job: Job, since: Positions | None, inputs: Mapping[str, Pinned]) -> Positions | None:
    """The part of `since` that holds for `inputs`; raises ConfigError where rows would come a second time."""
    if since is None:
        if not job.key and _has_rows(lake, job.output):
            raise _refused(job, "nothing says how far the inputs had been read when its rows were made")
        return None
    known: dict[str, str] = json.loads(lake.properties(job.output).get(TABLES, "{}"))
    names = {table: name for name, table in known.items()}
    found: dict[str, Position] = {}
    for name, pinned in inputs.items():
        at = since.get(name)
        if at is None or (RUN_NUMBER in at and known.get(name, pinned.identity) != pinned.identity):  # rule 2
            renamed = since.get(names.get(pinned.identity, ""))
            if renamed is None and at is not None and not job.key:
                raise _refused(job, f"{name} is not the table that was read: it was dropped and made anew")
            at = renamed
        if at is not None:
            found[name] = at
    return found


def moved(job: Job, properties: Mapping[str, str], run: RunMark, positions: Positions) -> dict[str, str]:
    """The properties that say how far an incremental job is, if they change; raises Overtaken if it did meanwhile."""
    if job.mode != "incremental":  # rule 1
        there = any(key == POSITIONS or key.startswith(f"{POSITIONS}.") for key in properties)
        return {POSITIONS: _VOID} if there and properties.get(POSITIONS) != _VOID else {}
    text = _written(properties, job)
    now = json.loads(text) if text is not None else None
    if now != (None if run.since is None else {name: dict(at) for name, at in run.since.items()}):
        raise Overtaken(f"another run of {job.name} published since this one began: what it read was read twice")
    wanted = {
        POSITIONS: {**(now or {}), **{name: dict(at) for name, at in positions.items()}},
        TABLES: {**json.loads(properties.get(TABLES, "{}")), **run.tables},
    }
    texts = {key: json.dumps(value, sort_keys=True) for key, value in wanted.items() if value}
    same = now == wanted[POSITIONS] and properties.get(TABLES) == texts.get(TABLES)
    return {} if same else texts


def _has_rows(lake: Lake, table: str) -> bool:
    return lake.find(table) is not None and lake.pin(table).plan().rows > 0


def _refused(job: Job, why: str) -> ConfigError:
    problem = (
        f"{why}, so {job.output} would get rows again that it has; expected a `key`, by which they are merged, or an"
        f" output that begins anew: `eagleray table drop {job.output}`"
    )
    return ConfigError(f"{job.source.place}: mode", problem)


def _written(properties: Mapping[str, str], job: Job) -> str | None:
    """What was read belongs to the table that it went into: a job that is renamed goes on from there."""
    if POSITIONS in properties:
        return None if properties[POSITIONS] == _VOID else properties[POSITIONS]
    prefix = f"{POSITIONS}."
    by_job = {key.removeprefix(prefix): text for key, text in properties.items() if key.startswith(prefix)}
    if job.name in by_job:
        return by_job[job.name]
    if len(by_job) > 1:
        problem = (
            f"{job.output} has positions of {', '.join(sorted(by_job))}; give the job the name of the one it goes on"
        )
        raise ConfigError(f"{job.source.place}: {job.name}", problem)
    return next(iter(by_job.values()), None)
