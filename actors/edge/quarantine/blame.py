"""Finds the events to blame for the end of a process that judged them, with few processes: two for each such event.

Pure: how a process that judges something ends is for the caller to try (`probe`). Called there and by `isolation`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

from eagleray.cluster.events.json_reader import cut
from eagleray.cluster.events.json_text import Malformed
from eagleray.cluster.events.verdict import Submission

BLOCK = 64  # events judged together at first; of a block that ends the process, each is judged alone
PROCESSES_MAX = 100  # of one search: beyond, whole blocks are condemned

Call = Sequence[Submission]
"""What is judged together."""
Place = tuple[int, int]
"""An event: the submission's position and the event's index in it."""


class Ended(NamedTuple):
    """How a process that judged several calls in turn did not live to the last: at which one, and by what."""

    at: int
    cause: str


Judgement = Callable[[Sequence[Call]], Ended | None]
"""How a process ends that judges these one after the other; None: it lives."""


@dataclass(frozen=True)
class Found:
    """What to blame: for each submission its condemned events. `together`: what is left can be judged in one call."""

    condemned: list[dict[int, str]]
    together: bool


class Undecided(Exception):
    """The time was up before the search ended. `ends`: that these events end a process is known by then."""

    def __init__(self, ends: bool) -> None:
        """What is known."""
        super().__init__(ends)
        self.ends = ends


def search(submissions: Call, judgement: Judgement, deadline: float) -> Found | None:
    """The events that end a process; None if judging all of it does no harm. Raises Undecided."""
    if judgement([submissions]) is None:
        return None
    found = _Search(submissions, judgement, deadline)
    found.blocks()
    return Found(found.condemned, judgement([apply(submissions, found.condemned)]) is None)


def apply(submissions: Call, condemned: Sequence[dict[int, str]]) -> list[Submission]:
    """The same submissions with their condemned events."""
    return [replace(s, condemned=c) for s, c in zip(submissions, condemned, strict=True)]


@dataclass
class _Search:
    submissions: Call
    judgement: Judgement
    deadline: float
    condemned: list[dict[int, str]] = field(init=False)
    processes: int = 0

    def __post_init__(self) -> None:
        self.condemned = [{} for _ in self.submissions]
        self.events = [_events(submission) for submission in self.submissions]

    def blocks(self) -> None:
        """Block after block, from behind each that ended a process."""
        places = [(at, index) for at, events in enumerate(self.events) for index in range(len(events))]
        left = [places[at : at + BLOCK] for at in range(0, len(places), BLOCK)]
        while left and (ended := self._end_of(left)):
            self._one_by_one(left[ended.at], ended.cause)
            left = left[ended.at + 1 :]

    def _one_by_one(self, block: list[Place], cause: str) -> None:
        if self.processes > PROCESSES_MAX:
            among = f"{cause}, by one of {len(block)} events or more: replay them one by one"
            for place in block:
                self._condemn(place, among)
            return
        while block and (ended := self._end_of([[place] for place in block])):
            self._condemn(block[ended.at], ended.cause)
            block = block[ended.at + 1 :]

    def _condemn(self, place: Place, cause: str) -> None:
        at, index = place
        self.condemned[at][index] = f"judging it ends the process: {cause}"

    def _end_of(self, blocks: list[list[Place]]) -> Ended | None:
        if time.monotonic() > self.deadline:
            raise Undecided(ends=True)
        self.processes += 1
        return self.judgement([self._call(block) for block in blocks])

    def _call(self, block: list[Place]) -> Call:
        calls = []
        for at, places in groupby(block, key=lambda place: place[0]):
            one, events = self.submissions[at], [self.events[at][index] for _, index in places]
            body = b"\n".join(events) if one.form == "ndjson" else b"[" + b",".join(events) + b"]"
            calls.append(replace(one, body=body))
        return calls


def _events(submission: Submission) -> list[bytes]:
    try:
        return cut(submission)
    except Malformed:
        return []  # it is refused as a whole, and nothing of it is judged
