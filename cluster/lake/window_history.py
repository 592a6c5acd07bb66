"""What a stream's windows and watermarks were and are, kept in its tables beside what they closed.

A window's eras are a property of its table, the settings of watermarks one of `late`. `record` writes what changed when
the platform starts, before any worker runs and while nobody appends; committer, window workers and `rebuild` read it.
A window that left the configuration keeps its table, and its eras there say until when it counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from eagleray.cluster.events.event_time import EventTime, TimeRule
from eagleray.cluster.events.stream import TIME, Stream
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.progress import CLOSED, NEVER, watermark_key
from eagleray.cluster.log.protocol import EventLog, Kind
from eagleray.cluster.log.record import decode_batches
from eagleray.cluster.windowing.changes import (
    Change,
    StreamSettings,
    WatermarkSettings,
    difference,
    other_changes,
    settings_of,
    watermark_changes,
)
from eagleray.cluster.windowing.era import (
    Definition,
    Era,
    History,
    amended,
    decode_history,
    encode_history,
    live,
    present,
)
from eagleray.cluster.windowing.watermark import FOREVER

DEFINITIONS = "eagleray.definitions"
"""Property of a window's table: its eras (`windowing.era`)."""

WATERMARKS = "eagleray.watermarks"
"""Property of `late`: the settings of time and watermarks, and from which record of each partition on they hold."""

SETTINGS = "eagleray.settings"
"""Property of `late`: other settings of the stream at its last start, so that it can be said what changed."""

READ_BYTES = 8 << 20


@dataclass(frozen=True)
class WatermarkEra:
    """Settings and the first record of each partition (by progress key) that they hold for."""

    settings: WatermarkSettings
    at: Mapping[str, int]
    time: TimeRule


@dataclass(frozen=True)
class StreamHistory:
    """All definitions of a stream that can still matter."""

    windows: Mapping[str, History]
    watermarks: tuple[WatermarkEra, ...]  # in log order; the first holds from the first record on

    @property
    def times(self) -> tuple[tuple[TimeRule, Mapping[str, int]], ...]:
        """In log order, how events say when they happened, and from which record of each partition on."""
        rules = [(era.time, era.at) for era in self.watermarks]
        return (*rules[:1], *(new for old, new in pairwise(rules) if old[0] != new[0]))

    @property
    def eras(self) -> list[Era]:
        """Of all windows."""
        return [era for history in self.windows.values() for era in history]

    def live(self, closed: Mapping[str, int]) -> dict[str, History]:
        """By window, the eras that have windows which are not in tables that stand at `closed`."""
        found = {name: live(history, closed.get(name, NEVER)) for name, history in self.windows.items()}
        return {name: eras for name, eras in found.items() if eras}


def load_history(lake: Lake, stream: Stream) -> StreamHistory:
    """What the tables say; a window without a record has always been what the configuration says."""
    windows = {}
    for name in [*stream.windows, *_removed(lake, stream)]:
        text = lake.properties(f"{stream.name}.{name}").get(DEFINITIONS)
        if text is not None:
            windows[name] = decode_history(name, text)
        elif name in stream.windows:
            windows[name] = (Era(Definition.of(stream, name)),)
    now = WatermarkEra(settings_of(stream).watermark, {}, TimeRule.of(stream))
    return StreamHistory(windows, _watermarks(lake, stream) or (now,))


def recorded_settings(lake: Lake, stream: Stream) -> StreamSettings | None:
    """The definitions in force by the tables, to compare a configuration with; None where nothing was recorded."""
    watermarks = _watermarks(lake, stream)
    if not watermarks:
        return None
    eras = {name: present(history) for name, history in load_history(lake, stream).windows.items()}
    return StreamSettings(
        {name: era.definition for name, era in eras.items() if era is not None},
        watermarks[-1].settings,
        json.loads(lake.properties(f"{stream.name}.late").get(SETTINGS, "{}")),
    )


def _removed(lake: Lake, stream: Stream) -> list[str]:
    names = [table.removeprefix(f"{stream.name}.") for table in lake.tables(stream.name)]
    others = [name for name in names if name not in ("events", "late", "dead_letters", *stream.windows)]
    return [name for name in others if DEFINITIONS in lake.properties(f"{stream.name}.{name}")]


def _watermarks(lake: Lake, stream: Stream) -> tuple[WatermarkEra, ...]:
    text = lake.properties(f"{stream.name}.late").get(WATERMARKS)
    return tuple(
        WatermarkEra(
            WatermarkSettings(one["max_out_of_orderness"], one["clock_slack"]),
            one["at"],
            # before times were written down they did not change
            TimeRule.decode(one["time"], stream) if "time" in one else TimeRule.of(stream),
        )
        for one in json.loads(text or "[]")
    )


def _encoded(eras: Iterable[WatermarkEra]) -> str:
    found = [
        {
            "max_out_of_orderness": era.settings.max_out_of_orderness_us,
            "clock_slack": era.settings.clock_slack_us,
            "at": dict(era.at),
            "time": era.time.encode(),
        }
        for era in eras
    ]
    return json.dumps(found, separators=(",", ":"))


# ── recording ──────────────────────────────────────────────────────────────────────────────────────────────────


def record(lake: Lake, log: EventLog, streams: Mapping[str, Stream]) -> list[Change]:
    """Write down what the configuration changed, and say it. The tables exist, and nobody appends to the log.

    Each table is one commit of properties that finds nothing to do the second time: a start that was killed between two
    of them is completed by the next. Raises LogUnavailable, LogCorrupt.
    """
    return [change for stream in streams.values() for change in _Recorder(lake, log, stream).run()]


