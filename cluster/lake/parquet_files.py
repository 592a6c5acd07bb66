"""Writes rows into Parquet files of a table, before anything is committed. Called through `Lake.write` in any process.

Files lie below `<table>/data` and are named `<writer>-<number>.parquet`, where `<writer>` is drawn once per process; on
a local disk the name ends in a checksum of the content, and every page carries its own (`cluster.lake.scrub`). A
file that no snapshot names and that is older than any commit can take belongs to a writer that was killed: a clean-up
can tell it by these two facts and delete it. Nothing here ever deletes.

A floating-point column that holds NaN has no least and greatest value in its file, neither in Parquet nor in Iceberg:
Parquet leaves NaN out of both, so a reader that goes by them concludes that there is none. Iceberg's count of NaN says
where there is none for certain (`cluster.lake.nan_columns`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pyiceberg.io.pyarrow import (
    MetricModeTypes,
    MetricsMode,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table import Table
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.typedef import Record

from eagleray.cluster.lake.durable_io import SyncedFile
from eagleray.cluster.lake.file_schema import file_schema, shape
from eagleray.cluster.lake.nan_columns import FloatColumn, count_nan, count_null, float_columns
from eagleray.cluster.lake.partitioning import Part, split

ROW_GROUP_ROWS = 131_072  # what a scan skips by statistics, and hands to one thread
ROW_GROUP_BYTES = 32 << 20  # of Arrow data: bounds the writer's memory where events are large
_SAMPLE_ROWS = 2048
_PATH_PART_MAX = 120  # a file name may have 255 bytes, and partition values come from events


class FileWriter:
    """Writes files for one table. Safe to use from several threads."""

    def __init__(self, table: Table, file_bytes_max: int, writer: str, numbers: Iterator[int]) -> None:
        """`writer` and `numbers` make file names unique."""
        self.table = table
        self._schema = sanitize_column_names(table.schema())
        self.arrow = file_schema(self._schema)
        self._ids = parquet_path_to_id_mapping(self._schema)
        self._plan = compute_statistics_plan(self._schema, table.properties)
        self.floats = float_columns(self.arrow)
        self.paths = tuple(self._ids)
        self.options = _parquet_options(self.arrow, list(self._ids), table.properties)
        self.file_bytes_max = file_bytes_max
        self._writer = writer
        self._numbers = numbers

    def write(self, rows: pa.Table) -> list[DataFile]:
        """Sorted files, one or more per partition, each at most about file_bytes_max; durable on return."""
        if not rows.num_rows:
            return []
        return [file for part in self.split(self.shape(rows)) for file in self._write_part(part)]

    def shape(self, rows: pa.Table) -> pa.Table:
        """`rows` as files have them; raises ValueError for columns that do not fit."""
        return shape(rows, self.arrow)

    def split(self, shaped: pa.Table, *, ordered: bool = True) -> Iterator[Part]:
        """The rows of each partition, in the table's sort order where `ordered`."""
        order = self.table.sort_order() if ordered else UNSORTED_SORT_ORDER
        return split(shaped, self._schema, self.table.spec(), order)

    def groups(self, part: Part) -> Iterator[pa.Table]:
        """The rows of `part` in pieces for one row group each."""
        return part.groups(ROW_GROUP_ROWS, min(ROW_GROUP_BYTES, self.file_bytes_max))

    def _write_part(self, part: Part) -> Iterator[DataFile]:
        file: OpenFile | None = None
        measured = True
        try:
            for group in self.groups(part):
                if file and not file.takes(group):
                    measured = False
                    yield file.close()
                    file = None
                file = file or self.open(part.key, measured)
                file.write(group)
                if file.size >= self.file_bytes_max:
                    yield file.close()
                    file = None
            if file:
                yield file.close()
        except OSError:
            if file:
                file.abandon()
            raise

    def open(self, key: Record, measured: bool = True) -> OpenFile:
        """A new file of the partition `key`; without `measured`, NaN may come in any floating-point column."""
        return OpenFile(self, self._location(key), key, measured)

    def _location(self, key: Record) -> str:
        name = f"{self._writer}-{next(self._numbers):08d}.parquet"
        spec = self.table.spec()
        if spec.fields:
            path = spec.partition_to_path(key, self._schema)
            name = "/".join([*(_shortened(part) for part in path.split("/")), name])
        return self.table.location_provider().new_data_location(name)

    def describe(self, location: str, size: int, key: Record, metadata: pq.FileMetaData, counts: Counts) -> DataFile:
        """The finished file as a commit needs it; `counts`: of its floating-point columns."""
        plan = {**self._plan, **{number: replace(self._plan[number], mode=_NOT) for number in self._unmeasured(counts)}}
        statistics = data_file_statistics_from_parquet_metadata(metadata, plan, self._ids)
        for path, count in counts.items():
            number = self._ids[path]
            statistics.nan_value_counts[number] = count.nan
            if not count.measured:
                statistics.value_counts[number] = metadata.num_rows
                statistics.null_value_counts[number] = count.null
        file = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=location,
            file_format=FileFormat.PARQUET,
            partition=key,
            file_size_in_bytes=size,
            **statistics.to_serialized_dict(),
        )
        file.spec_id = self.table.spec().spec_id
        return file

    def _unmeasured(self, counts: Counts) -> list[int]:
        listed = [column.path for column in self.floats if column.names is None]
        return [self._ids[path] for path in [*listed, *(path for path, count in counts.items() if not count.measured)]]


