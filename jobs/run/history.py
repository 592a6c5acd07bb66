"""What runs have done: written by the runner, in few transactions; read by `jobs.run.reports`.

Promise: what a method wrote is durable when it returns, in SQLite and Postgres alike, and several runners and
schedulers may write at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from eagleray.cluster.clock import Clock, SteadyClock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.database import DatabaseClock
from eagleray.jobs.run import leases
from eagleray.jobs.run.history_schema import attempts, checks, nodes, open_engine, runs
from eagleray.jobs.run.history_schema import leases as lease_rows
from eagleray.jobs.run.outcome import Ending, Failure, Outcome
from eagleray.jobs.run.plan import Plan, fingerprint
from eagleray.jobs.run.process_identity import surely_dead, this_process
from eagleray.jobs.run.run_state import Progress

SILENT_US = 300_000_000  # a run of another machine that has not been seen for so long is taken for dead
MESSAGE_MAX = 20_000
CLOCK_FILE = "clock"  # in data_dir: where the steady clock of this boot stands


@dataclass(frozen=True)
class Ended:
    """A node's attempt that ended so; `row` is where the node stands now."""

    row: Progress
    ending: Ending


class History:
    """The history of a configuration's runs."""

    def __init__(self, engine: Engine, clock: Clock, steady: Clock | None = None) -> None:
        """Use `History.open`. `steady` is for leases and signs of life, which steps of the wall clock must not end."""
        self.engine = engine
        self.clock = clock
        self.steady = steady or clock
        self.owner = this_process()

    @classmethod
    def open(cls, config: Config, clock: Clock | None = None) -> History:
        """Connect to `jobs.history` and create it on first use; raises ConfigError."""
        engine = open_engine(config.jobs_history, f"{config.file}: jobs.history")
        if clock is not None:
            return cls(engine, clock)
        # One machine compares with itself, whatever its clock is set to; several compare by the server between them.
        own = engine.dialect.name != "postgresql"
        steady = SteadyClock(config.data_dir / CLOCK_FILE) if own else DatabaseClock(engine)
        return cls(engine, SystemClock(), steady)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def begin(self, plan: Plan, kind: str, rows: Sequence[Progress], resumes: str | None = None) -> str:
        """A new run with its nodes; returns its id, which sorts by time."""
        now_us = self.clock.now_us()
        moment = datetime.fromtimestamp(now_us / 1e6, UTC)
        run = f"{moment:%Y%m%d-%H%M%S}-{moment.microsecond // 1000:03}{secrets.token_hex(2)}"
        written = {
            "id": run, "kind": kind, "what": plan.what, "date": plan.date, "state": "running", "owner": self.owner,
            "started_us": now_us, "seen_us": self.steady.now_us(), "resumes": resumes,
        }  # fmt: skip
        with self.engine.begin() as connection:
            connection.execute(sa.insert(runs), written)
            if rows:
                connection.execute(sa.insert(nodes), [_node(run, row) for row in rows])
        return run

    def start(self, run: str, rows: Sequence[Progress]) -> dict[str, str]:
        """Attempts that begin now, for the outputs that are free; returns by output the run that holds the others."""
        now_us = self.clock.now_us()
        with self.engine.begin() as connection:
            outputs = {row.node.job.output for row in rows}
            refused = leases.take(connection, run, self.owner, outputs, self.steady.now_us())
            begun = [row for row in rows if row.node.job.output not in refused]
            states = [{"n": row.number, "state": "running", "attempts": row.attempt + 1} for row in begun]
            if begun:
                connection.execute(
                    sa.insert(attempts),
                    [{"run": run, "number": r.number, "attempt": r.attempt + 1, "started_us": now_us} for r in begun],
                )
                _update(connection, run, states)
                first = [{"n": row.number, "started_us": now_us} for row in begun if row.attempt == 0]
                _update(connection, run, first)
        return refused

    def end(self, run: str, ended: Sequence[Ended], others: Sequence[Progress], free: Collection[str]) -> None:
        """Attempts that ended, `others` that changed through them (skipped), and the outputs that nobody writes now."""
        now_us = self.clock.now_us()
        with self.engine.begin() as connection:
            for one in ended:
                _record(connection, run, one, now_us)
            _update(connection, run, [_standing(row, now_us) for row in (*(one.row for one in ended), *others)])
            leases.release(connection, run, free)

    def alive(self, run: str, outputs: Collection[str]) -> set[str]:
        """The run's process lives and holds `outputs`; returns those whose lease is lost."""
        now_us = self.steady.now_us()
        with self.engine.begin() as connection:
            connection.execute(sa.update(runs).where(runs.c.id == run).values(seen_us=now_us))
            return leases.renew(connection, run, outputs, now_us)

    def finish(self, run: str, state: str, rows: Sequence[Progress]) -> None:
        """The run has ended; `rows` are nodes whose state changed with it."""
        now_us = self.clock.now_us()
        with self.engine.begin() as connection:
            _update(connection, run, [_standing(row, now_us) for row in rows])
            connection.execute(sa.update(runs).where(runs.c.id == run).values(state=state, ended_us=now_us))
            connection.execute(sa.delete(lease_rows).where(lease_rows.c.run == run))

    def reap(self) -> list[str]:
        """Mark the runs whose process is gone as interrupted; returns their ids."""
        now_us, seen_us = self.clock.now_us(), self.steady.now_us()
        with self.engine.begin() as connection:
            running = connection.execute(sa.select(runs).where(runs.c.state == "running")).all()
            dead = [row.id for row in running if surely_dead(row.owner) or row.seen_us < seen_us - SILENT_US]
            for run in dead:
                connection.execute(sa.update(runs).where(runs.c.id == run).values(state="interrupted", ended_us=now_us))
                open_nodes = (nodes.c.run == run, nodes.c.state.in_(("waiting", "running")))
                connection.execute(sa.update(nodes).where(*open_nodes).values(state="interrupted", ended_us=now_us))
                connection.execute(sa.delete(lease_rows).where(lease_rows.c.run == run))
        return dead


