"""A project without Ray: events are acked, rows are written and committed by the real parts in this process."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from eagleray.actors.messages import PartitionId
from eagleray.actors.validate.worker import ValidateWorker
from eagleray.actors.writer import worker as writer_module
from eagleray.actors.writer.worker import WriterWorker
from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.continuity import bind
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.lake.lake import Beside, Lake
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.recovery import Recovered, Recovery

SCHEMA = {
    "type": "object",
    "required": ["t", "n"],
    "properties": {"t": {"type": "string", "format": "date-time"}, "n": {"type": "integer"}, "id": {"type": "string"}},
}


class AckingProject:
    """One partition unless said otherwise; the stream `s` is deduplicated by `id`, `free` is not."""

    def __init__(self, directory: Path, clock: Clock | None = None, partitions: int = 1, **stream: Any) -> None:
        """Write the project; `stream` are settings of both streams."""
        self.clock = clock or SystemClock()
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "s.json").write_text(json.dumps(SCHEMA))
        both = {"schema": "s.json", "time": "t", **stream}
        text = {"log": {"partitions": partitions}, "streams": {"s": {**both, "id": "id"}, "free": both}}
        (directory / "eagleray.yaml").write_text(json.dumps(text))  # JSON is YAML
        self.config: Config = load_config(directory / "eagleray.yaml", environ={})
        self.streams = load_streams(self.config)
        self.lake = Lake.open(self.config)
        self.validator: ValidateWorker | None = None

    def records(self, stream: str = "s") -> Path:
        """The stream's log file."""
        return self.config.log_dir / stream / "records.db"

    def up(self) -> None:
        """As `eagleray up` does before it starts workers; raises what it would raise."""
        with closing(open_log(self.config, self.clock)) as log:
            bound = bind(self.config, self.lake, log, self.streams)
        self.lake.ensure(self.streams, bound.said)
        self.bound = self.config.bound(bound.epochs, seed=bound.seed)
        self.validator = ValidateWorker(self.bound, self.clock)

    def down(self) -> None:
        """Stop."""
        if self.validator is not None:
            self.validator.close()
            self.validator = None

    def send(self, *numbers: int, stream: str = "s", id: str | None = None, key: str | None = None) -> int:
        """Events with these numbers in one request; returns how many were acked.

        `id`: all have this one, instead of one by number. `key`: the request's Idempotency-Key.
        """
        assert self.validator is not None
        events = [{"t": "2026-01-01T12:00:00Z", "n": n, "id": id or f"id-{n}"} for n in numbers]
        body = b"\n".join(json.dumps(event).encode() for event in events)
        (answer,) = self.validator.submit([Submission(stream, "ndjson", body, idempotency_key=key)])
        return answer.accepted

    def reject(self, text: bytes = b"{broken", stream: str = "s") -> None:
        """An event that becomes a dead letter."""
        assert self.validator is not None
        self.validator.submit([Submission(stream, "ndjson", text)])

    def store(self, save: bool = True) -> None:
        """Write and commit all that the logs hold; `save` the identifiers as a writer that is stopped does."""
        writer_module.POLL_S = 0.001
        writer = WriterWorker(self.bound, self.streams, open_log(self.bound, self.clock), self.lake)
        owned: list[PartitionId] = [(s, p) for s in self.streams for p in range(self.config.log.partitions)]
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                progress = {table: self.lake.progress(table) for table in self.lake.tables()}
                report = writer.collect(owned, progress)
                for batch in report.staged:
                    beside = Beside(marks=batch.marks)
                    self.lake.commit(batch.table, batch.files, batch.begins, batch.ends, beside)
                behind = [r for r in report.partitions.values() if r.position < r.end]
                if not report.staged and not behind and len(report.partitions) == len(owned):
                    return
            raise AssertionError("the writer does not get to the end of the log")
        finally:
            if save:
                writer.stop()
            else:
                writer._stopping.set()
                writer._reading.join()
                writer._log.close()

    def recover(self, stream: str = "s", *files: Path, always: bool = False) -> Recovered | None:
        """As `eagleray recover` does."""
        with closing(open_log(self.config, self.clock)) as log:
            return Recovery(self.config, self.lake, log, self.streams, self.clock).recover(stream, files, always)

    def numbers(self, stream: str = "s") -> list[int]:
        """`n` of every row of `events`, sorted."""
        return sorted(self.lake.read(f"{stream}.events", ["n"]).column("n").to_pylist())

    def offsets(self, stream: str = "s") -> dict[int, int]:
        """By `n`, the offset of its row."""
        rows = self.lake.read(f"{stream}.events", ["n", "_offset"]).to_pylist()
        return {row["n"]: row["_offset"] for row in rows}

    def letters(self, stream: str = "s") -> list[bytes]:
        """The originals of the dead letters, sorted."""
        return sorted(self.lake.read(f"{stream}.dead_letters", ["original"]).column("original").to_pylist())
