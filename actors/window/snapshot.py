"""Snapshots of a partition's window state: a cache of the log, so any of them may be lost.

A file is synced before the place's word names it (`cluster.state`), and carries its format version and a checksum: a
torn, damaged or foreign one is passed over with a warning, and the one before it loads, or the log is replayed. Only
the partition's owner names files: a former one that wakes up is refused.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from eagleray.cluster.state.protocol import Place, StateUnavailable

logger = logging.getLogger(__name__)

VERSION = 2
KEPT = 2
_MAGIC = b"EAGLEWIN"
_HEAD = struct.Struct("<8sI16sQ")  # magic, version, xxh3_128 of the body, length of the body
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Snapshot:
    """State after all records below `position`."""

    position: int
    watermark_us: int
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    """By era of a window (`Era.key`), and late rows: state of other definitions is of no use."""


class SnapshotUnusable(Exception):
    """The file is torn, damaged, of another version or without a window that counted; the message says which."""


def encode(snapshot: Snapshot) -> bytes:
    """The file's content."""
    blobs = []
    for table in snapshot.tables.values():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
            writer.write_table(table)
        blobs.append(sink.getvalue())
    about = {
        "position": snapshot.position,
        "watermark_us": snapshot.watermark_us,
        "tables": {name: blob.size for name, blob in zip(snapshot.tables, blobs, strict=True)},
    }
    text = json.dumps(about).encode()
    body = b"".join([struct.pack("<I", len(text)), text, *blobs])
    return _HEAD.pack(_MAGIC, VERSION, xxhash.xxh3_128_digest(body), len(body)) + body


class Needed(NamedTuple):
    """A table that a snapshot must have; at a position up to `since`, before any event of it, it may be without."""

    since: int
    before: str = ""  # the name that it had
    upto: int = 0  # in snapshots at positions up to here


def decode(data: bytes, needed: Mapping[str, Needed]) -> Snapshot:
    """The snapshot in a file's content, with the tables that are `needed` by name; raises SnapshotUnusable."""
    if len(data) < _HEAD.size:
        raise SnapshotUnusable("torn")
    magic, version, digest, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != VERSION:
        raise SnapshotUnusable(f"format {version}, not {VERSION}" if magic == _MAGIC else "not a snapshot")
    body = memoryview(data)[_HEAD.size :]
    if len(body) != length or xxhash.xxh3_128_digest(body) != digest:
        raise SnapshotUnusable("torn or damaged")
    (size,) = struct.unpack_from("<I", body)
    about = json.loads(bytes(body[4 : 4 + size]))
    known = _known(about, needed)
    tables, at = {}, 4 + size
    for name, length in about["tables"].items():
        tables[known.get(name, name)] = pa.ipc.open_stream(pa.py_buffer(body[at : at + length])).read_all()
        at += length
    return Snapshot(about["position"], about["watermark_us"], tables)


def _known(about: Mapping[str, Any], needed: Mapping[str, Needed]) -> dict[str, str]:
    """Names of tables in a snapshot that are called otherwise now, and how; raises SnapshotUnusable."""
    position, names = about["position"], about["tables"]
    renamed = {}
    for name, need in needed.items():
        if name not in names and need.before in names and position <= need.upto:
            renamed[need.before] = name
        elif name not in names and position > need.since:
            raise SnapshotUnusable(f"it knows no {name}")
    return renamed


class SnapshotStore:
    """The snapshots of one partition, as its owner. The place's word names those that count, oldest first."""

    def __init__(self, place: Place, needed: Mapping[str, Needed]) -> None:
        """Become the owner of `place`; `needed` as in `decode`. Raises OSError."""
        self.needed = dict(needed)
        self._claim = place.claim()
        self._kept: list[str] = []  # oldest first

    @property
    def epoch(self) -> int:
        """Of this owner; a later owner's is greater."""
        return self._claim.epoch

    @property
    def safe(self) -> int:
        """The log below this offset is not needed even if the newest snapshot is lost."""
        return _position(self._kept[0]) if len(self._kept) >= KEPT else 0

    def check(self) -> None:
        """Raise Fenced where the partition has another owner; OSError."""
        self._claim.check()

    def load(self) -> Snapshot | None:
        """The newest usable snapshot, None if there is none; raises StateUnavailable."""
        names = sorted(_names(self._claim.word), key=lambda name: (_position(name), name))
        while names:
            try:
                found = decode(self._claim.fetch(names[-1]).read_bytes(), self.needed)
            except StateUnavailable:
                raise
            except (SnapshotUnusable, OSError) as problem:
                logger.warning("snapshot %s is skipped: %s", self._claim.directory / names[-1], problem)
                names.pop()
                continue
            self._kept = names[-KEPT:]
            return found
        self._kept = []
        return None

    def save(self, snapshot: Snapshot) -> None:
        """Write, and delete all but the newest KEPT; raises OSError (disk full) and leaves what was there, Fenced."""
        directory = self._claim.directory
        directory.mkdir(parents=True, exist_ok=True)
        name = f"{snapshot.position:020d}-{uuid.uuid4().hex[:12]}.snap"
        data = encode(snapshot)
        try:
            # 1. content on disk  # 2. where a successor finds it  # 3. named  # 4. only then the old ones go
            with (directory / name).open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            self._claim.store(name, len(data))
            kept = [*self._kept, name][-KEPT:]
            self._claim.publish(json.dumps({"snapshots": kept}))
        except BaseException:
            with suppress(OSError):
                self._claim.remove(name)
            raise
        self._kept = kept
        self._claim.sweep(kept)


def _names(word: str | None) -> list[str]:
    """The snapshots that a word names; none where it is of no known form."""
    try:
        found: list[str] = json.loads(word or "{}").get("snapshots", [])
    except (ValueError, AttributeError):
        return []
    return found


def _position(name: str) -> int:
    number = name.partition("-")[0]
    return int(number) if number.isdecimal() else -1
