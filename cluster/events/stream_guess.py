"""Which fields of sample events are time, id and key of a stream: candidates, the best first, each with its reason.

Called by `eagleray schema infer`. A guess by name is never enough: what is proposed holds in every sample.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.inference import Path, bounded
from eagleray.cluster.events.instants import instant_text
from eagleray.cluster.events.sampled import Order, Seen
from eagleray.cluster.quantities import format_duration

ARRIVAL = "received_at"
"""The field that a stream without any time gets: it is filled with the arrival."""
_TIMES = (
    "eventtime timestamp time ts tsms eventtimestamp occurredat happenedat datetime createdat sentat publishedat at "
    "date recordedat loggedat receivedat starttime startedat updatedat"
).split()
_TIME_ENDS = ("timestamp", "timems", "time", "date", "tsms", "ts", "at", "on", "epoch", "millis")
_IDS = "eventid id uuid guid messageid msgid eventuuid eventkey requestid deliveryid transactionid uid".split()
_KEYS = (
    "user customer account session visitor device player member client sensor vehicle driver tenant actor host node "
    "machine store shop order org repo ip address page subject topic channel"
).split()
_ENVELOPES = frozenset(
    "payload data meta metadata header headers envelope event message body properties detail".split()
)
_EARLIEST_US = 946_684_800_000_000  # 2000: a smaller number is a count, not a time
_DISORDER_MAX_US = 600_000_000  # above, the samples are in no order of arrival
_SHOWN = 5


@dataclass(frozen=True)
class Candidate:
    """A field for a setting, and why."""

    path: Path
    score: float
    reason: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the stream, besides the field itself

    @property
    def text(self) -> str:
        """The path as the configuration has it."""
        return FieldPath(self.path).text


def _of_event(path: Path) -> bool:
    """Whether a field is the event's own; what is within a thing (`repository.created_at`) is that thing's."""
    return all(_plain(name) in _ENVELOPES for name in path[:-1])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def times(sure: Mapping[Path, Seen], now_us: int) -> list[Candidate]:
    """Fields that can be the event time: a time in every event, none after `now_us`."""
    found = [one for path, seen in sure.items() if (one := _time(path, seen, now_us)) is not None]
    return sorted(found, key=lambda one: -one.score)


def _time(path: Path, seen: Seen, now_us: int) -> Candidate | None:
    order, name = seen.order, _plain(path[-1])
    if order is None or not order.count or order.high > now_us or not _of_event(path):
        return None
    text = seen.types == {"string"}
    numbers = seen.numeric if text else True
    named = _TIMES.index(name) if name in _TIMES else None
    score = 100.0 - named if named is not None else 40.0 if name.endswith(_TIME_ENDS) else 10.0
    settings: dict[str, Any] = {}
    if numbers:
        if score < 40 or order.low < _EARLIEST_US or len(seen.units) != 1:
            return None
        settings["time_unit"] = next(iter(seen.units))
        kind = f"{'text of a number' if text else 'a number'} of {settings['time_unit']} since the epoch"
    elif seen.format == "date-time":
        kind = "RFC 3339"
    elif seen.zoned:
        kind = "a date and time with its zone"
    else:
        settings["time_zone"] = "UTC"
        kind = "a date and time without a zone"
    if _EARLIEST_US <= order.low:
        score += 5
    score += 0 if numbers else 5
    score -= 15 * (len(path) - 1)
    if 10_000_000 < order.behind <= _DISORDER_MAX_US:
        settings["max_out_of_orderness"] = format_duration(-(-order.behind // 1_000_000) * 1_000_000)
    return Candidate(path, score, f"{kind} in every event, {_span(order)}", settings)


def _span(order: Order) -> str:
    span = f"{instant_text(order.low)} to {instant_text(order.high)}"
    if not order.behind:
        return f"{span}, in order"
    return f"{span}, up to {format_duration(_rounded(order.behind))} behind the newest before"


def _rounded(span_us: int) -> int:
    """For people: two of the units that they read."""
    for unit in (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000):
        if span_us >= 10 * unit:
            return -(-span_us // unit) * unit
    return span_us


def ids(sure: Mapping[Path, Seen]) -> list[Candidate]:
    """Fields that tell one event from another: text or integers, of which none came twice."""
    found = []
    for path, seen in sure.items():
        if not seen.types <= {"string", "integer"} or seen.values.once is None or seen.format == "date-time":
            continue
        name = _plain(path[-1])
        score = 100.0 - _IDS.index(name) if name in _IDS else 50.0 if name.endswith(("id", "uuid", "guid")) else 0.0
        score += 30 if seen.format == "uuid" else 0
        if score and _of_event(path):
            found.append(Candidate(path, score - len(path), f"no value came twice in {seen.total:,} events"))
    return sorted(found, key=lambda one: -one.score)


def keys(sure: Mapping[Path, Seen], but: set[Path]) -> list[Candidate]:
    """Fields that events of one thing share: text or integers with several values, many of them more than once."""
    found = []
    for path, seen in sure.items():
        if path in but or not seen.types <= {"string", "integer"} or seen.values.once is not None:
            continue
        if seen.format == "date-time" or bounded(seen) or (seen.values.counts and len(seen.values.counts) < 2):
            continue
        if score := _key_score(path):
            found.append(Candidate(path, score, _spread(seen)))
    return sorted(found, key=lambda one: -one.score)


def _key_score(path: Path) -> float:
    """By its names: that of a thing, or the id or name of one."""
    for depth, part in enumerate(reversed(path)):
        name = _plain(part)
        for place, thing in enumerate(_KEYS):
            if name == thing or name in (f"{thing}id", f"{thing}key", f"{thing}name", f"{thing}uuid"):
                ends = _plain(path[-1])
                whole = depth == 0 or ends in ("id", "login", "name", "key", "uuid")
                return (100.0 - place - 10 * (len(path) - 1) + (3 if ends.endswith("id") else 0)) if whole else 0.0
    return 20.0 if len(path) == 1 and _plain(path[-1]).endswith("id") else 0.0


def _spread(seen: Seen) -> str:
    counts = seen.values.counts
    if counts is None:
        return "more than 1,000 values"
    most = max(counts.values()) / seen.values.total
    return f"{len(counts):,} values, the most frequent in {most:.1%} of the events"


def shown(candidates: list[Candidate], chosen: Candidate | None) -> str:
    """The others, for a comment; empty: there are none."""
    others = [one.text for one in candidates if one is not chosen][:_SHOWN]
    return f"also possible: {', '.join(others)}" if others else ""
