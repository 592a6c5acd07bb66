"""Judges requests of one stream: bodies in, one Arrow batch of the accepted events and one answer per request out.

Called by the validate workers. Neighbours: `reading` (bodies to rows), `columns` (rows to Arrow), `arbiter` (the last
word), `identity` (ids and partitions). The fast path accepts only what the arbiter accepts, with equal values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.clock import iso
from cluster.config import EdgeConfig
from cluster.duration import format_duration
from cluster.events.arbiter import DETAIL_MAX, Acceptance, Arbiter
from cluster.events.columns import EventColumns, Pivot, Suspects
from cluster.events.event_time import EventTime
from cluster.events.identity import FieldReader, Identity, id_column
from cluster.events.instants import MAX_US
from cluster.events.reading import Reader, Reading
from cluster.events.rules import validator
from cluster.events.stream import Stream
from cluster.events.verdict import Answer, Rejection, Submission


@dataclass(frozen=True)
class Judged:
    """The verdict on some submissions. Rows are in the order of submissions, and of events within each."""

    batch: pa.RecordBatch  # of Stream.log_schema: the accepted events
    partition_hash: np.ndarray  # (rows,) uint64; the partition is this modulo the number of partitions
    answers: list[Answer]  # one per submission
    rejects: list[tuple[Rejection, Submission]]  # with the submission of each


@dataclass
class _Rows:
    """Rows of all submissions on their way into columns; all lists run parallel."""

    readings: list[Reading]
    structs: list[Any]
    extras: list[bytes | None] | None
    submission: np.ndarray  # (n,) the submission of each row
    position: np.ndarray  # (n,) its position among the rows of its reading

    @classmethod
    def of(cls, readings: list[Reading]) -> _Rows:
        counts = [len(reading.rows) for reading in readings]
        structs = readings[0].rows if len(readings) == 1 else [row for reading in readings for row in reading.rows]
        extras = None
        if any(reading.extras for reading in readings):
            extras = [e for r, n in zip(readings, counts, strict=True) for e in (r.extras or [None] * n)]
        position = np.concatenate([np.arange(n) for n in counts]) if counts else np.empty(0, np.int64)
        return cls(readings, structs, extras, np.repeat(np.arange(len(counts)), counts), position)

    def keep(self, mask: np.ndarray) -> _Rows:
        at = np.flatnonzero(mask)
        extras = [self.extras[i] for i in at] if self.extras is not None else None
        return _Rows(self.readings, [self.structs[i] for i in at], extras, self.submission[at], self.position[at])

    def reading(self, row: int) -> Reading:
        return self.readings[int(self.submission[row])]

    def original(self, row: int) -> bytes:
        return self.reading(row).original(int(self.position[row]))

    def reject(self, row: int, reason: Any, detail: str) -> None:
        reading = self.reading(row)
        index = reading.index(int(self.position[row]))
        reading.rejections.append(Rejection(index, reason, detail, self.original(row)))


class Judge:
    """Judges submissions to one stream. Threads may share it."""

    def __init__(self, stream: Stream, edge: EdgeConfig, hash_seed: int) -> None:
        """`edge` sets the limits on size and depth; `hash_seed` is the data directory's (`hashing.hash_seed`)."""
        shape = stream.events.shape()
        self.stream = stream
        self._arbiter = Arbiter(stream, edge)
        self._reader = Reader(shape, self._arbiter, edge.event_bytes_max)
        self._columns = EventColumns(shape, validator(stream.events.document), self._arbiter.depth_max)
        self._time = EventTime(stream)
        self._time_field = FieldReader(shape, stream.time)
        self._id_field = FieldReader(shape, stream.id) if stream.id else None
        self._identity = Identity(self._id_field, FieldReader(shape, stream.key) if stream.key else None, hash_seed)
        self._schema = stream.log_schema

    def judge(self, submissions: Sequence[Submission], now_us: int) -> Judged:
        """Judge all events of all submissions; `now_us` is the wall clock, for what lies too far in the future."""
        # 1. bodies to rows  2. rows to columns, the doubtful to the arbiter  3. the future  4. ids and partitions
        rows = _Rows.of([self._reader.read(submission) for submission in submissions])
        try:
            rows, pivot, times = self._build(rows)
        except Exception:  # an event that nobody foresaw: find it, and judge the others
            rows, pivot, times = self._build(rows.keep(self._sound(rows)))
        limit = now_us + self.stream.config.max_future
        if len(times) and times.max() > limit:
            rows, pivot, times = self._refuse_future(rows, pivot, times, limit)
        ids = self._identity.ids(pivot, self._tokens(rows, submissions))
        hashes = self._identity.partition_hashes(pivot, ids)
        sources = self._sources(rows, submissions)
        extras = pa.nulls(len(ids), pa.string()) if rows.extras is None else pa.array(rows.extras, pa.string())
        columns = [*pivot.arrays, pa.array(times), id_column(ids), sources, extras]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        return Judged(batch, hashes, self._answers(rows, ids), _rejects(rows.readings, submissions))

    def _build(self, rows: _Rows) -> tuple[_Rows, Pivot, np.ndarray]:
        suspects = Suspects()
        pivot = self._columns.pivot(rows.structs, suspects)
        times, bad = self._time.column(self._time_field.column(pivot.arrays))
        suspects.add(None, bad)
        if self._id_field is not None and (found := self._id_field.column(pivot.arrays)).null_count:
            suspects.add(None, ~np.asarray(found.is_valid()))
        doubtful = suspects.rows()
        if self._arbiter.model is not None:
            doubtful = sorted({*doubtful, *self._objected(rows)})
        if not doubtful:
            return rows, pivot, times
        rows = self._arbitrated(rows, doubtful)
        pivot = self._columns.pivot(rows.structs, None)
        return rows, pivot, self._time.column(self._time_field.column(pivot.arrays))[0]

    def _sound(self, rows: _Rows) -> np.ndarray:
        """Which rows can be built, (n,) bool; the others are rejected. Bisects, so that one odd row costs little."""
        sound = np.ones(len(rows.structs), bool)
        spans = [(0, len(rows.structs))]
        while spans:
            begin, end = spans.pop()
            span = np.zeros(len(sound), bool)
            span[begin:end] = True
            try:
                self._columns.pivot(rows.keep(span).structs, Suspects())
            except Exception as error:
                if end - begin > 1:
                    middle = (begin + end) // 2
                    spans += [(begin, middle), (middle, end)]
                else:
                    sound[begin] = False
                    rows.reject(begin, "schema", f"could not be judged: {type(error).__name__}: {error}"[:DETAIL_MAX])
        return sound

    def _objected(self, rows: _Rows) -> list[int]:
        model = self._arbiter.model
        assert model is not None
        return [row for row in range(len(rows.structs)) if model.objection(rows.original(row)) is not None]

    def _arbitrated(self, rows: _Rows, doubtful: list[int]) -> _Rows:
        kept = np.ones(len(rows.structs), bool)
        rows = _Rows(rows.readings, list(rows.structs), rows.extras, rows.submission, rows.position)
        rows.extras = rows.extras or [None] * len(kept)
        for row in doubtful:
            verdict = self._arbiter.judge(rows.original(row))
            if isinstance(verdict, Acceptance):
                rows.structs[row], rows.extras[row] = verdict.row, verdict.extra
            else:
                kept[row] = False
                rows.reject(row, verdict.reason, verdict.detail)
        return rows.keep(kept)

    def _refuse_future(
        self, rows: _Rows, pivot: Pivot, times: np.ndarray, limit: int
    ) -> tuple[_Rows, Pivot, np.ndarray]:
        kept = times <= limit
        ahead = f"more than {format_duration(self.stream.config.max_future)} ahead of the clock (max_future)"
        for row in np.flatnonzero(~kept).tolist():
            time_us = min(int(times[row]), MAX_US)
            rows.reject(row, "future", f"{self.stream.time.column}: {iso(time_us)} is {ahead}")
        return rows.keep(kept), pivot.keep(kept), times[kept]

    def _tokens(self, rows: _Rows, submissions: Sequence[Submission]) -> list[str | None] | None:
        """What identifies events that have no id of their own: source, Idempotency-Key and index."""
        if self._id_field is not None or not any(submission.idempotency_key for submission in submissions):
            return None
        tokens: list[str | None] = []
        for at, position in zip(rows.submission.tolist(), rows.position.tolist(), strict=True):
            submission = submissions[at]
            index = rows.readings[at].index(position)
            key = submission.idempotency_key
            tokens.append(f"{submission.source}\0{key}\0{index}" if key else None)
        return tokens

    @staticmethod
    def _sources(rows: _Rows, submissions: Sequence[Submission]) -> pa.Array:
        if len({submission.source for submission in submissions}) == 1:
            return pa.repeat(pa.scalar(submissions[0].source, pa.string()), len(rows.structs))
        return pa.array([submission.source for submission in submissions], pa.string()).take(pa.array(rows.submission))

    @staticmethod
    def _answers(rows: _Rows, ids: Sequence[bytes | None]) -> list[Answer]:
        accepted = np.bincount(rows.submission, minlength=len(rows.readings)).tolist()
        duplicates = _duplicates(rows, ids)
        answers = []
        for at, reading in enumerate(rows.readings):
            rejected = [(r.index, r.reason, r.detail) for r in reading.rejections]
            answers.append(Answer(accepted[at], sorted(rejected), reading.malformed, duplicates[at]))
        return answers


def _duplicates(rows: _Rows, ids: Sequence[bytes | None]) -> list[int]:
    """Per submission, how many of its ids came earlier in this batch."""
    counts = [0] * len(rows.readings)
    if len(set(ids)) == len(ids):
        return counts
    seen: set[bytes] = set()
    for id_, submission in zip(ids, rows.submission.tolist(), strict=True):
        if id_ is not None:
            counts[submission] += id_ in seen
            seen.add(id_)
    return counts


def _rejects(readings: Sequence[Reading], submissions: Sequence[Submission]) -> list[tuple[Rejection, Submission]]:
    found = []
    for reading, submission in zip(readings, submissions, strict=True):
        found += [(r, submission) for r in sorted(reading.rejections, key=lambda r: r.index)]
    return found
