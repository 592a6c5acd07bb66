"""Aggregates of numbers: count, sum, avg and quantile. See aggregates.py for what a reducer is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.windowing.event_columns import Batch
from eagleray.cluster.windowing.exact import (
    LIMB,
    MASK,
    Float64,
    float_limbs,
    float_total,
    int_limbs,
    int_total,
    merge_limbs,
    sum_into,
)
from eagleray.cluster.windowing.extremes import extreme
from eagleray.cluster.windowing.group_codes import Keys
from eagleray.cluster.windowing.keyed_items import Items, from_list, reduce_items, to_list
from eagleray.cluster.windowing.sketches import buckets, quantiles
from eagleray.cluster.windowing.watermark import Int64

Columns = list[pa.Array]


def ints(column: pa.Array) -> Int64:
    """An int64 state column without nulls."""
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def items_of(lists: pa.ListArray, values: pa.ListArray) -> Items:
    """A pair of list columns as items, one key per row."""
    offsets = np.asarray(lists.offsets, np.int64)
    return Items(offsets - offsets[0], ints(lists.flatten()), ints(values.flatten()))


def valid_keys(batch: Batch, path: FieldPath, keys: Keys) -> tuple[Batch, Keys]:
    """The events whose value at `path` is not null, with their keys."""
    valid = batch.valid(path)
    if valid is None:
        return batch, keys
    rows = np.flatnonzero(valid)
    return batch.take(rows), keys.of(keys.codes[rows])


@dataclass(frozen=True)
class Count:
    """How many events, or how many values that are not null."""

    path: FieldPath | None
    fields: tuple[pa.DataType, ...] = (pa.int64(),)

    def lift(self, batch: Batch, keys: Keys) -> Columns:
        """One count per key."""
        if self.path is not None:
            batch, keys = valid_keys(batch, self.path, keys)
        return [pa.array(np.bincount(keys.codes, minlength=keys.count))]

    def merge(self, columns: Columns, keys: Keys) -> Columns:
        """Add counts."""
        return [pa.array(sum_into(keys.codes, keys.count, ints(columns[0])))]

    def finish(self, columns: Columns) -> tuple[pa.Array, int]:
        """The counts."""
        return columns[0], 0


@dataclass(frozen=True)
class IntSum:
    """The exact sum of integers in two limbs; null and counted where it does not fit into int64. `mean`: divided."""

    path: FieldPath
    mean: bool
    fields: tuple[pa.DataType, ...] = (pa.int64(), pa.int64(), pa.int64())

    def lift(self, batch: Batch, keys: Keys) -> Columns:
        """High limb, low limb, number of values."""
        batch, keys = valid_keys(batch, self.path, keys)
        values = batch.numbers(self.path)
        high, low = int_limbs(keys.codes, keys.count, values >> LIMB, values & MASK)
        return [pa.array(high), pa.array(low), pa.array(np.bincount(keys.codes, minlength=keys.count))]

    def merge(self, columns: Columns, keys: Keys) -> Columns:
        """Add limbs and numbers."""
        high, low = int_limbs(keys.codes, keys.count, ints(columns[0]), ints(columns[1]))
        return [pa.array(high), pa.array(low), pa.array(sum_into(keys.codes, keys.count, ints(columns[2])))]

    def finish(self, columns: Columns) -> tuple[pa.Array, int]:
        """Sum or mean; null where there was no value."""
        high, low, n = (ints(column) for column in columns)
        if self.mean:
            total = np.ldexp(high.astype(np.float64), LIMB) + low.astype(np.float64)
            return pa.array(total / np.maximum(n, 1), mask=n == 0), 0
        total_int, overflow = int_total(high, low)
        return pa.array(total_int, mask=overflow | (n == 0)), int(overflow.sum())


@dataclass(frozen=True)
class FloatSum:
    """The exact sum of doubles, rounded once; null and counted where it is beyond their range. `mean`: divided."""

    path: FieldPath
    mean: bool
    fields: tuple[pa.DataType, ...] = (pa.list_(pa.int32()), pa.list_(pa.int64()), pa.int64())

    def _columns(self, found: Items, n: Int64) -> Columns:
        return [to_list(found, found.items, pa.int32()), to_list(found, found.values, pa.int64()), pa.array(n)]

    def lift(self, batch: Batch, keys: Keys) -> Columns:
        """Limbs, their sums, number of values."""
        batch, keys = valid_keys(batch, self.path, keys)
        found = float_limbs(keys.codes, keys.count, batch.numbers(self.path))
        return self._columns(found, np.bincount(keys.codes, minlength=keys.count))

    def merge(self, columns: Columns, keys: Keys) -> Columns:
        """Add limbs and numbers."""
        codes, items = from_list(columns[0], keys.codes)
        found = merge_limbs(codes, keys.count, items, ints(columns[1].flatten()))
        return self._columns(found, sum_into(keys.codes, keys.count, ints(columns[2])))

    def finish(self, columns: Columns) -> tuple[pa.Array, int]:
        """Sum or mean; null where there was no value."""
        n = ints(columns[2])
        total: Float64 = float_total(items_of(columns[0], columns[1]))
        overflow = np.isinf(total)
        result = total / np.maximum(n, 1) if self.mean else total
        return pa.array(result, mask=overflow | (n == 0)), int(overflow.sum())


@dataclass(frozen=True)
class Quantile:
    """A quantile within 0.8 % of the value, and exact at the ends."""

    path: FieldPath
    q: float
    fields: tuple[pa.DataType, ...] = (pa.list_(pa.int32()), pa.list_(pa.int64()), pa.float64(), pa.float64())

    def _columns(self, found: Items, keys: Keys, least: Float64, greatest: Float64) -> Columns:
        low, _ = extreme(keys, least, least=True)
        high, _ = extreme(keys, greatest, least=False)
        lists = [to_list(found, found.items, pa.int32()), to_list(found, found.values, pa.int64())]
        return [*lists, pa.array(low), pa.array(high)]

    def lift(self, batch: Batch, keys: Keys) -> Columns:
        """Buckets, their counts, least and greatest value (±inf where there is none)."""
        batch, keys = valid_keys(batch, self.path, keys)
        values = batch.numbers(self.path).astype(np.float64, copy=False)
        return self._columns(reduce_items(keys.codes, keys.count, buckets(values), None, "sum"), keys, values, values)

    def merge(self, columns: Columns, keys: Keys) -> Columns:
        """Add counts, keep the extremes."""
        codes, items = from_list(columns[0], keys.codes)
        found = reduce_items(codes, keys.count, items, ints(columns[1].flatten()), "sum")
        return self._columns(found, keys, columns[2].to_numpy(), columns[3].to_numpy())

    def finish(self, columns: Columns) -> tuple[pa.Array, int]:
        """The quantile; null where there was no value."""
        found = items_of(columns[0], columns[1])
        result = quantiles(found, self.q, columns[2].to_numpy(), columns[3].to_numpy())
        return pa.array(result, mask=np.isnan(result)), 0
