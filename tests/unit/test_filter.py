"""Stream filters: what is a deterministic predicate over an event, and which rows it holds for."""

from __future__ import annotations

import pyarrow as pa
import pytest

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.filter import Filter, check_filter

SCHEMA = pa.schema(
    [
        ("isRobot", pa.bool_()),
        ("n", pa.int64()),
        ("s", pa.string()),
        ("t", pa.timestamp("us", "UTC")),
        ("actor", pa.struct([("login", pa.string())])),
        ("l", pa.list_(pa.int64())),
        ("id.orig_h", pa.string()),
    ]
)


@pytest.mark.parametrize(
    "predicate",
    [
        "not isRobot",
        "n between 1 and 3 or n in (5, 7)",
        "actor.login like 'x%'",
        "\"id.orig_h\" = '10.0.0.1'",
        "s::int > 3 -- with a remark",
        "t >= timestamptz '2020-01-01'",
        "extract(hour from t) = 2",
        "t - interval 1 hour > '2020-01-01'",
        "list_contains(l, 2) and len(l) > 0",
        "s->>'$.x' = '1'",
        "coalesce(nullif(n, 1), 0) = 2",
        "case when isRobot then n > 1 else s ~ 'a+' end",
    ],
)
def test_expressions_over_the_fields_are_allowed(predicate: str) -> None:
    check_filter("here", predicate, SCHEMA)
    assert Filter(predicate, SCHEMA).mask(SCHEMA.empty_table()).tolist() == []


@pytest.mark.parametrize(
    "predicate",
    [
        "",
        "not",
        "n",
        "absent = 1",
        "random() < 0.5",
        "now() > t",
        "today() > t",
        "current_date > t::date",
        "current_timestamp > t",
        "localtimestamp > t",
        "age(t) > interval 1 day",
        "uuid() = s",
        "current_setting('threads') = '1'",
        "getvariable('x') = 1",
        "getenv('HOME') = s",
        "n in (select 1)",
        "exists (select 1)",
        "n = any(l)",
        "count(*) > 1",
        "row_number() over () = 1",
        "unnest([true])",
        "columns('n') = 1",
        "*",
        "$1",
        "#1",
        "read_text('/etc/passwd') = ''",
        "true); select (true",
        "true) group by (n",
        "true) limit (1",
        "true /*",
    ],
)
def test_anything_else_is_refused(predicate: str) -> None:
    with pytest.raises(ConfigError, match=r"^here: "):
        check_filter("here", predicate, SCHEMA)


def test_rows_stay_aligned_null_and_failure_are_false() -> None:
    count = 10_000
    table = pa.table(
        {
            "_row": list(range(count)),
            "s": [["1", "x", None, "9"][at % 4] for at in range(count)],
            "n": [at if at % 3 else None for at in range(count)],
        }
    )
    found = Filter("s::int > 0 and n % 2 = 0", SCHEMA).mask(table)
    rows = zip(table["s"].to_pylist(), table["n"].to_pylist(), strict=True)
    assert found.tolist() == [s in ("1", "9") and n is not None and n % 2 == 0 for s, n in rows]


def test_a_filter_reaches_nothing_but_the_batch() -> None:
    hidden = pa.table({"n": [1]})
    assert hidden.num_rows == 1
    with pytest.raises(ConfigError):
        check_filter("here", "hidden.n = 1", SCHEMA)
