"""Runs the jobs of a project through the engine that each names: `python -m etl.engine YAML OUT [JOB …]`.

A process of its own that does what `jobs.run.attempt` does for a run, without publishing: pin the inputs, plan the
files, execute, read all rows. OUT gets an Arrow file for each result, and times.json; a job that fails is an error in
it, not a failure. A job's time goes from its declaration to all rows in this process; imports and the start of Ray and
of Daft's workers are told apart, as the start of Spark's session is.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

DAY = date(2026, 6, 1)


def main(file: Path, out: Path, wanted: list[str]) -> None:
    """Run every job of the project, or those that are named, once, in order."""
    began = time.perf_counter()
    from eagleray.cluster.config import load_config
    from eagleray.cluster.errors import EaglerayError
    from eagleray.cluster.lake.pin import open_snapshots
    from eagleray.cluster.ray_session import connect
    from eagleray.jobs.engines.execute import execute
    from eagleray.jobs.period import daily
    from eagleray.jobs.project.load import load_project

    config = load_config(file)
    project = load_project(config)
    names = wanted or list(project.graph.order())
    engines = {project.jobs[name].engine for name in names}
    session = connect(config, None) if engines - {"duckdb"} else None
    if "daft" in engines:
        _start_daft()
    lake = open_snapshots(config)
    times: dict[str, Any] = {"start": time.perf_counter() - began, "errors": {}}
    for name in names:
        job = project.jobs[name]
        at = time.perf_counter()
        try:
            with TemporaryDirectory() as temp:
                with execute(config, job, daily(DAY), lake.pin(job.inputs), Path(temp)) as produced:
                    result = produced.reader.read_all()
        except EaglerayError as error:
            times["errors"][name] = str(error)
            continue
        finally:
            times[name] = time.perf_counter() - at
        with pa.OSFile(str(out / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, result.schema) as writer:
            writer.write_table(result)
    (out / "times.json").write_text(json.dumps(times))
    if session:
        session.close()


def _start_daft() -> None:
    """Have Daft's workers started, as Spark's executors are before it is asked."""
    import daft

    from eagleray.jobs.engines.daft import use_cluster

    use_cluster()
    daft.from_pydict({"n": [1]}).distinct().collect()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
