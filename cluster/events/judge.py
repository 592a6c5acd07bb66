"""Judges requests of one stream: bodies in, one Arrow batch of the accepted events and one answer per request out.

Called by the validate workers. Neighbours: `fast_path` (bodies to Arrow, where nothing is
doubtful), else `json_reader` (bodies to rows) and `columns` (rows to Arrow), `arbiter` (the last
word), `event_identity` (ids and partitions). Either fast path accepts only what the arbiter
accepts, with equal values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from eagleray.cluster.clock import iso
from eagleray.cluster.events.arbiter import DETAIL_MAX, Acceptance, Arbiter
from eagleray.cluster.events.array_items import ItemLimits
from eagleray.cluster.events.columns import EventColumns, Suspects
from eagleray.cluster.events.event_identity import FieldReader, Identity, id_column
from eagleray.cluster.events.event_time import EventTime
from eagleray.cluster.events.fast_path import CleanReader
from eagleray.cluster.events.instants import MAX_US
from eagleray.cluster.events.json_reader import Reader, Reading
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.events.validator import validator
from eagleray.cluster.events.verdict import Answer, Rejection, Submission
from eagleray.cluster.hidden_paths import without_paths
from eagleray.cluster.quantities import format_duration
from eagleray.cluster.sections import EdgeConfig


@dataclass(frozen=True)
class Judged:
    """The verdict on some submissions. Rows are in the order of submissions, and of events within each."""

    batch: pa.RecordBatch  # of Stream.log_schema: the accepted events
    partition_hash: np.ndarray  # (rows,) uint64; the partition is this modulo the number of partitions
    answers: list[Answer]  # one per submission
    rejects: list[tuple[Rejection, Submission]]  # with the submission of each


@dataclass
class _Rows:
    """Rows of some submissions; all lists run parallel."""

    readings: list[Reading]  # one per submission
    structs: list[Any]  # empty where the columns were there first, as are extras then
    extras: list[bytes | None] | None
    submission: np.ndarray  # (n,) the submission of each row
    position: np.ndarray  # (n,) its position among the rows of its reading

    @classmethod
    def of(cls, readings: list[Reading]) -> _Rows:
        structs = readings[0].rows if len(readings) == 1 else [row for reading in readings for row in reading.rows]
        extras = None
        if any(reading.extras for reading in readings):
            extras = [e for reading in readings for e in (reading.extras or [None] * len(reading.rows))]
        return cls(readings, structs, extras, *_places([len(reading.rows) for reading in readings]))

    def __len__(self) -> int:
        return len(self.submission)

    def keep(self, mask: np.ndarray) -> _Rows:
        at = np.flatnonzero(mask)
        structs = [self.structs[i] for i in at] if self.structs else []
        extras = [self.extras[i] for i in at] if self.extras is not None else None
        return _Rows(self.readings, structs, extras, self.submission[at], self.position[at])

    def reading(self, row: int) -> Reading:
        return self.readings[int(self.submission[row])]

    def original(self, row: int) -> bytes:
        return self.reading(row).original(int(self.position[row]))

    def reject(self, row: int, reason: Any, detail: str) -> None:
        reading = self.reading(row)
        index = reading.index(int(self.position[row]))
        reading.rejections.append(Rejection(index, reason, detail, self.original(row)))


def _places(counts: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The submission of each row, and its position within; submissions have `counts` rows."""
    position = np.concatenate([np.arange(count) for count in counts]) if len(counts) else np.empty(0, np.int64)
    return np.repeat(np.arange(len(counts)), counts), position


@dataclass
class _Built:
    """Rows with their columns."""

    rows: _Rows
    arrays: list[pa.Array]  # in the order of the schema's properties
    extras: pa.Array  # (n,) JSON text of unknown fields
    times: np.ndarray  # (n,) int64 microseconds: event times

    def keep(self, mask: np.ndarray) -> _Built:
        if mask.all():
            return self
        selected = pa.array(mask)
        arrays = [array.filter(selected) for array in self.arrays]
        return _Built(self.rows.keep(mask), arrays, self.extras.filter(selected), self.times[mask])


