"""An hour of GitHub events through HTTP: fourteen kinds of payload in one free-form field, lines of up to 32 KB."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.oracle import Sliding, group, parse_us
from tests.running_platform import RunningPlatform, eventually

pytestmark = pytest.mark.platform
FILE = "events/gharchive/2015-01-01-0.json.gz"


@pytest.fixture(scope="module")
def events(platform: RunningPlatform, input_lines: Callable[[str], list[bytes]]) -> list[dict[str, Any]]:
    """The events, sent twice: the second time with other request sizes."""
    lines = input_lines(FILE)
    assert platform.send("github", lines, rows=500) == 7702
    assert platform.send("github", lines, rows=333) == 7702
    eventually(lambda: platform.count("github.events") >= len(lines))
    return [json.loads(line) for line in lines]


def test_the_payload_survives_as_the_same_json(platform: RunningPlatform, events: list[dict[str, Any]]) -> None:
    rows = platform.sql("SELECT id, payload FROM github.events")
    payloads = {id_: json.loads(payload) if isinstance(payload, str) else payload for id_, payload in rows}
    assert payloads == {event["id"]: event["payload"] for event in events}


def test_repeated_ids_are_stored_once(platform: RunningPlatform, events: list[dict[str, Any]]) -> None:
    stored = Counter(id_ for (id_,) in platform.sql("SELECT id FROM github.events"))
    assert stored == Counter(event["id"] for event in events)
    assert max(stored.values()) == 1


def test_nested_fields_and_text_survive(platform: RunningPlatform, events: list[dict[str, Any]]) -> None:
    rows = platform.sql(
        "SELECT id, type, actor.id, actor.login, actor.avatar_url, repo.id, repo.name, repo.url, org.login, public, "
        "created_at FROM github.events"
    )
    expected = {
        (
            *(event["id"], event["type"], *(event["actor"][k] for k in ("id", "login", "avatar_url"))),
            *(event["repo"][k] for k in ("id", "name", "url")),
            *(event.get("org", {}).get("login"), event["public"], parse_us(event["created_at"])),
        )
        for event in events
    }
    assert {(*row[:-1], parse_us(row[-1])) for row in rows} == expected


def test_windows_by_type_equal_the_oracle(platform: RunningPlatform, events: list[dict[str, Any]]) -> None:
    closing = {**events[0], "id": "closing", "created_at": "2015-01-02T00:00:00Z"}
    platform.send("github", [json.dumps(closing).encode()])
    eventually(lambda: platform.count("github.types"))
    timed = ((parse_us(event["created_at"]), event["type"], event) for event in events)
    expected = group(timed, Sliding(600_000_000, 600_000_000))
    rows = platform.sql("SELECT window_start, type, events, actors FROM github.types")
    assert {(parse_us(start), type_): count for start, type_, count, _ in rows} == {
        (span[0], type_): len(values) for (span, type_), values in expected.items()
    }
    for start, type_, _, actors in rows:
        span = (parse_us(start), parse_us(start) + 600_000_000)
        distinct = len({event["actor"]["login"] for event in expected[span, type_]})
        assert abs(actors - distinct) <= max(3, 0.05 * distinct)
