"""The writer worker: log partitions in, Parquet files out. It commits nothing; the committer collects what it staged.

A plain class, run as a threaded actor. Its state is a cache of log and tables: killed at any instruction, its successor
reads the tables' progress from the committer's next `collect` and stages the same rows again; files that were written
and never committed are orphans.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from eagleray.actors.messages import Heard, Order, PartitionId, PartitionReport, Progress, Staged, WorkerReport
from eagleray.actors.writer.partition_reader import Tap
from eagleray.actors.writer.stream_writer import Share
from eagleray.cluster.config import Config
from eagleray.cluster.events.stream import Stream, load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.protocol import EventLog
from eagleray.cluster.pulse import Pulse
from eagleray.cluster.seen_ids import SeenIds
from eagleray.cluster.state.backends import open_state
from eagleray.cluster.telemetry.metrics import sample

logger = logging.getLogger(__name__)

READ_AHEAD_BYTES_MAX = 128 << 20  # of decoded rows; at 350 bytes an event and 2 s a commit, 185,000 events/s per worker
LOOP = "reading ahead"  # each step of a partition is a piece of it
POLL_S = 0.4  # between rounds that found little: each chunk has a fixed cost, so few large ones are cheaper


class WriterWorker:
    """Owns the partitions that `collect` names. Calls of `collect` take turns, and one that comes late is refused."""

    def __init__(
        self,
        config: Config,
        streams: Mapping[str, Stream] | None = None,
        log: EventLog | None = None,
        lake: Lake | None = None,
    ) -> None:
        """Open log and lake and start to read; what is given is used instead (an in-memory log, for one)."""
        self._log = log or open_log(config)
        self._lake = lake or Lake.open(config)
        self.pulse = Pulse()
        self._state = open_state(config, lambda: self.pulse.beat(LOOP, POLL_S))
        self._shares = {
            name: Share(
                stream,
                self._log,
                SeenIds(stream, self._log, self._lake),
                self._lake.write,
                self._lake.stale,
                self._state,
                self._lake.columns(f"{name}.events"),
            )
            for name, stream in (streams or load_streams(config)).items()
        }
        self._collecting = threading.Lock()
        self._heard = Heard()
        self._stopping = threading.Event()
        self._reading = threading.Thread(target=self._read_ahead, name="read-ahead", daemon=True)
        self._reading.start()

    def collect(
        self, owned: Sequence[PartitionId], progress: Mapping[str, Progress], order: Order | None = None
    ) -> WorkerReport:
        """Settle what was staged against the tables' `progress`, take over `owned`, stage what was read since.

        For each stream at most one batch per table, `dead_letters` before `events`: they must be committed in order.
        Raises Outdated where a newer `order` came before.
        """
        with self._collecting:
            self._heard.heed(order)
            staged: list[Staged] = []
            partitions: dict[PartitionId, PartitionReport] = {}
            failing: set[PartitionId] = set()
            for name, share in self._shares.items():
                # 1. settle
                share.settle({partition for stream, partition in owned if stream == name}, progress)
                # 2. stage
                try:
                    staged += share.stage(progress)
                except Exception as error:  # one stream's full disk must not hold up the others
                    share.counters[sample("writer_errors_total", stream=name, error=type(error).__name__)] += 1
                    logger.exception("%s cannot be staged; trying again", name)
                # 3. report
                partitions |= {(name, partition): report for partition, report in share.report().items()}
                failing |= {(name, partition) for partition in share.failing()}
            return WorkerReport(staged, partitions, frozenset(failing))

    def stats(self) -> dict[str, float]:
        """Counters and gauges since the start of this process."""
        shares = list(self._shares.values())
        found = {"writer_buffered_bytes": float(sum(tap.buffered_bytes for tap in self._taps()))}
        return found | {key: value for share in shares for key, value in list(share.counters.items())}

    def stop(self) -> None:
        """Stop reading, save the identifiers, close the log. Nothing staged is lost: the log has it."""
        self._stopping.set()
        self._reading.join()
        self._close_retired()
        for tap in self._taps():
            tap.close(save=True)
        self._state.close()
        self._log.close()

    def _read_ahead(self) -> None:
        while not self._stopping.is_set():
            more = False
            self._close_retired()
            for tap in self._taps():
                self.pulse.beat(LOOP, POLL_S)
                if sum(each.buffered_bytes for each in self._taps()) < READ_AHEAD_BYTES_MAX:
                    more |= tap.step()
            self.pulse.beat(LOOP, POLL_S)
            if not more:
                self._stopping.wait(POLL_S)
        self.pulse.rest(LOOP)

    def _close_retired(self) -> None:
        for share in self._shares.values():
            while share.retired:
                share.retired.popleft().close(save=False)

    def _taps(self) -> list[Tap]:
        return [tap for share in list(self._shares.values()) for tap in list(share.taps.values())]
