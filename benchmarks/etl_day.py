#!/usr/bin/env python
"""Asks how long a data team's day takes: 300 jobs in a graph over 20 million events in Iceberg, on two cores.

benchmarks/etl_day.py [--events 20000000] [--sample 30]

The jobs (etl/day.py) run by one `eagleray job run --all`, from the command's start to its end, tables written, memory
as the sum of PSS of every process below it. Then every tenth statement runs again in a cold process of ours and in
Spark, on the same Parquet files, and the tables that the jobs made are compared with Spark's rows. Prints figures
against promises, writes results.json and seconds.png to benchmarks/out/etl_day/, exits 1 if a promise is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from etl import day
from etl.commands import eagleray
from etl.engine import DAY
from etl.equal import difference
from etl.filling import files_of, fill, make_project
from etl.sides import Ran, run_engine, run_spark
from report import Figure, Report, show, write

from eagleray.cluster.config import Config
from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.period import daily
from eagleray.jobs.project.parameters import substitute

OUT = Path(__file__).resolve().parent / "out" / "etl_day"
MIB = 1 << 20


def load(config: Config, rows: int) -> None:
    """The events, an hour a partition, and what they are joined with."""
    lake = Lake.open(config)
    fill(lake, "game.events", day.EVENTS, day.events(rows), partition_by=["hour(time)"], sort_by=["time"])
    for name, table in (("game.users", day.users()), ("game.products", day.products())):
        fill(lake, name, table.schema, [table])


def declare(config: Config) -> None:
    """Every statement as a SQL file of the project."""
    for name, (output, text) in day.statements().items():
        header = f"output: {output}\nmode: full"
        (config.jobs_folder / f"{name}.sql").write_text(f"/* eagleray\n{header}\n*/\n{text}\n")


def for_spark(text: str) -> str:
    """The statement with the day's constants, as Spark writes instants."""
    return substitute(text, daily(DAY)).text.replace("TIMESTAMPTZ '", "TIMESTAMP '").replace("+00'", "+00:00'")


def compare(config: Config, sample: list[str], directory: Path) -> tuple[Ran, Ran, dict[str, str]]:
    """The sample in a process of ours and in Spark; by statement, where the job's table is not what Spark says."""
    all_statements = day.statements()
    chosen = {name: all_statements[name] for name in sample}
    ours = run_engine(config.file, directory / "ours", sample)
    tables = ["game.events", "game.users", "game.products", *(output for output, _ in all_statements.values())]
    files = {name: found for name, found in files_of(config, tables).items() if found}
    read = {name: found for name, found in files.items() if any(name in text for _, text in chosen.values())}
    spark = run_spark(read, {name: for_spark(text) for name, (_, text) in chosen.items()}, directory / "spark")
    different = {}
    for name, (output, _) in chosen.items():
        made = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files[output]])
        if text := difference(made, spark.result(name)):
            different[name] = text
    return ours, spark, different


def measure(rows: int, sampled: int, directory: Path) -> Report:
    """Make the data, run the graph, compare a sample."""
    config = make_project(directory / "project")
    began = time.perf_counter()
    load(config, rows)
    loaded_s = time.perf_counter() - began
    declare(config)
    names = list(day.statements())
    command = ("job", "run", "--all", "--date", DAY.isoformat())
    done = eagleray(directory / "project", *command, log=directory / "run.log")
    if done.code:
        return Report("a day of 300 jobs", [Figure("runs that failed", 1, "runs", 0)])
    sample = names[:: max(1, len(names) // sampled)][:sampled]
    ours, spark, different = compare(config, sample, directory)
    for name, text in different.items():
        print(f"{name}: {text[:500]}", file=sys.stderr)
    figures = [
        Figure(f"{len(names)} jobs over {rows:,} events", done.took_s, "s", 300),
        Figure("peak memory, PSS", done.peak_pss / MIB, "MiB", 8192),
        Figure("a job, on average", done.took_s / len(names), "s"),
        Figure(f"{len(sample)} of the statements: Spark", spark.total_s, "s"),
        Figure("the same: ours, one after the other", ours.total_s, "s"),
        Figure("times faster than Spark", spark.total_s / ours.total_s, "×"),
        Figure("tables that differ from Spark's rows", len(different), "tables", 0),
        Figure("writing the events into the lake", rows / loaded_s, "events/s"),
    ]
    details = {"seconds": {"ours": ours.times, "spark": spark.times}, "different": different}
    bars = {"spark": dict(spark.times), "ours": dict(ours.times)}
    return Report(f"a day of {len(names)} jobs", figures, {}, details, bars)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--sample", type=int, default=30, help="statements that Spark runs as well")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eagleray-bench-") as directory:
        report = measure(args.events, args.sample, Path(directory))
    show([report])
    print(f"written: {write([report], args.out, ' '.join(sys.argv), 'seconds.png')}")
    sys.exit(0 if report.met else 1)


if __name__ == "__main__":
    main()
