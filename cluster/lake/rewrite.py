"""Builds the snapshot of a change: which manifests stay, which are rewritten without the files that go, which merge.

Used by `cluster.lake.replace` alone. Only manifests whose partitions can hold a file that goes are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from pyiceberg.manifest import (
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriter,
    write_manifest,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.table import Transaction
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Operation, Summary
from pyiceberg.table.update import AssertRefSnapshotId, SetSnapshotRefUpdate, UpdatesAndRequirements
from pyiceberg.table.update.snapshot import _ManifestMergeManager, _SnapshotProducer

from eagleray.cluster.errors import CommitFailed
from eagleray.cluster.lake.manifests import FILES_MAX, live_files, may_hold, schema_for, tiers


class Rewrite(_SnapshotProducer["Rewrite"]):
    """A snapshot on `branch`, made of main's files without `removed` and with `added`."""

    def __init__(
        self,
        transaction: Transaction,
        removed: Sequence[DataFile],
        added: Sequence[DataFile],
        summary: dict[str, str],
        branch: str,
        *,
        compaction: bool,
        branch_age_ms: int | None = None,
    ) -> None:
        """`compaction`: the rows stay the same. `branch_age_ms`: when expiry may drop the branch; None: never."""
        operation = Operation.APPEND if not removed else Operation.OVERWRITE if added else Operation.DELETE
        super().__init__(operation, transaction, transaction._table.io, snapshot_properties=summary, branch=branch)
        head = transaction.table_metadata.current_snapshot()
        self._parent_snapshot_id = head.snapshot_id if head else None
        self._removed = {file.file_path: file for file in removed}
        self._compaction = compaction
        self._branch_age_ms = branch_age_ms
        self._kept: list[ManifestFile] = []
        for file in removed:
            self.delete_data_file(file)
        for file in added:
            self.append_data_file(file)

    def _build_delete_files_partition_predicate(self) -> None:
        """Not needed: `may_hold` compares partitions, also those with nulls in them."""

    def _deleted_entries(self) -> list[ManifestEntry]:
        head = self._transaction.table_metadata.current_snapshot()
        manifests = head.manifests(self._io) if head else []
        gone: list[ManifestEntry] = []
        stay: list[ManifestEntry] = []
        for manifest in manifests:
            if live_files(manifest) == 0:
                continue
            entries = self._entries(manifest)
            mine = [entry for entry in entries if entry.data_file.file_path in self._removed]
            if not mine:
                self._kept.append(manifest)
                continue
            gone += mine
            stay += [entry for entry in entries if entry.data_file.file_path not in self._removed]
        if missing := self._removed.keys() - {entry.data_file.file_path for entry in gone}:
            raise CommitFailed(f"{len(missing)} of {len(self._removed)} files are in the table no longer: plan again")
        self._kept += self._written(stay)
        return [_with_status(entry, ManifestEntryStatus.DELETED, self._snapshot_id) for entry in gone]

    def _entries(self, manifest: ManifestFile) -> list[ManifestEntry]:
        """The live entries of a manifest that may hold a file that goes; none where it cannot."""
        if manifest.content != ManifestContent.DATA:
            return []
        spec = self.spec(manifest.partition_spec_id)
        keys = [file.partition for file in self._removed.values() if file.spec_id == spec.spec_id]
        if not may_hold(manifest, spec, schema_for(self._transaction.table_metadata, spec), keys):
            return []
        return manifest.fetch_manifest_entry(self._io, discard_deleted=True)

    def _written(self, entries: Iterable[ManifestEntry]) -> list[ManifestFile]:
        by_spec: defaultdict[int, list[ManifestEntry]] = defaultdict(list)
        for entry in entries:
            by_spec[entry.data_file.spec_id].append(entry)
        manifests = []
        for spec_id, all_of_spec in by_spec.items():
            for start in range(0, len(all_of_spec), FILES_MAX):
                with self.new_manifest_writer(self.spec(spec_id)) as writer:
                    for entry in all_of_spec[start : start + FILES_MAX]:
                        writer.add_entry(_with_status(entry, ManifestEntryStatus.EXISTING, entry.snapshot_id))
                manifests.append(writer.to_manifest_file())
        return manifests

    def new_manifest_writer(self, spec: PartitionSpec) -> ManifestWriter:
        """As the base class, but with columns that have what `spec` partitions by."""
        metadata = self._transaction.table_metadata
        return write_manifest(
            format_version=metadata.format_version,
            spec=spec,
            schema=schema_for(metadata, spec),
            output_file=self.new_manifest_output(),
            snapshot_id=self._snapshot_id,
            avro_compression=self._compression,
        )

    def _existing_manifests(self) -> list[ManifestFile]:
        return self._kept

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        own = [manifest for manifest in manifests if manifest.added_snapshot_id == self._snapshot_id]
        others = [manifest for manifest in manifests if manifest not in own]
        full, rest = _gathered(others) if self._compaction else tiers(others)
        merge = _ManifestMergeManager(0, 0, True, self)._create_manifest
        return [*own, *(merge(group[0].partition_spec_id, group) for group in full.values()), *rest]

    def _summary(self, snapshot_properties: Any = None) -> Summary:
        summary = super()._summary(snapshot_properties or {})
        if self._compaction:
            # pyiceberg computes no summary for the operation of the specification.
            return Summary(Operation.REPLACE, **summary.additional_properties)
        return summary

    def _commit(self) -> UpdatesAndRequirements:
        updates, requirements = super()._commit()
        if self._target_branch != MAIN_BRANCH:  # or expiry could delete a manifest between a look at main and this
            requirements += (AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=self._parent_snapshot_id),)
        if self._branch_age_ms is not None:
            age = {"max_ref_age_ms": self._branch_age_ms}
            updates = tuple(u.model_copy(update=age) if isinstance(u, SetSnapshotRefUpdate) else u for u in updates)
        return updates, requirements


def _with_status(entry: ManifestEntry, status: ManifestEntryStatus, snapshot_id: int | None) -> ManifestEntry:
    return ManifestEntry.from_args(
        status=status,
        snapshot_id=snapshot_id,
        sequence_number=entry.sequence_number,
        file_sequence_number=entry.file_sequence_number,
        data_file=entry.data_file,
    )


def _gathered(manifests: Iterable[ManifestFile]) -> tuple[dict[int, list[ManifestFile]], list[ManifestFile]]:
    """Groups of small manifests of one partition spec, about FILES_MAX files each, and those that stay as they are."""
    groups: dict[int, list[ManifestFile]] = {}
    rest = []
    filling: dict[int, int] = {}  # group by spec
    for manifest in sorted(manifests, key=lambda manifest: manifest.sequence_number):
        if manifest.content != ManifestContent.DATA or live_files(manifest) >= FILES_MAX:
            rest.append(manifest)
            continue
        spec = manifest.partition_spec_id
        if sum(map(live_files, groups.get(filling.get(spec, -1), []))) + live_files(manifest) > FILES_MAX:
            filling.pop(spec, None)
        groups.setdefault(filling.setdefault(spec, len(groups)), []).append(manifest)
    rest += [group[0] for group in groups.values() if len(group) == 1]
    return {number: group for number, group in groups.items() if len(group) > 1}, rest
