"""Makes a lake that was copied or moved a lake of its own where it is now: catalog and metadata name files here.

Called by `eagleray lake relocate` and `eagleray restore`. Rules:

1. Only files here are read or written; what is at the old place, if anything, is never opened.
2. New metadata gets new names beside the old, whole or not at all, and the same names when it is done again: a
   relocation that was killed goes on where it was.
3. Every live data file is looked for before the catalog changes.
4. The catalog changes in one transaction: every table, and the place that it is made for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import (
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.serializers import FromInputFile, ToOutputFile
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil
from pyiceberg.table.snapshots import Snapshot

from eagleray.cluster.durable import sync_directory
from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.lake.durable_io import DurableFileIO
from eagleray.cluster.lake.place import Place, guessed_warehouse, local_path, locations, record, recorded

_MANIFEST_PATH, _MANIFEST_LENGTH, _FILE_PATH = 0, 1, 1  # fields of pyiceberg's records that have no setters
_BUSY_S = 30.0
_MARK = re.compile(r"-at[0-9a-f]{8}$")  # of an earlier relocation


@dataclass(frozen=True)
class Relocated:
    """What was done: `tables` now name files in `new` instead of `old`; none where all was well before."""

    old: Path
    new: Path
    tables: int


def relocate(here: Place) -> Relocated:
    """Let the catalog at `here.catalog` name files in `here.warehouse`; the tables' files must be there already.

    Raises EaglerayError where they are not, or where another catalog still uses the same files.
    """
    with closing(sqlite3.connect(here.catalog, timeout=_BUSY_S)) as connection:
        old = _made_for(connection)
        if old is None or old.same(here):
            return Relocated(here.warehouse, here.warehouse, 0)
        _check_takeover(old, here)
        moved = _Moved(old.warehouse, here.warehouse)
        rows = _tables(connection)
        # 1. everything new, beside the old
        pointers = [(moved.table(location), location) for location in rows if moved.concerns(location)]
        # 2. the catalog, in one transaction
        with connection:
            connection.executemany(
                "UPDATE iceberg_tables SET previous_metadata_location = NULL, metadata_location = ?"
                " WHERE metadata_location = ?",
                pointers,
            )
            _move_namespaces(connection, moved)
            record(connection, here)
    return Relocated(old.warehouse, here.warehouse, len(pointers))


def _made_for(connection: sqlite3.Connection) -> Place | None:
    made = recorded(connection)
    if made is not None:
        return made
    known = [path for path in map(local_path, locations(connection)) if path is not None]
    if not known:
        return None
    return Place(Path(), guessed_warehouse(known))


def _check_takeover(old: Place, here: Place) -> None:
    same_files = old.warehouse.resolve() == here.warehouse.resolve()
    if same_files and old.catalog.is_file() and not old.catalog.samefile(here.catalog):
        problem = f"{old.catalog} still uses the files in {here.warehouse}"
        advice = "copy them, set lake.warehouse to the copy, and relocate again"
        raise EaglerayError(f"{here.catalog}: {problem}; two catalogs would delete each other's files: {advice}")


def _tables(connection: sqlite3.Connection) -> list[str]:
    return sorted(locations(connection))


def _move_namespaces(connection: sqlite3.Connection, moved: _Moved) -> None:
    rows = connection.execute(
        "SELECT rowid, property_value FROM iceberg_namespace_properties WHERE property_value IS NOT NULL"
    ).fetchall()
    changed = [(moved.text(value), row) for row, value in rows if moved.text(value) != value]
    connection.executemany("UPDATE iceberg_namespace_properties SET property_value = ? WHERE rowid = ?", changed)


@dataclass
class _Moved:
    """Rewrites metadata from one warehouse's paths to another's."""

    old: Path
    new: Path
    _io: DurableFileIO = field(default_factory=DurableFileIO)
    _manifests: dict[str, ManifestFile] = field(default_factory=dict)  # by the path that they had

    def text(self, value: str) -> str:
        """A path of the old warehouse as one of the new; any other text as it is."""
        path = local_path(value)
        if path is None or not path.is_relative_to(self.old):
            return value
        return str(self.new / path.relative_to(self.old))

    def concerns(self, location: str) -> bool:
        """Whether a location is of the old warehouse."""
        return self.text(location) != location

    def renamed(self, location: str) -> str:
        """The new location of a file whose content changes: under another name, the same each time."""
        path = Path(self.text(location))
        mark = hashlib.sha256(str(self.new).encode()).hexdigest()[:8]
        return str(path.with_name(f"{_MARK.sub('', path.stem)}-at{mark}{path.suffix}"))

    def table(self, location: str) -> str:
        """Write the metadata of a table anew; returns where."""
        here = self.text(location)
        try:
            metadata = FromInputFile.table_metadata(self._io.new_input(here))
        except OSError as error:
            raise EaglerayError(f"{here} cannot be read: {error}; copy {self.old} to {self.new} again") from error
        self._check_files(metadata)
        document = json.loads(metadata.model_dump_json())
        lists = {one.manifest_list: self._manifest_list(one, metadata) for one in metadata.snapshots}
        moved = TableMetadataUtil.parse_obj(self._document(document, lists))
        path = Path(here)
        version = int(path.name.partition("-")[0]) + 1 if path.name.partition("-")[0].isdecimal() else 0
        name = uuid.uuid5(uuid.NAMESPACE_URL, f"{location}\n{self.new}")
        target = path.with_name(f"{version:05d}-{name}.metadata.json")
        self._whole(target, lambda file: ToOutputFile.table_metadata(moved, file, overwrite=True))
        return str(target)

    def _document(self, value: Any, lists: dict[str, str]) -> Any:
        if isinstance(value, dict):
            return {key: self._document(one, lists) for key, one in value.items()}
        if isinstance(value, list):
            return [self._document(one, lists) for one in value]
        return lists.get(value) or self.text(value) if isinstance(value, str) else value

    def _check_files(self, metadata: TableMetadata) -> None:
        missing = [path for path in self._live(metadata) if not Path(path).is_file()]
        if missing:
            problem = f"{len(missing)} files of the lake are not here, such as {missing[0]}"
            raise EaglerayError(f"{problem}; copy {self.old} to {self.new} again")

    def _live(self, metadata: TableMetadata) -> Iterator[str]:
        seen: set[str] = set()
        for snapshot in metadata.snapshots:
            for manifest in self._listed(snapshot):
                if manifest.manifest_path not in seen:
                    seen.add(manifest.manifest_path)
                    for entry in self._entries(manifest):
                        if entry.status != ManifestEntryStatus.DELETED:
                            yield self.text(entry.data_file.file_path)

    def _listed(self, snapshot: Snapshot) -> list[ManifestFile]:
        here = snapshot.model_copy(update={"manifest_list": self.text(snapshot.manifest_list)})
        try:
            return here.manifests(self._io)
        except OSError as error:
            problem = f"{here.manifest_list} cannot be read: {error}"
            raise EaglerayError(f"{problem}; copy {self.old} to {self.new} again") from error

    def _entries(self, manifest: ManifestFile) -> list[ManifestEntry]:
        if manifest.content != ManifestContent.DATA:
            problem = f"{manifest.manifest_path} has row deletes of another program, which name files inside of Parquet"
            raise EaglerayError(f"{problem}; compact the table with that program at its old place first")
        here = copy(manifest)
        here._data = list(manifest._data)
        here[_MANIFEST_PATH] = self.text(manifest.manifest_path)
        try:
            return here.fetch_manifest_entry(self._io, discard_deleted=False)
        except OSError as error:
            problem = f"{here.manifest_path} cannot be read: {error}"
            raise EaglerayError(f"{problem}; copy {self.old} to {self.new} again") from error

    def _manifest_list(self, snapshot: Snapshot, metadata: TableMetadata) -> str:
        moved = [self._manifest(manifest, metadata) for manifest in self._listed(snapshot)]
        target = self.renamed(snapshot.manifest_list)

        def write(file: Any) -> None:
            writer = write_manifest_list(
                metadata.format_version,
                file,
                snapshot.snapshot_id,
                snapshot.parent_snapshot_id,
                snapshot.sequence_number,
                "deflate",
            )
            with writer as out:
                out.add_manifests(moved)

        self._whole(Path(target), write)
        return target

    def _manifest(self, manifest: ManifestFile, metadata: TableMetadata) -> ManifestFile:
        known = self._manifests.get(manifest.manifest_path)
        if known is not None:
            return known
        entries = self._entries(manifest)
        spec = metadata.specs()[manifest.partition_spec_id]
        target = self.renamed(manifest.manifest_path)

        def write(file: Any) -> None:
            assert manifest.added_snapshot_id is not None
            writer = write_manifest(
                metadata.format_version, spec, metadata.schema(), file, manifest.added_snapshot_id, "deflate"
            )
            with writer as out:
                for entry in entries:
                    out.add_entry(self._entry(entry))

        self._whole(Path(target), write)
        moved = copy(manifest)
        moved._data = list(manifest._data)
        moved[_MANIFEST_PATH], moved[_MANIFEST_LENGTH] = target, Path(target).stat().st_size
        self._manifests[manifest.manifest_path] = moved
        return moved

    def _entry(self, entry: ManifestEntry) -> ManifestEntry:
        file: DataFile = copy(entry.data_file)
        file._data = list(entry.data_file._data)
        file[_FILE_PATH] = self.text(file.file_path)
        return ManifestEntry.from_args(
            status=entry.status,
            snapshot_id=entry.snapshot_id,
            sequence_number=entry.sequence_number,
            file_sequence_number=entry.file_sequence_number,
            data_file=file,
        )

    def _whole(self, target: Path, write: Callable[[Any], None]) -> None:
        """Write `target` under another name and rename it: one that is there is whole (rule 2)."""
        if target.exists():
            return
        making = target.with_name(f"{target.name}.making")
        making.unlink(missing_ok=True)
        write(_file(self._io, making))
        os.replace(making, target)
        sync_directory(target.parent)


def _file(io: PyArrowFileIO, path: Path) -> Any:
    return io.new_output(str(path))
