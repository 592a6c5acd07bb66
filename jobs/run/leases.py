"""Output tables are written by one run at a time: a lease in the history, with an end, held by a living process.

A lease is renewed while its run lives; one that ran out, or whose holder is surely dead, goes to the next who asks. A
run that lost its lease without noticing does no harm: `jobs.publish` refuses a result that another overtook.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from eagleray.jobs.run.history_schema import insert, leases
from eagleray.jobs.run.process_identity import surely_dead

LEASE_US = 60_000_000  # renewed every sixth of it: a stalled machine loses it, a busy one does not


def take(connection: Connection, run: str, owner: str, outputs: Collection[str], now_us: int) -> dict[str, str]:
    """Take the leases of `outputs`, or renew them; returns the run that holds each one that could not be taken."""
    found = {
        row.output: row
        for row in connection.execute(sa.select(leases).where(leases.c.output.in_(sorted(outputs)))).all()
    }
    refused = {}
    for output in sorted(outputs):  # sorted: two that take several do not lock each other out
        mine = {"run": run, "owner": owner, "until_us": now_us + LEASE_US}
        held = found.get(output)
        if held is None:
            change: sa.Insert | sa.Update = (
                insert(connection, leases).values(output=output, **mine).on_conflict_do_nothing()
            )
        elif held.run == run or held.until_us <= now_us or surely_dead(held.owner):
            unchanged = (leases.c.output == output, leases.c.run == held.run, leases.c.until_us == held.until_us)
            change = sa.update(leases).where(*unchanged).values(**mine)
        else:
            refused[output] = str(held.run)
            continue
        if connection.execute(change.returning(leases.c.output)).scalar() is None:
            refused[output] = "another run"
    return refused


def renew(connection: Connection, run: str, outputs: Collection[str], now_us: int) -> set[str]:
    """Hold on to the leases of `outputs`; returns those that are lost."""
    if not outputs:
        return set()
    mine = (leases.c.run == run, leases.c.output.in_(sorted(outputs)))
    connection.execute(sa.update(leases).where(*mine).values(until_us=now_us + LEASE_US))
    held = connection.execute(sa.select(leases.c.output).where(*mine)).scalars()
    return set(outputs) - set(held)


def release(connection: Connection, run: str, outputs: Iterable[str]) -> None:
    """Let others write `outputs`."""
    if names := sorted(outputs):
        connection.execute(sa.delete(leases).where(leases.c.run == run, leases.c.output.in_(names)))
