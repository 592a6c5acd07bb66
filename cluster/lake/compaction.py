"""Turns many small files into few large, sorted ones, beside the stream's commits. Called by `jobs.builtin.compact`.

Only files that were there at the beginning are replaced, so an append is never lost; the stream's progress is a
property of the table and is not touched. Bins are rewritten on all cores and committed in groups: what is done stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile

from eagleray.cluster.errors import CommitFailed
from eagleray.cluster.lake.bin_packing import bins, by_order
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.manifests import FILES_MAX, live_files
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.lake.scan import ScanPlan

COMMIT_BYTES = 4 << 30  # of files that one commit replaces: what a refused commit has done in vain
SORT_BYTES = 96 << 20  # of Arrow data in one sorted run, for each core
MANIFESTS_MIN = 8  # small manifests; fewer are not worth a commit of their own
ROUNDS_MAX = 3


@dataclass(frozen=True)
class Compacted:
    """What a compaction did to one table."""

    files_before: int = 0  # of those that were rewritten
    files_after: int = 0
    bytes: int = 0  # read
    refused: int = 0  # commits that another one made void
    snapshots: tuple[int, ...] = field(default=())


def compact(lake: Lake, table: str, target_bytes: int, threads: int) -> Compacted:
    """Rewrite what is worth it, until nothing is; raises CommitUnknown where an outcome could not be read back."""
    done = Compacted()
    for _ in range(ROUNDS_MAX):
        found = _round(lake, table, target_bytes, threads)
        done = Compacted(
            done.files_before + found.files_before,
            done.files_after + found.files_after,
            done.bytes + found.bytes,
            done.refused + found.refused,
            done.snapshots + found.snapshots,
        )
        if not found.refused:
            break
    _gather_manifests(lake, table)
    return done


def _round(lake: Lake, table: str, target_bytes: int, threads: int) -> Compacted:
    plan = lake.pin(table).plan()
    plans = plan.singly()
    loaded = lake.load(table)
    packed = bins(plan.data_files, target_bytes, by_order(loaded.schema(), loaded.sort_order()))
    before = after = size = refused = 0
    snapshots: list[int] = []
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="compact") as pool:
        for group in _groups(packed):
            removed = [file for one in group for file in one]
            rewritten = pool.map(lambda one: _rewrite(lake, table, plans, one), group)
            added = [file for files in rewritten for file in files]
            try:
                snapshots.append(lake.replace(table, Change(removed, added, compaction=True)))
            except CommitFailed:  # somebody else replaced one of the files: the next round looks again
                refused += 1
                continue
            before, after = before + len(removed), after + len(added)
            size += sum(file.file_size_in_bytes for file in removed)
    return Compacted(before, after, size, refused, tuple(snapshots))


def _groups(packed: Sequence[list[DataFile]]) -> Iterator[list[list[DataFile]]]:
    group: list[list[DataFile]] = []
    size = 0
    for one in packed:
        group.append(one)
        size += sum(file.file_size_in_bytes for file in one)
        if size >= COMMIT_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _rewrite(lake: Lake, table: str, plans: Mapping[str, ScanPlan], files: Sequence[DataFile]) -> list[DataFile]:
    same = files[0].spec_id == lake.load(table).spec().spec_id
    with lake.stream(table, SORT_BYTES, files[0].partition if same else None) as out:
        for rows in _rows([plans[file.file_path] for file in files], out.schema):
            out.write(rows)
        return out.finish()


def _rows(plans: Iterable[ScanPlan], schema: pa.Schema) -> Iterator[pa.Table | pa.RecordBatch]:
    """The rows of each plan's file: straight from Parquet where the file has the columns of now."""
    for own in plans:
        if own.plain:
            with own.stream(own.files[0]) as source, pq.ParquetFile(source, page_checksum_verification=True) as parquet:
                if parquet.schema_arrow.equals(schema, check_metadata=True):
                    for group in range(parquet.num_row_groups):
                        yield parquet.read_row_group(group, use_threads=False)
                    continue
        yield from own.batches(own.columns)


def _gather_manifests(lake: Lake, table: str) -> None:
    """Make few manifests of many small ones."""
    loaded = lake.load(table)
    head = loaded.current_snapshot()
    small = [m for m in head.manifests(loaded.io) if live_files(m) < FILES_MAX] if head else []
    if len(small) >= MANIFESTS_MIN:
        lake.replace(table, Change(compaction=True))
