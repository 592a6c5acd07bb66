"""The logs that a stream has had, as its tables remember them: which log, and where each one's offsets begin.

Kept in each table of the stream as the property `eagleray.log`, and compared with the log that is there when the
platform starts (`cluster.continuity`). Pure functions over text and records.

A new epoch begins where the tables stand. Its bases are multiples of EPOCH_OFFSETS above every offset that anybody has
seen: also above those that were acked and lost with the log before the tables had them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from struct import Struct

import xxhash

from eagleray.cluster.log.protocol import Epoch, Record

PROPERTY = "eagleray.log"
"""Table property: the epochs, oldest first."""

SEED_PROPERTY = "eagleray.seed"
"""Table property: which `hash.seed` ids and keys in the log are hashed with (`seeded_hash.seed_fingerprint`)."""

EPOCH_OFFSETS = 1 << 32  # more records than a partition ever had in flight between log and tables
_MARK = Struct("<qqq")


@dataclass(frozen=True)
class Life:
    """One epoch. `after`: where the tables stood when it began; offsets from there to `bases` hold nothing.

    `carried`: by earlier log, up to which of its offsets records were carried over into this one.
    """

    log: str
    bases: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, int] = field(default_factory=dict)
    carried: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def epoch(self) -> Epoch:
        """As the log knows it."""
        return Epoch(self.log, self.bases)


Lineage = tuple[Life, ...]
"""The epochs of a stream, oldest first."""


def encode(lineage: Lineage) -> str:
    """The text of the property."""
    return json.dumps([asdict(life) for life in lineage], sort_keys=True, separators=(",", ":"))


def decode(properties: Mapping[str, str]) -> Lineage:
    """The epochs in a table's properties; empty for a table that was made before logs had names, or by others."""
    return tuple(Life(**life) for life in json.loads(properties.get(PROPERTY, "[]")))


def next_base(seen: Iterable[int]) -> int:
    """A base for a new epoch, given the offsets of a partition that anybody knows of."""
    return (max(seen, default=0) // EPOCH_OFFSETS + 1) * EPOCH_OFFSETS


def mark(record: Record) -> int:
    """What tells a record from another one that took its offset: of its content and its ingestion time."""
    head = xxhash.xxh3_64_intdigest(_MARK.pack(int(record.kind), record.rows, record.ingested_at_us))
    return xxhash.xxh3_64_intdigest(record.payload, seed=head)
