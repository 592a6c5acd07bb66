"""Rows of decoded structs become Arrow columns, and rows that need the arbiter are marked. The pivot of the hot path.

Called by `judge`. A column is built whole, without a loop over rows in Python, wherever its shape allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec.structs import astuple

from eagleray.cluster.events.arrow_types import arrow_field, arrow_type
from eagleray.cluster.events.instants import days, instants
from eagleray.cluster.events.shape import Shape
from eagleray.cluster.events.text_layout import UUID, UUID_LENGTH, ByteTable
from eagleray.cluster.events.value_checks import Check, value_check

_EXACT = 2.0**53  # an integer literal from here on may have been rounded when it became a double
_NULL = b"null"
_MANY = 32  # from so many values on it pays to look for equal ones


class Suspects:
    """Rows of a batch that the fast path cannot vouch for."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def add(self, rows: np.ndarray | None, mask: np.ndarray | None) -> None:
        """Mark where `mask` is set; `rows` maps its positions to rows of the batch (None: they are the same)."""
        if mask is not None and mask.any():
            at = np.flatnonzero(mask)
            self._rows.append(at if rows is None else rows[at])

    def rows(self) -> list[int]:
        """All marked rows, each once, ascending."""
        return np.unique(np.concatenate(self._rows)).tolist() if self._rows else []


class Column:
    """Builds the column of one shape."""

    def __init__(self, shape: Shape, rules: Any) -> None:
        """`rules` is the document's validator."""
        self.type = arrow_type(shape)
        self._check: Check | None = value_check(shape, rules)

    def array(self, values: Sequence[Any], rows: np.ndarray | None, suspects: Suspects | None) -> pa.Array:
        """`values` (one per row, None where absent) as Arrow; `suspects` None: the arbiter vouched for every row."""
        if suspects is not None and self._check is not None:
            suspects.add(rows, self._failing(values, self._check))
        return self._array(values, rows, suspects)

    @property
    def verifies(self) -> bool:
        """Whether `verify` has anything to do."""
        return self._check is not None

    def verify(self, array: pa.Array, rows: np.ndarray | None, suspects: Suspects) -> None:
        """Mark what `check` does not pass of an array whose values hold what a decoder holds."""
        assert self._check is not None
        passes = self._check
        distinct = array.unique() if len(array) >= _MANY else array
        if not all(value is None or passes(value) for value in self._values(distinct)):
            suspects.add(rows, self._failing(self._values(array), passes))

    def _values(self, array: pa.Array) -> list[Any]:
        found: list[Any] = array.to_pylist()
        return found

    @staticmethod
    def _failing(values: Sequence[Any], check: Check) -> np.ndarray | None:
        """Which values fail; None: none does. Equal values are checked once."""
        try:
            failing = {value for value in set(values) if value is not None and not check(value)}
        except TypeError:  # lists
            return np.fromiter((v is not None and not check(v) for v in values), bool, len(values))
        return np.fromiter(map(failing.__contains__, values), bool, len(values)) if failing else None

    def _array(self, values: Sequence[Any], rows: np.ndarray | None, suspects: Suspects | None) -> pa.Array:
        return pa.array(values, self.type)


class _Numbers(Column):
    def _array(self, values: Sequence[Any], rows: np.ndarray | None, suspects: Suspects | None) -> pa.Array:
        array = pa.array(values, self.type)
        if suspects is not None and array.null_count < len(array):
            large = np.abs(np.frombuffer(array.buffers()[1], np.float64, len(array))) >= _EXACT
            suspects.add(rows, large)
        return array


class _Instants(Column):
    def _array(self, values: Sequence[Any], rows: np.ndarray | None, suspects: Suspects | None) -> pa.Array:
        array, bad = instants(pa.array(values, pa.string()))
        if suspects is not None:
            suspects.add(rows, bad)
        return array


class _Days(Column):
    def _array(self, values: Sequence[Any], rows: np.ndarray | None, suspects: Suspects | None) -> pa.Array:
        array, bad = days(pa.array(values, pa.string()))
        if suspects is not None:
            suspects.add(rows, bad)
        return array


class _Uuids(Column):
    def __init__(self, shape: Shape, rules: Any) -> None:
        super().__init__(shape, rules)
        self._each, self._check = self._check, None

    def _array(self, values: Sequence[Any], rows: np.ndarray | None, suspects: Suspects | None) -> pa.Array:
        array = pa.array(values, self.type)
        if suspects is not None and self.verifies:
            self.verify(array, rows, suspects)
        return array

    @property
    def verifies(self) -> bool:
        return self._each is not None

    def verify(self, array: pa.Array, rows: np.ndarray | None, suspects: Suspects) -> None:
        assert self._each is not None
        characters = ByteTable(array).uniform()
        if characters is None or characters.shape[1] != UUID_LENGTH or not UUID.matches_all(characters):
            suspects.add(rows, self._failing(self._values(array), self._each))


