#!/usr/bin/env python
"""Asks how fast TPC-H's 22 queries are against Spark: tables in Iceberg, `duckdb` and `daft` on Ray, cold processes.

benchmarks/etl_tpch.py [--scale 1] [--engines duckdb,daft]

Prints figures against promises, writes results.json and seconds.png to benchmarks/out/etl_tpch/, exits 1 if a promise
is missed. The data is made here (tpchgen-cli); nothing is downloaded. Spark reads the same Parquet files: etl/spark.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from etl.filling import files_of, fill, make_project
from etl.sides import Ran, differences, run_engine, run_spark
from report import Figure, Report, show, write

from eagleray.cluster.config import Config
from eagleray.cluster.lake.lake import Lake

HERE = Path(__file__).resolve().parent
QUERIES = HERE / "tpch"
TABLES = ("region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem")
CLUSTERED = {"lineitem": ["l_shipdate"], "orders": ["o_orderdate"]}  # as they would come, day by day
FASTER = {"duckdb": 15.0, "daft": 5.0}  # than Spark, at least
EQUAL = {"duckdb": 22, "daft": 21}  # queries with Spark's rows, at least
BATCH_ROWS = 1 << 20


def statement(name: str, engine: str) -> str:
    """The query as `engine` gets it: its own variant where there is one (tpch/README.md says why)."""
    variant = QUERIES / engine / f"{name}.sql"
    return (variant if variant.exists() else QUERIES / f"{name}.sql").read_text()


def names() -> list[str]:
    """q01 to q22."""
    return sorted(file.stem for file in QUERIES.glob("q*.sql"))


def generate(scale: float, directory: Path) -> None:
    """TPC-H's tables as Parquet."""
    tool = Path(sys.executable).parent / "tpchgen-cli"
    subprocess.run([tool, "parquet", "-s", f"{scale:g}", "-o", directory, "-q", "--no-progress"], check=True)


def load(config: Config, source: Path) -> int:
    """Everything into Iceberg tables; returns the rows."""
    lake = Lake.open(config)
    rows = 0
    for table in TABLES:
        file = pq.ParquetFile(source / f"{table}.parquet")
        schema = pa.schema([_plain(field) for field in file.schema_arrow])
        rows += fill(lake, f"tpch.{table}", schema, _parts(file, schema), sort_by=CLUSTERED.get(table, ()))
    return rows


def _plain(field: pa.Field) -> pa.Field:
    return field.with_type(pa.string()) if field.type == pa.string_view() else field


def _parts(file: pq.ParquetFile, schema: pa.Schema) -> Iterator[pa.Table]:
    for batch in file.iter_batches(BATCH_ROWS):
        yield pa.Table.from_batches([batch]).cast(schema)


def declare(config: Config, engine: str) -> None:
    """The queries as jobs of the project, all for one engine."""
    for name in names():
        header = f"output: answers.{name}\nmode: full\nengine: {engine}\ncpus: 2\nmemory: 6GiB"
        (config.jobs_folder / f"{name}.sql").write_text(f"/* eagleray\n{header}\n*/\n{statement(name, engine)}")


def judge(ran: Mapping[str, Ran], spark: Ran, rows: int, scale: float) -> Report:
    """Figures of every engine against Spark's."""
    figures = [Figure("Spark", spark.total_s, "s"), Figure("Spark, start of the session", spark.start_s, "s")]
    details: dict[str, object] = {"scale": scale, "rows": rows, "seconds": {"spark": spark.times}, "different": {}}
    for engine, one in ran.items():
        different = differences(one, spark)
        equal = len(one.times) - len(different)
        figures += [
            Figure(engine, one.total_s, "s"),
            Figure(f"{engine}, start", one.start_s, "s"),
            Figure(f"{engine}, times faster than Spark", spark.total_s / one.total_s, "×", FASTER[engine], "at least"),
            Figure(f"{engine}, equal to Spark row by row", equal, "of 22", EQUAL[engine], "at least"),
        ]
        details["seconds"][engine] = one.times  # type: ignore[index]
        details["different"][engine] = different  # type: ignore[index]
        for name, text in different.items():
            print(f"{engine} {name}: {text[:500]}", file=sys.stderr)
    bars = {"spark": dict(spark.times)} | {engine: dict(one.times) for engine, one in ran.items()}
    return Report(f"TPC-H, scale factor {scale:g}, 22 queries, cold", figures, {}, details, bars)


def measure(scale: float, engines: list[str], directory: Path) -> Report:
    """Make the data, run every engine in a process of its own, then Spark."""
    config = make_project(directory / "project")
    generate(scale, directory / "generated")
    rows = load(config, directory / "generated")
    ran = {}
    for engine in engines:
        declare(config, engine)
        ran[engine] = run_engine(config.file, directory / engine)
    tables = files_of(config, [f"tpch.{table}" for table in TABLES])
    spark = run_spark(tables, {name: statement(name, "spark") for name in names()}, directory / "spark")
    return judge(ran, spark, rows, scale)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--scale", type=float, default=1.0, help="TPC-H scale factor; 1 is 8.7 million rows")
    parser.add_argument("--engines", default="duckdb,daft", help="some of duckdb, daft")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "etl_tpch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eagleray-bench-") as directory:
        report = measure(args.scale, args.engines.split(","), Path(directory))
    show([report])
    print(f"written: {write([report], args.out, ' '.join(sys.argv), 'seconds.png')}")
    sys.exit(0 if report.met else 1)


if __name__ == "__main__":
    main()
