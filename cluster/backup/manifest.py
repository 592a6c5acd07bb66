"""What a backup holds, and how to tell that it is whole: a list of files with sizes and checksums, written last.

A directory without the list is a backup that was not finished. Paths are relative to the backup; `data/` is the data
directory, `lake/` the warehouse, wherever the two were.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from eagleray.cluster.durable import sync_directory, write_whole
from eagleray.cluster.errors import EaglerayError

NAME = "manifest.json"
FORMAT = 1
DATA, LAKE = "data", "lake"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file of the backup."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`instant`: every event that was acked before it is in the backup (ISO 8601). Times and places are the original's.

    `tables`: their snapshots. `streams`: the ends of their log's partitions. `left_out`: what lies elsewhere.
    """

    instant: str
    version: str
    data_dir: str
    warehouse: str
    tables: Mapping[str, int | None]
    streams: Mapping[str, Mapping[str, int]]
    files: Mapping[str, Entry]
    left_out: tuple[str, ...] = ()
    format: int = field(default=FORMAT)

    def write(self, directory: Path) -> None:
        """Make the backup complete."""
        write_whole(directory / NAME, json.dumps(asdict(self), indent=1, sort_keys=True))

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(entry.bytes for entry in self.files.values())


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a complete backup; raises EaglerayError where it is none."""
    file = directory / NAME
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        problem = "was not finished: run `eagleray backup` again" if directory.is_dir() else "is not there"
        raise EaglerayError(f"the backup {directory} {problem}") from None
    except (OSError, ValueError) as error:
        raise EaglerayError(f"{file} cannot be read: {error}; use another backup") from error
    if found.get("format") != FORMAT:
        raise EaglerayError(f"{file} is of format {found.get('format')!r}, which this version cannot read")
    files = {path: Entry(**entry) for path, entry in found.pop("files").items()}
    return Manifest(**{**found, "files": files, "left_out": tuple(found["left_out"])})


def copy(source: Path, target: Path) -> Entry:
    """Copy a file, durably and for its owner alone; `target` is there whole or not at all. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    making = target.with_name(f"{target.name}.making")
    with source.open("rb") as data, os.fdopen(_created(making), "wb") as out:
        entry = _hashed(data, out)
        out.flush()
        os.fsync(out.fileno())
    making.rename(target)
    sync_directory(target.parent)
    return entry


def entry_of(file: Path) -> Entry:
    """Size and checksum of a file that is there."""
    with file.open("rb") as data:
        return _hashed(data, None)


def made_private(directory: Path) -> None:
    """Make `directory` if need be, closed to others: it holds events and keys."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)


def free_bytes(directory: Path) -> int:
    """What is free where `directory` is, or will be."""
    there = next(place for place in (directory, *directory.parents) if place.exists())
    return shutil.disk_usage(there).free


def _created(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)


def _hashed(data: BinaryIO, out: BinaryIO | None) -> Entry:
    digest, size = hashlib.sha256(), 0
    while chunk := data.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if out is not None:
            out.write(chunk)
    return Entry(size, digest.hexdigest())
