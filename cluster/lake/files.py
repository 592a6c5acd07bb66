"""Writes rows into Parquet files of a table, before anything is committed. Called through `Lake.write` in any process.

Files lie below `<table>/data` and are named `<writer>-<number>.parquet`, where `<writer>` is drawn once per process. A
file that no snapshot names and that is older than any commit can take belongs to a writer that was killed: a clean-up
can tell it by these two facts and delete it. Nothing here ever deletes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from cluster.lake.partition import split
from cluster.lake.shape import file_schema, shape

ROW_GROUP_ROWS = 131_072  # what a scan skips by statistics, and hands to one thread
ROW_GROUP_BYTES = 32 << 20  # of Arrow data: bounds the writer's memory where events are large
_PATH_PART_MAX = 120  # a file name may have 255 bytes, and partition values come from events


class FileWriter:
    """Writes files for one table. Safe to use from several threads."""

    def __init__(self, table: Table, file_bytes_max: int, writer: str, numbers: Iterator[int]) -> None:
        """`writer` and `numbers` make file names unique."""
        self._table = table
        self._schema = sanitize_column_names(table.schema())
        self._arrow = file_schema(self._schema)
        self._ids = parquet_path_to_id_mapping(self._schema)
        self._plan = compute_statistics_plan(self._schema, table.properties)
        self._options = _parquet_options(self._arrow, list(self._ids), table.properties)
        self._file_bytes_max = file_bytes_max
        self._writer = writer
        self._numbers = numbers

    def write(self, rows: pa.Table) -> list[DataFile]:
        """Sorted files, one or more per partition, each at most about file_bytes_max; durable on return."""
        if not rows.num_rows:
            return []
        shaped = shape(rows, self._arrow)
        parts = split(shaped, self._schema, self._table.spec(), self._table.sort_order())
        return [file for part in parts for file in self._write_part(part.key, part.rows)]

    def _write_part(self, key: Record, rows: pa.Table) -> Iterator[DataFile]:
        groups = iter(_row_groups(rows, min(ROW_GROUP_BYTES, self._file_bytes_max)))
        for first in groups:
            yield self._write_file(key, itertools.chain([first], groups))

    def _write_file(self, key: Record, groups: Iterator[pa.Table]) -> DataFile:
        """Take row groups until the file is large enough."""
        location = self._location(key)
        with self._table.io.new_output(location).create() as stream:
            with pq.ParquetWriter(stream, self._arrow, **self._options) as parquet:
                for group in groups:
                    parquet.write_table(group, row_group_size=ROW_GROUP_ROWS)
                    if stream.tell() >= self._file_bytes_max:
                        break
            size = stream.tell()
        if len(self._table.io.new_input(location)) != size:
            raise OSError(f"{location} is shorter than the {size} bytes written")
        return self._data_file(location, size, key, parquet.writer.metadata)

    def _location(self, key: Record) -> str:
        name = f"{self._writer}-{next(self._numbers):08d}.parquet"
        spec = self._table.spec()
        if spec.fields:
            path = spec.partition_to_path(key, self._schema)
            name = "/".join([*(_shortened(part) for part in path.split("/")), name])
        return self._table.location_provider().new_data_location(name)

    def _data_file(self, location: str, size: int, key: Record, metadata: pq.FileMetaData) -> DataFile:
        statistics = data_file_statistics_from_parquet_metadata(metadata, self._plan, self._ids)
        file = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=location,
            file_format=FileFormat.PARQUET,
            partition=key,
            file_size_in_bytes=size,
            **statistics.to_serialized_dict(),
        )
        file.spec_id = self._table.spec().spec_id
        return file


def _row_groups(rows: pa.Table, bytes_max: int) -> Iterator[pa.Table]:
    count = max(1, min(ROW_GROUP_ROWS, bytes_max * rows.num_rows // max(1, rows.nbytes)))
    return (rows.slice(start, count) for start in range(0, rows.num_rows, count))


def _shortened(part: str) -> str:
    return part if len(part) <= _PATH_PART_MAX else f"{part[:80]}-{xxhash.xxh3_64_hexdigest(part.encode())}"


def _parquet_options(schema: pa.Schema, paths: list[str], properties: dict[str, str]) -> dict[str, Any]:
    """Numbers that mostly grow (times, offsets) are stored as differences: a fifth less time than dictionaries."""
    deltas = [f.name for f in schema if pa.types.is_timestamp(f.type) or pa.types.is_integer(f.type)]
    return {
        "compression": properties.get("write.parquet.compression-codec", "zstd"),
        "compression_level": int(properties.get("write.parquet.compression-level", "1")),
        "use_dictionary": [path for path in paths if path not in deltas],
        "column_encoding": dict.fromkeys(deltas, "DELTA_BINARY_PACKED"),
    }
