"""Ages: since when records wait, how old events are when their table has them, and since when a job has been late."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.actors.edge.meters import INGEST, Meters
from eagleray.actors.messages import Topology
from eagleray.actors.peer import LocalPeer
from eagleray.actors.writer.rows import ARRIVAL_STEP_US, ARRIVALS_MAX, arrivals
from eagleray.cluster.clock import ManualClock
from eagleray.cluster.errors import CommitUnknown
from eagleray.cluster.sections import SloConfig
from eagleray.cluster.telemetry.freshness import LOOKS_MAX, Freshness, Lag
from tests.examples import examples
from tests.stream_project import TEXT, StreamProject

SECOND_US = 1_000_000
EVENT = {"t": "2026-01-01T12:00:00Z", "v": "a"}


@examples(60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60),
    slow=st.sampled_from([1, 3, 1000]),
)
def test_a_lag_is_the_time_since_the_oldest_waiting_record_was_seen(steps: list[tuple[int, bool]], slow: int) -> None:
    lag, position, end, seen = Lag(), 0, 0, []
    for now, (records, reads) in enumerate(steps):
        seen += [now] * records
        end += records
        lag.see(end, now * SECOND_US)
        if reads and now % slow == 0:
            position = end
        lag.positions["writer"] = position
        waiting = seen[position:]
        assert lag.seconds("writer", now * SECOND_US) == (now - waiting[0] if waiting else 0)


def test_what_is_remembered_is_bounded_and_never_makes_a_lag_too_small() -> None:
    lag = Lag()
    lag.positions["writer"] = 0
    for now in range(1, 20 * LOOKS_MAX):
        lag.see(now, now * SECOND_US)
    assert len(lag._looks) <= LOOKS_MAX
    now = 20 * LOOKS_MAX
    for position in range(0, now - 1, 97):
        lag.positions["writer"] = position
        assert lag.seconds("writer", now * SECOND_US) >= now - (position + 1)
    lag.positions["writer"] = 0
    assert lag.seconds("writer", now * SECOND_US) == now - 1


@pytest.mark.parametrize("span_us", [0, 10_000, 3_000_000, 90_000_000_000])
def test_arrivals_are_few_and_early_by_less_than_a_step(span_us: int) -> None:
    times = np.sort(np.random.default_rng(7).integers(0, span_us + 1, 5000)) + 1_700_000_000_000_000
    found = arrivals(pa.table({"_ingested_at": pa.array(times, pa.timestamp("us", "UTC"))}))
    assert sum(count for _, count in found) == 5000 and len(found) <= ARRIVALS_MAX + 1
    told = np.repeat([at for at, _ in found], [count for _, count in found])
    assert np.all(told <= times) and np.all(times - told <= max(ARRIVAL_STEP_US, span_us // ARRIVALS_MAX + 1))


def test_an_event_is_fresh_or_misses_the_objective() -> None:
    fresh = Freshness(target_us=10 * SECOND_US)
    now_us = 1000 * SECOND_US
    fresh.landed("s.events", [(now_us - 2 * SECOND_US, 990), (now_us - 40 * SECOND_US, 10)], now_us)
    fresh.landed("s.dead_letters", [(now_us - 99 * SECOND_US, 5)], now_us)
    found = fresh.samples({"s.events": now_us - 3 * SECOND_US}, now_us)
    assert found["slo_events_total{objective=freshness}"] == 1000
    assert found["slo_missed_total{objective=freshness}"] == 10
    assert found["freshness_seconds_bucket{table=s.events,le=2.5}"] == 990
    assert found["freshness_seconds_count{table=s.dead_letters}"] == 5
    assert found["commit_age_seconds{table=s.events}"] == 3


def test_an_edge_judges_requests_with_events_alone() -> None:
    meters = Meters(SloConfig.model_validate({"ack_p99": "100ms"}))
    for route, status, seconds in [
        (INGEST, 200, 0.05),
        (INGEST, 200, 0.2),
        (INGEST, 503, 5.0),
        (INGEST, 413, 9.0),
        ("/v1/sql", 500, 30.0),
    ]:
        meters.answered(route, status, seconds)
    found = meters.samples()
    judged = {objective: found[f"slo_events_total{{objective={objective}}}"] for objective in ("ack", "success")}
    missed = {objective: found[f"slo_missed_total{{objective={objective}}}"] for objective in ("ack", "success")}
    assert judged == {"ack": 2, "success": 4}
    assert missed == {"ack": 1, "success": 1}


@pytest.fixture
def project(tmp_path: Path) -> StreamProject:
    made = StreamProject(tmp_path)
    made.configure({"v": TEXT})
    made.up()
    made.accept(EVENT)
    made.drain()
    return made


def lag(project: StreamProject, consumer: str = "writer") -> float:
    counters = asyncio.run(project.committer.status())["counters"]
    found: float = counters[f"consumer_lag_seconds{{stream=s,partition=0,consumer={consumer}}}"]
    return found


@pytest.mark.parametrize("fault", ["the catalog is away", "commits are unknown", "the writer is away"])
def test_events_that_wait_age_whatever_keeps_them(
    project: StreamProject, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    committer = project.committer
    clock = committer.clock = ManualClock(committer.clock.now_us())
    topology = committer.topology
    assert lag(project) == 0

    def refuse(*_: Any) -> Any:
        raise CommitUnknown("no answer")

    async def round_() -> None:
        try:
            await committer.write_round()
            committer._failing.clear()
        except CommitUnknown as error:  # as `_forever` notes it
            committer._failing["write_round"] = (0.0, str(error))

    with monkeypatch.context() as patched:
        if fault == "the writer is away":
            committer.topology = Topology((0, 1))
        else:
            patched.setattr(committer.lake, "find" if fault == "the catalog is away" else "commit", refuse)
        asyncio.run(round_())
        project.accept({**EVENT, "v": "b"})
        for _ in range(30):
            clock.advance(SECOND_US)
            asyncio.run(round_())
        assert lag(project) >= 28
    committer.topology = topology
    committer._failing.clear()
    project.drain()
    assert lag(project) == 0
    project.kill()


def test_a_committer_that_begins_knows_how_old_tables_and_waiting_events_are(project: StreamProject) -> None:
    project.accept({**EVENT, "v": "b"})
    project.kill()
    project.up()
    committer = project.committer
    committer.topology = Topology((0, 1))  # nobody reads
    before = committer.clock.now_us()
    committer.clock = ManualClock(before + 100 * SECOND_US)
    asyncio.run(committer.write_round())
    counters = asyncio.run(committer.status())["counters"]
    assert lag(project) >= 100
    assert counters["commit_age_seconds{table=s.events}"] >= 100
    assert counters["log_epochs{stream=s}"] == 1
    assert counters["disk_free_bytes{place=data}"] > 0 < counters["disk_size_bytes{place=lake}"]
    project.kill()


def test_a_partition_that_gets_another_owner_is_handed_over(project: StreamProject) -> None:
    committer = project.committer
    committer._stopping = True  # no rounds of its own
    same, other = LocalPeer("writer-0", project.writer), LocalPeer("writer-1", project.writer)
    for version, peer in enumerate([same, other, other]):
        asyncio.run(committer.attend(Topology((1, version), committer.topology.window, {("s", 0): peer})))
    assert committer.counters["partition_handovers_total{pool=writer}"] == 1
    assert committer.counters["partition_handovers_total{pool=window}"] == 0
    project.kill()
