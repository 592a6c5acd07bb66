"""The checker can fail: on tables that are right it finds nothing, on each planted error it does."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.faults.checker import DISORDER, GAP, LATENESS, SLIDING, Acked, Checker
from tests.faults.load import make_batch
from tests.oracle import Sliding, Watermarks, group, judge, parse_us, sessions

TIME = pa.timestamp("us", "UTC")
NOW = 1_700_000_000.0
Tables = dict[str, pa.Table]
Row = dict[str, Any]


def _accepted(rng: random.Random) -> tuple[list[Row], list[Row], Acked]:
    """Orders as a log would hold them, rejected lines, and the notes on both."""
    rows: list[Row] = []
    letters: list[Row] = []
    acked = Acked({}, [], {}, [])
    offsets = dict.fromkeys(range(3), 0)
    for turn in range(60):
        producer = turn % 6
        batch = make_batch(rng, producer, acked.sent.get(producer, 0), 20, NOW + turn / 5)
        acked.sent[producer] = batch.first + len(batch.lines)
        partition = producer % 3
        offset = offsets[partition] = offsets[partition] + 1
        for index, line in enumerate(batch.lines):
            if index in batch.bad:
                letters.append({"original": line.encode(), "reason": batch.bad[index]})
                acked.rejected.append((line, batch.bad[index]))
                continue
            acked.seqs.setdefault(producer, set()).add(batch.first + index)
            place = {"_partition": partition, "_offset": offset, "_row": index}
            rows.append({**json.loads(line), **place, "_ingested_at": int((NOW + turn / 5) * 1e6)})
    rows.sort(key=lambda row: (row["_partition"], row["_offset"], row["_row"]))
    return rows, letters, acked


def _spans(window: str) -> Callable[[int], list[tuple[int, int]]]:
    return Sliding(*SLIDING[window]).spans if window in SLIDING else lambda time: [(time, time + GAP)]


def _aggregate(window: str, values: list[Row]) -> Row:
    amounts = [value["amount"] for value in values]
    found: Row = {"events": len(values)}
    if window != "producers":
        found["amount"] = sum(amounts)
    return found | ({"largest": max(amounts)} if window == "kinds" else {})


def _window(window: str, rows: list[Row], late: list[Row]) -> pa.Table:
    column = {"kinds": "kind", "producers": "producer", "total": None, "visits": "producer"}[window]
    judged = judge(
        [(r["_partition"], parse_us(r["time"]), r) for r in rows], _spans(window), Watermarks(DISORDER, LATENESS)
    )
    for j in judged:
        place = {name: j.event[name] for name in ("_partition", "_offset", "_row")}
        late += [{"window": window, "window_start": span[0], **place} for span in j.missed]
    made = [(j.time_us, j.event.get(column), j) for j in judged]
    if window in SLIDING:
        groups = group(made, Sliding(*SLIDING[window]))
        grouped = {key: [j.event for j in js if key[0] in j.counted] for key, js in groups.items()}
    else:
        found = sessions([one for one in made if one[2].counted], GAP)
        grouped = {key: [j.event for j in js] for key, js in found.items()}
    out = [
        {"window_start": span[0], "window_end": span[1]}
        | ({column: key} if column else {})
        | _aggregate(window, values)
        for (span, key), values in grouped.items()
        if values
    ]
    return _stamped(pa.Table.from_pylist(out), "window_start", "window_end")


def _stamped(table: pa.Table, *names: str) -> pa.Table:
    for name in names:
        table = table.set_column(table.column_names.index(name), name, table[name].cast(TIME))
    return table


@pytest.fixture
def right() -> tuple[Tables, Acked]:
    rows, letters, acked = _accepted(random.Random(7))
    late: list[Row] = []
    tables = {window: _window(window, rows, late) for window in (*SLIDING, "visits")}
    events = pa.Table.from_pylist([{**row, "time": parse_us(row["time"])} for row in rows])
    tables["events"] = _stamped(events, "time", "_ingested_at")
    tables["late"] = _stamped(pa.Table.from_pylist(late), "window_start")
    tables["dead_letters"] = pa.Table.from_pylist(letters)
    return tables, acked


def test_nothing_is_found_where_all_is_right(right: tuple[Tables, Acked]) -> None:
    tables, acked = right
    assert tables["late"].num_rows > 20
    assert tables["dead_letters"].num_rows > 20
    assert Checker(tables, acked).check() == []


def _without(table: pa.Table, index: int) -> pa.Table:
    return pa.concat_tables([table.slice(0, index), table.slice(index + 1)])


def _twice(table: pa.Table, index: int) -> pa.Table:
    return pa.concat_tables([table, table.slice(index, 1)])


def _set(table: pa.Table, index: int, name: str, value: Any) -> pa.Table:
    values = table[name].to_pylist()
    values[index] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))


def _swapped(events: pa.Table) -> pa.Table:
    """Two neighbours of one producer and one record change places."""
    seqs, rows = events["seq"].to_pylist(), events["_row"].to_pylist()
    at = next(i for i in range(500, len(seqs)) if seqs[i + 1] == seqs[i] + 1)
    return _set(_set(events, at, "_row", rows[at + 1]), at + 1, "_row", rows[at])


def _other_id(events: pa.Table) -> pa.Table:
    return _set(_set(events, 3, "seq", 10_000), 3, "id", "p0-10000")


PLANTED: dict[str, tuple[str, Callable[[pa.Table], pa.Table], str]] = {
    "a missing event": ("events", lambda t: _without(t, 700), "lost"),
    "a doubled event": ("events", lambda t: _twice(t, 700), "stored twice"),
    "a doubled event at another offset": (
        "events",
        lambda t: _set(_twice(t, 9), len(t), "_offset", 999),
        "stored twice",
    ),
    "two events out of order": ("events", _swapped, "out of order"),
    "an event of nobody": ("events", _other_id, "never sent"),
    "an event in another partition": ("events", lambda t: _set(t, 700, "_partition", 9), "several partitions"),
    "a lost dead letter": ("dead_letters", lambda t: _without(t, 3), "not in dead_letters"),
    "a changed dead letter": ("dead_letters", lambda t: _set(t, 3, "original", b"{}"), "not in dead_letters"),
    "a wrong reason": ("dead_letters", lambda t: _set(t, 3, "reason", "too_deep"), "not in dead_letters"),
    "a wrong count": ("kinds", lambda t: _set(t, 2, "events", 7), "rows of kinds"),
    "a wrong sum": ("total", lambda t: _set(t, 2, "amount", 7), "rows of total"),
    "a missing row": ("producers", lambda t: _without(t, 4), "rows of producers missing"),
    "a doubled row": ("producers", lambda t: _twice(t, 4), "rows of producers doubled"),
    "a session cut off": ("visits", lambda t: _set(t, 1, "window_end", t["window_start"][1].as_py()), "rows of visits"),
    "a lost session": ("visits", lambda t: _without(t, 0), "rows of visits missing"),
    "a late event not noted": ("late", lambda t: _without(t, 0), "not in late"),
    "a late event noted twice": ("late", lambda t: _twice(t, 0), "late twice"),
}


@pytest.mark.parametrize("planted", list(PLANTED))
def test_a_planted_error_is_found(right: tuple[Tables, Acked], planted: str) -> None:
    tables, acked = right
    table, change, finding = PLANTED[planted]
    findings = Checker({**tables, table: change(tables[table])}, acked).check()
    assert any(finding in found for found in findings), findings


def test_an_event_on_time_that_is_called_late_is_found(right: tuple[Tables, Acked]) -> None:
    tables, acked = right
    events = tables["events"]
    newest = events.take(pc.sort_indices(events, [("time", "descending")])).slice(0, 1)
    start = pc.cast(newest["time"], pa.int64())[0].as_py() // SLIDING["total"][0] * SLIDING["total"][0]
    row = {name: newest[name][0].as_py() for name in ("_partition", "_offset", "_row")}
    late = _stamped(pa.Table.from_pylist([{"window": "total", "window_start": start, **row}]), "window_start")
    findings = Checker({**tables, "late": pa.concat_tables([tables["late"], late])}, acked).check()
    assert any("in late for total and not late" in found for found in findings), findings
