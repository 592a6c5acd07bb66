"""Partial aggregates of a window: one table whose rows are (place, group, state), mergeable in any order.

`_a` and `_b` say where a row counts: for tumbling and hopping windows the first window start it counts for and its pane
(see assign.py), for sessions the first and the last event's time. The group columns `g0`… and the state columns `s0_0`…
follow. Sketches are lists within a row, so that a table can be filtered, concatenated and sent like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from eagleray.cluster.windowing.aggregates import Reducer, reducer
from eagleray.cluster.windowing.definition import WindowSpec, field_type
from eagleray.cluster.windowing.event_columns import Batch
from eagleray.cluster.windowing.group_codes import Coded, Keys, combine, encode, encode_numbers, plain, whole
from eagleray.cluster.windowing.sessions import components, fragments
from eagleray.cluster.windowing.watermark import Int64

A, B = "_a", "_b"


@dataclass(frozen=True)
class Layout:
    """How partial aggregates of one window look, and how they are made and merged."""

    spec: WindowSpec
    reducers: tuple[Reducer, ...]
    schema: pa.Schema

    @classmethod
    def of(cls, spec: WindowSpec, events: pa.Schema) -> Layout:
        """The layout for `spec` over events with the columns `events`."""
        reducers = tuple(reducer(aggregate, events) for aggregate in spec.aggregates)
        columns = [pa.field(A, pa.int64()), pa.field(B, pa.int64())]
        columns += [pa.field(f"g{i}", field_type(events, path)) for i, path in enumerate(spec.group_by)]
        for i, one in enumerate(reducers):
            columns += [pa.field(f"s{i}_{j}", kind) for j, kind in enumerate(one.fields)]
        return cls(spec, reducers, pa.schema(columns))

    def groups(self, table: pa.Table) -> list[Coded]:
        """The group columns of partial aggregates, coded."""
        return [encode(plain(table.column(f"g{i}"))) for i in range(len(self.spec.group_by))]

    def states(self, table: pa.Table) -> list[list[pa.Array]]:
        """The state columns of partial aggregates, by aggregate."""
        return [
            [whole(table.column(f"s{i}_{j}")) for j in range(len(one.fields))] for i, one in enumerate(self.reducers)
        ]

    def lift(self, batch: Batch, a: Int64, b: Int64) -> pa.Table:
        """Partial aggregates of the events of `batch` counting at the places `a`, `b` (n,); sessions need neither."""
        groups = [batch.coded(path) for path in self.spec.group_by]
        parts = [(found.codes, found.size) for found in groups]
        if self.spec.kind == "session":
            keys, a, b = fragments(combine(parts, batch.length), batch.times, self.spec.gap_us)
        else:
            keys = combine([encode_numbers(a), encode_numbers(b - a), *parts], batch.length)
            a, b = a[keys.rows], b[keys.rows]
        states = [column for one in self.reducers for column in one.lift(batch, keys)]
        return self._table(a, b, groups, keys, states)

    def merge(self, tables: Sequence[pa.Table]) -> pa.Table:
        """Partial aggregates with one row per place and group; fragments within a gap of each other become one."""
        table = pa.concat_tables(tables) if tables else self.schema.empty_table()
        a, b, groups = times(table, A), times(table, B), self.groups(table)
        parts = [(found.codes, found.size) for found in groups]
        if self.spec.kind == "session":
            keys, a, b = components(combine(parts, len(a)), a, b, self.spec.gap_us)
        else:
            keys = combine([encode_numbers(a), encode_numbers(b), *parts], len(a))
            a, b = a[keys.rows], b[keys.rows]
        if keys.count == table.num_rows:
            return table
        merged = [one.merge(state, keys) for one, state in zip(self.reducers, self.states(table), strict=True)]
        return self._table(a, b, groups, keys, [column for state in merged for column in state])

    def _table(self, a: Int64, b: Int64, groups: list[Coded], keys: Keys, states: list[pa.Array]) -> pa.Table:
        columns = [pa.array(a), pa.array(b), *(found.take(keys.rows) for found in groups), *states]
        return pa.table(columns, schema=self.schema)


def times(table: pa.Table, name: str) -> Int64:
    """A column of times as an array."""
    return np.asarray(whole(table.column(name)).to_numpy(), np.int64)
