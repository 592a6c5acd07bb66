"""Fills Iceberg tables for the benchmarks of the batch plane, and tells which Parquet files they consist of.

The tables are made and written by the project's own lake, as a stream's or a job's are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from eagleray.cluster.config import Config, load_config
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.lake.replace import Change


def make_project(directory: Path, settings: str = "") -> Config:
    """A project without streams in `directory`, which is made; `settings` are more lines of its eagleray.yaml."""
    (directory / "jobs").mkdir(parents=True, exist_ok=True)
    file = directory / "eagleray.yaml"
    file.write_text(f"data_dir: ./data\n{settings}")
    return load_config(file)


def fill(
    lake: Lake,
    name: str,
    schema: pa.Schema,
    parts: Iterable[pa.Table],
    partition_by: Sequence[str] = (),
    sort_by: Sequence[str] = (),
) -> int:
    """Make the table `name` and write each of `parts` into files of its own, all in one commit; returns the rows."""
    lake.ensure_output(name, schema, tuple(partition_by), tuple(sort_by))
    files, rows = [], 0
    for part in parts:
        files += lake.write(name, part)
        rows += part.num_rows
    lake.replace(name, Change(added=files))
    return rows


def files_of(config: Config, names: Iterable[str]) -> dict[str, list[str]]:
    """The Parquet files of each table as it is now: what another engine reads to see the same rows."""
    return {name: list(table.plan().files) for name, table in open_snapshots(config).pin(names).items()}
