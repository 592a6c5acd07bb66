"""A day of Wikipedia edits through HTTP: the tables against plain Python over the same file."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.oracle import Sliding, group, parse_us, sessions
from tests.running_platform import RunningPlatform, eventually

pytestmark = pytest.mark.platform
FILE = "events/wikipedia/wikiticker-2015-09-12-sampled.json.gz"
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
HOURLY, PAGES, DAILY = Sliding(HOUR, HOUR), Sliding(3 * HOUR, HOUR), Sliding(DAY, DAY)
GAP = 30 * MINUTE
WINDOWS = ("channels", "pages", "sessions", "total")
COLUMNS = (
    "time channel cityName comment countryIsoCode countryName isAnonymous isMinor isNew isRobot isUnpatrolled "
    "metroCode namespace page regionIsoCode regionName user delta added deleted"
).split()
CLOSING = {  # 15 days of disorder are allowed, the file ends on 2015-09-20
    **dict.fromkeys(COLUMNS, None),
    **{"time": "2015-10-10T00:00:00Z", "channel": "#closing", "page": "closing", "user": "closing", "comment": ""},
    **{"isAnonymous": False, "isMinor": False, "isNew": False, "isRobot": False, "isUnpatrolled": False},
    **{"namespace": "closing", "delta": 0, "added": 0, "deleted": 0},
}


@pytest.fixture(scope="module")
def edits(platform: RunningPlatform, input_lines: Callable[[str], list[bytes]]) -> list[dict[str, Any]]:
    """The edits, sent."""
    lines = input_lines(FILE)
    assert platform.send("wiki", lines, rows=2000) == 39_244
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def counted(edits: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """What the stream's filter lets into windows, with times."""
    return [(parse_us(edit["time"]), edit) for edit in edits if not edit["isRobot"]]


@pytest.fixture(scope="module")
def closed(platform: RunningPlatform, edits: list[dict[str, Any]]) -> None:
    """Every window of the file is final."""
    platform.send("wiki", [json.dumps(CLOSING).encode()])
    query = " + ".join(f"least(1, (SELECT count(*) FROM wiki.{table}))" for table in WINDOWS)
    eventually(lambda: platform.sql(f"SELECT {query}") == [(len(WINDOWS),)])


def test_every_edit_is_in_the_table_once(platform: RunningPlatform, edits: list[dict[str, Any]]) -> None:
    eventually(lambda: platform.count("wiki.events") >= len(edits))
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    rows = platform.sql(f"SELECT {names} FROM wiki.events")
    stored = Counter((parse_us(row[0]), *row[1:]) for row in rows)
    sent = Counter((parse_us(edit["time"]), *(edit[name] for name in COLUMNS[1:])) for edit in edits)
    assert stored == sent
    assert platform.count("wiki.late") == 0
    assert platform.count("wiki.dead_letters") == 0


def test_edits_of_a_page_keep_their_order(platform: RunningPlatform, edits: list[dict[str, Any]]) -> None:
    eventually(lambda: platform.count("wiki.events") >= len(edits))
    rows = platform.sql("SELECT page, comment FROM wiki.events ORDER BY _partition, _offset, _row")
    stored: dict[str, list[str]] = {}
    for page, comment in rows:
        stored.setdefault(page, []).append(comment)
    sent: dict[str, list[str]] = {}
    for edit in edits:
        sent.setdefault(edit["page"], []).append(edit["comment"])
    assert stored == sent


def test_open_windows_show_every_edit_and_are_not_final(
    platform: RunningPlatform, edits: list[dict[str, Any]], counted: list[tuple[int, dict[str, Any]]]
) -> None:
    expected = group(((time, edit["channel"], edit) for time, edit in counted), HOURLY)

    def rows() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = platform.get("/v1/streams/wiki/windows/channels")["rows"]
        return found if sum(row["edits"] for row in found) >= len(counted) else None

    found = eventually(rows)
    assert not any(row["final"] for row in found)
    _same_channels(found, expected)


