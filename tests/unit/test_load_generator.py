"""The load generator: what it sends is valid and unique, and a stall is charged to every request that it delayed."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from events import EVENT_BYTES, FIRST_SEQ, Feed
from hot_key import KeyFeed
from load import Load, Plan, summary

SCHEMA = Path(__file__).parents[2] / "benchmarks" / "game" / "plays.schema.json"
STALL_S = 0.4


def test_events_match_their_schema_and_number_themselves() -> None:
    feed = Feed(300, run="r123", pool=600)
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    seen = set()
    for turn in range(4):
        first = FIRST_SEQ + 999_700 + turn * 300  # carries over the thousands
        lines = bytes(feed.body(first)).splitlines()
        events = [json.loads(line) for line in lines]
        assert {len(line) for line in lines} == {EVENT_BYTES}
        assert [event["seq"] for event in events] == list(range(first, first + 300))
        assert [event["id"] for event in events] == [f"r123-{seq}" for seq in range(first, first + 300)]
        seen |= {event["id"] for event in events}
        validator.validate(events[0])
        validator.validate(events[-1])
    assert len(seen) == 1200


def test_times_stay_just_behind_the_clock_even_at_midnight() -> None:
    feed = Feed(500, pool=500)
    midnight = 1_700_006_400.0
    for now in (midnight - 0.001, midnight, midnight + 0.05, midnight + 43_210.987):
        times = [json.loads(line)["time"] for line in bytes(feed.body(FIRST_SEQ, now)).splitlines()]
        stamps = np.array([np.datetime64(time[:-1], "ms").astype(np.int64) for time in times]) / 1000
        assert np.all((stamps <= now) & (stamps > now - 4.1))


def test_the_array_form_is_one_array() -> None:
    events = json.loads(bytes(Feed(10, pool=20, form="json").body(FIRST_SEQ)))
    assert [event["seq"] for event in events] == list(range(FIRST_SEQ, FIRST_SEQ + 10))


class Server(asyncio.Protocol):
    """Answers every request; the one with number `stalls` waits STALL_S first, and with it everybody."""

    requests = 0
    stalls = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, whole, body = self.received.partition(b"\r\n\r\n")
        if not whole:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(body) < length:
            return
        self.received = b""
        type(self).requests += 1
        if self.requests == self.stalls:
            time.sleep(STALL_S)
        assert isinstance(self.transport, asyncio.Transport)
        answer = b'{"accepted":%d,"rejected":[]}' % body.count(b"\n")
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)


async def _carried_out(stalls: int, **settings: object) -> Load:
    kind = type("Fresh", (Server,), {"stalls": stalls, "requests": 0})
    server = await asyncio.get_running_loop().create_server(kind, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    load = Load(Plan(f"http://127.0.0.1:{port}", "plays", **settings))  # type: ignore[arg-type]
    async with server:
        await load.run()
    return load


def test_a_stall_is_charged_to_every_request_that_it_delayed() -> None:
    load = asyncio.run(_carried_out(50, connections=4, rows=1, rate=200.0, duration_s=1.0))
    columns = load.log.columns()
    assert len(columns["status"]) == 200
    latency = columns["answered"] - columns["intended"]  # type: ignore[operator]
    # 80 requests fell due while nothing was answered: their waits go evenly from STALL_S down to 0
    assert np.sum(latency > STALL_S / 2) >= 0.8 * 200 * STALL_S / 2


def test_every_event_is_sent_once_and_counted() -> None:
    load = asyncio.run(_carried_out(-1, connections=3, rows=20, duration_s=0.3))
    columns = load.log.columns()
    assert sorted(columns["first_seq"].tolist()) == [FIRST_SEQ + 20 * n for n in range(len(columns["status"]))]
    assert int(columns["accepted"].sum()) == 20 * len(columns["status"])
    assert summary(load)["not_ok"] == 0


def test_a_server_that_is_away_is_noted_and_waited_for() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("load.TIMEOUT_S", 0.2)
        load = Load(Plan("http://127.0.0.1:9", "plays", connections=2, rows=1, rate=20.0, duration_s=0.2))
        asyncio.run(load.run())
    assert summary(load)["not_ok"] == summary(load)["requests"] > 0


def test_a_hot_key_has_its_share_and_every_event_is_whole() -> None:
    feed = KeyFeed(1000, 0.9, run="r000", pool=4000, seed=3)
    events = [json.loads(line) for turn in range(4) for line in bytes(feed.body(FIRST_SEQ + 1000 * turn)).splitlines()]
    users = Counter(event["user"] for event in events)
    assert 0.87 < users["u000000"] / 4000 < 0.93
    assert len(users) > 300
    even = KeyFeed(1000, 0.0, run="r000", pool=4000, seed=3)
    most = Counter(json.loads(line)["user"] for line in bytes(even.body(FIRST_SEQ)).splitlines()).most_common(1)
    assert most[0][1] < 10
