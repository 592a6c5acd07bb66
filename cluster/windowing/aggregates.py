"""Aggregates as reducers: partial states in columns that can be merged in any order, and finished once.

A reducer turns events into one row of state per key (`lift`), rows of state into fewer (`merge`), and state into the
result (`finish`). States are exact functions of the set of events: batching, partitioning and pool size change no bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.windowing.definition import Aggregate, field_type
from eagleray.cluster.windowing.event_columns import Batch
from eagleray.cluster.windowing.extremes import Edge, Extreme
from eagleray.cluster.windowing.group_codes import Keys
from eagleray.cluster.windowing.keyed_items import from_list, reduce_items, to_list
from eagleray.cluster.windowing.numbers import Columns, Count, FloatSum, IntSum, Quantile, valid_keys
from eagleray.cluster.windowing.sketches import RANK_BITS, distinct, registers


class Reducer(Protocol):
    """One aggregate."""

    @property
    def fields(self) -> tuple[pa.DataType, ...]:
        """Types of the state's columns."""
        ...

    def lift(self, batch: Batch, keys: Keys) -> Columns:
        """State columns (keys.count,) of the events of `batch`, whose keys are `keys`."""
        ...

    def merge(self, columns: Columns, keys: Keys) -> Columns:
        """State columns (keys.count,) of states in `columns`, whose rows have the keys `keys`."""
        ...

    def finish(self, columns: Columns) -> tuple[pa.Array, int]:
        """The result of each row of state, and how many of them are null because they do not fit their type."""
        ...


@dataclass(frozen=True)
class Distinct:
    """How many different values, within about 1.2 % (standard error); almost exact for small numbers."""

    path: FieldPath
    fields: tuple[pa.DataType, ...] = (pa.list_(pa.int32()),)

    def lift(self, batch: Batch, keys: Keys) -> Columns:
        """Registers that are not zero, as register · 64 + rank."""
        batch, keys = valid_keys(batch, self.path, keys)
        register, rank = registers(batch.hashes(self.path))
        found = reduce_items(keys.codes, keys.count, register, rank, "max")
        return [to_list(found, (found.items << RANK_BITS) | found.values, pa.int32())]

    def merge(self, columns: Columns, keys: Keys) -> Columns:
        """The greatest rank of each register."""
        codes, packed = from_list(columns[0], keys.codes)
        found = reduce_items(codes, keys.count, packed >> RANK_BITS, packed & ((1 << RANK_BITS) - 1), "max")
        return [to_list(found, (found.items << RANK_BITS) | found.values, pa.int32())]

    def finish(self, columns: Columns) -> tuple[pa.Array, int]:
        """The estimates."""
        codes, packed = from_list(columns[0], np.arange(len(columns[0])))
        found = reduce_items(codes, len(columns[0]), packed >> RANK_BITS, packed & ((1 << RANK_BITS) - 1), "max")
        return pa.array(distinct(found)), 0


def reducer(aggregate: Aggregate, events: pa.Schema) -> Reducer:
    """The reducer of `aggregate` over events of the schema `events`."""
    path, function = aggregate.path, aggregate.function
    if path is None or function == "count":
        return Count(path)
    kind = field_type(events, path)
    if function in ("sum", "avg"):
        mean = function == "avg"
        return FloatSum(path, mean) if pa.types.is_floating(kind) else IntSum(path, mean)
    if function == "approx_distinct":
        return Distinct(path)
    if function == "quantile":
        return Quantile(path, float(aggregate.q or 0.0))
    if function in ("min", "max"):
        return Extreme(path, kind, function == "min")
    return Edge(path, kind, function == "first")
