"""Approximate aggregates with exact states: HyperLogLog registers and relative-error quantile buckets.

The states are maxima and counts of integers, so they are the same in whatever order events came; only the estimate made
from them at the end is approximate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eagleray.cluster.windowing.exact import Float64
from eagleray.cluster.windowing.keyed_items import Items
from eagleray.cluster.windowing.stable_hash import UInt64
from eagleray.cluster.windowing.watermark import Int64

PRECISION = 13  # 8192 registers: standard error 1.04 / √8192 = 1.15 %
REGISTERS = 1 << PRECISION
RANK_BITS = 6
_RANKS = 64 - PRECISION  # bits below the register number; ranks are 1 … _RANKS + 1

BUCKET_SHIFT = 46  # 6 of 52 mantissa bits are kept: a bucket is at most 1/64 wide, its middle off by at most 0.79 %


def registers(hashes: UInt64) -> tuple[Int64, Int64]:
    """The register and the rank (position of the first one bit of the rest, from 1) of each hash."""
    rest = (hashes & np.uint64((1 << _RANKS) - 1)).astype(np.float64)  # exact: 51 bits
    return (hashes >> np.uint64(_RANKS)).astype(np.int64), (_RANKS + 1 - np.frexp(rest)[1]).astype(np.int64)


def distinct(found: Items) -> Int64:
    """Estimated numbers of distinct values, from registers (items) and ranks (values) of each key.

    The improved raw estimator of Ertl (2017): no bias correction tables, good from 0 on.
    """
    count = len(found.offsets) - 1
    owners = np.repeat(np.arange(count), np.diff(found.offsets))
    histogram = np.bincount(owners * 64 + found.values, minlength=count * 64).reshape(count, 64).astype(np.float64)
    empty = REGISTERS - np.diff(found.offsets)
    z = REGISTERS * _tau(1.0 - histogram[:, _RANKS + 1] / REGISTERS)
    for rank in range(_RANKS, 0, -1):
        z = 0.5 * (z + histogram[:, rank])
    z = z + REGISTERS * _sigma(empty / REGISTERS)
    estimate: Float64 = np.rint(REGISTERS * REGISTERS / (2.0 * np.log(2.0)) / z)
    return estimate.astype(np.int64)


def _sigma(x: Float64) -> Float64:
    y = np.ones_like(x)
    z = np.where(x == 1.0, np.inf, x)
    x = np.where(x == 1.0, 0.0, x)
    while True:
        x = x * x
        grown = z + x * y
        y = y + y
        if np.array_equal(grown, z):
            return z
        z = grown


def _tau(x: Float64) -> Float64:
    edge = (x == 0.0) | (x == 1.0)
    x = np.where(edge, 1.0, x)
    y = np.ones_like(x)
    z = 1.0 - x
    while True:
        x = np.sqrt(x)
        y = 0.5 * y
        shrunk = z - (1.0 - x) ** 2 * y
        if np.array_equal(shrunk, z):
            return np.where(edge, 0.0, z / 3.0)
        z = shrunk


def buckets(values: Float64) -> Int64:
    """The bucket of each finite value: 0 for zero, ascending with the value, negative ones below zero.

    Cut from the bits of the double, so that no machine rounds differently.
    """
    bits = values.view(np.int64)
    size = ((bits & np.int64(2**63 - 1)) >> BUCKET_SHIFT) + 1
    return np.where(values == 0.0, 0, np.where(bits < 0, -size, size))


def middles(items: Int64) -> Float64:
    """The middle of each bucket."""
    low = (np.maximum(np.abs(items) - 1, 0) << BUCKET_SHIFT).view(np.float64)
    high = (np.minimum(np.abs(items) << BUCKET_SHIFT, np.int64(0x7FEF_FFFF_FFFF_FFFF))).view(np.float64)
    return np.asarray(np.sign(items) * (low + (high - low) / 2))


def quantiles(found: Items, q: float, least: Float64, greatest: Float64) -> Float64:
    """The q-quantile of each key: of the bucket with the value of rank ⌊q·(n-1)⌋, exact at both ends.

    Keys without values get NaN, for the caller to mask.
    """
    total = np.concatenate(([0], np.cumsum(found.values)))
    begins, ends = total[found.offsets[:-1]], total[found.offsets[1:]]
    some = ends > begins
    rank = np.floor(q * (ends - begins - 1)).astype(np.int64)
    at = np.searchsorted(total[1:], begins + rank, side="right")
    result: npt.NDArray[np.float64] = np.full(len(begins), np.nan)
    result[some] = np.clip(middles(found.items[at[some]]), least[some], greatest[some])
    # The least and the greatest value are known exactly.
    result = np.where(some & (rank == 0), least, result)
    return np.where(some & (rank == ends - begins - 1) & (rank > 0), greatest, result)
