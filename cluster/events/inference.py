"""A first JSON Schema of what sample events held: one that takes each of them, and no narrower than the samples show.

Called by `eagleray schema infer`. What cannot be a column by its name is left to `_extra`, and said; what has several
types is JSON text. An enum is proposed only where the samples make plain that there are no further values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from eagleray.cluster.column_names import column_key, field_problem
from eagleray.cluster.events.sampled import DEPTH_MAX, FIELDS_MAX, Seen
from eagleray.cluster.events.schema_dialects import DRAFT_2020
from eagleray.cluster.events.stream import SYSTEM_COLUMNS

COLUMNS_MAX = 1_000  # fields at the top that become columns: those that most events have
ENUM_MAX = 12  # values
ENUM_SEEN = 100  # texts at least
ENUM_EACH = 5  # times that each value came at least
ENUM_SETTLED = 4  # no new value in all but the first of so many parts of the samples
MAP_NAMES = 30  # an object of so many names, of which
MAP_SHARE = 0.2  # each has no more than this share on average, is a map: its names are data
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]{0,39}")

Path = tuple[str, ...]


@dataclass
class Inferred:
    """A schema, and what it was made of."""

    document: dict[str, Any]
    notes: list[str]  # what is not in the schema as the samples have it, and why
    sure: dict[Path, Seen] = field(default_factory=dict)  # columns of one type that every event has, null in none


def inferred(seen: Seen, title: str) -> Inferred:
    """The schema of the events in `seen`, of which there is at least one."""
    maker = _Maker()
    document = {"$schema": DRAFT_2020, "title": title, **maker.object((), seen, True)}
    return Inferred(document, maker.notes, maker.sure)


class _Maker:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.sure: dict[Path, Seen] = {}
        self._paths: set[str] = set()  # a table finds a column by its path, whose names may have dots

    def object(self, path: Path, seen: Seen, sure: bool) -> dict[str, Any]:
        """`sure`: there is such an object in every event."""
        chosen = dict(self._columns(path, seen))
        always = [name for name, below in chosen.items() if below.total == seen.objects]
        properties = {
            name: self._value((*path, name), below, sure and name in always and below.always)
            for name, below in chosen.items()
        }
        found: dict[str, Any] = {"type": "object"}
        if properties:
            found["properties"] = properties
        if always:
            found["required"] = always
        return found

    def _columns(self, path: Path, seen: Seen) -> Iterator[tuple[str, Seen]]:
        fields = sorted(seen.fields.items(), key=lambda entry: -entry[1].total) if not path else seen.fields.items()
        kept = {name for name, _ in list(fields)[:COLUMNS_MAX]}
        if not path and len(seen.fields) > COLUMNS_MAX:
            self._note(path, f"{len(seen.fields) - COLUMNS_MAX} rare fields")
        names: dict[str, str] = {}
        for name, below in seen.fields.items():
            if name in kept and (problem := self._problem(path, name, names)) is None:
                yield name, below
            elif name in kept:
                self._note((*path, name), problem)

    def _problem(self, path: Path, name: str, names: dict[str, str]) -> str | None:
        """Why a name can be no column here."""
        if problem := field_problem(name):
            return problem
        key, place = column_key(name), ".".join((*path, name)).casefold()
        if not path and key in SYSTEM_COLUMNS:
            return "has the name of a system column"
        if key in names:
            return f"cannot be told from {names[key]!r} in SQL"
        if place in self._paths:
            return "has the path of another field"
        names[key] = name
        self._paths.add(place)
        return None

    def _note(self, path: Path, problem: str | None) -> None:
        where = ".".join(path)
        self.notes.append(f"{where}: {problem}; kept in _extra" if where else f"{problem}; kept in _extra")

    def _value(self, path: Path, seen: Seen, sure: bool) -> dict[str, Any]:
        types = set(seen.types)
        if not types:
            return {"description": "null in every sample"}
        if "number" in types and not seen.inexact:
            types -= {"integer"}
        if seen.unheld or (seen.inexact and "number" in types):
            self.notes.append(f"{'.'.join(path)}: numbers that no column holds exactly: JSON text")
            return {"description": "numbers beyond 64 bits in samples"}
        if len(types) > 1:
            self.notes.append(f"{'.'.join(path)}: {' or '.join(sorted(types))}: JSON text")
            return {"type": sorted(types | ({"null"} if seen.nulls else set()))}
        (name,) = types
        if sure and name not in ("object", "array"):
            self.sure[path] = seen
        found = self._of_type(name, path, seen, sure)
        if seen.nulls:
            found["type"] = [name, "null"]
            if "enum" in found:
                found["enum"] = [*found["enum"], None]
        return found

    def _of_type(self, name: str, path: Path, seen: Seen, sure: bool) -> dict[str, Any]:
        if name == "object":
            if why := _is_map(seen, len(path)):
                self.notes.append(f"{'.'.join(path)}: {why}: JSON text")
                return {"type": "object"}
            return self.object(path, seen, sure)
        if name == "array":
            items = self._value((*path, "element"), seen.items, False) if seen.items is not None else {}
            return {"type": "array", **({"items": items} if items else {})}
        if name == "string":
            if seen.format is not None:
                return {"type": "string", "format": seen.format}
            if values := bounded(seen):
                return {"type": "string", "enum": values}
        return {"type": name}


def _is_map(seen: Seen, depth: int) -> str | None:
    """Why the names of an object are data and no fields."""
    if seen.many:
        return f"more than {FIELDS_MAX} names"
    if depth >= DEPTH_MAX:
        return "nested very deep"
    names = len(seen.fields)
    each = sum(below.total for below in seen.fields.values()) / max(1, names)
    if names >= MAP_NAMES and each <= MAP_SHARE * seen.objects:
        return f"{names} names, each in {each / seen.objects:.0%} of the objects: a map"
    return None


def bounded(seen: Seen) -> list[str] | None:
    """The values of a text, where the samples leave no doubt that there are no others; None otherwise."""
    values = seen.values
    if (
        seen.types != {"string"}
        or values.counts is None
        or not 1 < len(values.counts) <= ENUM_MAX
        or values.total < ENUM_SEEN
    ):
        return None
    settled = values.newest * ENUM_SETTLED <= values.total and min(values.counts.values()) >= ENUM_EACH
    return sorted(values.counts) if settled and all(map(_WORD.fullmatch, values.counts)) else None
