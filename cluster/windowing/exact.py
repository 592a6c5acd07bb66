"""Exact sums: of int64 as two 32-bit limbs, of float64 as limbs on a fixed grid of 32 bits. Rounded once, at the end.

Integer addition is associative, so any batching, partitioning or order of merging gives the same bits; the result of a
float sum is the double nearest to the true sum (ties to even), as `math.fsum` gives.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eagleray.cluster.windowing.keyed_items import Items, reduce_items
from eagleray.cluster.windowing.watermark import Int64

Float64 = npt.NDArray[np.float64]

LIMB = 32
MASK = (1 << LIMB) - 1
SAFE_ROWS = 1 << 19  # three weights below 2**32 a row, summed by bincount in doubles, stay exact below 2**53
CARRY_ABOVE = 1 << 52  # a limb's sum above this is split before it is merged again, so that int64 never overflows
_LOWEST = -1074  # the grid starts at the exponent of the smallest double


def sum_into(codes: Int64, count: int, values: Int64) -> Int64:
    """Sums (count,) of int64 `values` by code; the caller makes sure that they fit."""
    if len(values) <= SAFE_ROWS and len(values) and -(2**32) <= int(values.min()) and int(values.max()) <= 2**32:
        return np.bincount(codes, values, count).astype(np.int64)
    total = np.zeros(count, np.int64)
    np.add.at(total, codes, values)
    return total


def int_limbs(codes: Int64, count: int, high: Int64, low: Int64) -> tuple[Int64, Int64]:
    """Sums of high·2³² + low by code, with 0 ≤ low < 2³² again."""
    lows = sum_into(codes, count, low)
    highs = sum_into(codes, count, high)
    return highs + (lows >> LIMB), lows & MASK


def int_total(high: Int64, low: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """The sums as int64, and where they do not fit."""
    overflow = (high < -(1 << 31)) | (high >= 1 << 31)
    return (np.where(overflow, 0, high) << LIMB) + low, overflow


def float_limbs(codes: Int64, count: int, values: Float64) -> Items:
    """The exact sums of `values` (finite) by code: items are limbs i of weight 2^(32·i − 1074), values their sums."""
    bits = values.view(np.int64)
    exponent = (bits >> 52) & 0x7FF
    mantissa = ((bits & ((1 << 52) - 1)) | (np.minimum(exponent, 1) << 52)).view(np.uint64)
    position = np.maximum(exponent, 1) - 1
    limb, shift = position >> 5, (position & 31).view(np.uint64)
    sign = 1 - 2 * (bits < 0).astype(np.int64)
    upper = mantissa >> (np.uint64(LIMB) - shift)
    parts = (
        ((mantissa << shift) & np.uint64(MASK)).view(np.int64) * sign,
        (upper & np.uint64(MASK)).view(np.int64) * sign,
        (upper >> np.uint64(LIMB)).view(np.int64) * sign,
    )
    low = int(limb.min()) if len(limb) else 0
    span = (int(limb.max()) if len(limb) else 0) - low + 3
    if len(values) <= SAFE_ROWS and count * span <= max(1 << 16, 4 * len(values)):
        return _bincounted(codes, count, limb - low, span, low, parts)
    items = np.concatenate([limb, limb + 1, limb + 2])
    return reduce_items(np.tile(codes, 3), count, items, np.concatenate(parts), "sum")


def _bincounted(codes: Int64, count: int, limb: Int64, span: int, low: int, parts: tuple[Int64, Int64, Int64]) -> Items:
    cells = codes * span + limb
    total = np.zeros(count * span + 3, np.float64)
    for step, part in enumerate(parts):
        total[step : step + count * span] += np.bincount(cells, part, count * span)
    matrix = total[: count * span].reshape(count, span)
    rows, items = np.nonzero(matrix)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=offsets[1:])
    return Items(offsets, items + low, matrix[rows, items].astype(np.int64))


def merge_limbs(codes: Int64, count: int, items: Int64, values: Int64) -> Items:
    """Add partial sums; limbs that grew large are carried into the next one first."""
    large = np.flatnonzero(np.abs(values) >= CARRY_ABOVE)
    if len(large):
        carried = values[large] >> LIMB
        values = values.copy()
        values[large] &= MASK
        codes, items = np.concatenate([codes, codes[large]]), np.concatenate([items, items[large] + 1])
        values = np.concatenate([values, carried])
    return reduce_items(codes, count, items, values, "sum")


def float_total(found: Items) -> Float64:
    """The sums rounded to the nearest double, ties to even; beyond the range of doubles: ±inf."""
    count = len(found.offsets) - 1
    if len(found.items) == 0:
        return np.zeros(count)
    low = int(found.items.min())
    span = int(found.items.max()) - low + 4  # room for carries, and for the sign
    limbs = np.zeros((count, span), np.int64)
    limbs[np.repeat(np.arange(count), np.diff(found.offsets)), found.items - low] = found.values
    _carry(limbs)
    sign = np.where(limbs[:, -1] < 0, -1, 1)
    limbs *= sign[:, None]
    _carry(limbs)
    padded = np.concatenate([np.zeros((count, 2), np.int64), limbs], axis=1)
    top = span + 1 - np.argmax(padded[:, :1:-1] != 0, axis=1)  # index in `padded` of the highest limb that is not zero
    rows = np.arange(count)
    below = np.cumsum(padded != 0, axis=1)[rows, np.maximum(top - 3, 0)] * (top >= 3)
    rounded = _round(np.stack([padded[rows, top - step] for step in range(3)]).view(np.uint64), below > 0)
    with np.errstate(over="ignore"):
        return np.asarray(sign * np.ldexp(rounded, (LIMB * (top - 4 + low) + _LOWEST).astype(np.int32)))


def _carry(limbs: Int64) -> None:
    for column in range(limbs.shape[1] - 1):
        limbs[:, column + 1] += limbs[:, column] >> LIMB
        limbs[:, column] &= MASK


def _round(limbs: npt.NDArray[np.uint64], sticky: npt.NDArray[np.bool_]) -> Float64:
    """The 96-bit integers of three `limbs` (3, n), highest first, plus something below where sticky, rounded once."""
    high, middle, low = limbs
    width = np.frexp(high.astype(np.float64))[1].astype(np.uint64)  # bits of `high`, exact below 2**53
    spare = np.uint64(LIMB) - width
    leading = (((high << np.uint64(LIMB)) | middle) << spare) | (low >> width)
    rest = (low & ((np.uint64(1) << width) - np.uint64(1))) != 0
    # 64 leading bits; whatever is below only breaks ties, so one bit stands for all of it.
    leading |= (rest | sticky).astype(np.uint64)
    return np.asarray(np.ldexp(leading.astype(np.float64), width.astype(np.int32)))
