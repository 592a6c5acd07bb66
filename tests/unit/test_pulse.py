"""Work that takes longer than it said is overdue; what ended, rests or beats in time is not."""

from __future__ import annotations

import contextlib

import pytest

from eagleray.cluster.pulse import Overdue, Pulse, most_overdue


class Watch:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_a_loop_is_overdue_when_its_beat_does_not_come() -> None:
    watch = Watch()
    pulse = Pulse(watch)
    assert pulse.overdue() is None
    pulse.beat("reading", within_s=2)
    watch.at += 2
    assert pulse.overdue() is None
    watch.at += 5
    assert pulse.overdue() == Overdue("reading", 5)
    pulse.beat("reading", within_s=2)
    assert pulse.overdue() is None
    watch.at += 3
    pulse.rest("reading")
    assert pulse.overdue() is None


def test_calls_are_timed_each_and_the_worst_is_named() -> None:
    watch = Watch()
    calls, loops = Pulse(watch), Pulse(watch)
    loops.beat("reading", within_s=60)
    with calls.work("append", 5):
        watch.at += 4
        with calls.work("append", 5):
            watch.at += 4
            assert calls.overdue() == Overdue("append", 3)
        assert most_overdue(calls, loops) == Overdue("append", 3)
    assert most_overdue(calls, loops) is None


def test_a_call_that_fails_is_over() -> None:
    watch = Watch()
    pulse = Pulse(watch)
    with pytest.raises(ValueError, match="no"), pulse.work("append", 0):
        watch.at += 1
        raise ValueError("no")
    assert pulse.overdue() is None


def test_what_finds_no_memory_is_overdue_from_its_first_failure_until_it_succeeds() -> None:
    watch = Watch()
    pulse = Pulse(watch)

    def work(error: Exception | None = None) -> None:
        with contextlib.suppress(MemoryError, OSError), pulse.in_memory("merge"):
            if error is not None:
                raise error

    work(OSError("full"))
    assert pulse.overdue() is None
    for _ in range(3):
        work(MemoryError())
        watch.at += 2
    assert pulse.overdue() == Overdue("merge, which finds no memory,", 6) and not pulse.busy
    work(OSError("full"))
    assert pulse.overdue() is not None
    work()
    assert pulse.overdue() is None
