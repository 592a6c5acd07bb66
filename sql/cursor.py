"""A query whose rows are read as they come: a batch at a time, never the whole result. Made by `sql.query.Sql.stream`.

Only the time that DuckDB works counts towards a limit: a reader that is slow, or rests, is another's to judge.
"""

from __future__ import annotations

from contextlib import ExitStack
from time import monotonic

import duckdb
import pyarrow as pa

from eagleray.sql.engine import BATCH_ROWS, Deadline, Limits, bounded, renderable


class Cursor:
    """A result that has begun. `columns` and `types` are DuckDB's names. Close it, from the thread that reads."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, text: str, limits: Limits, deadline: Deadline, kept: ExitStack
    ) -> None:
        """Plan `text`; what it needs is in `kept`, which is closed with the cursor. Raises as `sql.engine.run` does."""
        self._connection = connection
        self._limits = limits
        self._kept = kept
        self._reader: pa.RecordBatchReader | None = None
        with bounded(connection, limits, deadline):
            self._relation = connection.sql(text)
            self.columns: tuple[str, ...] = tuple(self._relation.columns)
            self.types = renderable(self._relation)

    def read(self, budget: Budget) -> pa.RecordBatch | None:
        """The next rows, BATCH_ROWS at most; None behind the last. Raises QueryFailed."""
        with budget.spend() as deadline, bounded(self._connection, self._limits, deadline):
            if self._reader is None:
                self._reader = self._relation.to_arrow_reader(BATCH_ROWS)
            return next(self._reader, None)

    def interrupt(self) -> None:
        """Stop what it does at this moment; any thread may ask for it."""
        self._connection.interrupt()

    def close(self) -> None:
        """Give up the rest."""
        self._reader = None
        self._kept.close()


class Budget:
    """Seconds of work; what is not work does not count."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s` in all."""
        self._timeout_s = timeout_s
        self._spent_s = 0.0
        self._began = 0.0

    def spend(self) -> Budget:
        """For a `with` block, whose time counts."""
        return self

    def __enter__(self) -> Deadline:
        self._began = monotonic()
        return Deadline(self._timeout_s, self._spent_s)

    def __exit__(self, *_: object) -> None:
        self._spent_s += monotonic() - self._began
