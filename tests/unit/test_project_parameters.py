"""Parameters become constants where SQL has parameters, and nowhere else."""

from __future__ import annotations

from datetime import UTC, date, datetime

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.errors import QueryRejected
from eagleray.jobs.period import daily
from eagleray.jobs.project.parameters import blanked, substitute
from tests.examples import examples

DAY = daily(date(2024, 3, 31), "Europe/Berlin")  # 23 hours long
VALUES = {
    "$start": datetime(2024, 3, 30, 23, tzinfo=UTC),
    "$end": datetime(2024, 3, 31, 22, tzinfo=UTC),
    "$date": date(2024, 3, 31),
}
TEXTS = [
    ("'$start'", "$start"),
    ("'it''s $date'", "it's $date"),
    ("E'a\\'$end'", "a'$end"),
    ("$$ $start '' $$", " $start '' "),
    ("$start$ $date $$ $end $start$", " $date $$ $end "),
    ("'--$x'", "--$x"),
    ("'/*' || '$x*/'", "/*$x*/"),
]
NOISE = [" ", "\n", "-- $start ' it's\n", '/* $end " */', "/* /* $date */ ' */", "\t"]


def evaluated(sql: str) -> list[object]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        row = connection.sql(sql).to_arrow_table().to_pylist()[0]
    return list(row.values())


columns = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(list(VALUES.items())),
    st.sampled_from([('"$start"', 7), ("a$end", 8)]),
)


@examples(60)
@given(columns=st.lists(st.tuples(st.sampled_from(NOISE), columns, st.sampled_from(NOISE)), min_size=1, max_size=8))
def test_only_parameters_are_replaced_and_duckdb_agrees(columns: list[tuple[str, tuple[str, object], str]]) -> None:
    listed = ",".join(f"{before}{sql}{after} AS c{i}" for i, (before, (sql, _), after) in enumerate(columns))
    text = f'SELECT {listed} FROM (SELECT 7 AS "$start", 8 AS a$end)'
    assert evaluated(substitute(text, DAY).text) == [value for _, (_, value), _ in columns]
    assert len(blanked(text)) == len(text)
    evaluated(blanked(text))


@given(st.text(alphabet="$starendx '\"-/*\n\\E1", max_size=60))
def test_any_text_is_read_to_its_end(text: str) -> None:
    try:
        assert len(blanked(text)) == len(text)
    except QueryRejected as error:
        assert "unknown parameter" in str(error)


@pytest.mark.parametrize("name", ["$1", "$begin", "$started", "$DATES"])
def test_an_unknown_parameter_is_refused_with_its_place(name: str) -> None:
    with pytest.raises(QueryRejected) as refused:
        substitute(f"SELECT 1,\n  {name} AS x", DAY)
    assert f"unknown parameter {name}; expected $start, $end, $date (line 2, column 3)" in str(refused.value)


def test_names_are_of_any_case() -> None:
    assert substitute("SELECT $Date", DAY).text == "SELECT DATE '2024-03-31'"


def test_columns_are_those_of_the_statement_as_it_was_written() -> None:
    written = "SELECT 1,\n $date AS b, $start AS c, nope"
    done = substitute(written, DAY)
    column = done.text.splitlines()[1].index("nope") + 1
    assert done.column(2, column) == written.splitlines()[1].index("nope") + 1
    assert done.column(1, 8) == 8
    assert done.column(2, done.text.splitlines()[1].index("AS b") + 1) == written.splitlines()[1].index("AS b") + 1
