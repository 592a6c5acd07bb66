"""Network logs in the order of their arrival, up to 13.9 s out of order: on time, late and final."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.oracle import Judged, Sliding, Watermarks, group, judge, parse_us, sessions
from tests.running_platform import RunningPlatform, eventually

pytestmark = pytest.mark.platform
FILE = "events/zeek/rdp.json.gz"
SECOND = 1_000_000
LATENESS, GAP = 500_000, 3 * SECOND
TARGETS, RATES = Sliding(5 * SECOND, 5 * SECOND), Sliding(10 * SECOND, 2 * SECOND)
STREAMS = [
    ("rdp_strict_small", 1 * SECOND, 40),
    ("rdp_strict_large", 1 * SECOND, 1500),
    ("rdp_lenient_small", 4 * SECOND, 40),
    ("rdp_lenient_large", 4 * SECOND, 1500),
]
CLOSING_UID = "closing"

Positioned = tuple[int, int, int]


@pytest.fixture(scope="module")
def lines(input_lines: Callable[[str], list[bytes]]) -> list[bytes]:
    """The file's lines."""
    return input_lines(FILE)


@pytest.fixture(scope="module")
def sent(platform: RunningPlatform, lines: list[bytes]) -> None:
    """The file sent to each stream in its order, then one event far ahead that makes every window final."""
    closing = json.dumps({**json.loads(lines[-1]), "uid": CLOSING_UID, "ts": "2018-03-24T20:00:00Z"}).encode()
    for stream, _, rows in STREAMS:
        platform.send(stream, lines, rows)
    for stream, _, _ in STREAMS:
        platform.send(stream, [closing])
    eventually(lambda: all(platform.count(f"{stream}.events") > len(lines) for stream, _, _ in STREAMS))


def _in_log_order(platform: RunningPlatform, stream: str) -> list[tuple[Positioned, int, dict[str, Any]]]:
    rows = platform.sql(
        'SELECT _partition, _offset, _row, ts, uid, "id.orig_h", "id.resp_h" FROM '
        f"{stream}.events ORDER BY _partition, _offset, _row"
    )
    return [
        ((row[0], row[1], row[2]), parse_us(row[3]), {"uid": row[4], "orig": row[5], "resp": row[6]}) for row in rows
    ]


def _judged(
    stored: list[tuple[Positioned, int, dict[str, Any]]],
    disorder_us: int,
    spans: Callable[[int], list[tuple[int, int]]],
) -> dict[Positioned, Judged]:
    events = [(position[0], time, event) for position, time, event in stored]
    judged = judge(events, spans, Watermarks(disorder_us, LATENESS))
    return {position: j for (position, _, _), j in zip(stored, judged, strict=True)}


@pytest.mark.parametrize(("stream", "disorder_us", "rows"), STREAMS)
def test_every_connection_is_stored_and_hosts_keep_their_order(
    platform: RunningPlatform, sent: None, lines: list[bytes], stream: str, disorder_us: int, rows: int
) -> None:
    stored = _in_log_order(platform, stream)
    events = [json.loads(line) for line in lines]
    assert Counter(e["uid"] for _, _, e in stored) == Counter([*(e["uid"] for e in events), CLOSING_UID])
    for host in {event["id.resp_h"] for event in events}:
        mine = [(p[0], t) for p, t, e in stored if e["resp"] == host and e["uid"] != CLOSING_UID]
        assert [time for _, time in mine] == [parse_us(e["ts"]) for e in events if e["id.resp_h"] == host]
        assert len({partition for partition, _ in mine}) == 1


@pytest.mark.parametrize(("stream", "disorder_us", "rows"), STREAMS)
@pytest.mark.parametrize("window", ["targets", "rates", "visits"])
def test_late_and_final_counts_equal_the_oracle(
    platform: RunningPlatform, sent: None, stream: str, disorder_us: int, rows: int, window: str
) -> None:
    stored = _in_log_order(platform, stream)
    spans = {"targets": TARGETS.spans, "rates": RATES.spans, "visits": lambda t: [(t, t + GAP)]}[window]
    judged = _judged(stored, disorder_us, spans)
    expected_late = {(p, span[0]) for p, j in judged.items() for span in j.missed}
    eventually(lambda: platform.count(f"{stream}.late") >= len(expected_late))
    late = platform.sql(
        f"SELECT _partition, _offset, _row, window_start, event FROM {stream}.late WHERE \"window\" = '{window}'"
    )
    found_late = Counter(((row[0], row[1], row[2]), parse_us(row[3])) for row in late)
    assert found_late == Counter(expected_late)
    assert found_late, "the settings are meant to make some events late"
    by_position = {position: event["uid"] for position, _, event in stored}
    assert all(json.loads(row[4])["uid"] == by_position[row[0], row[1], row[2]] for row in late)

    made = [j for j in judged.values() if j.event["uid"] != CLOSING_UID]
    if window == "visits":
        grouped = sessions(((j.time_us, (j.event["orig"],), 1) for j in made if j.counted), GAP)
    else:
        key = (lambda e: (e["resp"],)) if window == "targets" else (lambda e: ())
        sliding = TARGETS if window == "targets" else RATES
        every = group(((j.time_us, key(j.event), j) for j in made), sliding)
        grouped = {k: [j for j in js if k[0] in j.counted] for k, js in every.items()}
    column = {"targets": ', "id.resp_h"', "rates": "", "visits": ', "id.orig_h"'}[window]
    expected = {k: len(values) for k, values in grouped.items() if values}
    eventually(lambda: platform.count(f"{stream}.{window}") >= len(expected))
    rows_found = platform.sql(f"SELECT window_start, window_end, connections{column} FROM {stream}.{window}")
    found = {((parse_us(row[0]), parse_us(row[1])), tuple(row[3:])): row[2] for row in rows_found}
    assert len(found) == len(rows_found)
    assert found == expected


@pytest.mark.parametrize("strictness", ["strict", "lenient"])
def test_request_size_changes_nothing(platform: RunningPlatform, sent: None, strictness: str) -> None:
    for table, columns in (
        ("late", '"window", window_start, event'),
        ("targets", 'window_start, "id.resp_h", connections'),
        ("rates", "window_start, connections"),
        ("visits", 'window_start, window_end, "id.orig_h", connections'),
    ):
        small, large = (
            Counter(platform.sql(f"SELECT {columns} FROM rdp_{strictness}_{size}.{table}"))
            for size in ("small", "large")
        )
        assert small == large
