"""What a changed configuration does to the windows and the time settings of a stream, said before and as it is done.

`compare` is pure: it knows two sets of definitions, from a configuration (`settings_of`) or from the tables
(`cluster.lake.window_history`). `up` prints what `cluster.lake.window_history.record` returns, which is made here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from eagleray.cluster.clock import iso
from eagleray.cluster.quantities import format_duration
from eagleray.cluster.windowing.era import Definition
from eagleray.cluster.windowing.watermark import NEVER

if TYPE_CHECKING:
    from eagleray.cluster.events.stream import Stream

How = Literal["next window", "next event", "start"]
"""From when a change counts. `next window`: from the first edge of the new windows (sessions: full second) after the
newest event seen, in event time; windows before are finished as they began. `next event`: from the next event on.
`start`: from the start on, for whatever waits."""

_DURATIONS = ("dedup_horizon", "max_future", "idle_timeout")
SETTINGS = ("time", "time_unit", "time_zone", "time_missing", "id", "key", *_DURATIONS)
"""Settings of a stream besides, whose changes count from the next event or, of `idle_timeout`, from the start on."""


@dataclass(frozen=True)
class WatermarkSettings:
    """What moves a stream's watermarks, in microseconds."""

    max_out_of_orderness_us: int
    clock_slack_us: int


@dataclass(frozen=True)
class StreamSettings:
    """What the rows of a stream's windows depend on besides its events."""

    windows: Mapping[str, Definition]
    watermark: WatermarkSettings
    others: Mapping[str, Any]  # `SETTINGS`; what is not known is not there


@dataclass(frozen=True)
class Change:
    """One thing that is different, and from when on it counts."""

    key: str  # in the configuration: streams.<stream>.windows.<window>, streams.<stream>.max_out_of_orderness
    what: str  # such as "tumble 5m → 1m", "removed"
    how: How
    from_us: int | None = None  # once recorded: the first instant of event time that it counts for

    def __str__(self) -> str:
        """One line."""
        if self.how == "next event":
            return f"{self.key}: {self.what}; counts from the next event on"
        if self.how == "start":
            return f"{self.key}: {self.what}; counts from the start on"
        if self.from_us is None:
            since = "from the first edge after the newest event"
        else:
            since = "from the first event" if self.from_us == NEVER else f"from {iso(self.from_us)}"
        if self.what == "removed":
            return f"{self.key}: removed; counts {since.replace('from', 'until', 1)}, and its rows stay"
        before = "" if self.what == "added" else "; windows that start before stay as they are"
        return f"{self.key}: {self.what}; counts {since} on{before}"


def settings_of(stream: Stream) -> StreamSettings:
    """What the configuration says."""
    config = stream.config
    return StreamSettings(
        {name: Definition.of(stream, name) for name in stream.windows},
        WatermarkSettings(config.max_out_of_orderness, config.clock_slack),
        {name: getattr(config, name) for name in SETTINGS},
    )


def compare(stream: str, before: StreamSettings, after: StreamSettings) -> list[Change]:
    """What would be applied if `after` took the place of `before`, in the order of names; nothing of it is refused."""
    changes = []
    for name in sorted(before.windows.keys() | after.windows.keys()):
        what = difference(before.windows.get(name), after.windows.get(name))
        if what:
            changes.append(Change(f"streams.{stream}.windows.{name}", what, "next window"))
    changes += watermark_changes(stream, before.watermark, after.watermark)
    return [*changes, *other_changes(stream, before.others, after.others)]


def watermark_changes(stream: str, before: WatermarkSettings, after: WatermarkSettings) -> list[Change]:
    """The settings that differ."""
    pairs = {
        "max_out_of_orderness": (before.max_out_of_orderness_us, after.max_out_of_orderness_us),
        "clock_slack": (before.clock_slack_us, after.clock_slack_us),
    }
    return [
        Change(f"streams.{stream}.{name}", f"{format_duration(old)} → {format_duration(new)}", "next event")
        for name, (old, new) in pairs.items()
        if old != new
    ]


def other_changes(stream: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Those of `SETTINGS` that differ."""
    return [
        Change(
            f"streams.{stream}.{name}",
            f"{_setting(name, before[name])} → {_setting(name, after[name])}",
            "start" if name == "idle_timeout" else "next event",
        )
        for name in SETTINGS
        if name in before and before[name] != after[name]
    ]


def _setting(name: str, value: Any) -> str:
    if value is None:
        return "none"
    return format_duration(value) if name in _DURATIONS else str(value)


def difference(before: Definition | None, after: Definition | None) -> str:
    """What is different, in a few words; empty where both count every event alike."""
    if before is None or after is None:
        return "" if before is after else "added" if before is None else "removed"
    parts = []
    for key, old in before.identity.items():
        new = after.identity[key]
        if old == new or key == "kind":  # the kind shows in the sizes
            continue
        if key in _TYPES:  # of a field that only one of them reads, group_by or aggregate tell
            parts += [f"{name} {old[name]} → {new[name]}" for name in old if new.get(name, old[name]) != old[name]]
        else:
            label = "" if key == "sizes" else f"{key} "
            parts.append(f"{label}{_said(before, key)} → {_said(after, key)}")
    return ", ".join(parts)


_TYPES = ("types", "filtered")


def _said(definition: Definition, key: str) -> str:
    found = definition.identity[key]
    if key == "sizes":
        size_us, every_us, gap_us = found
        if gap_us:
            return f"session_gap {format_duration(gap_us)}"
        if size_us == every_us:
            return f"tumble {format_duration(size_us)}"
        return f"hop {format_duration(size_us)} every {format_duration(every_us)}"
    if key == "aggregates":
        texts = definition.window.aggregate.items()
        return "{" + ", ".join(f"{name}: {text}" for name, text in texts) + "}"
    if key == "allowed_lateness":
        return format_duration(found)
    if key == "group_by":
        return f"[{', '.join(definition.window.group_by)}]"
    return "none" if found is None else repr(found)
