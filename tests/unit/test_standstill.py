"""Who stands still although there is work, and for how long; who has nothing to do stands for no time."""

from __future__ import annotations

from eagleray.actors.messages import PartitionReport
from eagleray.actors.standstill import NOWHERE, Blamed, Standstill

A, B = ("s", 0), ("s", 1)


def report(position: int, end: int) -> PartitionReport:
    return PartitionReport(position, end, 0)


def test_a_partition_that_moves_or_has_nothing_to_do_does_not_stand_still() -> None:
    still = Standstill()
    for now in range(100):
        still.see([A, B], {A: report(now, 1000), B: report(7, 7)}, now)
    assert still.longest(100)[0] == 1
    still.see([A, B], {A: report(1000, 1000), B: report(7, 7)}, 100)
    assert still.longest(500) == (0.0, "")


def test_the_one_that_has_stood_still_longest_is_named() -> None:
    still = Standstill()
    still.see([A, B], {A: report(3, 9), B: report(3, 9)}, 0)
    still.see([A, B], {A: report(3, 10), B: report(4, 10)}, 40)
    assert still.standing(40) == {A: 3} and still.standing(41) == {}
    assert still.longest(70) == (70, "s/0 has stood at record 3 of 10 for 70 s")
    still.see([A, B], {A: report(10, 10), B: report(4, 10)}, 80)
    assert still.longest(90) == (50, "s/1 has stood at record 4 of 10 for 50 s")


def test_work_that_comes_after_a_pause_is_timed_from_then_on() -> None:
    still = Standstill()
    for now in (0, 100):
        still.see([A], {A: report(5, 5)}, now)
    still.see([A], {A: report(5, 6)}, 101)
    assert still.longest(102)[0] == 2  # since it was last seen with nothing to do


def test_a_partition_that_nobody_reports_stands_still() -> None:
    still = Standstill()
    still.see([A], {}, 10)
    still.see([A], {}, 60)
    assert still.longest(80) == (70, "nobody has reported s/0 for 70 s")
    still.see([A], {A: report(1, 1)}, 81)
    still.see([A], {}, 90)  # away again: its end is known, and there was nothing to do
    assert still.longest(95) == (0.0, "")


def test_a_worker_is_not_blamed_for_the_time_of_a_restore_but_for_starting_over_again_and_again() -> None:
    still = Standstill()
    still.see([A], {A: report(3, 9)}, 0)
    for now in range(10, 110, 10):
        still.see([A], {}, now)  # it is being restored
    still.see([A], {A: report(3, 9)}, 110)
    assert still.standing(20) == {} and still.longest(110)[0] == 110
    for now in range(120, 220, 20):
        still.see([A], {}, now)
        still.see([A], {A: report(3, 9)}, now + 10)
    assert still.standing(60) == {A: 3}
    still.see([A], {A: report(4, 9)}, 230)
    assert still.standing(1) == {}


def test_a_worker_that_fails_to_restore_a_partition_again_and_again_stands() -> None:
    still = Standstill()
    still.see([A, B], {B: report(3, 3)}, 0, failing=[A])
    for now in range(10, 60, 10):
        still.see([A, B], {B: report(3, 3)}, now, failing=[A, B] if now > 30 else [A])
    assert still.standing(50) == {A: NOWHERE}
    still.see([A, B], {}, 60, failing=[A, B])
    assert still.standing(10) == {A: NOWHERE, B: 3}  # B has nothing to do as far as is known, and is away
    still.see([A, B], {A: report(0, 9), B: report(3, 3)}, 70)
    assert still.standing(1) == {}


def test_partitions_that_wait_for_another_to_be_restored_are_not_blamed() -> None:
    still = Standstill()
    still.see([A, B], {A: report(3, 9)}, 0)
    for now in range(10, 100, 10):
        still.see([A, B], {A: report(3, 9)}, now, failing=[B], excused=[A, B])
    assert still.standing(1) == {} and still.longest(90)[0] == 90
    still.see([A, B], {A: report(3, 9)}, 100, failing=[B])
    assert still.standing(10) == {A: 3, B: NOWHERE}


def test_a_place_is_blamed_once_until_a_worker_gets_on_there() -> None:
    blamed = Blamed()
    assert blamed.first("window", A, NOWHERE) and blamed.first("window", B, 3) and blamed.first("writer", B, 3)
    blamed.forget({("window", A): None, ("window", B): {"position": 3, "end": 9}})
    assert not blamed.first("window", A, NOWHERE) and not blamed.first("window", B, 3)
    blamed.forget({("window", A): {"position": 0, "end": 9}, ("window", B): {"position": 3, "end": 3}})
    assert blamed.first("window", A, NOWHERE) and blamed.first("window", B, 3) and not blamed.first("writer", B, 3)
