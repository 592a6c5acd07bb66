"""Dead letters as the lake holds them: which are meant, and reading them page by page. Used by `dead-letters`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.events.verdict import REASONS
from eagleray.cluster.near_names import instead
from eagleray.sql.query import Sql

PAGE = 500  # dead letters of one query
QUERY_TIMEOUT_S = 60.0


class DeadLetter(NamedTuple):
    """One rejected event; `id` is its place in the log: partition-offset-row."""

    id: str
    original: bytes
    reason: str
    detail: str
    ingested_at: str
    source: str
    attempt: int


class Filter(NamedTuple):
    """Which dead letters are meant; empty: all."""

    reason: str | None = None
    since: str | None = None
    until: str | None = None
    id: str | None = None

    def sql(self) -> str:
        """As a predicate over the table; raises ConfigError for what cannot be meant."""
        parts = ["true"]
        if self.reason is not None:
            if self.reason not in REASONS:
                raise ConfigError("--reason", f"expected one of {', '.join(REASONS)}, not {self.reason!r}")
            parts.append(f"reason = '{self.reason}'")
        for option, text, sign in (("--since", self.since, ">="), ("--until", self.until, "<")):
            if text is not None:
                parts.append(f"_ingested_at {sign} TIMESTAMPTZ '{_time(option, text)}'")
        if self.id is not None:
            numbers = self.id.split("-")
            if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
                raise ConfigError("ID", f"expected partition-offset-row as `list` shows it, not {self.id!r}")
            parts += [f"{c} = {n}" for c, n in zip(("_partition", "_offset", "_row"), numbers, strict=True)]
        return " AND ".join(parts)


def _time(option: str, text: str) -> str:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(option, f"expected ISO 8601, such as 2026-06-01T12:00:00Z, not {text!r}") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).isoformat()


class Letters:
    """Dead letters in the lake of a project; works whether or not the platform runs."""

    def __init__(self, config: Path | Config) -> None:
        """`config`, or the file it is in; raises ConfigError."""
        config = load_config(config) if isinstance(config, Path) else config
        self.streams = sorted(config.streams)
        self._sql = Sql(config)
        self._made = bool(self._sql.query("SHOW TABLES", QUERY_TIMEOUT_S).table.num_rows)

    def __enter__(self) -> Letters:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the parser."""
        self._sql.close()

    def known(self, stream: str) -> str:
        """`stream`, if there is one of that name; raises ConfigError."""
        if stream not in self.streams:
            raise ConfigError("STREAM", f"no stream is called {stream!r}{instead(stream, self.streams)}")
        return stream

    def counts(self, stream: str, where: str) -> dict[str, int]:
        """How many by reason, most frequent first."""
        sql = f"SELECT reason, count(*) AS n FROM {_table(stream)} WHERE {where} GROUP BY ALL"
        return {row["reason"]: row["n"] for row in self._rows(f"{sql} ORDER BY n DESC, reason")}

    def newest(self, stream: str, where: str, limit: int) -> list[DeadLetter]:
        """At most `limit`, newest first."""
        sql = f"SELECT {_COLUMNS} FROM {_table(stream)} WHERE {where}"
        return [_letter(row) for row in self._rows(f"{sql} ORDER BY {_PLACE_DOWN} LIMIT {limit}")]

    def pages(self, stream: str, where: str) -> Iterator[list[DeadLetter]]:
        """Those that are there now, by attempt and age, PAGE at a time; of the same bytes only the last attempt."""
        table = _table(stream)
        # What is rejected again while the pages are read must not become one of them.
        (now,) = self._rows(f"SELECT max(_ingested_at) AS newest FROM {table}")
        if now["newest"] is None:
            return
        where += f" AND _ingested_at <= TIMESTAMPTZ '{now['newest'].isoformat()}'"
        nth = f"row_number() OVER (PARTITION BY original ORDER BY attempt DESC, {_PLACE_DOWN})"
        latest = f"SELECT {_COLUMNS}, {nth} AS nth FROM {table} WHERE {where}"
        key, last = ", ".join(_KEY), "0, -1, -1, -1"
        while True:
            sql = f"SELECT * FROM ({latest}) WHERE nth = 1 AND ({key}) > ({last}) ORDER BY {key} LIMIT {PAGE}"
            rows = self._rows(sql)
            if rows:
                yield [_letter(row) for row in rows]
            if len(rows) < PAGE:
                return
            last = ", ".join(str(rows[-1][name]) for name in _KEY)

    def _rows(self, sql: str) -> list[dict[str, Any]]:
        if not self._made:
            raise EaglerayError("there are no tables yet: `eagleray up` makes them")
        rows: list[dict[str, Any]] = self._sql.query(sql, QUERY_TIMEOUT_S).table.to_pylist()
        return rows


def _table(stream: str) -> str:
    return f'"{stream}".dead_letters'  # a stream may be called `order`


_KEY = ("attempt", "_partition", "_offset", "_row")
_PLACE_DOWN = "_ingested_at DESC, _partition DESC, _offset DESC, _row DESC"
_COLUMNS = "original, reason, detail, _ingested_at, source, attempt, _partition, _offset, _row"


def _letter(row: dict[str, Any]) -> DeadLetter:
    identity = f"{row['_partition']}-{row['_offset']}-{row['_row']}"
    time = row["_ingested_at"].isoformat().replace("+00:00", "Z")
    return DeadLetter(
        identity, bytes(row["original"]), row["reason"], row["detail"], time, row["source"], int(row["attempt"])
    )
