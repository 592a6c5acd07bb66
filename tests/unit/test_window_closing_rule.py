"""When windows close, from what partitions report."""

from __future__ import annotations

import pyarrow as pa
import pytest

from eagleray.actors.messages import PartitionReport
from eagleray.actors.window_closing import closing_target, may_close
from eagleray.cluster.sections import WindowConfig
from eagleray.cluster.windowing.definition import parse_window
from eagleray.cluster.windowing.era import Definition, Era

EVENT = pa.schema([("t", pa.int64()), ("k", pa.string())])


def report(watermark: int | None, idle: bool = False) -> PartitionReport:
    return PartitionReport(position=1, end=1, safe=0, watermark_us=watermark, idle=idle)


@pytest.mark.parametrize(
    ("reports", "target"),
    [
        ([report(5), report(9)], None),  # nobody is idle: nothing to advance
        ([report(5), report(None, idle=True)], 5),  # the silent one follows the active one
        ([report(5), report(3), report(1, idle=True)], 3),  # as far as the slowest active one
        ([report(5), report(5, idle=True)], None),  # already there: no record is written
        ([report(5, idle=True), report(9, idle=True)], 9),  # all silent: the furthest one
        ([report(None), report(9, idle=True)], None),  # an active one without events holds everything back
        ([report(None, idle=True)], None),
    ],
)
def test_idle_partitions_follow_the_active_ones(reports: list[PartitionReport], target: int | None) -> None:
    assert closing_target(reports) == target


@pytest.mark.parametrize("window", [{"tumble": "10us"}, {"hop": "30us", "every": "10us"}])
def test_a_window_may_close_exactly_when_one_ends_in_between(window: dict[str, str]) -> None:
    config = WindowConfig.model_validate({**window, "aggregate": {"n": "count()"}})
    spec = parse_window("", "w", config, EVENT)
    lateness = 3
    for closed in range(-40, 60):
        for watermark in range(-40, 60):
            ends = [n * 10 + spec.size_us for n in range(-20, 20)]
            expected = any(closed < end + lateness <= watermark for end in ends)
            era = Era(Definition(config, lateness, None, EVENT, pa.schema([]), spec))
            assert may_close((era,), closed, watermark) == expected