def _joined(clean: _Built, others: _Built, taken: np.ndarray) -> _Built:
    """The rows of all submissions, in their order; `taken` (submissions,) bool says which are clean."""
    submission = np.concatenate([clean.rows.submission, others.rows.submission])
    order = np.argsort(submission, kind="stable")
    position = np.concatenate([clean.rows.position, others.rows.position])
    readings = [a if mine else b for mine, a, b in zip(taken, clean.rows.readings, others.rows.readings, strict=True)]
    pairs = zip([*clean.arrays, clean.extras], [*others.arrays, others.extras], strict=True)
    *arrays, extras = (pa.concat_arrays(pair).take(pa.array(order)) for pair in pairs)
    rows = _Rows(readings, [], None, submission[order], position[order])
    return _Built(rows, arrays, extras, np.concatenate([clean.times, others.times])[order])


def _extras(rows: _Rows) -> pa.Array:
    return pa.nulls(len(rows), pa.string()) if rows.extras is None else pa.array(rows.extras, pa.string())


_NOTHING = _Built(_Rows.of([]), [], pa.nulls(0, pa.string()), np.empty(0, np.int64))


class Judge:
    """Judges submissions to one stream. Threads may share it."""

    def __init__(self, stream: Stream, edge: EdgeConfig, hash_seed: int) -> None:
        """`edge` sets the limits on size and depth; `hash_seed` is the project's (`seeded_hash.hash_seed`)."""
        shape = stream.events.shape()
        self.stream = stream
        self._arbiter = Arbiter(stream, edge)
        limits = ItemLimits.of(shape, edge.items_max)
        self._reader = Reader(shape, self._arbiter, edge.event_bytes_max, limits)
        self._clean = CleanReader(shape, self._arbiter.depth_max, edge.event_bytes_max, limits)
        self._columns = EventColumns(shape, validator(stream.events.document), self._arbiter.depth_max)
        self._time = EventTime(stream)
        self._time_field = FieldReader(shape, stream.time)
        self._id_field = FieldReader(shape, stream.id) if stream.id else None
        self._identity = Identity(self._id_field, FieldReader(shape, stream.key) if stream.key else None, hash_seed)
        self._schema = stream.log_schema

    def judge(self, submissions: Sequence[Submission], now_us: int) -> Judged:
        """Judge all events of all submissions; `now_us` is the wall clock, for what lies too far in the future."""
        # 1. clean bodies straight into columns  2. the others to rows, rows to columns, the doubtful to the arbiter
        # 3. of both: the future, ids and partitions
        built, taken = self._build_clean(submissions, now_us)
        if not (taken.any() and taken.all()):
            others = self._build_any(submissions, ~taken, now_us)
            built = _joined(built, others, taken) if taken.any() else others
        return self._finish(built, submissions, now_us)

    def _build_clean(self, submissions: Sequence[Submission], now_us: int) -> tuple[_Built, np.ndarray]:
        """The rows of clean submissions, and which these are, (submissions,) bool."""
        taken = np.zeros(len(submissions), bool)
        clean = self._clean.read(submissions) if not self._arbiter.asked else None
        if clean is None:
            return _NOTHING, taken
        readings = [Reading(submission=submission) for submission in submissions]
        rows = _Rows(readings, [], None, *_places(np.maximum(clean.counts, 0)))
        suspects = Suspects()
        try:
            self._columns.verify(clean.arrays, suspects)
            arrays = self._arrived(clean.arrays, now_us)
            built = _Built(rows, arrays, clean.extras, self._times(arrays, suspects))
        except Exception:  # an event that nobody foresaw: the general path finds it
            return _NOTHING, taken
        taken = clean.counts >= 0
        taken[rows.submission[suspects.rows()]] = False
        return built.keep(taken[rows.submission]), taken

    def _build_any(self, submissions: Sequence[Submission], chosen: np.ndarray, now_us: int) -> _Built:
        """The rows of the chosen submissions, (submissions,) bool."""
        read = self._reader.read
        rows = _Rows.of([read(s) if mine else Reading() for s, mine in zip(submissions, chosen, strict=True)])
        try:
            return self._build(rows, now_us)
        except Exception:  # an event that nobody foresaw: find it, and judge the others
            return self._build(rows.keep(self._sound(rows)), now_us)

    def _finish(self, built: _Built, submissions: Sequence[Submission], now_us: int) -> Judged:
        built = self._refuse_future(built, now_us + self.stream.config.max_future)
        rows, arrays = built.rows, built.arrays
        ids = self._identity.ids(arrays, self._tokens(rows, submissions))
        hashes = self._identity.partition_hashes(arrays, ids)
        columns = [*arrays, pa.array(built.times), id_column(ids), self._sources(rows, submissions), built.extras]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        return Judged(batch, hashes, self._answers(rows, ids), _rejects(rows.readings, submissions))

    def _build(self, rows: _Rows, now_us: int) -> _Built:
        suspects = Suspects()
        arrays = self._arrived(self._columns.pivot(rows.structs, suspects), now_us)
        times = self._times(arrays, suspects)
        doubtful = suspects.rows()
        if self._arbiter.asked:
            doubtful = sorted({*doubtful, *self._objected(rows)})
        if not doubtful:
            return _Built(rows, arrays, _extras(rows), times)
        rows = self._arbitrated(rows, doubtful)
        arrays = self._arrived(self._columns.pivot(rows.structs, None), now_us)
        return _Built(rows, arrays, _extras(rows), self._times(arrays, None))

    def _arrived(self, arrays: list[pa.Array], now_us: int) -> list[pa.Array]:
        """The columns with the arrival as the time of events that have none, where the stream says so."""
        if self.stream.config.time_missing == "reject":
            return arrays
        at = self._time_field.at[0]
        return [*arrays[:at], self._time.filled(arrays[at], now_us), *arrays[at + 1 :]]

    def _times(self, arrays: list[pa.Array], suspects: Suspects | None) -> np.ndarray:
        """Event times; rows that have none, or no id, are marked."""
        times, bad = self._time.column(self._time_field.column(arrays))
        if suspects is not None:
            suspects.add(None, bad)
            if self._id_field is not None and (found := self._id_field.column(arrays)).null_count:
                suspects.add(None, ~np.asarray(found.is_valid()))
        return times

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
                    detail = without_paths(f"could not be judged: {type(error).__name__}: {error}")
                    rows.reject(begin, "schema", detail[:DETAIL_MAX])
        return sound

    def _objected(self, rows: _Rows) -> list[int]:
        asked = self._arbiter.asked
        return [row for row in range(len(rows.structs)) if any(ask(rows.original(row)) for ask in asked)]

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

    def _refuse_future(self, built: _Built, limit_us: int) -> _Built:
        kept = built.times <= limit_us
        if kept.all():
            return built
        ahead = f"more than {format_duration(self.stream.config.max_future)} ahead of the clock (max_future)"
        for row in np.flatnonzero(~kept).tolist():
            time_us = min(int(built.times[row]), MAX_US)
            built.rows.reject(row, "future", f"{self.stream.time.column}: {iso(time_us)} is {ahead}")
        return built.keep(kept)

    def _tokens(self, rows: _Rows, submissions: Sequence[Submission]) -> list[bytes | None] | None:
        """What identifies events that have no id of their own: source, Idempotency-Key and index."""
        if self._id_field is not None or not any(submission.idempotency_key for submission in submissions):
            return None
        tokens: list[bytes | None] = []
        for at, position in zip(rows.submission.tolist(), rows.position.tolist(), strict=True):
            submission = submissions[at]
            index = rows.readings[at].index(position)
            key = submission.idempotency_key
            tokens.append(f"{submission.source}\0{key}\0{index}".encode() if key else None)
        return tokens

    @staticmethod
    def _sources(rows: _Rows, submissions: Sequence[Submission]) -> pa.Array:
        if len({submission.source for submission in submissions}) == 1:
            return pa.repeat(pa.scalar(submissions[0].source, pa.string()), len(rows))
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
