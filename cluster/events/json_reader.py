"""Request bodies become rows and rejections: whole bodies by the fast decoders, else event by event, else the arbiter.

Called by `judge`, which builds columns of the rows. A line or element is one event; only a body that is no JSON at all
is malformed as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from eagleray.cluster.events.arbiter import Acceptance, Arbiter
from eagleray.cluster.events.array_items import ItemLimits, items
from eagleray.cluster.events.decode import Decoders
from eagleray.cluster.events.json_text import BLANK, BOM, Malformed, check, depth, elements, is_grammatical, is_utf8
from eagleray.cluster.events.shape import Shape
from eagleray.cluster.events.unknown_fields import Unknown
from eagleray.cluster.events.verdict import Rejection, Submission

_NOT_TAKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a fast decoder raises at a body that it does not take."""
_UNKNOWN_FIELD = "Object contains unknown field"


class _Refused(msgspec.MsgspecError):
    """The fast path does not vouch for these events."""


@dataclass
class Reading:
    """What one submission holds; `rows`, `extras` and `indices` run parallel.

    `extras` None: no row has any. `indices` None: 0, 1, 2 and so on.
    """

    rows: list[Any] = field(default_factory=list)
    extras: list[bytes | None] | None = None
    indices: list[int] | None = None
    rejections: list[Rejection] = field(default_factory=list)
    malformed: str | None = None
    events: list[bytes] | None = None  # every event as sent, by index; None: not cut yet
    submission: Submission | None = None  # where they are not cut yet: what to cut

    def original(self, at: int) -> bytes:
        """The bytes of the row at position `at`, as sent."""
        if self.events is None:
            assert self.submission is not None
            self.events = cut(self.submission)
        return self.events[self.index(at)].strip(BLANK)

    def index(self, at: int) -> int:
        """The index within the request of the row at position `at`."""
        return at if self.indices is None else self.indices[at]


def cut(submission: Submission) -> list[bytes]:
    """Every event of a body as sent, by index, none of them judged; raises Malformed."""
    body = submission.body.removeprefix(BOM)
    if submission.form == "ndjson":
        return [stripped for line in body.split(b"\n") if (stripped := line.strip(BLANK))]
    body = body.strip(BLANK)
    return elements(body) if body.startswith(b"[") else [body]


