"""Going on with a run that failed: what it had done and would be done the same way is not done again. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eagleray.jobs.run.plan import Plan, fingerprint

UNFINISHED = ("failed", "interrupted")


def resumed(plan: Plan, run: str, rows: Sequence[Mapping[str, Any]]) -> Plan:
    """`plan` without what `run`, with nodes `rows`, had done.

    A node counts as done if it succeeded, its job is written as it was then, and all that it needs is done as well:
    what changed is made again, and everything that follows from it.
    """
    before = {f"{row['job']}@{row['period']}": row for row in rows}
    done: dict[str, str] = {}
    for node in plan.nodes:
        row = before.get(node.key)
        if row is None or row["fingerprint"] != fingerprint(node.job) or not node.needs <= done.keys():
            continue
        if row["state"] == "succeeded":
            done[node.key] = run
        elif row["state"] == "skipped" and str(row["reason"]).startswith("done by run "):
            done[node.key] = str(row["reason"]).removeprefix("done by run ")
    return replace(plan, done=done)
