"""Commits data files and progress in one snapshot, exactly once. The only place that appends to a stream's table.

The progress is the marker: a batch covers [begins, ends), and it is accepted only where the table stands at `begins`.
The catalog compares and swaps, so of two committers that both saw `begins` one is refused, looks again and finds itself
overtaken. An error other than a refusal says nothing about the outcome: the table is read back, and tells.

Files that are gone, or old enough to be taken for orphans, are never added (`staged_files`).
Nothing is deleted here, neither data files nor the manifests of a failed attempt: what was left over is an orphan for a
clean-up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from eagleray.cluster.clock import Clock
from eagleray.cluster.errors import CommitFailed
from eagleray.cluster.lake.alteration import check_columns
from eagleray.cluster.lake.commit_loop import OneShot, settle
from eagleray.cluster.lake.manifests import TieredAppend
from eagleray.cluster.lake.progress import MARKS, PROPERTY, check_step, decode, encode, standing
from eagleray.cluster.lake.staged_files import check_staged


@dataclass(frozen=True)
class Beside:
    """What else a commit says of the log it has read: marks by partition, and properties of the table."""

    marks: Mapping[str, int] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)


NOTHING = Beside()


def commit(
    load: Callable[[], Table],
    files: Sequence[DataFile],
    begins: Mapping[str, int],
    ends: Mapping[str, int],
    clock: Clock,
    beside: Beside = NOTHING,
) -> bool:
    """Append `files` and move progress from `begins` to `ends`, once; True: in the table, now or since before.

    `load` returns the table fresh from the catalog. No files: a snapshot that adds nothing carries the progress, for
    records that held no rows; rarely, or snapshots pile up. Raises FilesLost where a file is gone or waited too long,
    CommitFailed where the table stands elsewhere or others kept overtaking; CommitUnknown where the outcome could not
    be read back; ValueError for no step forward.
    """
    check_step(begins, ends)

    def append(table: Table) -> bool:
        check_spec(table, files)
        check_staged(table, files, clock.now_us())
        check_columns(table, files)
        _append(table, files, ends, beside)
        return True

    return settle(load, lambda table: _landed(table, begins, ends) or None, append)


def _landed(table: Table, begins: Mapping[str, int], ends: Mapping[str, int]) -> bool:
    """Whether the table stands at `ends`; raises CommitFailed unless it then stands at `begins`."""
    at = standing(decode(table.properties), begins)
    if at == dict(ends):
        return True
    if at != dict(begins):
        raise CommitFailed(f"{'.'.join(table.name())} is at {at}, the batch begins at {dict(begins)}")
    return False


def check_spec(table: Table, files: Sequence[DataFile]) -> None:
    """Raise CommitFailed where the table is not partitioned as `files` are."""
    if stale := {file.spec_id for file in files} - {table.spec().spec_id}:
        raise CommitFailed(f"files are partitioned by spec {stale}, the table by {table.spec().spec_id}")


def _append(table: Table, files: Sequence[DataFile], ends: Mapping[str, int], beside: Beside) -> None:
    progress = {PROPERTY: encode({**decode(table.properties), **ends})}
    transaction = OneShot(table)
    with TieredAppend(transaction, progress) as snapshot:
        for file in files:
            snapshot.append_data_file(file)
    marks = {MARKS: encode({**decode(table.properties, MARKS), **beside.marks})} if beside.marks else {}
    transaction.set_properties({**progress, **marks, **beside.properties})
    transaction.commit_transaction()
