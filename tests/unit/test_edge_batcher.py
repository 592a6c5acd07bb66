from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from eagleray.actors.edge.backend_protocol import Unavailable
from eagleray.actors.edge.batcher import Batcher
from eagleray.actors.edge.meters import Meters
from eagleray.cluster.errors import LogUnavailable
from eagleray.cluster.events.verdict import Answer, Submission
from eagleray.cluster.sections import EdgeConfig

WORKERS = 2


class Gate:
    """A backend that answers when told to."""

    def __init__(self) -> None:
        self.batches: list[list[Submission]] = []
        self.open = asyncio.Event()
        self.failure: Exception | None = None

    async def submit(self, submissions: list[Submission], timeout_s: float) -> list[Answer]:
        self.batches.append(submissions)
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return [Answer(accepted=int(submission.body)) for submission in submissions]

    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def submission(number: int) -> Submission:
    return Submission("ui", "json", b"%03d" % number)


def run(test: Callable[[Gate], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Gate())

    asyncio.run(main())


def batcher(gate: Gate, **settings: float) -> Batcher:
    return Batcher(
        gate.submit, lambda: WORKERS, EdgeConfig.model_validate({"batch_delay_ms": 1000, **settings}), Meters()
    )


def test_idle_stream_sends_at_once_and_a_busy_one_gathers() -> None:
    async def test(gate: Gate) -> None:
        made = batcher(gate)
        futures = [made.put(submission(1)), made.put(submission(2))]
        await asyncio.sleep(0.01)
        assert gate.sizes() == [2]
        futures += [made.put(submission(n)) for n in (3, 4, 5)]
        await asyncio.sleep(0.01)
        assert gate.sizes() == [2]
        gate.open.set()
        answers = await asyncio.gather(*futures)
        assert gate.sizes() == [2, 3]  # sent as the first returned, long before the delay
        assert [answer.accepted for answer in answers] == [1, 2, 3, 4, 5]

    run(test)


def test_delay_bounds_the_gathering() -> None:
    async def test(gate: Gate) -> None:
        made = batcher(gate, batch_delay_ms=5)
        futures = [made.put(submission(1))]
        await asyncio.sleep(0.005)
        futures.append(made.put(submission(2)))
        while len(gate.batches) < 2:
            await asyncio.sleep(0.001)
        gate.open.set()
        await asyncio.gather(*futures)
        assert gate.sizes() == [1, 1]

    run(test)


def test_bytes_bound_the_batch() -> None:
    async def test(gate: Gate) -> None:
        made = batcher(gate, batch_bytes_max=7)
        futures = [made.put(submission(n)) for n in range(1, 6)]
        gate.open.set()
        answers = await asyncio.gather(*futures)
        assert gate.sizes() == [2, 2, 1]
        assert [answer.accepted for answer in answers] == [1, 2, 3, 4, 5]

    run(test)


def test_busy_workers_get_few_large_batches_and_none_waits_behind_more_than_one() -> None:
    async def test(gate: Gate) -> None:
        made = batcher(gate, batch_bytes_max=7, batch_delay_ms=0)
        futures = []
        for number in range(1, 21):
            futures.append(made.put(submission(number)))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert len(gate.batches) == 2 * WORKERS
        assert max(gate.sizes()) == 2
        gate.open.set()
        answers = await asyncio.gather(*futures)
        assert [answer.accepted for answer in answers] == list(range(1, 21))
        assert max(gate.sizes()) == 2

    run(test)


def test_small_requests_wait_while_every_worker_has_a_batch() -> None:
    async def test(gate: Gate) -> None:
        made = batcher(gate, batch_delay_ms=0)
        futures = []
        for number in range(1, 9):
            futures.append(made.put(submission(number)))
            await asyncio.sleep(0.002)
        assert gate.sizes() == [1, 1]
        gate.open.set()
        await asyncio.gather(*futures)
        assert gate.sizes() == [1, 1, 6]

    run(test)


def test_stuck_workers_hold_nobody_up_for_long() -> None:
    async def test(gate: Gate) -> None:
        made = batcher(gate, batch_delay_ms=0)
        futures = []
        for number in range(1, 4):
            futures.append(made.put(submission(number)))
            await asyncio.sleep(0.002)
        while len(gate.batches) < WORKERS + 1:
            await asyncio.sleep(0.01)
        gate.open.set()
        assert len(await asyncio.gather(*futures)) == len(futures) == sum(map(len, gate.batches))

    run(test)


@pytest.mark.parametrize("failure", [LogUnavailable("full"), Unavailable("lost"), TimeoutError()])
def test_failed_batch_fails_every_request_in_it_and_only_those(failure: Exception) -> None:
    async def test(gate: Gate) -> None:
        made = batcher(gate)
        gate.open.set()
        gate.failure = failure
        lost = await asyncio.gather(made.put(submission(1)), made.put(submission(2)), return_exceptions=True)
        assert [type(error) for error in lost] == [type(failure)] * 2
        gate.failure = None
        assert (await made.put(submission(3))).accepted == 3

    run(test)


def test_timeout_is_an_error_never_an_answer() -> None:
    async def test(gate: Gate) -> None:
        with pytest.raises(TimeoutError):
            await batcher(gate, ack_timeout_s=0.02).put(submission(1))

    run(test)


def test_missing_answers_fail_the_whole_batch() -> None:
    async def test(gate: Gate) -> None:
        async def short(submissions: list[Submission], timeout_s: float) -> list[Answer]:
            return [Answer(accepted=1)]

        made = Batcher(short, lambda: WORKERS, EdgeConfig(), Meters())
        lost = await asyncio.gather(made.put(submission(1)), made.put(submission(2)), return_exceptions=True)
        assert all(isinstance(error, Unavailable) for error in lost)

    run(test)


def test_request_that_was_given_up_does_not_disturb_the_others() -> None:
    async def test(gate: Gate) -> None:
        made = batcher(gate)
        gone, stays = made.put(submission(1)), made.put(submission(2))
        await asyncio.sleep(0)
        gone.cancel()
        gate.open.set()
        assert (await stays).accepted == 2

    run(test)
