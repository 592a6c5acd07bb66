"""Where is my event? What became of the event with an id: when it was acked, where it is, which windows count it.

Asks the tables alone, through `sql.query`, so it needs no running platform. Called by `cli.trace`. An event is in
`events`, or rejected in `dead_letters`, or neither: then it was never acked, or waits in the log for the next commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from eagleray.cluster.access import EVERYTHING, TableAccess
from eagleray.cluster.clock import iso
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, QueryError, QueryRejected
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.near_names import instead
from eagleray.cluster.sections import StreamConfig, WindowConfig
from eagleray.sql.engine import identifier, literal
from eagleray.sql.query import Sql

LETTERS_MAX = 100  # dead letters that are looked into, the newest first
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS_US = {"s": 1_000_000, "ms": 1000, "us": 1}
_PLACE = ("_partition", "_offset", "_row")

Found = dict[str, Any]


class Trace:
    """Looks for events of a stream by their id."""

    def __init__(
        self, sql: Sql, config: Config, stream: str, timeout_s: float, access: TableAccess = EVERYTHING
    ) -> None:
        """Raises ConfigError for a stream that is not there or has no `id`."""
        found = config.streams.get(stream)
        if found is None:
            raise ConfigError("trace", f"no stream is called {stream!r}{instead(stream, config.streams)}")
        if found.id is None:
            raise ConfigError(f"streams.{stream}.id", "not set: events of this stream have no id to be found by")
        self._sql = sql
        self._stream = stream
        self._settings: StreamConfig = found
        self._id = FieldPath.parse(found.id).names
        self._timeout_s = timeout_s
        self._access = access

    def find(self, event: str) -> Found:
        """What is known of the event with this id: `state` is stored, rejected or unknown. Raises QueryError."""
        stored = [self._stored(row) for row in self._events(event)]
        rejected = list(self._rejected(event)) if not stored else []
        state = "stored" if stored else "rejected" if rejected else "unknown"
        found: Found = {"stream": self._stream, "id": event, "state": state, "events": stored, "rejected": rejected}
        if state == "unknown":
            found["advice"] = (
                "it is in no table: it was not accepted, or it waits in the log for the next commit (`eagleray status`"
                " shows the lag); send it again with the same id, it is stored once"
            )
        return found

    def _ask(self, text: str) -> list[Found]:
        rows: list[Found] = self._sql.query(text, self._timeout_s, self._access).table.to_pylist()
        return rows

    def _table(self, name: str) -> str:
        return f"{identifier(self._stream)}.{identifier(name)}"

    def _events(self, event: str) -> list[Found]:
        column = ".".join(map(identifier, self._id))
        try:
            return self._ask(f"SELECT * FROM {self._table('events')} WHERE {column} = {literal(event)}")
        except QueryRejected as error:
            if error.sqlstate == "42P01":  # nothing was ever stored
                return []
            raise
        except QueryError as error:
            if error.sqlstate == "22P02":  # no id of the column's type looks so
                return []
            raise

    def _stored(self, row: Found) -> Found:
        time_us = self._time_us(row)
        place = {"partition": row["_partition"], "offset": row["_offset"], "row": row["_row"]}
        return {
            "acked_at": _iso(row["_ingested_at"]),
            "source": row["_source"],
            "time": None if time_us is None else iso(time_us),
            "log": place,
            "snapshot": self._snapshot(row["_partition"], row["_offset"]),
            "windows": [] if time_us is None else self._windows(row, time_us),
        }

    def _time_us(self, row: Found) -> int | None:
        value: Any = row
        for part in FieldPath.parse(self._settings.time).names:
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=UTC)
            since: timedelta = value - _EPOCH
            return since // timedelta(microseconds=1)
        if isinstance(value, int):
            unit = self._settings.time_unit or "us"
            return value // 1000 if unit == "ns" else value * _UNITS_US[unit]
        return None

    def _snapshot(self, partition: int, offset: int) -> Found | None:
        """The snapshot that made it visible, where it is kept; else the oldest, which has it already."""
        for snapshot, committed_us, progress in self._sql.commits(f"{self._stream}.events"):
            if progress.get(f"p{partition}", 0) > offset:
                return {"id": snapshot, "committed_at": iso(committed_us)}
        return None

    def _windows(self, row: Found, time_us: int) -> list[Found]:
        late = {(one["window"], _iso(one["window_start"])) for one in self._late(row)}
        found: list[Found] = []
        for name, window in self._settings.windows.items():
            for start, end in self._spans(name, window, row, time_us):
                state = "late" if (name, start) in late else self._state(name, start, row)
                found.append({"window": name, "start": start, "end": end, "state": state})
        return found

    def _late(self, row: Found) -> list[Found]:
        where = " AND ".join(f"{column} = {row[column]}" for column in _PLACE)
        text = f'SELECT "window", window_start FROM {self._table("late")} WHERE {where}'
        return self._ask(text)

    def _spans(self, name: str, window: WindowConfig, row: Found, time_us: int) -> Iterator[tuple[str, str]]:
        """Begin and end of the windows that the event belongs to; of sessions, those that are closed."""
        if window.session_gap is not None:
            at = f"TIMESTAMPTZ {literal(iso(time_us))}"
            within = f"window_start <= {at} AND window_end > {at}{self._same_group(name, row)}"
            for one in self._ask(f"SELECT window_start, window_end FROM {self._table(name)} WHERE {within}"):
                yield _iso(one["window_start"]), _iso(one["window_end"])
            return
        size = window.hop or window.tumble or 1
        every = window.every or size
        start = time_us // every * every
        while start > time_us - size:
            yield iso(start), iso(start + size)
            start -= every

    def _state(self, name: str, start: str, row: Found) -> str:
        text = f"SELECT 1 FROM {self._table(name)} WHERE window_start = TIMESTAMPTZ {literal(start)}"
        return "final" if self._ask(text + self._same_group(name, row) + " LIMIT 1") else "open"

    def _same_group(self, name: str, row: Found) -> str:
        """The condition that a window's row is of the event's group."""
        parts = []
        for column in self._settings.windows[name].group_by:
            value: Any = row
            for part in FieldPath.parse(column).names:
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is None or isinstance(value, str | int | float | bool):
                written = "NULL" if value is None else literal(str(value))
                parts.append(f" AND {identifier(column)} IS NOT DISTINCT FROM {written}")
        return "".join(parts)

    def _rejected(self, event: str) -> Iterator[Found]:
        """Dead letters whose original has this id."""
        if not self._access.may_read(f"{self._stream}.dead_letters"):
            yield {"reason": "hidden", "detail": f"dead letters need the scope dead_letters:{self._stream}"}
            return
        text = (
            f"SELECT * FROM {self._table('dead_letters')} WHERE contains(CAST(original AS VARCHAR), {literal(event)})"
            f" ORDER BY _ingested_at DESC LIMIT {LETTERS_MAX}"
        )
        for letter in self._ask(text):
            place = "-".join(str(letter[column]) for column in _PLACE)
            if self._is(letter["original"], event):
                yield {
                    "reason": letter["reason"],
                    "detail": letter["detail"],
                    "rejected_at": _iso(letter["_ingested_at"]),
                    "source": letter["source"],
                    "attempt": letter["attempt"],
                    "log": {"partition": letter["_partition"], "offset": letter["_offset"], "row": letter["_row"]},
                    "send_again": f"eagleray dead-letters replay {self._stream} --id {place}",
                }

    def _is(self, original: bytes, event: str) -> bool:
        """Whether an event that was rejected has this id; one that cannot be read may have it."""
        try:
            value: Any = msgspec.json.decode(original)
        except msgspec.DecodeError:
            return True
        for part in self._id:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value is not None and str(value) == event


def _iso(value: datetime) -> str:
    return iso((value - _EPOCH) // timedelta(microseconds=1))
