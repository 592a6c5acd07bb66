"""Finds and deletes files below a table that nothing refers to: what killed writers and failed commits left behind.

A file goes only if it is older than the grace and the table was committed to since it was written: a writer whose
commits are held up for days still has its files. The order matters: first the files are listed, then the table is
read, so that what is committed in between counts as referred to. Before anything is deleted, the table gets a new
snapshot and all is looked at again: a commit that was under way is refused, looks at its files again, and finds them
too old (`staged_files`, rule 3).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from pyarrow.fs import FileSelector, FileType
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.referred import referred
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.lake.staged_files import written_us

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A file below a table: its path as the file system has it, and when it was written."""

    path: str
    bytes: int
    written_us: int
    location: str  # as the table's own access takes it


def remove_orphans(lake: Lake, table: str, grace_us: int, now_us: int, *, dry_run: bool = False) -> list[Found]:
    """Delete the orphans of `table` that are older than `grace_us`; returns them. `dry_run`: delete nothing."""
    loaded = lake.load(table)
    committed_us = 1000 * max((s.timestamp_ms for s in loaded.metadata.snapshots), default=0)
    before_us = min(now_us - grace_us, committed_us)
    # 1. list  2. read what is referred to
    orphans = _unreferred(lake, table, before_us)
    if dry_run or not orphans:
        return orphans
    # 3. whoever is about to commit looks again  4. look again
    lake.replace(table, Change(compaction=True))
    orphans = _unreferred(lake, table, before_us)
    # 5. delete
    for file in orphans:
        try:
            loaded.io.delete(file.location)
        except OSError as error:
            logger.warning("%s stays behind: %s", file.path, error)
    return orphans


def _unreferred(lake: Lake, table: str, before_us: int) -> list[Found]:
    """The files that were written before `before_us` and that no metadata names."""
    listed = list(_listed(lake.load(table)))
    used = {_path(location) for location in referred(lake.load(table))}
    return [file for file in listed if file.path not in used and file.written_us < before_us]


def _listed(table: Table) -> Iterator[Found]:
    if not isinstance(table.io, PyArrowFileIO):  # `s3_file_io`
        bucket = table.location().partition("://")[2].partition("/")[0]
        for one in table.io.store.listed(f"{table.location().rstrip('/')}/"):  # type: ignore[attr-defined]
            yield Found(f"{bucket}/{one.key}", one.bytes, one.written_us, f"s3://{bucket}/{one.key}")
        return
    scheme, netloc, root = PyArrowFileIO.parse_location(table.location())
    system = table.io.fs_by_scheme(scheme, netloc)
    start = "" if scheme == "file" else f"{scheme}://"
    for info in system.get_file_info(FileSelector(root, recursive=True, allow_not_found=True)):
        if info.type == FileType.File and info.mtime is not None:
            yield Found(info.path, info.size, written_us(info), f"{start}{info.path}")


def _path(location: str) -> str:
    """The location as the file system lists it: without a scheme, of object stores with the bucket."""
    return PyArrowFileIO.parse_location(location)[2]
