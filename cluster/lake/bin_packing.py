"""Which small files are rewritten together: bins of one partition, about as large as a file should be. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import SortOrder
from pyiceberg.types import PrimitiveType

from eagleray.cluster.lake.parquet_stream import values

FULL = 0.75  # of the target: a file this large is left alone, or the same rows would be rewritten at each compaction
FILES_MIN = 5  # fewer files that do not fill one are left for later


def bins(files: Iterable[DataFile], target_bytes: int, place: Callable[[DataFile], Any]) -> list[list[DataFile]]:
    """Groups of files to rewrite, each within one partition and in order of `place`."""
    by_partition: defaultdict[tuple[Any, ...], list[DataFile]] = defaultdict(list)
    for file in files:
        if file.file_size_in_bytes < FULL * target_bytes:
            by_partition[file.spec_id, values(file.partition)].append(file)
    found = []
    for small in by_partition.values():
        found += [one for one in _filled(sorted(small, key=place), target_bytes) if _worthwhile(one, target_bytes)]
    return found


def _filled(files: Sequence[DataFile], target_bytes: int) -> list[list[DataFile]]:
    packed: list[list[DataFile]] = [[]]
    size = 0
    for file in files:
        if packed[-1] and size + file.file_size_in_bytes > target_bytes:
            packed.append([])
            size = 0
        packed[-1].append(file)
        size += file.file_size_in_bytes
    return packed


def _worthwhile(files: Sequence[DataFile], target_bytes: int) -> bool:
    filled = sum(file.file_size_in_bytes for file in files) >= FULL * target_bytes
    return len(files) > 1 and (filled or len(files) >= FILES_MIN)


def by_order(schema: Schema, order: SortOrder) -> Callable[[DataFile], Any]:
    """Where a file lies in the table's sort order: by the least value of the first column; else by its name."""
    field_id = order.fields[0].source_id if order.fields else -1
    kind = schema.find_field(field_id).field_type if order.fields else None
    if not isinstance(kind, PrimitiveType):
        return lambda file: file.file_path

    def place(file: DataFile) -> Any:
        bound = (file.lower_bounds or {}).get(field_id)
        return (1, 0, file.file_path) if bound is None else (0, from_bytes(kind, bound), file.file_path)

    return place
