"""Events that end the process judging them: found by a real process that really ends, and stored around."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eagleray.actors.edge.backend_protocol import Unavailable, WorkerLost
from eagleray.actors.edge.quarantine.blame import BLOCK, PROCESSES_MAX, Call, Ended, Found, Undecided, search
from eagleray.actors.edge.quarantine.isolation import LOST_S, WARY_S, Isolate, Probe
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.events.judge import Judge
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Answer, Submission

PROJECT = Path(__file__).parent.parent / "faults" / "crash_project"
TIMEOUT_S = 1000.0
NOW_US = 1_780_000_000_000_000


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(PROJECT / "eagleray.yaml", environ={})


@pytest.fixture(scope="module")
def probe(config: Config) -> Iterator[Probe]:
    probe = Probe(config)
    yield probe
    probe.close()


def order(n: int, note: str = "") -> bytes:
    return json.dumps({"time": "2026-01-01T00:00:00Z", "n": n, "note": note}).encode()


def lines(*events: bytes, stream: str = "orders") -> Submission:
    return Submission(stream, "ndjson", b"\n".join(events))


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(work())


def found(probe: Probe, *submissions: Submission) -> Found | None:
    return asyncio.run(probe.search(list(submissions), TIMEOUT_S))


def test_harmless_events_are_not_blamed(probe: Probe) -> None:
    bad = [b"{broken", order(1)[:-1], b"", b"[1]", b'{"time": 3}']
    assert found(probe, lines(order(1), *bad), Submission("orders", "json", b"[not json")) is None


@pytest.mark.parametrize(
    ("note", "cause"),
    [("abort", "SIGABRT"), ("segfault", "SIGSEGV"), ("exit", "exit code"), ("memory", "1 GiB")],
)
def test_whatever_ends_a_process_is_named(probe: Probe, note: str, cause: str) -> None:
    one = found(probe, lines(order(1), order(2, note)))
    assert one is not None and one.together
    assert one.condemned[0].keys() == {1} and cause in one.condemned[0][1]


def test_every_fatal_event_of_many_requests_is_found_and_no_other(probe: Probe) -> None:
    array = Submission("orders", "json", b"\xef\xbb\xbf [" + b" ,\n".join([order(0, "abort"), order(1)]) + b"] ")
    single = Submission("orders", "json", order(3, "abort"))
    many = [order(n) for n in range(300)]
    blank = lines(b"", order(0), b" ", order(1, "abort"), b"{broken", *many, order(9, "abort"))
    one = found(probe, lines(order(1)), array, single, blank, Submission("orders", "json", b"[]"))
    assert one is not None and one.together
    assert [list(condemned) for condemned in one.condemned] == [[], [0], [0], [1, 303], []]


def test_a_search_has_an_end() -> None:
    asked = []

    def judgement(calls: Any) -> Ended:
        asked.append(calls)
        return Ended(0, "SIGABRT")

    many = lines(*[order(n) for n in range(10_000)])
    one = search([many], judgement, float("inf"))
    assert one is not None and len(asked) < 2 * PROCESSES_MAX + 10_000 / BLOCK
    assert one.condemned[0].keys() == set(range(10_000)) and not one.together
    assert "replay them one by one" in one.condemned[0][9_999]
    with pytest.raises(Undecided):
        search([many], judgement, float("-inf"))


def test_few_processes_find_one_among_many() -> None:
    asked = []

    def judgement(calls: Sequence[Call]) -> Ended | None:
        asked.append(calls)
        bad = [at for at, call in enumerate(calls) for one in call if b"abort" in one.body and not one.condemned]
        return Ended(bad[0], "SIGABRT") if bad else None

    many = lines(*[order(n, "abort" if n == 3456 else "") for n in range(5000)])
    one = search([many], judgement, float("inf"))
    assert one is not None and list(one.condemned[0]) == [3456] and one.together
    assert len(asked) == 6


def test_condemned_events_are_rejected_unread_and_others_keep_their_places(config: Config) -> None:
    judge = Judge(load_streams(config)["orders"], config.edge, 1)
    events = [order(0, "abort"), order(1), b"{broken", order(3, "abort"), order(4)]
    forms = [lines(*events), Submission("orders", "json", b"[" + b",".join([*events[:2], b"7", *events[3:]]) + b"]")]
    for sent in forms:
        condemned = {0: "SIGABRT", 3: "SIGABRT"}
        judged = judge.judge([Submission(sent.stream, sent.form, sent.body, condemned=condemned)], NOW_US)
        (answer,) = judged.answers
        assert answer.accepted == 2 and judged.batch.column("n").to_pylist() == [1, 4]
        assert [(index, reason) for index, reason, _ in answer.rejected if index != 2] == [(0, "crash"), (3, "crash")]
        assert [r.original for r, _ in judged.rejects if r.reason == "crash"] == [events[0], events[3]]


class Pool:
    """Workers that die at a fatal event, one after the other, and what was stored; `killed` die for no fault of it."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.deaths = 0
        self.calls = 0
        self.killed = 0  # calls that lose their worker after they were stored

    async def submit(self, submissions: list[Submission], timeout_s: float) -> list[Answer]:
        self.calls += 1
        answers = []
        events: list[bytes] = []
        for submission in submissions:
            rows = submission.body.split(b"\n")
            kept = [row for index, row in enumerate(rows) if index not in submission.condemned]
            if any(b"abort" in row for row in kept):
                self._die()
            events += kept
            answers.append(Answer(len(kept), [(index, "crash", why) for index, why in submission.condemned.items()]))
        self.stored += events
        if self.killed:
            self.killed -= 1
            self._die()
        return answers

    def _die(self) -> None:
        self.deaths += 1
        raise WorkerLost(f"validate-0 (process {self.deaths})")


