"""Who an event is and where it belongs: its deduplication id and its partition hash. Called by `judge`.

The id is the stream's `id` field, or, in a stream without one, the request's Idempotency-Key with the event's index.
The partition follows the key, else the id, else whole batches take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.instants import INSTANT
from eagleray.cluster.events.seeded_hash import DIGEST_BYTES, digests, hashes, of_digests
from eagleray.cluster.events.shape import Shape

_ABSENT = b"\0"  # stands for no key; no key of its own hashes alike by chance


class FieldReader:
    """Finds one field of the events."""

    def __init__(self, shape: Shape, path: FieldPath) -> None:
        """`path` was checked against the stream's schema."""
        self.at: list[int] = []  # its place among the columns, then within each struct
        for name in path.names:
            self.at.append([member.name for member in shape.members].index(name))
            shape = shape.members[self.at[-1]].shape

    def column(self, arrays: Sequence[pa.Array]) -> pa.Array:
        """The field's column."""
        found = arrays[self.at[0]]
        for at in self.at[1:]:
            found = found.field(at)
        return found

    def texts(self, arrays: Sequence[pa.Array]) -> list[bytes | None]:
        """The field of every event as UTF-8 that is equal for equal values; None where absent."""
        return texts_of(self.column(arrays))


def texts_of(found: pa.Array) -> list[bytes | None]:
    """What ids and keys are hashed from: a field's values as UTF-8, equal for equal values; None where absent."""
    if pa.types.is_large_string(found.type):
        found = found.cast(pa.string())
    if pa.types.is_string(found.type):
        return found.view(pa.binary()).to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
    if found.type == INSTANT:
        found = found.view(pa.int64())
    return [None if value is None else str(value).encode() for value in found.to_pylist()]


class Identity:
    """Ids and partition hashes of one stream's events."""

    def __init__(self, id_: FieldReader | None, key: FieldReader | None, seed: int) -> None:
        """`seed` is the project's (`seeded_hash.hash_seed`)."""
        self._id, self._key, self._seed = id_, key, seed
        self._turn: Iterator[int] = count()

    def ids(self, arrays: Sequence[pa.Array], tokens: Sequence[bytes | None] | None) -> list[bytes | None]:
        """The digest of every event's id; None: it has none. `tokens` stand in where the stream has no id field."""
        texts = tokens if self._id is None else self._id.texts(arrays)
        if texts is None:
            return [None] * len(arrays[0])
        if None not in texts:
            return list(digests(texts, self._seed))  # type: ignore[arg-type]
        return [None if text is None else digests([text], self._seed)[0] for text in texts]

    def partition_hashes(self, arrays: Sequence[pa.Array], ids: Sequence[bytes | None]) -> np.ndarray:
        """(n,) uint64: by key; an event without one by its id; events without either share this batch's turn."""
        if self._key is not None:
            texts = self._key.texts(arrays)
            if None not in texts:
                return hashes(texts, self._seed)  # type: ignore[arg-type]
            found = hashes([_ABSENT if text is None else text for text in texts], self._seed)
            lacking = [text is None and id_ is not None for text, id_ in zip(texts, ids, strict=True)]
            return np.where(lacking, _by_id(ids), found)
        if None not in ids:
            return _by_id(ids)
        turn = np.uint64(next(self._turn))
        return np.where([id_ is None for id_ in ids], turn, _by_id(ids))


def _by_id(ids: Sequence[bytes | None]) -> np.ndarray:
    return of_digests(b"".join(id_ or bytes(DIGEST_BYTES) for id_ in ids))


def id_column(ids: Sequence[bytes | None]) -> pa.Array:
    """Digests as a fixed-size binary column."""
    if None in ids:
        return pa.array(ids, pa.binary(DIGEST_BYTES))
    joined = b"".join(ids)  # type: ignore[arg-type]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), len(ids), [None, pa.py_buffer(joined)])
