"""Which files a table's metadata names. Used to find orphans, to take backups and to check files against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pyiceberg.manifest import DataFile, ManifestEntryStatus
from pyiceberg.table import StaticTable, Table


def referred(table: Table) -> Iterator[str]:
    """Every file that the table's metadata names, also data files that kept snapshots removed: those expiry deletes."""
    yield from described(table)
    for file, _ in data_files(table):
        yield file.file_path


def described(table: Table) -> Iterator[str]:
    """The files that tell of the data: metadata, statistics, manifest lists and manifests."""
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
            if manifest.manifest_path not in seen:
                seen.add(manifest.manifest_path)
                yield manifest.manifest_path


def data_files(table: Table) -> Iterator[tuple[DataFile, bool]]:
    """The data files of every kept snapshot, and whether the entry says that it is there (not: was removed)."""
    seen: set[str] = set()
    for snapshot in table.metadata.snapshots:
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path in seen:
                continue
            seen.add(manifest.manifest_path)
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                yield entry.data_file, entry.status != ManifestEntryStatus.DELETED


class TableFiles(NamedTuple):
    """A table at its present: the files that describe it, its metadata file aside, and its data files."""

    snapshot_id: int | None
    describing: list[str]
    data: list[str]


def files_at(metadata_location: str) -> TableFiles:
    """What is needed of the table whose metadata, or a copy of it, is there; raises OSError.

    Earlier metadata is left out: it is history that no reader needs, and may be deleted at any commit.
    """
    table = StaticTable.from_metadata(metadata_location)
    left_out = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
    describing = [location for location in described(table) if location not in left_out]
    data = {file.file_path for file, there in data_files(table) if there}
    head = table.current_snapshot()
    return TableFiles(head.snapshot_id if head else None, describing, sorted(data))
