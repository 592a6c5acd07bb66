"""Snapshots of a partition's window state on disk: a cache of the log, so any of them may be lost.

A file is written aside, synced and renamed, and carries its format version and a checksum: a torn, damaged or foreign
one is passed over with a warning, and the one before it loads, or the log is replayed.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import xxhash

from eagleray.cluster.durable import sync_directory

logger = logging.getLogger(__name__)

VERSION = 1
KEPT = 2
_MAGIC = b"EAGLEWIN"
_HEAD = struct.Struct("<8sI16sQ")  # magic, version, xxh3_128 of the body, length of the body
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Snapshot:
    """State after all records below `position`."""

    position: int
    watermark_us: int
    fingerprint: str  # of the windows' definitions: state of other definitions is of no use
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


class SnapshotUnusable(Exception):
    """The file is torn, damaged, of another version or of other windows; the message says which."""


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
        "fingerprint": snapshot.fingerprint,
        "tables": {name: blob.size for name, blob in zip(snapshot.tables, blobs, strict=True)},
    }
    text = json.dumps(about).encode()
    body = b"".join([struct.pack("<I", len(text)), text, *blobs])
    return _HEAD.pack(_MAGIC, VERSION, xxhash.xxh3_128_digest(body), len(body)) + body


def decode(data: bytes, fingerprint: str) -> Snapshot:
    """The snapshot in a file's content; raises SnapshotUnusable."""
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
    if about["fingerprint"] != fingerprint:
        raise SnapshotUnusable("the windows were defined otherwise")
    tables, at = {}, 4 + size
    for name, length in about["tables"].items():
        tables[name] = pa.ipc.open_stream(pa.py_buffer(body[at : at + length])).read_all()
        at += length
    return Snapshot(about["position"], about["watermark_us"], fingerprint, tables)


class SnapshotStore:
    """The snapshots of one partition. Two workers may share the directory for a while; neither deletes newer ones."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        """`directory` is made when the first snapshot is saved."""
        self.directory = directory
        self.fingerprint = fingerprint
        self._kept: list[Path] = []  # oldest first
        self._unusable: list[Path] = []

    @property
    def safe(self) -> int:
        """The log below this offset is not needed even if the newest snapshot is lost."""
        return _position(self._kept[0]) if len(self._kept) >= KEPT else 0

    def load(self) -> Snapshot | None:
        """The newest usable snapshot, None if there is none."""
        files = sorted(self.directory.glob("*-*.snap"), key=lambda file: (_position(file), file.name))
        self._unusable = []
        while files:
            try:
                found = decode(files[-1].read_bytes(), self.fingerprint)
            except (SnapshotUnusable, OSError) as problem:
                logger.warning("snapshot %s is passed over: %s", files[-1], problem)
                self._unusable.append(files.pop())
                continue
            self._kept = files[-KEPT:]
            return found
        self._kept = []
        return None

    def save(self, snapshot: Snapshot) -> None:
        """Write, and delete all but the newest KEPT; raises OSError (disk full) and leaves what was there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / f"{snapshot.position:020d}-{uuid.uuid4().hex[:12]}.snap"
        aside = file.with_suffix(".tmp")
        try:
            # 1. content on disk  # 2. its name on disk  # 3. only then the old ones go
            with aside.open("wb") as out:
                out.write(encode(snapshot))
                out.flush()
                os.fsync(out.fileno())
            aside.rename(file)
            sync_directory(self.directory)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        self._kept = [*self._kept, file][-KEPT:]
        self._clean()

    def _clean(self) -> None:
        oldest = _position(self._kept[0])
        left = [*self.directory.glob("*-*.snap"), *self.directory.glob("*-*.tmp")]
        old = [file for file in left if _position(file) < oldest]
        for file in [*old, *self._unusable]:
            file.unlink(missing_ok=True)
        self._unusable = []


def _position(file: Path) -> int:
    number = file.name.partition("-")[0]
    return int(number) if number.isdecimal() else -1
