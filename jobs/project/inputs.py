"""The tables that a statement reads, from its syntax tree. Names of WITH are not tables.

The statement passes `sql.guard` on the way, so a project whose SQL does more than read is refused when it is
loaded, with the place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eagleray.cluster.errors import QueryRejected
from eagleray.jobs.project.parameters import blanked
from eagleray.sql.guard import Guard

TABLE = r"^[a-z][a-z0-9_]{0,62}\.[a-z][a-z0-9_]{0,62}$"
"""How tables are called: `namespace.table`."""


class Inputs:
    """Reads statements; close it after the last one."""

    def __init__(self) -> None:
        """Start a parser."""
        self._guard = Guard(chars_max=None)

    def __enter__(self) -> Inputs:
        """Close at the end of a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.close()

    def parse(self, statement: str) -> dict[str, Any]:
        """The syntax tree of `statement`; raises QueryRejected."""
        return self._guard.parse(statement)

    def of(self, statement: str, variables: Iterable[str] = ()) -> tuple[str, ...]:
        """The tables that `statement` reads, in order of first use; raises QueryRejected, with line and column."""
        approved = self._guard.approve(blanked(statement, variables))
        if approved.kind != "select":
            raise QueryRejected("expected a SELECT: a job's statement makes rows")
        tables: dict[str, None] = {}
        for reference in approved.tables:
            if len(reference.names) != 2:
                name = ".".join(reference.names)
                raise QueryRejected(f"{name} is not a table of the lake; expected namespace.table{reference.where}")
            tables[".".join(reference.names).lower()] = None
        return tuple(tables)
