"""When windows close, from what the partitions report: pure arithmetic on watermarks. Called by the committer."""

from __future__ import annotations

from collections.abc import Sequence

from eagleray.actors.messages import PartitionReport
from eagleray.cluster.windowing.assign import starts_within
from eagleray.cluster.windowing.era import Era


def closing_target(reports: Sequence[PartitionReport]) -> int | None:
    """How far idle partitions of a stream should be advanced, in event time (µs); None: nowhere.

    The least watermark of the partitions that are not idle; the greatest of all where all are idle. A partition that is
    not idle and has no watermark yet holds everything back.
    """
    active = [report for report in reports if not report.idle]
    if any(report.watermark_us is None for report in active):
        return None
    known = [report.watermark_us for report in (active or reports) if report.watermark_us is not None]
    if not known:
        return None
    target = min(known) if active else max(known)
    behind = any(r.idle and (r.watermark_us is None or r.watermark_us < target) for r in reports)
    return target if behind else None


def may_close(eras: Sequence[Era], closed_us: int, watermark_us: int) -> bool:
    """Whether some window of `eras` has its closing time in (closed, watermark]; cheap, and never wrong when False."""
    return any(_may_close(era, era.closed(closed_us), era.closed(watermark_us)) for era in eras)


def _may_close(era: Era, closed_us: int, watermark_us: int) -> bool:
    if watermark_us <= closed_us:
        return False
    spec = era.spec
    if spec.kind == "session":
        return True
    first, last = starts_within(spec, era.allowed_lateness_us, closed_us, watermark_us)
    return first <= last
