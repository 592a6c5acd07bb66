"""Validates events and makes them durable: judges submissions, appends to the log, and only then answers.

Called by the edge with micro-batches; the window and writer workers read what it appends. It holds no state but
counters, so it may be killed at any instruction: what was not answered may or may not be stored, and a retry is told
apart by id or Idempotency-Key. A plain class: the pool makes actors of it, with several calls in flight.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence

from eagleray.actors.validate.log_health import LogHealth
from eagleray.actors.validate.records import Records
from eagleray.cluster.clock import Clock, SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import LogUnavailable, RecordTooLarge
from eagleray.cluster.events.fast_path import library
from eagleray.cluster.events.judge import Judge, Judged
from eagleray.cluster.events.seeded_hash import hash_seed
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import REASONS, Answer, Submission, pack, unpack_submissions
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.protocol import Entry, Kind
from eagleray.cluster.telemetry import tracing
from eagleray.cluster.telemetry.metrics import sample


class ValidateWorker:
    """One worker of the validate pool. Its methods may run in several threads at once."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        """Opens the log and prepares every stream; raises ConfigError, LogUnavailable."""
        self._clock = clock or SystemClock()
        seed = hash_seed(config)
        streams = load_streams(config)
        self._judges = {name: Judge(stream, config.edge, seed) for name, stream in streams.items()}
        self._log = open_log(config, self._clock)
        self._health = LogHealth(self._log, config.log_dir, streams)
        self._records = Records(self._log.partitions)
        self._counters: defaultdict[str, float] = defaultdict(
            float, {"validate_fast_path": float(library() is not None)}
        )
        # From 0 on, so that the first of each is an increase for whoever compares two looks.
        self._counters |= {
            sample("validate_rejections_total", stream=s, reason=r): 0.0 for s in streams for r in REASONS
        }
        self._judging = threading.Lock()  # in turns: two that judge at once take the interpreter's lock from each other
        self._mutex = threading.Lock()
        for name, judge in self._judges.items():  # what the first request would wait for, some 100 ms
            self._records.entries(judge.judge([Submission(name, "ndjson", b"{}\n[]")], self._clock.now_us()))

    def serve(self, packed: bytes) -> bytes:
        """`submit` between processes: packed submissions in, packed answers out."""
        return pack(self.submit(unpack_submissions(packed)))

    def submit(self, submissions: Sequence[Submission]) -> list[Answer]:
        """Judge and store; one answer per submission, in order, when everything of it is durable.

        Raises KeyError for a stream that the configuration does not have (the edge asks first), and LogUnavailable:
        then nothing may be acked, whatever part of it was written.
        """
        by_stream: dict[str, list[int]] = {}
        for at, submission in enumerate(submissions):
            by_stream.setdefault(submission.stream, []).append(at)
        if unknown := set(by_stream) - set(self._judges):
            raise KeyError(f"unknown stream {sorted(unknown)[0]!r}")
        answers: dict[int, Answer] = {}
        for stream, places in by_stream.items():
            found = self._store(stream, [submissions[at] for at in places])
            answers |= zip(places, found, strict=True)
        return [answers[at] for at in range(len(submissions))]

    def _store(self, stream: str, submissions: list[Submission]) -> list[Answer]:
        with tracing.begin("validate", (one.trace for one in submissions if one.trace), stream=stream) as spans:
            return self._stored(stream, submissions, spans.contexts)

    def _stored(self, stream: str, submissions: list[Submission], traces: Sequence[str]) -> list[Answer]:
        # 1. judge  2. append, which returns after fsync  3. answer
        with self._judging:
            began = time.perf_counter()
            judged = self._judges[stream].judge(submissions, self._clock.now_us())
            try:
                entries = self._records.entries(judged, self._log.record_bytes_max, traces)
            except RecordTooLarge as error:
                too_large: str | None = str(error)
            else:
                too_large = None
            judged_at = time.perf_counter()
        if too_large is not None:  # nothing was written: all but the one that it is go on
            if len(submissions) == 1:
                return [Answer(too_large=too_large)]
            return [self._store(stream, [submission])[0] for submission in submissions]
        if entries:
            with tracing.begin("append to the log", traces, stream=stream, records=len(entries)):
                _check_written(stream, entries, judged, self._health.append(stream, entries))
        self._count(stream, submissions, judged, judged_at - began, time.perf_counter() - judged_at)
        return judged.answers

    def _count(
        self, stream: str, submissions: list[Submission], judged: Judged, judge_s: float, append_s: float
    ) -> None:
        counted = [
            (sample("validate_events_total", stream=stream), judged.batch.num_rows),
            (sample("validate_bytes_total", stream=stream), sum(len(submission.body) for submission in submissions)),
            (sample("validate_judge_seconds_total"), judge_s),
            (sample("validate_append_seconds_total"), append_s),
        ]
        counted += [(sample("validate_rejections_total", stream=stream, reason=r.reason), 1) for r, _ in judged.rejects]
        with self._mutex:
            for name, value in counted:
                self._counters[name] += value

    def stats(self) -> dict[str, float]:
        """Counters since the start of this worker, and whether it judges in C."""
        with self._mutex:
            found = dict(self._counters)
        for (stream, error), count in list(self._health.errors.items()):  # by stream and class
            found[sample("log_errors_total", stream=stream, operation="append", error=error)] = count
        return found

    def problems(self) -> dict[str, str]:
        """Why events cannot be stored now, as far as is known; for readiness."""
        problem = self._health.problem()
        return {"log": problem} if problem else {}

    def close(self) -> None:
        """Release the log."""
        self._health.close()
        self._log.close()


def _check_written(stream: str, entries: Sequence[Entry], judged: Judged, offsets: Sequence[int]) -> None:
    """The last look before the ack: each record has an offset, and the records hold each event that is acked.

    Raises LogUnavailable.
    """
    if len(offsets) != len(entries):
        raise LogUnavailable(f"log {stream}: {len(offsets)} offsets for {len(entries)} records; nothing is acked")
    written = sum(entry.rows for entry in entries if entry.kind == Kind.EVENTS)
    acked = sum(answer.accepted for answer in judged.answers)
    if written != acked:
        raise LogUnavailable(f"log {stream}: {written} events written, {acked} accepted; nothing is acked")
