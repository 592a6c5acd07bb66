#!/usr/bin/env python
"""Asks what a job costs besides its work: a graph of 1,000 jobs that do nothing.

benchmarks/etl_graph.py [--jobs 1000]

Each job makes a table of one row out of that of a job before it, in ten layers. The graph is run twice by
`eagleray job run --all`: the first run also creates the tables, the second is what every day after it costs, and what
the promise is about. The time is that of the whole command, start included. Prints figures against promises, writes
results.json to benchmarks/out/etl_graph/, exits 1 if a promise is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from etl.commands import eagleray
from etl.filling import make_project
from report import Figure, Report, show, write

from eagleray.cluster.lake.pin import open_snapshots

OUT = Path(__file__).resolve().parent / "out" / "etl_graph"
LAYERS = 10
MIB = 1 << 20


def declare(folder: Path, jobs: int) -> None:
    """`jobs` jobs in LAYERS layers, each but the first ones reading the table of one in the layer before."""
    width = max(1, jobs // LAYERS)
    for number in range(jobs):
        source = f" FROM empty.job_{number - width:04d}" if number >= width else ""
        header = f"output: empty.job_{number:04d}\nmode: full"
        (folder / f"job_{number:04d}.sql").write_text(f"/* eagleray\n{header}\n*/\nSELECT 1 AS one{source}\n")


def measure(jobs: int, directory: Path) -> Report:
    """Run the graph twice."""
    config = make_project(directory)
    declare(config.jobs_folder, jobs)
    runs = [
        eagleray(directory, "job", "run", "--all", "--date", f"2026-06-0{day}", log=directory / f"{day}.log")
        for day in (1, 2)
    ]
    tables = open_snapshots(config)
    made = [name for name in tables.names() if name.startswith("empty.")]
    wrong = jobs - sum(table.plan().rows == 1 for table in tables.pin(made).values())
    return Report(
        f"a graph of {jobs:,} empty jobs",
        [
            Figure("overhead of a job, second run", runs[1].took_s / jobs * 1000, "ms", 50),
            Figure("the same, first run: creates the tables", runs[0].took_s / jobs * 1000, "ms"),
            Figure("peak memory, PSS", max(run.peak_pss for run in runs) / MIB, "MiB"),
            Figure("runs that failed", sum(bool(run.code) for run in runs), "runs", 0),
            Figure("tables that are not as they should be", wrong, "tables", 0),
        ],
        details={"seconds": [run.took_s for run in runs]},
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eagleray-bench-") as directory:
        report = measure(args.jobs, Path(directory))
    show([report])
    print(f"written: {write([report], args.out, ' '.join(sys.argv))}")
    sys.exit(0 if report.met else 1)


if __name__ == "__main__":
    main()
