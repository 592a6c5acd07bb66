"""The events of a chunk as aggregation wants them: columns by field path, extracted and coded once for all windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.retype import retype
from eagleray.cluster.events.stream import TIME
from eagleray.cluster.windowing.definition import WindowSpec, field_type
from eagleray.cluster.windowing.group_codes import Coded, encode, plain
from eagleray.cluster.windowing.stable_hash import as_int64, hash64, mix
from eagleray.cluster.windowing.watermark import Int64

Mask = npt.NDArray[np.bool_]


def extract(table: pa.Table, path: FieldPath) -> pa.Array:
    """The column at `path`, null wherever a parent is null; one contiguous array without -0.0."""
    column = table.column(path.names[0])
    for name in path.names[1:]:
        column = pc.struct_field(column, name)
    return plain(column)


def lenient_cast(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """`column` as `kind`; null where a value does not fit."""
    found = plain(column)
    if found.type == kind:
        return found
    try:
        return found.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return retype(found, pa.field("", found.type), pa.field("", kind)).array


def read_fields(now: pa.Schema, *definitions: pa.Schema) -> list[pa.Field]:
    """The top-level fields that `definitions` read: as they are `now`, and as they were where the schema lost them."""
    present = {field.name: field for field in now}
    found: dict[str, pa.Field] = {}
    for field in (field for definition in reversed(definitions) for field in definition):
        found[field.name] = _with_lost(found.get(field.name, present.get(field.name, field)), field)
    return list(found.values())


def _with_lost(now: pa.Field, was: pa.Field) -> pa.Field:
    """`now`, with what structs of `was` have besides."""
    if not (pa.types.is_struct(now.type) and pa.types.is_struct(was.type)):
        return now
    before = {field.name: field for field in was.type.fields}
    kept = [_with_lost(field, before.pop(field.name, field)) for field in now.type.fields]
    return now.with_type(pa.struct([*kept, *before.values()]))


def retyped_paths(spec: WindowSpec, wanted: pa.Schema, found: pa.Schema) -> dict[FieldPath, pa.DataType]:
    """The fields that `spec` reads as another type than columns of `found` have, and that type, by `wanted`."""
    types: dict[FieldPath, pa.DataType] = {}
    for path in [*spec.group_by, *(one.path for one in spec.aggregates if one.path)]:
        kind = field_type(wanted, path)
        try:
            if field_type(found, path) != kind:
                types[path] = kind
        except ValueError:  # no longer there
            types[path] = kind
    return types


class Batch:
    """Events of one partition in log order; columns are computed on demand and kept, and `take` shares them."""

    def __init__(self, table: pa.Table, partition: int) -> None:
        """`table` has `_time`, `_offset`, `_row` and the top-level columns that the windows need."""
        self.table = table
        self.partition = partition
        self._kept: dict[tuple[str, FieldPath | None], Any] = {}
        self._types: Mapping[FieldPath, pa.DataType] = {}
        self._parent: Batch | None = None
        self._rows: Int64 = np.empty(0, np.int64)
        self.length = table.num_rows

    def take(self, rows: Int64) -> Batch:
        """The events at `rows` (ascending), as a view."""
        if len(rows) == self.length:
            return self
        view = Batch(self.table, self.partition)
        view._parent, view.length = self._root, len(rows)
        view._rows = rows if self._parent is None else self._rows[rows]
        return view

    def retyped(self, types: Mapping[FieldPath, pa.DataType]) -> Batch:
        """The same events with these fields read as other types (`retyped_paths`); shares nothing."""
        if not types:
            return self
        root = Batch(self._root.table, self.partition)
        root._types = types
        return root if self._parent is None else root.take(self._rows)

    def _extracted(self, path: FieldPath) -> pa.Array:
        """For a root."""
        kind = self._types.get(path)
        if kind is None:
            return extract(self.table, path)
        try:
            return lenient_cast(extract(self.table, path), kind)
        except (KeyError, pa.ArrowInvalid):  # the schema has it no longer
            return pa.nulls(self.length, kind)

    def _once(self, what: str, path: FieldPath | None, make: Callable[[], Any], pick: Callable[[Any], Any]) -> Any:
        key = (what, path)
        if key not in self._kept:
            self._kept[key] = make() if self._parent is None else pick(self._parent._once(what, path, make, pick))
        return self._kept[key]

    def _picked(self, values: Any) -> Any:
        return None if values is None else values[self._rows]

    def integers(self, name: str) -> Int64:
        """A system column of int64 without nulls, such as `_time`."""

        def make() -> Int64:
            return as_int64(plain(self._root.table.column(name)))

        return self._once("system", FieldPath((name,)), make, self._picked)  # type: ignore[no-any-return]

    @property
    def times(self) -> Int64:
        """Event times, µs."""
        return self.integers(TIME)

    @property
    def _root(self) -> Batch:
        return self if self._parent is None else self._parent

    def array(self, path: FieldPath) -> pa.Array:
        """The column at `path`."""

        def pick(array: pa.Array) -> pa.Array:
            return array.take(pa.array(self._rows))

        return self._once("array", path, lambda: self._root._extracted(path), pick)

    def coded(self, path: FieldPath) -> Coded:
        """The column at `path` as codes."""

        def pick(found: Coded) -> Coded:
            return Coded(found.codes[self._rows], found.values)

        return self._once("coded", path, lambda: encode(self._root.array(path)), pick)  # type: ignore[no-any-return]

    def valid(self, path: FieldPath) -> Mask | None:
        """Where the column at `path` is not null; None: everywhere."""

        def make() -> Mask | None:
            array = self._root.array(path)
            return np.asarray(array.is_valid()) if array.null_count else None

        return self._once("valid", path, make, self._picked)  # type: ignore[no-any-return]

    def numbers(self, path: FieldPath) -> npt.NDArray[Any]:
        """The column at `path` as int64 or float64, nulls as 0; strings as codes (see `coded`)."""

        def make() -> npt.NDArray[Any]:
            array = self._root.array(path)
            if pa.types.is_floating(array.type):
                filled = array.cast(pa.float64()).fill_null(0.0)
                return np.asarray(filled.to_numpy(zero_copy_only=False), np.float64)
            return as_int64(array)

        return self._once("numbers", path, make, self._picked)  # type: ignore[no-any-return]

    def hashes(self, path: FieldPath) -> npt.NDArray[np.uint64]:
        """64-bit hashes of the column at `path`; meaningless where it is null."""

        def make() -> npt.NDArray[np.uint64]:
            array = self._root.array(path)
            if pa.types.is_integer(array.type) or pa.types.is_timestamp(array.type):
                return mix(as_int64(array).view(np.uint64))
            found = self._root.coded(path)
            return np.append(hash64(found.values), np.uint64(0))[found.codes]

        return self._once("hashes", path, make, self._picked)  # type: ignore[no-any-return]