def test_per_channel_windows_equal_the_oracle(
    platform: RunningPlatform, closed: None, counted: list[tuple[int, dict[str, Any]]]
) -> None:
    expected = group(((time, edit["channel"], edit) for time, edit in counted), HOURLY)
    names = ("window_start", "window_end", "channel", "edits", "added", "least", "most", "mean", "users", "p95")
    rows = platform.sql(f"SELECT {', '.join(names)} FROM wiki.channels")
    _same_channels([dict(zip(names, row, strict=True)) for row in rows], expected)
    final = platform.get(
        "/v1/streams/wiki/windows/channels", **{"from": "2015-09-12T10:00:00Z", "to": "2015-09-12T12:00:00Z"}
    )["rows"]
    start, end = parse_us("2015-09-12T10:00:00Z"), parse_us("2015-09-12T12:00:00Z")
    assert all(row["final"] for row in final)
    _same_channels(final, {key: values for key, values in expected.items() if start <= key[0][0] < end})


def test_per_page_hopping_windows_equal_the_oracle(
    platform: RunningPlatform, closed: None, counted: list[tuple[int, dict[str, Any]]]
) -> None:
    expected = group(((time, edit["page"], edit["added"]) for time, edit in counted), PAGES)
    rows = platform.sql("SELECT window_start, window_end, page, edits, added FROM wiki.pages")
    found = [((parse_us(start), parse_us(end)), page, edits, added) for start, end, page, edits, added in rows]
    assert sorted(found) == sorted((span, page, len(v), sum(v)) for (span, page), v in expected.items())


def test_sessions_of_users_equal_the_oracle(
    platform: RunningPlatform, closed: None, counted: list[tuple[int, dict[str, Any]]]
) -> None:
    expected = sessions(((time, edit["user"], time) for time, edit in counted), GAP)
    rows = platform.sql('SELECT window_start, window_end, "user", edits, since, until FROM wiki.sessions')
    found = [(parse_us(row[0]), parse_us(row[1]), row[2], row[3], parse_us(row[4]), parse_us(row[5])) for row in rows]
    assert sorted(found) == sorted((*span, user, len(t), min(t), max(t)) for (span, user), t in expected.items())


def test_a_window_without_groups_has_one_row(
    platform: RunningPlatform, closed: None, counted: list[tuple[int, dict[str, Any]]]
) -> None:
    expected = group(((time, None, 1) for time, _ in counted), DAILY)
    rows = platform.sql("SELECT window_start, edits FROM wiki.total")
    assert sorted((parse_us(start), edits) for start, edits in rows) == sorted(
        (span[0], len(values)) for (span, _), values in expected.items()
    )


def _same_channels(rows: list[dict[str, Any]], expected: dict[Any, list[dict[str, Any]]]) -> None:
    found = {((parse_us(row["window_start"]), parse_us(row["window_end"])), row["channel"]): row for row in rows}
    assert len(found) == len(rows)
    assert found.keys() == expected.keys()
    for key, edits in expected.items():
        row, deltas = found[key], sorted(edit["delta"] for edit in edits)
        assert row["edits"] == len(edits)
        assert row["added"] == sum(edit["added"] for edit in edits)
        assert (row["least"], row["most"]) == (deltas[0], deltas[-1])
        assert row["mean"] == pytest.approx(sum(deltas) / len(deltas))
        users = len({edit["user"] for edit in edits})
        assert abs(row["users"] - users) <= max(3, 0.05 * users), key  # 8192 registers: few collide
        _about(row["p95"], 0.95, deltas)


def _about(value: float, q: float, ordered: list[int]) -> None:
    """`value` is within two percent of a value whose rank is that of the quantile, give or take one element."""
    slack, near = 1 / len(ordered), 0.02 * abs(value)
    assert bisect_left(ordered, value - near) / len(ordered) <= q + slack
    assert bisect_right(ordered, value + near) / len(ordered) >= q - slack
    assert ordered[0] <= value <= ordered[-1]
