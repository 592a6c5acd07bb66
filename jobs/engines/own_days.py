"""Refuses statements that take days of UTC for the days of their job, where rows of other periods would be replaced.

DuckDB turns instants into dates, and dates into instants, by UTC. In a job of mode `overwrite_partitions` whose days
are those of another zone such a date is another period's for some hours of each day. Called by `jobs.engines.execute`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from eagleray.cluster.errors import QueryRejected
from eagleray.jobs.alignment import reaching_beyond
from eagleray.jobs.engines.plan import PLANNING_S
from eagleray.jobs.engines.task import Work
from eagleray.jobs.project.parameters import substitute
from eagleray.jobs.project.signature import statements
from eagleray.jobs.project.sql_jobs import padded
from eagleray.sql.engine import Deadline
from eagleray.sql.guard import nodes, place, shared_guard
from eagleray.sql.planner import LIMITS
from eagleray.sql.session import declared

_INSTANT = "TIMESTAMP WITH TIME ZONE"
_LOCAL = ("DATE", "TIMESTAMP")
_LONG = ("day", "week", "month", "quarter", "year", "decade", "century", "millennium")


def check_days(work: Work) -> None:
    """Raise QueryRejected, with the place, for a conversion by UTC where the job's days are another zone's."""
    job = work.job
    zone = job.schedule.timezone if job.schedule else work.config.jobs.timezone
    if job.mode != "overwrite_partitions" or reaching_beyond(job.schedule, zone, "day", dates=False) is None:
        return
    for text in _texts(work):
        for node in _conversions(work, text):
            raise QueryRejected(
                "this goes by the days of UTC, and the job's are those of"
                f" {zone}, so its runs would replace each other's rows; expected the zone in it, such as CAST(time AT"
                f" TIME ZONE '{zone}' AS DATE), or $start, $end and $date{place(text, node.get('query_location'))}"
            )


def _texts(work: Work) -> list[str]:
    job = work.job
    if job.source.sql is not None:
        return [substitute(padded(job.source), work.period, job.variables).text]
    assert job.source.function is not None
    return [substitute(text, work.period, job.variables).text for text in statements(job.source.function)]


def _conversions(work: Work, text: str) -> Iterator[dict[str, Any]]:
    """The parts of a statement's plan that turn an instant into a date or back without a zone."""
    shared_guard().approve(text)
    with declared(list(work.tables.values()), LIMITS, Deadline(PLANNING_S)) as connection:
        ((written,),) = connection.execute("SELECT json_serialize_plan(?, optimize := false)", [text]).fetchall()
    try:
        plan = json.loads(written)
    except (ValueError, RecursionError):  # DuckDB writes NaN as a bare word
        return
    yield from (node for node in nodes(plan) if _converts(node))


def _converts(node: dict[str, Any]) -> bool:
    if node.get("expression_class") != "BOUND_FUNCTION":
        return False
    taken = [kind.get("id") for kind in node.get("arguments") or ()]
    given = (node.get("return_type") or {}).get("id")
    if node["type"] == "OPERATOR_CAST":
        return (given in _LOCAL and taken == [_INSTANT]) or (given == _INSTANT and taken[0] in _LOCAL)
    name = (node.get("qname") or {}).get("path", [""])[-1]
    if name not in ("date_trunc", "datetrunc") or _INSTANT not in taken:
        return False
    unit = ((node.get("children") or [{}])[0].get("value") or {}).get("value")
    return not isinstance(unit, str) or unit.lower().rstrip("s") in _LONG
