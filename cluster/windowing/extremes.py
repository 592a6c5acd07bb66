"""Aggregates that pick a value: min, max, first and last. See aggregates.py for what a reducer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.windowing.event_columns import Batch, Mask
from eagleray.cluster.windowing.group_codes import Coded, Keys, encode
from eagleray.cluster.windowing.stable_hash import as_int64
from eagleray.cluster.windowing.watermark import Int64

Columns = list[pa.Array]
Values = npt.NDArray[Any]


def extreme(keys: Keys, values: Values, *, least: bool) -> tuple[Values, Mask]:
    """The least or greatest of int64 or float64 `values` for each key, and where there is one."""
    if values.dtype == np.float64:
        start: float | int = np.inf if least else -np.inf
    else:
        start = np.iinfo(np.int64).max if least else np.iinfo(np.int64).min
    found = np.full(keys.count, start, values.dtype)
    (np.minimum if least else np.maximum).at(found, keys.codes, values)
    present = np.zeros(keys.count, np.bool_)
    present[keys.codes] = True
    return found, present


def _typed(values: Values, present: Mask, kind: pa.DataType) -> pa.Array:
    array = pa.array(values, mask=~present)
    if pa.types.is_date32(kind):
        array = array.cast(pa.int32())
    return array.cast(kind)


def _ranked(found: Coded) -> tuple[Int64, Int64]:
    """Codes of strings as ranks in binary order, and the code of each rank."""
    order = pc.sort_indices(found.values).to_numpy().astype(np.int64)
    ranks = np.empty(len(order) + 1, np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[found.codes], order


@dataclass(frozen=True)
class Extreme:
    """The least or greatest value: numbers, timestamps, dates, bools, or strings in the order of their UTF-8 bytes."""

    path: FieldPath
    kind: pa.DataType
    least: bool

    @property
    def fields(self) -> tuple[pa.DataType, ...]:
        """The value; null: none."""
        return (self.kind,)

    def lift(self, batch: Batch, keys: Keys) -> Columns:
        """One value per key."""
        valid = batch.valid(self.path)
        if pa.types.is_string(self.kind):
            return [self._of_strings(batch.coded(self.path), valid, keys)]
        return [self._of_numbers(batch.numbers(self.path), valid, keys)]

    def merge(self, columns: Columns, keys: Keys) -> Columns:
        """The extreme of extremes."""
        column = columns[0]
        valid = np.asarray(column.is_valid()) if column.null_count else None
        if pa.types.is_string(self.kind):
            return [self._of_strings(encode(column), valid, keys)]
        if pa.types.is_floating(self.kind):
            return [self._of_numbers(column.fill_null(0.0).to_numpy(zero_copy_only=False), valid, keys)]
        return [self._of_numbers(as_int64(column), valid, keys)]

    def _of_numbers(self, values: Values, valid: Mask | None, keys: Keys) -> pa.Array:
        if valid is not None:
            keys, values = keys.of(keys.codes[valid]), values[valid]
        return _typed(*extreme(keys, values, least=self.least), self.kind)

    def _of_strings(self, found: Coded, valid: Mask | None, keys: Keys) -> pa.Array:
        ranks, order = _ranked(found)
        if valid is not None:
            keys, ranks = keys.of(keys.codes[valid]), ranks[valid]
        best, present = extreme(keys, ranks, least=self.least)
        codes = np.full(keys.count, len(found.values), np.int64)
        codes[present] = order[best[present]]
        return Coded(codes, found.values).take(np.arange(keys.count))

    def finish(self, columns: Columns) -> tuple[pa.Array, int]:
        """The values."""
        return columns[0], 0


@dataclass(frozen=True)
class Edge:
    """The first or last value by event time; equal times by partition, offset and row. Nulls are skipped."""

    path: FieldPath
    kind: pa.DataType
    first: bool

    @property
    def fields(self) -> tuple[pa.DataType, ...]:
        """Time, partition, offset, row, value; row -1: none."""
        return (pa.int64(), pa.int32(), pa.int64(), pa.int32(), self.kind)

    def lift(self, batch: Batch, keys: Keys) -> Columns:
        """Position and value of each key's first or last event."""
        valid = batch.valid(self.path)
        rows = np.arange(batch.length) if valid is None else np.flatnonzero(valid)
        codes, times = keys.codes[rows], batch.times[rows]
        best, present = extreme(keys.of(codes), times, least=self.first)
        ties = np.flatnonzero(times == best[codes])
        if self.first:
            ties = ties[::-1]  # assignment keeps the last, and a batch is in log order
        chosen = np.zeros(keys.count, np.int64)
        chosen[codes[ties]] = rows[ties]
        where = np.full(batch.length, batch.partition), batch.integers("_offset"), batch.integers("_row")
        return self._columns((batch.times, *where), batch.array(self.path), chosen, present)

    def merge(self, columns: Columns, keys: Keys) -> Columns:
        """The first of firsts, the last of lasts."""
        place = tuple(np.asarray(column.to_numpy(), np.int64) for column in columns[:4])
        rows = np.flatnonzero(place[3] >= 0)
        order = rows[np.lexsort([*(column[rows] for column in reversed(place)), keys.codes[rows]])]
        if self.first:
            order = order[::-1]
        chosen, present = np.zeros(keys.count, np.int64), np.zeros(keys.count, np.bool_)
        chosen[keys.codes[order]] = order
        present[keys.codes[order]] = True
        return self._columns(place, columns[4], chosen, present)

    def _columns(self, place: tuple[Int64, ...], values: pa.Array, chosen: Int64, present: Mask) -> Columns:
        if len(values) == 0:  # no events, and so no keys
            return [pa.array([], kind) for kind in self.fields]
        picked = [
            np.where(present, column[chosen], missing) for column, missing in zip(place, (0, 0, 0, -1), strict=True)
        ]
        value = values.take(pa.array(chosen, mask=~present))
        return [*(pa.array(p).cast(k) for p, k in zip(picked, self.fields[:4], strict=True)), value.cast(self.kind)]

    def finish(self, columns: Columns) -> tuple[pa.Array, int]:
        """The values."""
        return columns[4], 0
