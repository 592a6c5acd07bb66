"""Dense codes for groups: columns become integers, and combinations of integers become 0..count-1, without sorting.

Used on events (group columns of a chunk) and on partial aggregates alike. The order of codes carries no meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from eagleray.cluster.windowing.watermark import Int64

TABLE_PER_ROW = 4  # a lookup table of up to this many entries per row is cheaper than hashing
TABLE_MIN = 1 << 12
PRODUCT_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class Keys:
    """The key of each row: `codes` (n,) in 0..count-1, every code used; `rows` (count,) is one row of each key."""

    codes: Int64
    count: int
    rows: Int64

    def of(self, codes: Int64) -> Keys:
        """The same keys over other rows: keeps codes and count, has no representatives."""
        return Keys(codes, self.count, self.rows[:0])


@dataclass(frozen=True, slots=True)
class Coded:
    """A column as codes (n,) into `values`; the code len(values) is null."""

    codes: Int64
    values: pa.Array

    @property
    def size(self) -> int:
        """One more than the greatest possible code."""
        return len(self.values) + 1

    def take(self, rows: Int64) -> pa.Array:
        """The values at `rows`."""
        codes = self.codes[rows]
        return self.values.take(pa.array(codes, mask=codes == len(self.values)))


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One contiguous array."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One contiguous array; -0.0 becomes 0.0, so that equal numbers have equal bits."""
    array = whole(column)
    if pa.types.is_floating(array.type):
        values = np.asarray(array.to_numpy(zero_copy_only=False), np.float64) + 0.0
        mask = np.asarray(array.is_null()) if array.null_count else None
        return pa.array(values, array.type, mask=mask)
    return array


def encode(array: pa.Array) -> Coded:
    """Codes of `array`'s values; equal values share a code, null is a value of its own."""
    found = array.dictionary_encode()
    indices = found.indices
    if indices.null_count:
        indices = indices.fill_null(len(found.dictionary))
    return Coded(indices.to_numpy(zero_copy_only=False).astype(np.int64), found.dictionary)


def encode_numbers(values: Int64) -> tuple[Int64, int]:
    """Codes of int64 `values`, and one more than the greatest code."""
    if len(values) == 0:
        return values, 1
    low, high = int(values.min()), int(values.max())
    if high - low < max(TABLE_MIN, len(values) * TABLE_PER_ROW):
        return values - low, high - low + 1
    found = pa.array(values).dictionary_encode()
    return found.indices.to_numpy().astype(np.int64), len(found.dictionary)


def _compact(codes: Int64, size: int) -> tuple[Int64, int]:
    if size <= max(TABLE_MIN, len(codes) * TABLE_PER_ROW):
        used = np.zeros(size, np.bool_)
        used[codes] = True
        table = np.cumsum(used) - 1
        return table[codes], int(table[-1]) + 1 if size else 0
    found = pa.array(codes).dictionary_encode()
    return found.indices.to_numpy().astype(np.int64), len(found.dictionary)


def combine(parts: Sequence[tuple[Int64, int]], length: int) -> Keys:
    """Keys of `length` rows that are equal where all `parts` (codes, one more than the greatest) are equal."""
    codes, size = np.zeros(length, np.int64), 1
    for more, more_size in parts:
        if size * more_size >= PRODUCT_MAX:
            codes, size = _compact(codes, size)
        codes, size = (codes * more_size + more, size * more_size) if size > 1 else (more, more_size)
    codes, count = _compact(codes, size)
    rows = np.empty(count, np.int64)
    rows[codes] = np.arange(length)
    return Keys(codes, count, rows)
