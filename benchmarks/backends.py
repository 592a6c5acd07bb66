#!/usr/bin/env python
"""Asks what S3 and Postgres cost beside the local default, on the same cores: writing, committing, TPC-H cold and warm.

benchmarks/backends.py [--questions writing,commits,tpch] [--scale 1] [--commits 1000]

The servers are those of the tests (versitygw, Postgres), started here. Sides take turns; figures are ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
from etl_tpch import generate, load, names, statement
from report import Figure, Report, show, write

from eagleray.cluster.config import Config
from eagleray.cluster.lake.lake import Lake
from eagleray.sql.engine import Limits
from eagleray.sql.query import Sql
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.s3 import BUCKET, S3Server, s3_server

HERE = Path(__file__).resolve().parent
ROUNDS = 7  # of each side, in turn
ROWS = 200_000  # of one commit while writing
TIME = pa.timestamp("us", "UTC")
SCHEMA = pa.schema([("time", TIME), ("user", pa.string()), ("page", pa.string()), ("n", pa.int64())])
QUERY_S = 300.0


def rows(count: int, seed: int) -> pa.Table:
    """Events of some 60 bytes."""
    random = np.random.default_rng(seed)
    users = pa.array([f"user-{number}" for number in random.integers(0, 5000, count)])
    pages = pa.array([f"/page/{number}" for number in random.integers(0, 200_000, count)])
    times = pa.array(np.arange(count, dtype="int64") * 1000 + 1_700_000_000_000_000 + seed, TIME)
    return pa.table([times, users, pages, pa.array(random.integers(0, 1 << 40, count))], SCHEMA)


@contextmanager
def servers(directory: Path) -> Iterator[tuple[S3Server, PostgresServer]]:
    """Both, running, with the keys in the environment."""
    with s3_server(directory / "s3") as s3, postgres_server() as postgres:
        os.environ.update(s3.keys)
        yield s3, postgres


def sides(directory: Path, s3: S3Server, postgres: PostgresServer, name: str) -> dict[str, Config]:
    """An empty lake of each kind."""
    remote = {
        "warehouse": f"s3://{BUCKET}/{name}",
        "s3": {"endpoint": s3.url, "region": "us-east-1"},
        "catalog": {"type": "sql", "uri": postgres.new_database()},
    }
    return {
        "local": Config.model_validate({"data_dir": directory / name / "local"}),
        "s3": Config.model_validate({"data_dir": directory / name / "s3", "lake": remote}),
    }


def writing(configs: dict[str, Config]) -> Report:
    """Files and their commit, as the stream's writer and committer do them."""
    lakes = {side: Lake.open(config) for side, config in configs.items()}
    for lake in lakes.values():
        lake.ensure_output("w.events", SCHEMA)
    spent: dict[str, list[float]] = {side: [] for side in lakes}
    committed: dict[str, list[float]] = {side: [] for side in lakes}
    for number in range(ROUNDS + 1):
        batch = rows(ROWS, number)
        for side, lake in lakes.items():
            began = time.perf_counter()
            files = lake.write("w.events", batch)
            wrote = time.perf_counter()
            lake.commit("w.events", files, {"p0": number}, {"p0": number + 1})
            if number:  # the first is warming up
                spent[side].append(time.perf_counter() - began)
                committed[side].append(time.perf_counter() - wrote)
    local, remote = (ROWS / statistics.median(spent[side]) for side in ("local", "s3"))
    return Report(
        f"writing and committing {ROWS:,} rows, median of {ROUNDS}",
        [
            Figure("local", local, "rows/s"),
            Figure("S3 and Postgres", remote, "rows/s"),
            Figure("S3 and Postgres against local", remote / local, "×", 0.8, "at least"),
            Figure("commit, local", 1000 * statistics.median(committed["local"]), "ms"),
            Figure("commit, S3 and Postgres", 1000 * statistics.median(committed["s3"]), "ms"),
        ],
        details={"seconds": spent, "commits": committed},
    )


