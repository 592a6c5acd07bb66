"""Where is my event: what the tables say of one that was stored, rejected, late, or never came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.cluster.access import TableAccess
from eagleray.cluster.errors import ConfigError, QueryForbidden
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.progress import NEVER
from eagleray.cluster.lake.stream_tables import DEAD_LETTER_COLUMNS, LATE_COLUMNS
from eagleray.sql.query import Sql
from eagleray.sql.trace import Trace
from eagleray.sql.worker import SqlWorker
from tests.lake_tables import NOON_US, TIME, event_rows, make_lake, make_stream
from tests.sql_lake import land

WINDOWS = {
    "minute": {"tumble": "1m", "group_by": ["user"], "aggregate": {"edits": "count()"}},
    "pair": {"hop": "2m", "every": "1m", "group_by": [], "aggregate": {"edits": "count()"}},
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    made = make_lake(tmp_path_factory.mktemp("lake"), make_stream(id="n", windows=WINDOWS))
    land(made, event_rows(3), event_rows(3, 3))
    minute = pa.table(
        {
            "window_start": pa.array([NOON_US], TIME), "window_end": pa.array([NOON_US + 60_000_000], TIME),
            "user": ["user-4"], "edits": pa.array([1], pa.int64()),
        }
    )  # fmt: skip
    begins = {"closed": NEVER}
    made.commit("s.minute", made.write("s.minute", minute), begins, {"closed": 1})
    late = pa.Table.from_pylist(
        [{"window": "pair", "window_start": NOON_US - 60_000_000, "window_end": NOON_US + 60_000_000, "event": "{}",
          "_ingested_at": NOON_US, "_partition": 0, "_offset": 4, "_row": 0}], LATE_COLUMNS,
    )  # fmt: skip
    land(made, late, table="s.late")
    letters = [
        {"original": original, "reason": "schema", "detail": "n: no", "_ingested_at": NOON_US, "source": "k",
         "attempt": 1,         "_partition": 0, "_offset": 9, "_row": row}
        for row, original in enumerate((b'{"n": 77, "user": 5}', b'{"n": 770}', b"{broken 77"))
    ]  # fmt: skip
    land(made, pa.Table.from_pylist(letters, DEAD_LETTER_COLUMNS), table="s.dead_letters")
    return made


@pytest.fixture(scope="module")
def trace(lake: Lake) -> Iterator[Trace]:
    with Sql(configured(lake)) as sql:
        yield Trace(sql, configured(lake), "s", 60)


def configured(lake: Lake) -> Any:
    stream = make_stream(id="n", windows=WINDOWS).config
    return lake.config.model_copy(update={"streams": {"s": stream, "nameless": make_stream().config}})


def test_a_stored_event_is_found_with_its_place_and_the_snapshot_that_showed_it(lake: Lake, trace: Trace) -> None:
    found = trace.find("1")
    assert found["state"] == "stored" and len(found["events"]) == 1
    event = found["events"][0]
    assert event["log"] == {"partition": 0, "offset": 1, "row": 0}
    assert event["acked_at"] == "2015-09-12T12:00:00Z" and event["time"] == "2015-09-12T12:00:01Z"
    first, second = (snapshot for snapshot, _, _ in Sql(lake.config).commits("s.events"))
    assert trace.find("0")["events"][0]["snapshot"]["id"] == first
    assert event["snapshot"]["id"] == second


def test_windows_are_named_that_count_it_or_that_it_missed(trace: Trace) -> None:
    windows = trace.find("4")["events"][0]["windows"]
    assert [(one["window"], one["start"], one["state"]) for one in windows] == [
        ("minute", "2015-09-12T12:00:00Z", "final"),
        ("pair", "2015-09-12T12:00:00Z", "open"),
        ("pair", "2015-09-12T11:59:00Z", "late"),
    ]
    assert trace.find("3")["events"][0]["windows"][0]["state"] == "open"  # of another group


def test_a_rejected_event_is_found_with_the_reason_and_how_to_send_it_again(trace: Trace) -> None:
    found = trace.find("77")
    assert found["state"] == "rejected"
    assert [letter["log"]["row"] for letter in found["rejected"]] == [0, 2]  # 770 is another; what is broken may be it
    letter = found["rejected"][0]
    assert (letter["reason"], letter["detail"]) == ("schema", "n: no")
    assert letter["send_again"] == "eagleray dead-letters replay s --id 0-9-0"


@pytest.mark.parametrize("event", ["12345", "no number", "1' OR true --"])
def test_what_is_in_no_table_is_unknown(trace: Trace, event: str) -> None:
    found = trace.find(event)
    assert found["state"] == "unknown" and "send it again" in found["advice"]


def test_dead_letters_need_their_scope(lake: Lake) -> None:
    with Sql(configured(lake)) as sql:
        found = Trace(sql, configured(lake), "s", 60, TableAccess.of(["read"])).find("77")
    assert found["rejected"] == [{"reason": "hidden", "detail": "dead letters need the scope dead_letters:s"}]


def test_a_stream_without_ids_is_refused(lake: Lake, tmp_path: Path) -> None:
    with Sql(lake.config) as sql:
        with pytest.raises(ConfigError, match="have no id to be found by"):
            Trace(sql, configured(lake), "nameless", 60)
        with pytest.raises(ConfigError, match="no stream is called 'x'"):
            Trace(sql, configured(lake), "x", 60)


def test_the_sql_process_answers_for_the_edge(lake: Lake) -> None:
    worker = SqlWorker(configured(lake), queries_max=1)
    try:
        _, found, _ = worker.query("s 1", 60, "trace", TableAccess.of(["read:s"]))
        assert json.loads(found)["events"][0]["log"] == {"partition": 0, "offset": 1, "row": 0}
        with pytest.raises(QueryForbidden):
            worker.query("s 1", 60, "trace", TableAccess.of(["read:other"]))
    finally:
        worker.close()
