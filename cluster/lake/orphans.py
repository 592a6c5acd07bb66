"""Finds and deletes files below a table that nothing refers to: what killed writers and failed commits left behind.

A file goes only if it is older than the grace and the table was committed to since it was written: a writer whose
commits are held up for days still has its files. The order matters: first the files are listed, then the table is read,
so that what is committed in between counts as referred to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from pyarrow.fs import FileSelector, FileSystem, FileType
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from eagleray.cluster.lake.lake import Lake

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A file below a table: its path as the file system has it, and when it was written."""

    path: str
    bytes: int
    written_us: int


def remove_orphans(lake: Lake, table: str, grace_us: int, now_us: int, *, dry_run: bool = False) -> list[Found]:
    """Delete the orphans of `table` that are older than `grace_us`; returns them. `dry_run`: delete nothing."""
    # 1. list  2. read what is referred to
    loaded = lake.load(table)
    system, root = _place(loaded)
    listed = list(_listed(system, root))
    loaded = lake.load(table)
    used = {_path(location) for location in _referred(loaded)}
    committed_us = 1000 * max((s.timestamp_ms for s in loaded.metadata.snapshots), default=0)
    orphans = [
        file for file in listed if file.path not in used and file.written_us < min(now_us - grace_us, committed_us)
    ]
    # 3. delete
    for file in orphans if not dry_run else ():
        try:
            system.delete_file(file.path)
        except OSError as error:
            logger.warning("%s stays behind: %s", file.path, error)
    return orphans


def _place(table: Table) -> tuple[FileSystem, str]:
    scheme, netloc, path = PyArrowFileIO.parse_location(table.location())
    assert isinstance(table.io, PyArrowFileIO)
    return table.io.fs_by_scheme(scheme, netloc), path


def _listed(system: FileSystem, root: str) -> Iterator[Found]:
    for info in system.get_file_info(FileSelector(root, recursive=True, allow_not_found=True)):
        if info.type == FileType.File and info.mtime is not None:
            yield Found(info.path, info.size, round(info.mtime.timestamp() * 1_000_000))


def _referred(table: Table) -> Iterator[str]:
    """Every file that the table's metadata names, also data files that kept snapshots removed: those expiry deletes."""
    metadata = table.metadata
    yield table.metadata_location
    for entry in metadata.metadata_log:
        yield entry.metadata_file
    for statistics in (*metadata.statistics, *metadata.partition_statistics):
        yield statistics.statistics_path
    seen: set[str] = set()
    for snapshot in metadata.snapshots:
        yield snapshot.manifest_list
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path in seen:
                continue
            seen.add(manifest.manifest_path)
            yield manifest.manifest_path
            for data in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                yield data.data_file.file_path


def _path(location: str) -> str:
    """The location as the file system lists it: without a scheme, of object stores with the bucket."""
    return PyArrowFileIO.parse_location(location)[2]