class _Recorder:
    """The start of one stream. The newest event is looked for only where something changed."""

    def __init__(self, lake: Lake, log: EventLog, stream: Stream) -> None:
        self._lake, self._log, self._stream = lake, log, stream
        ends = {p: log.bounds(stream.name, p).end for p in range(log.partitions)}
        self._at = {f"p{partition}": end for partition, end in ends.items()}
        self._newest_us: int | None = None
        self._known = False

    def run(self) -> list[Change]:
        stream = self._stream
        wanted = settings_of(stream)
        changes = []
        for name in sorted([*stream.windows, *_removed(self._lake, stream)]):
            changes += self._window(name, wanted.windows.get(name))
        return [*changes, *self._settings(wanted)]

    def _window(self, name: str, wanted: Definition | None) -> list[Change]:
        table = f"{self._stream.name}.{name}"
        properties = self._lake.properties(table)
        history: History = ()
        if DEFINITIONS in properties:
            history = decode_history(name, properties[DEFINITIONS])
        elif wanted is not None and CLOSED in self._lake.progress(table):
            history = (Era(wanted, at=self._at),)  # of a time when definitions were not written down
        now = present(history)
        what = difference(now.definition if now else None, wanted)
        if not what and DEFINITIONS in properties:
            return []
        after = amended(history, wanted, self._newest() if what else None, self._at) if what else history
        self._lake.set_properties(table, {DEFINITIONS: encode_history(after)})
        if not what or self._newest() is None:
            return []  # nothing was counted yet, so nothing changed
        edge_us = after[-1].from_us if wanted is not None else after[-1].until_us if after else NEVER
        return [Change(f"streams.{self._stream.name}.windows.{name}", what, "next window", edge_us)]

    def _settings(self, wanted: StreamSettings) -> list[Change]:
        """One commit for all: what holds for which records, and what was said of it."""
        name = self._stream.name
        properties = self._lake.properties(f"{name}.late")
        known, time = _watermarks(self._lake, self._stream), TimeRule.of(self._stream)
        last = known[-1] if known else WatermarkEra(wanted.watermark, {}, time)
        eras = known or (last,)
        if (last.settings, last.time) != (wanted.watermark, time):
            eras = (*known, WatermarkEra(wanted.watermark, self._at, time))
        said = json.loads(properties.get(SETTINGS, "{}"))
        new = {WATERMARKS: _encoded(eras), SETTINGS: json.dumps(wanted.others, separators=(",", ":"))}
        if any(properties.get(key) != text for key, text in new.items()):
            self._lake.set_properties(f"{name}.late", new)
        return [*watermark_changes(name, last.settings, wanted.watermark), *other_changes(name, said, wanted.others)]

    def _newest(self) -> int | None:
        """The time of the newest event in any partition, in tables or log; None where there never was one."""
        if not self._known:
            found = [*self._in_tables(), *self._in_log()]
            self._newest_us, self._known = max(found, default=None), True
        return self._newest_us

    def _in_tables(self) -> list[int]:
        stream, lake = self._stream, self._lake
        # Rows may have been deleted; what a watermark has passed was seen.
        late = lake.progress(f"{stream.name}.late")
        marks = [late[key] for p in range(self._log.partitions) if (key := watermark_key(p)) in late]
        marks += [lake.progress(f"{stream.name}.{window}").get(CLOSED, NEVER) for window in stream.windows]
        marks = [mark for mark in marks if mark > NEVER]
        return [*marks, *self._in_events(max(marks, default=NEVER))]

    def _in_events(self, beyond_us: int) -> list[int]:
        """The newest time in `events`, if it is beyond `beyond_us`."""
        stream, events = self._stream, self._lake.pin(f"{self._stream.name}.events")
        times = load_history(self._lake, stream).times
        name = stream.time.names[0]
        ordered = not pa.types.is_string(stream.events.arrow.field(name).type) and stream.config.time_unit != "auto"
        if len(times) == 1 and times[0][0] == TimeRule.of(stream) and len(stream.time.names) == 1 and ordered:
            bound = events.upper_bound(name)
            newest = pa.array([] if bound is None else [bound]).cast(stream.events.arrow.field(name).type)
            return [int(at) for at in EventTime(stream).column(newest)[0]]
        # Text and numbers of several units have no order that statistics could tell, nor have columns a rule.
        from eagleray.cluster.windowing.recount import EventScan  # and with it DuckDB

        scan = EventScan(stream, events, times)
        return [int(rows.column(TIME).to_numpy().max()) for rows in scan.between((), beyond_us, FOREVER)]

    def _in_log(self) -> list[int]:
        """The newest time of what is not in `events` yet, by partition."""
        found = []
        begins = self._lake.progress(f"{self._stream.name}.events")
        schema = pa.schema([pa.field(TIME, pa.int64(), nullable=False)])
        for key, end in self._at.items():
            partition = int(key.removeprefix("p"))
            at = max(begins.get(key, 0), self._log.bounds(self._stream.name, partition).first)
            while at < end:
                records = self._log.read(self._stream.name, partition, at, READ_BYTES)
                if not records:
                    break
                at = records[-1].offset + 1
                events = [record.payload for record in records if record.kind == Kind.EVENTS]
                times = decode_batches(events, schema).column(TIME).to_numpy()
                found += [int(np.max(times))] if len(times) else []
        return found
