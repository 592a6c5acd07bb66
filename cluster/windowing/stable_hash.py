"""A stable 64-bit hash of values, the same in every process, version and machine. Used by approx_distinct."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

UInt64 = npt.NDArray[np.uint64]

WORDS_MAX = 32  # strings of up to 256 bytes are hashed word by word, all at once; longer ones by xxh3, one by one

_SEED = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(values: UInt64) -> UInt64:
    """The finalizer of splitmix64: a bijection that spreads every bit."""
    mixed = values + _SEED
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX2
    return mixed ^ (mixed >> np.uint64(31))


def hash64(values: pa.Array) -> UInt64:
    """Hashes (n,) of values without nulls: strings, integers, doubles (no -0.0), bools, timestamps, dates."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return _hash_strings(values.cast(pa.large_binary()))
    if pa.types.is_floating(kind):
        return mix(values.cast(pa.float64()).to_numpy(zero_copy_only=False).view(np.uint64))
    return mix(as_int64(values).view(np.uint64))


def as_int64(values: pa.Array) -> npt.NDArray[np.int64]:
    """Integers, bools, timestamps and dates as int64, nulls as 0."""
    if pa.types.is_date32(values.type):
        values = values.cast(pa.int32())
    if pa.types.is_unsigned_integer(values.type) and values.type.bit_width == 64:
        return np.asarray(values.fill_null(0).to_numpy(zero_copy_only=False), np.uint64).view(np.int64)
    return np.asarray(values.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _hash_strings(values: pa.LargeBinaryArray) -> UInt64:
    count = len(values)
    if count == 0:
        return np.empty(0, np.uint64)
    _, offsets_buffer, data = values.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[values.offset : values.offset + count + 1]
    start, length = offsets[:-1], np.diff(offsets)
    hashed = mix(length.astype(np.uint64))
    if data is None or offsets[-1] == offsets[0]:
        return hashed
    padded = np.empty(len(data) + 8, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    words: UInt64 = np.ndarray((len(data) + 1,), np.dtype("<u8"), padded, strides=(1,))
    for word in range(min(WORDS_MAX, -(-int(length.max()) // 8))):
        active = np.flatnonzero(length > 8 * word)
        left = np.minimum(length[active] - 8 * word, 8).astype(np.uint64)
        chunk = words[start[active] + 8 * word] & (~np.uint64(0) >> (np.uint64(64) - left * np.uint64(8)))
        hashed[active] = mix(hashed[active] ^ chunk)
    for row in np.flatnonzero(length > 8 * WORDS_MAX):
        hashed[row] = xxhash.xxh3_64_intdigest(values[int(row)].as_py())
    return hashed
