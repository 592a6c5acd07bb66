"""Looks for what changed on the disk: every data file against its manifest, its own checksums and the event log.

Called by `eagleray doctor --deep` and `eagleray job run scrub`. Nothing is written. A local data file's name ends in
the checksum of its content (`durable_io`), so that any changed bit is found; files without one (of an object store, of
earlier versions, of other programs) are decoded as a whole, with the checksums of their pages where these have any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pyiceberg.io import InputFile
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.lake.damage import missing
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.predicate import Compare
from eagleray.cluster.lake.referred import data_files, described
from eagleray.cluster.log.protocol import EventLog, Kind

_NAMED = re.compile(r"-([0-9a-f]{16})\.parquet$")
_CHUNK = 4 << 20
_READ_BYTES = 32 << 20  # of the log at once


@dataclass(frozen=True)
class Scrubbed:
    """What was looked at, and what is wrong: a sentence for each file or record."""

    files: int
    bytes: int
    problems: tuple[str, ...]


def scrub_table(lake: Lake, name: str) -> Scrubbed:
    """Check every file of every kept snapshot of a table."""
    try:
        table = lake.load(name)
        list(described(table))
        found = {file.file_path: file for file, there in data_files(table) if there}
    except Exception as error:  # whatever parsers make of damaged bytes
        said = missing(error) if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        return Scrubbed(0, 0, (f"table {name}: its metadata or manifests cannot be read: {said}",))
    problems = [f"{path}: {problem}" for path, file in found.items() if (problem := _problem(table, file))]
    if problems:  # unless expired meanwhile
        still = {file.file_path for file, _ in data_files(lake.load(name))}
        problems = [problem for problem in problems if problem.partition(": ")[0] in still]
    return Scrubbed(len(found), sum(file.file_size_in_bytes for file in found.values()), tuple(problems))


def _problem(table: Table, file: DataFile) -> str | None:
    source = table.io.new_input(file.file_path)
    try:
        if (size := len(source)) != file.file_size_in_bytes:
            return f"it has {size} bytes, its manifest says {file.file_size_in_bytes}"
        if named := _NAMED.search(file.file_path):
            return None if _digest(source) == named[1] else "its content does not match the checksum in its name"
        rows = _decoded(source)
    except FileNotFoundError:
        return "it is missing"
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        return f"it cannot be read: {' '.join(str(error).split())}"
    if rows != file.record_count:
        return f"it has {rows} rows, its manifest says {file.record_count}"
    return None


def _digest(source: InputFile) -> str:
    digest = xxhash.xxh3_64()
    with source.open() as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _decoded(source: InputFile) -> int:
    """How many rows can be decoded, all columns of them."""
    with source.open() as stream, pq.ParquetFile(stream, page_checksum_verification=True) as parquet:
        return sum(parquet.read_row_group(group).num_rows for group in range(parquet.num_row_groups))


def scrub_log(log: EventLog, lake: Lake, stream: str) -> Scrubbed:
    """Check every record that the log holds of `stream`, and `events` against them: no row twice, none invented."""
    size = records = 0
    problems: list[str] = []
    for partition in range(log.partitions):
        rows: dict[int, int] = {}
        try:
            for offset, kind, count, length in _records(log, stream, partition):
                records, size = records + 1, size + length
                rows[offset] = count if kind == Kind.EVENTS else 0
        except EaglerayError as error:
            problems.append(str(error))
        if rows:
            problems += _against(lake, f"{stream}.events", partition, rows)
    return Scrubbed(records, size, tuple(problems))


def _records(log: EventLog, stream: str, partition: int) -> Iterator[tuple[int, Kind, int, int]]:
    at, end = log.bounds(stream, partition)
    while at < end:
        found = log.read(stream, partition, at, _READ_BYTES)
        if not found:
            return
        yield from ((one.offset, one.kind, one.rows, len(one.payload)) for one in found)
        at = found[-1].offset + 1


def _against(lake: Lake, table: str, partition: int, rows: Mapping[int, int]) -> Sequence[str]:
    """What `events` has of these records and they have not: rows (`_offset`, `_row`) beyond them, or twice."""
    if lake.find(table) is None:
        return []
    columns = ["_partition", "_offset", "_row"]
    plan = lake.pin(table).plan(Compare("_offset", ">=", min(rows)))
    if not plan.files:
        return []
    stored = pa.Table.from_batches(plan.batches(columns)).filter(
        (pc.field("_partition") == partition) & (pc.field("_offset") >= min(rows)) & (pc.field("_offset") <= max(rows))
    )
    counted = stored.group_by(["_offset", "_row"]).aggregate([([], "count_all")])
    twice = counted.filter(pc.field("count_all") > 1).num_rows
    known = pa.table({"_offset": pa.array(rows.keys(), pa.int64()), "rows": pa.array(rows.values(), pa.int64())})
    beyond = counted.join(known, "_offset").filter(pc.field("rows").is_null() | (pc.field("_row") >= pc.field("rows")))
    problems = [f"{table}: {twice} rows of log partition {partition} are there twice"] if twice else []
    return problems + (
        [f"{table}: {beyond.num_rows} rows name records of partition {partition} that the log does not hold so"]
        if beyond.num_rows
        else []
    )
