"""The benchmarks of the batch plane: they compare what they say they compare."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

import etl_tpch
import pyarrow as pa
import pytest
from etl import day
from etl.equal import difference

from eagleray.jobs.period import daily
from eagleray.jobs.project.inputs import Inputs


def column(*values: object, kind: pa.DataType | None = None) -> pa.Table:
    return pa.table({"v": pa.array(list(values), kind)})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (column(1, 2, kind=pa.int32()), column(2, 1, kind=pa.int64())),
        (column(Decimal("1.50")), column(Decimal("1.5000"))),
        (column(Decimal(7)), column(7)),
        (column(1.0 + 1e-12), column(1.0)),
        (column(25.575154611), column(Decimal("25.575155"))),
        (column(datetime(2026, 6, 1, tzinfo=UTC)), column(datetime(2026, 6, 1))),  # noqa: DTZ001
        (column(None, 1.0, kind=pa.float64()), column(1.0, None, kind=pa.float64())),
        (column(kind=pa.int64()), column(kind=pa.int64())),
    ],
)
def test_same_rows_are_equal_whatever_their_types_and_order(ours: pa.Table, theirs: pa.Table) -> None:
    assert difference(ours, theirs) is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (column(Decimal("1.500001")), column(Decimal("1.50"))),
        (column(1.0 + 1e-8), column(1.0)),
        (column(25.575154, kind=pa.float64()), column(Decimal("25.575155"))),
        (column(None, kind=pa.int64()), column(0)),
        (column("a", "a", "b"), column("a", "b", "b")),
        (column(1), column(1, 1)),
        (column("1"), column(1)),
    ],
)
def test_other_rows_are_not_equal(ours: pa.Table, theirs: pa.Table) -> None:
    assert difference(ours, theirs)


def test_there_are_22_queries_and_every_variant_belongs_to_one() -> None:
    names = etl_tpch.names()
    assert names == [f"q{number:02d}" for number in range(1, 23)]
    explained = (etl_tpch.QUERIES / "README.md").read_text()
    for variant in etl_tpch.QUERIES.glob("*/q*.sql"):
        assert variant.stem in names
        assert variant.stem in explained


def test_the_day_has_300_statements_each_on_tables_that_are_there_before() -> None:
    statements = day.statements()
    assert len(statements) == 300
    there = {"game.events", "game.users", "game.products"}
    with Inputs() as inputs:
        for output, text in statements.values():
            assert there.issuperset(inputs.of(text))
            there.add(output)


def test_the_day_is_one_day_of_as_many_events_as_asked() -> None:
    events = pa.concat_tables(day.events(10_001))
    period = daily(datetime.fromtimestamp(day.DAY_US / 1e6, UTC).date())
    assert events.num_rows == 10_001
    assert events["time"].to_pylist() == sorted(events["time"].to_pylist())
    assert period.start <= events["time"][0].as_py() <= events["time"][-1].as_py() < period.end


def test_spark_gets_constants_in_its_own_words() -> None:
    import etl_day

    for _, text in day.statements().values():
        assert not re.search(r"\$|TIMESTAMPTZ", etl_day.for_spark(text))
