"""Forgets old snapshots and deletes the files that only they used. Called by the committer, by jobs, and as a job.

Metadata goes at once. Data files that compaction or a job replaced stay for a while, for readers that began before: the
snapshot that removed them is kept so long, and goes together with them. A file is deleted only if no kept snapshot has
it. If the process dies between the commit and the deletions, some files stay behind for `cluster.lake.orphans`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestEntryStatus, ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    RemoveSnapshotRefUpdate,
    RemoveSnapshotsUpdate,
    TableUpdate,
)

from cluster.clock import Clock
from cluster.lake.attempts import OneShot
from cluster.lake.manifests import live_files, may_hold

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """Which snapshots stay: the newest `keep`, those younger than `age_us`, heads of branches and tags.

    Those that removed data files stay for `grace_us` at least.
    """

    keep: int
    age_us: int
    grace_us: int


@dataclass(frozen=True)
class Expired:
    """How many snapshots and data files went."""

    snapshots: int = 0
    files: int = 0
    bytes: int = 0


class Expiry:
    """Remembers which manifests each snapshot uses, as snapshots never change: reading them anew costs 1 ms each."""

    def __init__(self, clock: Clock) -> None:
        """One for all tables of a process."""
        self._clock = clock
        self._paths: dict[str, frozenset[str]] = {}  # by manifest list

    def due(self, table: Table, retention: Retention) -> bool:
        """Whether there is something to expire."""
        now_us = self._clock.now_us()
        stale = _stale_branches(table.metadata, now_us)
        return bool(stale or _old(table.metadata, retention, now_us, stale))

    def expire(self, table: Table, retention: Retention) -> Expired:
        """Expire what `retention` does not keep, and branches whose age has come.

        Nothing where another commit came first: the next call will do. Other errors come through: the outcome is
        unknown, and nothing was deleted.
        """
        now_us = self._clock.now_us()
        before = table.metadata
        stale = _stale_branches(before, now_us)
        old = _old(before, retention, now_us, stale)
        if not old and not stale:
            return Expired()
        # 1. from the table
        try:
            _forget(table, old, stale)
        except CommitFailedException:
            return Expired()
        # 2. from the disk: data files, then what tells of them
        files = _unused_files(table, old, {entry.snapshot_id for entry in before.snapshot_log})
        for file in files:
            _delete(table.io, file.file_path)
        used = self._manifests(table.io, table.metadata.snapshots)
        for path in self._manifests(table.io, old) - used:
            _delete(table.io, path)
        for snapshot in old:
            _delete(table.io, snapshot.manifest_list)
            self._paths.pop(snapshot.manifest_list, None)
        return Expired(len(old), len(files), sum(file.file_size_in_bytes for file in files))

    def _manifests(self, io: FileIO, snapshots: Iterable[Snapshot]) -> set[str]:
        used: set[str] = set()
        for snapshot in snapshots:
            paths = self._paths.get(snapshot.manifest_list)
            if paths is None:
                paths = frozenset(manifest.manifest_path for manifest in snapshot.manifests(io))
                self._paths[snapshot.manifest_list] = paths
            used |= paths
        return used


def _unused_files(table: Table, old: Iterable[Snapshot], were_main: set[int]) -> list[DataFile]:
    """Data files that snapshots in `old` removed, or added without ever being main, and that no other one has."""
    gone: dict[str, DataFile] = {}
    for snapshot in old:
        main = snapshot.snapshot_id in were_main
        if main and not _removed(snapshot):
            continue
        for manifest in snapshot.manifests(table.io):
            if manifest.added_snapshot_id == snapshot.snapshot_id and (manifest.deleted_files_count or not main):
                gone.update(_own_files(table.io, manifest, snapshot.snapshot_id, added=not main))
    kept = {m.manifest_path: m for s in table.metadata.snapshots for m in s.manifests(table.io)} if gone else {}
    for manifest in kept.values():
        spec = table.specs()[manifest.partition_spec_id]
        keys = [file.partition for file in gone.values() if file.spec_id == spec.spec_id]
        if live_files(manifest) and may_hold(manifest, spec, table.schema(), keys):
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                gone.pop(entry.data_file.file_path, None)
    return list(gone.values())


def _stale_branches(metadata: TableMetadata, now_us: int) -> dict[str, int]:
    """Branches and tags that were given an age and have reached it, with their snapshots."""
    stale = {}
    for name, ref in metadata.refs.items():
        head = metadata.snapshot_by_id(ref.snapshot_id)
        if name != MAIN_BRANCH and ref.max_ref_age_ms is not None and head is not None:
            if head.timestamp_ms + ref.max_ref_age_ms < now_us // 1000:
                stale[name] = ref.snapshot_id
    return stale


def _old(metadata: TableMetadata, retention: Retention, now_us: int, stale: Iterable[str]) -> list[Snapshot]:
    heads = {ref.snapshot_id for name, ref in metadata.refs.items() if name not in set(stale)}
    were_main = {entry.snapshot_id for entry in metadata.snapshot_log}
    snapshots = sorted(metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)

    def goes(snapshot: Snapshot) -> bool:
        files = _removed(snapshot) or snapshot.snapshot_id not in were_main
        age_us = now_us - 1000 * snapshot.timestamp_ms
        return snapshot.snapshot_id not in heads and age_us >= max(retention.age_us, retention.grace_us if files else 0)

    return [snapshot for snapshot in snapshots[: -retention.keep] if goes(snapshot)]


def _removed(snapshot: Snapshot) -> bool:
    """Whether the snapshot removed data files."""
    return snapshot.summary is not None and int(snapshot.summary.get("deleted-data-files") or 0) > 0


def _own_files(io: FileIO, manifest: ManifestFile, snapshot_id: int, *, added: bool) -> dict[str, DataFile]:
    """The files that the snapshot removed, and those that it `added`."""
    wanted = (ManifestEntryStatus.DELETED, *([ManifestEntryStatus.ADDED] if added else []))
    return {
        entry.data_file.file_path: entry.data_file
        for entry in manifest.fetch_manifest_entry(io, discard_deleted=False)
        if entry.snapshot_id == snapshot_id and entry.status in wanted
    }


def _forget(table: Table, old: Iterable[Snapshot], stale: dict[str, int]) -> None:
    head = table.metadata.current_snapshot()
    standing = {MAIN_BRANCH: head.snapshot_id if head else None, **stale}
    updates: list[TableUpdate] = [RemoveSnapshotRefUpdate(ref_name=name) for name in stale]
    if gone := [snapshot.snapshot_id for snapshot in old]:
        updates.append(RemoveSnapshotsUpdate(snapshot_ids=gone))
    transaction = OneShot(table)
    asserted = tuple(AssertRefSnapshotId(ref=ref, snapshot_id=at) for ref, at in standing.items())
    transaction.add(tuple(updates), asserted)
    transaction.commit_transaction()


def _delete(io: FileIO, path: str) -> None:
    try:
        io.delete(path)
    except OSError as error:
        logger.warning("%s stays behind: %s", path, error)