class _JsonText(Column):
    """Values arrive as msgspec.Raw. A null is a null; where the depth might be too much, the arbiter judges."""

    def __init__(self, shape: Shape, rules: Any, brackets_max: int) -> None:
        super().__init__(shape, rules)
        self._nullable = shape.nullable
        self._brackets_max = brackets_max

    def array(self, values: Sequence[Any], rows: np.ndarray | None, suspects: Suspects | None) -> pa.Array:
        texts = [None if value is None else bytes(value) for value in values]
        if _NULL in texts:
            if suspects is not None and not self._nullable:
                suspects.add(rows, np.fromiter((text == _NULL for text in texts), bool, len(texts)))
            texts = [None if text == _NULL else text for text in texts]
        if suspects is not None:
            suspects.add(rows, np.fromiter((self._may_be_deep(text) for text in texts), bool, len(texts)))
        return super().array(texts, rows, suspects)

    def _values(self, array: pa.Array) -> list[Any]:
        return super()._values(array.view(pa.binary()))

    def _may_be_deep(self, text: bytes | None) -> bool:
        if text is None or len(text) <= 2 * self._brackets_max:
            return False
        return text.count(b"{") + text.count(b"[") > self._brackets_max


class _Structs(Column):
    def __init__(self, shape: Shape, rules: Any, brackets_max: int) -> None:
        super().__init__(shape, rules)
        self._fields = [arrow_field(member.name, member.shape) for member in shape.members]
        self._columns = [column(member.shape, rules, brackets_max - 1) for member in shape.members]
        self._absent = (None,) * len(self._columns)
        self._verifying = [at for at, column in enumerate(self._columns) if column.verifies]

    def by_member(self, values: Sequence[Any]) -> list[list[Any]]:
        """The values of each member, one per row."""
        try:
            flat = list(chain.from_iterable(map(astuple, values)))
        except TypeError:  # some are absent
            flat = [item for v in values for item in (self._absent if v is None else astuple(v))]
        width = len(self._columns)  # every width-th item is of one member: a third of the time of zip(*tuples)
        return [flat[at::width] for at in range(width)]

    def arrays(
        self, by_member: Sequence[Sequence[Any]], rows: np.ndarray | None, suspects: Suspects | None
    ) -> list[pa.Array]:
        """One array per member."""
        return [c.array(v, rows, suspects) for c, v in zip(self._columns, by_member, strict=True)]

    @property
    def verifies(self) -> bool:
        return bool(self._verifying)

    def verify(self, array: pa.Array, rows: np.ndarray | None, suspects: Suspects) -> None:
        self.verify_members(array.flatten(), rows, suspects)

    def verify_members(self, arrays: Sequence[pa.Array], rows: np.ndarray | None, suspects: Suspects) -> None:
        """As `verify`, of one array per member."""
        for at in self._verifying:
            self._columns[at].verify(arrays[at], rows, suspects)

    def _array(self, values: Sequence[Any], rows: np.ndarray | None, suspects: Suspects | None) -> pa.Array:
        absent = np.fromiter((value is None for value in values), bool, len(values))
        mask = pa.array(absent) if absent.any() else None
        arrays = self.arrays(self.by_member(values), rows, suspects)
        return pa.StructArray.from_arrays(arrays, fields=self._fields, mask=mask)


class _Lists(Column):
    def __init__(self, shape: Shape, rules: Any, brackets_max: int) -> None:
        super().__init__(shape, rules)
        assert shape.item is not None
        self._item = column(shape.item, rules, brackets_max - 1)

    @property
    def verifies(self) -> bool:
        return self._item.verifies

    def verify(self, array: pa.Array, rows: np.ndarray | None, suspects: Suspects) -> None:
        own = np.arange(len(array)) if rows is None else rows
        lengths = np.diff(array.offsets.to_numpy())  # 0 where the list is absent
        self._item.verify(array.values, own.repeat(lengths), suspects)

    def _array(self, values: Sequence[Any], rows: np.ndarray | None, suspects: Suspects | None) -> pa.Array:
        try:
            lengths = np.fromiter(map(len, values), np.int64, len(values))
            absent, present = None, values
        except TypeError:  # some are absent
            absent = np.fromiter((value is None for value in values), bool, len(values))
            present = [value or () for value in values]
            lengths = np.fromiter(map(len, present), np.int64, len(values))
        own = np.arange(len(values)) if rows is None else rows
        items = self._item.array(list(chain.from_iterable(present)), own.repeat(lengths), suspects)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        mask = pa.array(absent) if absent is not None else None
        return pa.ListArray.from_arrays(pa.array(offsets), items, type=self.type, mask=mask)


def column(shape: Shape, rules: Any, brackets_max: int) -> Column:
    """The builder for a shape; JSON text within it may hold `brackets_max` levels of brackets, this one's included."""
    if shape.kind == "json":
        return _JsonText(shape, rules, brackets_max)
    if shape.kind == "struct":
        return _Structs(shape, rules, brackets_max)
    if shape.item is not None:
        return _Lists(shape, rules, brackets_max)
    if (
        shape.kind == "text"
        and shape.schema.get("format") == "uuid"
        and not shape.rest
        and "pattern" not in shape.schema
    ):
        return _Uuids(shape, rules)
    return {"number": _Numbers, "instant": _Instants, "day": _Days}.get(shape.kind, Column)(shape, rules)


class EventColumns:
    """Builds the columns of a stream's events."""

    def __init__(self, shape: Shape, rules: Any, depth_max: int) -> None:
        """`depth_max` is the nesting allowed of one event."""
        self._root = _Structs(shape, rules, depth_max)

    def pivot(self, structs: Sequence[Any], suspects: Suspects | None) -> list[pa.Array]:
        """Rows to columns, in the order of the schema's properties; `suspects` None: the arbiter vouched for all."""
        return self._root.arrays(self._root.by_member(structs), None, suspects)

    def verify(self, arrays: Sequence[pa.Array], suspects: Suspects) -> None:
        """Mark rows of columns from `fast_path` that the checks do not pass."""
        self._root.verify_members(arrays, None, suspects)