@dataclass
class FloatCount:
    """Of a floating-point column in a file: whether it has a least and a greatest value, its NaN and its nulls."""

    measured: bool
    nan: int = 0
    null: int = 0


Counts = Mapping[str, FloatCount]
"""By path in the Parquet file; of columns inside lists and maps there are none."""

_NOT = MetricsMode(MetricModeTypes.NONE)


class OpenFile:
    """A Parquet file that takes row groups until it is closed; durable then."""

    def __init__(self, writer: FileWriter, location: str, key: Record, measured: bool) -> None:
        """Use `FileWriter.open`."""
        self._writer = writer
        self._key = key
        self._measured = measured
        self._counts: dict[str, FloatCount] = {}
        self.location = location
        self._file = writer.table.io.new_output(location)
        self._stream = self._file.create()
        self._parquet: pq.ParquetWriter | None = None

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._stream.tell()

    def takes(self, group: pa.Table) -> bool:
        """Whether the rows may stand in this file: no NaN comes into a column that has a least and greatest value."""
        return self._parquet is None or not any(
            count_nan(group, column) for column in self._counted if self._counts[column.path].measured
        )

    def write(self, group: pa.Table) -> None:
        """Append one row group that the file `takes`."""
        found = {column.path: (count_nan(group, column), count_null(group, column)) for column in self._counted}
        if self._parquet is None:
            self._counts = {path: FloatCount(self._measured and not nan) for path, (nan, _) in found.items()}
            self._parquet = pq.ParquetWriter(self._stream, self._writer.arrow, **self._options(group))
        for path, (nan, null) in found.items():
            self._counts[path].nan += nan
            self._counts[path].null += null
        self._parquet.write_table(group, row_group_size=ROW_GROUP_ROWS)

    @property
    def _counted(self) -> list[FloatColumn]:
        return [column for column in self._writer.floats if column.names is not None]

    def _options(self, group: pa.Table) -> dict[str, Any]:
        options = self._writer.options
        distinct = _distinct(group)
        options = {**options, "use_dictionary": [path for path in options["use_dictionary"] if path not in distinct]}
        unmeasured = {column.path for column in self._writer.floats if column.names is None}
        unmeasured |= {path for path, count in self._counts.items() if not count.measured}
        if unmeasured:
            options["write_statistics"] = [path for path in self._writer.paths if path not in unmeasured]
        return options

    def close(self) -> DataFile:
        """The finished file; raises OSError where it is not whole."""
        assert self._parquet is not None, "a file without rows"
        self._parquet.close()
        size = self._stream.tell()
        if isinstance(self._stream, SyncedFile):
            self.location = f"{self.location.rpartition('/')[0]}/{self._stream.seal()}"
            self._file = self._writer.table.io.new_output(self.location)
        else:
            self._stream.close()
        if len(self._file) != size:
            raise OSError(f"{self.location} is shorter than the {size} bytes written")
        return self._writer.describe(self.location, size, self._key, self._parquet.writer.metadata, self._counts)

    def abandon(self) -> None:
        """Close the file as it is, for nobody will read it."""
        if self._parquet is not None:
            self._parquet.is_open = False  # nothing more is written, not even a footer
        getattr(self._stream, "abandon", self._stream.close)()


def _distinct(rows: pa.Table) -> set[str]:
    """Columns whose values hardly repeat: a dictionary of them costs two fifths of the writing, for nothing."""
    sample = rows.slice(0, _SAMPLE_ROWS)
    plain = (field.name for field in sample.schema if not pa.types.is_nested(field.type))
    return {name for name in plain if pc.count_distinct(sample.column(name)).as_py() > _SAMPLE_ROWS // 2}


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
        "write_page_checksum": True,
    }