def _node(run: str, row: Progress) -> dict[str, Any]:
    job, period = row.node.job, row.node.period
    return {
        "run": run, "number": row.number, "job": job.name, "period": period.label, "output": job.output,
        "fingerprint": fingerprint(job), "state": row.state, "reason": row.reason, "attempts": 0,
    }  # fmt: skip


def _record(connection: Connection, run: str, one: Ended, now_us: int) -> None:
    failure = one.ending if isinstance(one.ending, Failure) else None
    this = (attempts.c.run == run, attempts.c.number == one.row.number, attempts.c.attempt == one.row.attempt)
    kind = failure.kind if failure else "succeeded"
    message = failure.message[:MESSAGE_MAX] if failure else None
    connection.execute(sa.update(attempts).where(*this).values(ended_us=now_us, kind=kind, message=message))
    if failure and failure.checks:
        mine = (checks.c.run == run, checks.c.number == one.row.number)
        connection.execute(sa.delete(checks).where(*mine))  # of an earlier attempt
        connection.execute(
            sa.insert(checks),
            [
                {"run": run, "number": one.row.number, "name": check.name[:400], "bad_rows": check.count}
                | {"sample": [dict(row) for row in check.sample]}
                for check in failure.checks
            ],
        )


def _standing(row: Progress, now_us: int) -> dict[str, Any]:
    values: dict[str, Any] = {"n": row.number, "state": row.state, "reason": row.reason[:MESSAGE_MAX]}
    values["ended_us"] = None if row.state in ("waiting", "running") else now_us
    outcome = asdict(row.outcome) if isinstance(row.outcome, Outcome) else {}
    return values | {name: outcome.get(name) for name in ("rows", "bytes", "files", "snapshot_id", "inputs")}


def _update(connection: Connection, run: str, values: Sequence[Mapping[str, Any]]) -> None:
    """Update nodes of `run`; all of `values` have the same names, `n` is the node's number."""
    if values:
        names = [name for name in values[0] if name != "n"]
        statement = sa.update(nodes).where(nodes.c.run == run, nodes.c.number == sa.bindparam("n"))
        connection.execute(statement.values({name: sa.bindparam(name) for name in names}), list(values))
