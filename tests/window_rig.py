"""A stream `s` on a log in memory and a lake on disk, with the real window worker and committer, driven by hand.

`up` starts them as `eagleray up` does, with whatever configuration; `kill` lets them go without a word.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from eagleray.actors.committer import Committer
from eagleray.actors.messages import PartitionId, Topology, partition_key
from eagleray.actors.peer import LocalPeer
from eagleray.actors.window.worker import WindowWorker
from eagleray.actors.writer.rows import event_rows, log_columns
from eagleray.cluster.clock import ManualClock, iso
from eagleray.cluster.config import load_config
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.window_history import record
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.protocol import Entry, Kind
from eagleray.cluster.log.reader import PartitionReader
from eagleray.cluster.log.record import encode_batch

SECOND = 1_000_000
DAY_US = 86_400 * SECOND
DAY = "2015-09-12"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "t": {"type": "string", "format": "date-time"},
        "k": {"type": "string"},
        "g": {"type": "string"},
        "v": {"type": "integer"},
    },
    "required": ["t"],
}
COUNT: dict[str, Any] = {"tumble": "1m", "group_by": ["k"], "aggregate": {"n": "count()"}}


def us(text: str) -> int:
    """`12:00:05` of DAY, or a whole instant."""
    found = datetime.fromisoformat(text if "T" in text else f"{DAY}T{text}").replace(tzinfo=UTC)
    return round(found.timestamp() * SECOND)


class WindowRig:
    """One stream with `partitions`; `settings` are the stream's. `t` or `t2`, whichever is no time, is a day off."""

    def __init__(self, directory: Path, partitions: int = 1, **settings: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.partitions = directory, partitions
        self.clock = ManualClock(us("23:00:00"))  # no event is ahead of it
        self.log: Any = None
        self.up(**settings)

    def up(self, schema: dict[str, Any] | None = None, **settings: Any) -> list[str]:
        """Start with this configuration; what changed, as `up` says it."""
        (self.directory / "s.json").write_text(json.dumps(schema or SCHEMA))
        stream = {"schema": "s.json", "time": "t", "key": "k", "idle_timeout": "2s", "windows": {"w": COUNT}} | settings
        whole = {"log": {"backend": "memory", "partitions": self.partitions}, "streams": {"s": stream}}
        (self.directory / "eagleray.yaml").write_text(yaml.safe_dump(whole))
        self.config = load_config(self.directory / "eagleray.yaml", environ={})
        self.log = self.log or open_log(self.config, self.clock)
        self.streams = load_streams(self.config)
        self.stream = self.streams["s"]
        self.lake = Lake.open(self.config)
        self.lake.ensure(self.streams)
        said = [str(change) for change in record(self.lake, self.log, self.streams)]
        self.worker = WindowWorker(self.config, self.clock, self.log, self.lake, background=False)
        self.committer = Committer(self.config, self.clock)
        return said

    def kill(self, snapshot: bool = False) -> None:
        """End without a word; with `snapshot`, the last one was saved just before."""
        for partition in self.worker._held.values():
            if snapshot:
                partition.snapshot()
            partition.close()

    def post(
        self, *times: str, partition: int = 0, k: Sequence[str] | str = "a", v: int = 1, wait: bool = False
    ) -> None:
        """One record for each of `times`; `wait`: not read before the platform is killed."""
        for time in times:
            self.append(partition, [(us(time), k if isinstance(k, str) else k[0], v)])
        if not wait:
            self.settle()

    def append(self, partition: int, events: Sequence[tuple[int, str, Any]]) -> None:
        """One record of (time, k, v)."""
        kind = self.stream.events.arrow.field("t").type
        texts = [iso(t).removesuffix("Z") for t, *_ in events]
        other = "t" if self.stream.time.names == ("t2",) else "t2"
        columns = {
            self.stream.time.names[0]: pa.array(texts)
            if kind == pa.string()
            else pa.array([t for t, *_ in events], pa.int64()).cast(kind),
            other: pa.array([t - DAY_US for t, *_ in events], pa.int64()).cast(pa.timestamp("us", "UTC")),
            "k": [k for _, k, _ in events],
            "g": [f"g{t % 3}" for t, *_ in events],
            "v": [v for *_, v in events],
            "_time": [t for t, *_ in events],
            "_source": ["test"] * len(events),
        }
        schema = self.stream.log_schema
        arrays = [columns.get(name, [None] * len(events)) for name in schema.names]
        found = [a if isinstance(a, pa.Array) else pa.array(a, f.type) for a, f in zip(arrays, schema, strict=True)]
        batch = pa.RecordBatch.from_arrays(found, schema=schema)
        self.log.append("s", [Entry(partition, Kind.EVENTS, len(events), encode_batch(batch))])

    def read(self) -> None:
        while self.worker.turn():
            pass

    def round(self) -> bool:
        """One of the committer's rounds."""
        owned: dict[PartitionId, Any] = {("s", p): LocalPeer("window", self.worker) for p in range(self.partitions)}
        self.committer.topology = Topology((1, 0), owned)
        return asyncio.run(self.committer.window_round())

    def settle(self) -> None:
        """Rounds until nothing moves any more."""
        for _ in range(3):
            self.round()
            self.read()
        self.round()

    def store(self, upto: int | None = None) -> None:
        """Put all that the log holds (records below `upto`) into `events`, as a writer does."""
        for partition in range(self.partitions):
            key, end = partition_key(partition), self.log.bounds("s", partition).end
            begin = self.lake.progress("s.events").get(key, 0)
            reader = PartitionReader(self.log, self.stream, partition, begin, None, log_columns(self.stream, None))
            while reader.position < min(end, end if upto is None else upto):
                at = reader.position
                chunk = reader.read(1)
                rows = event_rows({partition: [chunk]})
                files = self.lake.write("s.events", rows) if rows is not None else []
                self.lake.commit("s.events", files, {key: at}, {key: chunk.end})

    def lose_state(self, trim: bool = True) -> None:
        """Everything below `state` is gone, and the log is trimmed as far as the tables allow."""
        self.kill()
        shutil.rmtree(self.config.state_dir, ignore_errors=True)
        for partition in range(self.partitions) if trim else ():
            key = partition_key(partition)
            upto = min(self.lake.progress(f"s.{table}").get(key, 0) for table in ("events", "late"))
            self.log.trim("s", partition, upto, 1 << 60)

    def decide(self) -> None:
        """Let `late` move on without rows, as it does now and then."""
        self.worker._late._moved_at["s.late"] = -1e9
        self.settle()

    def rows(self, window: str = "w", *columns: str) -> list[tuple]:
        """(start as HH:MM:SS, group columns and aggregates) of final rows, in order of the table's columns."""
        table = self.lake.read(f"s.{window}")
        names = columns or [name for name in table.column_names if name != "window_end"]
        found = table.select(list(names))
        at = [iso(start)[11:19] for start in found.column("window_start").cast(pa.int64()).to_pylist()]
        rest = [found.column(name).to_pylist() for name in names if name != "window_start"]
        return sorted(zip(at, *rest, strict=True))

    def spans(self, window: str = "w") -> list[tuple[int, int, dict[str, Any]]]:
        """(start, end, row) of final rows, in µs."""
        table = self.lake.read(f"s.{window}")
        ends = [table.column(name).cast(pa.int64()).to_pylist() for name in ("window_start", "window_end")]
        return list(zip(*ends, table.to_pylist(), strict=True))

    def open(self, window: str = "w") -> list[dict[str, Any]]:
        """Rows of open windows."""
        found, _ = asyncio.run(self.committer.windows("s", window, None, None, None, 10_000))
        return [row for row in found if not row["final"]]

    def late(self, window: str = "w") -> list[tuple[str, int]]:
        """(start, offset) of late rows."""
        table = self.lake.read("s.late")
        mine = [row for row in table.to_pylist() if row["window"] == window]
        return sorted((f"{row['window_start']:%H:%M:%S}", row["_offset"]) for row in mine)
