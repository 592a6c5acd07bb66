"""A project with one stream and its whole platform in this process: the real workers on the real log and lake, no Ray.

For tests of what a changed configuration does: `configure`, `up`, `send`, `kill` or `stop`, `configure` again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from eagleray.actors.committer import Committer
from eagleray.actors.messages import Topology
from eagleray.actors.peer import LocalPeer
from eagleray.actors.validate.worker import ValidateWorker
from eagleray.actors.window.worker import WindowWorker
from eagleray.actors.writer import worker as writer_module
from eagleray.actors.writer.worker import WriterWorker
from eagleray.cli.app import main
from eagleray.cli.up import _bound, check
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.events.verdict import Answer, Submission
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.window_history import record
from eagleray.cluster.log.backends import open_log
from eagleray.sql.query import Sql

ROUNDS_MAX = 400
TEXT, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
INSTANT = {"type": "string", "format": "date-time"}


def command(*words: str) -> int:
    """The exit code of `eagleray` with these words."""
    try:
        main(words)
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("unreachable")


class StreamProject:
    """The stream `s` with the time `t`; `configure` says how its events look."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "eagleray.yaml"
        self.running: list[Any] = []
        writer_module.POLL_S = 0.002

    def configure(
        self,
        properties: dict[str, Any],
        *,
        stream: str = "s",
        whole: Any = None,
        required: Sequence[str] = (),
        **settings: Any,
    ) -> Config:
        """Write the files: properties of an event besides `t`, settings of the stream; `whole`: of the file."""
        self.directory.mkdir(parents=True, exist_ok=True)
        schema = {"type": "object", "properties": {"t": INSTANT, **properties}, "required": list(required)}
        (self.directory / f"{stream}.json").write_text(json.dumps(schema))
        described = {"schema": f"{stream}.json", "time": "t", **settings}
        text = {"log": {"partitions": 1}, "streams": {stream: described}, **(whole or {})}
        self.file.write_text(yaml.safe_dump(text))
        return self.config

    @property
    def config(self) -> Config:
        return load_config(self.file, environ={})

    def up(self) -> None:
        """Check and start; raises ConfigError as `eagleray up` would print it."""
        streams = check(self.config)
        config = _bound(self.config, streams)
        with closing(open_log(config)) as log:
            self.said = list(map(str, record(Lake.open(config), log, streams)))
        self.validate = ValidateWorker(config)
        self.writer = WriterWorker(config)
        self.window = WindowWorker(config, background=False)
        self.committer = Committer(config)
        keys = [(name, partition) for name in streams for partition in range(config.log.partitions)]
        writer, window = LocalPeer("writer-0", self.writer), LocalPeer("window-0", self.window)
        self.committer.topology = Topology((0, 0), dict.fromkeys(keys, window), dict.fromkeys(keys, writer))
        self.running = [self.writer, self.window]

    def replace_committer(self) -> None:
        """As after a kill: the next one knows nothing, and has the workers that there are."""
        topology = self.committer.topology
        self.committer.log.close()
        self.committer = Committer(self.committer.config)
        self.committer.topology = topology

    def send(self, *events: dict[str, Any], stream: str = "s") -> Answer:
        """Events as one request; what was answered."""
        body = "\n".join(json.dumps(event) for event in events).encode()
        (answer,) = self.validate.submit([Submission(stream, "ndjson", body)])
        return answer

    def accept(self, *events: dict[str, Any], stream: str = "s") -> None:
        """Send events that must all be accepted."""
        answer = self.send(*events, stream=stream)
        assert not answer.rejected, answer.rejected

    def drain(self) -> None:
        """Commit everything that was acked."""
        for _ in range(ROUNDS_MAX):
            self.window.turn()
            if asyncio.run(self._round()):
                return
        raise AssertionError("what was acked is not stored")

    async def _round(self) -> bool:
        written, windowed = await asyncio.gather(self.committer.write_round(), self.committer.window_round())
        return written and windowed

    def kill(self) -> None:
        """End without a word: nothing is saved, nothing is committed."""
        self.writer._stopping.set()
        self.writer._reading.join()
        for part in (self.validate, self.writer, self.window, self.committer):
            getattr(part, "log", getattr(part, "_log", None)).close()
        self.running = []

    def stop(self) -> None:
        """Drain and end as told to."""
        self.drain()
        for worker in self.running:
            worker.stop()
        self.running = []

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The answer of SQL."""
        with Sql(self.config) as sql:
            table = sql.query(query, 30).table
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
