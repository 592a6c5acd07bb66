"""The same statements through our engine and through Spark, each in a cold process, and what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from etl.equal import difference

BENCHMARKS = Path(__file__).resolve().parents[1]
TIMEOUT_S = 1800.0  # ends a hopeless run


@dataclass(frozen=True)
class Ran:
    """What one engine did: seconds by statement, its start apart; errors by statement; results in `directory`."""

    directory: Path
    start_s: float
    times: Mapping[str, float]
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        """All statements, without the start of the process."""
        return sum(self.times.values())

    def result(self, name: str) -> pa.Table:
        """All rows of a statement."""
        with pa.memory_map(str(self.directory / f"{name}.arrow")) as source:
            return pa.ipc.open_file(source).read_all()


def run_engine(config_file: Path, out: Path, names: Sequence[str] = ()) -> Ran:
    """The jobs of a project through their engines."""
    return _run("etl.engine", str(config_file), out, names)


def run_spark(tables: Mapping[str, Sequence[str]], statements: Mapping[str, str], out: Path) -> Ran:
    """`statements` in Spark on the Parquet files of `tables`."""
    out.mkdir(parents=True, exist_ok=True)
    plan = out / "plan.json"
    plan.write_text(json.dumps({"tables": tables, "statements": statements}))
    return _run("etl.spark", str(plan), out)


def differences(ours: Ran, theirs: Ran) -> dict[str, str]:
    """By statement, what differs or why it failed; a statement with equal rows is absent."""
    found = dict(ours.errors)
    for name in ours.times.keys() - found.keys():
        if text := difference(ours.result(name), theirs.result(name)):
            found[name] = text
    return dict(sorted(found.items()))


def _run(module: str, plan: str, out: Path, more: Sequence[str] = ()) -> Ran:
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", module, plan, str(out), *more]
    subprocess.run(command, check=True, timeout=TIMEOUT_S, cwd=BENCHMARKS)
    times: dict[str, Any] = json.loads((out / "times.json").read_text())
    start_s, errors = times.pop("start"), times.pop("errors", {})
    return Ran(out, start_s, times, errors)
