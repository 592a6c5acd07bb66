"""The rows that a statement selects of pinned tables, in whatever form is asked for. Nothing is read before that.

A job's function gets its arguments from here, and `eagleray.dataset` is one. Every library is imported by its form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
from duckdb import DuckDBPyRelation

from eagleray.jobs.engines.duckdb import DuckDb
from eagleray.jobs.engines.table_types import shaped
from eagleray.sql.tables import Declared

if TYPE_CHECKING:
    from daft import DataFrame as DaftFrame
    from pandas import DataFrame as PandasFrame
    from polars import DataFrame as PolarsFrame
    from polars import LazyFrame
    from ray.data import Dataset


class Rows:
    """Rows of a lake at a snapshot. Every call reads them anew."""

    def __init__(self, text: str, tables: Mapping[str, Declared], open_duckdb: Callable[[], DuckDb]) -> None:
        """`text` selects from `tables`; `open_duckdb` gives a DuckDB that holds them."""
        self._text = text
        self._tables = tables
        self._open = open_duckdb

    def duckdb(self) -> DuckDBPyRelation:
        """A DuckDB relation; read as far as what is made of it needs."""
        return self._open().relation(self._text)

    def batches(self) -> pa.RecordBatchReader:
        """Arrow record batches, one after another: for more than fits into memory."""
        return shaped(self._open().stream_of(self._text))

    def arrow(self) -> pa.Table:
        """An Arrow table."""
        return self.batches().read_all()

    def pandas(self) -> PandasFrame:
        """A pandas DataFrame."""
        return self.arrow().to_pandas()

    def polars(self) -> PolarsFrame:
        """A Polars DataFrame; needs the extra `polars`."""
        from polars import DataFrame

        return DataFrame(self.arrow())

    def polars_lazy(self) -> LazyFrame:
        """A Polars LazyFrame; needs the extra `polars`."""
        frame: LazyFrame = self.duckdb().pl(lazy=True)
        return frame

    def daft(self) -> DaftFrame:
        """A Daft DataFrame, read by Daft itself; needs the extra `daft`."""
        from eagleray.jobs.engines.daft import select

        return select(self._text, self._tables)

    def ray(self) -> Dataset:
        """A Ray Dataset: the cluster's tasks read a part of the files each."""
        from eagleray.jobs.engines.ray_data import select

        return select(self._text, self._tables, self.batches)
