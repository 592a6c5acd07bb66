"""Sums, counts and maxima of small items within keys: the shape of every sketch. Vectorised, order-independent.

A sketch is a list of (item, value) per key: registers and ranks, buckets and counts, limbs of an exact sum. Dense
inputs are reduced by indexing into a keys × items matrix, sparse ones by one sort.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from eagleray.cluster.windowing.watermark import Int64

CELLS_PER_ROW = 16  # a matrix of up to this many cells per row is cheaper than sorting
CELLS_MIN = 1 << 16


class Items(NamedTuple):
    """Items of each key, ascending: those of key k are at offsets[k]:offsets[k+1]; `values` are never zero."""

    offsets: Int64
    items: Int64
    values: Int64


def reduce_items(codes: Int64, count: int, items: Int64, values: Int64 | None, how: Literal["sum", "max"]) -> Items:
    """Combine `values` (None: ones) of equal (code, item); codes in 0..count-1. Zero results are left out.

    For `max`, values must be positive; for `sum`, sums must fit into int64.
    """
    if len(codes) == 0:
        return Items(np.zeros(count + 1, np.int64), codes, codes)
    low = int(items.min())
    span = int(items.max()) - low + 1
    cells = codes * span + (items - low)
    if count * span <= max(CELLS_MIN, len(codes) * CELLS_PER_ROW):
        found, totals = _dense(cells, count * span, values, how)
    else:
        found, totals = _sparse(cells, values, how)
    owners = found // span
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=count), out=offsets[1:])
    return Items(offsets, found - owners * span + low, totals)


def _dense(cells: Int64, size: int, values: Int64 | None, how: str) -> tuple[Int64, Int64]:
    if values is None:
        totals = np.bincount(cells, minlength=size)
    else:
        totals = np.zeros(size, np.int64)
        (np.add if how == "sum" else np.maximum).at(totals, cells, values)
    found = np.flatnonzero(totals)
    return found, totals[found]


def _sparse(cells: Int64, values: Int64 | None, how: str) -> tuple[Int64, Int64]:
    if values is None:
        ordered = np.sort(cells)
    else:
        order = np.argsort(cells)
        ordered = cells[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    if values is None:
        return ordered[starts], np.diff(np.append(starts, len(ordered)))
    totals = (np.add if how == "sum" else np.maximum).reduceat(values[order], starts)
    kept = totals != 0
    return ordered[starts][kept], totals[kept]


def to_list(found: Items, values: Int64, kind: pa.DataType) -> pa.ListArray:
    """One list of `values` (as many as there are items) per key."""
    return pa.ListArray.from_arrays(
        pa.array(found.offsets, pa.int32()), pa.array(values.astype(kind.to_pandas_dtype()))
    )


def from_list(column: pa.ListArray, codes: Int64) -> tuple[Int64, Int64]:
    """The elements of all lists of `column`, and for each the code of its row."""
    lengths = np.diff(np.asarray(column.offsets))
    return np.repeat(codes, lengths), column.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
