"""The one primitive for every change that removes files: compaction, the results of jobs, forgetting a person.

`replace` swaps files of a table for others in one snapshot. It is exact beside the stream's appends: what others added
meanwhile stays, what they removed is noticed. `forward` makes main what a branch is, `keep` gives a branch's snapshot
another name. Each is recognised by a mark when it is looked for again, and deletes nothing where it fails.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    RemoveSnapshotRefUpdate,
    SetCurrentSchemaUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)

from eagleray.cluster.clock import Clock
from eagleray.cluster.errors import CommitFailed
from eagleray.cluster.lake.alteration import Retyping, altered, check_columns
from eagleray.cluster.lake.commit_loop import OVERTAKEN_MAX, OneShot, settle
from eagleray.cluster.lake.progress import PROPERTY
from eagleray.cluster.lake.rewrite import Rewrite
from eagleray.cluster.lake.staged_files import check_staged

LakeFile = DataFile
"""A data file with its partition and statistics, for those who may not import pyiceberg."""

MARK = "eagleray.commit"
"""Key in the summary of a snapshot: drawn for one change, whatever number of attempts it takes."""

RETYPED = "eagleray.retyped"
"""Key in the summary of a snapshot whose columns have other types than the table had."""

BRANCH_AGE_MS = 86_400_000  # expiry drops a branch a day after its last commit: whoever staged there was killed


@dataclass(frozen=True)
class Change:
    """Files that go and files that come. `summary` goes into the snapshot, `properties` become the table's.

    `exclusive`: refused if rows of the table changed since the snapshot `base`; compactions do not matter.
    `compaction`: the rows are the same before and after. `branch`: stage there, from main's head; main stays.
    `retyping`: the columns of `added`, and the table's from then on, or from when the branch becomes main; with all
    files `removed`.
    """

    removed: Sequence[DataFile] = ()
    added: Sequence[DataFile] = ()
    summary: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    branch: str | None = None
    base: int | None = None
    exclusive: bool = False
    compaction: bool = False
    retyping: Retyping | None = None


def replace(load: Callable[[], Table], change: Change, clock: Clock) -> int:
    """Commit `change` once; returns the snapshot's id. `load` returns the table fresh from the catalog.

    Raises FilesLost where a file that comes is gone or waited too long (`staged_files`), CommitFailed where a file that
    goes is no longer there, the table moved on (`exclusive`) or others kept overtaking: plan again. CommitUnknown where
    the outcome could not be read back.
    """
    if change.branch and change.properties:
        raise ValueError("a branch has no properties of its own: set them when main moves (`forward`)")
    mark = uuid.uuid4().hex
    summary = {**change.summary, MARK: mark} | ({RETYPED: "true"} if change.retyping else {})

    def look(table: Table) -> int | None:
        return next((s.snapshot_id for s in table.metadata.snapshots if _said(s, MARK) == mark), None)

    def act(table: Table) -> int:
        if change.exclusive and not unmoved(table.metadata, change.base):
            raise CommitFailed(f"{'.'.join(table.name())} moved on from snapshot {change.base}: plan again")
        updates: tuple[TableUpdate, ...] = ()
        requirements: tuple[TableRequirement, ...] = ()
        if change.retyping is not None:
            table, updates, requirements = altered(table, change.retyping, current=change.branch is None)
        if stale := {file.spec_id for file in change.added} - {table.spec().spec_id}:
            raise CommitFailed(f"files are partitioned by spec {stale}, the table by {table.spec().spec_id}")
        check_staged(table, change.added, clock.now_us())
        check_columns(table, change.added)
        transaction = OneShot(table)
        transaction.add(updates, requirements)
        progress = {PROPERTY: table.properties[PROPERTY]} if PROPERTY in table.properties else {}
        rewrite = Rewrite(
            transaction,
            change.removed,
            change.added,
            {**summary, **progress},
            change.branch or MAIN_BRANCH,
            compaction=change.compaction,
            branch_age_ms=BRANCH_AGE_MS if change.branch else None,
        )
        rewrite.commit()
        if change.properties:
            transaction.set_properties(dict(change.properties))
        transaction.commit_transaction()
        return rewrite.snapshot_id

    return settle(load, look, act, OVERTAKEN_MAX)


def forward(load: Callable[[], Table], branch: str, properties: Mapping[str, str]) -> int:
    """Make main what `branch` is, set `properties` and drop the branch, in one commit; returns the snapshot's id.

    Raises CommitFailed where main is no longer the parent of the branch's snapshot.
    """
    staged: list[int] = []  # found at the first look, for afterwards the branch is gone

    def look(table: Table) -> int | None:
        if not staged:
            if branch not in table.metadata.refs:
                raise CommitFailed(f"{'.'.join(table.name())} has no branch {branch}")
            staged.append(table.metadata.refs[branch].snapshot_id)
        return staged[0] if any(s.snapshot_id == staged[0] for s in main_line(table.metadata)) else None

    def act(table: Table) -> int:
        snapshot = table.metadata.snapshot_by_id(staged[0])
        head = _head(table.metadata)
        if snapshot is None or branch not in table.metadata.refs or snapshot.parent_snapshot_id != head:
            raise CommitFailed(f"{'.'.join(table.name())} moved on since {branch} was staged: stage again")
        updates: list[TableUpdate] = [
            _branch(MAIN_BRANCH, staged[0], None),
            RemoveSnapshotRefUpdate(ref_name=branch),
        ]
        if properties:
            updates.append(SetPropertiesUpdate(updates=dict(properties)))
        if _said(snapshot, RETYPED) and snapshot.schema_id is not None:
            updates.append(SetCurrentSchemaUpdate(schema_id=snapshot.schema_id))
        _commit(table, updates, {MAIN_BRANCH: head, branch: staged[0]})
        return staged[0]

    return settle(load, look, act, OVERTAKEN_MAX)


def keep(load: Callable[[], Table], branch: str, name: str, age_ms: int) -> int:
    """Call the snapshot of `branch` `name` instead, for `age_ms`, whatever had that name; returns its id."""
    staged: list[int] = []

    def look(table: Table) -> int | None:
        ref, kept = table.metadata.refs.get(branch), table.metadata.refs.get(name)
        if ref:
            staged[:] = [ref.snapshot_id]
            return None
        return staged[0] if staged and kept and kept.snapshot_id == staged[0] else None

    def act(table: Table) -> int:
        if branch not in table.metadata.refs:
            raise CommitFailed(f"{'.'.join(table.name())} has no branch {branch}")
        kept = table.metadata.refs.get(name)
        updates: list[TableUpdate] = [_branch(name, staged[0], age_ms), RemoveSnapshotRefUpdate(ref_name=branch)]
        _commit(table, updates, {branch: staged[0], name: kept.snapshot_id if kept else None})
        return staged[0]

    return settle(load, look, act, OVERTAKEN_MAX)


def drop(load: Callable[[], Table], branch: str) -> None:
    """Forget `branch`, if there is one; its snapshot goes with the next expiry."""

    def look(table: Table) -> bool | None:
        return True if branch not in table.metadata.refs else None

    def act(table: Table) -> bool:
        ref = table.metadata.refs[branch]
        _commit(table, [RemoveSnapshotRefUpdate(ref_name=branch)], {branch: ref.snapshot_id})
        return True

    settle(load, look, act, OVERTAKEN_MAX)


def main_line(metadata: TableMetadata) -> list[Snapshot]:
    """The snapshots that main came through, newest first, as far as they are kept."""
    line = []
    snapshot = metadata.current_snapshot()
    while snapshot is not None:
        line.append(snapshot)
        parent = snapshot.parent_snapshot_id
        snapshot = metadata.snapshot_by_id(parent) if parent is not None else None
    return line


def unmoved(metadata: TableMetadata, base: int | None) -> bool:
    """Whether main has the same rows as at the snapshot `base` (None: before the first)."""
    for snapshot in main_line(metadata):
        if snapshot.snapshot_id == base:
            return True
        if snapshot.summary is None or snapshot.summary.operation != Operation.REPLACE:
            return False
    return base is None and metadata.current_snapshot() is None


def _branch(name: str, snapshot_id: int, age_ms: int | None) -> SetSnapshotRefUpdate:
    return SetSnapshotRefUpdate(
        ref_name=name,
        type=SnapshotRefType.BRANCH,
        snapshot_id=snapshot_id,
        max_ref_age_ms=age_ms,
        max_snapshot_age_ms=None,
        min_snapshots_to_keep=None,
    )


def _head(metadata: TableMetadata) -> int | None:
    head = metadata.current_snapshot()
    return head.snapshot_id if head else None


def _said(snapshot: Snapshot, key: str) -> str | None:
    return snapshot.summary.additional_properties.get(key) if snapshot.summary else None


def _commit(table: Table, updates: Sequence[TableUpdate], standing: Mapping[str, int | None]) -> None:
    """Commit `updates` if the branches still are where `standing` says."""
    transaction = OneShot(table)
    asserted = tuple(AssertRefSnapshotId(ref=ref, snapshot_id=at) for ref, at in standing.items())
    transaction.add(tuple(updates), asserted)
    transaction.commit_transaction()
