"""Keeps a table's list of manifests short at a price per commit that does not grow: merging by tiers.

Each commit adds a manifest of one or a few files. pyiceberg's own merging rewrites the newest large manifest every few
commits, at about 0.2 ms per file in it. Here MERGE_COUNT small manifests become one of the next tier, so a
file's entry is rewritten twice in its life: after 32 commits and after 1,024.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles, _ManifestMergeManager
from pyiceberg.types import PrimitiveType

MERGE_COUNT = 32
FILES_MAX = MERGE_COUNT**2  # a manifest with this many files is left alone: 32 of them would hold a commit for seconds

Tier = tuple[int, int]
"""(partition spec, 0 for manifests below MERGE_COUNT files and 1 for larger ones)."""


class TieredAppend(_FastAppendFiles):
    """An append that merges manifests by tiers as it goes."""

    def __init__(self, transaction: Transaction, summary: dict[str, str]) -> None:
        """`summary`: further properties of the snapshot."""
        super().__init__(Operation.APPEND, transaction, transaction._table.io, snapshot_properties=summary)

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        merge = _ManifestMergeManager(0, 0, True, self)._create_manifest
        # This commit's own manifest is left for a later one: merged away at once, its file would belong to no snapshot.
        own = [manifest for manifest in manifests if manifest.added_snapshot_id == self._snapshot_id]
        full, rest = tiers(manifest for manifest in manifests if manifest not in own)
        return [*own, *(merge(spec, group) for (spec, _), group in full.items()), *rest]


def tiers(manifests: Iterable[ManifestFile]) -> tuple[dict[Tier, list[ManifestFile]], list[ManifestFile]]:
    """Groups to be merged, each into one manifest, and those that stay as they are."""
    groups: defaultdict[Tier, list[ManifestFile]] = defaultdict(list)
    rest = []
    for manifest in manifests:
        files = live_files(manifest)
        if manifest.content == ManifestContent.DATA and files < FILES_MAX:
            groups[manifest.partition_spec_id, int(files >= MERGE_COUNT)].append(manifest)
        else:
            rest.append(manifest)
    full = {tier: group for tier, group in groups.items() if len(group) >= MERGE_COUNT}
    rest += [manifest for tier, group in groups.items() if tier not in full for manifest in group]
    return full, rest


def live_files(manifest: ManifestFile) -> int:
    """How many files of the manifest belong to the table."""
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)


def schema_for(metadata: TableMetadata, spec: PartitionSpec) -> Schema:
    """The newest columns that have all that `spec` partitions by: one of them may have another type since."""
    sources = {field.source_id for field in spec.fields}
    newest = sorted(metadata.schemas, key=lambda schema: schema.schema_id, reverse=True)
    return next((s for s in (metadata.schema(), *newest) if sources <= s.field_ids), metadata.schema())


def may_hold(manifest: ManifestFile, spec: PartitionSpec, schema: Schema, keys: Collection[Any]) -> bool:
    """Whether the partition ranges of `manifest` leave room for one of the partitions `keys`."""
    if not keys:
        return False
    if not spec.fields or manifest.partitions is None:
        return True
    types = spec.partition_type(schema).fields
    for index, (field, summary) in enumerate(zip(types, manifest.partitions, strict=True)):
        values = [key[index] for key in keys]
        known = [value for value in values if value is not None]
        if len(known) < len(values) and summary.contains_null:
            continue
        if not known or summary.lower_bound is None or summary.upper_bound is None:
            return False
        assert isinstance(field.field_type, PrimitiveType)  # a partition value is
        low, high = (from_bytes(field.field_type, bound) for bound in (summary.lower_bound, summary.upper_bound))
        if max(known) < low or min(known) > high:
            return False
    return True