def commits(config: Config, count: int) -> Report:
    """Many small commits to one table, with expiry as the committer does it: times and metadata must stay flat."""
    lake = Lake.open(config)
    lake.ensure_output("c.events", SCHEMA)
    times, sizes = [], []
    for number in range(count):
        files = lake.write("c.events", rows(10, number))
        began = time.perf_counter()
        lake.commit("c.events", files, {"p0": number}, {"p0": number + 1})
        times.append(time.perf_counter() - began)
        if number % 20 == 19:
            lake.expire("c.events")
        if number % 100 == 99:
            table = lake.load("c.events")
            sizes.append(len(table.io.new_input(table.metadata_location)))
            print(
                f"{number + 1} commits, {1000 * statistics.median(times[-100:]):.0f} ms, {sizes[-1]} bytes", flush=True
            )
    tenth = max(1, count // 10)
    second, last = times[tenth : 2 * tenth], times[-tenth:]
    return Report(
        f"{count:,} commits on Postgres and S3",
        [
            Figure("p50", 1000 * float(np.percentile(times, 50)), "ms"),
            Figure("p99", 1000 * float(np.percentile(times, 99)), "ms", 1500),
            Figure("last tenth against the second", statistics.median(last) / statistics.median(second), "×", 1.3),
            Figure("metadata at the end against after 200", sizes[-1] / sizes[min(1, len(sizes) - 1)], "×", 1.3),
        ],
        details={"ms": [round(1000 * one, 1) for one in times], "metadata": sizes},
    )


def answers(config: Config) -> dict[str, float]:
    """Seconds of each query of TPC-H."""
    found = {}
    with Sql(config, limits=Limits(memory_bytes_max=6 << 30)) as sql:
        for name in names():
            began = time.perf_counter()
            sql.query(statement(name, "duckdb"), QUERY_S)
            found[name] = time.perf_counter() - began
    return found


def asked(config: Config, directory: Path) -> dict[str, float]:
    """The same in a process of its own."""
    file = directory / "config.json"
    file.write_text(config.model_dump_json(by_alias=True))
    command = [sys.executable, __file__, "--answer", str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def tpch(configs: dict[str, Config], scale: float, directory: Path) -> Report:
    """All queries, each time in a new process: local; S3 without copies on disk; S3 with them."""
    generate(scale, directory / "generated")
    for config in configs.values():
        load(config, directory / "generated")
    runs: dict[str, list[dict[str, float]]] = {"local": [], "cold": [], "warm": []}
    asked(configs["local"], directory)  # the page cache has the files of both sides: what S3 adds is what is asked
    for _ in range(3):
        runs["local"].append(asked(configs["local"], directory))
        shutil.rmtree(configs["s3"].cache_dir, ignore_errors=True)
        runs["cold"].append(asked(configs["s3"], directory))
        runs["warm"].append(asked(configs["s3"], directory))
    total = {side: statistics.median(sum(run.values()) for run in found) for side, found in runs.items()}
    return Report(
        f"TPC-H, scale factor {scale:g}, 22 queries, median of 3 runs in turn",
        [
            Figure("local", total["local"], "s"),
            Figure("S3, no copies yet", total["cold"], "s"),
            Figure("S3, no copies yet, against local", total["cold"] / total["local"], "×", 2.0),
            Figure("S3, from copies", total["warm"], "s"),
            Figure("S3, from copies, against local", total["warm"] / total["local"], "×", 1.2),
        ],
        details={"seconds": runs},
        bars={side: found[-1] for side, found in runs.items()},
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--questions", default="writing,commits,tpch")
    parser.add_argument("--scale", type=float, default=1.0, help="of TPC-H; 1 is 8.7 million rows")
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=HERE / "out" / "backends")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        print(json.dumps(answers(Config.model_validate_json(args.answer.read_text()))))
        return
    reports: list[Report] = []
    asked_for = args.questions.split(",")
    with tempfile.TemporaryDirectory(prefix="eagleray-bench-") as text:
        directory = Path(text)
        with servers(directory) as (s3, postgres):
            todo: dict[str, Any] = {
                "writing": lambda: writing(sides(directory, s3, postgres, "writing")),
                "commits": lambda: commits(sides(directory, s3, postgres, "commits")["s3"], args.commits),
                "tpch": lambda: tpch(sides(directory, s3, postgres, "tpch"), args.scale, directory),
            }
            for question in asked_for:
                reports.append(todo[question]())
                show(reports[-1:])
    print(f"written: {write(reports, args.out, ' '.join(sys.argv), 'seconds.png')}")
    sys.exit(0 if all(report.met for report in reports) else 1)


if __name__ == "__main__":
    main()
