"""The 103 statements of TPC-DS as jobs: each has the rows that plain DuckDB has over the same Parquet files.

`make test-tpcds` installs what makes the data and what holds the statements, and says where they are. A last LIMIT is
left out, so that rows that share their place in the order do not decide.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import Change
from tests.jobs_project import produce, sql_job
from tests.published import open_lake

TOOLS = Path(os.environ.get("EAGLERAY_TPCDS", ""))
SCALE = os.environ.get("SCALE", "0.1")
STATEMENTS = sorted(TOOLS.glob("lib/python*/site-packages/resources/queries/q*.sql"))
WHOLE = {f"q{number}" for number in (0, 14, 23, 24, 39)}
"""No statements of TPC-DS: the first warms up, the others hold the two that have names of their own."""

SAID = (
    (re.compile(r"\bc_last_review_date\b"), "c_last_review_date_sk"),  # as the specification calls it since 2.0
    (re.compile(r"\) at\s*,"), ") am,"),  # `at` is a word of DuckDB
    (re.compile(r"\s+limit\s+\d+\s*$", re.IGNORECASE), ""),
)
BATCH_ROWS = 1 << 20

pytestmark = [
    pytest.mark.skipif(not STATEMENTS, reason="EAGLERAY_TPCDS names no statements: make test-tpcds"),
    pytest.mark.timeout(1800),
]


def plain_types(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_type(pa.string()) if f.type == pa.string_view() else f for f in schema])


def statement(file: Path) -> str:
    text = file.read_text().strip().rstrip(";")
    for found, written in SAID:
        text = found.sub(written, text)
    return text


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """TPC-DS's tables as Parquet, by name."""
    directory = tmp_path_factory.mktemp("tpcds")
    subprocess.run([TOOLS / "bin/tpcgen-cli", "tpcds", "parquet", "-s", SCALE, "-o", directory, "-q"], check=True)
    return {file.stem: file for file in sorted(directory.glob("*.parquet")) if file.stem != "dbgen_version"}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Iterator[Lake]:
    made = open_lake(tmp_path_factory.mktemp("lake"))
    for name, file in files.items():
        parquet = pq.ParquetFile(file)
        schema = plain_types(parquet.schema_arrow)
        made.ensure_output(f"tpcds.{name}", schema)
        added = []
        for batch in parquet.iter_batches(BATCH_ROWS):
            added += made.write(f"tpcds.{name}", pa.Table.from_batches([batch]).cast(schema))
        made.replace(f"tpcds.{name}", Change(added=added))
    yield made


@pytest.fixture(scope="module")
def duck(files: dict[str, Path]) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        for name, file in files.items():
            connection.execute(f"CREATE VIEW {name} AS FROM '{file}'")
        yield connection


def rows(table: pa.Table) -> Counter[tuple[Any, ...]]:
    """Rows that can be counted, numbers with a fraction to nine digits: sums of floats depend on their order."""

    def value(one: Any) -> Any:
        return float(f"{one:.9g}") + 0.0 if isinstance(one, float) and math.isfinite(one) else str(one)

    return Counter(tuple(value(column) for column in row) for row in zip(*table.to_pydict().values(), strict=True))


def over_the_lake(text: str, tables: list[str]) -> str:
    """The statement with the names that it uses standing for tables of the lake."""
    named = [name for name in tables if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    known = ", ".join(f"{name} AS NOT MATERIALIZED (SELECT * FROM tpcds.{name})" for name in named)
    first = re.match(r"\s*(?:--[^\n]*\n\s*)*with\b", text, re.IGNORECASE)
    return f"WITH {known}, {text[first.end() :]}" if first else f"WITH {known} {text}"


def test_there_are_103() -> None:
    assert len({file.stem for file in STATEMENTS} - WHOLE) == 103


@pytest.mark.parametrize("file", [f for f in STATEMENTS if f.stem not in WHOLE], ids=lambda file: file.stem)
def test_a_statement_has_the_rows_of_plain_duckdb(
    lake: Lake, duck: duckdb.DuckDBPyConnection, files: dict[str, Path], tmp_path: Path, file: Path
) -> None:
    text = statement(file)
    expected = duck.sql(text).to_arrow_table()
    written = over_the_lake(text, list(files))
    # columns of one name are told apart by their place: a table could not hold both
    names = ", ".join(f"c{at}" for at in range(expected.num_columns))
    job = sql_job(f"SELECT * FROM (\n{written}\n) AS found({names})", *(f"tpcds.{name}" for name in files))
    assert rows(produce(lake.config, job, tmp_path)) == rows(expected.rename_columns(names.split(", ")))
