"""The last word on one event, exact and slow: strict JSON, the validator (or the pydantic model), and our own rules.

Called by `json_reader` and `judge` for what the fast path cannot take. docs/json.md lists the rules
for JSON. The fast path may accept only what this accepts, with equal values
(tests/unit/test_judge_agrees.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
from jsonschema.exceptions import best_match

from eagleray.cluster.events.array_items import exceeds
from eagleray.cluster.events.beyond_columns import BeyondColumns
from eagleray.cluster.events.event_time import BEYOND_ALL, EventTime
from eagleray.cluster.events.instants import instant_text, instant_us
from eagleray.cluster.events.json_text import Malformed, depth, parse
from eagleray.cluster.events.model import MODEL_DEPTH_MAX, ModelJudge, is_plain, load_model
from eagleray.cluster.events.representable import fits, unheld
from eagleray.cluster.events.shape import Shape
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.events.unknown_fields import Unknown
from eagleray.cluster.events.validator import validator
from eagleray.cluster.events.verdict import Reason
from eagleray.cluster.hidden_paths import without_paths
from eagleray.cluster.sections import EdgeConfig

DETAIL_MAX = 300  # characters; a detail quotes the event, and events may be large
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event is rejected."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """An accepted event: a row such as the decoders give, and the JSON text of its unknown fields."""

    row: msgspec.Struct
    extra: bytes | None


class Arbiter:
    """Judges events of one stream, one by one."""

    def __init__(self, stream: Stream, edge: EdgeConfig) -> None:
        """`edge` sets the limits on size and depth."""
        self._stream = stream
        self._bytes_max = edge.event_bytes_max
        self._items_max = edge.items_max
        self._shape = stream.events.shape()
        self._rules = validator(stream.events.document)
        self._unknown = Unknown(self._shape)
        self._time = EventTime(stream)
        self.depth_max = edge.depth_max
        self.asked: list[Callable[[bytes], str | None]] = []  # about every event that the fast path takes: objections
        if (beyond := BeyondColumns(self._shape, self._rules)).says_anything:
            self.asked.append(beyond.objection)
        self._model: ModelJudge | None = None
        if stream.events.model is not None:
            model = load_model(f"streams.{stream.name}.schema", stream.events.model)
            self._model = ModelJudge(model)
            if not is_plain(model):
                self.asked.append(self._model.objection)
            self.depth_max = min(edge.depth_max, MODEL_DEPTH_MAX)

    def judge(self, raw: bytes) -> Acceptance | Refusal:
        """The verdict on one event as sent."""
        if len(raw) > self._bytes_max:
            return Refusal("too_large", f"{len(raw)} bytes; at most {self._bytes_max} (edge.event_bytes_max)")
        if (refusal := self._too_deep(raw) or self.crowded(raw)) is not None:
            return refusal
        try:
            event = parse(raw)
            return self._refusal(event, raw) or self._acceptance(event, raw)
        except Malformed as error:
            return Refusal("json", str(error))
        except RecursionError:
            return Refusal("too_deep", "the schema leads too deep into this event")
        except Exception as error:  # one event that nobody foresaw must not hold up the others
            return Refusal(
                "schema", without_paths(f"could not be judged: {type(error).__name__}: {error}")[:DETAIL_MAX]
            )

    def crowded(self, raw: bytes) -> Refusal | None:
        """Why an event whose arrays have too many items is rejected; None where they have not.

        Arrays within arrays are items too: where there are too many levels of them, that is what is said.
        """
        if not exceeds(raw, self._items_max):
            return None
        crowd = Refusal("too_large", f"more than {self._items_max} items in arrays (edge.items_max)")
        return self._too_deep(raw) or crowd

    def _too_deep(self, raw: bytes) -> Refusal | None:
        if (levels := depth(raw)) <= self.depth_max:
            return None
        return Refusal("too_deep", f"nested {levels} levels deep; at most {self.depth_max} (edge.depth_max)")

    def _refusal(self, event: Any, raw: bytes) -> Refusal | None:
        if not isinstance(event, dict):
            return Refusal("schema", f"expected an object, found {_name(event)}")
        time = self._time.of(event)
        if isinstance(time, str):
            return Refusal("time", time)
        if objection := self._id_objection(event):
            return Refusal("id", objection)
        objection = self._schema_objection(event) or unheld(self._shape, event)
        if objection is None and self._model is not None:
            objection = self._model.objection(raw)
        if objection is not None:
            return Refusal("schema", objection[:DETAIL_MAX])
        return Refusal("future", f"{self._stream.time.column}: beyond year 9999") if time is BEYOND_ALL else None

    def _id_objection(self, event: dict[str, Any]) -> str | None:
        if self._stream.id is None:
            return None
        value: Any = event
        for name in self._stream.id.names:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str | int) and not isinstance(value, bool):
            return None
        if isinstance(value, float) and value.is_integer():
            return None
        found = "missing" if value is None else f"{_name(value)}, expected a string or an integer"
        return f"{self._stream.id.column}: {found}"

    def _schema_objection(self, event: Any) -> str | None:
        error = best_match(islice(self._rules.iter_errors(event), 1))  # of a union, the branch that comes closest
        if error is None:
            return None
        path = ".".join(str(part) for part in error.absolute_path)
        message = error.message if len(error.message) <= DETAIL_MAX else f"not valid under {error.validator!r}"
        return f"{path}: {message}" if path else message

    def _acceptance(self, event: Any, raw: bytes) -> Acceptance:
        return Acceptance(_struct(self._shape, event, raw), self._unknown.text(raw))


def _name(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "a boolean"
    for kind, name in ((str, "a string"), (list, "an array"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return "a number"


def _struct(shape: Shape, value: dict[str, Any], raw: Any) -> msgspec.Struct:
    """The row of an accepted event, as the decoders give it; times in the form that `instants` reads for certain."""
    sent = _FIELDS(raw)
    fields = {
        f"f{at}": _held(member.shape, value[member.name], sent[member.name])
        for at, member in enumerate(shape.members)
        if member.name in value and not (member.loose and not fits(member.shape, value[member.name]))
    }
    return _row_of(len(shape.members))(**fields)


def _held(shape: Shape, value: Any, raw: msgspec.Raw) -> Any:
    if shape.kind == "json":
        return raw
    if value is None:
        return None
    if shape.kind == "struct":
        return _struct(shape, value, raw)
    if shape.item is not None:
        return [_held(shape.item, item, sent) for item, sent in zip(value, _ITEMS(raw), strict=True)]
    if shape.kind == "integer":
        return int(value)
    if shape.kind == "number":
        return float(value)
    return instant_text(time_us) if shape.kind == "instant" and (time_us := instant_us(value)) is not None else value


_ROWS: dict[int, type[msgspec.Struct]] = {}


def _row_of(members: int) -> type[msgspec.Struct]:
    """A struct of so many fields; only their order matters to the columns."""
    if members not in _ROWS:
        fields = [(f"f{at}", Any, None) for at in range(members)]
        _ROWS[members] = msgspec.defstruct("Row", fields, kw_only=True, gc=False)
    return _ROWS[members]