class Ticks:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_after_two_workers_the_rest_of_the_batch_is_stored(probe: Probe) -> None:
    pool, batch = Pool(), [lines(order(1), order(2, "abort")), lines(order(3))]

    async def work() -> list[Answer]:
        isolate = Isolate(pool.submit, probe)
        with pytest.raises(Unavailable):
            await isolate.submit(batch, TIMEOUT_S)
        return await isolate.submit(batch, TIMEOUT_S)

    one, other = run(work)
    assert (one.accepted, other.accepted) == (1, 1)
    assert [(index, reason) for index, reason, _ in one.rejected] == [(1, "crash")]
    assert pool.deaths == 2 and pool.stored == [order(1), order(3)]


def test_a_batch_that_may_have_been_stored_is_not_stored_again(probe: Probe) -> None:
    pool = Pool()
    pool.killed = 3

    async def work() -> None:
        isolate = Isolate(pool.submit, probe)
        for _ in range(3):
            with pytest.raises(WorkerLost):
                await isolate.submit([lines(order(1))], TIMEOUT_S)

    run(work)
    assert pool.calls == 3


def test_a_stream_that_lost_workers_to_events_loses_no_more_for_a_while(probe: Probe) -> None:
    pool, ticks, fatal = Pool(), Ticks(), [lines(order(1), order(2, "abort"))]

    async def work() -> None:
        isolate = Isolate(pool.submit, probe, ticks)
        with pytest.raises(WorkerLost):
            await isolate.submit(fatal, TIMEOUT_S)
        for _ in range(5):
            await isolate.submit(fatal, TIMEOUT_S)
        assert pool.deaths == 2
        ticks.now += WARY_S
        with pytest.raises(WorkerLost):
            await isolate.submit(fatal, TIMEOUT_S)

    run(work)
    assert pool.deaths == 3


def test_workers_killed_for_no_fault_of_an_event_leave_the_stream_as_fast_as_it_was(probe: Probe) -> None:
    pool = Pool()
    pool.killed = 8

    async def work() -> list[Answer]:
        isolate = Isolate(pool.submit, probe)
        lost = [isolate.submit([lines(order(n))], TIMEOUT_S) for n in range(8)]
        for outcome in await asyncio.gather(*lost, return_exceptions=True):
            assert isinstance(outcome, WorkerLost), outcome  # none of them for want of the probe
        assert probe._process is None
        return await isolate.submit([lines(order(8))], TIMEOUT_S)

    assert run(work) == [Answer(1)]
    assert pool.calls == 9 and probe._process is None  # the last one was not probed


def test_workers_lost_far_apart_are_no_reason_to_look_closer(probe: Probe) -> None:
    pool, ticks = Pool(), Ticks()

    async def work() -> None:
        isolate = Isolate(pool.submit, probe, ticks)
        for _ in range(3):
            with pytest.raises(WorkerLost):
                await isolate.submit([lines(order(2, "abort"))], TIMEOUT_S)
            ticks.now += LOST_S

    run(work)
    assert pool.calls == 3


def test_a_probe_that_is_lost_itself_acks_nothing(config: Config) -> None:
    lonely = Probe(config)
    assert found(lonely, lines(order(1))) is None
    assert lonely._process is not None
    lonely._process.kill()
    with pytest.raises(Unavailable):
        found(lonely, lines(order(1)))
    assert found(lonely, lines(order(1))) is None  # another one took its place
    lonely.close()
