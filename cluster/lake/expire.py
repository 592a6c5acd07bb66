"""Forgets old snapshots and deletes the files that only they used. Called by the committer, by jobs, and as a job.

A file is deleted only if no kept snapshot has it. Data files that compaction or a job replaced stay for a while, for
readers that began before: the last snapshot that has them is kept so long. If the process dies between the commit and
the deletions, some files stay behind for `cluster.lake.orphans`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestEntry, ManifestEntryStatus, ManifestFile
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

from eagleray.cluster.clock import Clock
from eagleray.cluster.lake.commit_loop import OneShot
from eagleray.cluster.lake.manifests import live_files, may_hold

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """Which snapshots stay: the newest `keep`, those younger than `age_us`, heads of branches and tags.

    And for `grace_us` those whose data files were replaced, or that were a branch's and are nobody's now.
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
        files = self._unused_files(table, before, old)
        for file in files:
            _delete(table.io, file.file_path)
        used = self._manifests(table.io, table.metadata.snapshots)
        for path in self._manifests(table.io, old) - used:
            _delete(table.io, path)
        for snapshot in old:
            _delete(table.io, snapshot.manifest_list)
            self._paths.pop(snapshot.manifest_list, None)
        return Expired(len(old), len(files), sum(file.file_size_in_bytes for file in files))

    def _unused_files(self, table: Table, before: TableMetadata, old: Iterable[Snapshot]) -> list[DataFile]:
        """Data files of the snapshots in `old` that no other one has.

        A snapshot has the files of its child and those that the child removed, so that only these need a look. One
        without a child, once a branch's head, is compared as a whole.
        """
        io, kept = table.io, table.metadata.snapshots
        used = self._manifests(io, kept)
        gone: dict[str, DataFile] = {}
        for snapshot in old:
            children = _children(before, snapshot)
            if not children:
                own = [m for m in snapshot.manifests(io) if m.manifest_path not in used]
                gone.update(_files(io, own, lambda entry: entry.status != ManifestEntryStatus.DELETED))
            elif _removed(children[0]):
                child = children[0].snapshot_id
                own = [m for m in children[0].manifests(io) if m.added_snapshot_id == child and m.deleted_files_count]
                gone.update(_files(io, own, lambda entry: entry.status == ManifestEntryStatus.DELETED))
        manifests = {m.manifest_path: m for s in kept for m in s.manifests(io)} if gone else {}
        for manifest in manifests.values():
            spec = table.specs()[manifest.partition_spec_id]
            keys = [file.partition for file in gone.values() if file.spec_id == spec.spec_id]
            if live_files(manifest) and may_hold(manifest, spec, table.schema(), keys):
                for entry in manifest.fetch_manifest_entry(io, discard_deleted=True):
                    gone.pop(entry.data_file.file_path, None)
        return list(gone.values())

    def _manifests(self, io: FileIO, snapshots: Iterable[Snapshot]) -> set[str]:
        used: set[str] = set()
        for snapshot in snapshots:
            paths = self._paths.get(snapshot.manifest_list)
            if paths is None:
                paths = frozenset(manifest.manifest_path for manifest in snapshot.manifests(io))
                self._paths[snapshot.manifest_list] = paths
            used |= paths
        return used


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
    snapshots = sorted(metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)

    def age_us(snapshot: Snapshot) -> int:
        return now_us - 1000 * snapshot.timestamp_ms

    def goes(snapshot: Snapshot) -> bool:
        if snapshot.snapshot_id in heads or age_us(snapshot) < retention.age_us:
            return False
        children = _children(metadata, snapshot)
        replaced = [child for child in children if _removed(child)] if children else [snapshot]
        return all(age_us(one) >= retention.grace_us for one in replaced)

    return [snapshot for snapshot in snapshots[: -retention.keep] if goes(snapshot)]


def _children(metadata: TableMetadata, snapshot: Snapshot) -> list[Snapshot]:
    """The snapshots made from this one, first that which main came through."""
    were_main = {entry.snapshot_id for entry in metadata.snapshot_log}
    children = [child for child in metadata.snapshots if child.parent_snapshot_id == snapshot.snapshot_id]
    return sorted(children, key=lambda child: child.snapshot_id not in were_main)


def _removed(snapshot: Snapshot) -> bool:
    """Whether the snapshot removed data files."""
    return snapshot.summary is not None and int(snapshot.summary.get("deleted-data-files") or 0) > 0


def _files(
    io: FileIO, manifests: Iterable[ManifestFile], wanted: Callable[[ManifestEntry], bool]
) -> dict[str, DataFile]:
    """The files of the entries that are `wanted`, by path."""
    entries = (entry for manifest in manifests for entry in manifest.fetch_manifest_entry(io, discard_deleted=False))
    return {entry.data_file.file_path: entry.data_file for entry in entries if wanted(entry)}


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
