"""When windows close, from what the partitions report: pure arithmetic on watermarks. Called by the committer."""

from __future__ import annotations

from collections.abc import Sequence

from eagleray.actors.messages import PartitionReport
from eagleray.cluster.windowing.definition import WindowSpec


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


def may_close(spec: WindowSpec, allowed_lateness_us: int, closed_us: int, watermark_us: int) -> bool:
    """Whether some window of `spec` has its closing time in (closed, watermark]; cheap, and never wrong when False."""
    if watermark_us <= closed_us:
        return False
    if spec.kind == "session":
        return True

    def last_end(at_us: int) -> int:
        return (at_us - allowed_lateness_us - spec.size_us) // spec.every_us

    return last_end(watermark_us) > last_end(closed_us)
