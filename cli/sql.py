"""`eagleray sql QUERY`: asks the tables directly, whether or not the platform runs.

Runs the query in this process, within the limits of the configuration, through `sql`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile


class Format(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"
    csv = "csv"


def sql(
    query: Annotated[
        str, typer.Argument(help="One SELECT, SHOW TABLES or DESCRIBE stream.table; - reads it from stdin.")
    ],
    config_file: ConfigFile = DEFAULT_CONFIG,
    form: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.table,
    data: Annotated[Path | None, typer.Option(help="Overrides data_dir.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds; default: edge.query_timeout_s.", min=0.001)] = None,
) -> None:
    """Query the tables, read-only. Tables are called stream.table, such as plays.events; SHOW TABLES lists them."""
    from eagleray.cli.query_result import write
    from eagleray.cluster.config import load_config
    from eagleray.sql.limits import last_resort, limited_memory
    from eagleray.sql.query import Sql

    config = load_config(config_file, data_dir=data)
    timeout_s = timeout or config.edge.query_timeout_s
    text = sys.stdin.read() if query == "-" else query

    def overdue() -> None:
        shutil.rmtree(temp, ignore_errors=True)
        print(f"eagleray: the query was stopped after its time limit of {timeout_s:g} s", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="eagleray-") as temp, Sql(config, temp_dir=Path(temp)) as lake:
        with limited_memory(config.lake.query_memory_max), last_resort(timeout_s, overdue):
            answer = lake.query(text, timeout_s)
    try:
        write(answer, form.value, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
