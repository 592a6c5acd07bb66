"""The demo's events: the same again from the same seed, valid where they should be, untidy as promised."""

from __future__ import annotations

import json

import jsonschema

from eagleray.cli.demo.command import TEMPLATE
from eagleray.cli.demo.events import STREAMS, Game, Sent

START_US = 1_790_000_000_000_000


def ticks(seed: int, count: int) -> dict[str, list[Sent]]:
    game = Game(seed)
    made: dict[str, list[Sent]] = {stream: [] for stream in STREAMS}
    for tick in range(count):
        for stream, events in game.tick(START_US + tick * 100_000, 300).items():
            made[stream] += events
    return made


def valid(stream: str, line: bytes) -> bool:
    schema = json.loads((TEMPLATE / f"{stream}.schema.json").read_text())
    try:
        return jsonschema.Draft202012Validator(schema).is_valid(json.loads(line))
    except ValueError:
        return False


def test_the_same_seed_makes_the_same_bytes() -> None:
    assert ticks(7, 5) == ticks(7, 5) != ticks(8, 5)


def test_whole_events_match_their_schema_and_broken_ones_do_not() -> None:
    for stream, events in ticks(7, 30).items():
        assert all(valid(stream, sent.line) for sent in events if sent.id)
        for sent in events:
            if sent.id is None and b"2199" not in sent.line and b'"at_ms": 17900864' not in sent.line:
                assert not valid(stream, sent.line)


def test_some_come_twice_byte_for_byte_and_some_are_broken() -> None:
    for events in ticks(7, 100).values():
        whole = [sent for sent in events if sent.id]
        assert len({sent.id for sent in whole}) == len(set(whole)) < len(whole)
        assert 0 < len(events) - len(whole) < len(events) / 100


def test_players_are_few_at_the_top() -> None:
    players = [json.loads(sent.line)["player"] for sent in ticks(7, 50)["game_events"] if sent.id]
    assert players.count("player-1") > len(players) / 20
    assert len(set(players)) > 300