class Reader:
    """Reads the submissions of one stream. Threads may share it: its only state is a guess about what comes next."""

    def __init__(self, shape: Shape, arbiter: Arbiter, event_bytes_max: int, items: ItemLimits) -> None:
        """`shape` is the shape of an event, `items` bound the items of its arrays."""
        self._decoders = Decoders(shape)
        self._unknown = Unknown(shape)
        self._arbiter = arbiter
        self._bytes_max = event_bytes_max
        self._items = items
        self._crowd = 2 * items.event  # bytes: a smaller event has no more items
        self._depth_max = arbiter.depth_max
        self._fast = shape.depth <= arbiter.depth_max
        self._free = shape.holds_text
        self._open = False  # whether the last body had unknown fields: then the next one is read as if it had

    def read(self, submission: Submission) -> Reading:
        """The rows and rejections of one submission."""
        if submission.condemned:
            return self._spared(submission)
        crowded = len(submission.body) > 2 * self._items.body or self._items.may_be_too_many(submission.body)
        if crowded and (found := self._within(submission)) is not None:
            return found
        body = submission.body.removeprefix(BOM)
        if submission.form == "ndjson":
            return self._lines(body)
        body = body.strip(BLANK)
        return self._array(submission, body) if body.startswith(b"[") else self._single(body)

    def _within(self, submission: Submission) -> Reading | None:
        """Event by event, without those that are too many or whose arrays are; None: none is, or it is malformed."""
        try:
            events = cut(submission)
        except Malformed:
            return None
        left = self._items.body
        over: dict[int, str] = {}
        most = self._items.events
        items_over = f"the arrays of this request have more than {self._items.body} items; send its events in several"
        events_over = f"more than {most} events in one request of a stream of so many columns; send them in several"
        for index, event in enumerate(events):
            if index - len(over) >= most:  # what is refused takes no room
                over[index] = events_over
            elif b"[" in event and self._arbiter.crowded(event) is None:  # one that is refused anyhow takes no room
                needed = items(event)
                if needed > left:
                    over[index] = items_over
                else:
                    left -= needed
        if not over:
            return None
        reading = Reading(extras=[], indices=[], events=events)
        for index, event in enumerate(events):
            if (detail := over.get(index)) is not None:
                reading.rejections.append(Rejection(index, "too_large", detail, event))
            else:
                self._one(reading, index, event)
        return reading

    def _spared(self, submission: Submission) -> Reading:
        """Event by event, without looking at those that are condemned."""
        try:
            events = cut(submission)
        except Malformed as error:
            return Reading(malformed=str(error))
        reading = Reading(extras=[], indices=[], events=events)
        for index, event in enumerate(events):
            if (detail := submission.condemned.get(index)) is None:
                self._one(reading, index, event)
            else:
                reading.rejections.append(Rejection(index, "crash", detail, event))
        return reading

    def _lines(self, body: bytes) -> Reading:
        ascii_ = body.isascii()
        lines = body.split(b"\n")
        if not lines[-1]:
            lines.pop()
        reading = self._whole(lines, ascii_)
        if reading is None:
            lines = [stripped for line in lines if (stripped := line.strip(BLANK))]
            reading = self._whole(lines, ascii_) or self._each(lines)
        return reading

    def _array(self, submission: Submission, body: bytes) -> Reading:
        small = len(body) <= min(self._bytes_max, 2 * self._items.event)
        if self._fast and small and not (self._open or self._free) and is_utf8(body):
            try:
                return Reading(self._decoders.closed_list(body), submission=submission)
            except _NOT_TAKEN:
                pass
        try:
            events = elements(body)
        except Malformed as error:
            return Reading(malformed=str(error))
        return self._whole(events) or self._each(events)

    def _single(self, body: bytes) -> Reading:
        reading = self._whole([body])
        if reading is not None:
            return reading
        try:
            check(body)
        except Malformed as error:
            if not is_grammatical(body):
                return Reading(malformed=str(error))
        except RecursionError:
            pass  # too deep, says the arbiter
        return self._each([body])

    def _whole(self, events: list[bytes], ascii_: bool = False) -> Reading | None:
        """All events at once; None where the fast path does not take them all. `ascii_`: known to be ASCII."""
        if any(len(event) > self._crowd and self._arbiter.crowded(event) for event in events):
            return None
        try:
            rows, extras = self._decode(events, ascii_)
            return Reading(rows, extras, events=events)
        except _NOT_TAKEN:
            return None

    def _decode(self, events: Sequence[bytes], ascii_: bool = False) -> tuple[list[Any], list[bytes | None] | None]:
        if not self._fast or max(map(len, events), default=0) > self._bytes_max:
            raise _Refused
        if not self._open:
            try:
                decode = self._decoders.closed
                rows = list(map(decode, events))
                if not ascii_:
                    self._check_utf8(events)
                if self._free:
                    self._check_depth(events)
                return rows, None
            except msgspec.ValidationError as error:
                if not str(error).startswith(_UNKNOWN_FIELD):
                    raise
        if not ascii_:
            self._check_utf8(events)
        decode = self._decoders.open
        rows, extras = [decode(event) for event in events], [self._unknown.text(event) for event in events]
        self._open = any(extras)
        self._check_depth(events)
        return rows, extras

    @staticmethod
    def _check_utf8(events: Sequence[bytes]) -> None:
        for event in events:
            if not event.isascii():
                event.decode()

    def _check_depth(self, events: Sequence[bytes]) -> None:
        """Of events as sent: where a name is repeated, only the last value is in row and extras."""
        brackets_max = self._depth_max
        for event in events:
            if len(event) > 2 * brackets_max and event.count(b"{") + event.count(b"[") > brackets_max:
                if depth(event) > brackets_max:
                    raise _Refused

    def _each(self, events: list[bytes]) -> Reading:
        reading = Reading(extras=[], indices=[], events=events)
        for index, event in enumerate(events):
            self._one(reading, index, event)
        return reading

    def _one(self, reading: Reading, index: int, event: bytes) -> None:
        assert reading.extras is not None and reading.indices is not None
        if (refusal := self._arbiter.crowded(event)) is not None:
            reading.rejections.append(Rejection(index, refusal.reason, refusal.detail, event))
            return
        try:
            (row,), extras = self._decode([event])
            extra = extras[0] if extras else None
        except _NOT_TAKEN:
            verdict = self._arbiter.judge(event)
            if not isinstance(verdict, Acceptance):
                reading.rejections.append(Rejection(index, verdict.reason, verdict.detail, event))
                return
            row, extra = verdict.row, verdict.extra
        reading.rows.append(row)
        reading.extras.append(extra)
        reading.indices.append(index)
