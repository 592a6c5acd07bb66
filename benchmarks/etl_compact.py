#!/usr/bin/env python
"""Asks how fast compaction is: 2,000 small files, 1 GB in all, into few large ones.

benchmarks/etl_compact.py [--files 2000] [--megabytes 1000]

Prints figures against promises, writes results.json to benchmarks/out/etl_compact/, exits 1 if a promise is missed.
The time is that of `eagleray job run compact` without its start: plan, read, sort, write, fsync, commit. MB are 10^6
bytes of the files that were read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from etl.filling import files_of, fill, make_project
from report import Figure, Report, show, write

from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.builtin import compact

OUT = Path(__file__).resolve().parent / "out" / "etl_compact"
TABLE = "game.events"
ROW_BYTES = 31  # of a row in a file: nearly all of it is chance, so that it is hardly compressed
SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("us", "UTC")),
        pa.field("user_id", pa.int64()),
        pa.field("kind", pa.string()),
        pa.field("session", pa.string()),
        pa.field("amount", pa.float64()),
    ]
)
KINDS = np.array(["login", "logout", "match_start", "match_end", "purchase", "chat"])
FIRST_US = 1_780_272_000_000_000  # 2026-06-01


def small_files(files: int, rows: int) -> Iterator[pa.Table]:
    """What a stream commits every two seconds; within a file in any order."""
    chance = np.random.default_rng(1)
    for number in range(files):
        hexadecimal = np.frombuffer(chance.bytes(rows * 16).hex().encode(), "S32").astype("U32")
        yield pa.table(
            [
                FIRST_US + number * 2_000_000 + chance.integers(0, 2_000_000, rows),
                chance.integers(0, 10**9, rows),
                KINDS[chance.integers(0, len(KINDS), rows)],
                hexadecimal,
                chance.random(rows),
            ],
            names=SCHEMA.names,
        ).cast(SCHEMA)


def checked(files: list[str]) -> tuple[int, ...]:
    """A sum over all rows, whatever their order."""
    columns = ", ".join(SCHEMA.names)
    aggregates = f"count(*), sum(hash({columns})), epoch_us(min(time)), epoch_us(max(time))"
    rows: list[tuple[int, ...]] = duckdb.sql(f"SELECT {aggregates} FROM read_parquet({files})").fetchall()
    return rows[0]


def measure(files: int, megabytes: int, directory: Path) -> Report:
    """Write the files, compact them, compare."""
    config = make_project(directory)
    rows = max(1, megabytes * 1_000_000 // files // ROW_BYTES)
    fill(Lake.open(config), TABLE, SCHEMA, small_files(files, rows), sort_by=["time"])
    before = files_of(config, [TABLE])[TABLE]
    size = sum(Path(file).stat().st_size for file in before)
    rows_before = checked(before)
    began = time.perf_counter()
    found = compact.run(config, compact.CompactOptions(tables=(TABLE,)))
    took_s = time.perf_counter() - began
    after = files_of(config, [TABLE])[TABLE]
    print(found)
    return Report(
        f"compaction of {len(before):,} files",
        [
            Figure("speed", size / 1e6 / took_s, "MB/s", 80, "at least"),
            Figure("read", size / 1e6, "MB"),
            Figure("time", took_s, "s"),
            Figure("files afterwards", len(after), "files", max(1, len(before) // 10)),
            Figure("rows lost or changed", float(checked(after) != rows_before), "(1: some)", 0),
        ],
        details={"rows": rows_before[0], "bytes": size},
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=1000, help="of all files together, about")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eagleray-bench-") as directory:
        report = measure(args.files, args.megabytes, Path(directory))
    show([report])
    print(f"written: {write([report], args.out, ' '.join(sys.argv))}")
    sys.exit(0 if report.met else 1)


if __name__ == "__main__":
    main()
