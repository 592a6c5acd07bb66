"""The definitions that a window has had, each with the stretch of event time that it rules: its eras.

A definition is part of the data. Rules, referred to by number in the code:

1. A window belongs to the definition in force at its start, a session and a tumbling window's event to that at their
   time. Eras follow one another in event time, so no start has two rows, and no instant is in two tumbling windows.
2. An era begins after the newest event that any partition had seen when it was recorded (`at`: the log's ends then).
   So it never takes over what another definition has counted, and what it holds depends on times alone: a replay of
   the log from anywhere counts every event where it was counted before.
3. An era is recorded (as a property of the window's table, beside its rows) before any worker goes by it.
4. What is old stays as it was until its windows are final, by its own lateness, filter and types. Windows of an era
   become final no earlier than all of the eras before it (`floor_us`): ends never go back within a table.
5. Events of no era (before a window was added, after it was removed) are in no window and not in `late`.

`cluster.lake.window_history` keeps eras in the tables; the committer, the window workers and `rebuild` go by them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import lcm
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.sections import WindowConfig
from eagleray.cluster.windowing.assign import lateness_us
from eagleray.cluster.windowing.definition import WindowSpec, field_type, parse_window
from eagleray.cluster.windowing.watermark import FOREVER, NEVER

if TYPE_CHECKING:
    from eagleray.cluster.events.stream import Stream

SECOND_US = 1_000_000
COMMON_EDGE_US_MAX = 86_400 * SECOND_US
"""How far apart common edges of two tumbling definitions may be; beyond, the old one's last window ends early. Where
one size is a multiple of the other, the larger is always waited for."""


@dataclass(frozen=True)
class Definition:
    """All that a window's rows depend on besides the events."""

    window: WindowConfig
    allowed_lateness_us: int
    filter: str | None
    fields: pa.Schema  # the fields that groups and aggregates read, and nothing else of the events
    filtered: pa.Schema  # the top-level fields that the filter reads
    spec: WindowSpec

    @classmethod
    def of(cls, stream: Stream, name: str) -> Definition:
        """The definition of the window `name` in the configuration."""
        spec, config = stream.windows[name], stream.config
        filtered: Sequence[str] = ()
        if config.filter is not None:
            from eagleray.cluster.events.filter import Filter  # DuckDB, which most streams do without

            filtered = Filter(config.filter, stream.events.arrow).columns
        return cls(
            config.windows[name],
            config.allowed_lateness,
            config.filter,
            _pruned(stream.log_schema, paths_of(spec)),
            pa.schema([pa.field(column, stream.log_schema.field(column).type) for column in filtered]),
            spec,
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes two definitions one: two with equal identities count every event alike."""
        spec = self.spec
        return {
            "kind": spec.kind,
            "sizes": [spec.size_us, spec.every_us, spec.gap_us],
            "group_by": sorted(path.sql for path in spec.group_by),
            "aggregates": {a.name: [a.function, a.path.sql if a.path else None, a.q] for a in spec.aggregates},
            "allowed_lateness": self.allowed_lateness_us,
            "filter": self.filter,
            "types": {path.sql: str(field_type(self.fields, path)) for path in paths_of(spec)},
            # The fields within a struct may grow without a change to what the filter says.
            "filtered": {f.name: "struct" if pa.types.is_nested(f.type) else str(f.type) for f in self.filtered},
        }

    def encode(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "window": self.window.model_dump(exclude_none=True),
            "allowed_lateness": self.allowed_lateness_us,
            "filter": self.filter,
            "fields": _text(self.fields),
            "filtered": _text(self.filtered),
        }

    @classmethod
    def decode(cls, name: str, found: Mapping[str, Any]) -> Definition:
        """The reverse of `encode`."""
        window, fields = WindowConfig.model_validate(found["window"]), _schema(found["fields"])
        return cls(
            window,
            found["allowed_lateness"],
            found["filter"],
            fields,
            _schema(found["filtered"]),
            parse_window(name, name, window, fields),
        )


def paths_of(spec: WindowSpec) -> list[FieldPath]:
    """The fields that groups and aggregates of `spec` read."""
    return [*spec.group_by, *(one.path for one in spec.aggregates if one.path)]


def _pruned(schema: pa.Schema, paths: Iterable[FieldPath]) -> pa.Schema:
    """The part of `schema` that `paths` lead through."""

    def kept(found: pa.Field, below: list[tuple[str, ...]]) -> pa.Field:
        if not pa.types.is_struct(found.type) or () in below:
            return pa.field(found.name, found.type)
        return pa.field(found.name, pa.struct(level(found.type.fields, below)))

    def level(fields: Iterable[pa.Field], names: list[tuple[str, ...]]) -> list[pa.Field]:
        return [
            kept(one, [rest for first, *rest_ in names if first == one.name for rest in [tuple(rest_)]])
            for one in fields
            if any(path[0] == one.name for path in names)
        ]

    return pa.schema(level(schema, [path.names for path in paths]))


def _text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def _schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


@dataclass(frozen=True)
class Era:
    """A definition and what it rules: window starts (sessions: events) in [from_us, until_us)."""

    definition: Definition
    from_us: int = NEVER
    until_us: int = FOREVER
    at: Mapping[str, int] = field(default_factory=dict)
    """By progress key: the log's end when it was recorded. Records below hold nothing that counts in this era."""
    ended_at: Mapping[str, int] = field(default_factory=dict)  # likewise, when `until_us` was recorded
    floor_us: int = NEVER  # rule 4: nothing of this era is final before

    @cached_property
    def spec(self) -> WindowSpec:
        """The window within the era's limits."""
        return replace(self.definition.spec, from_us=self.from_us, until_us=self.until_us)

    @cached_property
    def key(self) -> str:
        """Names the era, with its limits, among all of its stream."""
        return self.open_key if self.until_us == FOREVER else f"{self.open_key}.{self.until_us}"

    @cached_property
    def open_key(self) -> str:
        """The `key` before it ended. State under that name holds for records below `ended_at` and no longer."""
        text = json.dumps([self.definition.identity, self.from_us], sort_keys=True)
        return f"{self.definition.spec.name}@{xxhash.xxh3_64_hexdigest(text.encode())}"

    @property
    def allowed_lateness_us(self) -> int:
        """How long after their ends its windows wait."""
        return self.definition.allowed_lateness_us

    @property
    def final_us(self) -> int:
        """The closing time of its last window."""
        if self.until_us == FOREVER:
            return FOREVER
        spec = self.definition.spec
        late = lateness_us(spec, self.allowed_lateness_us)
        last_end = self.until_us - 1 + spec.gap_us if spec.kind == "session" else self.spec.last_start_us + spec.size_us
        return max(last_end + late, self.floor_us)

    def closed(self, closed_us: int) -> int:
        """What of this era is in the table when the table is at `closed_us` (rule 4)."""
        return closed_us if closed_us >= self.floor_us else NEVER

    def encode(self) -> dict[str, Any]:
        """As JSON; absent limits are null."""
        return {
            "definition": self.definition.encode(),
            "from": None if self.from_us == NEVER else self.from_us,
            "until": None if self.until_us == FOREVER else self.until_us,
            "at": dict(self.at),
            "ended_at": dict(self.ended_at),
        }


History = tuple[Era, ...]
"""The eras of one window, in order of event time."""


def encode_history(history: History) -> str:
    """The text of the table property."""
    return json.dumps([era.encode() for era in history], separators=(",", ":"))


def decode_history(name: str, text: str) -> History:
    """The reverse of `encode_history`, for the window `name`."""
    return _ordered(
        Era(
            Definition.decode(name, one["definition"]),
            NEVER if one["from"] is None else one["from"],
            FOREVER if one["until"] is None else one["until"],
            one["at"],
            one["ended_at"],
        )
        for one in json.loads(text)
    )


def _ordered(eras: Iterable[Era]) -> History:
    """With floors."""
    found: list[Era] = []
    for era in eras:
        found.append(replace(era, floor_us=found[-1].final_us if found else NEVER))
    return tuple(found)


def live(history: History, closed_us: int) -> History:
    """The eras that have windows which are not in a table at `closed_us`."""
    return tuple(era for era in history if era.final_us > closed_us)


def present(history: History) -> Era | None:
    """The era that has not ended."""
    return history[-1] if history and history[-1].until_us == FOREVER else None


def amended(history: History, wanted: Definition | None, newest_us: int | None, at: Mapping[str, int]) -> History:
    """`history` with `wanted` in force (None: removed) after the newest event that was seen; the same if it is already.

    `newest_us`: the newest event's time in any partition, None before any; `at`: the ends of the log now, by progress
    key. An era that no event can have counted in yet is taken back, so that a change undone in time is none.
    """
    if _in_force(history, wanted):
        return history
    if newest_us is None:
        return (Era(wanted, at=at),) if wanted is not None else ()
    eras = [era for era in history if era.from_us <= newest_us]
    if eras and eras[-1].until_us > newest_us:  # its end has left nothing out yet
        eras[-1] = replace(eras[-1], until_us=FOREVER, ended_at={})
    if _in_force(eras, wanted):
        return _ordered(eras)
    old = eras[-1] if eras else None
    edge_us = boundary(old, wanted, newest_us)
    if old is not None and old.until_us == FOREVER:
        eras[-1] = replace(old, until_us=edge_us, ended_at=at)
    if wanted is not None:
        eras.append(Era(wanted, edge_us, at=at))
    return _ordered(eras)


def _in_force(eras: Sequence[Era], wanted: Definition | None) -> bool:
    now = present(tuple(eras))
    if now is None or wanted is None:
        return now is None and wanted is None
    return now.definition.identity == wanted.identity


def boundary(old: Era | None, new: Definition | None, newest_us: int) -> int:
    """Where the windows of `old` end and those of `new` begin: after `newest_us`, and after anything `old` has ruled.

    An edge of both where both are tumbling windows whose edges meet often enough; else an edge of the new ones.
    """
    if old is not None and old.until_us < FOREVER:  # it was removed before
        newest_us, old = max(newest_us, old.until_us - 1), None
    ends = [] if old is None else _edges(old.definition.spec, overlapping=new is None)
    begins = [] if new is None else _edges(new.spec, overlapping=True)
    steps = [*ends, *begins] or [SECOND_US]
    step = lcm(*steps)
    if step > max(COMMON_EDGE_US_MAX, *steps):
        step = steps[-1]
    return (newest_us // step + 1) * step


def _edges(spec: WindowSpec, overlapping: bool) -> list[int]:
    """How far apart the edges are that matter: sessions have none, and overlapping windows may go on."""
    return [spec.every_us] if spec.kind != "session" and (overlapping or not spec.overlapping) else []
