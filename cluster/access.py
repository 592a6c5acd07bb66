"""Which tables somebody may read, as their scopes say. Asked by SQL's guard with every query, and by the edge's lists.

Scopes: `read` opens every table, `read:NAME` those of one namespace (a stream, or where jobs write), but neither opens
a table of dead letters: these hold what senders never meant to store, byte for byte. `dead_letters` opens those of all
streams, `dead_letters:STREAM` those of one. A table that is not open is refused alike whether or not there is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

READ = "read"
DEAD_LETTERS = "dead_letters"  # also what the tables are called


@dataclass(frozen=True, slots=True)
class TableAccess:
    """The tables that may be read, by namespace; None: those of every namespace."""

    read: frozenset[str] | None
    dead_letters: frozenset[str] | None

    @classmethod
    def of(cls, scopes: Iterable[str]) -> TableAccess:
        """What `scopes` open; `admin` opens everything, scopes of other kinds nothing."""
        held = set(scopes)
        if "admin" in held:
            return EVERYTHING
        return cls(_namespaces(held, READ), _namespaces(held, DEAD_LETTERS))

    def may_read(self, table: str) -> bool:
        """Whether `table` (`namespace.name`, in lower case, with or without `@snapshot`) is open."""
        namespace, _, name = table.partition(".")
        opened = self.dead_letters if name.partition("@")[0] == DEAD_LETTERS else self.read
        return opened is None or namespace in opened

    def may_see(self, namespace: str) -> bool:
        """Whether any table of `namespace` is open."""
        return any(opened is None or namespace in opened for opened in (self.read, self.dead_letters))

    @property
    def whole(self) -> bool:
        """Whether tables of every namespace are open, dead letters aside."""
        return self.read is None


EVERYTHING = TableAccess(None, None)
"""Who owns the files, and `admin`."""


def scope_for(table: str) -> str:
    """The least scope that opens `table` (`namespace.name`)."""
    namespace, _, name = table.partition(".")
    return f"{DEAD_LETTERS if name.partition('@')[0] == DEAD_LETTERS else READ}:{namespace}"


def _namespaces(scopes: set[str], kind: str) -> frozenset[str] | None:
    prefix = f"{kind}:"
    return None if kind in scopes else frozenset(s.removeprefix(prefix) for s in scopes if s.startswith(prefix))
