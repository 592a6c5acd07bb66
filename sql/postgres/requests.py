"""What the server asks of a SQL process, and what comes back: plain values, pickled between the two.

One request at a time: `Describe` is answered by Described, `Open` by Opened, `Fetch` by any number of Piece and one
Fetched, `Close` by Closed; each instead by Failure, after which nothing is open. `Cancel` may be sent at any time and
has no answer of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eagleray.cluster.access import TableAccess
from eagleray.cluster.lake.pin import Instant
from eagleray.sql.postgres.dialect import Facts
from eagleray.sql.postgres.types import Column, Value

PIECE_BYTES = 256 << 10  # of rows, about; a batch of wide rows is cut


@dataclass(frozen=True)
class Query:
    """A statement, and who asks. `oids` are the types of parameters that are known, by their place; 0: unknown."""

    text: str
    facts: Facts
    access: TableAccess
    timeout_s: float
    oids: tuple[int, ...] = ()
    instant: Instant | None = None  # the transaction's snapshots; None: the newest
    fix_instant: bool = False  # a transaction begins: tell the snapshots of this moment


@dataclass(frozen=True)
class Describe:
    """Ask what types the parameters have, and the columns."""

    query: Query


@dataclass(frozen=True)
class Described:
    """The answer: oids of all parameters, and the columns."""

    oids: tuple[int, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Open:
    """Run it. `expected`: oids of the columns as they were described."""

    query: Query
    values: tuple[Value, ...] = ()
    expected: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Opened:
    """It runs. `instant`: the snapshots of all tables, where they were to be told."""

    columns: tuple[Column, ...]
    instant: Instant | None


@dataclass(frozen=True)
class Fetch:
    """Read so many rows of what is open; 0: all.

    `formats` are of the columns (True: binary): one for each, one for all, or none (all text).
    """

    rows_max: int
    formats: tuple[bool, ...]
    timeout_s: float


@dataclass(frozen=True)
class Piece:
    """Rows, as messages of the wire protocol."""

    data: bytes
    rows: int


@dataclass(frozen=True)
class Fetched:
    """No more pieces. `complete`: and no more rows."""

    complete: bool


@dataclass(frozen=True)
class Close:
    """Give up what is open."""


@dataclass(frozen=True)
class Closed:
    """Nothing is open."""


@dataclass(frozen=True)
class Cancel:
    """Stop what is under way."""


@dataclass(frozen=True)
class Failure:
    """It came to nothing. `position`: a character of the statement, counted from 1. `spent`: the process is, too."""

    sqlstate: str
    message: str
    position: int | None = None
    spent: bool = False


Request = Describe | Open | Fetch | Close
Answers = Sequence[Described | Opened | Piece | Fetched | Closed | Failure]
