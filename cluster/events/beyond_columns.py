"""Rules of objects and arrays that no column holds: judged on the event as sent, after a fast path has taken it.

Called by the judge through `Arbiter.asked`. The columns hold types, bounds and names; what a schema says besides
(`Shape.rest`: `if`, `not`, `oneOf` of objects, `dependentRequired`, …) is held here, and only where it is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eagleray.cluster.events.json_text import parse
from eagleray.cluster.events.shape import Shape


@dataclass(frozen=True)
class _Step:
    """What is to be judged of a value, and within it."""

    valid: Callable[[Any], bool] | None
    members: tuple[tuple[str, _Step], ...] = ()
    item: _Step | None = None

    def passes(self, value: Any) -> bool:
        if value is None:  # whether null passes is the shape's
            return True
        if self.valid is not None and not self.valid(value):
            return False
        if self.item is not None:
            return all(map(self.item.passes, value))
        return all(step.passes(value[name]) for name, step in self.members if name in value)


class BeyondColumns:
    """Judges events of one stream. Threads may share it."""

    def __init__(self, shape: Shape, rules: Any) -> None:
        """`shape` is the shape of an event, `rules` the document's validator."""
        self._root = _step(shape, rules)

    @property
    def says_anything(self) -> bool:
        """Whether there is anything to judge."""
        return self._root is not None

    def objection(self, raw: bytes) -> str | None:
        """Why a well-typed event may be invalid; None where it is not. The arbiter has the last word."""
        if self._root is None or self._root.passes(parse(raw)):
            return None
        return "a rule of the schema that no column holds"


def _step(shape: Shape, rules: Any) -> _Step | None:
    """The step for a shape; None where there is nothing to judge."""
    valid = None
    if shape.rest and shape.kind in ("struct", "list"):
        valid = rules.evolve(schema={"allOf": list(shape.rest)}).is_valid
    found = ((member.name, _step(member.shape, rules)) for member in shape.members)
    members = tuple((name, step) for name, step in found if step is not None)
    item = _step(shape.item, rules) if shape.item is not None else None
    return _Step(valid, members, item) if valid or members or item else None
