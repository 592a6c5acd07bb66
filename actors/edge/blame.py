"""Finds the events to blame for the end of a process that judged them: bisection over the events of some requests.

Pure: how a process that judges something ends is for the caller to try (`probe`). Called there and by `isolate`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.events.reading import cut
from cluster.events.text import Malformed
from cluster.events.verdict import Submission

STEPS_MAX = 256  # judgements of one search, each 10 to 100 ms; then what is still together is condemned together

Judgement = Callable[[Sequence[Submission]], str | None]
"""How a process that judges these ends: None, it lives."""


@dataclass(frozen=True)
class Found:
    """What to blame: for each submission its condemned events. `together`: what is left can be judged in one call."""

    condemned: list[dict[int, str]]
    together: bool


class Undecided(Exception):
    """The time was up before the search ended."""


def search(submissions: Sequence[Submission], end_of: Judgement, deadline: float) -> Found | None:
    """The events that end a process; None if judging all of it does no harm. Raises Undecided."""
    if end_of(submissions) is None:
        return None
    counts = [_count(submission) for submission in submissions]
    places = [(at, index) for at, count in enumerate(counts) for index in range(count)]
    condemned: list[dict[int, str]] = [{} for _ in submissions]
    spans, steps = [(0, len(places))] if places else [], 0
    while spans:
        begin, end = spans.pop()
        if time.monotonic() > deadline:
            raise Undecided
        steps += 1
        cause = end_of(_only(submissions, counts, places[begin:end]))
        if cause is None:
            continue
        if end - begin > 1 and steps < STEPS_MAX:
            middle = (begin + end) // 2
            spans += [(middle, end), (begin, middle)]
            continue
        among = "" if end - begin == 1 else f" (one of {end - begin} events or more; replay them one by one)"
        for at, index in places[begin:end]:
            condemned[at][index] = f"judging it ends the process: {cause}{among}"
    return Found(condemned, end_of(apply(submissions, condemned)) is None)


def apply(submissions: Sequence[Submission], condemned: Sequence[dict[int, str]]) -> list[Submission]:
    """The same submissions with their condemned events."""
    return [replace(s, condemned=c) for s, c in zip(submissions, condemned, strict=True)]


def _only(
    submissions: Sequence[Submission], counts: Sequence[int], places: Sequence[tuple[int, int]]
) -> list[Submission]:
    """The submissions of `places`, everything else in them condemned."""
    kept: dict[int, set[int]] = {}
    for at, index in places:
        kept.setdefault(at, set()).add(index)
    return [
        replace(submissions[at], condemned={index: "" for index in range(counts[at]) if index not in indices})
        for at, indices in kept.items()
    ]


def _count(submission: Submission) -> int:
    try:
        return len(cut(submission))
    except Malformed:
        return 0  # it is refused as a whole, and nothing of it is judged
